# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from experiments import domain_sampling as experiment
from experiments.stages.domain_sampling import training, variances
from jaxalign.learning import domain_sampling as library
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_the_largest_weight_is_the_printed_one():
  conventions.assert_printed(training.arms().weights.max(), "29")


def test_another_seed_gives_other_draws():
  first, again, other = (
    training.tasks(np.random.default_rng(seed), 1) for seed in (0, 0, 1)
  )
  for x, y, z in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.array_equal(x, z)


def test_a_run_is_the_gradient_descent_of_what_was_drawn(monkeypatch):
  """The first steps in NumPy."""
  monkeypatch.setattr(training, "STEPS", 5)
  jax.clear_caches()
  task = training.tasks(np.random.default_rng(3), 1)
  found = np.asarray(training.train(task, training.arms()))
  jax.clear_caches()
  truth, x, y, source, example = (part[0] for part in task)
  for i, arm in enumerate(training.ARMS):
    weights = np.zeros(2 * training.DIMENSION)
    for t in range(5):
      shares = training.SIZES ** (1 / training.arms().tau[i][t])
      shares /= shares.sum()
      slope = 0
      for s, e in zip(source[t], example[t], strict=True):
        small = int(s < shares[1])
        row = int(e * training.SIZES[small]) + small * int(training.SIZES[0])
        inputs = np.concatenate([x[row], small * x[row]])
        scale = training.arms().weights[i][small] / training.BATCH
        slope = slope + scale * (inputs @ weights - y[row]) * inputs
      weights = weights - training.arms().rate[i] * slope
    low = weights.reshape(2, -1).sum(0) - truth[1]
    error = np.mean(low**2) + training.NOISE
    np.testing.assert_allclose(found[i, 0, 4, 1], error, err_msg=arm)


# --- wrong versions ----------------------------------------------------------


def test_weights_not_centred_fail(monkeypatch):
  monkeypatch.setattr(
    library,
    "gradient_variance_gap",
    lambda p1, w, a: jnp.sum(w * w * p1 * a, -1),
  )
  part = variances.variances(np.random.default_rng(0))
  assert conventions.failed(part.claims) == {"variance_gap"}


def test_shares_that_ignore_the_temperature_fail(monkeypatch):
  monkeypatch.setattr(
    library, "temperature_weights", lambda n, tau: n / np.sum(n)
  )
  jax.clear_caches()
  part = training.training(np.random.default_rng(0), num_seeds=8)
  jax.clear_caches()
  assert "scalarisation_diverges" in conventions.failed(part.claims)


def test_never_raising_the_temperature_fails(monkeypatch):
  monkeypatch.setattr(
    library, "cooldown_tau", lambda step, total, hi: np.ones(len(step))
  )
  part = training.training(np.random.default_rng(0), num_seeds=8)
  assert "cooldown_gain" in conventions.failed(part.claims)

# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from experiments import surrogate_gradients as experiment
from experiments.stages import completions
from experiments.stages.surrogate_gradients import (
  binary,
  estimators,
  off_policy,
)
from jaxalign.rl import advantages, corrections
from tests.experiments import conventions

WORLDS = range(1)


def failed(part):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(completions.worlds(WORLDS)).claims)
  jax.clear_caches()
  return names


def test_claims_reproduce():
  results = conventions.assert_reproduces(experiment)
  assert results.curves["cosines"].shape == (3, 7, 4)
  # Leaving one out and the mean differ by a factor only.
  cosines = results.curves["cosines"]
  np.testing.assert_allclose(cosines[:, 1], cosines[:, 2], atol=1e-14)


def test_another_seed_gives_other_worlds():
  first, again, other = (completions.worlds(range(s, s + 1)) for s in (0, 0, 1))
  for x, y, z in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.any(np.asarray(x) == np.asarray(z))


def test_cosines_and_ratios(key):
  exact = jax.random.normal(key, (2, 4, 3))
  found = jnp.stack([2 * exact, -exact, jnp.zeros_like(exact)], 1)
  cosines, ratios = completions.compare(found, exact)
  np.testing.assert_allclose(cosines, [[1, -1, 0]] * 2, atol=1e-15)
  np.testing.assert_allclose(ratios, [[2, 1, 0]] * 2, atol=1e-15)


def test_a_wrong_baseline_fails(monkeypatch):
  """With its own reward in the baseline, `loo` is the mean."""
  monkeypatch.setitem(
    estimators.ESTIMATORS,
    "leave one out",
    estimators.ESTIMATORS["group mean"],
  )
  assert failed(estimators.estimators) == {"sum_leave_one_out"}


def test_an_epsilon_in_the_deviation_fails(monkeypatch):
  right = advantages.group_advantages
  monkeypatch.setattr(
    advantages,
    "group_advantages",
    lambda rewards, **options: right(rewards, **options | {"eps": 1e-3}),
  )
  assert failed(binary.binary) == {"binary_slope", "two_samples"}


def test_truncated_weights_fail(monkeypatch):
  monkeypatch.setitem(
    off_policy.KINDS,
    "truncate",
    lambda *args, **options: corrections.truncated_is_weights(
      *args, **options | {"max_weight": 1.01}
    ),
  )
  assert failed(off_policy.off_policy) == {"sequence_weights"}

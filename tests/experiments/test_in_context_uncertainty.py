# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import in_context_uncertainty as experiment
from experiments.stages.in_context_uncertainty import learning, regression
from jaxalign.learning import in_context
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


@pytest.mark.parametrize("world", regression.WORLDS)
def test_oracle_is_that_of_the_pairs_before(world):
  learned = jnp.array(world == "learned")
  tasks = regression.draw(jax.random.key(0), learned, 3, 4)
  tasks = jax.tree.map(lambda x: x.astype(float), tasks)
  found = regression.oracle(tasks, world)
  n = 2
  args = tasks.features[:, :n], tasks.targets[:, :n], tasks.features[:, n]
  options = dict(prior_variance=regression.PRIOR_VARIANCE)
  if world == "learned":
    fn = in_context.inverse_gamma_predictive
    options |= dict(shape=regression.SHAPE, scale=regression.SCALE)
  else:
    fn = in_context.known_noise_predictive
    options["noise_variance"] = regression.NOISE_VARIANCE
  for x, y in zip(found, fn(*args, **options), strict=True):
    np.testing.assert_allclose(x[:, n], y, rtol=1e-10)


def test_tasks_have_the_variances_of_their_prior():
  """Targets without a context have the oracle's variance, in the mean."""
  for world in regression.WORLDS:
    learned = jnp.array(world == "learned")
    tasks = regression.draw(jax.random.key(1), learned, 40_000, 1)
    best = regression.oracle(tasks, world)
    excess = tasks.targets[:, 0] ** 2 / best.variance[:, 0] - 1
    error = float(jnp.std(excess)) / 40_000**0.5
    assert abs(float(jnp.mean(excess))) < 5 * error


def test_another_seed_gives_other_tasks():
  keys = (
    experiment.Config.from_preset("smoke", seed=s).key() for s in (0, 0, 1)
  )
  first, again, other = (
    regression.draw(key, jnp.array(True), 2, 3).targets for key in keys
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def failed(monkeypatch, change):
  """Names of the claims that fail on changed losses."""
  names = (
    "oracle",
    "network",
    "excess",
    "oracle_variance",
    "network_variance",
  )
  found = {w: {k: np.zeros((2, 3)) for k in names} for w in regression.WORLDS}
  for own in found.values():
    own["error"] = np.full((2, 3), 0.01)
  change(found)
  nothing = regression.Tasks(np.zeros(2), np.zeros(2)), np.zeros(2)
  monkeypatch.setattr(regression, "train", lambda *_: nothing)
  monkeypatch.setattr(regression, "losses", lambda *args: found[args[-1]])
  part = learning.learning(
    jax.random.key(0), num_seeds=2, length=2, rows=1, steps=1, band=0.05
  )
  return conventions.failed(part.claims)


def test_a_network_better_than_bayes_fails(monkeypatch):
  def change(found):
    found["known"]["excess"][1, 2] = -0.06  # one network, at one length

  assert failed(monkeypatch, change) == {"known_not_below"}


def test_a_network_far_from_bayes_fails(monkeypatch):
  def change(found):
    found["learned"]["excess"][:] = 0.06

  assert failed(monkeypatch, change) == {"learned_close"}

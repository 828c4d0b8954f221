# SPDX-License-Identifier: Apache-2.0
import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments import diffusion_control, harness
from experiments.stages.diffusion_control import (
  arms,
  distillation,
  environments,
  gymnax_adapter,
  identities,
  learning,
  policies,
  rollouts,
)
from jaxalign import checks, diffusion
from jaxalign.diffusion import flow
from tests.experiments import conventions

KEY = functools.partial(jax.random.key, 0)


def test_claims_reproduce_and_keys_matter():
  results = conventions.assert_reproduces(diffusion_control)
  curves = results.curves
  for name in ("point_mass/regret", "pendulum/returns"):
    first, second = np.moveaxis(curves[name], 1, 0)
    assert not np.isclose(first, second).any(), name


# --- worlds ------------------------------------------------------------------


def test_pendulum_is_gyms():
  env, steps = environments.pendulum(), 40
  actions = np.random.default_rng(0).normal(size=(steps, 1)) * 2
  state = env.reset(KEY())
  angle, speed = map(float, state)
  step = jax.jit(env.step)
  for action in actions:
    torque = float(np.clip(2 * action[0], -2, 2))
    off = np.arctan2(np.sin(angle), np.cos(angle))
    cost = off**2 + 0.1 * speed**2 + 0.001 * torque**2
    state, reward = step(KEY(), state, jnp.asarray(action))
    acceleration = 3 * 10 / 2 * np.sin(angle) + 3 * torque
    speed = float(np.clip(speed + 0.05 * acceleration, -8, 8))
    angle += 0.05 * speed
    np.testing.assert_allclose(reward, -cost, rtol=1e-9)
    np.testing.assert_allclose(
      env.observe(state), [np.cos(angle), np.sin(angle), speed], rtol=1e-7
    )
  assert np.isnan(env.regret(jnp.zeros((2, 3)), jnp.zeros((2, 1)))).all()


class Fake:
  """gymnax's interface: counts up by the action, ends at three."""

  def reset(self, key, params):
    return jnp.zeros((1, 2)), jnp.zeros(())

  def step_env(self, key, state, action, params):
    state = state + action[0]
    seen = jnp.full((1, 2), state)
    return seen, state, state, state >= 3, {}

  def action_space(self, params):
    return types.SimpleNamespace(low=-2.0, high=4.0, shape=(1,))

  def observation_space(self, params):
    return types.SimpleNamespace(low=0.0, high=9.0, shape=(1, 2))


PARAMS = types.SimpleNamespace(max_steps_in_episode=7)


def test_what_gymnax_has_becomes_episodes_of_one_length():
  env = gymnax_adapter.adapt(Fake(), PARAMS)
  assert (env.observation_size, env.action_size, env.horizon) == (2, 1, 7)
  state, found = env.reset(KEY()), []
  for action in (0.0, 5.0, 1.0):  # in the box 1, 4 and 4
    state, reward = env.step(KEY(), state, jnp.array([action]))
    found.append((float(reward), *map(float, env.observe(state))))
  # The second step ends the episode with its reward; the third is none.
  assert found == [(1.0, 1.0, 1.0), (5.0, 5.0, 5.0), (0.0, 5.0, 5.0)]


def test_gymnax_is_optional(monkeypatch):
  monkeypatch.setitem(sys.modules, "gymnax", None)
  with pytest.raises(ValueError, match=r"needs gymnax: pip install .*control"):
    environments.make("gymnax:Pendulum-v1")
  discrete = Fake()
  discrete.action_space = lambda params: types.SimpleNamespace(n=2, shape=())
  with pytest.raises(ValueError, match="Fake has actions that are no box"):
    gymnax_adapter.adapt(discrete, PARAMS)


def test_gymnax_has_the_same_pendulum():
  pytest.importorskip("gymnax")
  theirs, ours = (
    environments.make("gymnax:Pendulum-v1"),
    environments.pendulum(),
  )
  state = theirs.reset(KEY())
  same = jnp.stack([state.inner.theta, state.inner.theta_dot])
  for action in (0.3, -2.0, 0.9):
    state, reward = theirs.step(KEY(), state, jnp.array([action]))
    same, expected = ours.step(KEY(), same, jnp.array([action]))
    np.testing.assert_allclose(reward, expected, rtol=1e-5)  # in float32
    np.testing.assert_allclose(
      theirs.observe(state), ours.observe(same), rtol=1e-5
    )


def test_names():
  with pytest.raises(ValueError, match="unknown environment 'gymnax:': choose"):
    diffusion_control.Config(environment="gymnax:")
  with pytest.raises(ValueError, match="beside the point mass: name another"):
    diffusion_control.Config(environment="point_mass")


# --- policies ----------------------------------------------------------------


def velocity(x, t, seen):
  """Nothing in particular, of which everything depends on everything."""
  return jnp.sin(x + t[..., None]) + seen[..., :1] * x


def test_steps_of_the_chain_are_the_posteriors_of_the_action_they_predict():
  seen = jnp.array([[0.3], [-1.0]])
  noise = jax.random.normal(KEY(), (policies.STEPS + 1, 2, 2))
  path = jax.jit(lambda x: policies.sample(velocity, x, seen, True))(noise)
  path = jnp.moveaxis(path, 0, 1)
  found = policies.step_log_probs(velocity, path, seen)
  assert path.shape == (2, 11, 2) and found.shape == (2, 10)
  for k, t in enumerate(policies.TIMES.astype(float)):
    s = max(t - 0.1, 0.0)
    z = np.asarray(path[:, k])
    at = jnp.full(2, t)
    action = z - t * np.asarray(velocity(jnp.asarray(z), at, seen))
    # x_s and x_t given the action: x_t is x_s, shrunk, and more noise.
    keep = (1 - t) / (1 - s)
    mean_s, mean_t = (1 - s) * action, (1 - t) * action
    gain = keep * s**2 / t**2
    mean = mean_s + gain * (z - mean_t)
    std = max(np.sqrt(max(s**2 - gain * keep * s**2, 0.0)), policies.LEAST_STD)
    expected = scipy.stats.norm.logpdf(path[:, k + 1], mean, std).sum(-1)
    # Times are float32.
    np.testing.assert_allclose(found[:, k], expected, rtol=1e-5, atol=1e-5)


def test_flow_is_eulers_method():
  seen = jnp.array([[0.3], [-1.0]])
  noise = jax.random.normal(KEY(), (policies.STEPS + 1, 2, 2))
  path = policies.sample(velocity, noise, seen, False)
  for k, t in enumerate(policies.TIMES):
    slope = velocity(path[k], jnp.full(2, t), seen)
    np.testing.assert_allclose(path[k + 1], path[k] - slope / 10, rtol=1e-6)


@pytest.mark.parametrize("neighbours", [256, 1024])
def test_gap_of_a_gaussian_flow_has_its_closed_form(neighbours, monkeypatch):
  """An affine velocity, whose Euler steps draw a Gaussian."""
  field = lambda z, t: 0.4 * z + 0.3
  mean, var, h = 0.0, 1.0, 0.1
  line = lambda u, t: [
    float(u(jnp.array([z]), jnp.asarray(t))[0]) for z in (0.0, 1.0)
  ]
  for t in policies.TIMES:
    at_zero, at_one = line(field, t)
    slope = at_one - at_zero
    mean, var = mean - h * (slope * mean + at_zero), (1 - h * slope) ** 2 * var
  best = flow.affine_velocity(jnp.array([mean]), jnp.array([var]))
  excess = []
  for t in policies.TIMES:
    off = np.subtract(line(field, t), line(best, t))
    slope = off[1] - off[0]
    middle = off[0] + slope * (1 - t) * mean
    excess.append(middle**2 + slope**2 * ((1 - t) ** 2 * var + t**2))
  monkeypatch.setattr(distillation, "NEIGHBOURS", neighbours)
  seen = jnp.zeros((8, 1))
  samples = jax.jit(
    lambda keys: jax.lax.map(
      lambda key: distillation.excess_loss(
        lambda x, t, _: field(x, t), key, seen, size=1, chain=False
      ),
      keys,
    )
  )(jax.random.split(KEY(), 16))
  expected = np.mean(excess), var**0.5
  for found, right in zip(samples, expected, strict=True):
    half = np.std(found, ddof=1) / len(found) ** 0.5
    assert half < 0.03 * right
    # Means with weights that are normalised by themselves have a bias in 1/n.
    bias = 10 / neighbours * right
    error = abs(np.mean(found) - right)
    assert error <= bias + harness.STANDARD_ERRORS * half


def test_conditional_velocity_by_bayes():
  actions = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]])
  z, t = np.array([0.4, 0.1]), 0.6
  law = scipy.stats.multivariate_normal(cov=t**2 * np.eye(2))
  weights = np.array([law.pdf(z - (1 - t) * x) for x in actions])
  noise = (z - (1 - t) * actions) / t
  expected = weights @ (noise - actions) / weights.sum()
  found = distillation.conditional_velocity(
    jnp.asarray(actions), jnp.asarray(z), jnp.asarray(t)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- learning ----------------------------------------------------------------


def test_advantages_by_definition():
  rng = np.random.default_rng(0)
  rewards, values = rng.normal(size=(2, 3, 5))
  gamma, trace = rollouts.DISCOUNT, rollouts.TRACE
  later = np.concatenate([values[:, 1:], np.zeros((3, 1))], 1)
  surprise = rewards + gamma * later - values
  expected, returns = np.zeros((2, 3, 5))
  for t in range(5):
    for k in range(t, 5):
      expected[:, t] += (gamma * trace) ** (k - t) * surprise[:, k]
      returns[:, t] += gamma ** (k - t) * rewards[:, k]
  found = rollouts.advantages(*map(jnp.asarray, (rewards, values)))
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  found = rollouts.discounted_returns(jnp.asarray(rewards))
  np.testing.assert_allclose(found, returns, rtol=1e-12)


def batch(size=6, dims=2):
  rng = np.random.default_rng(0)
  draws = rng.normal
  return learning.Batch(
    *(
      jnp.asarray(x)
      for x in (
        draws(size=(size, 1)),
        draws(size=(size, policies.STEPS + 1, dims)),
        rng.choice(policies.TIMES, (size, learning.DRAWS)),
        draws(size=(size, learning.DRAWS, dims)),
        -rng.uniform(1, 2, (size, learning.DRAWS)),
        -rng.uniform(1, 2, (size, policies.STEPS)),
        *draws(size=(3, size)),
      )
    )
  )


def test_each_index_is_its_surrogate():
  given, beta = batch(), 0.3
  loss = policies.matching_loss(
    velocity, given.path[:, -1], given.seen, given.times, given.noise
  )
  steps = policies.step_log_probs(velocity, given.path, given.seen)
  elbo, old = -loss.mean(-1), given.bounds.mean(-1)
  mean = {"normalize": "token", "length": 2}
  expected = {
    "fpo": diffusion.fpo_loss(elbo, old, given.advantages, **mean),
    "fpo++": diffusion.fpo_plus_plus_loss(
      -loss, given.bounds, given.advantages, normalize="token", length=2**0.5
    ),
    "rwr": diffusion.rwr_loss(elbo, given.returns, **mean),
    "awr": diffusion.awr_loss(elbo, given.advantages, **mean),
  }
  expected = {
    k: x._replace(loss=x.loss - beta * elbo / 2) for k, x in expected.items()
  }
  old = steps, given.log_probs, given.advantages
  expected["ddpo"] = diffusion.ddpo_loss(*old, normalize="sequence", clip=0.01)
  expected["dppo"] = diffusion.dppo_loss(
    *old, normalize="sequence", clip=learning.DPPO_CLIP
  )
  run = jax.jit(lambda i: learning.surrogate(i, velocity, given, beta))
  for i, name in enumerate(learning.SURROGATES):
    for found, right in zip(run(i), expected[name], strict=True):
      np.testing.assert_allclose(found, right, rtol=1e-5, err_msg=name)


# --- claims that can fail ----------------------------------------------------


def found():
  """Results in which every claim holds."""
  starts, ends = (
    arms.Evaluation(*np.ones((4, n, 4)))
    for n in (len(arms.STARTS), len(arms.ARMS))
  )
  starts.excess[1] = ends.excess[1] = 0.5
  ends.regret[:] = ends.spread[:] = 0.5
  curves = learning.Curve(*np.ones((3, len(arms.ARMS), 4, 6)))
  for i, arm in enumerate(arms.ARMS.values()):
    curves.returns[i] += arm.distilled
  return arms.Found(starts, ends, curves)


def test_each_claim_on_arms_can_fail():
  def failed(*worlds):
    names = ("point_mass", "pendulum")
    return conventions.failed(
      arms.claims(dict(zip(names, worlds, strict=True)))
    )

  assert not failed(found(), found())
  for i in range(2):  # either environment
    worlds = found(), found()
    worlds[i].starts.excess[1] = 1.1
    assert failed(*worlds) == {"self_distillation"}
    worlds = found(), found()
    worlds[i].ends.excess[1] = 1.1
    assert failed(*worlds) == {"regulariser"}
  for i, (name, arm) in enumerate(arms.ARMS.items()):
    worlds = found(), found()
    worlds[0].ends.regret[i] = 1.1
    learns = set() if name in arms.REGRESSIONS else {"policy_gradients_learn"}
    assert failed(*worlds) == learns, name
    worlds = found(), found()
    worlds[1].ends.spread[i] = 1.1
    narrows = {"regressions_narrow"} if name in arms.REGRESSIONS else set()
    assert failed(*worlds) == narrows, name
    worlds = found(), found()
    worlds[0].curves.returns[i, :, :3] -= 1.1  # the first half
    assert failed(*worlds) == ({"early_reward"} if arm.distilled else set())


def test_another_seed_gives_other_keys(monkeypatch):
  """And other keys other curves, above: no need to train for it again."""
  given = []

  def record(trainer, keys):
    given.append(jax.random.key_data(keys))
    return found()

  monkeypatch.setattr(arms, "run_arms", record)
  setting = learning.Setting(updates=6, episodes=1)
  for seed in (0, 1, 0):
    arms.arms(other="pendulum", seed=seed, num_seeds=4, setting=setting)
  np.testing.assert_array_equal(given[:2], given[4:])
  each = np.concatenate(given[:4])  # two seeds, two environments
  assert len(np.unique(each, axis=0)) == len(each) == 16


def test_half_the_regret_fails(monkeypatch):
  right = environments.linear_quadratic.action_regret
  monkeypatch.setattr(
    environments.linear_quadratic,
    "action_regret",
    lambda *args: right(*args) / 2,
  )
  jax.clear_caches()
  failed = conventions.failed(identities.values(KEY()))
  jax.clear_caches()
  assert failed == {"regret_in_expectation", "regret_on_every_path"}


def test_a_step_left_out_fails(monkeypatch):
  right = diffusion.ddpo_loss
  monkeypatch.setattr(
    identities.diffusion,
    "ddpo_loss",
    lambda new, old, *args, **options: right(
      new[..., 1:], old[..., 1:], *args, **options
    ),
  )
  jax.clear_caches()
  failed = conventions.failed(identities.gradients())
  jax.clear_caches()
  assert failed == {"ddpo_gradient"}


def test_a_tight_chain_has_no_drift(monkeypatch):
  monkeypatch.setattr(identities, "LOOSENESS", 1.0)
  jax.clear_caches()
  failed = conventions.failed(identities.gradients())
  jax.clear_caches()
  assert failed == {"fpo_gradient"}


def test_draws_that_are_not_shared_fail(monkeypatch):
  right = learning.surrogate

  def fresh(index, velocity, given, beta):
    return right(index, velocity, given._replace(noise=-given.noise), beta)

  monkeypatch.setattr(learning, "surrogate", fresh)
  jax.clear_caches()
  failed = conventions.failed(identities.ratios(KEY()))
  jax.clear_caches()
  assert failed == {"ratio_one"}


def test_rewards_that_are_not_numbers_are_refused(monkeypatch):
  """One line, not claims that compare NaN."""
  blank = learning.Curve(*np.full((3, len(arms.ARMS), 2, 3), np.nan))
  scores = [arms.Evaluation(*np.zeros((4, n, 2))) for n in (3, len(arms.ARMS))]
  found = arms.Found(*scores, blank)
  monkeypatch.setattr(arms, "run_arms", lambda trainer, keys: found)
  with pytest.raises(checks.InputError, match="returns in point_mass must be"):
    diffusion_control.run(diffusion_control.Config(num_seeds=2, updates=3))

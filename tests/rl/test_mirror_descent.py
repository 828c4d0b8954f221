# SPDX-License-Identifier: Apache-2.0
"""Three ways to write mirror descent, against each other and fixed points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import mdp as tables
from jaxalign.rl import mirror_descent as md
from jaxalign.rl import tsallis
from tests import helpers

S, A, G = 6, 4, 0.9
TAU, ALPHA = 0.3, 0.8
UNIFORM = np.full((S, A), -np.log(A))

munchausen = jax.jit(
  md.munchausen_vi, static_argnames=("num_iterations", "floor", "q", "reading")
)


@pytest.fixture(scope="module")
def mdp():
  """The instance of the printed numbers."""
  rs = np.random.RandomState(0)
  transitions = rs.dirichlet(0.3 * np.ones(S), (S, A))
  return tables.TabularMDP(transitions, rs.rand(S, A), G)


@pytest.fixture(scope="module")
def best(mdp):
  """The optimal action values, in float64."""
  with jax.enable_x64(True):
    return np.asarray(tables.action_values(mdp, tables.optimal_values(mdp)))


@functools.partial(jax.jit, static_argnames="num_iterations")
def explicit(
  mdp, values, log_policy, *, kl_weight, entropy_weight, num_iterations
):
  """All states of the explicit iteration, `[K, S, A]`."""

  def iterate(state, _):
    state = md.mirror_descent_step(
      mdp, state, kl_weight=kl_weight, entropy_weight=entropy_weight
    )
    return state, state

  start = md.RegularizedState(values, log_policy)
  return jax.lax.scan(iterate, start, None, length=num_iterations)[1]


def test_the_explicit_step_is_its_definition(mdp):
  """The greedy step beats others; the value is the objective's maximum."""
  rng = np.random.default_rng(1)
  values = rng.normal(size=(S, A))
  old = rng.dirichlet(np.ones(A), S)
  tau, kappa = 0.4, 0.25
  found = explicit(
    mdp, values, np.log(old), kl_weight=tau, entropy_weight=kappa,
    num_iterations=1,
  )  # fmt: skip

  def objective(pi):
    kl = np.sum(pi * np.log(pi / old), -1)
    return (
      np.sum(pi * values, -1) - tau * kl - kappa * np.sum(pi * np.log(pi), -1)
    )

  pi = np.exp(found.log_policy[0])
  helpers.assert_close(
    found.values[0], mdp.rewards + G * mdp.transitions @ objective(pi)
  )
  for _ in range(20):
    other = 0.9 * pi + 0.1 * rng.dirichlet(np.ones(A), S)
    assert np.all(objective(other) < objective(pi))


def test_munchausen_is_mirror_descent_in_disguise(mdp):
  """`Q - alpha tau log pi` follows the explicit path for 60 iterations."""

  def iterate(values, _):
    step = md.munchausen_step(mdp, values, tau=TAU, alpha=ALPHA, floor=None)
    log_pi = jax.nn.log_softmax(values / TAU)
    return step, (step - ALPHA * TAU * log_pi, log_pi)

  run = jax.jit(lambda v: jax.lax.scan(iterate, v, None, length=60)[1])
  hidden, log_policies = run(jnp.zeros((S, A)))
  found = explicit(
    mdp,
    -ALPHA * TAU * UNIFORM,
    UNIFORM,
    kl_weight=ALPHA * TAU,
    entropy_weight=(1 - ALPHA) * TAU,
    num_iterations=60,
  )
  # Values of size 10: a few roundings.
  np.testing.assert_allclose(hidden, found.values, rtol=0, atol=2e-14)
  # Divided by the temperature.
  np.testing.assert_allclose(log_policies, found.log_policy, rtol=0, atol=1e-12)


def test_the_limit_is_the_soft_optimum_of_the_entropy_alone(mdp):
  """At temperature `(1-alpha) tau`, as value iteration with alpha = 0 finds."""
  found = munchausen(mdp, num_iterations=800, tau=TAU, alpha=ALPHA, floor=None)
  soft = munchausen(
    mdp, num_iterations=800, tau=(1 - ALPHA) * TAU, alpha=0.0, floor=None
  )
  helpers.assert_close(found.log_policy, soft.log_policy, atol=1e-10)
  kappa = (1 - ALPHA) * TAU
  value = kappa * jax.nn.logsumexp(soft.values / kappa, -1)
  helpers.assert_close(soft.values, tables.action_values(mdp, value), rtol=1e-9)


@pytest.mark.parametrize("reading", ["log", "gap"])
@pytest.mark.parametrize("q", [1.0, 2.0])
def test_a_small_temperature_is_advantage_learning(mdp, best, q, reading):
  """Values are optimal, gaps `1/(1-alpha)` times those of Q*; q = 1 and 2."""
  found = munchausen(
    mdp, num_iterations=1500, tau=1e-4, alpha=ALPHA, floor=None, q=q,
    reading=reading,
  )  # fmt: skip
  top = best.max(-1, keepdims=True)
  expected = top + (best - top) / (1 - ALPHA)
  # Sparse "log" keeps a bonus of -tau where "gap" has -(gap); both vanish.
  if (q, reading) == (2.0, "log"):
    expected = best - ALPHA * 1e-4 * (best < top)
  # The next best actions have a share of e^-gap/tau < e^-500 at q = 1.
  np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-10)
  greedy = tables.greedy_policy(best)
  np.testing.assert_allclose(np.exp(found.log_policy), greedy, atol=1e-12)


def test_sparse_policies_are_greedy_below_a_temperature(mdp, best):
  """Support 1 iff `tau <= (q-1) gap*/(1-alpha)`, in both readings."""
  ordered = np.sort(best, -1)
  gap = np.min(ordered[:, -1] - ordered[:, -2])
  for q in (1.5, 2.0):
    threshold = (q - 1) * gap / (1 - ALPHA)
    for reading in ("log", "gap"):
      for share, support in ((0.98, 1), (1.02, 2)):
        found = munchausen(
          mdp, num_iterations=2000, tau=share * threshold, alpha=ALPHA,
          floor=None, q=q, reading=reading,
        )  # fmt: skip
        assert np.max(np.sum(np.exp(found.log_policy) > 0, -1)) == support


def test_readings_and_floor_of_one_step(mdp):
  values = np.random.default_rng(2).normal(size=(S, A))
  step = jax.jit(
    functools.partial(md.munchausen_step, mdp, tau=TAU, alpha=ALPHA),
    static_argnames=("floor", "q", "reading"),
  )
  log_pi = np.asarray(jax.nn.log_softmax(values / TAU))
  pi = np.exp(log_pi)
  entropy = -np.sum(pi * log_pi, -1)
  gap = values - np.sum(pi * values, -1, keepdims=True)
  # q = 1: tau log pi = gap - tau H(pi).
  helpers.assert_close(TAU * log_pi, gap - TAU * entropy[:, None])

  def expected(bonus, follow, floor):
    return (
      mdp.rewards
      + ALPHA * np.maximum(bonus, floor)
      + (G * mdp.transitions @ follow)
    )

  soft = TAU * np.log(np.sum(np.exp(values / TAU), -1))
  mean = np.sum(pi * values, -1)
  for floor in (-np.inf, -0.5):
    given = None if floor == -np.inf else floor
    # The bonus is clipped in the reward alone, not in the value ahead.
    helpers.assert_close(
      step(values, floor=given), expected(TAU * log_pi, soft, floor)
    )
    helpers.assert_close(
      step(values, floor=given, reading="gap"), expected(gap, mean, floor)
    )
  # q = 2: sparsemax, tau ln_2 pi = tau (pi - 1).
  pi = np.exp(tsallis.tsallis_greedy(values, TAU, q=2.0))
  bonus = TAU * (pi - 1)
  assert np.any(pi == 0)
  helpers.assert_close(
    step(values, q=2.0, floor=None),
    expected(bonus, np.sum(pi * (values - bonus), -1), -np.inf),
  )


def run_mdvi(mdp, num_iterations, **options):
  """States after each iteration, with exact transitions."""

  def iterate(state, _):
    state = md.mdvi_step(
      jax.random.key(0), mdp, state, num_samples=None, **options
    )
    return state, state

  start = md.mdvi_init(mdp, beta=options.get("beta", np.inf))
  return jax.lax.scan(iterate, start, None, length=num_iterations)[1]


def test_mdvi_is_the_explicit_iteration(mdp):
  """With a soft maximum; policies are softmax of beta times the scores."""
  tau, kappa = 0.35, 0.15
  alpha, beta = tau / (tau + kappa), 1 / (tau + kappa)
  found = jax.jit(lambda: run_mdvi(mdp, 60, alpha=alpha, beta=beta))()
  # v_0 = w_0, a constant: q_1 = r + g v_0.
  start = mdp.rewards + G * np.log(A) / beta
  states = explicit(
    mdp, start, UNIFORM, kl_weight=tau, entropy_weight=kappa, num_iterations=60
  )
  np.testing.assert_allclose(
    jax.nn.log_softmax(beta * found.scores), states.log_policy, atol=1e-12
  )
  # q_{k+1} = s_{k+1} - alpha s_k; values of size 10.
  np.testing.assert_allclose(
    found.scores[1:] - alpha * found.scores[:-1],
    states.values[:-1],
    rtol=0,
    atol=5e-14,
  )


def test_mdvi_with_exact_transitions_falls_as_one_over_k(mdp, best):
  """`K (V* - w_K/K) = (I - g P*)^-1 g P* V*`, whose largest entry is 79.8."""
  values = best.max(-1)
  moves = mdp.transitions[np.arange(S), best.argmax(-1)]
  constant = np.linalg.solve(np.eye(S) - G * moves, G * moves @ values)
  assert abs(constant.max() - 79.8) < 0.05
  found = jax.jit(lambda: run_mdvi(mdp, 800))()
  for k in (200, 800):
    helpers.assert_close(found.weight[k - 1], float(k))
    lag = k * (values - found.best[k - 1] / k)
    # w has the size of 8 K: 1e4 roundings of 1e-12 at most.
    np.testing.assert_allclose(lag, constant, rtol=1e-8)
  helpers.assert_close(
    found.values[1:], found.best[1:] - found.best[:-1], atol=1e-11
  )


def test_mdvi_without_memory_is_value_iteration(mdp):
  values = np.zeros(S)
  for _ in range(7):
    values = np.max(mdp.rewards + G * mdp.transitions @ values, -1)
  found = md.mdvi(
    jax.random.key(0), mdp, num_iterations=7, num_samples=None, alpha=0.0
  )
  helpers.assert_close(found.values, values)


def test_samples_are_those_of_the_process(mdp, key):
  """Exact where nothing is random; otherwise unbiased, each pair alone."""
  certain = mdp._replace(
    transitions=np.eye(S)[np.arange(S * A).reshape(S, A) % S]
  )
  run = jax.jit(
    md.mdvi, static_argnames=("num_iterations", "num_samples", "beta")
  )
  exact = run(key, certain, num_iterations=9, num_samples=None, alpha=0.7)
  drawn = run(key, certain, num_iterations=9, num_samples=1, alpha=0.7)
  helpers.assert_close(drawn, exact)

  values = np.arange(1.0, S + 1)
  start = md.MDVIState(np.zeros((S, A)), values, values, np.zeros(()))
  step = jax.jit(
    jax.vmap(
      lambda k, mdp: md.mdvi_step(k, mdp, start, num_samples=2).scores,
      (0, None),
    )
  )
  keys = jax.random.split(key, 20_000)
  # Of next states that come up often: rare ones are far from normal.
  even = tables.TabularMDP(np.full((S, A, S), 1 / S), mdp.rewards, G)
  for world in (mdp, even):
    backups = (np.asarray(step(keys, world)) - mdp.rewards) / G
    mean = world.transitions @ values
    spread = np.sqrt((world.transitions @ values**2 - mean**2) / 2)
    error = np.abs(backups.mean(0) - mean) / (spread / np.sqrt(20_000))
    assert np.all(error < 5)  # 24 pairs, five standard errors
  np.testing.assert_allclose(backups.std(0), spread, rtol=0.03)
  # Two samples of a pair, and two pairs, share no draw.
  noise = (backups - backups.mean(0)).reshape(-1, S * A)
  correlations = np.corrcoef(noise.T)[np.triu_indices(S * A, 1)]
  assert np.abs(correlations).max() < 5 / np.sqrt(20_000)


def test_every_iteration_draws_anew(mdp, key):
  """`mdvi` is its steps with keys folded in; another key, other values."""
  run = functools.partial(md.mdvi, num_iterations=3, num_samples=1, alpha=0.9)
  state = md.mdvi_init(mdp)
  for k in range(3):
    step_key = jax.random.fold_in(key, k)
    state = md.mdvi_step(step_key, mdp, state, num_samples=1, alpha=0.9)
  found = run(key, mdp)
  helpers.assert_close(found.values, state.best / state.weight)
  helpers.assert_close(state.weight, 1 + 0.9 + 0.81)
  helpers.assert_close(found.policy, tables.greedy_policy(state.scores))
  other = run(jax.random.key(1), mdp)
  assert np.max(np.abs(other.values - found.values)) > 1e-3


def test_gradients(mdp):
  rng = np.random.default_rng(3)
  values, weights = rng.normal(size=(2, S, A))[:, :2, :3]
  small = tables.random_mdp(jax.random.key(0), 2, 3, discount=G)

  def scalar(values, log_policy, rewards, tau):
    mdp = small._replace(rewards=rewards)
    state = md.RegularizedState(values, log_policy)
    explicit = md.mirror_descent_step(
      mdp, state, kl_weight=tau, entropy_weight=0.2
    )
    parts = [explicit.values, explicit.log_policy]
    for q, reading in ((1.0, "log"), (2.0, "gap"), (2.0, "log")):
      options = {"tau": tau, "floor": -0.9, "q": q, "reading": reading}
      parts.append(md.munchausen_step(mdp, values, **options))
    state = md.MDVIState(values, values[:, 0], values[:, 1], tau)
    step = md.mdvi_step(None, mdp, state, num_samples=None, beta=2.0)
    parts.append(step.values[:, None])
    return sum(jnp.sum(weights[:, : x.shape[1]] * x) for x in parts)

  log_policy = np.log(rng.dirichlet(np.ones(3), 2))
  helpers.assert_gradient(
    scalar, values, log_policy, np.asarray(small.rewards), np.array(0.7)
  )


def test_transforms(key):
  def all_of_it(transitions, rewards, key):
    mdp = tables.TabularMDP(transitions, rewards, G)
    start = md.RegularizedState(rewards, jax.nn.log_softmax(rewards))
    return (
      md.mirror_descent_step(mdp, start, kl_weight=0.3, entropy_weight=0.1),
      md.munchausen_vi(mdp, num_iterations=2, q=2.0),
      md.mdvi(key, mdp, num_iterations=2, num_samples=1, beta=3.0),
    )

  worlds = [
    tables.random_mdp(k, 3, 2, discount=G) for k in jax.random.split(key)
  ]
  helpers.assert_transforms(
    all_of_it,
    np.stack([w.transitions for w in worlds]),
    np.stack([w.rewards for w in worlds]),
    jax.random.split(key),
  )


def test_bad_input(mdp):
  zeros, key = np.zeros((S, A)), jax.random.key(0)
  with pytest.raises(ValueError, match="unknown reading 'advantage'"):
    md.munchausen_step(mdp, zeros, reading="advantage")
  with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], was 1.5"):
    md.munchausen_step(mdp, zeros, alpha=1.5)
  with pytest.raises(ValueError, match="tau must be above 0, was 0"):
    md.munchausen_step(mdp, zeros, tau=0.0)
  with pytest.raises(AssertionError, match="values"):
    md.munchausen_step(mdp, zeros.T)
  with pytest.raises(ValueError, match="q must be above 0"):
    md.munchausen_vi(mdp, num_iterations=1, q=0.0)
  for run in (
    functools.partial(md.munchausen_vi, mdp),
    functools.partial(md.mdvi, key, mdp, num_samples=1),
  ):
    with pytest.raises(ValueError, match="num_iterations must be at least 1"):
      run(num_iterations=0)
  state = md.RegularizedState(zeros, UNIFORM)
  with pytest.raises(ValueError, match="weights must be above 0"):
    md.mirror_descent_step(mdp, state, kl_weight=0.0, entropy_weight=0.0)
  with pytest.raises(AssertionError, match="log_policy"):
    md.mirror_descent_step(
      mdp,
      state._replace(log_policy=UNIFORM.T),
      kl_weight=1.0,
      entropy_weight=0.0,
    )
  with pytest.raises(ValueError, match="beta must be above 0"):
    md.mdvi_init(mdp, beta=0.0)
  start = md.mdvi_init(mdp)
  with pytest.raises(ValueError, match="num_samples must be at least 1, was 0"):
    md.mdvi_step(key, mdp, start, num_samples=0)
  with pytest.raises(ValueError, match="alpha must be in"):
    md.mdvi_step(key, mdp, start, num_samples=1, alpha=-0.1)

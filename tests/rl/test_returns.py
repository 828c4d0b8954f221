# SPDX-License-Identifier: Apache-2.0
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from jaxalign.exact import mdp, sequences
from jaxalign.rl import returns
from tests import helpers

T = 5
LAM = 0.7
FUNCTIONS = {
  "gae": lambda r, g, v, lr, **kw: returns.gae(r, g, v, lam=LAM, **kw),
  "lambda": lambda r, g, v, lr, **kw: returns.lambda_returns(
    r, g, v, lam=LAM, **kw
  ),
  "upgo": lambda r, g, v, lr, **kw: returns.upgo_returns(r, g, v, **kw),
  "vtrace": lambda r, g, v, lr, **kw: returns.vtrace(
    r, g, v, lr, lam=LAM, rho_bar=1.2, pg_rho_bar=0.8, **kw
  ),
}


@functools.cache
def batch(size=2, length=T):
  """Rewards, discounts with one end in the middle, values, log-ratios."""
  rng = np.random.default_rng(0)
  discounts = rng.uniform(0.5, 1, (size, length))
  discounts[0, 2] = 0
  draws = (rng.standard_normal((size, n)) for n in (length, length + 1, length))
  rewards, values, log_ratios = draws
  return tuple(map(jnp.asarray, (rewards, discounts, values, log_ratios)))


def everything(r, g, v, lr, where=None):
  return {name: fn(r, g, v, lr, where=where) for name, fn in FUNCTIONS.items()}


everything_jitted = jax.jit(everything)


# --- exact -------------------------------------------------------------------


def test_parity_with_rlax():
  r, g, v, lr = batch()
  found = everything_jitted(r, g, v, lr)

  @jax.jit
  @jax.vmap
  def oracle(r, g, v, lr):
    upgo_lam = jnp.append(r[1:] + g[1:] * v[2:] >= v[1:-1], True)
    off = rlax.vtrace_td_error_and_advantage(
      v[:-1], v[1:], r, g, jnp.exp(lr), LAM, 1.2, 0.8
    )
    return {
      "gae": rlax.truncated_generalized_advantage_estimation(r, g, LAM, v),
      "lambda": rlax.lambda_returns(r, g, v[1:], LAM),
      "upgo": rlax.lambda_returns(r, g, v[1:], upgo_lam.astype(r.dtype)),
      "vtrace": returns.VTrace(
        off.errors + v[:-1], off.q_estimate, off.pg_advantage
      ),
    }

  helpers.assert_close(found, oracle(r, g, v, lr))
  helpers.assert_close(found["gae"] + v[:, :-1], found["lambda"])


def test_lambda_returns_mix_n_step_returns():
  (r, _), (g, _), (v, _), _ = map(np.asarray, batch())

  def n_step(t, n):
    value = v[t + n]
    for s in reversed(range(t, t + n)):
      value = r[s] + g[s] * value
    return value

  expected = []
  for t in range(T):
    longest = T - t
    weights = [(1 - LAM) * LAM ** (n - 1) for n in range(1, longest)]
    weights.append(LAM ** (longest - 1))
    assert abs(sum(weights) - 1) < 1e-15
    steps = range(1, longest + 1)
    expected.append(
      sum(w * n_step(t, n) for w, n in zip(weights, steps, strict=True))
    )
  helpers.assert_close(returns.lambda_returns(r, g, v, lam=LAM), expected)
  one_step = returns.lambda_returns(r, g, v, lam=0.0)
  helpers.assert_close(one_step, r + g * v[1:])


def test_upgo_by_hand():
  (r, _), (g, _), (v, _), _ = map(np.asarray, batch())
  expected, total = [], v[T]
  for t in reversed(range(T)):
    if t < T - 1 and r[t + 1] + g[t + 1] * v[t + 2] < v[t + 1]:
      total = v[t + 1]
    total = r[t] + g[t] * total
    expected.insert(0, total)
  helpers.assert_close(returns.upgo_returns(r, g, v), expected)


@pytest.fixture(scope="module")
def eos_world():
  """Policies over sequences of at most 2 tokens of 3, of which 0 ends."""
  with jax.enable_x64(True):
    logits = sequences.random_table(jax.random.key(0), 3, 2)
    tokens = sequences.enumerate_sequences(3, 2)
    rng = np.random.default_rng(1)
    rewards = rng.uniform(size=9)
    rewards[:3] = rewards[0]  # one sequence, three times
    return logits, tokens, sequences.until_eos(tokens), jnp.asarray(rewards)


def test_policy_gradients_on_the_autoregressive_bed(eos_world):
  """lam = 1: unbiased for any v; below: only for the policy's own values."""
  logits, tokens, where, rewards = eos_world
  terminal = where & ~jnp.pad(where[:, 1:], ((0, 0), (0, 1)))
  step_rewards = jnp.where(terminal, rewards[:, None], jnp.nan)
  step_rewards = jnp.where(where & ~terminal, 0, step_rewards)
  discounts = jnp.where(terminal, 0.0, 1.0)
  rows = sequences.prefix_index(tokens, 3)
  probs = jnp.exp(sequences.token_log_probs(logits, tokens))
  # Of each row: the policy's expected reward from that prefix on.
  inner = jnp.sum((rewards * probs[:, 1]).reshape(3, 3), 1)
  root = sequences.expectation(logits, rewards)
  own = jnp.concatenate([root[None], inner])
  other = jnp.asarray(np.random.default_rng(2).standard_normal(4))
  absent = jnp.zeros((9, 1), bool)

  @jax.jit
  def gradients(row_values):
    """Of the policy, for lam = 0, .5 and 1; NaN where nothing may be read."""
    known = jnp.append(where, absent, -1)
    values = jnp.append(row_values[rows], absent, -1)
    values = jnp.where(known, values, jnp.nan)
    advantages = [
      returns.gae(step_rewards, discounts, values, lam=lam, where=where)
      for lam in (0.0, 0.5, 1.0)
    ]

    def surrogate(table):
      log_probs = sequences.token_log_probs(table, tokens)
      terms = jnp.where(where, jnp.stack(advantages) * log_probs, 0)
      table = jax.lax.stop_gradient(table)
      return sequences.expectation(table, jnp.sum(terms, -1).T)

    return jax.jacrev(surrogate)(logits)

  exact = jax.grad(lambda table: sequences.expectation(table, rewards))(logits)
  for gradient in gradients(own):
    helpers.assert_close(gradient, exact, atol=1e-14)
  one_step, half, whole = gradients(other)
  helpers.assert_close(whole, exact, atol=1e-14)
  bias = [jnp.linalg.norm(x - exact) for x in (half, one_step)]
  assert 0.5 * jnp.linalg.norm(exact) < bias[0] < bias[1]


@pytest.fixture(scope="module")
def process():
  """A process and two policies with ratios on both sides of every clip."""
  with jax.enable_x64(True):
    world = mdp.random_mdp(jax.random.key(3), 2, 2, discount=0.9)
    mu = jnp.array([[0.7, 0.3], [0.2, 0.8]])
    pi = jnp.array([[0.1, 0.9], [0.6, 0.4]])
    return world, mu, pi


def test_the_fixed_point_of_vtrace(process):
  """The expected error under mu vanishes at the value of the clipped policy."""
  world, mu, pi = process
  bounds = (0.5, 1.0, 2.0, math.inf)

  @jax.jit
  def fixed_points():
    clipped = [jnp.minimum(rho * mu, pi) for rho in bounds]
    clipped = jnp.stack([x / jnp.sum(x, -1, keepdims=True) for x in clipped])
    of_policy = functools.partial(mdp.policy_values, world)
    return jax.vmap(of_policy)(clipped), of_policy(pi)

  @functools.partial(jax.jit, static_argnums=1)
  def errors(values, horizon):
    """`E_mu[vs - v | s_0]` for each bound and first state: `[4, 2]`."""
    paths = mdp.enumerate_trajectories(world, mu, jnp.ones(2), horizon)
    log_ratios = jnp.log(pi)[paths.states[:, :-1], paths.actions]
    found = []
    for v, rho_bar in zip(values, bounds, strict=True):
      before = v[paths.states[:, 0]]
      targets = returns.vtrace(
        paths.rewards,
        jnp.full_like(paths.rewards, world.discount),
        v[paths.states],
        log_ratios - paths.log_probs,
        lam=0.8,
        rho_bar=rho_bar,
      ).targets[:, 0]
      found.append((paths.probs * (targets - before)).reshape(2, -1).sum(1))
    return jnp.stack(found)

  fixed, own = fixed_points()
  for horizon in (1, 3):
    helpers.assert_close(errors(fixed, horizon), np.zeros((4, 2)), atol=1e-13)
  # The largest ratio is 3: a clip below it moves the fixed point, none above.
  helpers.assert_close(fixed[3], own)
  at_own = errors(jnp.stack([own] * 4), 3)
  assert np.all(np.abs(fixed - own).max(1)[:3] > 1e-3)
  assert np.all(np.abs(at_own).max(1)[:3] > 1e-3)


def test_without_ratios_vtrace_is_a_lambda_return():
  r, g, v, lr = batch()
  found = jax.jit(functools.partial(returns.vtrace, lam=LAM))(r, g, v, 0 * lr)
  expected = everything_jitted(r, g, v, lr)["lambda"]
  helpers.assert_close(found.targets, expected)
  helpers.assert_close(found.q_values, expected)
  helpers.assert_close(found.advantages, expected - v[:, :-1])


def test_ratios_beyond_all_bounds():
  """Neither a vanishing nor a huge ratio leaves the finite numbers."""
  r, g, v, _ = batch()
  for log_ratio in (-jnp.inf, 1e4):
    found = returns.vtrace(r, g, v, jnp.full_like(r, log_ratio), rho_bar=2.0)
    assert all(np.all(np.isfinite(x)) for x in found)
  nothing = returns.vtrace(r, g, v, jnp.full_like(r, -jnp.inf))
  helpers.assert_close(nothing.targets, v[:, :-1])
  helpers.assert_close(nothing.advantages, jnp.zeros_like(r))


def test_value_loss():
  v = jnp.array([0.0, 1.0, 1.0, -1.0])
  target = jnp.array([0.0, 0.0, 2.0, 0.5])
  old = jnp.array([0.1, 2.0, 0.5, -0.9])
  near = np.clip(v, old - 0.3, old + 0.3)
  expected = np.maximum((v - target) ** 2, (near - target) ** 2) / 2
  found = returns.value_loss(v, target, old, clip_range=0.3)
  helpers.assert_close(found, expected)
  plain = returns.value_loss(v, target)
  helpers.assert_close(plain, (v - target) ** 2 / 2)
  assert np.all(found >= plain) and np.any(found > plain)
  helpers.assert_close(returns.value_loss(v, target, v), plain)


# --- masks -------------------------------------------------------------------


def test_dropped_steps_have_never_been():
  r, g, v, lr = (x[1:] for x in batch(2, 7))
  where = np.array([[True, False, True, True, False, True, False]])
  kept = np.flatnonzero(where[0])
  expected = everything_jitted(
    r[:, kept], g[:, kept], v[:, [*kept, 7]], lr[:, kept]
  )
  dirty = [jnp.where(where, x, jnp.nan) for x in (r, g, lr)]
  values = jnp.append(jnp.where(where, v[:, :-1], jnp.nan), v[:, -1:], -1)
  with jax.debug_nans(False):
    found = everything_jitted(*dirty[:2], values, dirty[2], where)

    def total(r, g, v, lr):
      return sum(map(jnp.sum, jax.tree.leaves(everything(r, g, v, lr, where))))

    slopes = jax.jit(jax.grad(total, (0, 1, 2, 3)))(
      *dirty[:2], values, dirty[2]
    )
  helpers.assert_close(jax.tree.map(lambda x: x[:, kept], found), expected)
  for x in jax.tree.leaves(found):
    assert np.all(np.asarray(x)[~where] == 0)
  for slope in slopes:
    assert np.all(np.isfinite(slope))
    assert np.all(np.asarray(slope)[:, :7][~where] == 0)


def test_nothing_is_read_after_the_end():
  """Padding after a terminal step, with NaN in the last value as well."""
  r, g, v, lr = (x[1:] for x in batch(2, 7))
  where = jnp.arange(7)[None] < 3
  g = g.at[:, 2].set(0)
  short = everything_jitted(r[:, :3], g[:, :3], v[:, :4] * 0, lr[:, :3])
  values = jnp.where(jnp.arange(8) < 3, v * 0, jnp.nan)
  found = everything_jitted(r, g, values, lr, where)
  helpers.assert_close(jax.tree.map(lambda x: x[:, :3], found), short)
  none = everything_jitted(r, g, values, lr, where & False)
  assert all(np.all(x == 0) for x in jax.tree.leaves(none))
  loss = functools.partial(returns.value_loss, where=where)
  value, slope = jax.value_and_grad(lambda v: jnp.sum(loss(v, r, lr)))(
    values[:, :-1]
  )
  assert np.isfinite(value) and np.all(np.isfinite(slope))


# --- gradient and invariance -------------------------------------------------


def test_gradients():
  r, g, v, lr = (x[1] for x in batch())
  weights = jnp.cos(jnp.arange(T))

  def total(r, v):
    found = everything(r, g, v, lr)
    return sum(x @ weights for x in jax.tree.leaves(found))

  helpers.assert_gradient(total, r, v)
  targets = r[:3]

  def loss(v):
    return jnp.sum(returns.value_loss(v, targets, jnp.zeros(3)))

  helpers.assert_gradient(loss, jnp.array([0.1, -0.7, 0.9]))
  constants = jax.grad(
    lambda *x: jnp.sum(returns.value_loss(v[:3], *x)), (0, 1)
  )(targets, targets)
  assert all(np.all(x == 0) for x in constants)


def test_transforms():
  helpers.assert_transforms(everything, *batch())
  r, _, v, lr = batch()
  helpers.assert_transforms(returns.value_loss, v[:, :-1], r, lr)


def test_bad_input():
  r, g, v, lr = (x[0] for x in batch())
  for fn in FUNCTIONS.values():
    with pytest.raises(AssertionError, match="values"):
      fn(r, g, v[:-1], lr)
    with pytest.raises(AssertionError, match="discounts"):
      fn(r, g[:1], v, lr)
    with pytest.raises(AssertionError, match="where"):
      fn(r, g, v, lr, where=jnp.ones(2, bool))
    with pytest.raises(AssertionError, match="floats: rewards int"):
      fn(r.astype(int), g, v, lr)
  with pytest.raises(AssertionError, match="log_ratios"):
    returns.vtrace(r, g, v, lr[:2])
  for lam in (-0.1, 1.1):
    with pytest.raises(ValueError, match=r"lam must be in \[0, 1\]"):
      returns.gae(r, g, v, lam=lam)
  with pytest.raises(ValueError, match="rho_bar must be above 0"):
    returns.vtrace(r, g, v, lr, rho_bar=0.0)
  with pytest.raises(ValueError, match="clip_range must be above 0"):
    returns.value_loss(r, r, clip_range=0.0)
  with pytest.raises(AssertionError, match="targets"):
    returns.value_loss(r, g[:1])

# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import sequences
from jaxalign.rl import gflownet
from tests import helpers

V, L = 3, 2
TOKENS = sequences.enumerate_sequences(V, L)
LOSSES = {
  "tb": lambda f, *args, **kw: gflownet.tb_loss(f[..., 0], *args, **kw),
  "db": gflownet.db_loss,
  "subtb": gflownet.subtb_loss,
}


@pytest.fixture(scope="module")
def world():
  """Seven sequences of at most two tokens of three, 0 being the last one.

  They are rows of nine full ones: the first three are one sequence, which has
  ended.
  """
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    rewards = rng.exponential(size=9)
    rewards[:3] = rewards[0]
    flows = rewards.reshape(3, 3).sum(1)
    flows[0] = rewards[0]
    table = np.log([flows, *rewards.reshape(3, 3)])
    log_flows = np.log([flows.sum(), *flows])
    return {
      "log_rewards": jnp.log(rewards),
      "table": jnp.asarray(table),
      "log_flows": jnp.asarray(log_flows),
      "where": sequences.until_eos(TOKENS),
      "other": sequences.random_table(jax.random.key(1), V, L),
      "log_z": jnp.log(flows.sum()),
    }


def arguments(world, table, flows):
  rows = sequences.prefix_index(TOKENS, V)
  log_pf = sequences.token_log_probs(table, TOKENS)
  return flows[rows], log_pf, world["log_rewards"]


def draws(rows=2, length=4):
  rng = np.random.default_rng(1)
  flows, log_pf, log_pb = rng.standard_normal((3, rows, length))
  rewards = rng.standard_normal(rows)
  return tuple(map(jnp.asarray, (flows, log_pf, rewards, log_pb)))


# --- exact -------------------------------------------------------------------


def test_at_the_exact_flows_all_losses_vanish(world):
  where = world["where"]
  args = arguments(world, world["table"], world["log_flows"])
  for loss in LOSSES.values():
    helpers.assert_close(loss(*args, where=where), np.zeros(9))
    wrong = args[0] + 0.1, *args[1:]
    assert np.all(loss(*wrong, where=where) > 1e-4)
  found = gflownet.vargrad_loss(*args[1:], where=where)
  helpers.assert_close(found, np.zeros(9))
  # And the policy is R / Z.
  log_pi = jnp.sum(jnp.where(where, args[1], 0), -1)
  helpers.assert_close(log_pi, args[2] - world["log_z"])


def test_residuals_by_hand():
  flows, log_pf, log_rewards, log_pb = map(np.asarray, draws())
  lengths, lam = (4, 2), 0.7
  where = jnp.arange(4) < np.array(lengths)[:, None]
  found = {
    name: loss(*draws(), where=where) for name, loss in LOSSES.items()
  } | {"short": gflownet.subtb_loss(*draws(), where=where, lam=lam)}
  for row, n in enumerate(lengths):
    flow = [*flows[row, :n], log_rewards[row]]
    step = log_pf[row] - log_pb[row]
    d = {
      (i, j): flow[i] + step[i:j].sum() - flow[j]
      for j in range(n + 1)
      for i in range(j)
    }
    helpers.assert_close(found["tb"][row], d[0, n] ** 2)
    neighbours = [d[k, k + 1] ** 2 for k in range(n)]
    helpers.assert_close(found["db"][row], np.mean(neighbours))
    for name, weight in (("subtb", 0.9), ("short", lam)):
      weights = np.array([weight ** (j - i) for i, j in d])
      expected = weights @ np.array([*d.values()]) ** 2 / weights.sum()
      helpers.assert_close(found[name][row], expected)


def test_limits_of_subtrajectory_balance():
  where = jnp.arange(4) < jnp.array([[4], [2]])
  small, large = (
    gflownet.subtb_loss(*draws(), where=where, lam=lam) for lam in (1e-9, 1e9)
  )
  # What is left is of order lam, of 1 / lam.
  for found, name in ((small, "db"), (large, "tb")):
    expected = LOSSES[name](*draws(), where=where)
    helpers.assert_close(found, expected, rtol=1e-7)


def divergence(world, table):
  """`KL(pi || R / Z)` over the seven sequences."""
  log_pf = sequences.token_log_probs(table, TOKENS)
  log_pi = jnp.sum(jnp.where(world["where"], log_pf, 0), -1)
  gaps = log_pi - world["log_rewards"] + world["log_z"]
  return sequences.expectation(table, gaps)


def test_on_policy_gradients_are_those_of_a_divergence(world):
  """2 grad KL for any Z; with groups of G, (G - 1) / G of it for VarGrad."""
  table, where = world["other"], world["where"]
  log_rewards = world["log_rewards"]
  of_kl = jax.jit(jax.grad(functools.partial(divergence, world)))(table)

  @jax.jit
  @functools.partial(jax.jacrev, argnums=0)
  def gradients(table, log_z):
    """Expected over sequences, whose law is held fixed."""
    log_pf = sequences.token_log_probs(table, TOKENS)
    law = jax.lax.stop_gradient(table)
    z = jnp.broadcast_to(log_z, 9)
    tb = gflownet.tb_loss(z, log_pf, log_rewards, where=where)
    # All groups of two.
    pairs = sequences.enumerate_sequences(9, 2)
    group = gflownet.vargrad_loss(
      log_pf[pairs], log_rewards[pairs], where=where[pairs]
    )
    probs = jnp.exp(sequences.sequence_log_probs(law, TOKENS))
    pairwise = jnp.prod(probs[pairs], -1) @ jnp.mean(group, -1)
    return jnp.stack([sequences.expectation(law, tb), pairwise])

  for log_z in (0.0, 3.0, world["log_z"]):
    of_tb, of_pairs = gradients(table, log_z)
    helpers.assert_close(of_tb, 2 * of_kl, atol=1e-13)
    helpers.assert_close(of_pairs, of_kl, atol=1e-13)
  assert np.abs(of_kl).max() > 0.01


def test_the_variance_is_that_of_the_group(world):
  """And the gradient is 2 grad KL for a group that is the population."""
  table, where = world["other"], world["where"]
  # Sequences as often as they are likely: a uniform policy has whole numbers.
  uniform = jnp.zeros_like(table)
  everyone = jnp.arange(9)

  @jax.jit
  def mean_loss(table):
    log_pf = sequences.token_log_probs(table, TOKENS)
    return jnp.mean(
      gflownet.vargrad_loss(log_pf[everyone], world["log_rewards"], where=where)
    )

  of_kl = jax.jit(jax.grad(functools.partial(divergence, world)))(uniform)
  helpers.assert_close(jax.grad(mean_loss)(uniform), 2 * of_kl, atol=1e-13)
  u = jnp.where(where, sequences.token_log_probs(uniform, TOKENS), 0).sum(-1)
  variance = np.var(u - world["log_rewards"])
  helpers.assert_close(mean_loss(uniform), variance)


# --- masks, gradients, invariance --------------------------------------------


def everything(flows, log_pf, log_rewards, log_pb, where=None):
  return {
    name: loss(flows, log_pf, log_rewards, log_pb, where=where)
    for name, loss in LOSSES.items()
  } | {
    "vargrad": gflownet.vargrad_loss(log_pf, log_rewards, log_pb, where=where)
  }


def test_padding_changes_nothing():
  flows, log_pf, log_rewards, log_pb = draws()
  where = jnp.arange(4) < jnp.full((2, 1), 3)
  short = [x[:, :3] for x in (flows, log_pf, log_pb)]
  expected = everything(*short[:2], log_rewards, short[2])
  dirty = [jnp.where(where, x, jnp.nan) for x in (flows, log_pf, log_pb)]
  with jax.debug_nans(False):
    found = jax.jit(everything)(*dirty[:2], log_rewards, dirty[2], where)

    def total(flows, log_pf, log_pb):
      terms = everything(flows, log_pf, log_rewards, log_pb, where)
      return sum(map(jnp.sum, terms.values()))

    slopes = jax.jit(jax.grad(total, (0, 1, 2)))(*dirty)
  helpers.assert_close(found, expected)
  for slope in slopes:
    assert np.all(np.isfinite(slope)) and np.all(slope[:, 3] == 0)
    assert np.any(slope[:, :3] != 0)
  nothing = jax.jit(everything)(
    flows, log_pf, log_rewards, log_pb, where & False
  )
  # The one state is the last: its flow is the reward, but Z is still learned.
  assert np.all(nothing["db"] == 0) and np.all(nothing["subtb"] == 0)
  helpers.assert_close(nothing["tb"], (flows[:, 0] - log_rewards) ** 2)


def test_gradients():
  flows, log_pf, log_rewards, log_pb = draws()

  def total(flows, log_pf, log_pb):
    terms = everything(flows, log_pf, log_rewards, log_pb)
    return sum(map(jnp.sum, terms.values()))

  helpers.assert_gradient(total, flows, log_pf, log_pb)
  slope = jax.grad(
    lambda r: sum(map(jnp.sum, everything(flows, log_pf, r, log_pb).values()))
  )(log_rewards)
  assert np.all(slope == 0)


def test_transforms():
  rng = np.random.default_rng(3)
  flows, log_pf, log_pb = rng.standard_normal((3, 2, 2, 3))
  rewards = rng.standard_normal((2, 2))
  helpers.assert_transforms(
    everything, *map(jnp.asarray, (flows, log_pf, rewards, log_pb))
  )


def test_bad_input():
  flows, log_pf, log_rewards, log_pb = draws()
  for loss in LOSSES.values():
    with pytest.raises(AssertionError, match="log_rewards"):
      loss(flows, log_pf, log_rewards[:1], log_pb)
    with pytest.raises(AssertionError, match="log_pb"):
      loss(flows, log_pf, log_rewards, log_pb[:, :2])
    with pytest.raises(AssertionError, match="where"):
      loss(flows, log_pf, log_rewards, where=jnp.ones((2, 3), bool))
    with pytest.raises(AssertionError, match="log_pf int"):
      loss(flows, log_pf.astype(int), log_rewards)
  for loss in (gflownet.db_loss, gflownet.subtb_loss):
    with pytest.raises(AssertionError, match="log_flows"):
      loss(flows[:, :3], log_pf, log_rewards)
  with pytest.raises(AssertionError, match="log_z"):
    gflownet.tb_loss(flows, log_pf, log_rewards)
  with pytest.raises(AssertionError, match="log_rewards"):
    gflownet.vargrad_loss(log_pf, log_rewards[:1])
  with pytest.raises(ValueError, match="lam must be above 0"):
    gflownet.subtb_loss(flows, log_pf, log_rewards, lam=0.0)

# SPDX-License-Identifier: Apache-2.0
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import masked, parallel, sequences
from tests import helpers

V, L = 3, 3
X = np.asarray(sequences.enumerate_sequences(V, L))
PARTITIONS = list(parallel.ordered_partitions(L))


perfect = jax.jit(parallel.perfect_log_probs, static_argnames="vocab_size")
marginals_of = jax.jit(parallel.subset_marginals, static_argnames="vocab_size")


@jax.jit
def log_probs_of(table):
  denoiser = masked.table_denoiser(table)
  return masked.subset_log_probs(denoiser, jnp.asarray(X), mask_id=V)


@jax.jit
def all_costs(log_joint):
  return [
    parallel.parallel_costs(log_joint, rounds, vocab_size=V)
    for rounds in PARTITIONS
  ]


def law(seed=0, scale=1.5, size=V**L):
  logits = scale * np.random.default_rng(seed).normal(size=size)
  return jax.nn.log_softmax(jnp.asarray(logits))


def entropy(p, axes):
  """Of the coordinates `axes` under the joint `p [V, ..., V]`."""
  q = p.sum(tuple(i for i in range(p.ndim) if i not in axes))
  return -np.sum(q * np.log(q))


def test_ordered_partitions():
  assert [len(list(parallel.ordered_partitions(n))) for n in range(6)] == [
    *(1, 1, 3, 13, 75, 541)
  ]
  found = list(parallel.ordered_partitions(4))
  assert len(set(found)) == 75
  assert all(sorted(sum(rounds, ())) == [0, 1, 2, 3] for rounds in found)


def test_seen_before():
  seen = parallel.seen_before([(2, 0), (3,), (1,)])
  expected = [[0, 0, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
  assert seen.astype(int).tolist() == expected
  for wrong in ([(0,), (0, 1)], [(0, 2)]):
    with pytest.raises(ValueError, match="must reveal each of"):
      parallel.seen_before(wrong)


def test_marginals_and_conditionals():
  log_joint = law()
  p = np.exp(log_joint)
  marginals = np.asarray(marginals_of(log_joint, vocab_size=V))
  found = np.asarray(perfect(log_joint, vocab_size=V))
  for number, visible in enumerate(masked.visible_sets(L)):
    same = np.all((X[:, None] == X) | ~visible, -1)
    helpers.assert_close(np.exp(marginals[:, number]), same @ p)
    for place in range(L):
      both = same & (X[:, None, place] == X[:, place])
      expected = 1.0 if visible[place] else both @ p / (same @ p)
      helpers.assert_close(np.exp(found[:, number, place]), expected)
  # The perfect denoiser is the one to which self-distillation goes.
  table = masked.random_denoiser(jax.random.key(0), V, L)
  log_probs = log_probs_of(jax.jit(masked.self_distill)(table))
  log_pi = jax.jit(masked.any_order_log_prob)(log_probs)
  helpers.assert_close(perfect(log_pi, vocab_size=V), log_probs)


def test_costs_are_the_divergence():
  log_joint = law(1)
  p = np.exp(log_joint).reshape(V, V, V)
  seen = np.stack([parallel.seen_before(rounds) for rounds in PARTITIONS])
  log_q = parallel.fixed_schedule_log_prob(
    perfect(log_joint, vocab_size=V), seen
  )
  helpers.assert_close(np.sum(np.exp(log_q), 0), np.ones(len(PARTITIONS)))
  divergences = np.exp(log_joint) @ (log_joint[:, None] - log_q)
  found = zip(PARTITIONS, all_costs(log_joint), divergences, strict=True)
  for number, (rounds, costs, divergence) in enumerate(found):
    helpers.assert_close(np.sum(costs), divergence)
    past = ()
    for now, cost in zip(rounds, costs, strict=True):
      known = entropy(p, past)
      alone = sum(entropy(p, (*past, i)) - known for i in now)
      helpers.assert_close(cost, alone - entropy(p, past + now) + known)
      past += now
    if len(rounds) == L:
      helpers.assert_close(log_q[:, number], log_joint)
  total = jax.jit(parallel.total_correlation, static_argnames="vocab_size")
  once = PARTITIONS.index(((0, 1, 2),))
  helpers.assert_close(total(log_joint, vocab_size=V), divergences[once])
  assert divergences[once] == np.max(divergences) > 0.01


def test_limited_fan_in_is_the_product_of_its_factors():
  """Against a loop over strings, with predictors that are not perfect."""
  table = 2 * masked.random_denoiser(jax.random.key(1), V, L)
  denoiser = masked.table_denoiser(table)
  seen = np.zeros((L, L), bool)
  seen[0, 2] = seen[1, 0] = True
  found = parallel.fixed_schedule_log_prob(log_probs_of(table), seen)
  expected = np.zeros(len(X))
  for place in range(L):
    z = np.where(seen[place], X, V)
    log_p = jax.nn.log_softmax(denoiser(jnp.asarray(z)))
    expected += np.asarray(log_p)[np.arange(len(X)), place, X[:, place]]
  helpers.assert_close(found, expected)
  helpers.assert_close(np.sum(np.exp(found)), 1.0)


def test_steps_of_equal_length_mix_all_schedules():
  """Positions fall independently into T steps: an oracle of T-step sampling."""
  table = 2 * masked.random_denoiser(jax.random.key(2), V, L)
  log_probs = np.asarray(log_probs_of(table))
  steps = 5
  times = np.array(list(itertools.product(range(steps), repeat=L)))
  seen = times[:, :, None] > times[:, None]
  law = np.exp(parallel.fixed_schedule_log_prob(log_probs, seen)).mean(-1)
  alphas = 1 - jnp.arange(steps + 1) / steps
  expected = masked.t_step_log_prob(log_probs, alphas)
  helpers.assert_close(law, np.exp(expected))


def test_zeros():
  even = np.sum(np.asarray(sequences.enumerate_sequences(2, 3)), -1) % 2 == 0
  log_joint = jnp.where(jnp.asarray(even), -jnp.log(4.0), -jnp.inf)

  @jax.jit
  def cost(log_joint):
    return parallel.total_correlation(log_joint, vocab_size=2)

  with jax.debug_nans(True):
    found = perfect(log_joint, vocab_size=2)
    total, gradient = jax.value_and_grad(cost)(log_joint)
  assert np.all(gradient[~even] == 0)
  helpers.assert_close(total, np.log(2))
  # Full sets are never read; where two bits leave no third it is uniform.
  assert np.all(np.exp(found[:, 3, 2]) == even)
  helpers.assert_close(np.exp(found[:, [1, 2, 4], [1, 0, 0]]), 0.5)
  impossible = jnp.log(jnp.array([0.5, 0.5, 0.0, 0.0]))
  found = perfect(impossible, vocab_size=2)
  helpers.assert_close(np.exp(found[:, 1, 1]), 0.5)
  assert np.all(np.exp(found[:, 0, 0]) == [1, 1, 0, 0])


def test_gradients_and_transforms():
  rounds = [(0, 2), (1,)]
  seen = parallel.seen_before(rounds)

  def all_of(logits):
    log_joint = jax.nn.log_softmax(logits)
    found = parallel.perfect_log_probs(log_joint, vocab_size=V)
    return (
      parallel.parallel_costs(log_joint, rounds, vocab_size=V),
      parallel.total_correlation(log_joint, vocab_size=V),
      parallel.fixed_schedule_log_prob(found, seen),
    )

  logits = jnp.stack([law(2), law(3)])
  helpers.assert_transforms(all_of, logits)
  weights = jnp.asarray(np.random.default_rng(0).normal(size=V**L))

  @jax.jit
  def scalar(logits):
    costs, total, log_q = all_of(logits)
    return jnp.sum(costs) + 2 * total + weights @ log_q

  helpers.assert_gradient(scalar, logits[0])


def test_bad_arguments():
  costs = functools.partial(parallel.parallel_costs, law())
  with pytest.raises(ValueError, match="must reveal each of 3 positions once"):
    costs([(0, 1)], vocab_size=V)
  for wrong in (1, 2):
    with pytest.raises(ValueError, match=r"must be \[..., V\*\*L\] for V ="):
      parallel.subset_marginals(law(), vocab_size=wrong)
  with pytest.raises(AssertionError):
    parallel.total_correlation(jnp.zeros(9, int), vocab_size=V)
  log_probs = jnp.zeros((8, 3))
  with pytest.raises(ValueError, match=r"were \(8, 3\) and \(2, 2\)"):
    parallel.fixed_schedule_log_prob(log_probs, np.zeros((2, 2)))
  ring = np.roll(np.eye(3), 1, 1)
  with pytest.raises(ValueError, match="must not see each other"):
    parallel.fixed_schedule_log_prob(log_probs, ring)

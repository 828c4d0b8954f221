# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign.divergences import categorical
from jaxalign.exact import sequences
from jaxalign.inference import guaranteed
from tests import helpers

BASE = np.array([0.30, 0.05, 0.20, 0.02, 0.08, 0.15, 0.10, 0.10])
PROPOSAL = np.array([0.05, 0.10, 0.25, 0.10, 0.05, 0.05, 0.30, 0.10])
HOLDS = np.array([False, True, False, True, True, False, True, False])
DRAWS = 20_000
# Sampling tests use a fixed key; a correct sampler fails them for one key in a
# thousand.
P_VALUE = 1e-3


def random_laws(key, count, size):
  """Laws whose masses span many decades, `[count, size]`."""
  return jax.nn.log_softmax(3 * jax.random.normal(key, (count, size)))


def draws(key, accept_fn, max_trials):
  def propose(key):
    return jax.random.categorical(key, jnp.log(PROPOSAL))

  def one(key):
    return guaranteed.rejection_sample(key, propose, accept_fn, max_trials)

  return jax.jit(jax.vmap(one))(jax.random.split(key, DRAWS))


# --- the laws ----------------------------------------------------------------


def test_gold_is_the_closest_law_that_satisfies_the_constraint(key):
  gold = guaranteed.gold_log_prob(jnp.log(BASE), jnp.array(HOLDS))
  z = BASE[HOLDS].sum()
  helpers.assert_close(np.exp(gold), np.where(HOLDS, BASE, 0) / z)
  helpers.assert_close(categorical.kl(gold, jnp.log(BASE)), -np.log(z))
  helpers.assert_close(
    guaranteed.acceptance_rate(jnp.log(BASE), jnp.array(HOLDS)), z
  )
  # Any other law on the constraint is further away, by its distance to gold.
  other = jnp.where(HOLDS, random_laws(key, 50, 8), -jnp.inf)
  rows = (50, 8)
  helpers.assert_close(
    categorical.kl(other, jnp.broadcast_to(jnp.log(BASE), rows)),
    categorical.kl(other, jnp.broadcast_to(gold, rows)) - np.log(z),
  )


def test_the_constraint_selects(key):
  log_base = random_laws(key, 1, 8)[0]
  gold = guaranteed.gold_log_prob(log_base, jnp.array(HOLDS))
  helpers.assert_close(gold[HOLDS], jax.nn.log_softmax(log_base[HOLDS]))
  # Logits do as well, and a permutation of the outcomes commutes.
  order = np.random.default_rng(0).permutation(8)
  helpers.assert_close(
    guaranteed.gold_log_prob(3 + log_base[order], jnp.array(HOLDS[order])),
    gold[order],
  )
  helpers.assert_close(
    guaranteed.acceptance_rate(3 + log_base[order], jnp.array(HOLDS[order])),
    guaranteed.acceptance_rate(log_base, jnp.array(HOLDS)),
  )


def test_kl_identity_on_random_laws(key):
  keys = jax.random.split(key, 3)
  base, proposal = (np.array(random_laws(k, 2000, 6)) for k in keys[:2])
  holds = np.array(jax.random.bernoulli(keys[2], 0.5, (2000, 6)))
  holds[:, 0] = True
  parts = guaranteed.kl_decomposition(base, proposal, jnp.array(holds))
  assert isinstance(parts, guaranteed.KLDecomposition)

  g = np.where(holds, np.exp(base), 0)
  g /= g.sum(-1, keepdims=True)
  rate = np.where(holds, np.exp(proposal), 0).sum(-1)
  log_g = np.log(np.where(holds, g, 1))
  to_proposal = (g * (log_g - proposal)).sum(-1)
  to_accepted = (g * (log_g - proposal + np.log(rate)[:, None])).sum(-1)
  # The oracle cancels terms of order 10: 1e-14 in absolute terms.
  helpers.assert_close(parts.proposal, to_proposal, atol=1e-13)
  helpers.assert_close(parts.accepted, to_accepted, atol=1e-13)
  helpers.assert_close(parts.log_acceptance_rate, np.log(rate), atol=1e-13)
  helpers.assert_close(
    parts.proposal, parts.accepted - parts.log_acceptance_rate, atol=1e-13
  )
  assert np.all(parts.accepted >= 0)
  assert np.all(rate >= np.exp(-np.array(parts.proposal)) * (1 - 1e-12))
  # The base itself as the proposal gives gold exactly, at the rate Z.
  own = guaranteed.kl_decomposition(base, base, jnp.array(holds))
  assert np.all(np.abs(own.accepted) < 1e-13)


def test_impossible_constraints_and_proposals():
  log_base = jnp.log(jnp.array([0.5, 0.5, 0.0, 0.0]))
  holds = jnp.array([True, False, True, False])
  lacking = jnp.array([-jnp.inf, 0.0, 0.0, 0.0])
  never = jnp.array([-jnp.inf, 0.0, -jnp.inf, 0.0])
  with jax.debug_nans(True):
    gold = guaranteed.gold_log_prob(log_base, holds)
    assert np.exp(gold).tolist() == [1, 0, 0, 0]
    parts = guaranteed.kl_decomposition(log_base, lacking, holds)
    assert parts.proposal == jnp.inf and parts.accepted == jnp.inf
    helpers.assert_close(parts.log_acceptance_rate, np.log(1 / 3))
    parts = guaranteed.kl_decomposition(log_base, never, holds)
    assert parts.proposal == jnp.inf and parts.accepted == jnp.inf
    assert parts.log_acceptance_rate == -jnp.inf
    rate, slope = jax.value_and_grad(guaranteed.acceptance_rate)(never, holds)
    assert rate == 0 and np.all(slope == 0)
    slope = jax.grad(lambda x: guaranteed.gold_log_prob(x, holds)[0])(log_base)
    assert np.all(slope == 0)
    # The base has no outcome that satisfies the constraint: no gold law.
    nothing = guaranteed.gold_log_prob(log_base, jnp.arange(4) > 1)
    assert np.all(nothing == -jnp.inf)
    assert guaranteed.acceptance_rate(log_base, jnp.arange(4) > 1) == 0
  parts = guaranteed.kl_decomposition(log_base, lacking, jnp.arange(4) > 1)
  assert np.isnan(parts.proposal) and np.isnan(parts.accepted)


def test_laws_have_the_right_gradients(key):
  base, proposal = random_laws(key, 2, 4)
  holds = jnp.array(HOLDS[:4])

  @jax.jit
  def gold(x):
    return guaranteed.gold_log_prob(x, holds)[jnp.array([1, 3])] @ base[:2]

  @jax.jit
  def distances(x, y):
    parts = guaranteed.kl_decomposition(x, y, holds)
    return parts.proposal + 2 * parts.accepted + 3 * parts.log_acceptance_rate

  helpers.assert_gradient(gold, base)
  helpers.assert_gradient(
    jax.jit(lambda x: guaranteed.acceptance_rate(x, holds)), proposal
  )
  helpers.assert_gradient(distances, base, proposal)


# --- rejection ---------------------------------------------------------------


def test_accepted_samples_follow_the_proposal_given_the_constraint(key):
  result = draws(key, lambda x: jnp.array(HOLDS)[x], 1000)
  assert isinstance(result, guaranteed.Rejection)
  assert np.all(result.accepted) and np.all(HOLDS[result.sample])
  kept = np.exp(guaranteed.gold_log_prob(jnp.log(PROPOSAL), jnp.array(HOLDS)))
  counts = np.bincount(result.sample, minlength=8)[HOLDS]
  p_value = scipy.stats.chisquare(counts, DRAWS * kept[HOLDS]).pvalue
  assert p_value > P_VALUE
  # Trials are geometric: the mean is 1 / AR, to four standard errors.
  rate = PROPOSAL[HOLDS].sum()
  error = np.sqrt(1 - rate) / rate / DRAWS**0.5
  assert abs(np.mean(result.trials) - 1 / rate) < 4 * error
  trials = np.bincount(np.minimum(result.trials, 8), minlength=9)[1:]
  law = scipy.stats.geom(rate)
  expected = np.append(law.pmf(np.arange(1, 8)), law.sf(7))
  p_value = scipy.stats.chisquare(trials, DRAWS * expected).pvalue
  assert p_value > P_VALUE


def test_rejection_gives_up_after_max_trials(key):
  result = draws(key, lambda x: jnp.array(HOLDS)[x], 2)
  rate = PROPOSAL[HOLDS].sum()
  missed = (1 - rate) ** 2
  error = np.sqrt(missed * (1 - missed) / DRAWS)
  assert abs(1 - np.mean(result.accepted) - missed) < 4 * error
  assert np.all(HOLDS[result.sample] == result.accepted)
  assert np.all(np.array(result.trials)[~np.array(result.accepted)] == 2)
  never = draws(key, lambda x: False, 3)
  assert not np.any(never.accepted) and np.all(never.trials == 3)
  always = draws(key, lambda x: 1.0, 3)
  assert np.all(always.accepted) and np.all(always.trials == 1)


def test_rejection_of_sequences_as_trees(key):
  logits = sequences.random_table(key, 3, 4)

  def propose(key):
    tokens = sequences.sample_sequences(key, logits, 1)[0]
    return {
      "tokens": tokens,
      "log_prob": sequences.sequence_log_probs(logits, tokens),
    }

  def contains(sample):
    return jnp.any(sample["tokens"] == 2)

  def one(key):
    return guaranteed.rejection_sample(key, propose, contains, 100)

  keys = jax.random.split(key, 2)
  result = jax.vmap(one)(keys)
  assert np.all(jnp.any(result.sample["tokens"] == 2, -1))
  helpers.assert_close(
    result.sample["log_prob"],
    sequences.sequence_log_probs(logits, result.sample["tokens"]),
  )

  def of_arrays(key, logits):
    def propose(key):
      return jax.random.normal(key, logits.shape, logits.dtype) + logits

    return guaranteed.rejection_sample(key, propose, lambda x: x[0] > 0, 50)

  helpers.assert_transforms(
    of_arrays, keys, jnp.array([[0.1, 0.2], [0.3, 1.0]])
  )
  with pytest.raises(ValueError, match="max_trials must be above 0, was 0"):
    guaranteed.rejection_sample(key, propose, contains, 0)


# --- distributional policy gradient ------------------------------------------


def contains_two(vocab_size, length):
  tokens = sequences.enumerate_sequences(vocab_size, length)
  return tokens, jnp.any(tokens == 2, -1)


@pytest.mark.parametrize("off_policy", [False, True])
def test_dpg_gradient_is_that_of_kl_to_gold(key, off_policy):
  base, policy, other = (
    sequences.random_table(k, 3, 3) for k in jax.random.split(key, 3)
  )
  tokens, holds = contains_two(3, 3)
  log_base = sequences.sequence_log_probs(base, tokens)
  gold = guaranteed.gold_log_prob(log_base, holds)
  log_z = jnp.log(guaranteed.acceptance_rate(log_base, holds))
  sampling = other if off_policy else policy
  log_q = sequences.sequence_log_probs(sampling, tokens) if off_policy else None

  def loss(table):
    log_policy = sequences.sequence_log_probs(table, tokens)
    return guaranteed.dpg_surrogate(
      log_policy, log_base, holds, log_z, log_sampling=log_q
    )

  def expected_loss(table):
    return sequences.expectation(jax.lax.stop_gradient(sampling), loss(table))

  def distance(table):
    return categorical.kl(gold, sequences.sequence_log_probs(table, tokens))

  value, slope = jax.jit(jax.value_and_grad(expected_loss))(policy)
  exact, exact_slope = jax.jit(jax.value_and_grad(distance))(policy)
  helpers.assert_close(slope, exact_slope)
  entropy = -np.sum(np.exp(gold)[holds] * gold[holds])
  helpers.assert_close(value, exact + entropy)
  # The estimate of Z is unbiased, one sample at a time.
  log_sampling = sequences.sequence_log_probs(sampling, tokens)
  estimates = jnp.exp(
    guaranteed.log_partition_estimate(
      log_base[:, None], holds[:, None], log_sampling[:, None]
    )
  )
  helpers.assert_close(
    sequences.expectation(sampling, estimates), np.exp(log_z)
  )


def test_dpg_on_gold_samples_is_supervised_fine_tuning(key):
  log_base, log_policy = random_laws(key, 2, 8)
  holds = jnp.array(HOLDS)
  log_z = jnp.log(guaranteed.acceptance_rate(log_base, holds))
  # Every accepted sample has weight 1: the likelihood of what was accepted.
  log_gold = log_base - log_z
  loss = guaranteed.dpg_surrogate(
    log_policy, log_base, holds, jnp.full(8, log_z), log_sampling=log_gold
  )
  helpers.assert_close(loss, np.where(HOLDS, -log_policy, 0))


def test_dpg_training_improves_rate_and_closeness(key):
  base, policy = (
    2 * sequences.random_table(k, 3, 3) for k in jax.random.split(key, 2)
  )
  tokens, holds = contains_two(3, 3)
  log_base = sequences.sequence_log_probs(base, tokens)
  log_z = jnp.log(guaranteed.acceptance_rate(log_base, holds))

  def parts(table):
    log_policy = sequences.sequence_log_probs(table, tokens)
    return guaranteed.kl_decomposition(log_base, log_policy, holds)

  def step(table, _):
    def loss(table):
      log_policy = sequences.sequence_log_probs(table, tokens)
      losses = guaranteed.dpg_surrogate(log_policy, log_base, holds, log_z)
      return sequences.expectation(jax.lax.stop_gradient(table), losses)

    return table - jax.grad(loss)(table), parts(table)

  _, history = jax.jit(lambda table: jax.lax.scan(step, table, length=600))(
    policy
  )
  # Convex in the logits of each row, with step 1 below 2 / smoothness = 4.
  assert np.all(np.diff(history.proposal) < 0)
  assert history.proposal[0] > 1 and history.proposal[-1] < 0.02
  assert history.accepted[-1] < history.accepted[0]
  assert history.log_acceptance_rate[-1] > history.log_acceptance_rate[0]


def test_dpg_selects_and_differentiates(key):
  log_base, log_policy = random_laws(key, 2, 4)
  holds = jnp.array(HOLDS[:4])
  weights = jnp.exp(log_base - log_policy + 0.3)

  def loss(x):
    return guaranteed.dpg_surrogate(x, log_base, holds, -0.3)

  slope = jax.grad(lambda x: jnp.sum(loss(x)))(log_policy)
  helpers.assert_close(slope, np.where(holds, -weights, 0))
  with jax.debug_nans(True):
    rejected = log_policy.at[0].set(-jnp.inf)
    value, slope = jax.value_and_grad(lambda x: jnp.sum(loss(x)))(rejected)
    helpers.assert_close(value, jnp.sum(loss(log_policy)))
    assert slope[0] == 0
    impossible = guaranteed.dpg_surrogate(
      log_policy, jnp.full(4, -jnp.inf), holds, 0.0
    )
    assert np.all(impossible == 0)
    none = guaranteed.log_partition_estimate(
      log_base, jnp.zeros(4, bool), log_policy
    )
    assert none == -jnp.inf
  dirty = log_policy.at[0].set(jnp.nan)
  helpers.assert_close(loss(dirty), loss(log_policy))

  @jax.jit
  def estimate(x, y):
    return guaranteed.log_partition_estimate(x, holds, y)

  helpers.assert_close(
    estimate(log_base, log_policy),
    np.log(np.exp(log_base - log_policy)[holds].sum() / 4),
  )
  helpers.assert_gradient(estimate, log_base, log_policy)


# --- quasi-rejection ---------------------------------------------------------


def test_quasi_rejection_against_numpy(key):
  target, proposal = (np.exp(random_laws(key, 2, 8))) * [[0.7], [1.0]]
  bounds = np.geomspace(1e-6, 1e5, 60)
  result = jax.vmap(guaranteed.quasi_rejection, (None, None, 0))(
    jnp.log(target), jnp.log(proposal), jnp.log(bounds)
  )
  assert isinstance(result, guaranteed.QuasiRejection)
  accept = np.minimum(1, target / (bounds[:, None] * proposal))
  rate = (proposal * accept).sum(-1)
  kept = proposal * accept / rate[:, None]
  distance = np.abs(kept - target / target.sum()).sum(-1) / 2
  helpers.assert_close(np.exp(result.log_prob), kept)
  helpers.assert_close(result.acceptance_rate, rate)
  helpers.assert_close(result.total_variation, distance, atol=1e-14)
  assert np.all(np.diff(rate) <= 0)
  assert np.all(np.diff(result.total_variation) <= 1e-14)
  helpers.assert_close(
    guaranteed.quasi_rejection_accept_prob(
      jnp.log(target), jnp.log(proposal), jnp.log(bounds[30])
    ),
    accept[30],
  )
  # Exact once B bounds P / q, and not before; a small B returns the proposal.
  highest = np.max(target / proposal)
  exact = bounds >= highest
  assert np.all(result.total_variation[exact] < 1e-14) and exact.sum() > 5
  assert np.all(result.total_variation[~exact] > 1e-6)
  at_highest = guaranteed.quasi_rejection(
    jnp.log(target), jnp.log(proposal), np.log(highest)
  )
  assert at_highest.total_variation < 1e-14
  helpers.assert_close(at_highest.acceptance_rate, target.sum() / highest)
  assert bounds[0] < np.min(target / proposal)
  helpers.assert_close(np.exp(result.log_prob[0]), proposal)


def test_quasi_rejection_sampling_has_that_law(key):
  # An unnormalised target and a bound that it exceeds.
  log_target, log_bound = jnp.log(0.6 * BASE), np.log(1.2)
  expected = guaranteed.quasi_rejection(
    log_target, jnp.log(PROPOSAL), log_bound
  )
  assert expected.total_variation > 0.05
  accept = guaranteed.quasi_rejection_accept_prob(
    log_target, jnp.log(PROPOSAL), log_bound
  )
  result = draws(key, lambda x: accept[x], 1000)
  assert np.all(result.accepted)
  counts = np.bincount(result.sample, minlength=8)
  p_value = scipy.stats.chisquare(
    counts, DRAWS * np.exp(expected.log_prob)
  ).pvalue
  assert p_value > P_VALUE
  rate = expected.acceptance_rate
  error = np.sqrt(1 - rate) / rate / DRAWS**0.5
  assert abs(np.mean(result.trials) - 1 / rate) < 4 * error


def test_quasi_rejection_zeros():
  none = -jnp.inf
  log_target = jnp.array([0.0, 0.0, none, none])
  log_q = jnp.log(jnp.array([0.5, 0.0, 0.5, 0.0]))
  with jax.debug_nans(True):
    prob = guaranteed.quasi_rejection_accept_prob(log_target, log_q, 0.0)
    assert prob.tolist() == [1, 1, 0, 0]
    kept = guaranteed.quasi_rejection(log_target, log_q, 0.0)
    assert np.exp(kept.log_prob).tolist() == [1, 0, 0, 0]
    helpers.assert_close(kept.acceptance_rate, 0.5)
    helpers.assert_close(kept.total_variation, 0.5)
    slope = jax.grad(
      lambda x: guaranteed.quasi_rejection_accept_prob(x, log_q, 3.0)[2]
    )(log_target)
    assert np.all(slope == 0)
  apart = guaranteed.quasi_rejection(log_target[::-1], log_q - log_q[0], 0.0)
  assert apart.acceptance_rate == 0.5
  disjoint = guaranteed.quasi_rejection(
    jnp.array([0.0, none]), jnp.array([none, 0.0]), 0.0
  )
  assert disjoint.acceptance_rate == 0 and np.isnan(disjoint.total_variation)


def test_quasi_rejection_gradients(key):
  target, proposal = random_laws(key, 2, 4)

  @jax.jit
  def summary(x, y, log_bound):
    result = guaranteed.quasi_rejection(x, y, log_bound)
    return result.acceptance_rate + 2 * result.total_variation

  @jax.jit
  def accept(x, y, log_bound):
    prob = guaranteed.quasi_rejection_accept_prob(x, y, log_bound)
    return prob @ jnp.arange(1.0, 5.0)

  # Two of the four outcomes exceed the bound.
  log_bound = jnp.median(target - proposal)
  helpers.assert_gradient(summary, target, proposal, log_bound)
  helpers.assert_gradient(accept, target, proposal, log_bound)


# --- every function ----------------------------------------------------------


def test_transforms(key):
  base, proposal = (random_laws(k, 2, 6) for k in jax.random.split(key))
  holds = jnp.array([[True, False, True, True, False, True], [True] * 6])
  bound = jnp.array([0.1, 0.7])
  helpers.assert_transforms(guaranteed.gold_log_prob, base, holds)
  helpers.assert_transforms(guaranteed.acceptance_rate, proposal, holds)
  helpers.assert_transforms(guaranteed.kl_decomposition, base, proposal, holds)
  helpers.assert_transforms(
    guaranteed.log_partition_estimate, base, holds, proposal
  )
  helpers.assert_transforms(
    guaranteed.dpg_surrogate, proposal, base, holds, bound
  )
  helpers.assert_transforms(guaranteed.quasi_rejection, base, proposal, bound)
  helpers.assert_transforms(
    guaranteed.quasi_rejection_accept_prob, base, proposal, bound
  )
  # Bounds of a batch are one per row.
  helpers.assert_close(
    guaranteed.quasi_rejection(base, proposal, bound),
    jax.vmap(guaranteed.quasi_rejection)(base, proposal, bound),
  )


def test_wrong_arguments_are_refused():
  log_p, holds = jnp.zeros(3), jnp.ones(3, bool)
  with pytest.raises(AssertionError, match="need one shape: log_prob"):
    guaranteed.gold_log_prob(log_p, holds[:2])
  with pytest.raises(AssertionError):
    guaranteed.acceptance_rate(log_p, jnp.ones(3))
  with pytest.raises(AssertionError, match="need floats"):
    guaranteed.acceptance_rate(jnp.zeros(3, int), holds)
  with pytest.raises(AssertionError, match="need one shape: log_base"):
    guaranteed.kl_decomposition(log_p, log_p[:2], holds)
  with pytest.raises(AssertionError, match="need one shape: log_policy"):
    guaranteed.dpg_surrogate(log_p, log_p[:2], holds, 0.0)
  with pytest.raises(AssertionError, match="log_z"):
    guaranteed.dpg_surrogate(log_p, log_p, holds, jnp.zeros(2))
  with pytest.raises(AssertionError, match="need one shape: log_base"):
    guaranteed.log_partition_estimate(log_p, holds, log_p[:2])
  with pytest.raises(AssertionError, match="need one shape: log_target"):
    guaranteed.quasi_rejection(log_p, log_p[:2], 0.0)
  with pytest.raises(ValueError, match=r"log_bound must be .* shape \(\)"):
    guaranteed.quasi_rejection(log_p, log_p, jnp.zeros(2))
  with pytest.raises(ValueError, match=r"log_bound must be .* shape \(3,\)"):
    guaranteed.quasi_rejection_accept_prob(log_p, log_p, jnp.zeros(2))

# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxalign.divergences import categorical, kl_estimators
from jaxalign.exact import sequences
from tests import helpers

V, T = 3, 4
TOKENS = np.array(list(itertools.product(range(V), repeat=T)))


def by_hand(logits, tokens):
  """Token log-probabilities from a dictionary of prefixes, in Python."""
  log_probs = scipy.special.log_softmax(np.asarray(logits), -1)
  prefixes = [
    prefix for t in range(T) for prefix in itertools.product(range(V), repeat=t)
  ]
  row = {prefix: log_probs[i] for i, prefix in enumerate(prefixes)}
  return np.array(
    [
      [row[tuple(x[:t])][x[t]] for t in range(len(x))]
      for x in np.asarray(tokens).tolist()
    ]
  )


def test_rows_are_prefixes_by_length_then_lexicographic(key):
  assert sequences.num_prefixes(V, T) == 1 + 3 + 9 + 27
  assert sequences.num_prefixes(1, 5) == 5
  helpers.assert_close(sequences.enumerate_sequences(V, T), TOKENS)
  helpers.assert_close(sequences.enumerate_sequences(1, 2), np.zeros((1, 2)))
  rows = sequences.prefix_index(jnp.array(TOKENS), V)
  start = np.array([0, 1, 4, 13])
  prefixes = [
    ["0" + "".join(map(str, x[:t])) for t in range(T)] for x in TOKENS
  ]
  number = np.vectorize(lambda digits: int(digits, V))(prefixes)
  helpers.assert_close(rows, start + number)
  assert set(np.ravel(rows)) == set(range(sequences.num_prefixes(V, T)))
  logits = sequences.random_table(key, V, T)
  assert logits.shape == (40, V) and logits.dtype == jnp.float64
  # 120 standard normals: four standard errors of the mean and the variance.
  assert abs(np.mean(logits)) < 4 / 120**0.5
  assert abs(np.var(logits) - 1) < 4 * (2 / 120) ** 0.5


def test_log_probs_against_a_dictionary(key):
  logits = sequences.random_table(key, V, T).at[0, 1].set(-jnp.inf)
  tokens = sequences.enumerate_sequences(V, T)
  expected = by_hand(logits, tokens)
  value = sequences.token_log_probs(logits, tokens)
  helpers.assert_close(value, expected)
  conditional = sequences.conditional_log_probs(logits, tokens)
  assert conditional.shape == (V**T, T, V)
  chosen = np.take_along_axis(np.array(conditional), TOKENS[..., None], -1)
  helpers.assert_close(chosen[..., 0], expected)
  helpers.assert_close(np.exp(conditional).sum(-1), np.ones((V**T, T)))
  # Exactly the sequences that begin with token 1 are impossible.
  total = sequences.sequence_log_probs(logits, tokens)
  helpers.assert_close(total, expected.sum(-1))
  assert np.all((total == -jnp.inf) == (TOKENS[:, 0] == 1))
  assert abs(np.exp(total).sum() - 1) < 1e-14
  # Prefixes: their probability is the sum of that of their continuations.
  prefix = sequences.sequence_log_probs(logits, tokens[:: V**2, :2])
  summed = np.exp(total).reshape(V**2, -1).sum(-1)
  helpers.assert_close(np.exp(prefix), summed)


def test_expectation_is_the_sum(key):
  logits = sequences.random_table(key, V, T)
  tokens = sequences.enumerate_sequences(V, T)
  probs = np.exp(by_hand(logits, tokens).sum(-1))
  values = jax.random.normal(key, (V**T, 2))
  helpers.assert_close(sequences.expectation(logits, values), probs @ values)
  event = tokens.sum(-1) > 5
  helpers.assert_close(
    sequences.expectation(logits, event), probs[np.array(event)].sum()
  )


def test_expectation_ignores_what_cannot_happen(key):
  logits = sequences.random_table(key, 2, 2)
  safe = jnp.array([1.0, 2.0, 0.0, 0.0])
  for dirt in (jnp.nan, jnp.inf):
    values = safe.at[2:].set(dirt)
    impossible = logits.at[0, 1].set(-jnp.inf)
    with jax.debug_nans(not np.isnan(dirt)):
      value, slopes = jax.value_and_grad(sequences.expectation, (0, 1))(
        impossible, values
      )
    helpers.assert_close(value, sequences.expectation(impossible, safe))
    assert np.all(slopes[0][0] == 0) and np.all(np.isfinite(slopes[0]))
    assert np.all(slopes[1][2:] == 0)
  assert sequences.expectation(logits, safe.at[3].set(jnp.inf)) == jnp.inf


def test_gradients_with_respect_to_the_table(key):
  first, second = jax.random.split(key)
  logits = sequences.random_table(first, V, 2)
  tokens = sequences.enumerate_sequences(V, 2)
  weights = jax.random.normal(second, (V**2, 2, V))

  @jax.jit
  def conditional(x):
    log_probs = sequences.conditional_log_probs(x, tokens)
    return jnp.sum(weights * log_probs**2)

  @jax.jit
  def token(x):
    return jnp.sum(weights[..., 0] * sequences.token_log_probs(x, tokens))

  @jax.jit
  def sequence(x):
    return sequences.sequence_log_probs(x, tokens) @ weights[:, 0, 0]

  helpers.assert_gradient(conditional, logits)
  helpers.assert_gradient(token, logits)
  helpers.assert_gradient(sequence, logits)
  helpers.assert_gradient(
    jax.jit(sequences.expectation), logits, weights[:, 0, 0]
  )


def test_score_function_identities(key):
  keys = jax.random.split(key, 2)
  logits = sequences.random_table(keys[0], V, T)
  ref = sequences.random_table(keys[1], V, T)
  tokens = sequences.enumerate_sequences(V, T)
  score = jax.jacobian(sequences.sequence_log_probs)(logits, tokens)
  # E[score] = 0, and E[score f] is the gradient of E[f].
  helpers.assert_close(
    sequences.expectation(logits, score), np.zeros(logits.shape), atol=1e-15
  )
  reward = jnp.sum(tokens**2, -1) * 1.0
  helpers.assert_close(
    sequences.expectation(logits, score * reward[:, None, None]),
    jax.grad(sequences.expectation)(logits, reward),
  )
  # The chain rule of KL: sequences, and the sum of next-token divergences.
  whole = categorical.kl(
    sequences.sequence_log_probs(logits, tokens),
    sequences.sequence_log_probs(ref, tokens),
  )
  steps = categorical.kl(
    sequences.conditional_log_probs(logits, tokens),
    sequences.conditional_log_probs(ref, tokens),
  )
  helpers.assert_close(sequences.expectation(logits, steps.sum(-1)), whole)


def test_an_estimator_is_proved_by_enumeration(key):
  keys = jax.random.split(key, 2)
  logits, ref = (sequences.random_table(k, V, 2) for k in keys)
  tokens = sequences.enumerate_sequences(V, 2)

  def loss(x, tokens):
    return kl_estimators.kl_penalty_loss(
      sequences.sequence_log_probs(x, tokens),
      sequences.sequence_log_probs(ref, tokens),
    )

  gradients = jax.vmap(jax.grad(loss), (None, 0))(logits, tokens)
  exact = jax.grad(
    lambda x: categorical.kl(
      *(sequences.sequence_log_probs(y, tokens) for y in (x, ref))
    )
  )(logits)
  helpers.assert_close(sequences.expectation(logits, gradients), exact)


def test_what_follows_eos_is_summed_out(key):
  logits = sequences.random_table(key, V, T)
  tokens = sequences.enumerate_sequences(V, T)
  keep = sequences.until_eos(tokens)
  log_probs = sequences.token_log_probs(logits, tokens)
  log_p = np.where(keep, log_probs, 0).sum(-1)
  texts = [tuple(x[k]) for x, k in zip(TOKENS, np.array(keep), strict=True)]
  law = {text: np.exp(lp) for text, lp in zip(texts, log_p, strict=True)}
  # Stops at length 1, 2, 3 or 4, or never: 1 + 2 + 4 + 8 + 16 texts.
  assert len(law) == 31 and abs(sum(law.values()) - 1) < 1e-14
  length = jnp.sum(keep, -1)
  helpers.assert_close(
    sequences.expectation(logits, length),
    sum(p * len(text) for text, p in law.items()),
  )


def test_regularized_table_is_the_tilted_law(key):
  first, second = jax.random.split(key)
  logits = sequences.random_table(first, V, T)
  rewards = jax.random.normal(second, (V**T,))
  rewards = rewards.at[5].set(-jnp.inf)  # a sequence that is forbidden
  tokens, beta = sequences.enumerate_sequences(V, T), 0.3
  table = jax.jit(sequences.regularized_table)(logits, rewards, beta)
  tilted = sequences.sequence_log_probs(logits, tokens) + rewards / beta
  expected = tilted - scipy.special.logsumexp(tilted)
  actual = sequences.sequence_log_probs(table, tokens)
  helpers.assert_close(actual, expected, rtol=1e-13)
  helpers.assert_close(jnp.exp(table).sum(-1), np.ones(len(table)))
  # The optimum's derivative in the rewards is a covariance, hence symmetric.
  jacobian = jax.jit(
    jax.jacobian(
      lambda r: jnp.exp(
        sequences.sequence_log_probs(
          sequences.regularized_table(logits[:4], r, beta), tokens[:9, 2:]
        )
      )
    )
  )(rewards[9:18])
  helpers.assert_close(jacobian, jacobian.T, atol=1e-13)
  assert np.diag(jacobian).min() > 0


def test_regularized_table_refuses_other_rewards():
  with pytest.raises(ValueError, match=r"rewards \(8,\) need one entry.*9"):
    sequences.regularized_table(jnp.zeros((4, 3)), jnp.zeros(8), 1.0)
  with pytest.raises(AssertionError, match="need integers: tokens"):
    sequences.until_eos(jnp.zeros(3))


def test_groups_are_sequences_of_samples(key):
  # All groups of G = 2 out of N = 4: the product law, and a variance by pairs.
  logits = sequences.random_table(key, 2, 2)
  log_p = sequences.sequence_log_probs(
    logits, sequences.enumerate_sequences(2, 2)
  )
  groups = sequences.enumerate_sequences(4, 2)
  reward = jnp.array([1.0, -2.0, 0.5, 3.0])
  weight = jnp.exp(log_p[groups].sum(-1))
  half_square = (reward[groups[:, 0]] - reward[groups[:, 1]]) ** 2 / 2
  mean = sequences.expectation(logits, reward)
  helpers.assert_close(
    weight @ half_square, sequences.expectation(logits, (reward - mean) ** 2)
  )


def test_samples_have_the_law_of_the_table(key):
  logits = sequences.random_table(key, V, T).at[0, 1].set(-jnp.inf)
  tokens = sequences.sample_sequences(
    jax.random.fold_in(key, 1), logits, 20_000
  )
  assert tokens.dtype == jnp.int32 and tokens.shape == (20_000, T)
  counts = np.bincount(tokens @ V ** np.arange(T)[::-1], minlength=V**T)
  probs = np.exp(by_hand(logits, TOKENS).sum(-1))
  assert np.all(counts[probs == 0] == 0)
  live = probs > 0
  # A fixed key: the test is right but for one draw in a thousand of it.
  p_value = scipy.stats.chisquare(counts[live], 20_000 * probs[live]).pvalue
  assert p_value > 1e-3


def test_transforms(key):
  keys = jax.random.split(key, 2)
  logits = jnp.stack([sequences.random_table(k, V, 2) for k in keys])
  tokens = jnp.stack([jnp.array(TOKENS[:9, 2:]), jnp.array(TOKENS[9:18, 1:3])])
  helpers.assert_transforms(sequences.conditional_log_probs, logits, tokens)
  helpers.assert_transforms(sequences.token_log_probs, logits, tokens)
  helpers.assert_transforms(sequences.sequence_log_probs, logits, tokens)
  helpers.assert_transforms(lambda x: sequences.prefix_index(x, V), tokens)
  helpers.assert_transforms(sequences.until_eos, tokens)
  values = jax.random.normal(key, (2, 9))
  helpers.assert_transforms(
    lambda x, r: sequences.regularized_table(x, r, 0.5), logits, values
  )
  helpers.assert_transforms(sequences.expectation, logits, values)
  helpers.assert_transforms(
    lambda k, x: sequences.sample_sequences(k, x, 5),
    keys,
    logits,
  )
  helpers.assert_close(
    jax.vmap(lambda k: sequences.random_table(k, V, 2))(keys), logits
  )


def test_relabelling_tokens_permutes_the_law(key):
  logits = sequences.random_table(key, V, 2)
  swap = np.array([2, 0, 1])
  tokens = sequences.enumerate_sequences(V, 2)
  # Row 1 + x holds what follows x, so it moves with x; columns always move.
  moved = jnp.zeros_like(logits)
  moved = moved.at[0, swap].set(logits[0])
  moved = moved.at[1 + swap[:, None], swap].set(logits[1:])
  helpers.assert_close(
    sequences.sequence_log_probs(moved, jnp.array(swap)[tokens]),
    sequences.sequence_log_probs(logits, tokens),
  )


def test_what_is_too_large_or_no_table_is_refused(key):
  assert sequences.MAX_SIZE == 2**20
  assert sequences.num_prefixes(2, 20) == 2**20 - 1
  with pytest.raises(ValueError, match="2097152 sequences.*limit is 1048576"):
    sequences.enumerate_sequences(2, 21)
  with pytest.raises(ValueError, match=r"about 10\^4699 sequences"):
    sequences.enumerate_sequences(50_000, 1000)
  with pytest.raises(ValueError, match="2097151 prefixes.*limit is 1048576"):
    sequences.random_table(key, 2, 21)
  with pytest.raises(ValueError, match="length must be at least 1, was 0"):
    sequences.num_prefixes(3, 0)
  with pytest.raises(ValueError, match="vocab_size must be at least 1, was 0"):
    sequences.enumerate_sequences(0, 3)
  with pytest.raises(ValueError, match="logits has 5 rows"):
    sequences.expectation(jnp.zeros((5, 3)), jnp.zeros(27))
  with pytest.raises(ValueError, match="logits has 0 rows"):
    sequences.sample_sequences(key, jnp.zeros((0, 3)), 1)
  with pytest.raises(ValueError, match="longer than the table's sequences, 2"):
    sequences.token_log_probs(jnp.zeros((4, 3)), jnp.zeros(3, int))
  with pytest.raises(ValueError, match=r"values \(8,\).*9 sequences"):
    sequences.expectation(jnp.zeros((4, 3)), jnp.zeros(8))
  with pytest.raises(AssertionError, match="need rank 2: logits"):
    sequences.expectation(jnp.zeros(3), jnp.zeros(3))
  with pytest.raises(AssertionError):
    sequences.prefix_index(jnp.zeros(3), 2)

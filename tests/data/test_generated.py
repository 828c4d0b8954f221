# SPDX-License-Identifier: Apache-2.0
"""The generated world: dynamic programming against enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import data, divergences, exact
from tests import helpers

V, L = 4, 3
WORDS = exact.enumerate_sequences(V, L)
ARRAYS = ("log_probs", "letter_rewards", "bigram_rewards")


@pytest.fixture(scope="module")
def world():
  """Every letter and every two of them rewarded; one is never drawn."""
  rng = np.random.default_rng(0)
  return data.WordWorld(
    letters="xyzw",
    length=L,
    log_probs=np.array([*np.log([0.5, 0.2, 0.3]), -np.inf]),
    letter_rewards=rng.normal(size=V),
    bigram_rewards=rng.normal(size=(V, V)),
  )


def arrays(world):
  return [np.asarray(getattr(world, name)) for name in ARRAYS]


def with_arrays(world, values):
  return world._replace(**dict(zip(ARRAYS, values, strict=True)))


def test_rewards_by_hand():
  world = data.word_world(5)
  expected = {"aaaaa": 0, "ababa": 2, "bacab": 1, "ddabd": 2.5}
  for text, reward in expected.items():
    tokens = jnp.array([world.letters.index(letter) for letter in text])
    assert data.word_rewards(world, tokens) == reward
    assert data.word_texts(world, tokens[None]) == [text]
    log_prob = sum(np.log([0.4, 0.3, 0.2, 0.1])[tokens])
    np.testing.assert_allclose(data.word_log_probs(world, tokens), log_prob)


def test_reference_is_a_law(world):
  log_probs = data.word_log_probs(world, WORDS)
  # 1e-12: rounding of 64 terms.
  helpers.assert_close(jnp.exp(log_probs).sum(), 1)


@pytest.mark.parametrize("beta", [0.1, 0.7, 5.0])
def test_optimum_is_that_of_enumeration(world, beta):
  optimum = data.word_optimum(world, beta)
  rewards = data.word_rewards(world, WORDS)
  ref = data.word_log_probs(world, WORDS)
  log_partition = jax.nn.logsumexp(ref + rewards / beta)
  policy = ref + rewards / beta - log_partition
  values = data.word_values(world, policy)
  helpers.assert_close(optimum.log_partition, log_partition)
  helpers.assert_close(optimum.reward, values.reward)
  # 1e-8: at beta = 5 the two terms of tau A' - A agree in two digits.
  helpers.assert_close(optimum.kl, values.kl, rtol=1e-8)
  helpers.assert_close(values.log_mass, 0.0)
  # No policy does better: the value is beta log Z, any other one's is less.
  value = optimum.reward - beta * optimum.kl
  helpers.assert_close(value, beta * log_partition)
  noise = np.random.default_rng(1).normal(size=(8, V**L))
  others = data.word_values(world, policy + 0.1 * noise)
  assert (others.reward - beta * others.kl < value).all()


def test_optimum_is_that_of_soft_values():
  """An oracle that shares no code: the table of the regularised optimum."""
  world = data.word_world(L)
  rows = exact.num_prefixes(V, L)
  ref = jnp.tile(world.log_probs, (rows, 1))
  rewards = data.word_rewards(world, WORDS)
  table = exact.regularized_table(ref, rewards, 0.5)
  optimum = data.word_optimum(world, 0.5)
  helpers.assert_close(optimum.reward, exact.expectation(table, rewards))
  log_policy = exact.sequence_log_probs(table, WORDS)
  helpers.assert_close(
    optimum.kl, divergences.kl(log_policy, data.word_log_probs(world, WORDS))
  )


def test_optimum_at_an_infinite_price_is_the_reference(world):
  optimum = data.word_optimum(world, jnp.inf)
  values = data.word_values(world, data.word_log_probs(world, WORDS))
  helpers.assert_close(optimum.reward, values.reward)
  np.testing.assert_allclose([optimum.kl, values.kl], 0, atol=1e-15)


def test_optimum_at_a_small_price_is_the_best_word(world):
  values = jnp.where(
    jnp.isfinite(data.word_log_probs(world, WORDS)),
    data.word_rewards(world, WORDS),
    -jnp.inf,
  )
  optimum = data.word_optimum(world, 1e-3)
  helpers.assert_close(optimum.reward, values.max())
  ref = data.word_log_probs(world, WORDS[values.argmax()])
  helpers.assert_close(optimum.kl, -ref, rtol=1e-8)


def test_gradients():
  world = data.word_world(L)

  def value(*args):
    optimum = data.word_optimum(with_arrays(world, args[:3]), args[3])
    return optimum.reward - 0.3 * optimum.kl

  helpers.assert_gradient(value, *arrays(world), np.array(0.6))

  def worth(log_probs):
    values = data.word_values(world, log_probs)
    return values.reward - 0.3 * values.kl + values.log_mass

  noise = np.random.default_rng(2).normal(size=V**L)
  helpers.assert_gradient(worth, noise)


def test_transforms(world):
  def everything(log_probs, letter_rewards, bigram_rewards, beta, policy):
    own = with_arrays(world, (log_probs, letter_rewards, bigram_rewards))
    return (
      data.word_optimum(own, beta),
      data.word_values(own, policy),
      data.word_rewards(own, WORDS),
      data.word_log_probs(own, WORDS),
    )

  rng = np.random.default_rng(3)
  two = [np.stack([x, 0.5 * x]) for x in arrays(world)]
  helpers.assert_transforms(
    everything, *two, np.array([0.5, 2.0]), rng.normal(size=(2, V**L))
  )


def test_what_is_no_word_is_left_out(world):
  policy = data.word_log_probs(world, WORDS)
  whole = data.word_values(world, policy)
  part = data.word_values(world, policy + jnp.log(0.25))
  helpers.assert_close(part[:2], whole[:2])
  helpers.assert_close(part.log_mass, jnp.log(0.25))
  # Mass on a word that the reference never writes costs everything.
  assert data.word_values(world, jnp.zeros(V**L)).kl == np.inf


def test_bad_arguments(world, key):
  for beta in (0, -1.0):
    with pytest.raises(ValueError, match="beta must be above 0, was"):
      data.word_optimum(world, beta)
  with pytest.raises(AssertionError, match=r"need rank 0: beta \(2,\)"):
    data.word_optimum(world, np.ones(2))
  with pytest.raises(ValueError, match=r"\(63,\) need one entry for each of"):
    data.word_values(world, np.zeros(63))
  with pytest.raises(ValueError, match="length must be at least 1, was 0"):
    data.word_world(0)
  with pytest.raises(ValueError, match="num_pairs must be at least 1, was 0"):
    data.word_preferences(key, world, 0)
  lone = world._replace(log_probs=np.array([0.0, *[-np.inf] * 3]))
  with pytest.raises(ValueError, match="two letters of a probability above 0"):
    data.word_preferences(key, lone, 1)


def test_pairs_follow_their_law_and_pass_through_the_reader(tmp_path, key):
  """Of all 240 ordered pairs of two-letter words."""
  world = data.word_world(2)
  records = data.word_preferences(key, world, 20_000)
  path = tmp_path / "words.jsonl.gz"
  data.write_preferences(path, records)
  assert data.read_preferences(path).records == records
  assert data.word_preferences(key, world, 20_000) == records
  words = exact.enumerate_sequences(V, 2)
  place = {text: i for i, text in enumerate(data.word_texts(world, words))}
  counts = np.zeros((16, 16))
  for record in records:
    counts[place[record.chosen], place[record.rejected]] += 1
  probs = _pair_law(world, words)
  assert (
    abs(probs.sum() - 1) < 1e-12 and not counts[np.eye(16, dtype=bool)].any()
  )
  errors = np.sqrt(20_000 * probs * (1 - probs)) + np.eye(16)
  # Five standard errors: one seed in seven thousand fails for 240 of them.
  assert (np.abs(counts - 20_000 * probs) < 5 * errors + 1).all()


def _pair_law(world, words):
  """`P(chosen, rejected)` of two different draws and a Bradley-Terry label."""
  probs = np.exp(data.word_log_probs(world, words))
  rewards = np.asarray(data.word_rewards(world, words))
  joint = 2 * np.outer(probs, probs) / (1 - (probs**2).sum())
  joint /= 1 + np.exp(rewards - rewards[:, None])
  return joint * (1 - np.eye(len(words)))


def test_the_pairs_point_at_the_optimum():
  """Over all pairs, each as often as it is drawn, DPO is stationary there."""
  world, beta = data.word_world(2), 0.4
  words = exact.enumerate_sequences(V, 2)
  law = _pair_law(world, words)
  ref = data.word_log_probs(world, words)

  @jax.jit
  def dpo(log_policy):
    scores = beta * (log_policy - ref)
    margins = scores[:, None] - scores
    return -jnp.sum(law * jax.nn.log_sigmoid(margins))

  optimum = ref + data.word_rewards(world, words) / beta
  np.testing.assert_allclose(jax.grad(dpo)(optimum), 0, atol=1e-15)
  assert np.abs(jax.grad(dpo)(ref)).max() > 1e-3

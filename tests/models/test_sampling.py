# SPDX-License-Identifier: Apache-2.0

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.models import sampling, transformer
from tests import helpers

VOCABULARY = 4
CONFIG = transformer.TransformerConfig(
  vocab_size=VOCABULARY,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
)
MODEL = transformer.Transformer(CONFIG)
PROMPTS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 3))
STOP = 2
# Of float32 sums in another order.
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def params():
  params = jax.jit(MODEL.init)(jax.random.key(0), PROMPTS)["params"]
  # Far from uniform, or frequencies would tell little.
  return jax.tree.map(lambda x: 2 * x, params)


@functools.partial(jax.jit, static_argnames="options")
def _log_probs(params, tokens, options):
  logits = MODEL.apply({"params": params}, tokens) @ transformer.head(params)
  return sampling.sampling_log_probs(logits, **dict(options))


def log_probs(params, tokens, **options):
  """Of the next token at every position, without a cache: `[B, T, V]`."""
  options = tuple(options.items())
  return np.asarray(_log_probs(params, tokens, options))


def of_completions(params, prompts, completions, **options):
  """Log-probabilities `[B, N]` of completions of prompts of one length."""
  tokens = np.concatenate([prompts, completions], 1)
  found = log_probs(params, tokens, **options)[:, prompts.shape[1] - 1 : -1]
  return np.take_along_axis(found, completions[..., None], -1)[..., 0]


def draw(params, key, prompts=PROMPTS, where=None, **options):
  where = np.ones(prompts.shape, bool) if where is None else where
  options = {"max_new_tokens": 4} | options
  found = sampling.sample(key, MODEL, params, prompts, where=where, **options)
  return jax.tree.map(np.asarray, found)


# --- the cache ---------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_cache_changes_nothing(params, side):
  tokens = np.random.default_rng(1).integers(0, VOCABULARY, (2, 7))
  where = np.ones((2, 7), bool)
  where[1, :2] = where[1, 3] = False
  if side == "right":
    where[1, :4] = [True, True, False, False]
  apply = jax.jit(MODEL.apply, static_argnames="method")
  expected = apply({"params": params}, tokens, where=where)
  cache = transformer.init_cache(CONFIG, batch_size=2, num_slots=9)
  found = []
  for start, stop in ((0, 4), (4, 5), (5, 7)):
    part, cache = apply(
      {"params": params},
      tokens[:, start:stop],
      where[:, start:stop],
      cache,
      method="extend",
    )
    found.append(part)
  np.testing.assert_allclose(np.concatenate(found, 1), expected, **CLOSE)
  assert cache.length == 7
  assert np.array_equal(cache.where[:, :7], where)


# --- the distribution --------------------------------------------------------


def test_truncation_by_hand():
  logits = np.log([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]])
  inf = np.inf

  def kept(**options):
    return np.exp(sampling.sampling_log_probs(logits, **options))

  def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-12)

  close(kept(), np.exp(logits))
  close(kept(top_k=9), np.exp(logits))
  close(kept(top_p=1.0), np.exp(logits))
  close(kept(top_k=2), [[0, 4 / 7, 0, 3 / 7], [0.5, 0.5, 0, 0]])
  # The token with which the sum reaches the limit belongs to the set.
  close(kept(top_p=0.6), [[0, 4 / 7, 0, 3 / 7], [1 / 3, 1 / 3, 1 / 3, 0]])
  close(kept(top_p=0.4 - 1e-9), [[0, 1, 0, 0], [0.5, 0.5, 0, 0]])
  # Exactly the limit is enough.
  close(np.exp(sampling.sampling_log_probs(np.zeros(2), top_p=0.5)), [1, 0])
  # First top_k, of which 4/7 is then the share of the first.
  close(kept(top_k=2, top_p=0.5)[0], [0, 1, 0, 0])
  close(kept(temperature=0.5)[0], np.array([1, 16, 4, 9]) / 30)
  close(kept(temperature=0.5, top_k=2)[0], np.array([0, 16, 0, 9]) / 25)
  close(kept(temperature=0.0), [[0, 1, 0, 0], [1, 0, 0, 0]])
  never = np.array([0.0, -inf, 1.0])
  found = sampling.sampling_log_probs(never, top_k=3, top_p=0.999)
  assert found[1] == -inf and np.isfinite(found[::2]).all()


@pytest.mark.parametrize(
  "options",
  [
    {"top_k": 3},
    {"top_p": 0.7},
    {"temperature": 0.3, "top_k": 5, "top_p": 0.9},
  ],
  ids=str,
)
def test_truncation_against_sorting(options):
  logits = np.random.default_rng(2).normal(size=(20, 9))
  found = np.asarray(sampling.sampling_log_probs(logits, **options))
  for row, result in zip(logits, found, strict=True):
    p = np.exp(row / options.get("temperature", 1.0))
    kept = sorted(range(9), key=lambda i: -p[i])[: options.get("top_k", 9)]
    shares = p[kept] / p[kept].sum()
    fewest = 1 + np.argmax(np.cumsum(shares) >= options.get("top_p", 1.0))
    if "top_p" in options:
      kept = kept[:fewest]
    expected = np.full(9, -np.inf)
    expected[kept] = np.log(p[kept] / p[kept].sum())
    np.testing.assert_allclose(result, expected, rtol=1e-10)


def test_truncation_transforms():
  logits = np.random.default_rng(3).normal(size=(2, 3, 9))
  helpers.assert_transforms(
    lambda x: sampling.sampling_log_probs(x, top_k=5, top_p=0.8), logits
  )


# --- samples -----------------------------------------------------------------


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"temperature": 0.7, "top_k": 3, "top_p": 0.9},
  ],
  ids=str,
)
def test_frequencies_are_the_enumerated_probabilities(params, key, options):
  n, rows = 2, 20_000
  prompts = np.repeat(PROMPTS[:1], rows, 0)
  found = draw(params, key, prompts, max_new_tokens=n, **options)
  every = np.array(list(itertools.product(range(VOCABULARY), repeat=n)))
  terms = of_completions(
    params, np.repeat(PROMPTS[:1], len(every), 0), every, **options
  )
  # Of a completion with an impossible token the rest does not count.
  probs = np.exp(np.where(np.isneginf(terms).any(1), -np.inf, terms.sum(1)))
  np.testing.assert_allclose(probs.sum(), 1, rtol=1e-5)
  index = found.tokens @ VOCABULARY ** np.arange(n)[::-1]
  counts = np.bincount(index, minlength=len(every))
  assert np.all(counts[probs == 0] == 0)
  # Five standard errors of the frequency of each.
  error = np.sqrt(probs * (1 - probs) / rows)
  assert np.all(np.abs(counts / rows - probs) <= 5 * error + 1e-9)
  assert found.where.all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_log_probs_are_those_of_the_whole_sequence(params, key, side):
  options = {"temperature": 0.7, "top_k": 3, "top_p": 0.9}
  prompts = np.tile(PROMPTS, (8, 1))
  sides = ((0, 0), (2, 0) if side == "left" else (0, 2))
  padded = np.pad(prompts, sides, constant_values=-1)
  found = draw(params, key, padded, padded >= 0, stop_ids=(STOP,), **options)
  for values, distribution in (
    (found.log_probs, options),
    (found.policy_log_probs, {}),
  ):
    expected = of_completions(params, prompts, found.tokens, **distribution)
    expected = np.where(found.where, expected, 0)
    np.testing.assert_allclose(values, expected, **CLOSE)
    assert values.dtype == np.float32
  # Up to the first stop id and no further.
  before = np.cumsum(found.tokens == STOP, 1) - (found.tokens == STOP)
  ended = np.cumsum(~found.where, 1) > 0
  assert np.array_equal(found.where, before == 0) and ended.any()
  assert np.all(found.tokens[~found.where] == 0)


def test_greedy_takes_the_most_probable(params, key):
  found = draw(params, key, temperature=0.0)
  tokens = np.concatenate([PROMPTS, found.tokens], 1)
  best = log_probs(params, tokens).argmax(-1)
  assert np.array_equal(found.tokens, best[:, 2:-1])
  assert np.all(found.log_probs == 0) and np.all(found.policy_log_probs < 0)
  again = draw(params, jax.random.key(7), temperature=0.0)
  helpers.assert_close(again, found)


def test_the_loop_ends_with_the_last_row(params, key):
  calls = []

  class Counting(transformer.Transformer):
    def extend(self, *args):
      jax.debug.callback(lambda: calls.append(1))
      return super().extend(*args)

  where = np.ones(PROMPTS.shape, bool)
  for stop_ids, most, count in ((range(VOCABULARY), 4, 1), ((), 2, 2)):
    calls.clear()
    found = sampling.sample(
      key,
      Counting(CONFIG),
      params,
      PROMPTS,
      where=where,
      max_new_tokens=most,
      stop_ids=tuple(stop_ids),
    )
    jax.effects_barrier()
    assert len(calls) == count
    assert np.array_equal(found.where.sum(1), [count, count])


def test_one_token(params, key):
  one = draw(params, key, max_new_tokens=1)
  assert one.tokens.shape == (2, 1) and one.where.all()


def test_sample_transforms(params):
  keys = jax.random.split(jax.random.key(0), 2)
  where = np.ones(PROMPTS.shape, bool)

  def fn(key):
    return sampling.sample(
      key,
      MODEL,
      params,
      PROMPTS,
      where=where,
      max_new_tokens=3,
      stop_ids=(STOP,),
    )

  helpers.assert_transforms(fn, keys, **CLOSE)


def test_bad_input(params, key):
  for options, message in (
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, was 0"),
    ({"temperature": -1.0}, "temperature must be at least 0, was -1.0"),
    ({"top_k": 0}, "top_k must be at least 1 or None, was 0"),
    ({"top_p": 0.0}, r"top_p must be in \(0, 1\] or None, was 0.0"),
  ):
    with pytest.raises(ValueError, match=message):
      draw(params, key, **options)
  with pytest.raises(AssertionError, match=r"prompts \(2, 3\), where \(2, 2\)"):
    draw(params, key, where=np.ones((2, 2), bool))
  with pytest.raises(AssertionError, match="need rank 2"):
    draw(params, key, PROMPTS[0])
  both_ways = transformer.Transformer(
    transformer.TransformerConfig.named("tiny", causal=False)
  )
  with pytest.raises(ValueError, match="only a causal model can be extended"):
    sampling.sample(
      key,
      both_ways,
      {"embed": {"embedding": jnp.zeros((264, 128))}},
      PROMPTS,
      where=PROMPTS >= 0,
      max_new_tokens=1,
    )

# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.models import transformer
from tests import helpers

CONFIG = transformer.TransformerConfig(
  vocab_size=11,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  mlp_width=24,
  qk_norm=True,
  qkv_bias=True,
)
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 5))
# Of float32 sums in another order; hidden states are of size 1.
CLOSE = {"rtol": 0, "atol": 1e-5}


def make(**changes):
  return transformer.Transformer(dataclasses.replace(CONFIG, **changes))


@pytest.fixture(scope="module")
def params():
  params = jax.jit(make(tied=False).init)(jax.random.key(0), TOKENS)["params"]
  keys = iter(jax.random.split(jax.random.key(1), 99))
  # Scales and biases too, which start at 1 and 0.
  return jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape, x.dtype), params
  )


@functools.partial(jax.jit, static_argnames="changes")
def _hidden(params, tokens, where, changes):
  model = make(tied=False, **dict(changes))
  return model.apply({"params": params}, tokens, where=where)


def hidden(params, tokens, where=None, **changes):
  where = np.ones(np.shape(tokens), bool) if where is None else where
  return _hidden(params, tokens, where, tuple(changes.items()))


def pad(tokens, left, right, filling):
  """Tokens between padding, and the mask of them."""
  sides = ((0, 0), (left, right))
  where = np.pad(np.ones(tokens.shape, bool), sides)
  return np.pad(tokens, sides, constant_values=filling), where


@pytest.mark.parametrize("causal", [True, False])
def test_who_sees_whom(params, causal):
  changed = TOKENS.copy()
  changed[:, 3] = (changed[:, 3] + 1) % 11
  before = hidden(params, TOKENS, causal=causal)
  moved = np.abs(hidden(params, changed, causal=causal) - before).max((0, 2))
  assert np.all((moved > 1e-3) == (np.arange(5) >= (3 if causal else 0)))
  if causal:
    assert np.all(moved[:3] == 0)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_on_either_side_changes_nothing(params, causal):
  expected = hidden(params, TOKENS, causal=causal)
  # Also ids that are none.
  for left, right, filling in ((3, 0, 7), (0, 3, -1), (1, 2, 10**6)):
    tokens, where = pad(TOKENS, left, right, filling)
    found = np.asarray(hidden(params, tokens, where, causal=causal))
    np.testing.assert_allclose(
      found[where].reshape(expected.shape), expected, **CLOSE
    )
    assert np.all(found[~where] == 0)


def test_a_row_of_padding_and_gaps_are_finite(params):
  tokens, where = np.stack([TOKENS[0], TOKENS[0]]), np.ones((2, 5), bool)
  where[0], where[1, [0, 2]] = False, False
  found = np.asarray(hidden(params, tokens, where))
  alone = hidden(params, TOKENS[:1, [1, 3, 4]])
  assert np.all(found[0] == 0)
  np.testing.assert_allclose(found[1, [1, 3, 4]], alone[0], **CLOSE)


def loss_and_gradient(params, tokens, **changes):
  model = make(tied=False, **changes)

  def loss(params):
    h = model.apply({"params": params}, tokens)
    logits = h @ transformer.head(params)
    return jnp.mean(jax.nn.logsumexp(logits, -1)), logits

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.fixture(scope="module")
def scanned(params):
  with jax.enable_x64(True):
    return loss_and_gradient(params, TOKENS)


@pytest.mark.parametrize(
  "changes",
  [
    {"scan_layers": False},
    {"remat": "full"},
    {"remat": "dots"},
    {"remat": "full", "scan_layers": False},
  ],
  ids=str,
)
def test_how_layers_run_changes_nothing(params, scanned, changes):
  found = loss_and_gradient(params, TOKENS, **changes)
  helpers.assert_close(found, scanned, **CLOSE)


def test_how_layers_run_changes_the_program(params):
  def text(**changes):
    model = make(tied=False, **changes)

    def loss(params):
      return jnp.sum(model.apply({"params": params}, TOKENS))

    return str(jax.make_jaxpr(jax.grad(loss))(params))

  plain, full, dots = (text(remat=r) for r in ("none", "full", "dots"))
  assert "remat" not in plain and "remat" in full and full != dots
  assert "prevent_cse=False" in full
  assert "prevent_cse=True" in text(remat="full", scan_layers=False)
  model, tokens = make(scan_layers=False), jnp.array(TOKENS)
  lowered = jax.jit(model.apply).lower({"params": params}, tokens)
  assert "stablehlo.while" not in lowered.as_text()


def test_bfloat16_is_close_and_sums_in_float32(params):
  found = hidden(params, TOKENS, dtype="bfloat16")
  assert found.dtype == jnp.bfloat16
  # Three digits are kept, by each of some twenty operations.
  np.testing.assert_allclose(
    found.astype(np.float32), hidden(params, TOKENS), atol=0.1
  )
  # A mean square of 256 entries of bfloat16 would stop counting at 256.
  norm = transformer._norm(dataclasses.replace(CONFIG, dtype="bfloat16"))
  x = jnp.ones((1, 4096), jnp.bfloat16)
  np.testing.assert_allclose(norm.init_with_output(jax.random.key(0), x)[0], 1)


def test_transforms(params):
  tokens = np.stack([TOKENS, TOKENS[::-1]])
  where = np.random.default_rng(1).random(tokens.shape) < 0.7
  helpers.assert_transforms(
    lambda tokens, where: hidden(params, tokens, where), tokens, where, **CLOSE
  )


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("tiny", 0.5e6),
    ("small", 4.3e6),
    ("qwen3-0.6b", 596_049_920),
    ("llama3-8b", 8_030_261_248),
  ],
)
def test_sizes(name, count):
  # The last two are what the published checkpoints have.
  config = transformer.TransformerConfig.named(name)
  model = transformer.Transformer(config)
  tokens = jnp.zeros((1, 1), int)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  found = sum(x.size for x in jax.tree.leaves(shapes))
  assert found == (count if count > 1e8 else pytest.approx(count, rel=0.1))
  assert transformer.SIZES[name] == config
  changed = transformer.TransformerConfig.named(name, vocab_size=7, tied=False)
  shapes = jax.eval_shape(
    transformer.Transformer(changed).init, jax.random.key(0), tokens
  )
  assert transformer.head(shapes["params"]).shape == (config.width, 7)


def test_the_head_of_a_tied_model_is_its_embedding():
  embedding = jnp.arange(6.0).reshape(3, 2)
  params = {"embed": {"embedding": embedding}}
  assert np.array_equal(transformer.head(params), embedding.T)
  assert transformer.head({**params, "head": 1}) == 1


def test_a_cache_starts_empty():
  cache = transformer.init_cache(CONFIG, batch_size=3, num_slots=7)
  assert cache.keys.shape == cache.values.shape == (2, 3, 2, 6, 7)
  assert not cache.where.any() and cache.length == 0


def test_bad_input(params):
  for changes, message in (
    ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads, was 3 for 4"),
    ({"head_dim": 5}, "head_dim must be even, was 5"),
    ({"remat": "some"}, "unknown remat 'some': choose one of dots, full, none"),
  ):
    with pytest.raises(ValueError, match=message):
      make(**changes)
  with pytest.raises(ValueError, match="unknown size 'huge'"):
    transformer.TransformerConfig.named("huge")
  with pytest.raises(AssertionError, match=r"tokens \(2, 5\), where \(2, 4\)"):
    hidden(params, TOKENS, np.ones((2, 4), bool))
  with pytest.raises(AssertionError, match="need rank 2"):
    hidden(params, TOKENS[0])

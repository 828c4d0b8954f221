# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of tokens against the formula that forms every logit."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign import divergences
from jaxalign.models.logprobs import (
  _default_chunk_size,
  chunked_divergence,
  token_logprobs,
)
from tests import helpers

ROWS, LENGTH, WIDTH, VOCAB = 3, 5, 4, 7
ALL = {"return_entropy": True, "return_logsumexp": True}
OPTIONS = {
  "plain": {},
  "temperature": {"temperature": 0.7},
  "cap": {"soft_cap": 1.5},
  "all": {"temperature": 1.3, "soft_cap": 2.0, "bias": True},
}
# Of 15 tokens in 3 rows: the default, which is all of them; one; fewer than
# rows; 2, 2 and 1 of each row; more than there are.
CHUNKS = (None, 1, 2, 6, 100)


def draw(seed=0, dtype=np.float64):
  rng = np.random.default_rng(seed)
  return (
    rng.normal(0, 1, (ROWS, LENGTH, WIDTH)).astype(dtype),
    rng.normal(0, 1, (WIDTH, VOCAB)).astype(dtype),
    rng.normal(0, 1, VOCAB).astype(dtype),
    rng.integers(0, VOCAB, (ROWS, LENGTH)),
    rng.normal(0, 1, (3, ROWS, LENGTH)).astype(dtype),
  )


HIDDEN, HEAD, BIAS, IDS, WEIGHTS = draw()
MASK = np.arange(LENGTH) < np.array([5, 2, 0])[:, None]


def dense_logits(hidden, head, bias, temperature=1.0, soft_cap=None):
  logits = hidden @ head
  if bias is not None:
    logits = logits + bias
  if soft_cap is not None:
    logits = soft_cap * jnp.tanh(logits / soft_cap)
  return logits / temperature


def dense(hidden, head, ids, bias=None, **options):
  """Token log-probabilities, entropies and normalisers of finite logits."""
  logits = dense_logits(hidden, head, bias, **options)
  logps = jax.nn.log_softmax(logits)
  label = jnp.take_along_axis(logps, ids[..., None], -1)[..., 0]
  entropy = -jnp.sum(jnp.exp(logps) * logps, -1)
  return jnp.stack([label, entropy, jax.nn.logsumexp(logits, -1)])


def chunked(hidden, head, ids, bias=None, **options):
  return jnp.stack(
    token_logprobs(hidden, head, ids, bias=bias, **ALL, **options)
  )


def _with_gradients(way, **options):
  """Results, and the gradients of their weighted sum in all that is real."""

  def loss(hidden, head, bias, ids, weights):
    bias = bias if options.get("bias") else None
    rest = {k: v for k, v in options.items() if k != "bias"}
    out = way(hidden, head, ids, bias=bias, **rest)
    return jnp.sum(weights * out), out

  return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))


def assert_same_in_float32(actual, expected):
  """To 1e-6 of the largest entry: 16 roundings of 6e-8."""
  for x, y in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    largest = float(np.max(np.abs(y)))
    helpers.assert_close(x, y, rtol=0, atol=1e-6 * largest)


# --- exact -------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_dense_formula_in_value_and_gradient(name):
  options = OPTIONS[name]
  expected = _with_gradients(dense, **options)(*draw())
  single = _with_gradients(dense, **options)(*draw(dtype=np.float32))
  for chunk_size in CHUNKS if name == "all" else (6,):
    ours = _with_gradients(chunked, chunk_size=chunk_size, **options)
    helpers.assert_close(ours(*draw()), expected, rtol=1e-12, atol=1e-13)
    actual = ours(*draw(dtype=np.float32))
    assert_same_in_float32(actual, expected)
    assert_same_in_float32(actual, single)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(actual))


def test_a_head_of_zeros_is_uniform():
  out = token_logprobs(HIDDEN, 0 * HEAD, IDS, **ALL)
  for value, sign in zip(out, (-1, 1, 1), strict=True):
    helpers.assert_close(value, np.full(IDS.shape, sign * math.log(VOCAB)))


def test_returns_what_was_asked_for():
  out = token_logprobs(HIDDEN, HEAD, IDS)
  assert out.entropy is None and out.logsumexp is None


def test_certain_tokens_have_no_entropy_and_finite_gradients():
  head = np.zeros((WIDTH, VOCAB))
  head[0, 0] = 1e5

  def total(hidden):
    out = token_logprobs(hidden, head, np.zeros_like(IDS), **ALL)
    return jnp.sum(out.logps) + jnp.sum(out.entropy), out

  sure = np.ones_like(HIDDEN)
  gradient, out = jax.grad(total, has_aux=True)(sure)
  helpers.assert_close(out.logps, np.zeros(IDS.shape))
  helpers.assert_close(out.entropy, np.zeros(IDS.shape))
  helpers.assert_close(gradient, np.zeros(HIDDEN.shape))


def test_gradients_are_the_slopes():
  def total(hidden, head, bias):
    out = chunked(hidden, head, IDS, bias, chunk_size=6, soft_cap=2.0)
    return jnp.sum(WEIGHTS * out)

  helpers.assert_gradient(total, HIDDEN, HEAD, BIAS)


# --- masks, zeros and ids ----------------------------------------------------


def _masked(hidden, head, ids, mask):
  out = chunked(hidden, head, ids, mask=mask, chunk_size=6)
  return jnp.sum(WEIGHTS * out), out


def test_masked_tokens_may_hold_anything():
  both = jax.jit(jax.grad(_masked, (0, 1), has_aux=True))
  (in_hidden, in_head), out = both(HIDDEN, HEAD, IDS, MASK)
  helpers.assert_close(
    out, np.where(MASK, dense(HIDDEN, HEAD, IDS), 0), atol=1e-14
  )
  assert np.all(np.asarray(out)[:, ~MASK] == 0)
  spoilt = HIDDEN.copy(), IDS.copy()
  spoilt[0][~MASK], spoilt[1][~MASK] = np.nan, -100
  with jax.debug_nans(True):
    gradients, same = both(spoilt[0], HEAD, spoilt[1], MASK)
  np.testing.assert_array_equal(same, out)
  np.testing.assert_array_equal(gradients[0], in_hidden)
  np.testing.assert_array_equal(gradients[1], in_head)
  assert np.all(np.asarray(in_hidden)[~MASK] == 0)


def test_no_token_at_all():
  out = token_logprobs(HIDDEN[:, :0], HEAD, IDS[:, :0], **ALL)
  assert all(x.shape == (ROWS, 0) for x in out)
  nothing = jnp.full(HIDDEN.shape, jnp.nan), HEAD, IDS, np.zeros_like(MASK)
  assert float(_masked(*nothing)[0]) == 0


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_removed_outcomes_are_those_of_a_smaller_vocabulary(soft_cap):
  kept = np.array([0, 2, 3, 6])
  bias = np.full(VOCAB, -np.inf)
  bias[kept] = BIAS[kept]
  within = np.random.default_rng(1).integers(0, len(kept), IDS.shape)

  def both(way, ids, **options):
    def loss(hidden, head, bias):
      out = way(hidden, head, ids, bias, soft_cap=soft_cap, **options)
      return jnp.sum(WEIGHTS * out), out

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))

  with jax.debug_nans(True):
    gradients, out = both(chunked, kept[within], chunk_size=6)(
      HIDDEN, HEAD, bias
    )
  expected, value = both(dense, within)(HIDDEN, HEAD[:, kept], BIAS[kept])
  helpers.assert_close(out, value, rtol=1e-12)
  helpers.assert_close(gradients[0], expected[0], rtol=1e-11)
  for ours, theirs in zip(gradients[1:], expected[1:], strict=True):
    ours = np.asarray(ours)
    helpers.assert_close(ours[..., kept], theirs, rtol=1e-11)
    assert np.all(np.delete(ours, kept, -1) == 0)


def test_a_removed_token_is_impossible_and_has_no_gradient():
  bias = np.where(np.arange(VOCAB) == 2, -np.inf, BIAS)
  ids = np.full_like(IDS, 2)

  def total(hidden, head, bias):
    logps = token_logprobs(hidden, head, ids, bias=bias).logps
    return jnp.sum(logps), logps

  with jax.debug_nans(True):
    gradients, logps = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(
      HIDDEN, HEAD, bias
    )
  assert np.all(np.asarray(logps) == -np.inf)
  assert all(np.all(np.asarray(g) == 0) for g in gradients)


@pytest.mark.parametrize("wrong", [-1, -100, VOCAB])
def test_ids_outside_the_vocabulary_are_nan(wrong):
  ids = IDS.copy()
  ids[0, 0] = wrong
  logps = np.asarray(token_logprobs(HIDDEN, HEAD, ids).logps)
  assert np.isnan(logps[0, 0]) and np.isnan(logps).sum() == 1


# --- invariance --------------------------------------------------------------


def test_transforms():
  hidden, ids = np.stack([HIDDEN, -HIDDEN]), np.stack([IDS, IDS[::-1]])
  head, mask = np.stack([HEAD, 2 * HEAD]), np.stack([MASK, ~MASK])

  def value_and_gradient(hidden, head, ids, mask):
    def total(hidden, head):
      out = token_logprobs(hidden, head, ids, mask=mask, chunk_size=6, **ALL)
      return sum(jnp.sum(x) for x in out), out

    return jax.grad(total, (0, 1), has_aux=True)(hidden, head)

  helpers.assert_transforms(value_and_gradient, hidden, head, ids, mask)


def test_any_leading_axes():
  out = token_logprobs(HIDDEN, HEAD, IDS, **ALL)
  flat = token_logprobs(HIDDEN.reshape(-1, WIDTH), HEAD, IDS.reshape(-1), **ALL)
  deep = token_logprobs(HIDDEN[:, None, None], HEAD, IDS[:, None, None], **ALL)
  for x, y, z in zip(out, flat, deep, strict=True):
    helpers.assert_close(y.reshape(x.shape), x)
    helpers.assert_close(z.reshape(x.shape), x)


# --- types -------------------------------------------------------------------


def test_bfloat16_is_summed_in_float32():
  # Positive states and one id: 512 shares of the gradient of one sign, whose
  # sum in bfloat16 would stop growing at 256 times the first.
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.uniform(0.9, 1.1, (512, WIDTH)), jnp.bfloat16)
  head = jnp.asarray(rng.normal(0, 1, (WIDTH, VOCAB)), jnp.bfloat16)
  bias = jnp.zeros(VOCAB, jnp.bfloat16)
  ids = jnp.zeros(512, int)

  def total(hidden, head, bias):
    out = token_logprobs(hidden, head, ids, bias=bias, chunk_size=1, **ALL)
    return jnp.sum(out.logps), jnp.stack(out)

  def reference(hidden, head, bias):
    out = dense(hidden, head, ids, bias)
    return jnp.sum(out[0]), out

  gradients, out = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(
    hidden, head, bias
  )
  exact, value = jax.jit(jax.grad(reference, (0, 1, 2), has_aux=True))(
    *(jnp.asarray(x, jnp.float64) for x in (hidden, head, bias))
  )
  assert out.dtype == jnp.float32
  helpers.assert_close(out, value, rtol=1e-6, atol=1e-6)
  for ours, theirs in zip(gradients, exact, strict=True):
    assert ours.dtype == jnp.bfloat16
    # Rounded once by the type itself, to 8 bits.
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs)
    error = np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))
    assert error < 2**-8


# --- devices and memory ------------------------------------------------------


MESH = (2, 4), ("data", "model")


def _spread():
  """Arrays over devices; a length that is cut in unequal parts, as a shifted
  sequence's is."""
  mesh = jax.make_mesh(*MESH, axis_types=(AxisType.Auto,) * 2)
  rng = np.random.default_rng(0)
  arrays = (
    rng.normal(0, 1, (4, 7, 4)),
    rng.normal(0, 1, (4, 96)),
    rng.integers(0, 96, (4, 7)),
    rng.uniform(size=(4, 7)) < 0.8,
  )
  specs = P("data"), P(None, "model"), P("data"), P("data")
  shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
  return mesh, arrays, jax.device_put(arrays, shardings)


def _sines(hidden, head, ids, mask):
  def total(hidden, head):
    out = token_logprobs(hidden, head, ids, mask=mask, chunk_size=16, **ALL)
    return sum(jnp.sum(jnp.sin(x)) for x in out), out

  return jax.grad(total, (0, 1), has_aux=True)(hidden, head)


def test_a_head_spread_over_devices():
  _, arrays, spread = _spread()
  program = jax.jit(_sines).lower(*spread).compile()
  (in_hidden, in_head), out = program(*spread)
  expected = jax.jit(_sines)(*arrays)
  helpers.assert_close(((in_hidden, in_head), out), expected, rtol=1e-9)
  assert in_head.sharding.is_equivalent_to(spread[1].sharding, 2)
  # Only sums travel. Of 16 tokens and 96 outcomes each of 2 x 4 devices has
  # [8, 24] logits; for gradients, of 28 tokens and 32 outcomes, [14, 8].
  text = program.as_text()
  assert "f64[8,24]" in text and "f64[14,8]" in text
  assert "all-reduce(" in text
  assert not re.search("all-gather|all-to-all|collective-permute", text)


def test_devices_that_add_up_their_gradients():
  mesh, arrays, spread = _spread()
  by_device = jax.shard_map(
    _sines,
    mesh=mesh,
    in_specs=(P("data"), P(), P("data"), P("data")),
    out_specs=((P("data"), P()), P("data")),
  )
  actual = jax.jit(by_device)(*spread)
  helpers.assert_close(actual, jax.jit(_sines)(*arrays), rtol=1e-9)


@pytest.mark.usefixtures("optimised")
def test_memory_is_that_of_a_chunk():
  hidden, head = (
    jnp.zeros((512, 4), np.float32),
    jnp.zeros((4, 2048), np.float32),
  )
  ids = jnp.zeros(512, np.int32)

  def temporary(logps):
    def total(hidden, head, ids):
      return jnp.sum(logps(hidden, head, ids) ** 2)

    program = jax.jit(jax.value_and_grad(total, (0, 1)))
    compiled = program.lower(hidden, head, ids).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def ours(hidden, head, ids):
    return token_logprobs(hidden, head, ids, chunk_size=16).logps

  # A chunk is 1/32 of the tokens; beside its logits there is their gradient.
  assert temporary(ours) < temporary(lambda *x: dense(*x)[0]) / 8


def test_default_chunks(monkeypatch):
  assert _default_chunk_size(32768) == 256
  assert _default_chunk_size(2**30) == 1
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert _default_chunk_size(131072) == 2048


# --- divergences -------------------------------------------------------------

DIVERGENCES = ("kl", "jensen_shannon", "total_variation")
OTHER = np.random.default_rng(2).normal(0, 1, (ROWS, LENGTH, 2))
OTHER_HEAD = np.random.default_rng(3).normal(0, 1, (2, VOCAB))


def _of_divergence(value):
  """The sum over divergences, weighted, with its gradients."""

  def loss(hidden_p, head_p, hidden_q, head_q, bias_p, bias_q):
    out = [
      value(div, hidden_p, head_p, hidden_q, head_q, bias_p, bias_q)
      for div in map(divergences.f_divergence, DIVERGENCES)
    ]
    return jnp.sum(WEIGHTS * jnp.stack(out)), out

  return jax.jit(jax.grad(loss, tuple(range(6)), has_aux=True))


def _dense_divergence(div, hidden_p, head_p, hidden_q, head_q, bias_p, bias_q):
  p = dense_logits(hidden_p, head_p, bias_p, 0.7, 2.0)
  q = dense_logits(hidden_q, head_q, bias_q, 0.7, 2.0)
  return divergences.categorical_f_divergence(div, p, q)


def _chunked_divergence(div, *arrays, **options):
  *models, bias_p, bias_q = arrays
  options = {"temperature": 0.7, "soft_cap": 2.0, "chunk_size": 6} | options
  return chunked_divergence(
    div, *models, bias_p=bias_p, bias_q=bias_q, **options
  )


def test_divergences_are_those_of_all_logits():
  arrays = HIDDEN, HEAD, OTHER, OTHER_HEAD, BIAS, -BIAS
  gradients, out = _of_divergence(_chunked_divergence)(*arrays)
  expected, value = _of_divergence(_dense_divergence)(*arrays)
  helpers.assert_close(out, value, rtol=1e-12)
  helpers.assert_close(gradients, expected, rtol=1e-11)
  single = [np.asarray(x, np.float32) for x in arrays]
  actual = _of_divergence(_chunked_divergence)(*single)
  assert_same_in_float32(actual, (expected, value))


def test_divergences_of_masked_tokens_and_removed_outcomes():
  removed = np.arange(VOCAB) == 1
  bias = np.where(removed, -np.inf, BIAS)
  masked = functools.partial(_chunked_divergence, mask=MASK)
  spoilt = np.where(MASK[..., None], HIDDEN, np.nan)
  with jax.debug_nans(True):
    gradients, out = _of_divergence(masked)(
      spoilt, HEAD, OTHER, OTHER_HEAD, bias, -BIAS
    )
  # P lacks what Q has: finite for each of them, unlike the reverse.
  assert np.all(np.asarray(out)[:, ~MASK] == 0)
  assert np.all(np.asarray(out)[:, MASK] > 0)
  assert all(np.all(np.isfinite(g)) for g in gradients)
  assert np.all(np.asarray(gradients[0])[~MASK] == 0)
  assert np.all(np.asarray(gradients[4])[removed] == 0)
  kl = divergences.f_divergence("kl")
  reverse = masked(kl, OTHER, OTHER_HEAD, spoilt, HEAD, -BIAS, bias)
  helpers.assert_close(reverse, np.where(MASK, np.inf, 0))


def test_divergence_gradients_are_the_slopes():
  js = divergences.f_divergence("jensen_shannon")

  def total(hidden_p, head_p, hidden_q, head_q):
    arrays = hidden_p, head_p, hidden_q, head_q, BIAS, None
    return jnp.sum(WEIGHTS[0] * _chunked_divergence(js, *arrays))

  helpers.assert_gradient(total, HIDDEN, HEAD, OTHER, OTHER_HEAD)


def test_divergence_transforms():
  js = divergences.f_divergence("jensen_shannon")

  def fn(hidden_p, head_p, hidden_q, head_q):
    return chunked_divergence(js, hidden_p, head_p, hidden_q, head_q)

  arrays = (np.stack([x, -x]) for x in (HIDDEN, HEAD, OTHER, OTHER_HEAD))
  helpers.assert_transforms(fn, *arrays)


def test_divergences_of_bfloat16_are_summed_in_float32():
  # As many chunks as tokens, whose shares of a gradient have one sign.
  js = divergences.f_divergence("jensen_shannon")
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.uniform(0.9, 1.1, (512, WIDTH)), jnp.bfloat16)
  head_p, head_q = jnp.asarray(
    rng.normal(0, 1, (2, WIDTH, VOCAB)), jnp.bfloat16
  )

  def gradient(hidden, head_p, head_q):
    def total(head_p):
      out = chunked_divergence(js, hidden, head_p, hidden, head_q, chunk_size=1)
      return jnp.sum(out)

    return jax.grad(total)(head_p)

  actual = jax.jit(gradient)(hidden, head_p, head_q)
  wide = [x.astype(jnp.float64) for x in (hidden, head_p, head_q)]
  exact = np.asarray(jax.jit(gradient)(*wide))
  assert actual.dtype == jnp.bfloat16
  error = np.abs(np.asarray(actual, np.float64) - exact)
  # Rounded once by the type itself, to 8 bits.
  assert np.max(error) < 2**-8 * np.max(np.abs(exact))


# --- bad input ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
    ({"temperature": 0.0}, ValueError, "temperature must be above 0"),
    ({"temperature": np.ones(3)}, ValueError, r"a number, had shape \(3,\)"),
    ({"soft_cap": -1.0}, ValueError, "soft_cap must be above 0"),
    ({"bias": BIAS[:3]}, ValueError, r"bias must be \[V\] = \(7,\)"),
    ({"mask": MASK[0]}, AssertionError, "need one shape: ids"),
    ({"ids": IDS[:, :2]}, AssertionError, "need one shape: positions"),
    ({"ids": IDS.astype(float)}, ValueError, "ids must be integers"),
    ({"head": HEAD.T}, ValueError, r"must share H: shapes were \(3, 5, 4\)"),
    ({"head": HEAD[0]}, AssertionError, "need rank 2"),
    ({"hidden": HIDDEN[0, 0]}, ValueError, r"hidden \[..., T, H\]"),
    ({"hidden": IDS}, AssertionError, "need floats"),
  ],
)
def test_bad_input(change, error, message):
  given = {"hidden": HIDDEN, "head": HEAD, "ids": IDS} | change
  with pytest.raises(error, match=message):
    token_logprobs(
      given.pop("hidden"), given.pop("head"), given.pop("ids"), **given
    )


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    ({0: HIDDEN[:, :2]}, AssertionError, "need one shape: positions_p"),
    ({1: HEAD[:, :2]}, AssertionError, "need one shape: outcomes_p"),
    ({2: HIDDEN}, ValueError, "hidden_q .* and head_q .* must share H"),
    ({5: BIAS[:2]}, ValueError, "bias_q must be"),
  ],
)
def test_bad_input_of_divergences(change, error, message):
  given = [HIDDEN, HEAD, OTHER, OTHER_HEAD, None, None]
  given = [change.get(i, x) for i, x in enumerate(given)]
  with pytest.raises(error, match=message):
    _chunked_divergence(divergences.f_divergence("kl"), *given)

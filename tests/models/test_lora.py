# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters: what they add, what they leave alone, what they refuse."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.models.lora import apply_lora, init_lora
from tests import helpers

LAYERS, WIDTH, INNER, RANK = 3, 4, 6, 2


class _Layer(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    inner = nn.tanh(nn.Dense(INNER, name="up", param_dtype=x.dtype)(x))
    return x + nn.Dense(WIDTH, name="down", param_dtype=x.dtype)(inner), None


class _Model(nn.Module):
  """Layers under a scan, between two kernels that are not."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH, name="first", param_dtype=x.dtype)(x)
    scan = nn.scan(
      _Layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=LAYERS,
    )
    x, _ = scan(name="layers")(x, None)
    return nn.Dense(2, name="last", param_dtype=x.dtype)(x)


MODEL = _Model()


@pytest.fixture(scope="module")
def case():
  """Parameters, adapters that do something, and inputs, in float64."""
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(1), (5, WIDTH), jnp.float64)
    params = jax.jit(MODEL.init)(jax.random.key(0), x)["params"]
    lora = init_lora(jax.random.key(2), params, rank=RANK)
    keys = iter(jax.random.split(jax.random.key(3), len(lora)))
    for pair in lora.values():
      pair["b"] = jax.random.normal(next(keys), pair["b"].shape)
    return params, lora, x


def dense(params, name, x, pair, scale):
  """A linear map with its adapter beside it, as the paper draws it."""
  y = x @ params[name]["kernel"] + params[name]["bias"]
  return y + scale * (x @ pair["a"]) @ pair["b"]


def reference(params, lora, x, scale):
  x = dense(params, "first", x, lora["first/kernel"], scale)
  for i in range(LAYERS):
    layer, pairs = jax.tree.map(
      lambda leaf, i=i: leaf[i],
      (
        params["layers"],
        [lora[f"layers/{name}/kernel"] for name in ("up", "down")],
      ),
    )
    inner = jnp.tanh(dense(layer, "up", x, pairs[0], scale))
    x = x + dense(layer, "down", inner, pairs[1], scale)
  return dense(params, "last", x, lora["last/kernel"], scale)


def merged_model(params, lora, x, scale=0.5):
  merged = apply_lora(params, lora, scale=scale)
  return MODEL.apply({"params": merged}, x)


# --- exact -------------------------------------------------------------------


def test_merged_is_applied(case):
  params, lora, x = case
  actual = jax.jit(merged_model)(params, lora, x)
  expected = jax.jit(reference, static_argnums=3)(params, lora, x, 0.5)
  helpers.assert_close(actual, expected)
  single = jax.tree.map(lambda x: x.astype(jnp.float32), case)
  actual = jax.jit(merged_model)(*single)
  # Five layers of sums of six products, each rounded to 6e-8.
  helpers.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
  assert actual.dtype == jnp.float32


def test_nothing_at_the_start(case, key):
  params, *_ = case
  lora = init_lora(key, params, rank=RANK)
  assert all(np.all(np.asarray(pair["b"]) == 0) for pair in lora.values())
  merged = apply_lora(params, lora, scale=16.0)
  jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_numbers_of_parameters(case):
  _, lora, _ = case
  sizes = {
    name: sum(x.size for x in pair.values()) for name, pair in lora.items()
  }
  assert sizes == {
    "first/kernel": RANK * (WIDTH + WIDTH),
    "layers/up/kernel": LAYERS * RANK * (WIDTH + INNER),
    "layers/down/kernel": LAYERS * RANK * (INNER + WIDTH),
    "last/kernel": RANK * (WIDTH + 2),
  }


def test_the_start_has_unit_gain(key):
  params = {"kernel": jnp.zeros((256, 512))}
  lora = init_lora(key, params, rank=64)["kernel"]
  # Of 16384 draws the variance has a relative error below 1 / 64.
  helpers.assert_close(np.var(lora["a"]) * 256, 1, rtol=0.05)
  stacked = init_lora(
    key, {"layers": {"kernel": jnp.zeros((2, 256, 512))}}, rank=64
  )
  a = stacked["layers/kernel"]["a"]
  helpers.assert_close(np.var(a, (1, 2)) * 256, np.ones(2), rtol=0.05)
  assert not np.allclose(a[0], a[1])


def test_merged_tree_is_of_the_same_kind(case):
  params, lora, _ = case
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  merged = apply_lora(params, lora, scale=0.5)
  same = jax.tree.map(
    lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), merged, params
  )
  assert jax.tree.all(same)
  kernel, pair = params["first"]["kernel"], lora["first/kernel"]
  exact = kernel.astype(jnp.float64) + 0.5 * pair["a"] @ pair["b"]
  # Rounded once, to 8 bits.
  helpers.assert_close(
    merged["first"]["kernel"].astype(jnp.float64), exact, rtol=2**-8
  )
  small = init_lora(jax.random.key(0), params, rank=1)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(small))


# --- gradients ---------------------------------------------------------------


def test_gradients_are_the_slopes(case):
  params, lora, x = case
  leaves, tree = jax.tree.flatten(lora)

  def loss(*leaves):
    return jnp.sum(merged_model(params, tree.unflatten(leaves), x) ** 2)

  helpers.assert_gradient(loss, *leaves, rtol=1e-5, atol=1e-6)


def test_only_adapters_learn_when_parameters_are_stopped(case):
  params, lora, x = case

  def loss(params, lora):
    return jnp.sum(merged_model(jax.lax.stop_gradient(params), lora, x) ** 2)

  in_params, in_lora = jax.jit(jax.grad(loss, (0, 1)))(params, lora)
  assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(in_params))
  assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(in_lora))


# --- invariance --------------------------------------------------------------


def test_transforms():
  rng = np.random.default_rng(0)
  kernel = rng.normal(0, 1, (2, WIDTH, INNER))
  a = rng.normal(0, 1, (2, WIDTH, RANK))
  b = rng.normal(0, 1, (2, RANK, INNER))

  def fn(kernel, a, b):
    lora = {"kernel": {"a": a, "b": b}}
    return apply_lora({"kernel": kernel}, lora, scale=2.0)["kernel"]

  helpers.assert_transforms(fn, kernel, a, b)


def test_init_depends_on_the_key_alone(case):
  params, *_ = case
  first, again, other = (
    init_lora(jax.random.key(i), params, rank=1) for i in (0, 0, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert np.any(first["last/kernel"]["a"] != other["last/kernel"]["a"])


# --- choices and bad input ---------------------------------------------------


@pytest.mark.parametrize(
  "targets", ["up/kernel$", lambda path: "up/kernel" in path]
)
def test_targets(case, targets):
  params, *_ = case
  lora = init_lora(jax.random.key(0), params, rank=1, targets=targets)
  assert list(lora) == ["layers/up/kernel"]


def test_layers_that_are_not_stacked(key):
  params = {"layers": [{"kernel": jnp.ones((2, 3))} for _ in range(2)]}
  lora = init_lora(key, params, rank=1, stacked="^$")
  assert list(lora) == ["layers/0/kernel", "layers/1/kernel"]
  merged = apply_lora(params, lora, scale=1.0)
  assert jax.tree.structure(merged) == jax.tree.structure(params)


HEADS = {"query": {"kernel": jnp.zeros((4, 2, 2))}}


@pytest.mark.parametrize(
  ("params", "options", "message"),
  [
    (HEADS, {}, r"query/kernel must be \[in, out\], was \(4, 2, 2\)"),
    (
      {"layers": {"kernel": jnp.zeros((4, 2))}},
      {},
      r"layers/kernel must be \[layers, in, out\], was \(4, 2\)",
    ),
    (HEADS, {"targets": "out"}, "targets choose no parameter: .*query/kernel"),
    (HEADS, {"rank": 0}, "rank must be at least 1, was 0"),
    (
      {"kernel": jnp.zeros((4, 2))},
      {"rank": 3},
      "rank must be at most 2 for kernel kernel",
    ),
  ],
)
def test_bad_init(key, params, options, message):
  with pytest.raises(ValueError, match=message):
    init_lora(key, params, **{"rank": 1} | options)


def test_adapters_of_another_model(case):
  params, lora, _ = case
  with pytest.raises(ValueError, match="without parameters: elsewhere/kernel"):
    apply_lora(
      params, lora | {"elsewhere/kernel": lora["last/kernel"]}, scale=1.0
    )
  with pytest.raises(ValueError, match=r"adapter of last/kernel is for \(4, 4"):
    apply_lora(params, lora | {"last/kernel": lora["first/kernel"]}, scale=1.0)

# SPDX-License-Identifier: Apache-2.0
"""A model written with NNX in a loss of ours: the recipe, and that it works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.preference import losses, pairs
from tests import helpers

try:  # With some pairs of versions of jax and flax it cannot be imported.
  from flax import nnx
except Exception:
  pytest.skip("flax.nnx does not import here", allow_module_level=True)

V, T = 5, 4
CHOSEN, REJECTED = np.random.default_rng(0).integers(0, V, (2, 3, T))


class Bigrams(nnx.Module):
  """Logits `[..., V]` of the token that follows each token."""

  def __init__(self, rngs):
    self.embed = nnx.Embed(V, 6, rngs=rngs)
    self.head = nnx.Linear(6, V, use_bias=False, rngs=rngs)

  def __call__(self, tokens):
    return self.head(self.embed(tokens))


def completion_logps(apply, tokens):
  where = jnp.ones_like(tokens[:, 1:], bool)
  return pairs.sequence_logps(apply(tokens)[:, :-1], tokens[:, 1:], where=where)


def mean_loss(apply, apply_ref):
  logps = pairs.PairLogps(
    *(
      completion_logps(f, jnp.array(x))
      for f in (apply, apply_ref)
      for x in (CHOSEN, REJECTED)
    )
  )
  return jnp.mean(losses.pair_loss("dpo", beta=0.5)(logps).loss)


def test_a_model_is_split_into_a_function_and_its_parameters():
  model = Bigrams(nnx.Rngs(0))

  # The recipe: what the model is stays, what it learned is an argument.
  graph, params = nnx.split(model)

  def apply(params, tokens):
    return nnx.merge(graph, params)(tokens)

  def loss(params, ref):
    return mean_loss(
      lambda tokens: apply(params, tokens), lambda tokens: apply(ref, tokens)
    )

  step = jax.jit(jax.value_and_grad(loss))
  value, gradient = step(params, params)
  new = jax.tree.map(lambda x, g: x - 0.1 * g, params, gradient)

  # At the reference the loss is log 2, and a step lowers it.
  np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
  assert step(new, params)[0] < value
  # The gradient is that of NNX.
  ref = nnx.clone(model)
  by_nnx = nnx.grad(lambda model: mean_loss(model, ref))(model)
  helpers.assert_close(
    jax.tree.leaves(by_nnx), jax.tree.leaves(gradient), rtol=1e-4, atol=1e-7
  )
  # What was learned returns to the model; not before `params` are done with,
  # which share its variables.
  tokens = jnp.array(CHOSEN)
  expected = apply(new, tokens)
  nnx.update(model, new)
  helpers.assert_close(model(tokens), expected, rtol=1e-6)

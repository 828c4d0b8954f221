# SPDX-License-Identifier: Apache-2.0
"""Random pre-norm transformers as sub-blocks of one kind.

A sub-block is `x + f(x)` with f attention or an MLP of the normalised x. Each
has the weights of both, those of the other kind being 0, so that one program
serves all.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

TOKENS, WIDTH, HIDDEN, LAYERS = 4, 8, 32, 2
EPS = 1e-5

Weights = dict[str, np.ndarray]

_SHAPES = {
  "query": (WIDTH, WIDTH),
  "key": (WIDTH, WIDTH),
  "value": (WIDTH, WIDTH),
  "out": (WIDTH, WIDTH),
  "up": (WIDTH, HIDDEN),
  "down": (HIDDEN, WIDTH),
}


def draw(rng: np.random.Generator, number: int) -> Weights:
  """Weights `[number, 2 LAYERS, in, out]` of variance 1 / in."""
  found = {}
  for name, shape in _SHAPES.items():
    values = rng.normal(size=(number, LAYERS, 2, *shape)) / math.sqrt(shape[0])
    # Of each layer the first sub-block is attention, the second the MLP.
    used = np.array([1, 0] if name not in ("up", "down") else [0, 1])
    values *= used[:, None, None]
    found[name] = values.reshape(number, 2 * LAYERS, *shape)
  return found


def branch(p: Weights, x: jax.Array) -> jax.Array:
  """What a sub-block adds to its input `[T, D]`."""
  h = jax.nn.standardize(x, epsilon=EPS)
  seen = jnp.tri(TOKENS, dtype=bool)
  scores = (h @ p["query"]) @ (h @ p["key"]).T / math.sqrt(WIDTH)
  weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
  attention = weights @ h @ p["value"] @ p["out"]
  return attention + jax.nn.gelu(h @ p["up"], approximate=False) @ p["down"]


def stack(p: Weights, x: jax.Array) -> jax.Array:
  """The whole network's output for an input `[T, D]`."""
  return jax.lax.scan(lambda x, p: (x + branch(p, x), None), x, p)[0]


def bound(p: Weights) -> jax.Array:
  """M of a sub-block: no token is moved further.

  Attention averages values, `|gelu(x)| <= |x|`, and normalised tokens are no
  longer than the root of their size.
  """
  attention = jnp.linalg.norm(p["value"] @ p["out"], 2)
  mlp = jnp.linalg.norm(p["up"], 2) * jnp.linalg.norm(p["down"], 2)
  return (attention + mlp) * math.sqrt(WIDTH)

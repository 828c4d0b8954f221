# SPDX-License-Identifier: Apache-2.0
"""Flips of coins of unknown bias, and a recurrent network that predicts them.

Each sequence shows one coin; a flip is an output of a single token, and nothing
describes the coin.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from experiments.stages import language_models
from jaxalign import numerics
from jaxalign.learning import in_context, spectrum

SCORED = ("outputs", "first", "last", "all")
WIDTH, RATE = 32, 1e-2
NUM_TEST = 4096  # sequences


class Recurrent(nn.Module):
  """Logits `[B, T]` of each flip being heads, given those before it."""

  @nn.compact
  def __call__(self, flips: jax.Array) -> jax.Array:
    """Of flips `[B, T]`, 0 or 1."""
    start = jnp.full_like(flips[:, :1], 2)
    seen = jnp.concatenate([start, flips[:, :-1]], 1)
    # Not orthogonal, as is the default: several batches of QR decompositions in
    # one program can wait for each other for ever on a CPU of two cores.
    cell = nn.GRUCell(
      WIDTH, recurrent_kernel_init=nn.initializers.lecun_normal()
    )
    states = nn.RNN(cell)(nn.Embed(3, WIDTH)(seen))
    return nn.Dense(1)(states)[..., 0]


def draw(key: jax.Array, rows: int, num_flips: int) -> jax.Array:
  """Flips int `[B, T]`, of each row's coin, whose bias is uniform."""
  bias, flips = jax.random.split(key)
  chance = jax.random.uniform(bias, (rows, 1))
  drawn = jax.random.uniform(flips, (rows, num_flips)) < chance
  return drawn.astype(jnp.int32)


def masks(num_flips: int) -> jax.Array:
  """Which flips each arm scores, bool `[4, T]`."""
  outputs, described = jnp.arange(num_flips), jnp.array(False)
  return jnp.stack(
    [
      spectrum.spectrum_mask(outputs, described, scored=scored)
      for scored in SCORED
    ]
  )


def posterior_predictive(flips: jax.Array) -> jax.Array:
  """Of each flip given those before it, `[B, T]`."""
  heads = jnp.cumsum(flips, -1) - flips
  trials = jnp.broadcast_to(jnp.arange(flips.shape[-1]), flips.shape)
  return in_context.rule_of_succession(heads, trials)


def bayes_nll(num_flips: int) -> jax.Array:
  """Exact expected loss `[T]` of the posterior predictive.

  With a uniform bias each number of heads so far is as likely as any other.
  """
  trials, heads = jnp.mgrid[:num_flips, :num_flips].astype(float)
  possible = heads <= trials
  p = in_context.rule_of_succession(jnp.minimum(heads, trials), trials)
  entropy = -numerics.plogp(jnp.log(p)) - numerics.plogp(jnp.log1p(-p))
  return numerics.masked_mean(entropy, possible, -1)


def _loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
  flips, scored = batch
  logits = Recurrent().apply({"params": params}, flips)
  each = optax.sigmoid_binary_cross_entropy(logits, flips)
  return numerics.masked_mean(each, jnp.broadcast_to(scored, each.shape))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
@functools.partial(jax.vmap, in_axes=(None, 0, None, None, None))
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None))
def train(
  key: jax.Array, scored: jax.Array, num_flips: int, rows: int, steps: int
) -> dict[str, jax.Array]:
  """How far each flip's prediction is from the posterior predictive.

  Args:
    key: `[S]`; arms have the same draws.
    scored: bool `[A, T]`.
    num_flips: T.
    rows: of an update.
    steps: updates.

  Returns:
    `distance`, mean `|p - q|`, and `divergence`, mean `KL(q || p)`, each
    `[A, S, T]`.
  """
  start, training, test = jax.random.split(key, 3)
  params = Recurrent().init(start, jnp.zeros((1, num_flips), int))["params"]
  params = language_models.fit(
    training,
    _loss,
    params,
    lambda key: (draw(key, rows, num_flips), scored),
    steps=steps,
    optimizer=language_models.cosine_adamw(RATE, steps, weight_decay=0.0),
  ).params
  flips = draw(test, NUM_TEST, num_flips)
  logits = Recurrent().apply({"params": params}, flips)
  q = posterior_predictive(flips)
  surprise = optax.sigmoid_binary_cross_entropy(logits, q)
  entropy = optax.sigmoid_binary_cross_entropy(jax.scipy.special.logit(q), q)
  return {
    "distance": jnp.mean(jnp.abs(jax.nn.sigmoid(logits) - q), 0),
    "divergence": jnp.mean(surprise - entropy, 0),
  }

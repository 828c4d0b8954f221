# SPDX-License-Identifier: Apache-2.0
"""Random order samples the law of the likelihood, confidence does not.

Laws over all sequences by enumeration of all that a sampler draws: chains over
partly masked sequences, one token a step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.parallel_sampling import laws
from jaxalign.diffusion import samplers
from jaxalign.exact import masked, sequences

V = L = 3
TEMPERATURES = (0.0, 0.5, 1.0, 2.0)
APART = 0.05  # a distance that no rounding makes


def _states(vocab_size: int, length: int) -> tuple[jax.Array, np.ndarray]:
  """Partly masked sequences `[states, L]`, the last all masks; their places."""
  z = sequences.enumerate_sequences(vocab_size + 1, length)
  return z, (vocab_size + 1) ** np.arange(length)[::-1]


def _final(step: jax.Array, vocab_size: int, length: int) -> jax.Array:
  """The law `[V**L]` after L steps `[states, states]` from all masks."""
  law = jnp.zeros(len(step)).at[-1].set(1)
  for _ in range(length):
    law = law @ step
  place = _states(vocab_size, length)[1]
  x = sequences.enumerate_sequences(vocab_size, length)
  return law[x @ place]


@jax.jit
def random_order_law(table: jax.Array) -> jax.Array:
  """Of one token a step at a random position `[V**L]`."""
  length, vocab_size = table.shape[1:]
  z, place = _states(vocab_size, length)
  probs = jax.nn.softmax(masked.table_denoiser(table)(z))
  hidden = (z == vocab_size)[..., None]
  some = jnp.maximum(hidden.sum(1, keepdims=True), 1)
  after = (z @ place)[:, None, None] - (
    (vocab_size - np.arange(vocab_size)) * place[:, None]
  )
  rows = np.broadcast_to(np.arange(len(z))[:, None, None], after.shape)
  chance = jnp.where(hidden, probs / some, 0)
  # An impossible move has no chance, wherever it would lead.
  step = jnp.zeros((len(z),) * 2).at[rows, after].add(chance)
  return _final(step, vocab_size, length)


@functools.partial(jax.jit, static_argnames="temperature")
def confidence_law(table: jax.Array, *, temperature: float) -> jax.Array:
  """Of `samplers.confidence_sample`, one token a step `[V**L]`."""
  length, vocab_size = table.shape[1:]
  z, place = _states(vocab_size, length)
  draws = sequences.enumerate_sequences(vocab_size, length)
  log_p = jax.nn.log_softmax(masked.table_denoiser(table)(z))
  if temperature:
    chances = jax.nn.softmax(log_p / temperature)
  else:
    chances = jax.nn.one_hot(jnp.argmax(log_p, -1), vocab_size)
  where = np.arange(length)
  weights = jnp.prod(chances[:, where, draws], -1)  # [states, draws]
  hidden = jnp.broadcast_to(
    (z == vocab_size)[:, None], (*weights.shape, length)
  )
  one = jnp.ones(weights.shape, int)
  chosen = samplers.top_positions(log_p[:, where, draws], hidden, one)
  after = jnp.where(chosen, draws, z[:, None]) @ place
  rows = np.broadcast_to(np.arange(len(z))[:, None], after.shape)
  step = jnp.zeros((len(z),) * 2).at[rows, after].add(weights)
  return _final(step, vocab_size, length)


@jax.jit
def likelihood(table: jax.Array) -> jax.Array:
  """`pi(x)` of the denoiser's bounds `[V**L]`."""
  length, vocab_size = table.shape[1:]
  log_probs = masked.subset_log_probs(
    masked.table_denoiser(table),
    sequences.enumerate_sequences(vocab_size, length),
    mask_id=vocab_size,
  )
  return jnp.exp(masked.any_order_log_prob(log_probs))


# --- parts -------------------------------------------------------------------


def _random_order(tables: jax.Array) -> list[harness.Claim]:
  pi = jax.vmap(likelihood)(tables)
  law = jax.vmap(random_order_law)(tables)
  return [
    harness.all_agree(
      "random_order_law",
      "random denoisers over 27 sequences, one token a step in random order:"
      " total variation from the any-order likelihood is 0",
      [laws.total_variation(law, pi)],
      tolerance=laws.EXACT,
    )
  ]


def _two_bits(seeds: range) -> harness.Claim:
  """Two perfectly predicted bits, where the bias has a closed form.

  A bit that is revealed first was the surer one of its draw; so the law is p
  times a factor that says how often each bit comes first, and the distance from
  p is a (1 - a), with a the largest probability of a single bit.
  """
  tables = laws.random_tables(seeds, 2, 2)
  perfect = jax.jit(jax.vmap(masked.self_distill))(jnp.asarray(tables))
  pi = np.asarray(jax.vmap(likelihood)(perfect))
  law = jax.vmap(functools.partial(confidence_law, temperature=1.0))(perfect)
  joint = pi.reshape(-1, 2, 2)
  surest = np.concatenate([joint.sum(1), joint.sum(2)], 1).max(1)
  return harness.all_agree(
    "confidence_two_bits",
    "two bits, perfect conditionals, one a step by confidence, temperature 1:"
    " total variation is a (1 - a), a the largest probability of a bit",
    [laws.total_variation(law, pi) - surest * (1 - surest)],
    tolerance=laws.EXACT,
  )


def _sampled(key, perfect, pi, law, num_samples: int) -> harness.Claim:
  """The library's sampler on its law, by the event that the law favours.

  What a law has more than pi has the probability TV more: its frequency in
  samples, less what pi gives it, estimates the distance.
  """
  place = V ** np.arange(L)[::-1]

  @jax.jit
  @jax.vmap
  def draw(key, table):
    tokens = jnp.zeros((num_samples, L), jnp.int32)
    denoiser = masked.table_denoiser(table)
    everywhere = jnp.ones(tokens.shape, bool)
    return samplers.confidence_sample(
      key, denoiser, tokens, everywhere, mask_id=V, temperature=1.0
    ).tokens

  drawn = np.asarray(draw(jax.random.split(key, len(pi)), perfect)) @ place
  favoured = law > pi
  hits = np.take_along_axis(favoured, drawn, -1)
  excess = hits.mean(-1) - np.sum(np.where(favoured, pi, 0), -1)
  error = np.sqrt(np.mean(hits.var(-1)) / hits.size)
  measured = excess.mean()
  return harness.Claim(
    name="confidence_sampled",
    statement="27 sequences, perfect conditionals, temperature 1: total"
    " variation of confidence_sample, mean over laws, sampled against"
    " enumerated",
    theory=laws.total_variation(law, pi).mean(),
    measured=measured,
    tolerance=harness.STANDARD_ERRORS * error,
    interval=(measured - 1.96 * error, measured + 1.96 * error),
  )


def orders(key: jax.Array, *, seeds: range, num_samples: int) -> harness.Part:
  """Claims on the laws of both orders.

  Args:
    key: of the samples.
    seeds: of the denoisers.
    num_samples: by confidence, for each denoiser.
  """
  tables = jnp.asarray(laws.random_tables(seeds, V, L))
  perfect = jax.jit(jax.vmap(masked.self_distill))(tables)
  pi = np.asarray(jax.vmap(likelihood)(perfect))
  found = {
    t: np.asarray(
      jax.vmap(functools.partial(confidence_law, temperature=t))(perfect)
    )
    for t in TEMPERATURES
  }
  distance = np.stack([laws.total_variation(found[t], pi) for t in found])
  zero, one = TEMPERATURES.index(0), TEMPERATURES.index(1)
  claims = [
    *_random_order(tables),
    _two_bits(seeds),
    harness.Claim(
      name="confidence_biased",
      statement="27 sequences, perfect conditionals, one token a step by"
      " confidence, temperature 1: least total variation over the laws",
      theory=APART,
      measured=distance[one].min(),
      tolerance=0.0,
      relation=">=",
    ),
    harness.none_exceeds(
      "confidence_greedy",
      "27 sequences, one token a step by confidence, temperature 0: largest"
      " excess of 1 - max pi, of all on one sequence, over the total variation",
      [1 - pi.max(-1) - distance[zero]],
      tolerance=laws.EXACT,
    ),
    _sampled(key, perfect, pi, found[1.0], num_samples),
  ]
  table = harness.rows(
    temperature=TEMPERATURES,
    least_TV=distance.min(1),
    mean_TV=distance.mean(1),
    largest_TV=distance.max(1),
  )
  return harness.Part(
    claims,
    {"orders/confidence_tv": distance},
    {"by confidence, three perfectly predicted tokens": table},
  )


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """The distance of confidence sampling for each law, by temperature."""
  distance = curves["orders/confidence_tv"]
  spread = np.linspace(-0.08, 0.08, distance.shape[1])
  for i, t in enumerate(TEMPERATURES):
    axes.plot(t + spread, distance[i], ".", color=f"C{i}")
  axes.plot(TEMPERATURES, distance.mean(1), "-k", label="mean over laws")
  axes.axhline(0, color="C3", ls="--", label="random order, temperature 1")
  axes.set(
    xlabel="temperature",
    xticks=TEMPERATURES,
    ylabel="total variation from the likelihood",
    title="By confidence, perfect conditionals",
  )
  axes.set_ylim(-0.03, 1)
  axes.legend(loc="upper right")

# SPDX-License-Identifier: Apache-2.0
"""Masked diffusion: what bounds, exact likelihoods and samples cost.

In units of forwards of one small transformer, whose own time is measured beside
each; exact likelihoods against a loop in NumPy.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from experiments import harness
from experiments.stages.benchmark import timing
from jaxalign import diffusion, exact

VOCAB, LENGTH, WIDTH, LAYERS = 256, 64, 256, 4
DRAWS = 8
EXACT_VOCAB, EXACT_LENGTH = 4, 12
SAMPLER_STEPS = 256


def transformer(key: jax.Array) -> Callable[[jax.Array], jax.Array]:
  """A denoiser `[..., L] -> [..., L, V]` with random weights, in float32."""
  keys = iter(jax.random.split(key, 3 * LAYERS + 2))

  def normal(*shape):
    scale = 1 / np.sqrt(shape[0])
    return scale * jax.random.normal(next(keys), shape, jnp.float32)

  embed, head = normal(VOCAB + 1, WIDTH), normal(WIDTH, VOCAB)
  layers = [
    (normal(WIDTH, WIDTH), normal(WIDTH, 4 * WIDTH), normal(4 * WIDTH, WIDTH))
    for _ in range(LAYERS)
  ]

  def denoiser(z):
    x = embed[z]
    for mix, up, down in layers:
      scores = jnp.einsum("...ld,...md->...lm", x @ mix, x) / WIDTH
      x = x + jnp.einsum("...lm,...md->...ld", jax.nn.softmax(scores), x)
      x = x + jax.nn.gelu(x @ up) @ down
    return x @ head

  return denoiser


def elbo_ratio(denoiser, key: jax.Array, turns: int) -> float:
  """Time of a bound of m draws over that of m forwards."""
  tokens = jax.random.randint(key, (4, LENGTH), 0, VOCAB)
  where = jnp.ones(tokens.shape, bool)
  forward = jax.jit(denoiser)

  @jax.jit
  def ours(tokens):
    return diffusion.masked_elbo(
      key, denoiser, tokens, mask_id=VOCAB, where=where, num_samples=DRAWS
    ).value

  def peer(tokens):
    for _ in range(DRAWS):
      found = jax.block_until_ready(forward(tokens))
    return found

  return timing.paired_ratio(ours, peer, (tokens,), turns)[1]


def _numpy_any_order(log_probs: np.ndarray) -> float:
  """The likelihood of one sequence by dynamic programming, set by set."""
  length = log_probs.shape[-1]
  value = np.full(2**length, -np.inf)
  value[0] = 0.0
  for s in range(1, 2**length):
    last = [i for i in range(length) if s >> i & 1]
    terms = [value[s ^ (1 << i)] + log_probs[s ^ (1 << i), i] for i in last]
    value[s] = scipy.special.logsumexp(terms)
    value[s] -= np.log(length - len(last) + 1)
  return value[-1]


@harness.double_precision
def any_order_ratio(
  key: jax.Array, *, num_sequences: int, loop: int
) -> tuple[float, float]:
  """Time of the loop over ours, a sequence, and their largest difference.

  Ours asks the denoiser as well; the loop is given the answers for nothing.
  """
  weights_key, tokens_key = jax.random.split(key)
  size = EXACT_LENGTH * (EXACT_VOCAB + 1), EXACT_LENGTH * EXACT_VOCAB
  weights = jax.random.normal(weights_key, size)
  shape = num_sequences, EXACT_LENGTH
  tokens = jax.random.randint(tokens_key, shape, 0, EXACT_VOCAB)

  def denoiser(z):
    seen = jax.nn.one_hot(z, EXACT_VOCAB + 1).reshape(*z.shape[:-1], -1)
    return (seen @ weights).reshape(*z.shape, EXACT_VOCAB)

  def scores(x):
    return exact.subset_log_probs(denoiser, x, mask_id=EXACT_VOCAB)

  @jax.jit
  def ours(tokens):
    def one(x):
      return exact.any_order_log_prob(scores(x))

    return jax.lax.map(one, tokens, batch_size=min(20, num_sequences))

  found = np.asarray(ours(tokens))
  each = timing.seconds(ours, tokens) / num_sequences
  given = np.asarray(jax.jit(jax.vmap(scores))(tokens[:loop]))
  start = time.perf_counter()
  theirs = [_numpy_any_order(x) for x in given]
  ratio = (time.perf_counter() - start) / loop / each
  return ratio, np.abs(found[:loop] - theirs).max()


def _sample(denoiser, key, alphas):
  prompt = jnp.zeros(LENGTH, jnp.int32)
  where = jnp.ones(LENGTH, bool)
  return diffusion.ancestral_sample(
    key, denoiser, prompt, where, alphas, mask_id=VOCAB
  )


def sampler_ratio(denoiser, key: jax.Array, turns: int) -> float:
  """Wall-clock of a sample over that of as many forwards as it counted."""
  alphas = 1 - jnp.arange(SAMPLER_STEPS + 1) / SAMPLER_STEPS
  forward = jax.jit(denoiser)
  sample = jax.jit(functools.partial(_sample, denoiser))
  z = jnp.full(LENGTH, VOCAB)
  jax.block_until_ready((forward(z), sample(key, alphas)))
  ratios = []
  for i in range(turns):
    draw = jax.random.fold_in(key, i)
    before = timing.seconds(forward, z)
    took = timing.seconds(sample, draw, alphas)
    count = int(sample(draw, alphas).num_forwards)
    each = [timing.seconds(forward, z) for _ in range(count)]
    ratios.append(took / (count * np.median([before, *each])))
  return float(np.median(ratios))


def forward_counts(key: jax.Array, num_samples: int):
  """Forwards of samples `[N]`, and their mean by the formula."""
  alphas = 1 - jnp.arange(SAMPLER_STEPS + 1) / SAMPLER_STEPS

  def fair(z):
    return jnp.zeros((*z.shape, VOCAB))

  count = jax.jit(jax.vmap(lambda key: _sample(fair, key, alphas).num_forwards))
  found = count(jax.random.split(key, num_samples))
  return np.asarray(found), float(diffusion.expected_nfe(alphas, LENGTH))


def diffusion_part(
  key: jax.Array, *, turns: int, num_sequences: int, loop: int, samples: int
) -> harness.Part:
  """Claims on the cost of bounds, exact likelihoods and samples.

  Args:
    key: of weights, tokens and draws.
    turns: paired timings.
    num_sequences: exact likelihoods.
    loop: of them, how many the peer computes.
    samples: whose forwards are counted.
  """
  net_key, elbo_key, exact_key, sample_key, count_key = jax.random.split(key, 5)
  denoiser = transformer(net_key)
  elbo = elbo_ratio(denoiser, elbo_key, turns)
  faster, difference = any_order_ratio(
    exact_key, num_sequences=num_sequences, loop=loop
  )
  wall = sampler_ratio(denoiser, sample_key, turns)
  counts, expected = forward_counts(count_key, samples)
  standard_error = counts.std(ddof=1) / np.sqrt(samples)
  claims = [
    harness.Claim(
      name="masked ELBO",
      statement=f"time of a masked ELBO of {DRAWS} draws over {DRAWS} forwards",
      theory=1.15,
      measured=elbo,
      tolerance=0,
      relation="<=",
    ),
    harness.Claim(
      name="any-order likelihood",
      statement="time of a NumPy loop over exact any-order likelihoods of 12"
      " tokens over that of one program",
      theory=50.0,
      measured=faster,
      tolerance=0,
      relation=">=",
    ),
    harness.Claim(
      name="any-order agreement",
      statement="largest difference between its likelihoods and the loop's",
      theory=0.0,
      measured=difference,
      tolerance=1e-10,  # 4096 sums of logarithms of order 10 in float64
    ),
    harness.Claim(
      name="forwards",
      statement=f"forwards of {SAMPLER_STEPS} ancestral steps, {LENGTH} tokens",
      theory=expected,
      measured=counts.mean(),
      tolerance=harness.STANDARD_ERRORS * standard_error,
      interval=harness.confidence_interval(counts),
    ),
    harness.Claim(
      name="cached sampling",
      statement="wall-clock of a sample over that of its forwards alone",
      theory=1.2,
      measured=wall,
      tolerance=0,
      relation="<=",
    ),
  ]
  return harness.Part(claims, {}, {})

# SPDX-License-Identifier: Apache-2.0
"""Sequential Monte Carlo over sequences: particle filter, particle Gibbs.

The target over sequences of T tokens is a base law times potentials of
prefixes, `prod_t p(x_t | x_<t) prod_t G_t(x_<=t) / Z`. Two functions of one
particle describe it:

  step_fn(key, tokens, t) -> token       draws x_t ~ p(. | tokens[:t])
  log_potential(tokens, t) -> log G_t    of the prefix tokens[:t + 1]

`tokens` is int32 `[T]` and 0 past what has been drawn; t runs from 0. The
potentials multiply: a score s_t of the whole prefix that shall count once
enters as `log s_t - log s_{t-1}`, while `logit(s_t) / temperature` at every
step is the target in which the odds of all steps multiply.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "RESAMPLING",
  "SMCResult",
  "effective_sample_size",
  "particle_filter",
  "particle_gibbs_step",
  "resample_indices",
)

RESAMPLING = ("multinomial", "systematic")

StepFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
LogPotential = Callable[[jax.Array, jax.Array], jax.Array]


class SMCResult(NamedTuple):
  """Weighted particles; `sum(exp(log_weights) f)` estimates the mean of f."""

  particles: jax.Array  # int32 [n, T]
  log_weights: jax.Array  # [n], normalised; all -inf where log_z is
  log_z: jax.Array  # [], exp(log_z) is an unbiased estimate of Z


# --- weights -----------------------------------------------------------------


def effective_sample_size(log_weights: jax.Array) -> jax.Array:
  """How many equal weights are as uneven as these.

  `(sum w)^2 / sum w^2`.

  Args:
    log_weights: `[..., n]`, unnormalised; -inf allowed.

  Returns:
    `[...]`, in `[1, n]`; 0 where all weights are 0.

  Raises:
    AssertionError: not floating point.

  >>> print(effective_sample_size(jnp.log(jnp.array([.5, .5, 0.]))))
  2.0

  Reference:
    Kong, Liu and Wong, Sequential Imputations (1994).
  """
  checks.check_float(log_weights=log_weights)
  log_weights = numerics.as_float(log_weights)
  live = log_weights > -jnp.inf
  log_probs = numerics.masked_log_softmax(log_weights, live)
  square = numerics.masked_logsumexp(2 * log_probs, live, -1)
  some = jnp.any(live, -1)
  return jnp.where(some, jnp.exp(-jnp.where(some, square, 0)), 0)


def resample_indices(
  key: jax.Array, log_weights: jax.Array, *, resample: str = "multinomial"
) -> jax.Array:
  """Ancestors of the next generation: `n w_i` of them are i, in expectation.

  `"multinomial"` draws them independently. `"systematic"` puts one comb of
  spacing 1/n, with one random offset, on the cumulated weights: i has
  `floor(n w_i)` or `ceil(n w_i)` children.

  Args:
    key: a typed key.
    log_weights: `[n]`, unnormalised, not all -inf.
    resample: `"multinomial"` or `"systematic"`.

  Returns:
    int32 `[n]`; never an i of weight 0.

  Raises:
    AssertionError: rank or type.
    ValueError: unknown scheme.

  >>> log_weights = jnp.log(jnp.array([.5, 0., .25, .25]))
  >>> key = jax.random.key(0)
  >>> print(resample_indices(key, log_weights, resample="systematic"))
  [0 0 2 3]

  Reference:
    Douc and Cappe, Comparison of Resampling Schemes for Particle Filtering
    (cs/0507025).
  """
  checks.check_rank(1, log_weights=log_weights)
  checks.check_float(log_weights=log_weights)
  checks.check_choice("resample", resample, RESAMPLING)
  log_weights = numerics.as_float(log_weights)
  n = log_weights.shape[0]
  # Points of the unit interval, each taken by the weight that it falls on.
  edges = jnp.cumsum(jax.nn.softmax(log_weights))
  if resample == "multinomial":
    points = jax.random.uniform(key, (n,), edges.dtype)
  else:
    points = (jnp.arange(n) + jax.random.uniform(key, (), edges.dtype)) / n
  # Rounding must not carry a point to the last edge or past it.
  points = jnp.minimum(points, 1 - jnp.finfo(edges.dtype).epsneg) * edges[-1]
  return jnp.searchsorted(edges, points, side="right").astype("int32")


# --- particles ---------------------------------------------------------------


def _check_counts(n: int, length: int, fewest: int) -> None:
  if n < fewest:
    raise ValueError(f"n must be at least {fewest}, was {n}")
  if length < 1:
    raise ValueError(f"length must be at least 1, was {length}")


def _empty(
  log_potential: LogPotential, n: int, length: int
) -> tuple[jax.Array, jax.Array]:
  """Particles without tokens, and their log-weights 0."""
  particles = jnp.zeros((n, length), jnp.int32)
  potential = jax.eval_shape(log_potential, particles[0], jnp.int32(0))
  dtype = jnp.promote_types(potential.dtype, jnp.float32)
  return particles, jnp.zeros(n, dtype)


def _draw(
  key: jax.Array, step_fn: StepFn, particles: jax.Array, t: jax.Array
) -> jax.Array:
  """The next token of each particle, int32 `[n]`."""
  keys = jax.random.split(key, particles.shape[0])
  tokens = jax.vmap(step_fn, (0, 0, None))(keys, particles, t)
  return tokens.astype(jnp.int32)


def particle_filter(
  key: jax.Array,
  step_fn: StepFn,
  log_potential: LogPotential,
  n: int,
  length: int,
  *,
  resample: str = "multinomial",
  ess_threshold: float = 1.0,
) -> SMCResult:
  """Sequences from a base law reweighted by potentials of their prefixes.

  At each step: resample, extend by the base law, multiply the weights by G_t.
  `Z_hat = prod (mean weight)` over the steps that end in resampling and the
  last has mean Z for every n; weighted means of functions have a bias of order
  1/n. The last weights are left to the caller, as they are or through
  `resample_indices`. With n = 1 it is importance sampling of one sequence.

  Args:
    key: a typed key.
    step_fn: `(key, tokens [T], t) -> token`, from the base law; integer.
    log_potential: `(tokens [T], t) -> log G_t`, nats; -inf allowed.
    n: the number of particles.
    length: T, tokens of a sequence.
    resample: `"multinomial"` or `"systematic"`.
    ess_threshold: c: resample where the effective sample size is below `c n`,
      carry the weights otherwise. 1 resamples at every step, 0 never.

  Returns:
    `SMCResult`. Where all particles have died, log_z and the weights are -inf.

  Raises:
    ValueError: n or length is below 1, ess_threshold is outside [0, 1], or an
      unknown scheme.

  >>> coin = lambda key, tokens, t: jax.random.bernoulli(key)
  >>> count_ones = lambda tokens, t: tokens[t] * jnp.log(3.)
  >>> result = particle_filter(jax.random.key(0), coin, count_ones, 4096, 3)
  >>> print(f"{result.log_z:.2f} against {3 * jnp.log(2.):.2f}")
  2.08 against 2.08

  Reference:
    A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using
    Particle-Based Monte Carlo Methods (2502.01618), section 3; Del Moral,
    Feynman-Kac Formulae (2004), for the unbiased Z.
  """
  _check_counts(n, length, 1)
  checks.check_choice("resample", resample, RESAMPLING)
  if not 0 <= ess_threshold <= 1:
    raise ValueError(f"ess_threshold must be in [0, 1], was {ess_threshold}")

  def log_mean(log_weights):
    live = log_weights > -jnp.inf
    return numerics.masked_logsumexp(log_weights, live) - math.log(n)

  def advance(state, t):
    particles, log_weights, log_z = state
    pick, extend = jax.random.split(jax.random.fold_in(key, t))
    if ess_threshold > 0:
      # The dead stay dead: with all weights 0 there is nothing to draw from.
      due = jnp.any(log_weights > -jnp.inf)
      if ess_threshold < 1:
        due &= effective_sample_size(log_weights) < ess_threshold * n
      safe = jnp.where(due, log_weights, 0)
      ancestors = resample_indices(pick, safe, resample=resample)
      particles = jnp.where(due, particles[ancestors], particles)
      log_z += jnp.where(due, log_mean(safe), 0)
      log_weights = jnp.where(due, 0, log_weights)
    particles = particles.at[:, t].set(_draw(extend, step_fn, particles, t))
    log_weights += jax.vmap(log_potential, (0, None))(particles, t)
    return (particles, log_weights, log_z), None

  particles, log_weights = _empty(log_potential, n, length)
  start = (particles, log_weights, jnp.zeros((), log_weights.dtype))
  (particles, log_weights, log_z), _ = jax.lax.scan(
    advance, start, jnp.arange(length)
  )
  return SMCResult(
    particles,
    numerics.masked_log_softmax(log_weights, log_weights > -jnp.inf),
    log_z + log_mean(log_weights),
  )


def particle_gibbs_step(
  key: jax.Array,
  retained: jax.Array,
  step_fn: StepFn,
  log_potential: LogPotential,
  n: int,
) -> jax.Array:
  """One sweep of particle Gibbs: a Markov step that keeps the target.

  A particle filter in which particle 0 is the retained path, at every step,
  while the n - 1 others draw their ancestors from all n and extend by the base
  law; then the new path is drawn by the final weights. The target is invariant
  for every n, and a sweep tends to an independent draw as n grows.

  Args:
    key: a typed key.
    retained: integers `[T]`, the path so far, of positive weight.
    step_fn: `(key, tokens [T], t) -> token`, from the base law; integer.
    log_potential: `(tokens [T], t) -> log G_t`, nats; -inf allowed.
    n: the number of particles, the retained one among them; at least 2.

  Returns:
    int32 `[T]`, the new path.

  Raises:
    AssertionError: retained is not of rank 1 or not of integers.
    ValueError: n is below 2, or the path is empty.

  >>> coin = lambda key, tokens, t: jax.random.bernoulli(key)
  >>> all_ones = lambda tokens, t: jnp.log(tokens[t] * 1.)
  >>> path = jnp.ones(3, jnp.int32)
  >>> print(particle_gibbs_step(jax.random.key(0), path, coin, all_ones, 4))
  [1 1 1]

  Reference:
    Andrieu, Doucet and Holenstein, Particle Markov Chain Monte Carlo Methods
    (2010), section 2.4; A Probabilistic Inference Approach to Inference-Time
    Scaling of LLMs using Particle-Based Monte Carlo Methods (2502.01618).
  """
  checks.check_rank(1, retained=retained)
  chex.assert_type(retained, int)
  length = retained.shape[0]
  _check_counts(n, length, 2)
  retained = retained.astype(jnp.int32)

  def advance(state, t):
    particles, log_weights = state
    pick, extend = jax.random.split(jax.random.fold_in(key, t))
    ancestors = resample_indices(pick, log_weights).at[0].set(0)
    particles = particles[ancestors]
    tokens = _draw(extend, step_fn, particles, t).at[0].set(retained[t])
    particles = particles.at[:, t].set(tokens)
    potentials = jax.vmap(log_potential, (0, None))(particles, t)
    return (particles, potentials.astype(log_weights.dtype)), None

  (particles, log_weights), _ = jax.lax.scan(
    advance, _empty(log_potential, n, length), jnp.arange(length)
  )
  # Steps have folded in 0 to T - 1.
  chosen = jax.random.categorical(jax.random.fold_in(key, length), log_weights)
  return particles[chosen]

# SPDX-License-Identifier: Apache-2.0
"""Times and masks for estimates of masked-diffusion bounds.

Masks depend on the key, `where` and the options, on neither the tokens nor the
denoiser: with one key, old and new parameters are compared on the same draws.

Weights of 1/t have infinite variance (a single mask at time t has probability
of order t, and counts 1/t): of the estimators, "bernoulli" and "coupled_t" are
for comparison. "fixed_count" and "coupled" count masks, and divide by those.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.diffusion import samplers, schedules

__all__ = (
  "ESTIMATORS",
  "TIME_METHODS",
  "MaskDraws",
  "block_masks_from_noise",
  "draw_block_masks",
  "draw_masks",
  "masks_from_noise",
  "sample_times",
  "t_step_masks_from_noise",
)

ESTIMATORS = ("bernoulli", "coupled", "coupled_t", "fixed_count")
TIME_METHODS = ("iid", "single_u", "stratified")


class MaskDraws(NamedTuple):
  """Maskings of each sequence: m draws of K forwards, K = 2 if coupled.

  The mean over draws of `sum_k weights_k sum_{l in masked_k} log p(x_l | z_k)`
  estimates the bound.

  Attributes:
    masked: bool `[..., m, K, L]`, the masked positions that are scored.
    weights: `[..., m, K]`; 0 where nothing is masked.
    length: int32 `[...]`, tokens that the bound is about.
    hidden: bool `[..., m, K, L]`, positions that the denoiser does not see;
      None for those that are scored.
  """

  masked: jax.Array
  weights: jax.Array
  length: jax.Array
  hidden: jax.Array | None = None


# --- times -------------------------------------------------------------------


def sample_times(key: jax.Array, n: int, method: str = "iid") -> jax.Array:
  """Times in (0, 1] whose mean over the n has the uniform law.

  `"iid"` draws each alone; `"stratified"` one from each nth part of the range;
  `"single_u"` shifts a comb of spacing 1/n by one draw. The last two lie more
  evenly: averages over the n vary less, but are not of independent draws.

  Args:
    key: a typed key.
    n: how many, at least 1.
    method: `"iid"`, `"stratified"` or `"single_u"`.

  Returns:
    `[n]`.

  Raises:
    ValueError: n is below 1, or an unknown method.

  >>> t = sample_times(jax.random.key(0), 4, "stratified")
  >>> print(jnp.sort(jnp.ceil(4 * t)))
  [1. 2. 3. 4.]

  Reference:
    MDLM (2406.07524), released code; Variational Diffusion Models (2107.00630),
    appendix I.1.
  """
  checks.check_choice("method", method, TIME_METHODS)
  if n < 1:
    raise ValueError(f"n must be at least 1, was {n}")
  u = jax.random.uniform(key, () if method == "single_u" else (n,))
  if method == "stratified":
    u = (u + jnp.arange(n)) / n
  elif method == "single_u":
    u = (u + jnp.arange(n) / n) % 1
  # `uniform` may be 0 and never 1, unless by rounding: t is turned around.
  return jnp.maximum(1 - u, jnp.finfo(u.dtype).epsneg)


# --- draws -------------------------------------------------------------------


def _check_where(where: jax.Array) -> None:
  chex.assert_type(where, bool)
  if jnp.ndim(where) < 1:
    raise ValueError("where must be [..., L], was a scalar")


def _check_noise(times: jax.Array, noise: jax.Array, where: jax.Array) -> None:
  _check_where(where)
  checks.check_float(times=times, noise=noise)
  shape = (*where.shape[:-1], *times.shape[-1:], where.shape[-1])
  if times.shape != shape[:-1] or noise.shape != shape:
    raise ValueError(
      f"times must be [..., m] and noise [..., m, L] for where {where.shape},"
      f" were {times.shape} and {noise.shape}"
    )


def _fixed_count(noise, where, count):
  """The `count` positions of least noise, of those that where selects."""
  noise = jnp.where(where, noise, jnp.inf)
  rank = jnp.argsort(jnp.argsort(noise, -1), -1)
  return where & (rank < count[..., None])


def _inverse(x: jax.Array, live: jax.Array) -> jax.Array:
  return jnp.where(live, 1 / jnp.where(live, x, 1), 0)


def masks_from_noise(
  times: jax.Array, noise: jax.Array, where: jax.Array, *, estimator: str
) -> MaskDraws:
  """Masks and weights, as a function of uniform numbers.

  For a sequence of n tokens, with S(M) the sum of `log p(x_l | z)` over masks:

  - bernoulli: noise below t is masked; `S(M) / t`;
  - fixed_count: `k = ceil(t n)` tokens, those of least noise; `(n / k) S(M)`;
  - coupled: `k = ceil(t (n + 1)) - 1` tokens, and all others in a second
    forward; `((n + 1) / 2) (S(M) / k + S(M^c) / (n - k))`;
  - coupled_t: bernoulli, and its complement in a second forward;
    `(S(M) / t + S(M^c) / (1 - t)) / 2`.

  Terms without masks are dropped. Over uniform noise and times all have the
  mean `int_0^1 E[S(M_t)] dt / t`, which is the bound.

  Args:
    times: `[..., m]`, in (0, 1]; any whose mean over m has the uniform law.
    noise: `[..., m, L]`, uniform in [0, 1).
    where: bool `[..., L]`, tokens that may be masked.
    estimator: one of `ESTIMATORS`.

  Returns:
    `MaskDraws`.

  Raises:
    ValueError: shapes do not fit, unknown estimator, or a time outside (0, 1].

  >>> draws = masks_from_noise(jnp.array([.5]), jnp.array([[.2, .7, .4, .1]]),
  ...   jnp.array([True, True, True, False]), estimator="fixed_count")
  >>> print(draws.masked.astype(int), draws.weights)
  [[[1 0 1 0]]] [[1.5]]

  Reference:
    LLaDA (2502.09992), appendix B; RADD (2406.03736), section 4; ESPO
    (2512.03759), for the coupled one.
  """
  checks.check_choice("estimator", estimator, ESTIMATORS)
  _check_noise(times, noise, where)
  t = schedules.check_times(times)
  length = jnp.sum(where, -1, dtype=jnp.int32)
  n, allowed = length[..., None], where[..., None, :]
  if estimator in ("bernoulli", "coupled_t"):
    masked = allowed & (noise < t[..., None])
    scales = (t, 1 - t)
  elif estimator == "fixed_count":
    count = jnp.ceil(t * n)
    masked = _fixed_count(noise, allowed, count)
    scales = (count / jnp.maximum(n, 1),)
  else:
    count = jnp.ceil(t * (n + 1)) - 1
    masked = _fixed_count(noise, allowed, count)
    scales = (count / (n + 1), (n - count) / (n + 1))
  if estimator in ("bernoulli", "fixed_count"):
    masked, scale = masked[..., None, :], scales[0][..., None]
  else:
    masked = jnp.stack((masked, allowed & ~masked), -2)
    scale = 2 * jnp.stack(scales, -1)
  # With a mask there is noise below t (or, in the complement, above): the
  # scale is not 0.
  return MaskDraws(masked, _inverse(scale, jnp.any(masked, -1)), length)


def t_step_masks_from_noise(
  times: jax.Array, noise: jax.Array, where: jax.Array, alphas: jax.Array
) -> MaskDraws:
  """Masks and weights of the bound in T steps, from uniform numbers.

  Step `i = ceil(t T)`, masks with probability `1 - alpha_i`, and the weight
  `T (alpha_{i-1} - alpha_i) / (1 - alpha_i)`.

  Args:
    times: `[..., m]`, in (0, 1]; any whose mean over m has the uniform law.
    noise: `[..., m, L]`, uniform in [0, 1).
    where: bool `[..., L]`, tokens that may be masked.
    alphas: `[T + 1]`, from 1 down to 0.

  Returns:
    `MaskDraws`, of one forward a draw.

  Raises:
    ValueError: shapes do not fit, a time outside (0, 1], or no such alphas.

  >>> draws = t_step_masks_from_noise(jnp.array([.4]), jnp.array([[.2, .7]]),
  ...   jnp.array([True, True]), jnp.array([1., .5, 0.]))
  >>> print(draws.masked.astype(int), draws.weights)
  [[[1 0]]] [[2.]]

  Reference:
    MDLM (2406.07524), equation 8.
  """
  _check_noise(times, noise, where)
  probs = samplers.ancestral_probs(alphas)
  t = schedules.check_times(times)
  num_steps = probs.shape[0]
  step = jnp.ceil(t * num_steps).astype(jnp.int32) - 1
  share = (1 - numerics.as_float(alphas)[1:])[step]
  masked = where[..., None, :] & (noise < share[..., None])
  weights = jnp.where(jnp.any(masked, -1), num_steps * probs[step], 0)
  length = jnp.sum(where, -1, dtype=jnp.int32)
  return MaskDraws(masked[..., None, :], weights[..., None], length)


def block_masks_from_noise(
  times: jax.Array, noise: jax.Array, where: jax.Array, *, num_blocks: int
) -> MaskDraws:
  """Masks and weights of the semi-autoregressive bound, from uniform numbers.

  A block `j = ceil(t J) - 1` of the J, filled from the left; earlier blocks are
  seen, later ones are masked and not scored, and in its own the
  `k = ceil((t J - j) n_j)` tokens of least noise are masked and have the weight
  `J n_j / k`. The mean is the bound on sampling block by block, in any order
  within each.

  Args:
    times: `[..., m]`, in (0, 1]; any whose mean over m has the uniform law.
    noise: `[..., m, L]`, uniform in [0, 1).
    where: bool `[..., L]`, tokens to generate.
    num_blocks: J, at least 1; runs of equal length but for one.

  Returns:
    `MaskDraws`, of one forward a draw.

  Raises:
    ValueError: shapes do not fit, a time outside (0, 1], or J below 1.

  >>> draws = block_masks_from_noise(jnp.array([.5]), jnp.array([[.2, .7, .4]]),
  ...   jnp.ones(3, bool), num_blocks=3)
  >>> print(draws.masked.astype(int), draws.hidden.astype(int), draws.weights)
  [[[0 1 0]]] [[[0 1 1]]] [[3.]]

  Reference:
    SPG (2510.09541), block-wise masking.
  """
  if num_blocks < 1:
    raise ValueError(f"num_blocks must be at least 1, was {num_blocks}")
  _check_noise(times, noise, where)
  t = num_blocks * schedules.check_times(times)
  current = jnp.ceil(t) - 1
  block = samplers.block_numbers(where, num_blocks)[..., None, :]
  inside = where[..., None, :] & (block == current[..., None])
  size = jnp.sum(inside, -1, dtype=jnp.int32)
  count = jnp.ceil((t - current) * size)
  masked = _fixed_count(noise, inside, count)
  later = where[..., None, :] & (block > current[..., None])
  scale = count / (num_blocks * jnp.maximum(size, 1))
  return MaskDraws(
    masked[..., None, :],
    _inverse(scale, jnp.any(masked, -1))[..., None],
    jnp.sum(where, -1, dtype=jnp.int32),
    (masked | later)[..., None, :],
  )


def uniforms(key, where, num_samples):
  """Times `[..., m]` and noise `[..., m, L]`, all independent."""
  _check_where(where)
  if num_samples < 1:
    raise ValueError(f"num_samples must be at least 1, was {num_samples}")
  time_key, noise_key = jax.random.split(key)
  shape = (*where.shape[:-1], num_samples)
  times = 1 - jax.random.uniform(time_key, shape)  # never 0
  return times, jax.random.uniform(noise_key, (*shape, where.shape[-1]))


def draw_masks(
  key: jax.Array,
  where: jax.Array,
  *,
  num_samples: int,
  estimator: str = "fixed_count",
) -> MaskDraws:
  """Masks and weights for estimates of the bound.

  `masks_from_noise` of independent uniform times and noise; call that with
  `sample_times` for times that lie more evenly.

  Args:
    key: a typed key, all that is random.
    where: bool `[..., L]`, tokens that may be masked.
    num_samples: m, draws for each sequence; two forwards each if coupled.
    estimator: one of `ESTIMATORS`.

  Returns:
    `MaskDraws`.

  Raises:
    ValueError: num_samples is below 1, or an unknown estimator.

  >>> draws = draw_masks(jax.random.key(0), jnp.ones((2, 3), bool),
  ...   num_samples=4, estimator="coupled")
  >>> draws.masked.shape
  (2, 4, 2, 3)

  Reference:
    LLaDA (2502.09992), appendix B.
  """
  times, noise = uniforms(key, where, num_samples)
  return masks_from_noise(times, noise, where, estimator=estimator)


def draw_block_masks(
  key: jax.Array, where: jax.Array, *, num_samples: int, num_blocks: int
) -> MaskDraws:
  """Masks and weights for estimates of the semi-autoregressive bound.

  `block_masks_from_noise` of independent uniform times and noise.

  Args:
    key: a typed key, all that is random.
    where: bool `[..., L]`, tokens to generate.
    num_samples: m, draws for each sequence.
    num_blocks: J, at least 1.

  Returns:
    `MaskDraws`.

  Raises:
    ValueError: num_samples or J is below 1.

  >>> draws = draw_block_masks(jax.random.key(0), jnp.ones((2, 4), bool),
  ...   num_samples=3, num_blocks=2)
  >>> draws.hidden.shape
  (2, 3, 1, 4)

  Reference:
    SPG (2510.09541), block-wise masking.
  """
  times, noise = uniforms(key, where, num_samples)
  return block_masks_from_noise(times, noise, where, num_blocks=num_blocks)

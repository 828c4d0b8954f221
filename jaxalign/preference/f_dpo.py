# SPDX-License-Identifier: Apache-2.0
"""Direct preference optimisation under any f-divergence that admits it."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxalign import checks
from jaxalign.divergences import generators, terms
from jaxalign.preference import pairs

__all__ = ("f_dpo_loss",)


def _fits(h: jax.Array, slope: jax.Array) -> jax.Array:
  """Where the slope at h is in the type, bool `[...]`."""
  # Where u leaves the type, custom divergences have slope 0 for infinite ones.
  far = jnp.abs(h) > math.log(float(jnp.finfo(h.dtype).max)) - 1
  return jnp.isfinite(slope) & ~(far & (slope == 0)) & ~jnp.isnan(h)


def _slope(div: generators.FDivergence, h: jax.Array) -> jax.Array:
  return terms.slope_in_p(div.term, jnp.zeros_like(h), -h)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gain(div: generators.FDivergence, h: jax.Array) -> jax.Array:
  """`f'(e^h) - f'(1)`, `[...]` like h; u itself is never formed.

  -inf or +inf, with gradient 0, where it is too large for the type.
  """
  slope = _slope(div, h)
  return jnp.where(_fits(h, slope), slope, h * jnp.inf)


@_gain.defjvp
def _gain_jvp(div, primals, tangents):
  (h,), (tangent,) = primals, tangents
  slope, second = jax.jvp(
    functools.partial(_slope, div), (h,), (jnp.ones_like(h),)
  )
  fits = _fits(h, slope)
  gain = jnp.where(fits, slope, h * jnp.inf)
  return gain, jnp.where(fits, second, 0) * tangent


@functools.cache
def _slope_at_zero(div: generators.FDivergence) -> float:
  """`f'(0) - f'(1)`, read in float64: the last of two points that agree.

  The nearer points are for custom divergences, which end at the type's range,
  the farther ones for orders just above 1.
  """
  with jax.enable_x64(True), jax.ensure_compile_time_eval():
    points = jnp.array([-300.0, -600.0, -1e150, -2e150], jnp.float64)
    at = jax.jit(_gain, static_argnums=0)(div, points).tolist()
  for first, last in (at[:2], at[2:]):
    if math.isfinite(last) and abs(last - first) <= 1e-6 * (1 + abs(last)):
      return last
  return -math.inf


def f_dpo_loss(
  logps: pairs.PairLogps,
  *,
  div: generators.FDivergence,
  beta: float = 0.1,
  clamp: float | None = None,
) -> pairs.PairLoss:
  """Direct preference optimisation with an f-divergence as regulariser.

  `-log sigmoid(beta (f'(e^(h_w)) - f'(e^(h_l))))`, `h = log(pi/ref)`. With
  Bradley-Terry labels of rewards r the minimiser is that of `divergences.
  regularized_maximizer`, the maximiser of `E r - beta D_f(pi||ref)`. `kl` is
  `dpo_loss`; only there is the loss invariant to a constant added to the
  policy's two scores. Strengths at equal beta differ: compare `beta f''(1)`.

  For `kl` and `jensen_shannon` f' falls like h where h << 0, for others like a
  power of e^-h: where that overflows (`reverse_kl` in float32: h < -88) the
  loss is +inf (chosen) or 0 (rejected), without gradient. Those of custom
  divergences are infinite beyond `|h| = 87` in float32, where u overflows.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    div: a divergence with `f'(0) = -inf`: `kl`, `reverse_kl`,
      `jensen_shannon`, `jeffreys`, `squared_hellinger`, `neyman_chi2`, alpha
      of order up to 1, or a custom one. Static.
    beta: above 0, the divergence's weight in units of the reward.
    clamp: where given, above 0: h below `-clamp` is taken to be `-clamp`, and
      has no gradient.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta (f'(e^h) - f'(1))`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta or clamp not above 0, a divergence with finite `f'(0)`, or
      no reference.

  >>> one = jnp.ones(1)
  >>> data = pairs.PairLogps(-one, -2 * one, -one, -one)
  >>> forward = generators.f_divergence("reverse_kl")
  >>> loss = f_dpo_loss(data, div=forward, beta=1.).loss  # softplus(1 - e)
  >>> print(f"{loss[0]:.4f}")
  0.1650

  Reference:
    Beyond Reverse KL (2309.16240), theorem 1 and table 1.
  """
  checks.check_positive(beta=beta)
  if math.isfinite(_slope_at_zero(div)):
    raise ValueError(
      f"f_dpo needs a divergence with f'(0) = -inf, that of {div.name} is"
      " finite: its optimum has exact zeros, which the pairwise form cannot"
      " reach; choose kl, jensen_shannon or reverse_kl, for example"
    )
  h = pairs.log_ratios("f_dpo", logps)
  if clamp is not None:
    checks.check_positive(clamp=clamp)
    h = [jnp.maximum(x, -clamp) for x in h]
  chosen, rejected = (beta * _gain(div, x) for x in h)
  return pairs.output(-jax.nn.log_sigmoid(chosen - rejected), chosen, rejected)

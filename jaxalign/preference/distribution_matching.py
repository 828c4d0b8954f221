# SPDX-License-Identifier: Apache-2.0
"""Policies that approximate an explicit target distribution (f-DPG, GDC).

Targets p are known up to their sum Z: that of a reward against a reference,
`log p = log_softmax(log_ref + rewards / beta)`; that of moments, `gdc_target`;
a constraint's, for which `inference.dpg_surrogate` is the special case
KL(p||pi).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, divergences, numerics
from jaxalign.divergences import terms

__all__ = (
  "GDCTarget",
  "MatchingLoss",
  "Partition",
  "fdpg_surrogate",
  "gdc_target",
  "partition_init",
  "partition_update",
)


class MatchingLoss(NamedTuple):
  """What a sample says about the way to the target.

  Attributes:
    loss: `[...]`, whose gradient is meant and whose value is nothing.
    slope: `[...]`, `f'(pi/p) - f'(1)`, without gradient: what a baseline
      averages.
  """

  loss: jax.Array
  slope: jax.Array


def fdpg_surrogate(
  div: divergences.FDivergence,
  logp: jax.Array,
  target_logp: jax.Array,
  proposal_logp: jax.Array,
  baseline: float | jax.Array = 0.0,
) -> MatchingLoss:
  """f-DPG: descends `D_f(pi||p)` from samples of a proposal.

  `sg((pi/q) (f'(t) - f'(1) - b)) log pi` with `t = pi/p` and samples of q (sg
  stops the gradient). The expectation of its gradient is the gradient of
  `D_f(pi||p)`, for any b. Nothing overflows that is finite.

  Args:
    div: the divergence, an `FDivergence`; KL(pi||p) is `kl`, KL(p||pi) is
      `reverse_kl`. The paper's Jensen-Shannon is twice ours.
    logp: `[...]`, the policy's log-probabilities; differentiated.
    target_logp: `[...]`, the target's, normalised: subtract `Partition.log_z`.
    proposal_logp: `[...]`, of the distribution that was sampled; finite.
    baseline: b, a scalar or `[...]`, constant; in the paper the mean of the
      last 1024 slopes of samples of pi, which leaves less variance.

  Returns:
    `MatchingLoss`, arrays `[...]`; both are 0 where the policy has no mass,
    and may be infinite where the target has none.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> div = divergences.f_divergence("kl")
  >>> log_pi, log_p = jnp.log(jnp.array([[.5, .5], [.25, .75]]))
  >>> print(fdpg_surrogate(div, log_pi, log_p, log_pi).slope.round(4))
  [ 0.6931 -0.4055]

  Reference:
    Aligning Language Models with Preferences through f-divergence Minimization
    (2302.08215), theorem 1.
  """
  given = {"logp": logp, "target": target_logp, "proposal": proposal_logp}
  checks.check_same_shape(**given)
  checks.check_float(**given)
  logp = numerics.as_float(logp)
  live = logp > -jnp.inf
  score = jnp.where(live, logp, 0)
  fixed, target, proposal, baseline = (
    jax.lax.stop_gradient(jnp.asarray(x, logp.dtype))
    for x in (score, target_logp, proposal_logp, baseline)
  )
  meant = target > -jnp.inf
  both = live & meant
  log_weight = jnp.where(live, fixed - proposal, 0)
  weight = jnp.where(live, jnp.exp(log_weight), 0)
  log_target = jnp.where(both, target - proposal, log_weight)
  log_t = log_weight - log_target
  pull_of = functools.partial(terms.slope_in_p, div.term)
  # Without mass in the target f' is at its limit, which may be infinite.
  limit = jnp.asarray(div.f_prime_inf - div.f_prime_one, logp.dtype)
  limits = jnp.where(live, limit, 0)
  pull = jnp.where(meant, pull_of(log_weight, log_target), weight * limits)
  slope = jnp.where(meant, pull_of(jnp.zeros_like(log_t), -log_t), limits)
  pull = jnp.where(live, pull - weight * baseline, 0)
  return MatchingLoss(pull * score, jnp.where(live, slope, 0))


# --- the target's normaliser ------------------------------------------------


class Partition(NamedTuple):
  """Running estimate of a target's normaliser.

  Attributes:
    log_z: `[...]`, logarithm of the mean of P/q so far; -inf at first.
    count: `[...]`, number of samples so far.
  """

  log_z: jax.Array
  count: jax.Array


def partition_init(shape: tuple[int, ...] = ()) -> Partition:
  """The state before any sample.

  Args:
    shape: one estimate for each of these, for example a prompt.

  Returns:
    `Partition`, arrays of that shape.

  >>> print(partition_init().log_z)
  -inf

  Reference:
    Aligning Language Models with Preferences through f-divergence Minimization
    (2302.08215), algorithm 1.
  """
  return Partition(jnp.full(shape, -jnp.inf), jnp.zeros(shape))


def partition_update(
  state: Partition,
  log_target: jax.Array,
  proposal_logp: jax.Array,
  *,
  where: jax.Array | None = None,
) -> Partition:
  """Takes more samples of the proposal into the estimate of Z.

  Z is the mean of P/q over all samples so far, whatever q each of them was
  drawn from: unbiased where q covers P.

  Args:
    state: `Partition`, arrays `[...]`.
    log_target: `[..., N]`, log P of the samples, unnormalised; -inf for none.
    proposal_logp: `[..., N]`, log q, normalised; finite.
    where: bool `[..., N]`, samples to keep; all by default.

  Returns:
    `Partition`; without any sample kept, `state`.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.

  >>> log_target, logq = jnp.log(jnp.array([[1., 3.], [.5, .5]]))
  >>> state = partition_update(partition_init(), log_target, logq)
  >>> print(f"{jnp.exp(state.log_z):.1f}")
  4.0

  Reference:
    Aligning Language Models with Preferences through f-divergence Minimization
    (2302.08215), algorithm 1.
  """
  where = jnp.ones(jnp.shape(log_target), bool) if where is None else where
  checks.check_same_shape(
    log_target=log_target, proposal_logp=proposal_logp, where=where
  )
  checks.check_float(log_target=log_target, proposal_logp=proposal_logp)
  checks.check_same_shape(
    **{"state.log_z": state.log_z, "log_target[..., 0]": log_target[..., 0]}
  )
  log_weights = jnp.where(where, log_target, 0) - jnp.where(
    where, proposal_logp, 0
  )
  new = numerics.masked_logsumexp(numerics.as_float(log_weights), where, -1)
  new = jax.lax.stop_gradient(new)
  count = state.count + jnp.sum(where, -1)
  total = jnp.logaddexp(state.log_z + jnp.log(state.count), new)
  log_z = jnp.where(count > 0, total - jnp.log(jnp.maximum(count, 1)), -jnp.inf)
  return Partition(log_z, count)


# --- moment constraints -----------------------------------------------------


class GDCTarget(NamedTuple):
  """The distribution closest to a base that has given moments.

  Attributes:
    log_target: `[..., n]`, normalised.
    lam: `[..., k]`, its parameters.
    residual: `[...]`, largest distance of a moment from what is wanted.
    valid: bool `[...]`, whether the moments are met to rounding; False where no
      distribution on the base's support has them.
  """

  log_target: jax.Array
  lam: jax.Array
  residual: jax.Array
  valid: jax.Array


def gdc_target(
  log_base: jax.Array,
  features: jax.Array,
  moments: jax.Array,
  *,
  num_steps: int = 60,
) -> GDCTarget:
  """The target of distributional control: `p ~ a e^(lam phi)`, `E_p phi = mu`.

  Of all distributions with these moments p has the least `KL(p||a)`. lam is the
  minimum of the dual `log E_a e^(lam phi) - lam mu`, which is convex: Newton's
  method with a line search. The outcomes may be samples of a proposal q:
  `log_base = log a - log q` then, and the moments are importance-weighted.

  Args:
    log_base: `[..., n]`, log a, normalised or not; -inf for outcomes without
      mass, which stay without.
    features: `[..., n, k]`, phi of each outcome.
    moments: `[..., k]`, mu.
    num_steps: Newton steps.

  Returns:
    `GDCTarget`, constants: nothing is differentiated.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.

  >>> found = gdc_target(jnp.zeros(2), jnp.eye(2)[:, :1], jnp.array([.25]))
  >>> print(jnp.exp(found.log_target).round(4), found.valid)
  [0.25 0.75] True

  Reference:
    A Distributional Approach to Controlled Text Generation (2012.11635),
    section 2.
  """
  checks.check_float(log_base=log_base, features=features, moments=moments)
  checks.check_same_shape(
    **{"log_base": log_base, "features[..., 0]": features[..., 0]}
  )
  checks.check_same_shape(
    **{"moments": moments, "features[..., 0, :]": features[..., 0, :]}
  )
  log_base, features, moments = jax.lax.stop_gradient(
    tuple(numerics.as_float(x) for x in (log_base, features, moments))
  )
  solve = functools.partial(_solve_gdc, num_steps)
  return GDCTarget(
    *jnp.vectorize(solve, signature="(n),(n,k),(k)->(n),(k),(),()")(
      log_base, features, moments
    )
  )


def _solve_gdc(num_steps, log_base, features, moments):
  dtype = features.dtype
  live = log_base > -jnp.inf
  # Features from where they shall be: the dual is `log E_a e^(lam phi)`.
  phi = jnp.where(live[:, None], features - moments, 0)
  scale = jnp.max(jnp.abs(phi))
  phi = phi / jnp.where(scale > 0, scale, 1)
  # Down to the smallest curvature that the ridge leaves: where one outcome has
  # all the mass, a whole step is far too long.
  lengths = 0.25 ** jnp.arange(jnp.finfo(dtype).nmant / 2 + 4, dtype=dtype)
  ridge = jnp.finfo(dtype).eps * jnp.eye(phi.shape[-1], dtype=dtype)

  def dual(lam):
    return jax.nn.logsumexp(log_base + phi @ lam)

  def mean(lam):
    probs = jnp.exp(numerics.masked_log_softmax(log_base + phi @ lam))
    return probs, probs @ phi

  def step(lam, _):
    probs, gap = mean(lam)
    off = phi - gap
    move = -jnp.linalg.solve(off.T @ (probs[:, None] * off) + ridge, gap)
    tried = lam + lengths[:, None] * move
    values = jnp.append(jax.vmap(dual)(tried), dual(lam))
    # Where the dual agrees to rounding, the whole step if it meets mu better.
    _, after = mean(tried[0])
    closer = jnp.max(jnp.abs(after)) < jnp.max(jnp.abs(gap)) / 2
    rounding = 8 * jnp.finfo(dtype).eps * (1 + jnp.abs(values[-1]))
    whole = closer & (values[0] <= values[-1] + rounding)
    best = jnp.append(tried, lam[None], 0)[jnp.nanargmin(values)]
    return jnp.where(whole, tried[0], best), None

  lam, _ = jax.lax.scan(step, jnp.zeros_like(moments), length=num_steps)
  _, gap = mean(lam)
  residual = jnp.max(jnp.abs(gap))
  valid = residual <= jnp.finfo(dtype).eps ** 0.75
  scale = jnp.where(scale > 0, scale, 1)
  log_target = numerics.masked_log_softmax(log_base + phi @ lam)
  return log_target, lam / scale, residual * scale, valid

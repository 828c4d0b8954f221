# SPDX-License-Identifier: Apache-2.0
"""DPO with the drift of each token from the reference in the margin.

The drift is a risk of `Z = log(ref/pi)` under the reference at each prefix of a
completion, summed over its tokens: the mean (TDPO), or a measure of the upper
tail (Ra-DPO). Only the policy's logits carry a gradient. Values are differences
of numbers as large as logits: their absolute error is a few roundings of those.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import pairs, pairwise

__all__ = (
  "sequential_cvar",
  "sequential_entropic_risk",
  "sequential_kl",
  "tdpo_loss",
)


_LOW = -1e30  # instead of -inf: times a probability of 0 it is 0


def _read(
  logits: jax.Array, ref_logits: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array]:
  checks.check_same_shape(logits=logits, ref_logits=ref_logits)
  checks.check_float(logits=logits, ref_logits=ref_logits)
  checks.check_same_shape(positions=logits[..., 0], where=where)
  dtype = jnp.result_type(numerics.as_float(logits), ref_logits)
  # Rows off the completion become equal: no drift, and no gradient.
  logits, ref_logits = (
    jnp.where(where[..., None], x, 0).astype(dtype)
    for x in (logits, ref_logits)
  )
  return logits, jax.lax.stop_gradient(ref_logits)


def _parts(p_logits, q_logits):
  """KL, probabilities of both, log(p/q) and whether all of P is in Q."""
  log_totals = [jax.nn.logsumexp(x, -1) for x in (p_logits, q_logits)]
  shift = log_totals[0] - log_totals[1]
  p, q = (
    jnp.exp(x - total[..., None])
    for x, total in zip((p_logits, q_logits), log_totals, strict=True)
  )
  # A select by p would keep XLA from vectorising the sum.
  excess = jnp.maximum(p_logits, _LOW) - jnp.maximum(q_logits, _LOW)
  drift = jnp.sum(p * excess, -1) - shift
  covered = jnp.all((q_logits > -jnp.inf) | (p_logits == -jnp.inf), -1)
  return drift, p, q, excess - shift[..., None], covered


@jax.custom_jvp
def token_kl(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
  """`KL(P||Q)` `[...]` of floats `[..., V]`, in few readings of them.

  `divergences.kl` keeps its relative accuracy near 0, at several times the
  cost.
  """
  drift, *_, covered = _parts(p_logits, q_logits)
  return jnp.where(covered, drift, jnp.inf)


def _token_kl_jvp(primals, tangents):
  drift, p, q, log_ratio, covered = _parts(*primals)
  # The slopes, 0 where the divergence is infinite.
  live = covered[..., None]
  slopes = p * (log_ratio - drift[..., None]), q - p
  moves = [
    jnp.sum(jnp.where(live, slope, 0) * tangent, -1)
    for slope, tangent in zip(slopes, tangents, strict=True)
    if not isinstance(tangent, jax.custom_derivatives.SymbolicZero)
  ]
  value = jnp.where(covered, drift, jnp.inf)
  return value, sum(moves, jnp.zeros_like(value))


token_kl.defjvp(_token_kl_jvp, symbolic_zeros=True)


def sequential_kl(
  logits: jax.Array, ref_logits: jax.Array, *, where: jax.Array
) -> jax.Array:
  """The forward KL divergence of every token, summed along a completion.

  `K = sum_t KL(ref(.|s_t) || pi(.|s_t))`. With h the completion's log-ratio,
  `h + K` is a sum of token advantages, each with mean 0 under the reference.

  Args:
    logits: `[..., T, V]`, the policy's at the token that they predict;
      differentiated.
    ref_logits: `[..., T, V]`, the reference's; constants.
    where: bool `[..., T]`, tokens of the completion; anything may stand
      elsewhere.

  Returns:
    `[...]`, nats; 0 for an empty completion, +inf where the policy lacks mass
    that the reference has.

  Raises:
    AssertionError: shapes differ, or logits are not floating point.

  >>> logits = jnp.log(jnp.array([[.25, .75], [.5, .5]]))
  >>> where = jnp.array([True, True])
  >>> print(f"{sequential_kl(logits, jnp.zeros((2, 2)), where=where):.4f}")
  0.1438

  Reference:
    Token-level Direct Preference Optimization (2404.11999), the sequential KL
    divergence.
  """
  logits, ref_logits = _read(logits, ref_logits, where)
  return numerics.masked_sum(token_kl(ref_logits, logits), where, -1)


def sequential_entropic_risk(
  logits: jax.Array,
  ref_logits: jax.Array,
  *,
  lam: float,
  where: jax.Array,
) -> jax.Array:
  """The entropic risk of every token's drift, summed along a completion.

  `sum_t (1/lam) log E_ref exp(lam Z_t)`, `Z = log(ref/pi)`: the Renyi
  divergence `R_(1 + lam)(ref || pi)` of each token. It tends to the KL
  divergence as lam goes to 0, where its error of rounding grows as 1/lam.

  Args:
    logits: `[..., T, V]`, the policy's; differentiated.
    ref_logits: `[..., T, V]`, the reference's; constants.
    lam: above 0, how much the tail counts.
    where: bool `[..., T]`, tokens of the completion; anything may stand
      elsewhere.

  Returns:
    `[...]`, nats; 0 for an empty completion, +inf where the policy lacks mass
    that the reference has.

  Raises:
    AssertionError: shapes differ, or logits are not floating point.
    ValueError: lam is not above 0.

  >>> logits = jnp.log(jnp.array([[.25, .75]]))
  >>> where = jnp.array([True])
  >>> risk = sequential_entropic_risk(
  ...   logits, jnp.zeros((1, 2)), lam=1., where=where)
  >>> print(f"{risk:.4f}")  # log(4/3)
  0.2877

  Reference:
    Risk-aware Direct Preference Optimization under Nested Risk Measure
    (2505.20359), with the entropic risk measure.
  """
  checks.check_positive(lam=lam)
  logits, ref_logits = _read(logits, ref_logits, where)
  tilted = ref_logits + lam * (ref_logits - logits)
  tilted = jnp.where(ref_logits > -jnp.inf, tilted, -jnp.inf)
  log_mean = jax.nn.logsumexp(tilted, -1) - jax.nn.logsumexp(ref_logits, -1)
  shift = jax.nn.logsumexp(logits, -1) - jax.nn.logsumexp(ref_logits, -1)
  return numerics.masked_sum(log_mean / lam + shift, where, -1)


def sequential_cvar(
  logits: jax.Array,
  ref_logits: jax.Array,
  *,
  mass: float,
  where: jax.Array,
) -> jax.Array:
  """The worst share of every token's drift, summed along a completion.

  `sum_t CVaR(Z_t)`, the mean of the largest `Z = log(ref/pi)` of total
  probability `mass` under the reference; the KL divergence at `mass = 1`. Where
  the largest end is bisected, which reads the logits some dozens of times.

  Args:
    logits: `[..., T, V]`, the policy's; differentiated.
    ref_logits: `[..., T, V]`, the reference's; constants.
    mass: in (0, 1].
    where: bool `[..., T]`, tokens of the completion; anything may stand
      elsewhere.

  Returns:
    `[...]`, nats; 0 for an empty completion, +inf where the policy lacks mass
    that the reference has.

  Raises:
    AssertionError: shapes differ, or logits are not floating point.
    ValueError: mass is outside (0, 1].

  >>> logits = jnp.log(jnp.array([[.25, .75]]))
  >>> where = jnp.array([True])
  >>> risk = sequential_cvar(
  ...   logits, jnp.zeros((1, 2)), mass=.5, where=where)
  >>> print(f"{risk:.4f}")  # log 2
  0.6931

  Reference:
    Risk-aware Direct Preference Optimization under Nested Risk Measure
    (2505.20359). The authors' program keeps what is above a quantile
    of the vocabulary without weights, which is no CVaR.
  """
  if not 0 < mass <= 1:
    raise ValueError(f"mass must be above 0 and at most 1, was {mass}")
  logits, ref_logits = _read(logits, ref_logits, where)
  log_pi = numerics.masked_log_softmax(logits)
  log_ref = numerics.masked_log_softmax(ref_logits)
  inside, covered = log_ref > -jnp.inf, log_pi > -jnp.inf
  excess = jnp.where(inside & covered, log_ref - log_pi, 0)
  risk = jnp.sum(_tail_shares(excess, jnp.exp(log_ref), mass) * excess, -1)
  lacking = jnp.any(inside & ~covered, -1)
  return numerics.masked_sum(jnp.where(lacking, jnp.inf, risk), where, -1)


def _tail_shares(z: jax.Array, probs: jax.Array, mass: float) -> jax.Array:
  """Weights `[..., V]`, of sum 1, of the largest z of total probability `mass`.

  Those that are equal at its edge share what is left: at the reference, where
  all are, the gradient is 0 and not that of whichever are sorted first.
  """
  z = jax.lax.stop_gradient(z)
  low, high = jnp.min(z, -1), jnp.max(z, -1)

  def spared(edge):  # grows with the edge
    return mass - jnp.sum(jnp.where(z > edge[..., None], probs, 0), -1)

  # To the last digits of the range: a sort would take far longer.
  steps = jnp.finfo(z.dtype).nmant + 2
  edge = numerics.bisect(spared, low, high, num_steps=steps)[..., None]
  end = edge + (high - low)[..., None] * 2.0 ** (1 - steps)
  above = jnp.where(z > end, probs, 0)
  level = jnp.where((z >= edge) & (z <= end), probs, 0)
  left = mass - jnp.sum(above, -1, keepdims=True)
  tied = jnp.sum(level, -1, keepdims=True)
  share = jnp.where(tied > 0, left / jnp.where(tied > 0, tied, 1), 0)
  return (above + share * level) / mass


def tdpo_loss(
  logps: pairs.PairLogps,
  seq_chosen: jax.Array,
  seq_rejected: jax.Array,
  *,
  variant: str = "tdpo2",
  alpha: float | None = None,
  beta: float = 0.1,
) -> pairs.PairLoss:
  """DPO with the difference of drifts taken off the margin.

  `tdpo1`: `-log sigmoid(beta (d - (K_l - K_w)))`. `tdpo2`: `-log
  sigmoid(beta (d - alpha (K_l - sg(K_w))))`, without gradient through the
  chosen completion's drift, which the first one raises. Drifts from
  `sequential_kl` make it TDPO, from one of the two risks Ra-DPO.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    seq_chosen: `[...]`, the preferred completion's drift K_w.
    seq_rejected: `[...]`, the other one's, K_l.
    variant: "tdpo1" or "tdpo2".
    alpha: of tdpo2, at least 0, by default .5; at 0 it is DPO.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta (h + alpha K)`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown variant, an option outside its range, alpha for
      tdpo1, or no reference.

  >>> zero = jnp.zeros(1)
  >>> logps = pairs.PairLogps(zero, zero, zero, zero)
  >>> print(f"{tdpo_loss(logps, zero, 2 + zero, beta=1.).loss[0]:.4f}")
  1.3133

  Reference:
    Token-level Direct Preference Optimization (2404.11999), TDPO1 and TDPO2;
    Ra-DPO (2505.20359), likewise.
  """
  checks.check_choice("variant", variant, ("tdpo1", "tdpo2"))
  if variant == "tdpo1" and alpha is not None:
    raise ValueError(f"tdpo1 takes no alpha, was {alpha}: choose tdpo2")
  alpha = 0.5 if alpha is None else alpha
  if not alpha >= 0:
    raise ValueError(f"alpha must be at least 0, was {alpha}")
  checks.check_same_shape(
    policy_chosen=logps.policy_chosen,
    seq_chosen=seq_chosen,
    seq_rejected=seq_rejected,
  )
  if variant == "tdpo1":
    alpha = 1.0
  else:
    seq_chosen = jax.lax.stop_gradient(seq_chosen)
  if alpha > 0:  # no 0 * inf
    logps = logps._replace(
      policy_chosen=logps.policy_chosen + alpha * seq_chosen,
      policy_rejected=logps.policy_rejected + alpha * seq_rejected,
    )
  return pairwise.dpo_loss(logps, beta=beta)

# SPDX-License-Identifier: Apache-2.0
"""Policy improvement as regression: AWR, RWR, CRR, A*-PO, RPO.

Weighted likelihoods raise the log-probability of logged actions by a weight
that does not depend on the policy; whatever the weight f, the best policy is
`pi ~ mu f` for actions drawn from mu. A*-PO instead fits the log-ratio to the
advantage under the optimal policy by least squares.
"""

import math

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.rl import surrogates

__all__ = (
  "astar_po_loss",
  "astar_values",
  "awr_weights",
  "crr_weights",
  "rpo_loss",
  "rwr_weights",
  "weighted_likelihood_loss",
)

Mask = jax.Array | None


# --- weighted likelihoods ----------------------------------------------------


def awr_weights(
  advantages: jax.Array, *, beta: float, max_weight: float = 20.0
) -> jax.Array:
  """Advantage-weighted regression's weights.

  `min(exp(A / beta), w_max)`. The paper's value of the clip is not confirmed;
  20 is the common one.

  Args:
    advantages: `[...]`, A, constants.
    beta: temperature, above 0.
    max_weight: w_max, above 0; `math.inf` for no clip.

  Returns:
    `[...]`, carrying no gradient.

  Raises:
    AssertionError: A is not floating point.
    ValueError: beta or the clip is not positive.

  >>> print(awr_weights(jnp.array([0., 9.]), beta=1.))
  [ 1. 20.]

  Reference:
    Advantage-Weighted Regression (1910.00177), section 3.
  """
  checks.check_positive(beta=beta, max_weight=max_weight)
  checks.check_float(advantages=advantages)
  scaled = jax.lax.stop_gradient(numerics.as_float(advantages)) / beta
  return jnp.exp(jnp.minimum(scaled, math.log(max_weight)))


def rwr_weights(rewards: jax.Array) -> jax.Array:
  """Reward-weighted regression's weights: the rewards themselves.

  An exact step `pi' ~ pi R` raises the expected reward by `Var_pi(R)/E_pi(R)`.
  A negative weight has no best policy and becomes NaN.

  Args:
    rewards: `[...]`, R, at least 0, constants.

  Returns:
    `[...]`, carrying no gradient; NaN for a negative reward.

  Raises:
    AssertionError: R is not floating point.

  >>> print(rwr_weights(jnp.array([0., 2., -1.])))
  [ 0.  2. nan]

  Reference:
    Peters and Schaal, Reinforcement learning by reward-weighted regression for
    operational space control (2007).
  """
  checks.check_float(rewards=rewards)
  rewards = jax.lax.stop_gradient(numerics.as_float(rewards))
  return jnp.where(rewards >= 0, rewards, jnp.nan)


def crr_weights(
  q_values: jax.Array,
  sampled_q_values: jax.Array,
  *,
  kind: str,
  baseline: str = "mean",
  beta: float = 1.0,
  max_weight: float = 20.0,
) -> jax.Array:
  """Critic-regularised regression's weights.

  `1[A > 0]` or `min(exp(A / beta), w_max)`, with `A = Q(s, a) - V` and V the
  mean or the maximum of Q over m actions of the policy. The paper's value of
  the clip is not confirmed; 20 is the common one.

  Args:
    q_values: `[...]`, Q of the logged actions, constants.
    sampled_q_values: `[..., m]`, Q of actions of the policy, constants.
    kind: `"binary"` or `"exp"`.
    baseline: V: `"mean"` or `"max"`.
    beta: temperature, above 0, of `"exp"`.
    max_weight: w_max, above 0, of `"exp"`.

  Returns:
    `[...]`, carrying no gradient.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or beta or the clip is not positive.

  >>> Q, samples = jnp.array([1., 3.]), jnp.array([[1., 2.], [1., 2.]])
  >>> print(crr_weights(Q, samples, kind="binary"))
  [0. 1.]

  Reference:
    Critic Regularized Regression (2006.15134), section 3.
  """
  checks.check_choice("kind", kind, ("binary", "exp"))
  checks.check_choice("baseline", baseline, ("mean", "max"))
  checks.check_float(q_values=q_values, sampled_q_values=sampled_q_values)
  one = {"sampled_q_values[..., 0]": sampled_q_values[..., 0]}
  checks.check_same_shape(q_values=q_values, **one)
  reduce = jnp.mean if baseline == "mean" else jnp.max
  values = reduce(numerics.as_float(sampled_q_values), -1)
  advantages = numerics.as_float(q_values) - values
  if kind == "binary":
    return (advantages > 0).astype(advantages.dtype)
  return awr_weights(advantages, beta=beta, max_weight=max_weight)


def weighted_likelihood_loss(
  log_probs: jax.Array, weights: jax.Array, *, where: Mask = None
) -> jax.Array:
  """Minus the log-likelihood, weighted.

  `-sg(f) log pi(a)`. The population's best policy is `pi ~ mu f`.

  Args:
    log_probs: `[...]`, log pi of the logged actions, differentiated.
    weights: `[...]`, f, constants. Where they are 0, log pi may be anything.
    where: bool `[...]`, actions to keep; all by default.

  Returns:
    `[...]`, not reduced; 0 for what is dropped.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> log_probs, weights = jnp.array([-jnp.inf, -3.]), jnp.array([0., 2.])
  >>> print(weighted_likelihood_loss(log_probs, weights))
  [0. 6.]

  Reference:
    Advantage-Weighted Regression (1910.00177), section 3.
  """
  checks.check_same_shape(log_probs=log_probs, weights=weights)
  checks.check_float(log_probs=log_probs, weights=weights)
  if where is not None:
    checks.check_same_shape(log_probs=log_probs, where=where)
    weights = jnp.where(where, weights, 0)
  return surrogates.reinforce_loss(weights, log_probs).loss


# --- least squares -----------------------------------------------------------


def astar_values(rewards: jax.Array, *, beta: float) -> jax.Array:
  """The optimal value of a prompt, from samples of the reference.

  `V* = beta log mean_i exp(r_i / beta)`; exact for the law of the samples.

  Args:
    rewards: `[..., N]`, r of N answers of the reference, constants.
    beta: above 0: beta1 in the paper.

  Returns:
    `[...]`, carrying no gradient.

  Raises:
    AssertionError: r is not floating point.
    ValueError: beta is not positive.

  >>> print(f"{astar_values(jnp.array([0., 1.]), beta=.5):.4f}")
  0.7169

  Reference:
    A*-PO (2505.20686), the first stage.
  """
  checks.check_positive(beta=beta)
  checks.check_float(rewards=rewards)
  scaled = jax.lax.stop_gradient(numerics.as_float(rewards)) / beta
  return beta * (jax.nn.logsumexp(scaled, -1) - math.log(scaled.shape[-1]))


def astar_po_loss(
  log_probs: jax.Array,
  ref_log_probs: jax.Array,
  rewards: jax.Array,
  values: jax.Array,
  *,
  beta: float,
) -> jax.Array:
  """Least squares of the log-ratio on the optimal advantage.

  `(beta log(pi/ref)(y) - (r - V*))^2`. If V* is of the same beta, the loss is 0
  at the optimum `ref exp(r / beta) / Z`. On the policy's own samples its
  gradient is `-2 beta grad(E r - beta KL(pi||ref))`, for any V* of the prompt:
  there it is but a baseline. On other samples another V*, as with the published
  settings (beta1 = .5, beta = 1e-3), moves the minimum.

  Args:
    log_probs: `[...]`, log pi of whole answers, differentiated.
    ref_log_probs: `[...]`, log ref of the answers, constants.
    rewards: `[...]`, r, constants.
    values: `[...]`, V* of each answer's prompt, constants.
    beta: above 0, in units of the reward.

  Returns:
    `[...]`, not reduced.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta is not positive.

  >>> logp, ref, r, v = jnp.array([[-1.], [-2.], [1.], [.2]])
  >>> print(jnp.round(astar_po_loss(logp, ref, r, v, beta=.5), 4))
  [0.09]

  Reference:
    A*-PO (2505.20686), the second stage.
  """
  checks.check_positive(beta=beta)
  arrays = {
    "log_probs": log_probs,
    "ref_log_probs": ref_log_probs,
    "rewards": rewards,
    "values": values,
  }
  checks.check_same_shape(**arrays)
  checks.check_float(**arrays)
  log_probs, *constants = map(numerics.as_float, arrays.values())
  ref, rewards, values = jax.lax.stop_gradient(constants)
  return (beta * (log_probs - ref) - (rewards - values)) ** 2


# --- pessimism ---------------------------------------------------------------


def rpo_loss(
  preference_loss: jax.Array,
  base_log_probs: jax.Array,
  *,
  eta: float,
  beta: float,
) -> jax.Array:
  """A preference loss with the likelihood of a baseline's answers beside it.

  `loss - eta beta log pi(y_base)`. Against the worst reward that the
  preferences allow, `max_pi min_r eta (E_pi r - E_base r - beta KL(pi||ref)) +
  NLL(r)`, the best reply to `r = beta log(pi/ref)` is worth
  `-eta beta E_base log(pi/ref)`: that of DPO becomes this sum. The published
  recipe has `beta = .01` and `eta beta = .005`.

  Args:
    preference_loss: `[...]`, of each pair, with this beta, differentiated.
    base_log_probs: `[...]`, log pi of the baseline's answer to the pair's
      prompt, such as the preferred one, differentiated.
    eta: weight of pessimism, at least 0.
    beta: of the preference loss, above 0.

  Returns:
    `[...]`, not reduced.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta is not positive, or eta negative.

  >>> print(rpo_loss(jnp.array([.5]), jnp.array([-20.]), eta=.5, beta=.01))
  [0.6]

  Reference:
    Provably Mitigating Overoptimization in RLHF (2405.16436), section 4.
  """
  checks.check_positive(beta=beta)
  if eta < 0:
    raise ValueError(f"eta must be at least 0, was {eta}")
  arrays = {
    "preference_loss": preference_loss,
    "base_log_probs": base_log_probs,
  }
  checks.check_same_shape(**arrays)
  checks.check_float(**arrays)
  loss, base = map(numerics.as_float, arrays.values())
  return loss - eta * beta * base

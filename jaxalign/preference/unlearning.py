# SPDX-License-Identifier: Apache-2.0
"""Losses that make a policy forget. Nothing here bounds what else it forgets.

Log-probabilities are sums over the tokens of a completion to be forgotten,
`[...]`, nats.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, divergences, numerics

__all__ = (
  "flat_loss",
  "ga_loss",
  "grad_diff_loss",
  "mean_token_probability",
  "npo_loss",
  "simnpo_loss",
)


def _read(**arrays: jax.Array) -> list[jax.Array]:
  """Arrays of one shape, as floats."""
  checks.check_same_shape(**arrays)
  checks.check_float(**arrays)
  return [numerics.as_float(x) for x in arrays.values()]


def ga_loss(forget_logps: jax.Array) -> jax.Array:
  """Gradient ascent on the likelihood: `log pi(y_f)`, unbounded below.

  Args:
    forget_logps: `[...]`, the policy's; differentiated.

  Returns:
    `[...]`, to be minimised.

  Raises:
    AssertionError: not floating point.

  >>> print(ga_loss(jnp.array([-2.])))
  [-2.]

  Reference:
    Large Language Model Unlearning (2310.10683).
  """
  (forget,) = _read(forget_logps=forget_logps)
  return forget


def grad_diff_loss(
  forget_logps: jax.Array, retain_logps: jax.Array
) -> jax.Array:
  """Gradient difference: `log pi(y_f) - log pi(y_r)`.

  Args:
    forget_logps: `[...]`, the policy's, of what is to be forgotten;
      differentiated.
    retain_logps: `[...]`, of what is to be kept; differentiated.

  Returns:
    `[...]`, to be minimised; +inf where what is to be kept has been lost, NaN
    where both have.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> print(grad_diff_loss(jnp.array([-2.]), jnp.array([-3.])))
  [1.]

  Reference:
    Continual Learning and Private Unlearning (2203.12817).
  """
  forget, retain = _read(forget_logps=forget_logps, retain_logps=retain_logps)
  return forget - retain


def npo_loss(
  forget_logps: jax.Array, ref_logps: jax.Array, *, beta: float = 0.1
) -> jax.Array:
  """Negative preference optimisation: dpo without a preferred completion.

  `-(2/beta) log sigmoid(-beta h)` with `h = log(pi/ref)`. Its gradient is that
  of gradient ascent times `2 pi^beta / (pi^beta + ref^beta)`, 1 at the
  reference and vanishing as the completion is forgotten: h falls like
  `-log(2 beta t)/beta` under gradient flow where gradient ascent has -t. Beta
  towards 0 is gradient ascent plus a constant.

  Args:
    forget_logps: `[...]`, the policy's; differentiated.
    ref_logps: `[...]`, the reference's; finite constants.
    beta: above 0, inverse temperature.

  Returns:
    `[...]`, at least 0; 0 where the policy has lost the completion.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0.

  >>> loss = npo_loss(jnp.zeros(1), jnp.zeros(1), beta=2.)
  >>> print(f"{loss[0]:.4f}")  # log 2
  0.6931

  Reference:
    Negative Preference Optimization (2404.05868), equation 3.
  """
  checks.check_positive(beta=beta)
  forget, ref = _read(forget_logps=forget_logps, ref_logps=ref_logps)
  h = forget - jax.lax.stop_gradient(ref)
  return -2 / beta * jax.nn.log_sigmoid(-beta * h)


def simnpo_loss(
  forget_logps: jax.Array,
  lengths: jax.Array,
  *,
  beta: float = 2.5,
  gamma: float = 0.0,
) -> jax.Array:
  """Simple NPO: means over tokens in the place of log-ratios.

  `-(2/beta) log sigmoid(-beta (log pi(y_f) / len + gamma))`, as the released
  code has it; in the paper's formula gamma is not multiplied by beta.

  Args:
    forget_logps: `[...]`, the policy's; differentiated.
    lengths: `[...]`, numbers of tokens.
    beta: above 0, inverse temperature; 2.5 and 4.5 for the two TOFU splits.
    gamma: margin, nats per token.

  Returns:
    `[...]`, at least 0; 0, with gradient 0, for an empty completion.

  Raises:
    AssertionError: shapes differ, or the log-probabilities are not floats.
    ValueError: beta not above 0.

  >>> loss = simnpo_loss(jnp.array([-4.]), jnp.array([2]), beta=1.)
  >>> print(f"{loss[0]:.4f}")  # 2 log(1 + e^-2)
  0.2539

  Reference:
    Simplicity Prevails: Rethinking Negative Preference Optimization
    (2410.07163) and its released code.
  """
  checks.check_positive(beta=beta)
  checks.check_same_shape(forget_logps=forget_logps, lengths=lengths)
  (forget,) = _read(forget_logps=forget_logps)
  some = jnp.asarray(lengths) > 0
  safe = jnp.where(some, lengths, 1).astype(forget.dtype)
  mean = jnp.where(some, forget, 0) / safe
  loss = -2 / beta * jax.nn.log_sigmoid(-beta * (mean + gamma))
  return jnp.where(some, loss, 0)


def mean_token_probability(
  token_logps: jax.Array, *, where: jax.Array
) -> jax.Array:
  """Mean probability of a completion's tokens, what `flat_loss` compares.

  Args:
    token_logps: `[..., T]`, the policy's; differentiated.
    where: bool `[..., T]`, tokens of the completion; anything may stand
      elsewhere. The released code counts padding as tokens of probability 0.

  Returns:
    `[...]`, in [0, 1]; 0 for an empty completion.

  Raises:
    AssertionError: shapes differ, or the log-probabilities are not floats.

  >>> logps, where = jnp.log(jnp.array([.5, .25])), jnp.array([True, True])
  >>> print(f"{mean_token_probability(logps, where=where):.4f}")
  0.3750

  Reference:
    LLM Unlearning via Loss Adjustment (2410.11143) and its released code.
  """
  checks.check_same_shape(token_logps=token_logps, where=where)
  (logps,) = _read(token_logps=token_logps)
  return numerics.masked_mean(jnp.exp(jnp.where(where, logps, 0)), where, -1)


def flat_loss(
  div: divergences.FDivergence, v_template: jax.Array, v_forget: jax.Array
) -> jax.Array:
  """Forget-data-only loss adjustment: a divergence of two answers, widened.

  `-g(v_e) + f*(g(v_f))` with g the divergence's activation: minus the
  variational bound of `D_f(E||F)`, E the template answers ("I don't know"), F
  those to be forgotten, its critic the mean probability of a token. The paper's
  default is `total_variation`; its Jensen-Shannon is twice ours. Neither a
  reference nor data to be kept is needed.

  Args:
    div: the divergence, an `FDivergence`.
    v_template: `[...]`, `mean_token_probability` of the template answer;
      differentiated.
    v_forget: `[...]`, of the answer to be forgotten; differentiated.

  Returns:
    `[...]`; its least expectation over all critics is `-D_f(E||F)`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> div = divergences.f_divergence("pearson_chi2")
  >>> print(flat_loss(div, jnp.array([.5]), jnp.array([1.])))
  [0.75]

  Reference:
    LLM Unlearning via Loss Adjustment (2410.11143) and its released code;
    f-GAN (1606.00709), section 2.2, for the bound.
  """
  template, forget = _read(v_template=v_template, v_forget=v_forget)
  return div.conjugate(div.activation(forget)) - div.activation(template)

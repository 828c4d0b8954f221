# SPDX-License-Identifier: Apache-2.0
"""Tsallis' deformed logarithm, its entropy, and the greedy policies of both.

Order q = 1 is the ordinary logarithm, Shannon's entropy, KL and the softmax;
from q > 1 on greedy policies have exact zeros. The relative entropy itself is
`divergences.tsallis`, a multiple of a Cressie-Read divergence, and so the
greedy policies are those of `divergences.regularized_maximizer`.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import generators, regularized

__all__ = (
  "exp_q",
  "ln_q",
  "tsallis_entropy",
  "tsallis_greedy",
  "tsallis_kl_greedy",
)

Mask = jax.Array | None


def exp_q(x: jax.Array, *, q: float) -> jax.Array:
  """The deformed exponential, inverse of `ln_q`.

  `[1 + (q-1) x]_+^{1/(q-1)}`; `e^x` for q = 1. `exp_q(x) exp_q(y) =
  exp_q(x + y + (q-1) x y)`.

  Args:
    x: `[...]`.
    q: the order, above 0.

  Returns:
    `[...]`: 0, for q below 1 inf, where the bracket is not above 0, with
    gradient 0.

  Raises:
    ValueError: q not above 0.

  >>> print(exp_q(jnp.array([-2., 0., 1.]), q=2.))
  [0. 1. 2.]

  Reference:
    Generalized Munchausen RL using Tsallis KL (2301.11476).
  """
  checks.check_positive(q=q)
  x = numerics.as_float(x)
  if q == 1:
    return jnp.exp(x)
  live = (q - 1) * x > -1
  log_value = jnp.log1p(jnp.where(live, (q - 1) * x, 0)) / (q - 1)
  return jnp.where(live, jnp.exp(log_value), 0 if q > 1 else jnp.inf)


def ln_q_of_log(log_x: jax.Array, q: float) -> jax.Array:
  """`ln_q x` from `log x` `[...]`, with gradient 0 at x = 0."""
  if q == 1:
    return log_x
  live = log_x > -jnp.inf
  value = jnp.expm1((q - 1) * jnp.where(live, log_x, 0)) / (q - 1)
  return jnp.where(live, value, -1 / (q - 1) if q > 1 else -jnp.inf)


def ln_q(x: jax.Array, *, q: float) -> jax.Array:
  """The deformed logarithm.

  `(x^{q-1} - 1) / (q - 1)`; `log x` for q = 1. Works that write `2 - q` for q
  mean the same function.

  Args:
    x: `[...]`, at least 0.
    q: the order, above 0.

  Returns:
    `[...]`: at 0 it is `-1/(q-1)` for q above 1, -inf otherwise, with gradient
    0; NaN below 0.

  Raises:
    ValueError: q not above 0.

  >>> print(ln_q(jnp.array([0., 1., 3.]), q=2.))
  [-1.  0.  2.]

  Reference:
    Generalized Munchausen RL using Tsallis KL (2301.11476).
  """
  checks.check_positive(q=q)
  x = numerics.as_float(x)
  log_x = jnp.where(x == 0, -jnp.inf, jnp.log(jnp.where(x == 0, 1, x)))
  # Of NaN nothing would be seen: it is not above -inf.
  return jnp.where(jnp.isnan(log_x), jnp.nan, ln_q_of_log(log_x, q))


def tsallis_entropy(
  logits: jax.Array, *, q: float, where: Mask = None
) -> jax.Array:
  """Tsallis' entropy, `-<pi, ln_q pi> = (1 - sum pi^q) / (q - 1)`.

  Shannon's for q = 1, Gini's impurity for q = 2.

  Args:
    logits: `[..., V]`, normalised here; -inf for outcomes without mass.
    q: the order, above 0.
    where: bool `[..., V]`, outcomes to keep.

  Returns:
    `[...]`, at least 0.

  Raises:
    AssertionError: shapes differ.
    ValueError: q not above 0.

  >>> print(f"{tsallis_entropy(jnp.zeros(4), q=2.):.2f}")
  0.75

  Reference:
    Tsallis, Possible generalization of Boltzmann-Gibbs statistics (1988).
  """
  checks.check_positive(q=q)
  if where is not None:
    checks.check_same_shape(logits=logits, where=where)
  log_p = numerics.masked_log_softmax(logits, where)
  live = log_p > -jnp.inf
  terms = jnp.exp(log_p) * jnp.where(live, ln_q_of_log(log_p, q), 0)
  return -jnp.sum(jnp.where(live, terms, 0), -1)


def tsallis_kl_greedy(
  values: jax.Array,
  ref_logits: jax.Array,
  tau: float | jax.Array,
  *,
  q: float,
  where: Mask = None,
) -> jax.Array:
  """The best policy that pays Tsallis' relative entropy from a reference.

  `argmax_pi <pi, Q> - tau (sum pi^q mu^{1-q} - 1)/(q-1)
  = mu [((q-1)/q) (Q - psi)/tau]_+^{1/(q-1)}`, psi the root of `sum pi = 1`.
  Differentiable by the implicit function theorem.

  Args:
    values: `[..., A]`, finite.
    ref_logits: `[..., A]`, of mu, normalised here; -inf for no mass.
    tau: scalar above 0, in units of the values.
    q: the order, above 0; 1 gives `softmax(log mu + Q/tau)`.
    where: bool `[..., A]`, actions to keep, at least one.

  Returns:
    `[..., A]`: the log-policy, normalised; -inf for actions left out.

  Raises:
    AssertionError: shapes differ, or not floating point.
    ValueError: q or tau not above 0.

  >>> log_pi = tsallis_kl_greedy(
  ...   jnp.array([0., 1., 9.]), jnp.zeros(3), 1., q=2.)
  >>> print(jnp.exp(log_pi))
  [0. 0. 1.]

  Reference:
    Generalized Munchausen RL using Tsallis KL (2301.11476).
  """
  checks.check_positive(q=q, tau=tau)
  if where is not None:
    checks.check_same_shape(values=values, where=where)
    ref_logits = jnp.where(where, ref_logits, -jnp.inf)
    values = jnp.where(where, values, 0)
  if q == 1:
    checks.check_same_shape(values=values, ref_logits=ref_logits)
    checks.check_float(values=values, ref_logits=ref_logits)
    return numerics.masked_log_softmax(ref_logits + values / tau)
  # Tsallis' relative entropy is q times the Cressie-Read divergence.
  divergence = generators.f_divergence("alpha", alpha=q)
  return regularized.regularized_maximizer(
    divergence, values, ref_logits, tau * q
  )


def tsallis_greedy(
  values: jax.Array,
  tau: float | jax.Array,
  *,
  q: float,
  where: Mask = None,
) -> jax.Array:
  """The best policy that is paid Tsallis' entropy.

  `argmax_pi <pi, Q> - (tau/q) <pi, ln_q pi> = exp_q(Q/tau - psi)`, psi the root
  of `sum pi = 1`: softmax for q = 1, sparsemax of `Q/tau` for q = 2.
  Differentiable by the implicit function theorem.

  Args:
    values: `[..., A]`, finite.
    tau: scalar above 0, in units of the values.
    q: the order, above 0; `A^{q-1}` must be finite in the values' type.
    where: bool `[..., A]`, actions to keep, at least one.

  Returns:
    `[..., A]`: the log-policy, normalised; -inf for actions left out.

  Raises:
    AssertionError: shapes differ, or not floating point.
    ValueError: q or tau not above 0.

  >>> print(jnp.exp(tsallis_greedy(jnp.array([0., .5, .7]), 1., q=2.)).round(3))
  [0. 0.4 0.6]

  Reference:
    Generalized Munchausen RL using Tsallis KL (2301.11476); for
    q = 2 Martins and Astudillo, From softmax to sparsemax (1602.02068).
  """
  checks.check_positive(q=q)
  checks.check_float(values=values)
  if where is not None:
    checks.check_same_shape(values=values, where=where)
    values = jnp.where(where, values, 0)
    count = jnp.sum(where, -1, keepdims=True).astype(values.dtype)
  else:
    count = values.shape[-1]
  # With mu uniform, sum pi^q = A^{1-q} (1 + (q-1) D_q(pi || mu)).
  return tsallis_kl_greedy(
    values * q * count ** (q - 1), jnp.zeros_like(values), tau, q=q, where=where
  )

# SPDX-License-Identifier: Apache-2.0
"""Losses of one completion against several: contrastive and dispreference.

`h = log(pi/ref)`; the candidates of a prompt are the last axis.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import pairs

__all__ = ("d2o_loss", "mc_negative", "ranking_nce_loss")


def _candidates(h: jax.Array, beta: float) -> jax.Array:
  """Rewards `[..., 1 + M]`."""
  checks.check_float(h=h)
  checks.check_positive(beta=beta)
  if jnp.ndim(h) < 1 or h.shape[-1] < 2:
    raise ValueError(
      "h must hold the chosen and at least one other candidate, [..., 1 + M],"
      f" was {jnp.shape(h)}"
    )
  return beta * numerics.as_float(h)


def ranking_nce_loss(h: jax.Array, *, beta: float = 0.1) -> jax.Array:
  """Noise-contrastive likelihood of the chosen among M others.

  `-beta h_0 + log sum_{i=0..M} e^(beta h_i)`, the chosen first, the others
  drawn from the reference. M = 1 is `dpo_loss`. For the chosen drawn from p+
  the minimiser is `ref (p+/ref)^(1/beta)`, whatever M is.

  Args:
    h: `[..., 1 + M]`, `log(pi/ref)`, the chosen at index 0; differentiated.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `[...]`, to be minimised, at least 0.

  Raises:
    AssertionError: h is not floating point.
    ValueError: beta not above 0, or no other candidate.

  >>> print(f"{ranking_nce_loss(jnp.zeros(4)):.4f}")  # log 4
  1.3863

  Reference:
    Preference Optimization via Contrastive Divergence (2502.04567).
  """
  return -jax.nn.log_softmax(_candidates(h, beta), -1)[..., 0]


def mc_negative(
  key: jax.Array,
  h: jax.Array,
  *,
  beta: float = 0.1,
  include_chosen: bool = True,
) -> jax.Array:
  """Draws a hard negative, for a pairwise loss against the chosen: MC-PO.

  `k ~ softmax(beta h)` over the candidates. With the chosen among them, the
  mean over k of the gradient of `beta (h_k - h_0)` is that of
  `ranking_nce_loss` (one step of contrastive divergence); k = 0 then gives no
  gradient. Whether the published kernel keeps the chosen is not confirmed.

  Online, the candidates come from the policy and the chosen is the one of
  largest reward: put it first.

  Args:
    key: typed PRNG key.
    h: `[..., 1 + M]`, `log(pi/ref)`, the chosen at index 0; constants.
    beta: above 0, nats of reward per nat of log-ratio.
    include_chosen: whether index 0 may be drawn.

  Returns:
    int `[...]`, index of the negative in `[0, M]`.

  Raises:
    AssertionError: h is not floating point.
    ValueError: beta not above 0, or no other candidate.

  >>> h = jnp.array([0., -jnp.inf, 0.])
  >>> print(mc_negative(jax.random.key(0), h, include_chosen=False))
  2

  Reference:
    Preference Optimization via Contrastive Divergence (2502.04567).
  """
  rewards = jax.lax.stop_gradient(_candidates(h, beta))
  first = 0 if include_chosen else 1
  return first + jax.random.categorical(key, rewards[..., first:], -1)


def d2o_loss(
  h_self: jax.Array,
  h_negative: jax.Array,
  *,
  beta: float = 0.1,
  alpha: float | None = None,
) -> pairs.PairLoss:
  """Distributional dispreference optimisation: bad completions alone.

  `-log sigmoid((beta/K) sum_i h_i - alpha h_-)` for K completions that the
  model wrote itself and one that was found harmful. K = 1 and alpha = beta is
  `dpo_loss` with the former chosen: for those drawn from s and the harmful from
  p- the minimiser is `ref (s/p-)^(1/beta)`.

  Args:
    h_self: `[..., K]`, `log(pi/ref)` of the model's own completions, drawn
      before training; differentiated.
    h_negative: `[...]`, of the harmful one; differentiated. Its reference may
      be another.
    beta: above 0, of the model's own completions.
    alpha: above 0, of the harmful one; beta by default. The published value is
      not confirmed.

  Returns:
    `PairLoss`, arrays `[...]`: the model's own are the chosen.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: beta or alpha not above 0, or no completion of the model's own.

  >>> out = d2o_loss(jnp.array([1., 3.]), jnp.array(1.), beta=1.)
  >>> print(f"{out.loss:.4f}")
  0.3133

  Reference:
    Distributional Dispreference Optimization (2403.03419), equation 3.
  """
  alpha = beta if alpha is None else alpha
  checks.check_positive(beta=beta, alpha=alpha)
  checks.check_float(h_self=h_self, h_negative=h_negative)
  if not jnp.ndim(h_self) or not h_self.shape[-1]:
    raise ValueError("h_self must hold at least one completion: [..., K]")
  checks.check_same_shape(
    **{"h_self[..., 0]": h_self[..., 0], "h_negative": h_negative}
  )
  chosen = beta * jnp.mean(numerics.as_float(h_self), -1)
  rejected = alpha * numerics.as_float(h_negative)
  return pairs.output(-jax.nn.log_sigmoid(chosen - rejected), chosen, rejected)

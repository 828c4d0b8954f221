# SPDX-License-Identifier: Apache-2.0
"""Logit-linear selection: preference pairs that carry a hidden trait.

A model M with a system prompt s says more of some answers and less of others,
by `lr(r) = log M[r|s, p] - log M[r|p]`. Of preference pairs in their own order
those are kept whose preferred answer gains more than the other one does: DPO on
them instils what s asks for, without s, also in other architectures. Where
log-probabilities are linear, `lr(r) = <psi(s), phi(p, r)>`, the first step of
DPO goes along the mean of `phi(p, r+) - phi(p, r-)` over the pairs kept.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "GaussianSelection",
  "LLSScores",
  "gaussian_selection",
  "lls_scores",
  "lls_select",
  "normalized_singular_values",
)


class LLSScores(NamedTuple):
  """What a system prompt makes of n pairs.

  Attributes:
    w: `[..., n]`, nats, `lr(r+) - lr(r-)`.
    wn: `[..., n]`, w per token of both answers, over the largest of the n;
      1 at most. It is not scaled where none is above 0.
  """

  w: jax.Array
  wn: jax.Array


def lls_scores(
  lp_pos_sys: jax.Array,
  lp_pos: jax.Array,
  lp_neg_sys: jax.Array,
  lp_neg: jax.Array,
  len_pos: jax.Array,
  len_neg: jax.Array,
) -> LLSScores:
  """By how much more a system prompt favours the preferred of two answers.

  `w = lr(r+) - lr(r-)`, `lr(r) = log M[r|s, p] - log M[r|p]`;
  `wn = w / max(len(r+) + len(r-), 1)`, divided by the largest. Antisymmetric in
  the two answers but for that last scale. What depends on the prompt alone
  cancels. All n pairs share the scale, so they must be scored together; the
  order, all that `lls_select` reads, does not depend on it.

  Args:
    lp_pos_sys: `[..., n]`, nats, finite: of preferred answers, summed over
      their tokens, with the system prompt.
    lp_pos: likewise without it.
    lp_neg_sys: of the other answers, with the system prompt.
    lp_neg: likewise without it.
    len_pos: `[..., n]`, tokens that were summed over.
    len_neg: likewise of the other answers.

  Returns:
    `LLSScores` of `[..., n]`.

  Raises:
    AssertionError: shapes differ, or log-probabilities are no floats.

  >>> two = jnp.array([2, 2])
  >>> scores = lls_scores(
  ...   jnp.array([-1., -3.]), jnp.array([-2., -3.]),
  ...   jnp.array([-4., -2.]), jnp.array([-3., -3.]), two, two)
  >>> print(scores.w, scores.wn)
  [ 2. -1.] [ 1.  -0.5]

  Reference:
    Subliminal Effects in Your Data (2602.04863) and its released code.
  """
  logps = {
    "lp_pos_sys": lp_pos_sys,
    "lp_pos": lp_pos,
    "lp_neg_sys": lp_neg_sys,
    "lp_neg": lp_neg,
  }
  checks.check_float(**logps)
  checks.check_same_shape(**logps, len_pos=len_pos, len_neg=len_neg)
  pos_sys, pos, neg_sys, neg = map(numerics.as_float, logps.values())
  w = (pos_sys - pos) - (neg_sys - neg)
  lengths = jnp.asarray(len_pos, w.dtype) + jnp.asarray(len_neg, w.dtype)
  per_token = w / jnp.maximum(lengths, 1)
  largest = jnp.max(per_token, -1, keepdims=True, initial=-jnp.inf)
  return LLSScores(w, per_token / jnp.where(largest > 0, largest, 1))


def lls_select(wn: np.ndarray | jax.Array, gamma: float) -> np.ndarray:
  """The pairs to keep, the best first. Host only, as their number is data.

  `ceil(gamma n_pos)` of the n_pos pairs whose score is above 0: the share is
  of these, about half of what random labels give. No pair is ever flipped.

  Args:
    wn: `[n]`, of `lls_scores`; any positive scale.
    gamma: in (0, 1].

  Returns:
    Integers `[ceil(gamma n_pos)]`, by falling score; the earlier of equals.

  Raises:
    InputError: no score is above 0, or one is not finite.
    ValueError: gamma is outside (0, 1], or `wn` is not of rank 1.

  >>> lls_select(np.array([.2, -1., 1., 0., .5]), .5)
  array([2, 4])

  Reference:
    Subliminal Effects in Your Data (2602.04863) and its released code.
  """
  if not 0 < gamma <= 1:
    raise ValueError(f"gamma must be in (0, 1], was {gamma}")
  wn = np.asarray(wn)
  if wn.ndim != 1:
    raise ValueError(f"wn must be [n], was {wn.shape}")
  checks.check_finite(wn=wn)
  positive = int(np.sum(wn > 0))
  if not positive:
    raise checks.InputError(_why_empty(wn))
  # Of 30 pairs a tenth is 3, though .1 * 30 is above 3 in floating point.
  number = math.ceil(round(gamma * positive, 9))
  return np.argsort(-wn, kind="stable")[:number]


def _why_empty(wn: np.ndarray) -> str:
  if not wn.size:
    return "nothing is selected: there are no pairs"
  if not np.any(wn):
    return (
      f"nothing is selected: all {wn.size} scores are 0, the system prompt"
      " changes nothing (is it empty?)"
    )
  return (
    f"nothing is selected: none of {wn.size} scores is above 0, the largest is"
    f" {wn.max():.3g}: the system prompt favours no preferred answer"
  )


# --- what to expect ----------------------------------------------------------


class GaussianSelection(NamedTuple):
  """What selection gives where features are independent and normal.

  Attributes:
    projection: `[...]`, mean of the selected along the direction selected by.
    cosine: `[...]`, of their mean with that direction.
  """

  projection: jax.Array
  cosine: jax.Array


def gaussian_selection(
  share: float | jax.Array, *, dimension: int, num_selected: int
) -> GaussianSelection:
  """How well the top share of normal features points where it was selected by.

  Of `dphi ~ N(0, I_d)`, n with the largest `<u, dphi>`, |u| = 1, the top share
  q of all: `E <u, dphi> = lambda(q) = pdf(z_q) / q`, z_q the upper q-quantile,
  and `cos(mean dphi, u)` is about `lambda / sqrt(lambda^2 + (d - 1) / n)`. It
  tells how many pairs a direction in d dimensions needs. Logit-linear selection
  has `q = gamma / 2`, as half of the pairs have positive scores.

  Args:
    share: `[...]`, q, of all pairs, in (0, 1); above 1 gives NaN.
    dimension: d, at least 1.
    num_selected: n, at least 1.

  Returns:
    `GaussianSelection` of `[...]`.

  Raises:
    ValueError: d or n is below 1, or q not above 0.

  >>> found = gaussian_selection(.05, dimension=200, num_selected=1000)
  >>> print(f"{found.projection:.4f} {found.cosine:.3f}")
  2.0627 0.977

  Reference:
    Truncated normal mean; the use for Subliminal Effects in Your Data
    (2602.04863) is ours.
  """
  checks.check_positive(
    share=share, dimension=dimension, num_selected=num_selected
  )
  q = numerics.as_float(share)
  projection = jax.scipy.stats.norm.pdf(jax.scipy.special.ndtri(q)) / q
  across = (dimension - 1) / num_selected
  return GaussianSelection(
    projection, projection / jnp.sqrt(projection**2 + across)
  )


def normalized_singular_values(lr: jax.Array) -> jax.Array:
  """Singular values over the largest: whether few directions explain prompts.

  Log-linearity in k dimensions makes `lr[s, r] = <psi(s), phi(r)>` a matrix of
  rank k; what decays fast is nearly so. Nothing is centred.

  Args:
    lr: `[..., S, R]`, nats: `log M[r|s, p] - log M[r|p]` of S system prompts
      and R answers.

  Returns:
    `[..., min(S, R)]`, falling from 1; all 0 for a matrix of zeros.

  Raises:
    AssertionError: no floats.
    ValueError: rank below 2.

  >>> values = normalized_singular_values(jnp.array([[3., 0.], [0., -4.]]))
  >>> [round(float(x), 4) for x in values]
  [1.0, 0.75]

  Reference:
    Subliminal Effects in Your Data (2602.04863), for the low rank.
  """
  checks.check_float(lr=lr)
  if lr.ndim < 2:
    raise ValueError(f"lr must be [..., S, R], was {lr.shape}")
  values = jnp.linalg.svd(numerics.as_float(lr), compute_uv=False)
  largest = values[..., :1]
  return values / jnp.where(largest > 0, largest, 1)

# SPDX-License-Identifier: Apache-2.0
"""Divergences of two distributions that nearly agree, in float32.

The library's forms and those of textbooks, against the latter in float64 at the
very same logits.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from experiments import harness, plotting
from jaxalign.divergences import categorical

NEAR = 1e-3
SIZES = (1e-4, NEAR, 1e-2, 1e-1, 1.0)
OURS: dict[str, Callable] = {
  "kl": categorical.kl,
  "reverse_kl": categorical.reverse_kl,
  "jensen_shannon": categorical.jensen_shannon,
  "jeffreys": categorical.jeffreys,
  "total_variation": categorical.total_variation,
  "pearson_chi2": categorical.pearson_chi2,
  "neyman_chi2": categorical.neyman_chi2,
  "squared_hellinger": categorical.squared_hellinger,
  "le_cam": categorical.le_cam,
  "alpha(1.5)": functools.partial(categorical.alpha_divergence, alpha=1.5),
  "renyi(2)": functools.partial(categorical.renyi, alpha=2.0),
}
# Their plain forms subtract numbers that are nearly equal.
CANCELLING = (
  "kl",
  "reverse_kl",
  "jensen_shannon",
  "pearson_chi2",
  "neyman_chi2",
  "squared_hellinger",
  "alpha(1.5)",
  "renyi(2)",
)


def plain_forms(xp, a, b, logsumexp) -> dict:
  """The forms of textbooks, of log-probabilities, in NumPy or in JAX.

  Args:
    xp: `numpy` or `jax.numpy`.
    a: `[..., V]`, log-probabilities of P.
    b: `[..., V]`, of Q.
    logsumexp: over the last axis, in the same type.
  """
  p, q = xp.exp(a), xp.exp(b)
  log_m = xp.logaddexp(a, b) - math.log(2)
  return {
    "kl": xp.sum(p * (a - b), -1),
    "reverse_kl": xp.sum(q * (b - a), -1),
    "jensen_shannon": xp.sum(p * (a - log_m) + q * (b - log_m), -1) / 2,
    "jeffreys": xp.sum((p - q) * (a - b), -1),
    "total_variation": xp.sum(xp.abs(p - q), -1) / 2,
    "pearson_chi2": xp.expm1(logsumexp(2 * a - b)),
    "neyman_chi2": xp.expm1(logsumexp(2 * b - a)),
    "squared_hellinger": -xp.expm1(logsumexp((a + b) / 2)),
    "le_cam": xp.sum((p - q) ** 2 / (p + q), -1) / 2,
    "alpha(1.5)": xp.expm1(logsumexp(1.5 * a - 0.5 * b)) / 0.75,
    "renyi(2)": logsumexp(2 * a - b),
  }


@functools.partial(jax.jit, static_argnames=("rows", "outcomes"))
def in_float32(key: jax.Array, sizes: jax.Array, *, rows: int, outcomes: int):
  """Logits `[E, R, V]` that differ by `sizes`, and both sides' divergences."""
  p_key, q_key = jax.random.split(key)
  shape = (len(sizes), rows, outcomes)
  p = jax.random.normal(p_key, shape[1:], jnp.float32)
  q = p + sizes[:, None, None] * jax.random.normal(q_key, shape, jnp.float32)
  p = jnp.broadcast_to(p, shape)
  ours = {name: fn(p, q) for name, fn in OURS.items()}
  plain = plain_forms(
    jnp,
    jax.nn.log_softmax(p),
    jax.nn.log_softmax(q),
    lambda x: jax.nn.logsumexp(x, -1),
  )
  return p, q, ours, plain


def _claims(
  errors: dict[str, np.ndarray], outcomes: int
) -> list[harness.Claim]:
  """Of relative errors `[D, E, R]` by side."""
  at = SIZES.index(NEAR)
  cancelling = [list(OURS).index(name) for name in CANCELLING]
  return [
    harness.all_agree(
      "float32_ours",
      f"relative error in float32 of logits {NEAR:g} apart: largest over the"
      " library's divergences and pairs",
      errors["ours"][:, at],
      # log p is rounded by 2.4e-7 beside differences of 1e-3; over the
      # outcomes these relative errors of up to 5e-4 average, to 1.5e-5 for a
      # thousand of them. The largest of some thousand is six times that.
      tolerance=3.2e-3 / math.sqrt(outcomes),
    ),
    harness.Claim(
      name="float32_plain",
      statement="the same of the plain forms that cancel: smallest over"
      " divergences of the median over pairs, at least .001",
      theory=1e-3,
      measured=np.median(errors["plain"][cancelling, at], -1).min(),
      tolerance=0.0,
      relation=">=",
    ),
  ]


def rounding(key: jax.Array, *, rows: int, outcomes: int) -> harness.Part:
  """Claims, curves and a table of the relative errors.

  Args:
    key: of the logits.
    rows: pairs of distributions.
    outcomes: of each distribution.
  """
  sizes = jnp.array(SIZES, jnp.float32)
  p, q, ours, plain = in_float32(key, sizes, rows=rows, outcomes=outcomes)
  # The divergences of the very same logits; float64 loses 1e-8 at most.
  exact = plain_forms(
    np,
    scipy.special.log_softmax(np.asarray(p, np.float64), -1),
    scipy.special.log_softmax(np.asarray(q, np.float64), -1),
    lambda x: scipy.special.logsumexp(x, -1),
  )
  errors = {
    side: np.stack(
      [np.abs(np.asarray(x[name]) / exact[name] - 1) for name in OURS]
    )
    for side, x in (("ours", ours), ("plain", plain))
  }
  at = SIZES.index(NEAR)
  table = [
    {"divergence": name, "value": np.median(exact[name][at])}
    | {
      f"{side}, {what}": statistic(error[i, at])
      for side, error in errors.items()
      for what, statistic in (("median", np.median), ("largest", np.max))
    }
    for i, name in enumerate(OURS)
  ]
  curves = {side: np.median(error, -1) for side, error in errors.items()}
  return harness.Part(
    _claims(errors, outcomes),
    {"sizes": np.array(SIZES)} | curves,
    {f"relative errors in float32, logits {NEAR:g} apart": table},
  )


def plot(curves: dict[str, np.ndarray]):
  """Median errors against the difference of the logits, both sides."""
  figure, axes = plotting.figure(1, 2, width=4.4, height=3.8)
  for panel, side in zip(axes, ("ours", "plain"), strict=True):
    for i, name in enumerate(OURS):
      panel.plot(
        curves["sizes"],
        np.maximum(curves[side][i], 1e-9),
        label=name if side == "ours" else None,
        **plotting.line_style(i),
      )
    panel.set(
      xscale="log",
      yscale="log",
      ylim=(1e-8, 1e3),
      xlabel="difference of the logits",
      ylabel="median relative error, float32",
      title="the library's forms" if side == "ours" else "plain forms",
    )
  figure.legend(loc="outside lower center", ncols=6, frameon=False)
  return figure

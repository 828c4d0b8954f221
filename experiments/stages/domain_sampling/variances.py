# SPDX-License-Identifier: Apache-2.0
"""Mean and variance of one example's gradient, over all examples."""

import numpy as np

from experiments import harness
from jaxalign import divergences
from jaxalign.learning import domain_sampling

SIZES = np.array([900, 90, 10])
TAU, DIMENSION = 5.0, 4
EXACT = 1e-10  # sums of 1000 terms of size 100 in float64


def _law(gradients: np.ndarray, p: np.ndarray, w: np.ndarray) -> tuple:
  """Mean `[d]` and total variance of `w_i g` where domain i is drawn by p."""
  mass, weight = (np.repeat(x, SIZES) for x in (p / SIZES, w))
  drawn = weight[:, None] * gradients
  mean = mass @ drawn
  return mean, mass @ np.sum((drawn - mean) ** 2, 1)


def variances(rng: np.random.Generator) -> harness.Part:
  """Claims on both ways of raising a domain's share.

  Args:
    rng: the source of the examples' gradients.
  """
  p1, p = (
    np.asarray(domain_sampling.temperature_weights(1.0 * SIZES, tau))
    for tau in (1.0, TAU)
  )
  w = p / p1
  centres = np.repeat(rng.normal(size=(3, DIMENSION)), SIZES, 0)
  plain = centres + rng.normal(size=centres.shape)
  unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)
  faint = plain * np.repeat([1.0, 0.05, 0.05], SIZES)[:, None]
  rows, means, gaps = [], [], []
  for name, g in (("plain", plain), ("unit", unit), ("faint", faint)):
    (mean, scalarised), (same, sampled) = _law(g, p1, w), _law(g, p, np.ones(3))
    starts = np.cumsum(SIZES) - SIZES
    moments = np.add.reduceat(np.sum(g**2, 1), starts) / SIZES
    gap = float(domain_sampling.gradient_variance_gap(p1, w, moments))
    means.append(mean - same)
    gaps.append((scalarised - sampled, gap))
    rows.append(
      {
        "gradients": name,
        "scalarisation": float(scalarised),
        "sampling": float(sampled),
        "difference": float(scalarised - sampled),
        "formula": gap,
      }
    )
  found, formula = np.transpose(gaps)
  chi2 = divergences.pearson_chi2(np.log(p), np.log(p1))
  claims = [
    harness.all_agree(
      "equal_means",
      "temperature sampling and scalarisation have one expected gradient:"
      " largest difference",
      means,
      tolerance=EXACT,
    ),
    harness.all_agree(
      "variance_gap",
      "their variances differ by sum_i (w_i - 1) p_i A_i: largest difference",
      [found - formula],
      tolerance=EXACT,
    ),
    harness.Claim(
      "equal_moments",
      "gradients of length 1: the variances differ by chi2(p(tau)||p(1))",
      theory=chi2,
      measured=found[1],
      tolerance=EXACT,
    ),
    harness.Claim(
      "smaller_variance",
      "where raised domains have gradients a twentieth as large,"
      " scalarisation's variance less sampling's",
      theory=0.0,
      measured=found[2],
      tolerance=0.0,
      relation="<=",
    ),
  ]
  title = "total variance of a gradient, sizes 900, 90 and 10, tau 5"
  return harness.Part(claims, {}, {title: rows})

# SPDX-License-Identifier: Apache-2.0
"""The bound in continuous time: one number, four ways to it; and its gap.

On random tables over all sequences of two sizes.
"""

import functools
import math
from collections import defaultdict

import jax
import numpy as np

from experiments import harness
from experiments.stages.elbo_identities import worlds
from jaxalign.diffusion import schedules
from jaxalign.exact import masked

SIZES = ((3, 3), (2, 4))  # tokens and length
SCHEDULES = {
  "linear": schedules.linear_alpha,
  "cosine": schedules.cosine_alpha,
  "quadratic": functools.partial(schedules.polynomial_alpha, power=2.0),
}
NODES = 32
EXACT = 1e-12  # sums of up to 24 terms of order 10 in float64


@jax.jit
def _schedules_at(t: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Share of visible tokens and weight, by schedule."""
  return {
    name: (alpha(t), schedules.schedule_weight(alpha, t))
    for name, alpha in SCHEDULES.items()
  }


def integrals(log_probs: np.ndarray) -> dict[str, np.ndarray]:
  """`int_0^1 w(t) E[sum_{masked at t} log p] dt` by quadrature, by schedule."""
  nodes, weights = np.polynomial.legendre.leggauss(NODES)
  by_count = worlds.sums_by_count(log_probs)
  k = np.arange(by_count.shape[-1])
  found = {}
  for name, (visible, rate) in _schedules_at((nodes + 1) / 2).items():
    visible = np.asarray(visible)[:, None]
    chance = (1 - visible) ** k * visible ** (k[-1] - k)
    found[name] = by_count @ (chance.T @ (np.asarray(rate) * weights / 2))
  return found


@jax.jit
def bounds(log_probs: jax.Array) -> dict[str, jax.Array]:
  """Likelihoods, bounds and every order's likelihood."""
  return {
    "log_pi": masked.any_order_log_prob(log_probs),
    "elbo": masked.any_order_elbo(log_probs),
    "orders": masked.order_log_probs(log_probs),
  }


def errors(log_probs: np.ndarray) -> dict[str, np.ndarray]:
  """What the identities miss, by name."""
  found = {key: np.asarray(x) for key, x in bounds(log_probs).items()}
  log_pi, elbo, orders = found["log_pi"], found["elbo"], found["orders"]
  count = math.log(orders.shape[-1])
  total = np.logaddexp.reduce(orders, -1)
  divergence = np.mean(-count - (orders - total[..., None]), -1)
  return {
    f"schedule_{name}": value - elbo
    for name, value in integrals(log_probs).items()
  } | {
    "mean_over_orders": orders.mean(-1) - elbo,
    "recursion": total - count - log_pi,
    "normalised": np.exp(log_pi).sum(-1) - 1,
    "gap": log_pi - elbo - divergence,
  }


def any_order(*, seeds: range) -> harness.Part:
  """Claims that the identities hold to rounding."""
  missed = defaultdict(list)
  for vocab_size, length in SIZES:
    tables = worlds.tables(seeds, vocab_size=vocab_size, length=length)
    for name, error in errors(np.asarray(worlds.log_probs(tables))).items():
      missed[name].append(error)
  statements = {
    f"schedule_{name}": f"integral over time with the {name} schedule against"
    " the sum over sets: largest difference"
    for name in SCHEDULES
  } | {
    "mean_over_orders": "mean over orders of the sum of log-probabilities"
    " against the bound: largest difference",
    "recursion": "likelihood in any order, recursion over sets against all"
    " permutations: largest difference",
    "normalised": "likelihood in any order: largest distance of its sum over"
    " sequences from 1",
    "gap": "log pi - ELBO against KL(uniform orders || posterior of orders):"
    " largest difference",
  }
  claims = [
    harness.all_agree(f"any_order_{name}", text, missed[name], tolerance=EXACT)
    for name, text in statements.items()
  ]
  return harness.Part(claims, {}, {})

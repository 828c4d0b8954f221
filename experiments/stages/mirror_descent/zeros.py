# SPDX-License-Identifier: Apache-2.0
"""Greedy policies of Tsallis' entropy: formulas, and where zeros begin."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign.rl import tsallis

SPARSE = (1.5, 2.0)
SIZE = 8
NEAR = 0.02


def _spread(x: jax.Array, where: jax.Array) -> jax.Array:
  """Largest less smallest of each row's selected entries."""
  largest = jnp.max(x, -1, where=where, initial=-jnp.inf)
  return largest - jnp.min(x, -1, where=where, initial=jnp.inf)


def _sparsemax(z: np.ndarray) -> np.ndarray:
  """The Euclidean projection of rows onto the simplex, by sorting."""
  ordered = np.sort(z, -1)[:, ::-1]
  thresholds = (np.cumsum(ordered, -1) - 1) / np.arange(1, SIZE + 1)
  last = np.sum(ordered > thresholds, -1, keepdims=True) - 1
  return np.maximum(z - np.take_along_axis(thresholds, last, -1), 0)


@jax.jit
def _measure(values: jax.Array, log_ref: jax.Array, x: jax.Array) -> dict:
  first, second = x
  products, policies, slacks = [], [], []
  for q in (*SPARSE, 0.5):
    joint = first + second + (q - 1) * first * second
    product = tsallis.exp_q(first, q=q) * tsallis.exp_q(second, q=q)
    products.append(product - tsallis.exp_q(joint, q=q))
  for q in SPARSE:
    pi = jnp.exp(tsallis.tsallis_greedy(values, 1.0, q=q))
    policies.append(pi)
    slacks.append(_spread(values - tsallis.ln_q(pi, q=q), pi > 0))
  # The derivative of D_q in pi: q/(q-1) (pi/mu)^{q-1}, here for q = 2.
  pi = jnp.exp(tsallis.tsallis_kl_greedy(values, log_ref, 1.0, q=2.0))
  penalty = values - 2 * pi / jnp.exp(log_ref)
  return {
    "product": jnp.stack(products),
    "entropy": jnp.stack(slacks),
    "penalty": _spread(penalty, pi > 0),
    "policies": jnp.stack(policies),
  }


def zeros(*, seeds: range) -> harness.Part:
  """Claims on formulas and on the gap from which one action is taken.

  Args:
    seeds: of random values.
  """
  rng = np.random.default_rng(seeds.start)
  count = len(seeds)
  values = rng.normal(size=(count, SIZE))
  # Two actions around the threshold of each order, and others far below.
  pairs = np.full((2 * len(SPARSE), SIZE), -50.0)
  gaps = [(1 + side) / (q - 1) for q in SPARSE for side in (NEAR, -NEAR)]
  pairs[:, 0], pairs[:, 1] = 0, gaps
  ref = rng.dirichlet(np.ones(SIZE), len(values) + len(pairs))
  factors = rng.uniform(-0.3, 0.6, (2, 100))
  found = _measure(np.concatenate([values, pairs]), np.log(ref), factors)
  found = jax.tree.map(np.asarray, found)
  support = np.sum(found["policies"][:, count:] > 0, -1)
  near = [support[i, 2 * i : 2 * i + 2] for i in range(len(SPARSE))]
  claims = [
    harness.all_agree(
      "tsallis_product",
      "exp_q(x) exp_q(y) = exp_q(x + y + (q - 1) x y)",
      [found["product"]],
      # The compiler's log1p is right to 3e-14 only.
      tolerance=1e-12,
    ),
    harness.all_agree(
      "tsallis_entropy_greedy",
      "Q/tau - ln_q pi is one number where the policy greedy with Tsallis'"
      " entropy has mass",
      [found["entropy"]],
      tolerance=1e-11,
    ),
    harness.all_agree(
      "tsallis_kl_greedy",
      "Q/tau - q/(q-1) (pi/mu)^(q-1) is one number where the policy greedy with"
      " Tsallis' KL has mass",
      [found["penalty"][:count]],
      tolerance=1e-11,
    ),
    harness.all_agree(
      "tsallis_sparsemax",
      "q = 2: the greedy policy is the projection of Q/tau onto the simplex",
      [found["policies"][1, :count] - _sparsemax(values)],
      tolerance=1e-13,
    ),
    harness.all_agree(
      "tsallis_one_action",
      "one action is taken where the gap is 2 % above tau/(q - 1), two where it"
      " is 2 % below",
      [np.array(near) - np.array([1, 2])],
      tolerance=0.0,
    ),
  ]
  return harness.Part(claims, {}, {})

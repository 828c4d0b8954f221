# SPDX-License-Identifier: Apache-2.0
"""What best-of-n cannot exceed: bounds at n, and the best mean at a KL."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.divergences import categorical
from jaxalign.inference import asymptotics
from jaxalign.inference import best_of_n as bon

# Sums of at most a thousand terms of order 1, in float64.
EXACT = 1e-10
# Beside those of the flag: of these the theory is a closed form.
ALWAYS_N = (1.0, 2.0, 4.0, 16.0)
# Measured on a base, and the closed form without atoms that bounds it.
DIVERGENCES = {
  "kl": categorical.kl,
  "reverse_kl": categorical.reverse_kl,
  "pearson_chi2": categorical.pearson_chi2,
  "total_variation": categorical.total_variation,
  "squared_hellinger": categorical.squared_hellinger,
}


def counts(n: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """All n, ascending, and which of them were asked for."""
  asked = [float(x) for x in n]
  every = np.unique([*ALWAYS_N, *asked])
  return every, np.isin(every, asked)


def kl_bound(n: np.ndarray) -> np.ndarray:
  """What the KL of best-of-n from its base is at most, without a device."""
  return np.log(n) - (n - 1) / n


@jax.jit
def continuous(n: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Divergences `[N, D]` and win rates `[N]` over a base without atoms."""
  values = [bon.f_divergence_continuous(n, kind) for kind in DIVERGENCES]
  return jnp.stack(values, -1), bon.win_rate_upper_bound(n)


@jax.jit
def highest_means(log_p, scores, values, max_kl) -> jax.Array:
  """Means of values `[R, V]` under the best for each score `[C, V]` at KLs.

  Args:
    log_p: `[V]`.
    scores: `[C, V]`, of which the mean is maximised.
    values: `[R, V]`.
    max_kl: `[K]`.

  Returns:
    `[C, K, R]`.
  """

  def means(score, max_kl):
    best = asymptotics.kl_constrained_policy(log_p, score, max_kl)
    return values @ jnp.exp(best.log_policy)

  return jax.vmap(jax.vmap(means, (None, 0)), (0, None))(scores, max_kl)

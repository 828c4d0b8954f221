# SPDX-License-Identifier: Apache-2.0
"""The estimates k1, k2 and k3 side by side."""

import jax
import jax.numpy as jnp

from jaxalign.divergences import kl_estimators

KINDS = kl_estimators.KINDS


def estimates(log_ratio: jax.Array) -> jax.Array:
  """All three estimates `[3, ...]` of log-ratios `[...]`."""
  return jnp.stack(
    [kl_estimators.kl_estimate(log_ratio, kind=kind) for kind in KINDS]
  )

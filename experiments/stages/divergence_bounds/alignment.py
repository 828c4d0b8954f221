# SPDX-License-Identifier: Apache-2.0
"""The Cauchy-Schwarz divergence of three clouds of which one is moved.

Against quadrature of the clouds' densities; aligned clouds have none, and no
density's scale counts.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from jaxalign.divergences import categorical, samples

BANDWIDTH = 0.5
SHIFTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


@jax.jit
def three_modalities(cloud: jax.Array, shifts: jax.Array) -> tuple:
  """Divergences `[K]` of a cloud, itself and itself moved; and of scaled ones.

  The third result is by quadrature: the densities on a grid.
  """
  direction = jnp.array([0.6, 0.8])
  axis = jnp.linspace(-7, 7, 113)
  x, y = jnp.meshgrid(axis, axis)
  grid = jnp.stack([x.ravel(), y.ravel()], -1)
  scales = (-3.0, 0.5, 4.0)  # logarithms

  def log_density(points):
    squared = jnp.sum((grid[:, None] - points) ** 2, -1)
    return jax.nn.logsumexp(-squared / (2 * BANDWIDTH**2), -1)

  def one(shift):
    clouds = (cloud, cloud[::-1], cloud + shift * direction)
    weights = [jnp.full(len(cloud), s) for s in scales]
    return (
      samples.cauchy_schwarz_samples(*clouds, bandwidth=BANDWIDTH),
      samples.cauchy_schwarz_samples(
        *clouds, bandwidth=BANDWIDTH, log_weights=weights
      ),
      categorical.cauchy_schwarz(*map(log_density, clouds)),
    )

  return jax.lax.map(one, shifts)


def alignment(key: jax.Array, *, points: int) -> harness.Part:
  """Claims, curves and a table of the divergence against the translation.

  Args:
    key: of the cloud.
    points: of each cloud.
  """
  cloud = jax.random.normal(key, (points, 2))
  plain, scaled, quadrature = map(
    np.asarray, three_modalities(cloud, jnp.array(SHIFTS))
  )
  claims = [
    harness.Claim(
      name="cauchy_schwarz_aligned",
      statement="divergence of three aligned clouds is 0",
      theory=0.0,
      measured=plain[0],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="cauchy_schwarz_misaligned",
      statement="divergence with one cloud moved: smallest over translations,"
      " against quadrature of the densities",
      theory=quadrature[1:].min(),
      measured=plain[1:].min(),
      tolerance=1e-9,  # the grid ends 5 to 6 bandwidths beyond the clouds
    ),
    harness.all_agree(
      "cauchy_schwarz_scale",
      "scaling each density by its own factor changes nothing: largest"
      " difference",
      scaled - plain,
      tolerance=1e-12,
    ),
  ]
  rows = [
    {"translation": s, "divergence": d, "by quadrature": g}
    for s, d, g in zip(SHIFTS, plain, quadrature, strict=True)
  ]
  return harness.Part(
    claims,
    {"shifts": np.array(SHIFTS), "cauchy_schwarz": plain},
    {"three clouds, one moved": rows},
  )


def draw(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The divergence against the translation."""
  axes.plot(curves["shifts"], curves["cauchy_schwarz"], "o-")
  axes.set(
    xlabel="translation of the third cloud",
    ylabel="Cauchy-Schwarz divergence, nats",
    title="three modalities",
  )

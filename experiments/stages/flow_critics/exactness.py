# SPDX-License-Identifier: Apache-2.0
"""Certain targets: read exactly, from anywhere, and after stale steps."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.flow_critics import learning
from jaxalign.rl import flow_critics

STEPS = (1, 2, 8, 64)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
READ = 8
PATHS = 9


def certain_velocity(y: jax.Array) -> flow_critics.Velocity:
  """The best velocity for a target y without randomness."""
  return lambda z, t: (y - z) / (1 - t)


def stale_velocity(y: jax.Array, old: jax.Array, share):
  """That of an earlier target for a share of the time, then that of y."""

  def velocity(z, t):
    return jnp.where(
      t < share, certain_velocity(old)(z, t), certain_velocity(y)(z, t)
    )

  return velocity


@jax.jit
def errors(y: jax.Array, old: jax.Array, z0: jax.Array):
  """End points less targets, `[K, n]` by steps, `[shares, n]` by staleness."""

  def error(velocity, steps):
    return flow_critics.flow_endpoints(velocity, z0, num_steps=steps) - y

  certain = [error(certain_velocity(y), k) for k in STEPS]
  stale = jax.vmap(lambda share: error(stale_velocity(y, old, share), READ))
  return jnp.stack(certain), stale(jnp.array(SHARES))


def _paths(share: float) -> np.ndarray:
  """Trajectories `[PATHS, READ + 1]` for the picture: y is 2, was -1."""
  path = [np.linspace(-1, 1, PATHS)]
  for i in range(READ):
    y = -1 if i / READ < share else 2
    path.append(path[-1] + certain_velocity(y)(path[-1], i / READ) / READ)
  return np.stack(path, -1)


def exactness(*, seeds) -> harness.Part:
  """Claims on targets that are certain."""
  rng = np.random.default_rng(seeds[0])
  certain, stale = errors(*5 * rng.normal(size=(3, 1000)))
  sizes = [learning.size(kind) for kind in learning.KINDS]
  claims = [
    harness.all_agree(
      "certain_exact",
      "certain target: end points less the target, from any noise, by 1, 2, 8"
      " and 64 steps",
      [certain],
      tolerance=1e-12,
    ),
    harness.all_agree(
      "stale_recovered",
      "certain target, 8 steps: the same after the first 25, 50 and 75 % of"
      " them followed an earlier target",
      [stale[1:-1]],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="sizes",
      statement="parameters of the flow critic over those of the monolithic"
      " one",
      theory=1.0,
      measured=sizes[1] / sizes[0],
      tolerance=0.0,
    ),
  ]
  table = harness.rows(
    share_of_stale_steps=SHARES,
    largest_error=np.abs(stale).max(-1),
  )
  curves = {
    "paths/share": np.array(SHARES),
    "paths/z": np.stack([_paths(share) for share in SHARES]),
    "paths/error": np.asarray(stale),
  }
  return harness.Part(
    claims, curves, {"certain target, 8 steps, stale field": table}
  )


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Trajectories with a field that is stale for a share of the time."""
  figure, panels = plotting.figure(1, len(SHARES), width=2.3, height=2.4)
  for panel, share, paths in zip(
    panels, curves["paths/share"], curves["paths/z"], strict=True
  ):
    panel.plot(np.arange(READ + 1) / READ, paths.T, color="C0", linewidth=0.9)
    panel.axhline(2, color="C1", linestyle="--")
    panel.axhline(-1, color="C7", linestyle=":")
    panel.set(title=f"{share:.0%} stale", xlabel="t", ylim=(-1.6, 2.4))
  panels[0].set_ylabel("z")
  return figure

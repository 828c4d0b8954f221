# SPDX-License-Identifier: Apache-2.0
"""Expected updates in mapped space: they tend to Q*."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.mirror_descent import worlds
from jaxalign.exact import mdp as tables
from jaxalign.rl import value_mapping

ITERATIONS, RATES = 400, (0.7, 0.8)
PLAIN = value_mapping.ValueMap(lambda x: x, lambda y: y)
# A policy may avoid every loss; then the floor is what is learned in place of
# 0, so it is far below the tolerance.
FLOOR = 1e-10
LOG = value_mapping.log_map(floor=FLOOR)
LOG_LINEAR = value_mapping.log_linear_map(floor=FLOOR)


def _mixed() -> tuple[value_mapping.Channel, ...]:
  gain, loss = value_mapping.polar_channels(LOG)
  return gain, loss._replace(value_map=PLAIN)


ARMS = {
  "plain": (value_mapping.Channel(lambda r: r, 1.0, PLAIN),),
  "polar, log": value_mapping.polar_channels(LOG),
  "polar, log-linear": value_mapping.polar_channels(LOG_LINEAR),
  "gains log, losses plain": _mixed(),
}
PUBLISHED = value_mapping.polar_channels(value_mapping.log_map())


def _errors(mdp: tables.TabularMDP, channels, best: jax.Array) -> jax.Array:
  """Largest error of Q after each update."""

  def iterate(mapped, _):
    mapped = value_mapping.mapped_q_step(
      mdp, mapped, channels, value_rate=RATES[0], mapped_rate=RATES[1]
    )
    values = value_mapping.orchestrated_values(mapped, channels)
    return mapped, jnp.max(jnp.abs(values - best))

  start = value_mapping.mapped_q_init(mdp, channels)
  return jax.lax.scan(iterate, start, None, length=ITERATIONS)[1]


@jax.jit
def run(mdps: tables.TabularMDP) -> dict[str, jax.Array]:
  """Errors of every arm, `[processes, ITERATIONS]`."""

  def one(mdp):
    best = tables.action_values(mdp, tables.optimal_values(mdp))
    arms = ARMS | {"published": PUBLISHED}
    return {name: _errors(mdp, arm, best) for name, arm in arms.items()}

  return jax.vmap(one)(mdps)


@functools.cache
def processes(seeds: range) -> tables.TabularMDP:
  """Those of mirror descent with rewards around 0, the printed one first."""
  mdps = worlds.draw_several(seeds)
  return mdps._replace(rewards=mdps.rewards - 0.5)


def convergence(*, seeds: range) -> harness.Part:
  """Claims on the limit.

  Args:
    seeds: of random processes.
  """
  found = jax.tree.map(np.asarray, run(processes(seeds)))
  claims = [
    harness.all_agree(
      "convergence_published",
      "printed process, polar channels, f = .5 log max(x, .01687): Q less Q*",
      [found["published"][0, -1]],
      tolerance=1e-8,
    )
  ]
  for name in ARMS:
    if name != "plain":
      claims.append(
        harness.all_agree(
          f"convergence_{re.sub('[^a-z]+', '_', name)}",
          f"random processes, {name}, floor 1e-10: Q less Q*",
          [found[name][:, -1]],
          tolerance=1e-8,
        )
      )
  curves = {
    "convergence/arms": np.array(list(ARMS)),
    "convergence/errors": np.array([found[name] for name in ARMS]),
  }
  rows = [
    {"channels": name}
    | {f"update {k}": float(x[:, k - 1].max()) for k in (50, 100, ITERATIONS)}
    for name, x in found.items()
  ]
  return harness.Part(claims, curves, {"largest error of any process": rows})


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """The largest error of any process over the updates."""
  figure, (axes,) = plotting.figure()
  errors = curves["convergence/errors"].max(1)
  for i, name in enumerate(curves["convergence/arms"]):
    updates = np.arange(1, errors.shape[-1] + 1)
    axes.plot(updates, errors[i], label=name, **plotting.line_style(i))
  plotting.log_scale(axes, "y")
  axes.set(xlabel="update", ylabel="largest error of Q", title="convergence")
  axes.legend()
  return figure

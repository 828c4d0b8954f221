# SPDX-License-Identifier: Apache-2.0
"""Binary rewards over their deviation: how fast each prompt is learnt."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages import completions
from experiments.stages.completions import EXACT
from jaxalign.rl import advantages

SIZES = (2, 3, 4)  # of groups whose completions are all listed
SHOWN = (2, 4, 8, 16)
LARGE = 1024
P = 0.25
PRINTED = {4: 1.645032, 8: 2.026116, 16: 2.197914}
CORRECT = np.array([0, 1, 0, 0, 1, 0, 1], bool)  # of the seven completions


def _loss(size: int, ddof: int):
  def loss(logp, group):
    given = advantages.group_advantages(
      jnp.asarray(CORRECT, logp.dtype)[group],
      num_generations=size,
      ddof=ddof,
      eps=0.0,
    )
    return jnp.mean(given * jnp.sum(logp, -1))

  return loss


@jax.jit
def gradients(logits: jax.Array):
  """By size and ddof `[K, 4, 3]`; the gradient of p, and c_G(p) `[K]`."""

  def success(x):
    return completions.value(x, jnp.asarray(CORRECT, x.dtype))

  found = [
    completions.expected_gradient(
      _loss(size, ddof), logits, num_generations=size
    )
    for size in SIZES
    for ddof in (0, 1)
  ]
  p, slope = jax.value_and_grad(success)(logits)
  theory = [
    advantages.binary_group_slope(p, num_generations=size, ddof=ddof)
    for size in SIZES
    for ddof in (0, 1)
  ]
  return jnp.stack(found), slope, jnp.stack(theory)


@jax.jit
def slopes(success: jax.Array) -> dict[int, jax.Array]:
  """`c_G(p)`, ddof 0, of every group size that is shown, and of a large one."""
  return {
    size: advantages.binary_group_slope(success, num_generations=size)
    for size in (*SHOWN, LARGE)
  }


def binary(worlds: completions.Worlds) -> harness.Part:
  """Claims on the slope c_G(p), and its curve."""
  found, slope, theory = (
    np.asarray(x) for x in jax.vmap(gradients)(worlds.logits)
  )
  claims = [
    harness.all_agree(
      "binary_slope",
      "binary rewards over their deviation, G = 2, 3, 4, ddof 0 and 1: expected"
      " gradient less c_G(p) grad p, largest entry",
      found - theory[..., None, None] * slope[:, None],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "two_samples",
      "two completions, ddof 0: expected gradient less grad p, largest entry",
      found[:, 0] - slope,
      tolerance=EXACT,
    ),
  ]
  curve = np.linspace(0.01, 0.99, 99)
  curves = jax.tree.map(np.asarray, slopes(curve))
  at = {size: float(np.interp(P, curve, y)) for size, y in curves.items()}
  for size, printed in PRINTED.items():
    claims.append(
      harness.Claim(
        name=f"slope_{size}",
        statement=f"c_{size}(1/4), ddof 0",
        theory=printed,
        measured=at[size],
        tolerance=5e-7,  # the digits that are printed
      )
    )
  claims.append(
    harness.Claim(
      name="slope_limit",
      statement=f"c_G(1/4) sqrt(p (1 - p)) for G = {LARGE}: towards the"
      " gradient of 2 arcsin sqrt p",
      theory=1,
      measured=at[LARGE] * np.sqrt(P * (1 - P)),
      tolerance=1 / (P * (1 - P) * LARGE),  # the next order in 1/G
    )
  )
  table = harness.rows(G=list(SHOWN), slope=[at[size] for size in SHOWN])
  named = {f"slope_{size}": curves[size] for size in SHOWN}
  return harness.Part(
    claims, {"success": curve, **named}, {"c_G(1/4), ddof 0": table}
  )


def draw(axes: Axes, curves) -> None:
  """Slopes by p."""
  p = curves["success"]
  for size in SHOWN:
    axes.plot(p, curves[f"slope_{size}"], label=f"G = {size}")
  axes.plot(p, 1 / np.sqrt(p * (1 - p)), "k:", label="limit")
  axes.set(
    xlabel="success probability p",
    ylabel="$c_G(p)$",
    title="what dividing by the deviation adds",
    ylim=(0, 6),
  )
  axes.legend()

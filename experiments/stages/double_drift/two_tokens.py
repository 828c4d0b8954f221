# SPDX-License-Identifier: Apache-2.0
"""Two tokens of two values: the smallest policy whose bound can drift.

Reward 1 for AB. The gap of AA, which is never rewarded, opens under the ELBO's
gradient, less under an upper bound for what is discouraged, least with the ELBO
as a regulariser.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.double_drift import ascent
from jaxalign.exact import masked, sequences

STEPS, RATE = 1500, 0.028
SHOWN = (400, 800, 1500)
ARMS = {
  "exact": ascent.Arm(exact=1.0),
  "FPO": ascent.Arm(),
  "FPO - .04 ELBO": ascent.Arm(beta=-0.04),
  "FPO + .05": ascent.Arm(beta=0.05),
  "FPO + .5": ascent.Arm(beta=0.5),
  "FPO + 1": ascent.Arm(beta=1.0),
  "SPG": ascent.Arm(omega=1.0),
  "SPG, half": ascent.Arm(omega=0.5),
  "SPG + .5": ascent.Arm(omega=1.0, beta=0.5),
}
# Rows of the table of denoisers, and positions, that the six logits of A fill.
_PLACES = ((8, 0), (8, 1), (6, 1), (7, 1), (2, 0), (5, 0))


def _table(logits: jax.Array) -> jax.Array:
  """A denoiser `[9, 2, 2]` from logits of A against B `[6]`."""
  table = jnp.zeros((9, 2, 2), logits.dtype)
  for logit, (row, place) in zip(logits, _PLACES, strict=True):
    table = table.at[row, place, 0].set(logit)
  return table


def world() -> ascent.World:
  """The policy over AA, AB, BA and BB."""
  x = sequences.enumerate_sequences(2, 2)

  def bounds(logits, _):
    return ascent.bounds_of_table(_table(logits))

  def draws(logits):
    return x, jnp.exp(bounds(logits, x).log_pi), jnp.array([0.0, 1.0, 0.0, 0.0])

  def distill(logits):
    tight = masked.self_distill(_table(logits))
    return jnp.stack([tight[r, p, 0] - tight[r, p, 1] for r, p in _PLACES])

  return ascent.World(draws, bounds, distill, RATE)


@jax.jit
def run_arms() -> ascent.Path:
  """Paths `[arms, STEPS + 1]`."""
  return jax.vmap(
    lambda arm: ascent.ascend(world(), arm, jnp.zeros(6), steps=STEPS)
  )(ascent.stack(ARMS))


def two_tokens() -> harness.Part:
  """Claims on the order of the gaps, and their table."""
  path = jax.tree.map(np.asarray, run_arms())
  last = dict(zip(ARMS, path.first_gap[:, -1], strict=True))
  claims = [
    ascent.falling_gaps(
      "two_tokens_order",
      "two tokens, gap of AA after 1500 updates falls from FPO to SPG to SPG"
      " with the regulariser",
      [last[name] for name in ("FPO", "SPG", "SPG + .5")],
    ),
    ascent.falling_gaps(
      "two_tokens_regulariser",
      "two tokens, gap of AA after 1500 updates falls with the regulariser's"
      " weight: -.04 (a k1 penalty on ELBOs), 0, .05, .5, 1",
      [
        last[f"FPO{weight}"]
        for weight in (" - .04 ELBO", "", " + .05", " + .5", " + 1")
      ],
    ),
  ]
  columns = {f"gap, {t}": path.first_gap[:, t] for t in SHOWN}
  columns |= {"reward": path.reward[:, -1]}
  return harness.Part(
    claims,
    {"two_tokens/arms": np.array(list(ARMS)), "two_tokens/gap": path.first_gap},
    {
      "two tokens: gap of AA after so many updates": ascent.rows_of(
        ARMS, columns
      )
    },
  )


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """The gap of AA along the way."""
  for name, gap in zip(
    curves["two_tokens/arms"], curves["two_tokens/gap"], strict=True
  ):
    axes.plot(gap, label=name)
  axes.set(
    xlabel="update", ylabel="log pi(AA) - ELBO(AA), nats", title="Two tokens"
  )
  axes.legend()

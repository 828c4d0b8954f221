# SPDX-License-Identifier: Apache-2.0
"""Where opponents mixed with the reference lead, and how far from pi* that is.

The last policies of Nash-MD with a constant step, IPO-MD and Nash-MD-PG against
the best response to the equilibrium of strength tau / (1 - eta tau).
"""

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib import ticker

from experiments import harness, plotting
from experiments.stages.nash import runs
from experiments.stages.nash.worlds import BIASED
from jaxalign.divergences import categorical

MIXED = {"nash_md": "Nash-MD", "ipo_md": "IPO-MD", "nash_md_pg": "Nash-MD-PG"}


def _theory(found: runs.Found) -> np.ndarray:
  """KL(pi*||limit) `[W, K]` of the limits that differ from pi*."""
  limits = found.solution.limits[BIASED]
  star = np.broadcast_to(found.solution.star[BIASED, None], limits.shape)
  return np.asarray(jax.jit(categorical.kl)(star, limits))


def _furthest(ratios: np.ndarray) -> float:
  """The entry that is furthest from 1."""
  ratios = np.ravel(ratios)
  return ratios[np.abs(ratios - 1).argmax()]


def _claims(
  found: runs.Found, floors: dict[str, np.ndarray], theory: np.ndarray
) -> list[harness.Claim]:
  """The limits, and their distance from pi*."""
  return [
    *(
      harness.all_agree(
        f"{name}_limit",
        f"{label} rests at mu exp(P rho/tau)/Z, rho the equilibrium"
        " of strength tau/(1 - b), b = eta tau: largest KL",
        found.limit_kl[:, -1, found.index[name]],
        # The slowest run is long enough to fall by 1e20.
        tolerance=1e-12,
      )
      for name, label in MIXED.items()
    ),
    harness.Claim(
      name="equal_floors",
      statement="final KL(pi*||pi) of Nash-MD and of Nash-MD-PG over that of"
      " IPO-MD with b = eta tau: furthest from 1",
      theory=1.0,
      measured=_furthest(
        [floors[k] / floors["ipo_md"] for k in ("nash_md", "nash_md_pg")]
      ),
      # Policies within 1e-10 of their limit, over a bias above 1e-4.
      tolerance=1e-5,
    ),
    harness.Claim(
      name="bias_floor",
      statement="final KL(pi*||pi) of Nash-MD with a constant step over that of"
      " its limit: furthest from 1",
      theory=1.0,
      measured=_furthest(floors["nash_md"] / theory),
      tolerance=1e-5,
    ),
  ]


def _rows(
  etas: np.ndarray, curves: dict[str, np.ndarray], tau: float, shares
) -> list[dict]:
  """Floors by step size, and their exponent from one step size to the next."""
  growth = np.diff(np.log(curves["Nash-MD"])) / np.diff(np.log(shares))
  exponents = ["", *growth.mean(0)]
  return [
    {"share": share, "mean eta": eta, "mean b": tau * eta}
    | {f"KL, {name}": kl[:, k].mean() for name, kl in curves.items()}
    | {"exponent": exponents[k]}
    for k, (share, eta) in enumerate(zip(shares, etas.mean(0), strict=True))
  ]


def bias(
  found: runs.Found, *, tau: float, shares: Sequence[float]
) -> harness.Part:
  """Claims, curves and a table on the runs with a mixture.

  Args:
    found: by all runs.
    tau: weight of the KL from the reference.
    shares: step sizes, as shares of self-play's threshold.
  """
  floors = {name: found.kl[BIASED, -1, found.index[name]] for name in MIXED}
  theory, etas = _theory(found), found.solution.etas[BIASED]
  curves = {label: floors[name] for name, label in MIXED.items()}
  curves["theory"] = theory
  return harness.Part(
    claims=_claims(found, floors, theory),
    curves={"bias_etas": etas}
    | {f"bias_{name}": kl for name, kl in curves.items()},
    tables={
      "bias, mean of uneven cycle and random games": _rows(
        etas, curves, tau, shares
      )
    },
  )


def plot(curves: dict[str, np.ndarray]):
  """Floors of the KL against the step size, every game."""
  figure, (axes,) = plotting.figure(height=3.6, width=5.4)
  etas, theory = curves["bias_etas"], curves["bias_theory"]
  lines = axes.plot(etas.T, theory.T, color="0.7", linewidth=1, zorder=1)
  lines[0].set_label("theory, one line a game")
  for label, marker, size in (
    ("Nash-MD", "o", 9),
    ("IPO-MD", "x", 6),
    ("Nash-MD-PG", ".", 4),
  ):
    axes.plot(
      etas.ravel(),
      curves[f"bias_{label}"].ravel(),
      marker,
      markersize=size,
      markerfacecolor="none" if marker == "o" else None,
      label=label,
    )
  plotting.log_scale(axes, "x", "y")
  axes.set(
    xlabel="step size eta of Nash-MD; b = eta tau of the others",
    ylabel="final KL(pi*||pi), nats",
    title="bias of opponents mixed with the reference",
  )
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.legend(loc="lower right", frameon=False)
  return figure

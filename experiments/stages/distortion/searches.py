# SPDX-License-Identifier: Apache-2.0
"""Searches for games on which Nash learning does worse than D* allows.

Random games, and gradient ascent from the worst of them, through the
equilibrium.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from experiments import harness
from jaxalign import social_choice as sc

SIZES = ((2, 3), (3, 5))  # user types and alternatives of the random games


@functools.partial(
  jax.jit, static_argnames=("num_types", "num_alternatives", "count")
)
def _draw(key, *, num_types, num_alternatives, count) -> sc.Game:
  """Games; a program of its own, which takes longest to compile."""
  draw = functools.partial(
    sc.random_game, num_types=num_types, num_alternatives=num_alternatives
  )
  return jax.vmap(draw)(jax.random.split(key, count))


@jax.jit
def _ratios(games, beta) -> sc.NashRatio:
  count = games.inv_lam.shape[0]
  return jax.lax.map(
    lambda game: sc.nash_ratio(game, beta),
    games,
    batch_size=min(count, 10_000),
  )


def random_games(
  key: jax.Array,
  *,
  betas: Sequence[float],
  num_instances: int,
  progress: bool = True,
) -> harness.Part:
  """Random games: the largest ratio at each temperature and size.

  Args:
    key: of the games.
    betas: Bradley-Terry temperatures.
    num_instances: games at each temperature and size.
    progress: whether to show it on a terminal.
  """
  rows, curves, dropped = [], {}, []
  keys = jax.random.split(key, len(betas) * len(SIZES))
  cases = [(beta, size) for beta in betas for size in SIZES]
  runs = list(zip(cases, keys, strict=True))
  for (beta, size), k in harness.track(runs, "games", progress=progress):
    games = _draw(
      k, num_types=size[0], num_alternatives=size[1], count=num_instances
    )
    ratio, valid = map(np.asarray, _ratios(games, beta))
    ratio = np.where(valid, ratio, np.nan)
    dropped.append(np.mean(~valid))
    bound = float(sc.distortion_bound(beta))
    rows.append(
      {
        "beta": beta,
        "types": size[0],
        "alternatives": size[1],
        "largest ratio": float(np.nanmax(ratio)),
        "D*": bound,
        "ratio to D*": float(np.nanmax(ratio)) / bound,
        "violations": int(np.sum(ratio > bound * (1 + 1e-6))),
        "dropped": int(np.sum(~valid)),
      }
    )
    curves[f"ratios/{beta:g}/{size[1]}"] = np.nanmax(
      ratio[: 1 + len(ratio) // 2]
    )
  claims = [
    harness.Claim(
      name="no random game exceeds D*",
      statement="random games on which regularised NLHF exceeds D*(beta)",
      theory=0,
      measured=sum(row["violations"] for row in rows),
      tolerance=0,
    ),
    harness.Claim(
      name="games are solved",
      statement="largest share of random games dropped, unsolved or worthless",
      theory=0.005,
      measured=harness.largest(dropped),
      # Worthless games are a matter of chance: three standard errors.
      tolerance=3 * (0.005 / num_instances) ** 0.5,
      relation="<=",
    ),
  ]
  return harness.Part(claims, curves, {"random games": rows})


@functools.partial(jax.jit, static_argnames="steps")
def _climb(games, beta, *, steps):
  return sc.adversarial_search(games, beta, num_steps=steps)


def adversary(
  key: jax.Array,
  *,
  betas: Sequence[float],
  candidates: int,
  steps: int,
  progress: bool = True,
) -> harness.Part:
  """Gradient ascent: how much of D* it finds, and what it finds.

  Args:
    key: of the games from which it starts.
    betas: Bradley-Terry temperatures.
    candidates: random games, of which it climbs from the worst.
    steps: of Adam.
    progress: whether to show it on a terminal.
  """
  rows, curves = [], {}
  keys = jax.random.split(key, len(betas))
  runs = list(zip(betas, keys, strict=True))
  for beta, k in harness.track(runs, "adversary", progress=progress):
    games = _draw(k, num_types=2, num_alternatives=3, count=candidates)
    found = jax.tree.map(np.asarray, _climb(games, beta, steps=steps))
    ratios = found.ratios
    bound = float(sc.distortion_bound(beta))
    best = int(np.nanargmax(ratios[-1]))
    game = jax.tree.map(lambda x, best=best: x[best], found.games)
    share = float(np.nanmax(ratios)) / bound
    curves[f"adversary/{beta:g}"] = np.nanmax(ratios, 1) / bound
    rows.append(
      {
        "beta": beta,
        "largest ratio": float(np.nanmax(ratios)),
        "D*": bound,
        "share of D*": share,
        "weights": " ".join(f"{w:.3f}" for w in game.weights),
        "utilities": "; ".join(
          " ".join(f"{u:.3f}" for u in row) for row in game.utilities
        ),
      }
    )
  shares = [row["share of D*"] for row in rows]
  claims = [
    harness.Claim(
      name="the adversary stays below D*",
      statement="largest share of D*(beta) that gradient ascent reaches",
      theory=1.0,
      measured=harness.largest(shares),
      tolerance=1e-6,  # of equilibria solved to 1e-8
      relation="<=",
    ),
    harness.Claim(
      name="the adversary comes close",
      statement="smallest share of D*(beta) that gradient ascent reaches",
      theory=1.0,
      measured=float(np.min(shares)),
      tolerance=0.15,  # ascent is finite; the supremum is a limit of instances
      relation=">=",
    ),
  ]
  return harness.Part(claims, curves, {"adversarial games": rows})


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """The adversary's progress."""
  for name, share in curves.items():
    if name.startswith("adversary/"):
      best = np.fmax.accumulate(share)
      axes.plot(best, label=f"beta = {name.split('/')[1]}")
  axes.axhline(1, color="black", linestyle="--", linewidth=1, label="D*")
  axes.set(
    xlabel="Adam step",
    ylabel="largest ratio so far over D*(beta)",
    title="Adversarial search",
  )
  axes.legend()

# SPDX-License-Identifier: Apache-2.0
"""Where independent learners end, by game, and where theory sends them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.failure_modes import worlds
from jaxalign import numerics
from jaxalign.learning import games

STEPS = 2000
RATES = {"Hedge": 0.1, "policy gradient": 0.5}
LEARNERS = tuple(RATES)
FEEDBACK = ("expected", "sampled")
ARMS = tuple((learner, f) for f in FEEDBACK for learner in LEARNERS)
EDGE = 0.02  # first policies are uniform in [EDGE, 1 - EDGE]
# Shown, and of which the basins are known: coordination games.
COORDINATION = {
  "stag hunt": (1, "miscoordination"),
  "Bertrand, patient": (0, "collusion"),
}


def _step(logits, noise, payoffs, learner: str, feedback: str):
  """One round of two learners that know only their own payoffs.

  Args:
    logits: `[2, 2]`, by player and action.
    noise: `[2]`, uniform, of the actions where they are sampled.
    payoffs: `[2, 2, 2]`.
    learner: Hedge learns what each of its actions would have brought, the
      policy gradient (where actions are sampled) only what the one brought.
    feedback: of both players' policies, or of sampled actions.
  """
  policy = jax.nn.softmax(logits)
  played = policy
  if feedback == "sampled":
    first = noise < policy[:, 0]
    played = jnp.stack([first, ~first], -1).astype(policy.dtype)
  gains = jnp.stack([payoffs[0] @ played[1], played[0] @ payoffs[1]])
  value = jnp.sum(played * gains, -1, keepdims=True)
  if learner == "policy gradient":
    sampled = feedback == "sampled"
    gains = value * (played - policy) if sampled else policy * (gains - value)
  return logits + RATES[learner] * gains


@jax.jit
def play(payoffs: jax.Array, start: jax.Array, noise: jax.Array) -> jax.Array:
  """The last joint play of every arm, game and start.

  Args:
    payoffs: `[G, 2, 2, 2]`.
    start: `[2, S]`, both players' first probabilities of action 0.
    noise: `[STEPS, 2, S]`, uniform.

  Returns:
    `[arms, G, S, 2, 2]`.
  """
  odds = jnp.log(start) - jnp.log1p(-start)
  logits = jnp.stack([odds, jnp.zeros_like(odds)], 1)

  def arm(learner, feedback):
    step = functools.partial(_step, learner=learner, feedback=feedback)
    # Starts last: the loop over them is the long one.
    each = jax.vmap(step, (-1, -1, None), -1)
    each = jax.vmap(each, (0, None, 0))

    def body(logits, noise):
      return each(logits, noise, payoffs), None

    first = jnp.broadcast_to(logits, (len(payoffs), *logits.shape))
    last = jax.lax.scan(body, first, noise)[0]
    policy = jnp.moveaxis(jax.nn.softmax(last, 2), -1, 1)
    return policy[..., 0, :, None] * policy[..., 1, None, :]

  return jnp.stack([arm(*names) for names in ARMS])


# --- theory ------------------------------------------------------------------


def _potential(x, payoffs: np.ndarray, learner: str):
  """F, of which `F(x) = F(y)` on the border between two basins.

  With `a x - b` the advantage of action 0 where the other plays it with
  probability x, `F' = (a x - b)/(x (1 - x))^n`: n = 1 for Hedge, whose log-odds
  move by the advantage, 2 for the policy gradient, where it is times
  `2 x (1 - x)`.
  """
  rows = payoffs[0]
  b = rows[1, 1] - rows[0, 1]
  a = b + rows[0, 0] - rows[1, 0]
  if learner == "Hedge":
    return -b * jnp.log(x) - (a - b) * jnp.log1p(-x)
  odds = jnp.log(x) - jnp.log1p(-x)
  return (a - 2 * b) * odds + b / x + (a - b) / (1 - x)


def border(x: jax.Array, payoffs: np.ndarray, learner: str) -> jax.Array:
  """Where the basins of a symmetric coordination game meet, for slow learners.

  The orbits of both players' probabilities (x, y) of action 0 keep
  `F(x) - F(y)`, which is 0 at the mixed equilibrium.

  Args:
    x: `[n]`, the first player's probability.
    payoffs: `[2, 2, 2]`.
    learner: its name.

  Returns:
    `[n]`, y: above it both end at action 0.
  """
  rows = payoffs[0]
  b = rows[1, 1] - rows[0, 1]
  mixed = b / (b + rows[0, 0] - rows[1, 0])
  level = _potential(x, payoffs, learner)
  tiny = jnp.full_like(x, 1e-12)
  middle = jnp.full_like(x, mixed)

  def excess(sign):
    return lambda y: sign * (_potential(y, payoffs, learner) - level)

  # F falls up to the mixed equilibrium and rises from there on.
  above = numerics.bisect(excess(1), middle, 1 - tiny)
  below = numerics.bisect(excess(-1), tiny, middle)
  return jnp.where(x < mixed, above, below)


def basin(payoffs: np.ndarray, learner: str) -> float:
  """The share of uniform first policies from which both end at action 0."""
  n = 2000
  x = EDGE + (1 - 2 * EDGE) * (np.arange(n) + 0.5) / n
  y = np.asarray(border(jnp.asarray(x), payoffs, learner))
  return np.clip((1 - EDGE - y) / (1 - 2 * EDGE), 0, 1).mean()


# --- the part ----------------------------------------------------------------


def _basin_claims(table, names, shares) -> list[harness.Claim]:
  """Rates of a failure where both equilibria attract."""
  claims = []
  for name, (action, mode) in COORDINATION.items():
    for i, learner in enumerate(LEARNERS):
      hits = shares[i, names.index(name)] == games.FAILURE_MODES.index(mode)
      share = basin(table[name].chosen, learner)
      share = share if action == 0 else 1 - share
      error = np.sqrt(share * (1 - share) / hits.size)
      claims.append(
        harness.Claim(
          name=f"{mode}_{learner.split()[-1].lower()}",
          statement=f"share of first policies from which {learner} ends in"
          f" {mode} ({name}), against the area of the basin",
          theory=share,
          measured=hits.mean(),
          tolerance=harness.STANDARD_ERRORS * error,
          interval=harness.confidence_interval(hits),
        )
      )
  return claims


def _share(labels: np.ndarray, mode: str) -> float:
  return np.mean(labels == games.FAILURE_MODES.index(mode))


def learners(
  rng: np.random.Generator, table: dict[str, worlds.World], *, starts: int
) -> harness.Part:
  """Claims on where independent learners end.

  Args:
    rng: of first policies and sampled actions.
    table: all worlds.
    starts: first policies, each of a run of every learner and game.
  """
  names = list(table)
  stacked = worlds.World(*map(np.stack, zip(*table.values(), strict=True)))
  start = rng.uniform(EDGE, 1 - EDGE, (2, starts))
  noise = rng.random((STEPS, 2, starts), np.float32)
  # In single precision: half the time, and nothing here asks for more.
  single = (np.float32(x) for x in (stacked.chosen, start, noise))
  ends = np.asarray(play(*single), np.float64)
  ends = np.einsum("lgsij,gijab->lgsab", ends, stacked.outcome)
  shape = ends.shape[:3]

  def repeat(x):
    return np.broadcast_to(x[None, :, None], (*shape, *x.shape[1:])).reshape(
      -1, *x.shape[1:]
    )

  labels = worlds.label(
    repeat(stacked.payoffs), repeat(stacked.principal), ends.reshape(-1, 2, 2)
  )
  labels = np.asarray(labels).reshape(shape)
  by_game = dict(
    zip(names, labels[: len(LEARNERS)].swapaxes(0, 1), strict=True)
  )
  alone = np.stack([by_game["Bertrand, once"], by_game["Bertrand, impatient"]])
  calm = np.stack([by_game["harmony"], by_game["matching pennies"]])
  claims = [
    *_basin_claims(table, names, labels),
    harness.Claim(
      name="dilemma",
      statement="prisoner's dilemma: share of first policies from which both"
      " learners end in conflict",
      theory=1.0,
      measured=_share(by_game["prisoner's dilemma"], "conflict"),
      tolerance=0.0,
    ),
    harness.Claim(
      name="no_threat",
      statement="share that ends in collusion where no threat keeps prices up:"
      " Bertrand once, or repeated below the critical discount",
      theory=0.0,
      measured=_share(alone, "collusion"),
      tolerance=0.0,
    ),
    harness.Claim(
      name="harmless",
      statement="harmony and matching pennies: share without any failure",
      theory=1.0,
      measured=_share(calm, "none"),
      tolerance=0.0,
    ),
  ]
  rates = np.stack(
    [(labels == i).mean(-1) for i in range(len(games.FAILURE_MODES))], -1
  )
  half = 1.96 * np.sqrt(rates * (1 - rates) / starts)
  tables = {
    f"where learners end, {feedback} feedback": [
      {"game": name, "learner": learner}
      | {
        mode: f"{rates[i, g, j]:.3f} +- {half[i, g, j]:.3f}"
        for j, mode in enumerate(games.FAILURE_MODES)
      }
      for g, name in enumerate(names)
      for i, (learner, of) in enumerate(ARMS)
      if of == feedback
    ]
    for feedback in FEEDBACK
  }
  x = np.linspace(EDGE, 1 - EDGE, 200)
  curves = {
    "learners/rates": rates,
    "learners/start": start,
    "learners/hares": labels[0, names.index("stag hunt")],
    "learners/x": x,
    "learners/borders": np.stack(
      [border(jnp.asarray(x), worlds.STAG_HUNT, name) for name in LEARNERS]
    ),
  }
  return harness.Part(claims, curves, tables)


def plot_rates(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Shares of labels, a bar for each game and learner."""
  rates = curves["learners/rates"]
  names = list(worlds.worlds())
  arms = len(rates)
  place = np.arange(len(names))[:, None] * (arms + 1) + np.arange(arms)
  left = np.zeros(place.size)
  colors = ("0.85", "C0", "C3", "C1")
  for mode, color, share in zip(
    games.FAILURE_MODES, colors, np.moveaxis(rates, -1, 0), strict=True
  ):
    width = share.T.ravel()
    axes.barh(place.ravel(), width, left=left, color=color, label=mode)
    left = left + width
  axes.set_yticks(place.mean(1), names)
  axes.invert_yaxis()
  axes.grid(visible=False)
  axes.set(
    xlabel="share of first policies",
    xlim=(0, 1),
    title="bars: Hedge, policy gradient; the same with sampled play",
  )
  axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=4)


def plot_basins(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """First policies of the stag hunt, by where Hedge ends."""
  start, hares = curves["learners/start"], curves["learners/hares"] != 0
  shown = slice(0, 1500)
  for which, color, name in ((~hares, "0.7", "stag"), (hares, "C0", "hare")):
    axes.plot(
      *start[:, shown][:, which[shown]],
      ".",
      color=color,
      markersize=3,
      label=name,
    )
  for y, style, name in zip(
    curves["learners/borders"], ("k-", "k--"), LEARNERS, strict=True
  ):
    axes.plot(curves["learners/x"], y, style, label=f"border, {name}")
  axes.set(
    xlabel="first probability of stag, player 1",
    ylabel="player 2",
    xlim=(0, 1),
    ylim=(0, 1),
    title="stag hunt: where Hedge ends",
  )
  axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

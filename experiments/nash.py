# SPDX-License-Identifier: Apache-2.0
"""Nash learning: where every algorithm converges to, and how fast.

Paper: Nash Learning from Human Feedback (2312.00886); Human Alignment of Large
Language Models through Online Preference Optimisation (2403.08635); EGPO
(2503.08942).
Claims: (1) A step of Nash-MD leaves KL(pi*||pi) below (1 - eta tau) KL + 2
eta^2, and decreasing steps leave it below 8 / (tau^2 (T + 1)). Expected: ratios
to the bounds at most 1; the KL in fact falls like T^-2, exponent -2 +- .01.
(2) Nash-MD with a constant step, IPO-MD and Nash-MD-PG rest at one policy, the
best response to the equilibrium of strength tau / (1 - eta tau), which is not
pi*. Expected: KL to it 0 +- 1e-12, floors of KL(pi*||pi) equal to 1e-5. (3) The
KL falls by the factor per step of the linearised algorithm. Expected: equal to
2e-5 on the symmetric cycle; on random games logarithms within 5 %. (4)
Self-play converges up to a step size. Expected: 1.31579 +- .000005 for tau =
.02 on the cycle of wins .8. (5) Multiplicative weights do not approach the
equilibrium of a cycle; their average does. Expected: its duality gap falls like
T^-1, exponent -1 +- .1.
Command: `python -m experiments.nash`
About 20 seconds on 2 cores.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from matplotlib import ticker

from experiments import harness, plotting
from jaxalign import checks
from jaxalign.divergences import categorical
from jaxalign.exact import games
from jaxalign.social_choice import equilibria, nash, nash_losses

WORLDS = {
  "symmetric cycle": slice(0, 1),
  "uneven cycle": slice(1, 2),
  "random games": slice(2, None),
}
CYCLE, RANDOM = 0, WORLDS["random games"]
BIASED = slice(1, None)  # on the symmetric cycle every limit is pi*
SIDES = (0.9, 1.1)  # of self-play's threshold
NEAR = 1e-8  # how far from pi* the runs beside the threshold start
# Where the logarithm of the KL is fitted: far enough below 1 for linear
# algorithms, far enough above 1e-30 for float64.
DECAY, GROWTH = (1e-26, 1e-10), (1e-12, 1e-7)
STABLE_TAU, STABLE_WIN = 0.02, 0.8
STABLE_ETAS = (1.28, 1.3, 1.31, 1.33, 1.34, 1.36)
STABLE_STEPS, STABLE_FIT = 20_000, 2000
MWU_STEP, MWU_STEPS = 0.01, 40_000


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """The games and the step sizes."""

  num_seeds: int = harness.field(
    16, smoke=4, full=48, help="random games, of which intervals are taken"
  )
  tau: float = harness.field(0.1, help="weight of the KL from the reference")
  win_prob: float = harness.field(0.8, help="wins in the symmetric cycle")
  actions: int = harness.field(6, help="actions of the random games")
  scale: float = harness.field(1.0, help="spread of the random log-odds")
  shares: tuple[float, ...] = harness.field(
    (0.025, 0.05, 0.1),
    help="step sizes as shares of self-play's threshold, increasing",
  )
  decay: float = harness.field(0.5, help="decay of the average in Nash-EMA")
  steps: int = harness.field(
    6000, smoke=4000, full=8000, help="steps of each algorithm"
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ("tau", "scale"):
      if not 0 < getattr(self, name) < np.inf:
        raise ValueError(
          f"{name} must be above 0 and finite, was {getattr(self, name)}"
        )
    if not 0.5 < self.win_prob <= 1:
      raise ValueError(f"win_prob must be in (0.5, 1], was {self.win_prob}")
    for name, least in (("actions", 3), ("steps", 100)):
      if getattr(self, name) < least:
        raise ValueError(
          f"{name} must be at least {least}, was {getattr(self, name)}"
        )
    rising = np.all(np.diff((0.0, *self.shares, 0.5)) > 0)
    if len(self.shares) < 2 or not rising:
      raise ValueError(
        "shares must be two or more increasing numbers in (0, 0.5), was"
        f" {','.join(map(str, self.shares))}"
      )
    if not 0 <= self.decay < 1:
      raise ValueError(f"decay must be in [0, 1), was {self.decay}")


# --- the games and their equilibria ------------------------------------------


class Game(NamedTuple):
  """A regularised preference game and where the algorithms start.

  Attributes:
    log_ref: `[..., A]`, the reference mu, -inf beyond the game's actions.
    pref: `[..., A, A]`, `P(y > y')`.
    log_start: `[..., A]`, the first policy.
    shift: `[..., A]`, direction in which runs beside pi* start.
  """

  log_ref: jax.Array
  pref: jax.Array
  log_start: jax.Array
  shift: jax.Array


class Solution(NamedTuple):
  """Equilibria and step sizes of a game; K step sizes.

  Attributes:
    star: `[..., A]`, the equilibrium, log pi*.
    threshold: `[...]`, of self-play's step size.
    etas: `[..., K]`, the constant step sizes.
    mixtures: `[..., K, A]`, log rho, equilibria of strength
      tau / (1 - eta tau).
    limits: `[..., K, A]`, the best responses `mu exp(P rho / tau) / Z`.
    rate: `[...]`, step size of gradient descent on IPO losses.
  """

  star: jax.Array
  threshold: jax.Array
  etas: jax.Array
  mixtures: jax.Array
  limits: jax.Array
  rate: jax.Array


def cycles(win_prob: jax.typing.ArrayLike) -> Game:
  """Rock, paper, scissors twice: alike; with wins and reference that differ."""
  return Game(
    jnp.log(jnp.array([[1 / 3] * 3, [0.5, 0.3, 0.2]])),
    jnp.stack(
      [
        games.cyclic_game(3, win_prob),
        games.rock_paper_scissors(jnp.array([0.9, 0.7, 0.6])),
      ]
    ),
    jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])),
    jnp.array([[1.0, 0.0, -1.0]] * 2),
  )


def _random_game(key: jax.Array, scale: jax.Array, actions: int) -> Game:
  pref_key, key = jax.random.split(key)
  ref, start, shift = jax.random.normal(key, (3, actions))
  return Game(
    jax.nn.log_softmax(ref / 2),
    games.random_preferences(pref_key, actions, scale),
    jax.nn.log_softmax(start),
    shift,
  )


@functools.partial(jax.jit, static_argnames="actions")
def make_games(
  keys: jax.Array, win_prob: jax.Array, scale: jax.Array, *, actions: int
) -> Game:
  """The two cycles, then a random game for every key: `[W, ...]`.

  The actions that a cycle lacks have no mass in its reference.
  """

  def pad(x, fill):
    widths = [(0, 0), *[(0, actions - 3)] * (x.ndim - 1)]
    return jnp.pad(x, widths, constant_values=fill)

  padded = map(pad, cycles(win_prob), (-jnp.inf, 0.5, -jnp.inf, 0.0))
  drawn = jax.vmap(lambda key: _random_game(key, scale, actions))(keys)
  return Game(*(jnp.concatenate(x) for x in zip(padded, drawn, strict=True)))


@jax.jit
def _equilibria(
  game: Game, strengths: jax.Array, tau: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Equilibria `[W, K, A]` of strengths `[W, K]`, by Newton's method.

  Returns:
    Their log-policies `[W, K, A]`, the best responses to them at tau, and the
    thresholds of self-play `[W, K]` at tau.
  """

  def repeat(x):
    return jnp.broadcast_to(x[:, None], (*strengths.shape, *x.shape[1:]))

  log_ref, pref = repeat(game.log_ref), repeat(game.pref)
  log_pi = equilibria.regularized_nash(log_ref, pref, 1 / strengths).log_policy
  paid = jnp.einsum("wkxy,wky->wkx", pref, jnp.exp(log_pi))
  response = jax.nn.log_softmax(log_ref + paid / tau)
  return log_pi, response, nash.self_play_threshold(log_pi, pref, tau)


def solve(game: Game, config: Config) -> Solution:
  """Everything that the theory needs to know, in NumPy."""
  tau = np.float64(config.tau)
  equal = np.full((len(game.pref), len(config.shares)), tau)
  star, _, threshold = map(np.asarray, _equilibria(game, equal, tau))
  etas = threshold * np.array(config.shares)
  mixtures, limits, _ = _equilibria(game, tau / (1 - etas * tau), tau)
  return Solution(
    star=star[:, 0],
    threshold=threshold[:, 0],
    etas=etas,
    mixtures=np.asarray(mixtures),
    limits=np.asarray(limits),
    # Stable on every game, because no covariance has an eigenvalue above 1/2;
    # half of what is fastest on the symmetric cycle.
    rate=tau * threshold[:, 0] / 4,
  )


# --- the algorithms ----------------------------------------------------------


def runs(config: Config) -> dict[str, list[str]]:
  """Names of the runs of every algorithm, in the order of the results."""

  def by_share(name):
    return [f"{name}, {share:g}" for share in config.shares]

  return {
    "nash_md": by_share("Nash-MD"),
    "decreasing": ["Nash-MD, decreasing"],
    "self_play": [f"self-play, {x:g}" for x in (config.shares[-1], *SIDES)],
    "extragradient": ["extragradient"],
    "nash_ema": ["Nash-EMA"],
    "online_ipo": ["online IPO"],
    "ipo_md": by_share("IPO-MD"),
    "nash_md_pg": by_share("Nash-MD-PG"),
  }


def self_sampled_ipo(log_pi, log_ref, pref, tau, _) -> jax.Array:
  """Online IPO, whose pairs come from the policy itself."""
  return nash_losses.online_ipo_loss(log_pi, log_ref, pref, tau, log_pi)


def expected_nash_md_pg(log_pi, log_ref, pref, tau, coef) -> jax.Array:
  """Mean of the Nash-MD-PG loss over both players' answers of one token."""
  opponent = nash.geometric_mixture(log_pi, log_ref, coef)

  def tokens(x):
    return jnp.broadcast_to(x[:, None, None], (*pref.shape, 1))

  losses = nash_losses.nash_md_pg_loss(
    tokens(log_pi), tokens(log_ref), pref, tau, tokens(log_ref > -jnp.inf)
  )
  sampling = jax.lax.stop_gradient((jnp.exp(log_pi), jnp.exp(opponent)))
  return sampling[0] @ losses @ sampling[1]


class Algorithm(NamedTuple):
  """k runs of one algorithm.

  Attributes:
    start: the first state, `[k, A]` arrays.
    step: from state and step number to the next state.
    limit: `[k, A]`, where the runs should end.
  """

  start: jax.Array | nash.NashEMAState
  step: Callable
  limit: jax.Array


def algorithms(
  game: Game, solution: Solution, tau: jax.Array, decay: jax.Array
) -> list[Algorithm]:
  """Every algorithm on one game, in the order of `runs`."""
  log_ref, pref, log_start, shift = game
  star, threshold, etas, _, limits, rate = solution
  last = etas[-1:]

  def mirror(step, values):
    def one(state, eta):
      return step(state, log_ref, pref, tau, eta)

    return lambda state, t: jax.vmap(one)(state, values(t))

  def nash_ema(state, *args):
    return nash.nash_ema_step(state, *args, decay)

  def descent(loss, rate, coefs):
    def one(logits, coef):
      def value(x):
        return loss(jax.nn.log_softmax(x), log_ref, pref, tau, coef)

      return jax.nn.log_softmax(logits - rate * jax.grad(value)(logits))

    return lambda state, t: jax.vmap(one)(state, coefs)

  def copies(x, k):
    return jnp.broadcast_to(x, (k, *x.shape))

  count, coefs = len(etas), etas * tau
  start, starts = copies(log_start, 1), copies(log_start, count)
  near = copies(jax.nn.log_softmax(star + NEAR * shift), len(SIDES))
  steps = jnp.concatenate([last, threshold * jnp.array(SIDES)])
  # The gradient of Nash-MD-PG is tau / 4 times that of IPO.
  pg_rate = 4 * rate / tau
  return [
    Algorithm(
      copies(log_start, count + 1),
      mirror(
        nash.nash_md_step, lambda t: jnp.append(etas, 2 / (tau * (t + 2)))
      ),
      jnp.concatenate([limits, copies(star, 1)]),
    ),
    Algorithm(
      jnp.concatenate([start, near]),
      mirror(nash.self_play_md_step, lambda t: steps),
      copies(star, len(steps)),
    ),
    Algorithm(
      start, mirror(nash.extragradient_step, lambda t: last), copies(star, 1)
    ),
    Algorithm(
      nash.NashEMAState(start, start),
      mirror(nash_ema, lambda t: last),
      copies(star, 1),
    ),
    Algorithm(
      start, descent(self_sampled_ipo, rate, coefs[:1]), copies(star, 1)
    ),
    Algorithm(starts, descent(nash_losses.ipo_md_loss, rate, coefs), limits),
    Algorithm(starts, descent(expected_nash_md_pg, pg_rate, coefs), limits),
  ]


@functools.partial(jax.jit, static_argnames="steps")
def play(
  game: Game,
  solution: Solution,
  tau: jax.Array,
  decay: jax.Array,
  *,
  steps: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Runs every algorithm on every game.

  Returns:
    `[W, steps + 1, R]` each: KL from pi*, KL from the run's own limit, and the
    duality gap.
  """

  def one(game, solution):
    table = algorithms(game, solution, tau, decay)
    limits = jnp.concatenate([algorithm.limit for algorithm in table])
    stars = jnp.broadcast_to(solution.star, limits.shape)

    def gap(log_pi):
      return nash.duality_gap(log_pi, game.log_ref, game.pref, tau)

    def advance(states, t):
      log_pi = jnp.concatenate(
        [s.log_pi if isinstance(s, tuple) else s for s in states]
      )
      measured = (
        categorical.kl(stars, log_pi),
        categorical.kl(limits, log_pi),
        jax.vmap(gap)(log_pi),
      )
      following = [a.step(s, t) for a, s in zip(table, states, strict=True)]
      return following, measured

    start = [algorithm.start for algorithm in table]
    return jax.lax.scan(advance, start, jnp.arange(steps + 1))[1]

  return jax.vmap(one)(game, solution)


# --- rates of the linearised algorithms --------------------------------------


def linear_factor(derivative: np.ndarray) -> float:
  """Factor of the KL per step: the spectral radius squared."""
  return np.abs(np.linalg.eigvals(derivative)).max() ** 2


def theory(
  game: Game, solution: Solution, config: Config
) -> tuple[np.ndarray, float]:
  """Factors `[R]` of the KL per step on one game, in the order of `runs`.

  With `S = diag(pi) - pi pi^T` at the limit and `A = P - 1/2`, the steps have,
  in log-policies up to constants, the derivatives
  `J = (1 - eta tau) I + eta A S` of self-play,
  `(1 - eta tau) I + eta A S J` of extragradient,
  `(1 - eta tau) (I + eta A S_rho)` of Nash-MD, and
  `I - 4 r S (I - (1 - b) A S_rho / tau)` of IPO (S of rho) and Nash-MD-PG (S of
  pi) at rate r. With eta = 2 / (tau (t + 2)) the factor is NaN; the log-policy
  is c / t away, `c = -(4 / tau) (I - 2 A S / tau)^-1 A S log(pi* / mu)`.

  Returns:
    The factors, and `c^T S c / 2`, the limit of T^2 KL with decreasing steps.
  """
  live = game.log_ref > -np.inf
  log_ref, star = game.log_ref[live], solution.star[live]
  margins = game.pref[np.ix_(live, live)] - 0.5
  tau, decay, rate = config.tau, config.decay, solution.rate
  identity = np.eye(live.sum())
  # Log-policies that differ by a constant are the same policy.
  centre = identity - 1 / live.sum()

  def spread(log_pi):
    p = np.exp(log_pi)
    return np.diag(p) - np.outer(p, p)

  turn = margins @ spread(star)

  def self_play(eta):
    return (1 - eta * tau) * identity + eta * turn

  def nash_ema(eta):
    keep, pay = (1 - eta * tau) * centre, eta * centre @ turn
    lag = 1 - decay
    return np.block([[keep, pay], [lag * keep, decay * centre + lag * pay]])

  def descent(moved, mixture, b):
    pull = identity - (1 - b) * margins @ spread(mixture) / tau
    return identity - 4 * rate * spread(moved) @ pull

  etas, last = solution.etas, solution.etas[-1]
  mixtures, limits = solution.mixtures[:, live], solution.limits[:, live]
  derivatives = [
    *(
      (1 - eta * tau) * (identity + eta * margins @ spread(rho))
      for eta, rho in zip(etas, mixtures, strict=True)
    ),
    np.nan * identity,
    self_play(last),
    *(self_play(side * solution.threshold) for side in SIDES),
    (1 - last * tau) * identity + last * turn @ self_play(last),
    nash_ema(last),
    descent(star, star, 0.0),
    *map(descent, mixtures, mixtures, etas * tau),
    *map(descent, limits, mixtures, etas * tau),
  ]
  factors = [
    np.nan
    if np.isnan(derivative).any()
    else linear_factor(
      np.kron(np.eye(len(derivative) // len(centre)), centre) @ derivative
    )
    for derivative in derivatives
  ]
  force = turn @ (star - log_ref)
  lag = -(4 / tau) * np.linalg.solve(identity - 2 * turn / tau, force)
  return np.array(factors), lag @ spread(star) @ lag / 2


# --- what is measured --------------------------------------------------------


def fitted_factor(kl: np.ndarray, window: tuple[float, float]) -> float:
  """Factor per step by least squares of log KL `[T]` inside a window."""
  (steps,) = np.nonzero((kl > window[0]) & (kl < window[1]))
  if steps.size < 5:
    return np.nan
  return np.exp(np.polyfit(steps, np.log(kl[steps]), 1)[0])


def fitted_exponent(y: np.ndarray, steps: np.ndarray) -> float:
  """Exponent e of `y ~ steps^e`, by least squares of the logarithms."""
  return np.polyfit(np.log(steps), np.log(y), 1)[0]


class Found(NamedTuple):
  """All that the runs gave, in NumPy; W games, R runs, T steps.

  Attributes:
    names: `[R]`, the runs.
    index: the runs of each algorithm.
    solution: of every game.
    kl: `[W, T + 1, R]`, KL(pi*||pi).
    limit_kl: `[W, T + 1, R]`, KL(limit||pi).
    gap: `[W, T + 1, R]`, the duality gap.
    theory: `[W, R]`, factors of the KL per step; NaN for decreasing steps.
    fitted: `[W, R]`, the same from the curves.
    constants: `[W]`, the limit of T^2 KL with decreasing steps.
  """

  names: list[str]
  index: dict[str, list[int]]
  solution: Solution
  kl: np.ndarray
  limit_kl: np.ndarray
  gap: np.ndarray
  theory: np.ndarray
  fitted: np.ndarray
  constants: np.ndarray


def check_steps(
  names: list[str], factors: np.ndarray, grows: int, steps: int
) -> None:
  """Raises unless all curves but one reach well into the window of the fit."""
  slowest = np.nan_to_num(factors).max(0)
  slowest[grows] = 0
  worst = int(slowest.argmax())
  if slowest[worst] >= 1:
    raise checks.InputError(
      f"{names[worst]} does not converge, its KL grows by"
      f" {slowest[worst]:.4g} a step: lower shares or decay"
    )
  # At 1e-20 most of the window is behind.
  needed = int(np.ceil(np.log(1e20) / -np.log(slowest[worst])))
  if steps < needed:
    raise checks.InputError(
      f"steps must be at least {needed} for {names[worst]} to converge on"
      f" these games, was {steps}"
    )


def measure(config: Config) -> Found:
  """Runs all algorithms on all games and fits their rates.

  Raises:
    InputError: an algorithm diverges, or converges too slowly to be fitted.
  """
  keys = jax.random.split(config.key(), config.num_seeds)
  sizes = np.float64(config.win_prob), np.float64(config.scale)
  game = make_games(keys, *sizes, actions=config.actions)
  game = jax.tree.map(np.asarray, game)
  solution = solve(game, config)
  groups = runs(config)
  names = [name for group in groups.values() for name in group]
  index = {k: [names.index(name) for name in v] for k, v in groups.items()}
  grows = index["self_play"][-1]
  rows = [
    theory(
      Game(*(x[w] for x in game)), Solution(*(x[w] for x in solution)), config
    )
    for w in range(len(game.pref))
  ]
  factors = np.stack([row for row, _ in rows])
  check_steps(names, factors, grows, config.steps)
  weights = np.float64(config.tau), np.float64(config.decay)
  kl, limit_kl, gap = map(
    np.asarray, play(game, solution, *weights, steps=config.steps)
  )
  fitted = [
    [
      fitted_factor(path, GROWTH if run == grows else DECAY)
      for run, path in enumerate(world.T)
    ]
    for world in limit_kl
  ]
  return Found(
    names,
    index,
    solution,
    kl,
    limit_kl,
    gap,
    factors,
    np.array(fitted),
    np.array([constant for _, constant in rows]),
  )


def biased_kl(found: Found) -> np.ndarray:
  """KL(pi*||limit) `[W, K]` of the biased limits."""
  limits = found.solution.limits
  star = np.broadcast_to(found.solution.star[:, None], limits.shape)
  return np.asarray(jax.jit(categorical.kl)(star, limits))


def _furthest(ratios: np.ndarray) -> float:
  """The entry that is furthest from 1."""
  ratios = np.ravel(ratios)
  return ratios[np.abs(ratios - 1).argmax()]


# --- claims ------------------------------------------------------------------


def _bounds(found: Found, config: Config) -> list[harness.Claim]:
  """The one-step inequality and the bound of decreasing steps."""
  t = np.arange(config.steps)
  constant = np.repeat(found.solution.etas[:, None], config.steps, 1)
  falling = np.broadcast_to(
    2 / (config.tau * (t[:, None] + 2)), (*constant.shape[:2], 1)
  )
  etas = np.concatenate([constant, falling], -1)
  kl = found.kl[..., found.index["nash_md"] + found.index["decreasing"]]
  excess = kl[:, 1:] - (1 - etas * config.tau) * kl[:, :-1]
  bound = 8 / (config.tau**2 * (t + 2))
  return [
    harness.Claim(
      name="one_step_inequality",
      statement="a step of Nash-MD leaves KL(pi*||pi) below (1 - eta tau) KL +"
      " 2 eta^2: largest excess over 2 eta^2",
      theory=1.0,
      measured=np.max(excess / (2 * etas**2)),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="decreasing_steps_bound",
      statement="with steps 2/(tau (t + 2)) KL(pi*||pi_T) <= 8/(tau^2 (T + 1)):"
      " largest ratio",
      theory=1.0,
      measured=np.max(kl[:, 1:, -1] / bound),
      tolerance=0.0,
      relation="<=",
    ),
  ]


def _decreasing(found: Found, config: Config) -> list[harness.Claim]:
  """Exponent and constant of decreasing steps on the random games."""
  (run,) = found.index["decreasing"]
  paths = found.kl[RANDOM, :, run]
  t = np.arange(config.steps // 10, config.steps + 1)
  exponents = np.array([fitted_exponent(path[t], t) for path in paths])
  ratios = paths[:, -1] * config.steps**2 / found.constants[RANDOM]
  # The next order is a few dozen over T of the leading one.
  tolerance = 0.01
  return [
    harness.Claim(
      name="decreasing_steps_exponent",
      statement="with steps 2/(tau (t + 2)) the KL falls like T^-2: exponent,"
      " mean over random games",
      theory=-2.0,
      measured=exponents.mean(),
      tolerance=tolerance,
      interval=harness.confidence_interval(exponents),
    ),
    harness.Claim(
      name="decreasing_steps_constant",
      statement="with steps 2/(tau (t + 2)) T^2 KL over the linearisation's"
      " constant: mean over random games",
      theory=1.0,
      measured=ratios.mean(),
      tolerance=tolerance,
      interval=harness.confidence_interval(ratios),
    ),
  ]


MIXED = {"nash_md": "Nash-MD", "ipo_md": "IPO-MD", "nash_md_pg": "Nash-MD-PG"}


def _limits(found: Found) -> list[harness.Claim]:
  """Where the algorithms with a mixture rest, and how far from pi*."""
  floors = {name: found.kl[BIASED, -1, found.index[name]] for name in MIXED}
  return [
    *(
      harness.Claim(
        name=f"{name}_limit",
        statement=f"{label} rests at mu exp(P rho/tau)/Z, rho the equilibrium"
        " of strength tau/(1 - b), b = eta tau: largest KL",
        theory=0.0,
        measured=np.max(found.limit_kl[:, -1, found.index[name]]),
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
      measured=_furthest(floors["nash_md"] / biased_kl(found)[BIASED]),
      tolerance=1e-5,
    ),
  ]


RATES = {
  "nash_md": ("nash_md", -1, "Nash-MD, largest constant step"),
  "self_play": ("self_play", 0, "self-play below its threshold"),
  "self_play_above": ("self_play", -1, "self-play above its threshold"),
  "extragradient": ("extragradient", 0, "extragradient"),
  "nash_ema": ("nash_ema", 0, "Nash-EMA"),
  "online_ipo": ("online_ipo", 0, "online IPO by gradient descent"),
  "ipo_md": ("ipo_md", -1, "IPO-MD by gradient descent"),
  "nash_md_pg": ("nash_md_pg", -1, "Nash-MD-PG by its expected gradient"),
}


def _rates(found: Found) -> list[harness.Claim]:
  """Fitted factors against those of the linearised algorithms."""
  picked = [found.index[name][k] for name, k, _ in RATES.values()]
  ratios = (np.log(found.fitted) / np.log(found.theory))[RANDOM, picked]
  worst = ratios[:, np.abs(ratios.mean(0) - 1).argmax()]
  _, below, above = found.fitted[:, found.index["self_play"]].T
  return [
    *(
      harness.Claim(
        name=f"{name}_rate",
        statement=f"{label}: fitted factor of the KL per step on the symmetric"
        " cycle",
        theory=found.theory[CYCLE, run],
        measured=found.fitted[CYCLE, run],
        # Roundings of the policy move log KL by up to 3e-3 at the end of the
        # 37 nats that are fitted, third-order terms by 1e-5 at the beginning.
        tolerance=2e-5,
      )
      for run, (name, (_, _, label)) in zip(picked, RATES.items(), strict=True)
    ),
    harness.Claim(
      name="rates_on_random_games",
      statement="logarithm of the fitted factor over the theory's: mean over"
      " random games, of the algorithm furthest from 1",
      theory=1.0,
      measured=worst.mean(),
      # Faster modes that are still there steepen the curves.
      tolerance=0.05,
      interval=harness.confidence_interval(worst),
    ),
    harness.Claim(
      name="sides_of_the_threshold",
      statement=f"share of the games on which self-play converges at {SIDES[0]}"
      f" and diverges at {SIDES[1]} times its threshold",
      theory=1.0,
      measured=np.mean((below < 1) & (above > 1)),
      tolerance=0.0,
    ),
  ]


def _gaps(found: Found) -> list[harness.Claim]:
  """The duality gap on the way and at the end."""
  unbiased = ("self_play", "extragradient", "nash_ema", "online_ipo")
  last = found.gap[:, -1, [found.index[name][0] for name in unbiased]]
  # Steps above 2 / tau may drive the policy beyond the range of floats.
  converging = np.delete(found.gap, found.index["self_play"][-1], -1)
  # A few roundings of 1/2.
  tolerance = 1e-14
  return [
    harness.Claim(
      name="gap_is_not_negative",
      statement="smallest duality gap on any run that converges",
      theory=0.0,
      measured=converging.min(),
      tolerance=tolerance,
      relation=">=",
    ),
    harness.Claim(
      name="gap_vanishes",
      statement="final duality gap of self-play below its threshold,"
      " extragradient, Nash-EMA and online IPO: largest",
      theory=0.0,
      measured=last.max(),
      tolerance=tolerance,
    ),
  ]


# --- the threshold of self-play ----------------------------------------------


@functools.partial(jax.jit, static_argnames="steps")
def beside_threshold(
  etas: jax.Array, *, steps: int
) -> tuple[jax.Array, jax.Array]:
  """KL from pi* `[T + 1, K]` of self-play, and its threshold."""
  pref = games.cyclic_game(3, STABLE_WIN)
  log_ref = jnp.full(3, -jnp.log(3.0))
  first = jax.nn.log_softmax(jnp.array([1e-3, 0.0, -1e-3]))

  def advance(log_pi, _):
    distance = categorical.kl(jnp.broadcast_to(log_ref, log_pi.shape), log_pi)
    log_pi = jax.vmap(
      lambda x, eta: nash.self_play_md_step(x, log_ref, pref, STABLE_TAU, eta)
    )(log_pi, etas)
    return log_pi, distance

  first = jnp.broadcast_to(first, (len(etas), 3))
  paths = jax.lax.scan(advance, first, length=steps + 1)[1]
  return paths, nash.self_play_threshold(log_ref, pref, STABLE_TAU)


def stable_factor(eta: np.ndarray) -> np.ndarray:
  """Factor of the KL per step there, with omega^2 = (win - 1/2)^2 / 3."""
  turn = eta * (STABLE_WIN - 0.5) / 3**0.5
  return (1 - eta * STABLE_TAU) ** 2 + turn**2


def _stability():
  """Claims, curves and rows on self-play's threshold."""
  etas = np.array(STABLE_ETAS)
  kl, threshold = map(np.asarray, beside_threshold(etas, steps=STABLE_STEPS))
  factors = (kl[STABLE_FIT] / kl[0]) ** (1 / STABLE_FIT)
  expected = stable_factor(etas)
  case = f"tau = {STABLE_TAU:g}, cycle of wins {STABLE_WIN:g}"
  claims = [
    harness.Claim(
      name="self_play_threshold",
      statement=f"step size up to which self-play converges, {case}",
      theory=threshold,
      # The factor is quadratic in the step size, and 1 at the threshold.
      measured=np.roots(np.polyfit(etas, factors - 1, 2)).real.max(),
      # Half a unit of the last digit of 1.31579.
      tolerance=5e-6,
    )
  ]
  for eta, verb in ((1.31, "converges"), (1.33, "cycles")):
    k = STABLE_ETAS.index(eta)
    claims.append(
      harness.Claim(
        name=f"self_play_{verb}_at_{eta:g}",
        statement=f"self-play {verb} at step size {eta:g}: factor of the KL per"
        f" step, {case}",
        theory=expected[k],
        measured=factors[k],
        # Terms of third order in a start 1e-3 away. The sides of 1 differ by
        # hundreds of this.
        tolerance=1e-6,
      )
    )
  columns = (etas, factors, expected, kl[-1])
  rows = [
    dict(zip(("eta", "fitted", "theory", "final KL"), row, strict=True))
    for row in zip(*columns, strict=True)
  ]
  shown = np.arange(0, STABLE_STEPS + 1, STABLE_STEPS // 500)
  curves = {
    "stability_etas": etas,
    "stability_factors": factors,
    "stability_threshold": threshold,
    "stability_steps": shown,
    "stability_kl": kl[shown],
  }
  return claims, curves, rows


# --- multiplicative weights --------------------------------------------------


@functools.partial(jax.jit, static_argnames="steps")
def multiplicative_weights(
  log_start: jax.Array, pref: jax.Array, log_lottery: jax.Array, *, steps: int
) -> tuple[jax.Array, jax.Array]:
  """KL(lottery||pi_t) `[W, T]`, and the gap `[W, T]` of the average up to t."""
  log_ref = jnp.full_like(log_start, -jnp.log(3.0))

  def advance(carry, t):
    log_pi, total = carry
    total = total + jnp.exp(log_pi)
    gap = nash.duality_gap(jnp.log(total / (t + 1)), log_ref, pref, 0.0)
    distance = categorical.kl(log_lottery, log_pi)
    log_pi = nash.self_play_md_step(log_pi, log_ref, pref, 0.0, MWU_STEP)
    return (log_pi, total), (distance, gap)

  start = log_start, jnp.zeros_like(log_start)
  distance, gap = jax.lax.scan(advance, start, jnp.arange(steps))[1]
  return distance.T, gap.T


def envelope_exponent(y: np.ndarray) -> float:
  """Exponent of the envelope of y `[T]`, which has several turns a decade.

  From the largest `t y(t)` in the two halves of the last decade.
  """
  t = np.arange(1, len(y) + 1)
  low, middle = (round(len(y) / 10**x) for x in (1, 0.5))
  early, late = np.max((t * y)[low:middle]), np.max((t * y)[middle:])
  return np.log(late / early) / np.log(10**0.5) - 1


def _unregularised(config: Config):
  """Claims, curves and rows on multiplicative weights."""
  game = jax.tree.map(np.asarray, jax.jit(cycles)(np.float64(config.win_prob)))
  lotteries = [games.enumerate_maximal_lotteries(p)[0] for p in game.pref]
  kl, gap = map(
    np.asarray,
    multiplicative_weights(
      game.log_start, game.pref, np.log(lotteries), steps=MWU_STEPS
    ),
  )
  counts = np.arange(1, MWU_STEPS + 1)
  first = -game.log_start.min(-1, keepdims=True)
  bound = 2 * (first / (MWU_STEP * counts) + MWU_STEP / 8)
  exponents = np.array([envelope_exponent(y) for y in gap])
  claims = [
    harness.Claim(
      name="multiplicative_weights_never_approach",
      statement="multiplicative weights on the cycles: smallest change of"
      " KL(lottery||pi) in a step",
      theory=0.0,
      measured=np.diff(kl).min(),
      tolerance=1e-14,  # Roundings of a KL below 1.
      relation=">=",
    ),
    harness.Claim(
      name="average_regret_bound",
      statement="duality gap of the average of multiplicative weights over"
      " 2 (log(1/min pi_0)/(eta T) + eta/8): largest",
      theory=1.0,
      measured=np.max(gap / bound),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="average_exponent",
      statement="duality gap of the average of multiplicative weights falls"
      " like T^-1: exponent of its envelope, cycle furthest off",
      theory=-1.0,
      measured=-_furthest(-exponents),
      # The orbits widen by a few per cent in the decade that is fitted.
      tolerance=0.1,
    ),
  ]
  rows = [
    {
      "game": name,
      "first KL": kl[i, 0],
      "last KL": kl[i, -1],
      "fitted exponent": exponents[i],
      "theory": -1.0,
      "last gap of average": gap[i, -1],
      "bound": bound[i, -1],
    }
    for i, name in enumerate(list(WORLDS)[: len(kl)])
  ]
  shown = np.unique(np.geomspace(1, MWU_STEPS, 800).astype(int)) - 1
  curves = {
    "mwu_steps": counts[shown],
    "mwu_kl": kl[:, shown],
    "mwu_gap": gap[:, shown],
    "mwu_bound": bound[:, shown],
  }
  return claims, curves, rows


# --- the experiment ----------------------------------------------------------


def _interval(samples: np.ndarray) -> dict[str, str]:
  if len(samples) < 2:
    return {}
  low, high = harness.confidence_interval(samples)
  return {"95 %": f"{low:.4f} to {high:.4f}"}


def _shown(found: Found) -> list[int]:
  """The runs to plot: one an algorithm, but both sides of self-play."""
  last = {name: group[-1] for name, group in found.index.items()}
  return sorted([*last.values(), found.index["self_play"][0]])


def _rows(found: Found, world: slice) -> list[dict]:
  """Rate and end of every run: means and medians over games."""
  fitted, expected = np.log(found.fitted[world]), np.log(found.theory[world])
  (decreasing,) = found.index["decreasing"]
  rows = []
  for run, name in enumerate(found.names):
    row = {
      "run": name,
      "fitted": np.exp(fitted[:, run].mean()),
      "theory": np.exp(expected[:, run].mean()),
      "log ratio": np.mean(fitted[:, run] / expected[:, run]),
    } | _interval(fitted[:, run] / expected[:, run])
    if run == decreasing:
      row |= _decreasing_row(found.kl[world, :, run])
    rows.append(
      row
      | {
        "final KL": np.nanmedian(found.kl[world, -1, run]),
        "final gap": np.nanmedian(found.gap[world, -1, run]),
      }
    )
  return rows


def _decreasing_row(paths: np.ndarray) -> dict[str, str | float]:
  """Its exponent, where the first step does not end it."""
  if paths[:, 1].max() < DECAY[0]:
    return {"fitted": "exact in 1", "theory": "exact in 1", "log ratio": 1.0}
  t = np.arange(paths.shape[1] // 10, paths.shape[1])
  exponents = np.array([fitted_exponent(path[t], t) for path in paths])
  return {
    "fitted": f"T^{exponents.mean():.4f}",
    "theory": "T^-2",
    "log ratio": exponents.mean() / -2,
  } | _interval(exponents / -2)


def _bias_rows(found: Found, config: Config, floors: dict) -> list[dict]:
  """Floors by step size, and their exponent from one step size to the next."""
  etas = found.solution.etas[BIASED].mean(0)
  growth = np.diff(np.log(floors["Nash-MD"])) / np.diff(np.log(config.shares))
  exponents = ["", *growth.mean(0)]
  return [
    {"share": share, "mean eta": eta, "mean b": config.tau * eta}
    | {f"KL, {name}": kl[:, k].mean() for name, kl in floors.items()}
    | {"exponent": exponents[k]}
    for k, (share, eta) in enumerate(zip(config.shares, etas, strict=True))
  ]


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs every algorithm on every game; then the two special cases."""
  del progress  # A few compiled programs: there is nothing to follow.
  found = measure(config)
  threshold_claims, threshold_curves, threshold_rows = _stability()
  weights_claims, weights_curves, weights_rows = _unregularised(config)
  floors = {
    label: found.kl[BIASED, -1, found.index[name]]
    for name, label in MIXED.items()
  } | {"theory": biased_kl(found)[BIASED]}
  shown = np.unique(np.geomspace(1, config.steps, 250).astype(int))
  return harness.Results(
    experiment="nash",
    paper="Nash Learning from Human Feedback (2312.00886); Human Alignment of"
    " LLMs through Online Preference Optimisation (2403.08635); EGPO"
    " (2503.08942)",
    claims=(
      *_bounds(found, config),
      *_decreasing(found, config),
      *_limits(found),
      *_rates(found),
      *_gaps(found),
      *threshold_claims,
      *weights_claims,
    ),
    curves={
      "steps": shown,
      "kl": found.kl[:, shown],
      "gap": found.gap[:, shown],
      "bound": 8 / (config.tau**2 * (shown + 1)),
      "shown": np.array(_shown(found)),
      "bias_etas": found.solution.etas[BIASED],
      **{f"bias_{name}": kl for name, kl in floors.items()},
      **threshold_curves,
      **weights_curves,
    },
    tables={
      **{
        f"factor of the KL per step, {name}": _rows(found, world)
        for name, world in WORLDS.items()
      },
      "bias, mean of uneven cycle and random games": _bias_rows(
        found, config, floors
      ),
      "self-play beside its threshold": threshold_rows,
      "multiplicative weights": weights_rows,
    },
  )


# --- plots -------------------------------------------------------------------


def _log_scale(axes, *names: str) -> None:
  """Logarithmic axes with plain labels, which draw faster than powers."""
  for name in names:
    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _line(axes, steps, samples, floor, **style) -> None:
  """Median over games, between the quartiles."""
  samples = np.maximum(samples, floor)
  low, middle, high = np.nanquantile(samples, (0.25, 0.5, 0.75), 0)
  (line,) = axes.plot(steps, middle, **style)
  if len(samples) > 1:
    color = line.get_color()
    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


def _plot_world(results: harness.Results, name: str, world: slice):
  """KL and gap against the step, one line an algorithm."""
  curves = results.curves
  rows = results.tables[f"factor of the KL per step, {name}"]
  figure, (distance, gap) = plotting.figure(1, 2, width=5.0, height=5.4)
  for k, run in enumerate(curves["shown"]):
    fitted, theory = (
      x if isinstance(x, str) else f"{x:.4f}"
      for x in (rows[run]["fitted"], rows[run]["theory"])
    )
    style = {
      "color": f"C{k}",
      "linestyle": ("-", "--", "-.")[k % 3],
      "label": f"{rows[run]['run']}: {fitted} ({theory})",
    }
    for axes, key, floor in ((distance, "kl", 1e-32), (gap, "gap", 1e-17)):
      samples = curves[key][world, :, run]
      _line(axes, curves["steps"], samples, floor, **style)
  distance.plot(
    curves["steps"],
    curves["bound"],
    color="black",
    linestyle=":",
    label="decreasing, 8 / (tau^2 (T + 1))",
  )
  many = "" if len(curves["kl"][world]) == 1 else ", median and quartiles"
  distance.set(ylim=(1e-28, 1e4), ylabel="KL(pi*||pi), nats")
  gap.set(ylim=(1e-15, 1e1), ylabel="duality gap")
  for axes in (distance, gap):
    axes.set(xlabel="step", title=name + many)
    _log_scale(axes, "x", "y")
  figure.legend(
    *distance.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    fontsize=8,
    frameon=False,
    title="name, step size over self-play's threshold: factor of the KL per"
    " step, fitted (theory)",
    title_fontsize=8,
  )
  return figure


def _plot_bias(results: harness.Results):
  """Floors of the KL against the step size, every game."""
  curves = results.curves
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
  _log_scale(axes, "x", "y")
  axes.set(
    xlabel="step size eta of Nash-MD; b = eta tau of the others",
    ylabel="final KL(pi*||pi), nats",
    title="bias of opponents mixed with the reference",
  )
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.legend(loc="lower right", frameon=False)
  return figure


def _plot_stability(results: harness.Results):
  """Factors beside the threshold, and the paths."""
  curves = results.curves
  figure, (factors, paths) = plotting.figure(1, 2)
  etas, threshold = curves["stability_etas"], curves["stability_threshold"]
  fine = np.linspace(etas.min(), etas.max(), 100)
  factors.plot(
    fine, 1e3 * (stable_factor(fine) - 1), color="black", label="theory"
  )
  fitted = 1e3 * (curves["stability_factors"] - 1)
  factors.plot(etas, fitted, "o", label="fitted")
  factors.axvline(
    threshold, color="C3", linestyle="--", label=f"threshold {threshold:.5f}"
  )
  factors.set(
    xlabel="step size eta",
    ylabel="factor of the KL per step - 1, in 1/1000",
    title=f"self-play on a cycle, tau = {STABLE_TAU:g}",
  )
  factors.legend(frameon=False)
  for k, eta in enumerate(etas):
    paths.plot(
      curves["stability_steps"] / 1000,
      curves["stability_kl"][:, k],
      label=f"eta = {eta:g}",
    )
  _log_scale(paths, "y")
  paths.set(
    xlabel="step / 1000",
    ylabel="KL(pi*||pi), nats",
    title="below: to pi*; above: to a cycle",
    ylim=(1e-13, 1e3),
  )
  paths.legend(ncols=3, loc="upper center", frameon=False)
  return figure


def _plot_weights(results: harness.Results):
  """Iterates that stay away and averages that converge."""
  curves = results.curves
  figure, (distance, gap) = plotting.figure(1, 2)
  steps = curves["mwu_steps"]
  for i, row in enumerate(results.tables["multiplicative weights"]):
    distance.plot(steps, curves["mwu_kl"][i], label=row["game"])
    gap.plot(
      steps,
      np.maximum(curves["mwu_gap"][i], 1e-9),
      label=f"{row['game']}: T^{row['fitted exponent']:.3f} (T^-1)",
    )
  bound = curves["mwu_bound"].max(0)
  gap.plot(steps, bound, color="black", linestyle=":", label="regret bound")
  _log_scale(distance, "x")
  _log_scale(gap, "x", "y")
  distance.set(
    ylabel="KL(lottery||pi_t), nats",
    title="multiplicative weights",
    ylim=(0, None),
  )
  gap.set(
    ylabel="duality gap",
    title="their average up to t",
    ylim=(1e-7, None),
  )
  for axes in (distance, gap):
    axes.set(xlabel="step t")
    axes.legend(loc="lower left", frameon=False)
  return figure


def plot(results: harness.Results) -> dict:
  """Convergence on every kind of game, bias, stability, no regularisation."""
  return {
    name.replace(" ", "_"): _plot_world(results, name, world)
    for name, world in WORLDS.items()
  } | {
    "bias": _plot_bias(results),
    "stability": _plot_stability(results),
    "multiplicative_weights": _plot_weights(results),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)

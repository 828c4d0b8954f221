# SPDX-License-Identifier: Apache-2.0
"""The algorithms, each in one or several runs, on every game at once."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.stages.nash.worlds import Game, Solution
from jaxalign.divergences import categorical
from jaxalign.social_choice import nash, nash_losses

SIDES = (0.9, 1.1)  # of self-play's threshold
NEAR = 1e-8  # how far from pi* the runs beside the threshold start


def run_names(shares: Sequence[float]) -> dict[str, list[str]]:
  """Names of the runs of every algorithm, in the order of the results.

  Args:
    shares: step sizes, as shares of self-play's threshold.
  """

  def by_share(name):
    return [f"{name}, {share:g}" for share in shares]

  return {
    "nash_md": by_share("Nash-MD"),
    "decreasing": ["Nash-MD, decreasing"],
    "self_play": [f"self-play, {x:g}" for x in (shares[-1], *SIDES)],
    "extragradient": ["extragradient"],
    "nash_ema": ["Nash-EMA"],
    "online_ipo": ["online IPO"],
    "ipo_md": by_share("IPO-MD"),
    "nash_md_pg": by_share("Nash-MD-PG"),
  }


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


def _copies(x: jax.Array, k: int) -> jax.Array:
  return jnp.broadcast_to(x, (k, *x.shape))


def _mirror_descents(
  game: Game, solution: Solution, tau: jax.Array, decay: jax.Array
) -> list[Algorithm]:
  """Nash-MD with constant and decreasing steps, self-play and its variants."""
  log_ref, pref, log_start, shift = game
  star, threshold, etas = solution.star, solution.threshold, solution.etas
  last = etas[-1:]

  def mirror(step, values):
    def one(state, eta):
      return step(state, log_ref, pref, tau, eta)

    return lambda state, t: jax.vmap(one)(state, values(t))

  def nash_ema(state, *args):
    return nash.nash_ema_step(state, *args, decay)

  start = _copies(log_start, 1)
  near = _copies(jax.nn.log_softmax(star + NEAR * shift), len(SIDES))
  steps = jnp.concatenate([last, threshold * jnp.array(SIDES)])
  return [
    Algorithm(
      _copies(log_start, len(etas) + 1),
      mirror(
        nash.nash_md_step, lambda t: jnp.append(etas, 2 / (tau * (t + 2)))
      ),
      jnp.concatenate([solution.limits, _copies(star, 1)]),
    ),
    Algorithm(
      jnp.concatenate([start, near]),
      mirror(nash.self_play_md_step, lambda t: steps),
      _copies(star, len(steps)),
    ),
    Algorithm(
      start, mirror(nash.extragradient_step, lambda t: last), _copies(star, 1)
    ),
    Algorithm(
      nash.NashEMAState(start, start),
      mirror(nash_ema, lambda t: last),
      _copies(star, 1),
    ),
  ]


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


def _gradient_descents(
  game: Game, solution: Solution, tau: jax.Array
) -> list[Algorithm]:
  """Descent on the losses of online IPO, IPO-MD and Nash-MD-PG."""
  log_ref, pref, log_start, _ = game
  rate, limits = solution.rate, solution.limits

  def descent(loss, rate, coefs):
    def one(logits, coef):
      def value(x):
        return loss(jax.nn.log_softmax(x), log_ref, pref, tau, coef)

      return jax.nn.log_softmax(logits - rate * jax.grad(value)(logits))

    return lambda state, t: jax.vmap(one)(state, coefs)

  coefs = solution.etas * tau
  start, starts = _copies(log_start, 1), _copies(log_start, len(coefs))
  # The gradient of Nash-MD-PG is tau / 4 times that of IPO.
  pg_rate = 4 * rate / tau
  return [
    Algorithm(
      start,
      descent(self_sampled_ipo, rate, coefs[:1]),
      _copies(solution.star, 1),
    ),
    Algorithm(starts, descent(nash_losses.ipo_md_loss, rate, coefs), limits),
    Algorithm(starts, descent(expected_nash_md_pg, pg_rate, coefs), limits),
  ]


def algorithms(
  game: Game, solution: Solution, tau: jax.Array, decay: jax.Array
) -> list[Algorithm]:
  """Every algorithm on one game, in the order of `run_names`.

  Args:
    game: one game.
    solution: of this game.
    tau: weight of the KL from the reference.
    decay: of the average in Nash-EMA.
  """
  return [
    *_mirror_descents(game, solution, tau, decay),
    *_gradient_descents(game, solution, tau),
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

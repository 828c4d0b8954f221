# SPDX-License-Identifier: Apache-2.0
"""Three ways to look for an input: one follows a path, two hope for Newton."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stages.surjectivity import nets
from jaxalign.learning import continuation, newton

FRACTIONS = (1 / 3, 2 / 3, 1.0)  # of f, where damped Newton stops on its way


def _error(p: nets.Weights, x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.max(jnp.abs(nets.stack(p, x) - y))


@jax.jit
def arclength(p: nets.Weights, y: jax.Array) -> dict[str, jax.Array]:
  """Sub-block by sub-block, last first.

  Args:
    p: weights `[S, K, ...]` of S networks.
    y: `[S, T, D]`, a target for each.

  Returns:
    The forward error `[S]`; of sub-blocks `[S, K]`, in reversed order, steps,
    folds and how much further a token was moved than the bound allows.
  """

  def invert(x, p):
    found = continuation.arclength_inverse(functools.partial(nets.branch, p), x)
    moved = jnp.max(jnp.linalg.norm(found.x - x, axis=-1))
    return found.x, (found.steps, found.folds, moved - nets.bound(p))

  def run(p, y):
    x, (steps, folds, excess) = jax.lax.scan(invert, y, p, reverse=True)
    return {
      "error": _error(p, x, y),
      "steps": steps,
      "folds": folds,
      "excess": excess,
    }

  return jax.vmap(run)(p, y)


def _restarted(attempt, starts):
  """The first attempt `start -> NewtonResult` to succeed, else the last."""

  def body(state):
    i, _ = state
    return i + 1, attempt(starts[i])

  def goes_on(state):
    i, found = state
    return ~found.ok & (i < len(starts))

  far = jnp.full((), jnp.inf, starts.dtype)
  nothing = newton.NewtonResult(starts[0], jnp.array(False), far)
  return jax.lax.while_loop(goes_on, body, (jnp.int32(0), nothing))[1]


@jax.jit
def damped_newton(p: nets.Weights, y: jax.Array, noise: jax.Array) -> jax.Array:
  """Sub-block by sub-block, by growing shares of f; the forward error `[S]`.

  Restarts begin at the target plus noise `[R, T, D]`.
  """

  def invert(y, p):
    def improve(x, t):
      found = newton.newton_inverse(lambda x: t * nets.branch(p, x), y, x)
      return found.x, found

    def attempt(x):
      _, found = jax.lax.scan(improve, x, jnp.array(FRACTIONS))
      return jax.tree.map(lambda a: a[-1], found)

    found = _restarted(attempt, y + noise)
    return jnp.where(found.ok, found.x, jnp.nan), None

  def run(p, y):
    return _error(p, jax.lax.scan(invert, y, p, reverse=True)[0], y)

  return jax.vmap(run)(p, y)


@jax.jit
def whole_newton(p: nets.Weights, y: jax.Array, noise: jax.Array) -> jax.Array:
  """All sub-blocks at once, from the target plus noise; the errors `[S]`."""

  def run(p, y):
    def attempt(x):
      return newton.newton_inverse(lambda x: nets.stack(p, x) - x, y, x)

    return _restarted(attempt, y + noise).residual

  return jax.vmap(run)(p, y)


def starts(rng: np.random.Generator, number: int) -> np.ndarray:
  """Noise `[R, T, D]` of restarts, as strong as targets; none for the first."""
  noise = 3 * rng.normal(size=(number, nets.TOKENS, nets.WIDTH))
  noise[0] = 0
  return noise

# SPDX-License-Identifier: Apache-2.0
"""Quadratic critics trained to raise the lower bounds between two Gaussians.

log(p/q) of two Gaussians is quadratic, so that the critics contain the optimum
of some of the bounds.
"""

import functools

import jax
import jax.numpy as jnp

from experiments.stages.divergence_bounds import adam, gaussian_pair
from experiments.stages.divergence_bounds.gaussian_pair import DV, NWJ
from jaxalign import numerics
from jaxalign.divergences import variational


def quadratic(params: jax.Array, x: jax.Array) -> jax.Array:
  """The unconstrained critic, of parameters `[3]`."""
  return params[0] + params[1] * x + params[2] * x**2


def bound(name: str, v_p: jax.Array, v_q: jax.Array) -> jax.Array:
  """The lower bound from an unconstrained critic's outputs."""
  if name == DV:
    return variational.donsker_varadhan(v_p, v_q)
  div = gaussian_pair.bounded()[name]
  return variational.variational_bound(
    div, div.activation(v_p), div.activation(v_q)
  )


def population(name: str, params, x, p, q) -> tuple[jax.Array, jax.Array]:
  """The bound under the laws themselves, and its standard error at n = 1.

  Args:
    name: of the bound.
    params: `[3]` of the critic.
    x: `[G]`, a grid.
    p: `[G]`, the masses of P on it.
    q: `[G]`, of Q.
  """
  v = quadratic(params, x)
  if name == DV:
    shift = numerics.masked_logsumexp(v + jnp.log(q), q > 0)
    on_p, on_q, value = v, jnp.exp(v - shift), p @ v - shift
  else:
    div = gaussian_pair.bounded()[name]
    on_p = div.activation(v)
    on_q = div.conjugate(on_p)
    value = p @ on_p - q @ on_q
  spread_p = p @ (on_p - p @ on_p) ** 2
  spread_q = q @ (on_q - q @ on_q) ** 2
  return value, jnp.sqrt(spread_p + spread_q)


def _bounds(params: dict, x_p: jax.Array, x_q: jax.Array) -> dict:
  """Every bound on samples, each with its own critic."""
  return {
    name: bound(name, quadratic(w, x_p), quadratic(w, x_q))
    for name, w in params.items()
  }


@functools.partial(jax.jit, static_argnames=("draws", "fresh", "steps"))
def train_critics(
  keys: jax.Array, grid, p, q, *, draws: int, fresh: int, steps: int
) -> dict[str, dict[str, jax.Array]]:
  """Maximises every bound for every key; all critics in one program.

  Args:
    keys: `[S]`, of the samples.
    grid: `[G]`, where the laws are.
    p: `[G]`, the masses of P on it.
    q: `[G]`, of Q.
    draws: samples of each law to train on.
    fresh: samples of each law to evaluate on.
    steps: of Adam.

  Returns:
    By name of the bound: its value on fresh samples, under the laws, and the
    standard error of the former, `[S]` each.
  """
  names = (DV, *gaussian_pair.bounded())

  def one_seed(key):
    z_p, z_q = jax.random.normal(key, (2, draws + fresh))
    x_p = gaussian_pair.P_MEAN + gaussian_pair.P_SCALE * z_p
    x_q = gaussian_pair.Q_MEAN + gaussian_pair.Q_SCALE * z_q

    def by_name(params):
      return dict(zip(names, params, strict=True))

    def loss(params):
      bounds = _bounds(by_name(params), x_p[:draws], x_q[:draws])
      return -sum(bounds.values())

    params = by_name(
      adam.minimise(loss, jnp.zeros((len(names), 3)), rate=0.1, steps=steps)
    )
    x_p, x_q = x_p[draws:], x_q[draws:]
    out = {}
    for name, value in _bounds(params, x_p, x_q).items():
      exact, spread = population(name, params[name], grid, p, q)
      error = spread / fresh**0.5
      out[name] = {"fresh": value, "population": exact, "error": error}
    # For the same critic the first bound is never below the second.
    w = params[NWJ]
    same = bound(DV, quadratic(w, x_p), quadratic(w, x_q))
    out[NWJ]["dv_less_nwj"] = same - out[NWJ]["fresh"]
    return out

  return jax.lax.map(one_seed, keys)

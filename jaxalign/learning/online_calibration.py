# SPDX-License-Identifier: Apache-2.0
"""Online calibration against many tests at once, one sample a round.

Predictions are on the grid `i/m`. A test is a group and a place on the grid:
it weighs a round by `g(x) c(p)`, c being 1 up to its place (`"steps"`,
`1[p <= v]`) or at its place alone (`"cells"`, `1[p = v]`). With B such tests
and `eta = sqrt(ln(2B)/T)`, whatever the outcomes,

  `E max |sum_t g c (p_t - y_t)| <= T/m + 2 sqrt(T ln(2B))`.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.learning import step_calibration

__all__ = (
  "OnlineForecasts",
  "auditor_weights",
  "forecast_probabilities",
  "forecast_rule",
  "online_calibrate",
  "online_calibration_bound",
  "online_calibration_rounds",
  "online_calibration_step",
)

_TESTS = ("steps", "cells")


class OnlineForecasts(NamedTuple):
  """What an online run predicted and where its tests stand.

  Attributes:
    predictions: `[T]`, on the grid.
    sums: `[N, m + 1]`, `sum_t g c (p_t - y_t)` of every test in the end.
  """

  predictions: jax.Array
  sums: jax.Array


def forecast_probabilities(c: jax.Array) -> jax.Array:
  """A distribution on the grid that no mixture of the tests can exploit.

  With `c_i` the total weight of tests at `p_i = i/m`: 0 if `c_0 >= 0`, else 1
  if `c_m <= 0`, else at the first sign change `c_j < 0 <= c_(j+1)` the two
  neighbours in inverse proportion to |c|. Then `E[c(p) (p - y)] <= max|c|/m`
  for either outcome.

  Args:
    c: `[..., m + 1]`; only signs and ratios count.

  Returns:
    `[..., m + 1]`, at most two of them above 0.

  Raises:
    ValueError: the grid has fewer than two points.

  >>> print(forecast_probabilities(jnp.array([-3., -1., 3.])))
  [0.   0.75 0.25]

  Reference:
    Panprediction (2510.27638), the randomised algorithm; the rule is that of
    Foster, A proof of calibration via Blackwell's approachability (1999).
  """
  size = c.shape[-1]
  if size < 2:
    raise ValueError(f"c needs at least two places on the grid, had {size}")
  rise = (c[..., :-1] < 0) & (c[..., 1:] >= 0)
  low = jnp.argmax(rise, -1)
  below, above = (
    jnp.abs(jnp.take_along_axis(c, i[..., None], -1)[..., 0])
    for i in (low, low + 1)
  )
  share = below / jnp.where(below + above > 0, below + above, 1)
  end = jnp.where(c[..., 0] >= 0, 0, size - 1)
  at_end = (c[..., 0] >= 0) | (c[..., -1] <= 0)
  place = jnp.arange(size)
  mixed = jnp.where(
    place == low[..., None],
    1 - share[..., None],
    jnp.where(place == low[..., None] + 1, share[..., None], 0),
  )
  return jnp.where(at_end[..., None], place == end[..., None], mixed)


def forecast_rule(key: jax.Array, c: jax.Array) -> jax.Array:
  """Draws a place on the grid from `forecast_probabilities`.

  Args:
    key: a typed key.
    c: `[..., m + 1]`, the total weight of tests at each place.

  Returns:
    Integers `[...]` in [0, m]: the prediction is that over m.

  Raises:
    ValueError: the grid has fewer than two points.

  >>> print(forecast_rule(jax.random.key(0), jnp.array([1., -1., 1.])))
  0

  Reference:
    Panprediction (2510.27638), the randomised algorithm.
  """
  probs = forecast_probabilities(c)
  # The draw is below 1 by more than the sum is rounded.
  draw = jax.random.uniform(key, c.shape[:-1], probs.dtype)
  return jnp.sum(jnp.cumsum(probs, -1)[..., :-1] <= draw[..., None], -1)


def auditor_weights(
  sums: jax.Array,
  g: jax.Array,
  *,
  eta: float | jax.Array,
  tests: str = "steps",
) -> jax.Array:
  """The weight of the tests that are active at each place of the grid.

  `c_i = sum over tests active at p_i of g sinh(eta S)`: experts for either sign
  of every test, merged. Up to a positive factor, which keeps it finite.

  Args:
    sums: `[N, m + 1]`, S of every test so far.
    g: `[..., N]`, what the groups weigh the present point.
    eta: above 0, the rate.
    tests: "steps" or "cells".

  Returns:
    `[..., m + 1]`.

  Raises:
    ValueError: eta is not above 0, unknown tests, or g is not of N groups.

  >>> print(auditor_weights(jnp.array([[0., 9.]]), jnp.ones(1), eta=1.))
  [0.5 0.5]

  Reference:
    Panprediction (2510.27638), the randomised algorithm; the merged form of
    two-sided Hedge is ours.
  """
  checks.check_choice("tests", tests, _TESTS)
  checks.check_positive(eta=eta)
  if g.shape[-1] != sums.shape[0]:
    raise ValueError(f"g must weigh {sums.shape[0]} groups, was {jnp.shape(g)}")
  size = jnp.abs(eta * sums)
  top = jnp.max(size)
  # sinh over e^top, without cancellation near 0.
  scaled = jnp.exp(size - top) * -jnp.expm1(-2 * size) / 2
  c = jnp.asarray(g, sums.dtype) @ (jnp.sign(sums) * scaled)
  return jax.lax.cumsum(c, c.ndim - 1, True) if tests == "steps" else c


def online_calibration_step(
  key: jax.Array,
  sums: jax.Array,
  g: jax.Array,
  y: jax.Array,
  *,
  eta: float | jax.Array,
  tests: str = "steps",
) -> tuple[jax.Array, jax.Array]:
  """One round: predicts, then sees the outcome.

  Args:
    key: a typed key.
    sums: `[N, m + 1]`, `sum g c (p - y)` of every test; zeros at first.
    g: `[N]`, what the groups weigh this point, in [0, 1].
    y: scalar, the outcome, 0 or 1; it does not enter the prediction.
    eta: above 0, the rate.
    tests: "steps" or "cells".

  Returns:
    The sums after the round, and the place on the grid that was predicted.

  Raises:
    ValueError: eta is not above 0, unknown tests, or g is not of N groups.

  >>> key, sums = jax.random.key(0), jnp.zeros((1, 3))
  >>> sums, place = online_calibration_step(
  ...   key, sums, jnp.ones(1), jnp.array(1.), eta=1.)
  >>> print(place, sums)
  0 [[-1. -1. -1.]]

  Reference:
    Panprediction (2510.27638), the randomised algorithm.
  """
  c = auditor_weights(sums, g, eta=eta, tests=tests)
  place = forecast_rule(key, c)
  places = jnp.arange(sums.shape[1])
  active = places >= place if tests == "steps" else places == place
  miss = place / (sums.shape[1] - 1) - y
  change = jnp.asarray(g, sums.dtype)[:, None] * active * miss
  return sums + change.astype(sums.dtype), place


@functools.partial(jax.jit, static_argnames=("m", "tests"))
def _calibrate(key, Gx, y, m, eta, tests):
  def step(sums, t):
    each = jax.random.fold_in(key, t)
    return online_calibration_step(
      each, sums, Gx[t], y[t], eta=eta, tests=tests
    )

  start = jnp.zeros((Gx.shape[1], m + 1), Gx.dtype)
  sums, places = jax.lax.scan(step, start, jnp.arange(y.shape[0]))
  return OnlineForecasts(places.astype(sums.dtype) / m, sums)


def online_calibrate(
  key: jax.Array,
  Gx: jax.Array,
  y: jax.Array,
  m: int,
  eta: float | jax.Array,
  *,
  tests: str = "steps",
) -> OnlineForecasts:
  """Predicts a sequence so that no group and no step (or cell) sees a bias.

  Tests that do not depend on the prediction, `1[h(x) <= a]` within g, are
  audited by making `g(x) 1[h(x) <= a]` a group: the last step is always active.
  The uniform mixture of the T rules that the sums define is the randomised
  predictor of panprediction: it takes the 1/eps^2 samples of the paper, up to
  logarithms.

  Args:
    key: a typed key.
    Gx: `[T, N]`, what the groups weigh each point, in [0, 1]; one column of
      ones is plain online calibration.
    y: `[T]`, outcomes, 0 or 1.
    m: intervals of the grid; a run misses by up to T/m for it.
    eta: above 0, the rate; `sqrt(ln(2B)/T)` with B = N (m + 1) tests.
    tests: "steps" or "cells".

  Returns:
    `OnlineForecasts`.

  Raises:
    AssertionError: rank or type.
    ValueError: lengths differ, m or eta is not above 0, unknown tests.
    InputError: a weight or an outcome leaves [0, 1].

  >>> y = jnp.array([0., 1.] * 200)
  >>> found = online_calibrate(jax.random.key(0), jnp.ones((400, 1)), y, 10, .1)
  >>> bound = online_calibration_bound(400, 10, 1)
  >>> bool(jnp.max(jnp.abs(found.sums)) < bound)
  True

  Reference:
    Panprediction (2510.27638), the randomised algorithm ("steps"); Learning
    With Multi-Group Guarantees For Clusterable Subpopulations (2410.14588)
    ("cells").
  """
  checks.check_rank(2, Gx=Gx)
  checks.check_rank(1, y=y)
  checks.check_float(Gx=Gx)
  checks.check_positive(m=m, eta=eta)
  checks.check_choice("tests", tests, _TESTS)
  if Gx.shape[0] != y.shape[0]:
    raise ValueError(
      f"Gx and y must have as many rounds, were {Gx.shape} and {y.shape}"
    )
  step_calibration.check_unit("Gx", Gx)
  step_calibration.check_unit("y", y)
  return _calibrate(key, numerics.as_float(Gx), y, m, eta, tests)


def _log_tests(m: int, num_groups: int) -> float:
  checks.check_positive(m=m, num_groups=num_groups)
  return math.log(2 * num_groups * (m + 1))


def online_calibration_bound(num_rounds: int, m: int, num_groups: int) -> float:
  """The most that a test is expected to miss in sum: `T/m + 2 sqrt(T ln 2B)`.

  Args:
    num_rounds: T.
    m: intervals of the grid.
    num_groups: N, of B = N (m + 1) tests.

  Returns:
    A number; over T it is the bound of the calibration error.

  Raises:
    ValueError: an argument is not above 0.

  >>> round(online_calibration_bound(10_000, 50, 4), 1)
  690.4

  Reference:
    Our derivation: potential `sum cosh(eta S)`, with `e^z <= 1 + z + z^2`.
  """
  checks.check_positive(num_rounds=num_rounds)
  log_tests = _log_tests(m, num_groups)
  return num_rounds / m + 2 * math.sqrt(num_rounds * log_tests)


def online_calibration_rounds(eps: float, m: int, num_groups: int) -> int:
  """Rounds after which the expected error is at most eps: some 1/eps^2.

  The least T with `1/m + 2 sqrt(ln(2B)/T) <= eps`.

  Args:
    eps: the error wanted, per round.
    m: intervals of the grid, above 1/eps.
    num_groups: N, of B = N (m + 1) tests.

  Returns:
    T.

  Raises:
    ValueError: the grid is too coarse for eps, saying what m is needed; an
      argument is not above 0.

  >>> online_calibration_rounds(.1, 20, 4)
  8199
  >>> online_calibration_rounds(.1, 8, 4)
  Traceback (most recent call last):
  ValueError: a grid of m=8 is too coarse for eps=0.1: needs m of at least 11

  Reference:
    Our derivation, from `online_calibration_bound`.
  """
  checks.check_positive(eps=eps)
  log_tests = _log_tests(m, num_groups)
  if 1 / m >= eps:
    raise ValueError(
      f"a grid of m={m} is too coarse for eps={eps:g}: needs m of at least"
      f" {math.floor(1 / eps) + 1}"
    )
  return math.ceil(4 * log_tests / (eps - 1 / m) ** 2)

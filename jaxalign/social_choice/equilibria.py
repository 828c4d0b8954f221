# SPDX-License-Identifier: Apache-2.0
"""Equilibria of the preference game: maximal lotteries and Nash policies.

Both players choose a policy over M alternatives; the first is paid
`pi^T A pi'` with `A = (payoff - payoff^T) / 2`, so that a payoff may be a win
matrix or its margins. The game is symmetric and has value 0. Computed in the
caller's precision; for small margins and large references float64 is needed.
Event axes come last; scalars serve every row or have the batch shape.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import categorical, kl_ball
from jaxalign.social_choice import policies, rules

__all__ = (
  "NashResult",
  "kl_ball_nash",
  "maximal_lottery",
  "regularized_nash",
)

# The path to a strong game starts where margins of 1 hardly matter, doubles the
# strength at most, and ends where float64 cannot tell what is stronger.
_START = 0.1
_DOUBLE = math.log(2)
_LAST = 1e18
_MAX_STEPS = 1000
_PATIENCE = 40


class NashResult(NamedTuple):
  """An equilibrium and what is wrong with it.

  Attributes:
    log_policy: `[..., M]`.
    residual: `[...]`, 0 at an exact equilibrium, in units of the payoff. For
      `regularized_nash` the largest error of a payoff in its fixed point; for
      the others the duality gap: what a best response would gain.
  """

  log_policy: jax.Array
  residual: jax.Array


def _margins(payoff: jax.Array) -> jax.Array:
  checks.check_float(payoff=payoff)
  payoff = numerics.as_float(payoff)
  if payoff.ndim < 2 or payoff.shape[-1] != payoff.shape[-2]:
    raise ValueError(f"payoff must be [..., M, M], was {payoff.shape}")
  return (payoff - jnp.swapaxes(payoff, -1, -2)) / 2


def _game(log_ref: jax.Array, payoff: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The normalised reference and the margins, of one type."""
  margins = _margins(payoff)
  checks.check_float(log_ref=log_ref)
  log_ref = numerics.as_float(log_ref)
  checks.check_same_shape(log_ref=log_ref, payoff_of_one=margins[..., 0])
  dtype = jnp.result_type(log_ref, margins)
  log_ref = numerics.masked_log_softmax(log_ref.astype(dtype))
  return log_ref, margins.astype(dtype)


def _pay(margins: jax.Array, policy: jax.Array) -> jax.Array:
  # Not a matrix product: accelerators would round its factors.
  return jnp.sum(margins * policy, -1)


def _log(policy: jax.Array) -> jax.Array:
  used = policy > 0
  return jnp.where(used, jnp.log(jnp.where(used, policy, 1)), -jnp.inf)


# --- regularised games -------------------------------------------------------


def _error(values, strength, margins, log_ref):
  """`v - A softmax(log_ref + strength v)`: 0 at the equilibrium's payoffs."""
  policy = jax.nn.softmax(log_ref + strength * values)
  return values - _pay(margins, policy)


class _Step(NamedTuple):
  """A Newton step of the payoffs, `[M]`."""

  values: jax.Array
  drift: jax.Array  # `[M]`, derivative of the equilibrium in log strength.
  gap: jax.Array  # `[]`, what the full step would move a log-odds.


def _newton(values, strength, margins, log_ref):
  """One damped Newton step towards the equilibrium's payoffs.

  The Jacobian `I - strength A S`, S the covariance of the policy, is similar
  to a real identity plus a skew matrix, hence never singular. Softmax is
  generalised self-concordant, for which steps of `log(1 + gap) / gap` converge
  without a line search: log-odds move by `log(1 + gap)` at most.
  """
  policy = jax.nn.softmax(log_ref + strength * values)
  paid = _pay(margins, policy)
  coupling = (margins - paid[:, None]) * policy
  matrix = jnp.eye(values.shape[0], dtype=values.dtype) - strength * coupling
  rhs = jnp.stack([paid - values, strength * _pay(coupling, values)], -1)
  solution = jnp.linalg.solve(matrix, rhs)
  direction, drift = solution[:, 0], solution[:, 1]
  gap = strength * (jnp.max(direction) - jnp.min(direction))
  length = jnp.where(gap > 0, jnp.log1p(gap) / jnp.where(gap > 0, gap, 1), 1)
  # A common shift leaves the policy as it is and needs no damping.
  shift = jnp.sum(policy * direction)
  values = values + shift + length * (direction - shift)
  return _Step(values, drift, gap)


def _distance(values, strength, log_ref):
  return categorical.kl(log_ref + strength * values, log_ref)


def _distance_and_slope(step, strength, log_ref):
  """KL from the reference, and its derivative in the log strength."""
  tilt = strength * step.values
  policy = jax.nn.softmax(log_ref + tilt)
  change = tilt + strength * step.drift
  slope = jnp.sum(policy * (tilt - jnp.sum(policy * tilt)) * change)
  return _distance(step.values, strength, log_ref), slope


def _select(condition, chosen, other):
  return jax.tree.map(functools.partial(jnp.where, condition), chosen, other)


class _Point(NamedTuple):
  """An equilibrium on the path."""

  position: jax.Array  # `[]`, log strength.
  values: jax.Array  # `[M]`, payoffs.
  drift: jax.Array  # `[M]`, their derivative in the position.


class _Path(NamedTuple):
  """Where the search for a strength stands."""

  point: _Point  # where Newton's method is at work.
  inner: _Point  # the last equilibrium found in the ball.
  outer: jax.Array  # `[]`, smallest position known to be outside.
  stride: jax.Array  # `[]`, how far beyond `inner` is looked.
  patience: jax.Array  # `[]`, steps left for the point to settle.
  num_steps: jax.Array
  done: jax.Array


def _next_position(path, distance, slope, tau):
  """Newton on the log-distance, kept in the bracket; onwards without one."""
  position, inner = path.point.position, path.inner.position
  known = (distance > 0) & (slope > 0)
  error = jnp.log(jnp.where(known, distance, 1)) - jnp.log(tau)
  move = -error * distance / jnp.where(known, slope, 1)
  proposal = position + jnp.where(known, move, _DOUBLE)
  bracketed = jnp.isfinite(path.outer)
  bisected = jnp.where(
    jnp.isfinite(inner), (inner + path.outer) / 2, position - _DOUBLE
  )
  otherwise = jnp.where(bracketed, bisected, position + _DOUBLE)
  within = (proposal > inner) & (proposal < path.outer)
  return jnp.where(within, proposal, otherwise)


def _follow(margins, log_ref, last, tau):
  """Follows the equilibrium to strength `last`, or to `KL = tau` before it.

  One Newton step in the payoffs at a time; once they have settled, the
  strength moves and the payoffs with it. Points that do not settle, and those
  outside, are left for one nearer to the last point inside, which is returned:
  its log strength and payoffs.
  """
  dtype = margins.dtype
  eps = float(jnp.finfo(dtype).eps)
  scale = jnp.max(jnp.abs(margins))
  # Strength 0 is the smallest number: its equilibrium is the reference.
  weakest = jnp.asarray(-kl_ball.log_bracket(dtype), dtype)
  last = jnp.log(jnp.where(last > 0, last, 1)) + jnp.where(last > 0, 0, weakest)
  last = jnp.where(tau > 0, last, weakest)
  first = math.log(_START) - jnp.log(jnp.where(scale > 0, scale, 1))
  free = tau == jnp.inf

  def advance(path):
    position = path.point.position
    strength = jnp.exp(position)
    step = _newton(path.point.values, strength, margins, log_ref)
    # On the way to a given strength nothing hangs on accuracy.
    tolerance = math.sqrt(eps) + 32 * eps * strength * scale
    settled = step.gap < jnp.where(free & (position < last), 1, tolerance)
    distance, slope = _distance_and_slope(step, strength, log_ref)
    inside = (distance <= tau) | (position <= weakest)
    here = _Point(position, step.values, step.drift)
    path = path._replace(
      point=here,
      inner=_select(settled & inside, here, path.inner),
      outer=jnp.where(settled & ~inside, position, path.outer),
      patience=path.patience - 1,
      num_steps=path.num_steps + 1,
    )
    lost = ~settled & (path.patience <= 0)
    stride = jnp.where(lost, path.stride / 8, path.stride)
    stride = jnp.where(
      settled & inside, jnp.minimum(2 * stride, _DOUBLE), stride
    )
    rounding = 4 * eps * (1 + jnp.abs(position))
    target = _next_position(path, distance, slope, tau)
    target = jnp.where(free, position + _DOUBLE, target)
    close = jnp.abs(jnp.minimum(target, last) - position) <= rounding
    narrow = path.outer - path.inner.position <= rounding
    # Newton's method that stops just outside is pushed in.
    target = jnp.where(close & ~inside, position - 2 * rounding, target)
    base = _select(jnp.isfinite(path.inner.position), path.inner, here)
    target = jnp.where(lost, base.position + stride, target)
    target = jnp.minimum(target, base.position + stride)
    target = jnp.clip(target, weakest, last)
    move = (settled | lost) & ~narrow & ~(settled & inside & close)
    drifted = base.values + (target - base.position) * jnp.where(
      free, 0, base.drift
    )
    return path._replace(
      point=_select(move, _Point(target, drifted, base.drift), here),
      stride=stride,
      patience=jnp.where(move, _PATIENCE, path.patience),
      done=(settled & inside & close) | narrow,
    )

  def unfinished(path):
    return ~path.done & (path.num_steps < _MAX_STEPS)

  infinite = jnp.asarray(jnp.inf, dtype)
  values = _pay(margins, jnp.exp(log_ref))
  start = _Point(jnp.minimum(first, last), values, jnp.zeros_like(values))
  path = _Path(
    point=start,
    inner=start._replace(position=-infinite),
    outer=infinite,
    stride=jnp.asarray(_DOUBLE, dtype),
    patience=jnp.asarray(_PATIENCE),
    num_steps=jnp.zeros((), int),
    done=jnp.zeros((), bool),
  )
  path = jax.lax.while_loop(unfinished, advance, path)
  found = _select(jnp.isfinite(path.inner.position), path.inner, path.point)
  return found.position, found.values


@jax.jit
@functools.partial(jnp.vectorize, signature="(m),(m,m),()->(m),()")
def _regularized(log_ref, margins, inv_lam):
  def solve(_, start):
    del start
    fixed = jax.lax.stop_gradient((margins, log_ref, inv_lam))
    tau = jnp.asarray(jnp.inf, margins.dtype)
    return _follow(*fixed, tau)[1]

  values = jax.lax.custom_root(
    lambda v: _error(v, inv_lam, margins, log_ref),
    jnp.zeros_like(log_ref),
    solve,
    rules.dense_solve,
  )
  residual = jnp.max(jnp.abs(_error(values, inv_lam, margins, log_ref)))
  return jax.nn.log_softmax(log_ref + inv_lam * values), residual


def regularized_nash(
  log_ref: jax.Array, payoff: jax.Array, inv_lam: float | jax.Array
) -> NashResult:
  """The KL-regularised equilibrium, `pi = softmax(log_ref + A pi / lam)`.

  Each player is paid `-lam KL` from the reference besides, which makes the
  symmetric equilibrium unique. Newton's method in the payoffs `A pi`, along
  growing `1/lam`. Differentiable in all arguments by the implicit function
  theorem.

  Args:
    log_ref: `[..., M]`, log-probabilities of the reference.
    payoff: `[..., M, M]`, win probabilities or margins.
    inv_lam: `1/lam`, at least 0; one over units of the payoff.

  Returns:
    `NashResult`; `residual * inv_lam` is the error of the log-policy.

  Raises:
    ValueError: inv_lam below 0, or neither a scalar nor of the batch shape.

  >>> win = jnp.array([[.5, .8, .2], [.2, .5, .8], [.8, .2, .5]])
  >>> log_ref = jnp.log(jnp.array([.8, .1, .1]))
  >>> for inv_lam in (1., 100.):
  ...   policy = jnp.exp(regularized_nash(log_ref, win, inv_lam).log_policy)
  ...   print(*(f"{p:.3f}" for p in policy))
  0.793 0.082 0.124
  0.335 0.310 0.356

  Reference:
    Nash Learning from Human Feedback (2312.00886), section 4; Distortion of AI
    Alignment (2505.23749), section 4.
  """
  log_ref, margins = _game(log_ref, payoff)
  inv_lam = kl_ball.per_row(
    "inv_lam", inv_lam, log_ref.shape[:-1], log_ref.dtype
  )
  return NashResult(*_regularized(log_ref, margins, inv_lam))


# --- maximal lotteries -------------------------------------------------------


def _blocked(margins, live):
  """Margins scaled to 1 in which a removed alternative loses to all others."""
  kept = live[:, None] & live
  scale = jnp.max(jnp.where(kept, jnp.abs(margins), 0))
  scaled = margins / jnp.where(scale > 0, scale, 1)
  order = live[:, None].astype(margins.dtype) - live.astype(margins.dtype)
  return jnp.where(kept, scaled, order)


def _interior_point(margins):
  """A maximal lottery that uses every alternative that some of them uses.

  Mehrotra's predictor-corrector for `A p + w = t 1, p w = 0, sum p = 1` with
  `p, w >= 0`. The slack w is carried along, not recomputed from p: it keeps
  its relative accuracy far below the roundings of `A p`, which separates the
  support (`p > w`) from the rest without a tolerance.
  """
  size = margins.shape[-1]
  dtype = margins.dtype
  uniform = jnp.full(size, 1 / size, dtype)
  paid = _pay(margins, uniform)
  eps = float(jnp.finfo(dtype).eps)

  def supported(p, w):
    p = jnp.where(p > w, p, 0)
    total = jnp.sum(p)
    return jnp.where(total > 0, p / jnp.where(total > 0, total, 1), uniform)

  def longest(x, dx):
    falls = dx < 0
    return jnp.min(jnp.where(falls, -x / jnp.where(falls, dx, -1), jnp.inf))

  def improve(state):
    step, p, w = state
    edge = jnp.ones((1, size), dtype)
    matrix = jnp.block(
      [
        [jnp.diag(w) - p[:, None] * margins, p[:, None]],
        [edge, jnp.zeros((1, 1), dtype)],
      ]
    )
    factors = jax.scipy.linalg.lu_factor(matrix)

    def move(target):
      rhs = jnp.append(target - p * w, jnp.zeros((), dtype))
      d = jax.scipy.linalg.lu_solve(factors, rhs)
      dp, dw = d[:-1], d[-1] - _pay(margins, d[:-1])
      return dp, dw, jnp.minimum(longest(p, dp), longest(w, dw))

    dp, dw, length = move(jnp.zeros_like(p))
    length = jnp.minimum(length, 1)
    mean = jnp.mean(p * w)
    reached = jnp.mean((p + length * dp) * (w + length * dw))
    # Full steps to a twentieth even out the products: clones stay alike.
    shrink = jnp.maximum((reached / mean) ** 3, 0.05)
    dp, dw, length = move(shrink * mean - dp * dw)
    length = jnp.minimum(0.99 * length, 1)
    return step + 1, p + length * dp, w + length * dw

  def unfinished(state):
    step, p, w = state
    product = jnp.sum(p * w)
    # As soon as the support is right the lottery is: no further, since where
    # lotteries are not unique rounding would soon choose among them.
    solved = (product < eps**0.6) & (
      jnp.max(_pay(margins, supported(p, w))) <= 4 * eps
    )
    return (step < 60) & (product > eps**1.35) & ~solved

  start = (0, uniform, jnp.max(paid) + 1 - paid)
  _, p, w = jax.lax.while_loop(unfinished, improve, start)
  return supported(p, w)


def _find_lottery(margins, live):
  """A maximal lottery of the live alternatives, without derivatives."""
  fixed = jax.lax.stop_gradient(_blocked(margins, live))
  winner = rules.condorcet_winner(fixed)
  inner = _interior_point(fixed)
  return jnp.where(jnp.any(winner), winner.astype(inner.dtype), inner)


def _attach_derivative(lottery, margins, live, wanted):
  """The log-lottery, as the root of its optimality conditions if wanted."""
  scaled = _blocked(margins, live)
  value = jnp.max(_pay(jax.lax.stop_gradient(scaled), lottery))
  found = jnp.append(lottery, value)

  def optimality(state):
    p, value = state[:-1], state[-1]
    slackness = p * (value - _pay(scaled, p))
    return jnp.where(wanted, jnp.append(slackness, jnp.sum(p) - 1), state)

  state = jax.lax.custom_root(
    optimality, found, lambda _, start: start, rules.dense_solve
  )
  return _log(jnp.where(lottery > 0, state[:-1], 0))


@jax.jit
@functools.partial(jnp.vectorize, signature="(m,m),(m)->(m),()")
def _lottery(margins, live):
  margins = jnp.where(live[:, None] & live, margins, 0)
  lottery = jnp.where(live, _find_lottery(margins, live), 0)
  log_policy = _attach_derivative(lottery, margins, live, True)
  paid = _pay(margins, jnp.exp(log_policy))
  return log_policy, jnp.max(jnp.where(live, paid, -jnp.inf))


def maximal_lottery(
  payoff: jax.Array, *, where: jax.Array | None = None
) -> NashResult:
  """The lottery that no other beats: `argmax_pi min_pi' pi^T A pi'`.

  A Condorcet winner where there is one, exactly; otherwise, by an interior
  point method, one that uses every alternative that some solution uses.
  Differentiable where the solution is unique.

  Args:
    payoff: `[..., M, M]`, win probabilities or margins.
    where: bool `[..., M]`, alternatives to choose from; all by default.

  Returns:
    `NashResult`; the gap is about 1e-16 in float64.

  >>> cycle = jnp.array([[0., .3, -.1], [-.3, 0., .2], [.1, -.2, 0.]])
  >>> print(*(f"{p:.3f}" for p in jnp.exp(maximal_lottery(cycle).log_policy)))
  0.333 0.167 0.500

  Reference:
    Fishburn, Probabilistic Social Choice Based on Simple Voting Comparisons
    (1984); Distortion of AI Alignment (2505.23749), section 4.
  """
  margins = _margins(payoff)
  if where is None:
    where = jnp.ones(margins.shape[:-1], bool)
  checks.check_same_shape(payoff_of_one=margins[..., 0], where=where)
  return NashResult(*_lottery(margins, where))


# --- Nash policies in the ball -----------------------------------------------


def _find_on_boundary(log_ref, margins, tau):
  """Payoffs and log strength at which the path leaves the ball; one vector."""
  log_ref, margins, tau = jax.lax.stop_gradient((log_ref, margins, tau))
  scale = jnp.max(jnp.abs(margins))
  last = _LAST / jnp.where(scale > 0, scale, 1)
  log_strength, values = _follow(margins, log_ref, last, tau)
  return jnp.append(values, log_strength)


@jax.jit
@functools.partial(jnp.vectorize, signature="(m),(m,m),()->(m),()")
def _ball_nash(log_ref, margins, tau):
  live = log_ref > -jnp.inf
  lottery = jnp.where(live, _find_lottery(margins, live), 0)
  contained = categorical.kl(_log(lottery), log_ref) <= tau
  whole = _attach_derivative(lottery, margins, live, contained)
  # Rows whose ball contains the lottery follow a path that ends at once.
  bound = jnp.where(contained, 0, tau)
  found = _find_on_boundary(log_ref, margins, bound)
  # With nothing to win, or a ball of one point, the path does not get there.
  reached = _distance(found[:-1], jnp.exp(found[-1]), log_ref)
  binding = (bound > 0) & (reached > bound / 2)

  def equations(state):
    values, strength = state[:-1], jnp.exp(state[-1])
    error = _error(values, strength, margins, log_ref)
    excess = _distance(values, strength, log_ref) - bound
    return jnp.where(binding, jnp.append(error, excess), state)

  state = jax.lax.custom_root(
    equations, found, lambda _, start: start, rules.dense_solve
  )
  inner = jax.nn.log_softmax(log_ref + jnp.exp(state[-1]) * state[:-1])
  log_policy = jnp.where(contained, whole, inner)
  paid = _pay(margins, jnp.exp(log_policy))
  return log_policy, policies.kl_ball_value(log_ref, paid, tau)


def kl_ball_nash(
  log_ref: jax.Array, payoff: jax.Array, tau: float | jax.Array
) -> NashResult:
  """The equilibrium when both players choose from the KL ball.

  The maximal lottery of the alternatives with reference mass if the ball
  contains it; otherwise the regularised equilibrium with the lam at which
  `KL(pi||ref) = tau`, of which there is one, since the KL increases in `1/lam`.
  Differentiable in all arguments where the ball binds.

  Args:
    log_ref: `[..., M]`, log-probabilities of the reference.
    payoff: `[..., M, M]`, win probabilities or margins.
    tau: radius of the ball in nats, at least 0.

  Returns:
    `NashResult`; the residual is the duality gap in the ball.

  Raises:
    ValueError: tau below 0, or neither a scalar nor of the batch shape.

  >>> win = jnp.array([[.5, .8, .2], [.2, .5, .8], [.8, .2, .5]])
  >>> log_ref = jnp.log(jnp.array([.8, .1, .1]))
  >>> for tau in (.1, 1.):
  ...   policy = jnp.exp(kl_ball_nash(log_ref, win, tau).log_policy)
  ...   print(*(f"{p:.3f}" for p in policy))
  0.684 0.062 0.254
  0.333 0.333 0.333

  Reference:
    Distortion of AI Alignment (2505.23749), section 4.
  """
  log_ref, margins = _game(log_ref, payoff)
  tau = kl_ball.per_row("tau", tau, log_ref.shape[:-1], log_ref.dtype)
  return NashResult(*_ball_nash(log_ref, margins, tau))

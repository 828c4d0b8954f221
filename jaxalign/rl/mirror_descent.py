# SPDX-License-Identifier: Apache-2.0
"""Value iteration with KL and entropy penalties: mirror descent in tables.

One iteration written in three ways. Explicitly, as the greedy step that pays
for its distance from the last policy; as Munchausen value iteration, which
hides that penalty in the reward; and as MDVI, which keeps a running sum of
action values, so that the noise of sampled transitions averages out. The paths
are the same where the strengths correspond:

  KL weight tau_KL = alpha tau,  entropy weight kappa = (1 - alpha) tau,
  of MDVI alpha = tau_KL / (tau_KL + kappa), beta = 1 / (tau_KL + kappa).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.exact import mdp as tables
from jaxalign.rl import tsallis

__all__ = (
  "MDVIResult",
  "MDVIState",
  "RegularizedState",
  "mdvi",
  "mdvi_init",
  "mdvi_step",
  "mirror_descent_step",
  "munchausen_step",
  "munchausen_vi",
)

Scalar = float | jax.Array
READINGS = ("log", "gap")


class RegularizedState(NamedTuple):
  """Action values and a policy.

  Attributes:
    values: `[S, A]`.
    log_policy: `[S, A]`, log-probabilities.
  """

  values: jax.Array
  log_policy: jax.Array


class MDVIState(NamedTuple):
  """What MDVI carries from one iteration to the next.

  Attributes:
    scores: `[S, A]`, `s_k = q_k + alpha s_{k-1}`, discounted sums of values.
    best: `[S]`, `w_k`, their maximum over actions, hard or soft.
    values: `[S]`, `v_k = w_k - alpha w_{k-1}`.
    weight: scalar, `A_k = sum_{j<k} alpha^j`.
  """

  scores: jax.Array
  best: jax.Array
  values: jax.Array
  weight: jax.Array


class MDVIResult(NamedTuple):
  """What MDVI has found.

  Attributes:
    values: `[S]`, the estimate `w_K / A_K` of the optimal values.
    policy: `[S, A]`, greedy in the scores, probabilities 0 and 1.
  """

  values: jax.Array
  policy: jax.Array


def _check_share(alpha: Scalar) -> None:
  if not isinstance(alpha, jax.core.Tracer) and not 0 <= alpha <= 1:
    raise ValueError(f"alpha must be in [0, 1], was {alpha}")


# --- the explicit iteration --------------------------------------------------


def mirror_descent_step(
  mdp: tables.TabularMDP,
  state: RegularizedState,
  *,
  kl_weight: Scalar,
  entropy_weight: Scalar,
) -> RegularizedState:
  """One iteration of value iteration with KL and entropy, as it is defined.

  `pi' = argmax <pi, Q> - tau KL(pi||pi_k) + kappa H(pi)`, and then
  `Q' = r + g E[<pi', Q> - tau KL(pi'||pi_k) + kappa H(pi')]`.

  Args:
    mdp: the process.
    state: Q and pi_k, which takes every action.
    kl_weight: tau, scalar, at least 0.
    entropy_weight: kappa, scalar, at least 0; `tau + kappa` above 0.

  Returns:
    `RegularizedState`, Q' and pi'.

  Raises:
    AssertionError: shapes differ.
    ValueError: the tables do not fit, or both weights are 0.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> start = RegularizedState(jnp.zeros((1, 2)), jnp.log(jnp.full((1, 2), .5)))
  >>> print(mirror_descent_step(
  ...   mdp, start, kl_weight=1., entropy_weight=0.).values)
  [[0. 1.]]

  Reference:
    Leverage the Average (2003.14089); MDVI (2205.14211).
  """
  checks.check_positive(weights=kl_weight + entropy_weight)
  values, log_old = state
  checks.check_same_shape(values=values, log_policy=log_old)
  logits = (values + kl_weight * log_old) / (kl_weight + entropy_weight)
  log_pi = numerics.masked_log_softmax(logits)
  paid = kl_weight * (log_pi - log_old) + entropy_weight * log_pi
  following = jnp.sum(jnp.exp(log_pi) * (values - paid), -1)
  return RegularizedState(tables.action_values(mdp, following), log_pi)


# --- Munchausen --------------------------------------------------------------


def munchausen_step(
  mdp: tables.TabularMDP,
  values: jax.Array,
  *,
  tau: Scalar = 0.03,
  alpha: Scalar = 0.9,
  floor: float | None = -1.0,
  q: float = 1.0,
  reading: str = "log",
) -> jax.Array:
  """One iteration of Munchausen value iteration, ordinary or with Tsallis.

  `pi = tsallis_greedy(Q, tau)`, the softmax for q = 1, and
  `Q' = r + alpha max(b, l0) + g E <pi, Q - b>` with the bonus
  `b = tau ln_q pi` (`"log"`) or `b = Q - <pi, Q>` (`"gap"`). For q = 1 they
  differ by `tau H(pi)`. As tau goes to 0 the ordinary iteration becomes
  advantage learning, whose action gaps are `1/(1-alpha)` times those of Q*.

  For q other than 1 the exact form of the paper is not confirmed: these are the
  two ways in which `tau log pi` can be replaced.

  Args:
    mdp: the process.
    values: `[S, A]`, Q.
    tau: scalar above 0, in units of the values.
    alpha: share of the bonus, in [0, 1].
    floor: l0, the least bonus that is added to the reward; `None` for none. (A
      log-probability is never above 0, which needs no clip.)
    q: the order of Tsallis' entropy, above 0.
    reading: `"log"` or `"gap"`.

  Returns:
    `[S, A]`, Q'.

  Raises:
    AssertionError: shapes differ.
    ValueError: the tables do not fit, or an option outside its range.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> values = munchausen_step(mdp, mdp.rewards, alpha=.5, floor=None)
  >>> print(f"{values[0, 0]:.3f} {values[0, 1]:.3f}")
  0.000 1.500

  Reference:
    Munchausen Reinforcement Learning (2007.14430); Generalized Munchausen RL
    using Tsallis KL (2301.11476).
  """
  checks.check_choice("reading", reading, READINGS)
  _check_share(alpha)
  checks.check_same_shape(rewards=mdp.rewards, values=values)
  log_pi = tsallis.tsallis_greedy(values, tau, q=q)
  pi = jnp.exp(log_pi)
  if reading == "gap":
    bonus = values - jnp.sum(pi * values, -1, keepdims=True)
  else:
    bonus = tau * tsallis.ln_q_of_log(log_pi, q)
  following = jnp.sum(jnp.where(pi > 0, pi * (values - bonus), 0), -1)
  if floor is not None:
    bonus = jnp.maximum(bonus, floor)
  return tables.action_values(mdp, following) + alpha * bonus


def munchausen_vi(
  mdp: tables.TabularMDP,
  *,
  num_iterations: int,
  tau: Scalar = 0.03,
  alpha: Scalar = 0.9,
  floor: float | None = -1.0,
  q: float = 1.0,
  reading: str = "log",
) -> RegularizedState:
  """Munchausen value iteration from Q = 0.

  `Q_{k+1} = munchausen_step(Q_k)`. Without a floor and with q = 1 it is
  `mirror_descent_step` with `tau_KL = alpha tau` and `kappa = (1-alpha) tau` in
  the variable `Q - alpha tau log pi`, so that its policy tends to the optimal
  one at temperature `(1-alpha) tau`.

  Args:
    mdp: the process.
    num_iterations: K, at least 1.
    tau: scalar above 0, in units of the values.
    alpha: share of the bonus, in [0, 1].
    floor: l0, the least bonus that is added to the reward; `None` for none.
    q: the order of Tsallis' entropy, above 0.
    reading: `"log"` or `"gap"`, see `munchausen_step`.

  Returns:
    `RegularizedState`: Q_K and the greedy policy in it.

  Raises:
    AssertionError: shapes differ.
    ValueError: the tables do not fit, or an option outside its range.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> found = munchausen_vi(mdp, num_iterations=100, floor=None)
  >>> print(found.values.round(2))  # the gap of Q* is 1
  [[-8.  2.]]

  Reference:
    Munchausen Reinforcement Learning (2007.14430).
  """
  if num_iterations < 1:
    raise ValueError(f"num_iterations must be at least 1, was {num_iterations}")

  def iterate(values, _):
    values = munchausen_step(
      mdp, values, tau=tau, alpha=alpha, floor=floor, q=q, reading=reading
    )
    return values, None

  start = jnp.zeros_like(numerics.as_float(mdp.rewards))
  values, _ = jax.lax.scan(iterate, start, None, length=num_iterations)
  log_policy = tsallis.tsallis_greedy(values, tau, q=q)
  return RegularizedState(values, log_policy)


# --- mirror descent value iteration with a generative model ------------------


def _best(scores: jax.Array, beta: float) -> jax.Array:
  """The maximum over actions, soft where beta is finite."""
  if beta == math.inf:
    return jnp.max(scores, -1)
  return jax.nn.logsumexp(beta * scores, -1) / beta


def mdvi_init(mdp: tables.TabularMDP, *, beta: float = math.inf) -> MDVIState:
  """MDVI before its first iteration.

  `s_0 = 0`, `w_0` its maximum, `w_{-1} = 0`.

  Args:
    mdp: the process.
    beta: inverse temperature of the maximum, above 0; inf for the maximum
      itself.

  Returns:
    `MDVIState`.

  Raises:
    ValueError: beta not above 0.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> print(mdvi_init(mdp).values)
  [0.]

  Reference:
    MDVI (2205.14211), algorithm 1.
  """
  checks.check_positive(beta=beta)
  scores = jnp.zeros_like(numerics.as_float(mdp.rewards))
  best = _best(scores, beta)
  return MDVIState(scores, best, best, jnp.zeros((), scores.dtype))


def mdvi_step(
  key: jax.Array,
  mdp: tables.TabularMDP,
  state: MDVIState,
  *,
  num_samples: int | None,
  alpha: Scalar = 1.0,
  beta: float = math.inf,
) -> MDVIState:
  """One iteration of MDVI: one backup, averaged over all that went before.

  `q_{k+1} = r + g mean_m v_k(y_m)`, `y_m ~ P(. | s, a)`;
  `s_{k+1} = q_{k+1} + alpha s_k`; `w` its maximum, or
  `(1/beta) logsumexp(beta s)`; `v_{k+1} = w_{k+1} - alpha w_k`.

  Args:
    key: a typed key, consumed.
    mdp: the process; transitions are drawn from it for every pair.
    state: of the iteration before.
    num_samples: M, next states for each pair; `None` for their exact mean.
    alpha: `tau/(tau + kappa)`, in [0, 1]; 1 averages evenly, 0 forgets.
    beta: `1/(tau + kappa)`, above 0; inf for the maximum itself.

  Returns:
    `MDVIState`.

  Raises:
    AssertionError: shapes differ.
    ValueError: the tables do not fit, or an option outside its range.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> state = mdvi_step(jax.random.key(0), mdp, mdvi_init(mdp), num_samples=1)
  >>> print(state.scores, state.weight)
  [[0. 1.]] 1.0

  Reference:
    MDVI (2205.14211), algorithm 1.
  """
  _check_share(alpha)
  checks.check_positive(beta=beta)
  if num_samples is None:
    backup = tables.action_values(mdp, state.values)
  elif num_samples < 1:
    raise ValueError(f"num_samples must be at least 1, was {num_samples}")
  else:
    shape = (num_samples, *jnp.shape(mdp.rewards))
    log_law = jnp.log(mdp.transitions)
    after = jax.random.categorical(key, log_law, shape=shape)
    ahead = jnp.mean(jnp.asarray(state.values)[after], 0)
    backup = mdp.rewards + mdp.discount * ahead
  scores = backup + alpha * state.scores
  best = _best(scores, beta)
  return MDVIState(
    scores, best, best - alpha * state.best, 1 + alpha * state.weight
  )


def mdvi(
  key: jax.Array,
  mdp: tables.TabularMDP,
  *,
  num_iterations: int,
  num_samples: int | None,
  alpha: Scalar = 1.0,
  beta: float = math.inf,
) -> MDVIResult:
  """Mirror descent value iteration with a generative model.

  `K` times `mdvi_step`; then `w_K / A_K` and the greedy policy in `s_K`. With
  alpha = 1 and exact transitions the error falls as `1/K`, with one sample a
  pair it still vanishes; with alpha below 1 it rests at a noise floor. It is
  `mirror_descent_step` where beta is finite.

  Args:
    key: a typed key, consumed.
    mdp: the process; transitions are drawn from it for every pair.
    num_iterations: K, at least 1.
    num_samples: M, next states for each pair; `None` for their exact mean.
    alpha: `tau/(tau + kappa)`, in [0, 1]; 1 averages evenly, 0 forgets.
    beta: `1/(tau + kappa)`, above 0; inf for the maximum itself.

  Returns:
    `MDVIResult`.

  Raises:
    AssertionError: shapes differ.
    ValueError: the tables do not fit, or an option outside its range.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> found = mdvi(
  ...   jax.random.key(0), mdp, num_iterations=100, num_samples=None)
  >>> print(f"{found.values[0]:.2f}", found.policy)  # V* - 2/K
  1.98 [[0. 1.]]

  Reference:
    MDVI (2205.14211), algorithm 1.
  """
  if num_iterations < 1:
    raise ValueError(f"num_iterations must be at least 1, was {num_iterations}")

  def iterate(state, step):
    step_key = jax.random.fold_in(key, step)
    options = {"num_samples": num_samples, "alpha": alpha, "beta": beta}
    return mdvi_step(step_key, mdp, state, **options), None

  state, _ = jax.lax.scan(
    iterate, mdvi_init(mdp, beta=beta), jnp.arange(num_iterations)
  )
  return MDVIResult(
    state.best / state.weight, tables.greedy_policy(state.scores)
  )

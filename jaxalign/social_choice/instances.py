# SPDX-License-Identifier: Apache-2.0
"""Instances on which methods attain the bounds of distortion, and methods.

The distortion of a method on an instance is the highest average utility of a
policy in the KL ball over the average utility of the method's policy. `D*(beta)
= (beta/2) coth(beta/2)` is the least that any method can guarantee. Instances
are meant for float64: their margins are as small as 1e-9.
"""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.social_choice import (
  bounds,
  equilibria,
  policies,
  populations,
  rules,
)

__all__ = (
  "METHODS",
  "distortion",
  "finite_sample_distortion",
  "instance_any",
  "instance_borda",
  "instance_exponential",
  "instance_ml",
  "instance_path",
)

Instance = populations.Instance


# --- instances ---------------------------------------------------------------


def _free(weights, utilities, mu) -> Instance:
  """An instance without KL constraint, pairs drawn from `mu mu^T`."""
  size = utilities.shape[-1]
  return Instance(
    weights=weights,
    utilities=utilities,
    pair_weights=mu[:, None] * mu,
    log_ref=jnp.full(size, -math.log(size), utilities.dtype),
    tau=jnp.asarray(jnp.inf, utilities.dtype),
  )


def _two_types(beta: jax.Array, eps: jax.Array) -> jax.Array:
  """Weights at which utilities (1, 0) and (0, eps) tie."""
  votes = jnp.stack([bounds.vote(beta * eps), bounds.vote(beta)])
  return votes / jnp.sum(votes)


def instance_ml(
  beta: float | jax.Array, *, eps: float = 1e-3, xi: float = 1.001
) -> Instance:
  """Two alternatives on which maximal lotteries reach `D*(beta)`.

  Few users gain much from the first, many gain `xi eps` from the second. At
  `xi = 1` they tie; above, the second wins, at ratio `w_1 / (xi eps w_2)`.

  Args:
    beta: scalar above 0, Bradley-Terry temperature.
    eps: scalar, the small utility.
    xi: scalar, by how much it exceeds the tie; the limit is eps to 0, xi to 1.

  Returns:
    `Instance` with two types and two alternatives.

  Raises:
    ValueError: an argument not above 0.

  >>> instance = instance_ml(5.)
  >>> print(f"{distortion(instance, 5., 'maximal_lottery'):.2f}")
  2.53

  Reference:
    Distortion of AI Alignment (2505.23749), tightness of the NLHF bound.
  """
  checks.check_positive(beta=beta, eps=eps, xi=xi)
  beta = numerics.as_float(beta)
  small = jnp.asarray(eps, beta.dtype)
  weights = _two_types(beta, small)
  zero, one = jnp.zeros_like(small), jnp.ones_like(small)
  utilities = jnp.stack([jnp.stack([one, zero]), jnp.stack([zero, xi * small])])
  return _free(weights, utilities, jnp.full(2, 0.5, beta.dtype))


def instance_any(beta: float | jax.Array, *, num_alternatives: int) -> Instance:
  """All pairs are fair coins: every rule with d = 1 is at `D*(beta)`.

  The first type has utility 1 for alternative 0 only, the second `1/m` for all
  others; no rule can tell which alternative is the special one, so that, over
  its position, each rule does as well as the uniform policy.

  Args:
    beta: scalar above 0, Bradley-Terry temperature.
    num_alternatives: m, at least 2.

  Returns:
    `Instance` with two types; its distortion under `"uniform"` tends to D*.

  Raises:
    ValueError: beta not above 0, or fewer than two alternatives.

  >>> instance = instance_any(5., num_alternatives=100)
  >>> print(f"{distortion(instance, 5., 'uniform'):.4f}")
  2.4951

  Reference:
    Distortion of AI Alignment (2505.23749), lower bound for all rules.
  """
  checks.check_positive(beta=beta)
  m = num_alternatives
  if m < 2:
    raise ValueError(f"num_alternatives must be at least 2, was {m}")
  beta = numerics.as_float(beta)
  eps = jnp.asarray(1 / m, beta.dtype)
  special = jnp.arange(m) == 0
  utilities = jnp.stack([jnp.where(special, 1, 0), jnp.where(special, 0, eps)])
  mu = jnp.full(m, 1 / m, beta.dtype)
  return _free(_two_types(beta, eps), utilities.astype(beta.dtype), mu)


def instance_borda(beta: float | jax.Array, *, eps: float = 1e-3) -> Instance:
  """Three alternatives on which Borda, RLHF and DPO reach `C(beta)`.

  Nearly all comparisons are against the second. It ties with the first, which
  is the best, and narrowly loses to the third, which is almost worthless and
  therefore wins.

  Args:
    beta: scalar above 0, Bradley-Terry temperature.
    eps: scalar, the small utility; the limit is 0.

  Returns:
    `Instance` with three types and three alternatives.

  Raises:
    ValueError: an argument not above 0.

  >>> with jax.enable_x64(True):
  ...   print(f"{distortion(instance_borda(5.), 5., 'borda'):.4f}")
  3.4742

  Reference:
    Distortion of AI Alignment (2505.23749), lower bound for Borda.
  """
  checks.check_positive(beta=beta, eps=eps)
  beta = numerics.as_float(beta)
  small = jnp.asarray(eps, beta.dtype)
  gamma = bounds.borda_lower_bound(beta).gamma
  first = _two_types(beta, small)[0]
  second = first * bounds.vote(beta * gamma) / bounds.vote(beta)
  weights = jnp.stack([first, second, 1 - first - second])
  zero, one = jnp.zeros_like(small), jnp.ones_like(small)
  utilities = jnp.stack(
    [
      jnp.stack([1 - gamma, one, zero]),
      jnp.stack([one, zero, small]),
      jnp.stack([zero, zero, small + small**2]),
    ]
  )
  margin = populations.margin_matrix(weights, utilities, beta)[2, 1]
  rare = 0.01 * margin
  return _free(weights, utilities, jnp.stack([rare, 1 - 2 * rare, rare]))


def instance_exponential(
  beta: float,
  *,
  log_clone_ref: float | None = None,
  clone_mass: float | None = None,
) -> Instance:
  """The KL ball turns a small error of rewards into distortion `e^beta`.

  Alternatives a, b and about `e^beta` clones of c, which are exchangeable: the
  third entry stands for all of them. The reference is half a, half b; c is
  beyond reach. Comparisons are uniform over alternatives, hence almost always
  with a clone, and rank a < b < c; RLHF and DPO then go to b, where only the
  share `10/(10 + e^beta)` of users gains. The others gain `min(1/beta, 1)` from
  a: for beta above 1 the ratio is `e^beta / (10 beta)`.

  Args:
    beta: a number above 0, Bradley-Terry temperature.
    log_clone_ref: log of the reference's mass on all clones; by default
      `-1000 beta e^beta`, which is at the limit to 1e-5.
    clone_mass: share of the clones in the comparisons; `K/(K+2)` by default.
      Close to 0, comparisons are drawn like the reference, and a beats b.

  Returns:
    `Instance` with two types, three classes of alternatives and tau = 1.

  Raises:
    ValueError: beta not above 0, or clone_mass outside (0, 1).

  >>> with jax.enable_x64(True):
  ...   print(f"{distortion(instance_exponential(5.), 5., 'rlhf'):.4f}")
  2.9683

  Reference:
    Distortion of AI Alignment (2505.23749), exponential lower bound; Distortion
    of AI Alignment Revisited (2609.12651), for comparisons like the reference.
  """
  checks.check_positive(beta=beta)
  rare = 10 / (10 + math.exp(beta))
  clones = math.ceil(2 / (rare * (1 / 3 - math.e / 10)))
  if clone_mass is None:
    # Not (1 - clone_mass) / 2, which is 0 where the clones are 1e16.
    clone_mass, others = clones / (clones + 2), 1 / (clones + 2)
  elif 0 < clone_mass < 1:
    others = (1 - clone_mass) / 2
  else:
    raise ValueError(f"clone_mass must be in (0, 1), was {clone_mass}")
  if log_clone_ref is None:
    log_clone_ref = -1e3 * beta * math.exp(beta)
  mu = jnp.array([others, others, clone_mass], float)
  return Instance(
    weights=jnp.array([rare, 1 - rare], float),
    utilities=jnp.array([[0, 1, 0], [min(1 / beta, 1), 0, 1]], float),
    pair_weights=mu[:, None] * mu,
    log_ref=jax.nn.log_softmax(
      jnp.array([-math.log(2), -math.log(2), log_clone_ref], float)
    ),
    tau=jnp.ones((), float),
  )


def instance_path(
  beta: float, *, num_alternatives: int, off_path: float = 0.0
) -> Instance:
  """Comparisons along a path make RLHF's distortion unbounded.

  Each alternative beats its predecessor, although total utility falls: the user
  who gains most from the last one loses everything, the others gain a little.
  Compared are almost only neighbours, so rewards increase along the path.

  Args:
    beta: a number above 0, Bradley-Terry temperature.
    num_alternatives: m, at least 2; the distortion grows without bound in m.
    off_path: total weight of pairs that are not neighbours, in [0, 1); of two
      alternatives there are none.

  Returns:
    `Instance` with three types, m alternatives and tau = log m.

  Raises:
    ValueError: beta not above 0, m below 2, off_path outside [0, 1).

  >>> with jax.enable_x64(True):
  ...   instance = instance_path(5., num_alternatives=10)
  ...   print(f"{distortion(instance, 5., 'rlhf'):.4f}")
  1.9580

  Reference:
    Distortion of AI Alignment (2505.23749), unboundedness of RLHF.
  """
  checks.check_positive(beta=beta)
  m = num_alternatives
  if m < 2:
    raise ValueError(f"num_alternatives must be at least 2, was {m}")
  if not 0 <= off_path < 1:
    raise ValueError(f"off_path must be in [0, 1), was {off_path}")

  def following(utility, _):
    loser = jnp.argmax(utility)
    drop = beta * utility[loser]
    gain = (drop / 2 - jnp.log1p(jnp.tanh(drop / 4) ** 3)) / beta
    return jnp.where(jnp.arange(3) == loser, 0, utility + gain), utility

  start = jnp.full(3, 1 / 3, float)
  utilities = jax.lax.scan(following, start, length=m)[1].T
  steps = jnp.abs(jnp.arange(m)[:, None] - jnp.arange(m))
  far = off_path / ((m - 1) * (m - 2)) if m > 2 else 0.0
  near = (1 - far * (m - 1) * (m - 2)) / (2 * (m - 1))
  pairs = jnp.where(steps == 1, near, jnp.where(steps > 1, far, 0))
  return Instance(
    weights=jnp.full(3, 1 / 3, float),
    utilities=utilities,
    pair_weights=pairs.astype(utilities.dtype),
    log_ref=jnp.full(m, -math.log(m), float),
    tau=jnp.asarray(math.log(m), float),
  )


# --- distortion of methods ---------------------------------------------------


def _borda(instance: Instance, margins: jax.Array) -> jax.Array:
  """Uniform over Borda's winners, whatever the reference."""
  mu = jnp.sum(instance.pair_weights, -1)
  scores = rules.borda_scores(margins + 0.5, mu)
  # Fair coins tie to rounding only, which this argmax allows for.
  return policies.kl_ball_argmax(_uniform(instance, margins), scores, jnp.inf)


def _uniform(instance: Instance, margins: jax.Array) -> jax.Array:
  return jnp.full_like(instance.log_ref, -math.log(margins.shape[-1]))


METHODS: dict[str, Callable[[Instance, jax.Array], jax.Array]] = {
  "borda": _borda,
  "dpo": lambda instance, margins: (
    policies.dpo_policy(
      margins + 0.5, instance.pair_weights, instance.log_ref, instance.tau
    ).log_policy
  ),
  "maximal_lottery": lambda instance, margins: (
    equilibria.maximal_lottery(margins).log_policy
  ),
  "nlhf": lambda instance, margins: (
    equilibria.kl_ball_nash(instance.log_ref, margins, instance.tau).log_policy
  ),
  "rlhf": lambda instance, margins: policies.rlhf_policy(
    margins + 0.5, instance.pair_weights, instance.log_ref, instance.tau
  ),
  "uniform": _uniform,
}


def distortion(
  instance: Instance, beta: float | jax.Array, method: str
) -> jax.Array:
  """Best average utility in the KL ball over that of a method's policy.

  Args:
    instance: the population and what is asked and allowed.
    beta: scalar above 0, Bradley-Terry temperature.
    method: one of `METHODS`; `"borda"`, `"maximal_lottery"` and `"uniform"`
      take no account of the reference.

  Returns:
    Scalar; at least 1 for policies in the ball. NaN where the Bradley-Terry
    likelihood has no finite maximum.

  Raises:
    ValueError: unknown method, beta not above 0.

  >>> print(f"{distortion(instance_ml(5., xi=1.1), 5., 'nlhf'):.4f}")
  2.3036

  Reference:
    Distortion of AI Alignment (2505.23749), section 2.
  """
  checks.check_choice("method", method, METHODS)
  margins = populations.margin_matrix(
    instance.weights, instance.utilities, beta
  )
  utility = populations.average_utility(instance.weights, instance.utilities)
  log_policy = METHODS[method](instance, margins)
  best = policies.kl_ball_value(instance.log_ref, utility, instance.tau)
  return best / jnp.sum(jnp.exp(log_policy) * utility)


# --- finite samples ----------------------------------------------------------


def finite_sample_distortion(
  instance: Instance, beta: float | jax.Array, num_users: int
) -> jax.Array:
  """Distortion of the majority rule on the answers of n users, exactly.

  Two alternatives, one uniform pair a user: k ~ Bin(n, 1/2) of the pairs are
  informative, and the wins of alternative 1 are Bin(k, P[1, 0]). The majority
  wins, a tie is split. `max a / E a` of the winner.

  Args:
    instance: of two alternatives.
    beta: scalar above 0, Bradley-Terry temperature.
    num_users: n, at least 1.

  Returns:
    Scalar.

  Raises:
    AssertionError: not two alternatives.
    ValueError: num_users not above 0.

  >>> with jax.enable_x64(True):
  ...   instance = instance_ml(5., eps=.05, xi=1.2)
  ...   print(f"{finite_sample_distortion(instance, 5., 100):.6f}")
  1.416467

  Reference:
    Distortion of AI Alignment (2505.23749), finite-sample bound.
  """
  checks.check_positive(num_users=num_users)
  weights, utilities = instance.weights, instance.utilities
  chex.assert_shape(
    utilities, (None, 2), custom_message="utilities need two alternatives"
  )
  margin = populations.margin_matrix(weights, utilities, beta)[1, 0]
  win, lose = 0.5 + margin, 0.5 - margin
  a = populations.average_utility(weights, utilities)
  n = jnp.asarray(num_users, a.dtype)
  k = jnp.arange(num_users + 1, dtype=a.dtype)
  gammaln = jax.scipy.special.gammaln
  asked = jnp.exp(
    gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) - n * math.log(2)
  )
  half = jnp.floor(k / 2)
  betainc = jax.scipy.special.betainc
  more = jnp.where(k > 0, betainc(half + 1, jnp.maximum(k - half, 1), win), 0)
  log_tie = (
    gammaln(k + 1)
    - 2 * gammaln(half + 1)
    + numerics.xlogy(half, jnp.full_like(half, win * lose))
  )
  tie = jnp.where(k % 2 == 0, jnp.exp(log_tie), 0)
  chosen = jnp.sum(asked * (more + tie / 2))
  return jnp.max(a) / (chosen * a[1] + (1 - chosen) * a[0])

# SPDX-License-Identifier: Apache-2.0
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jaxalign import social_choice as sc
from tests import helpers

BETAS = (1.0, 2.0, 5.0, 10.0, 20.0)
# beta: D*, maximal lottery (eps 1e-3, xi 1 + 1e-6), gamma, C, Borda (eps 1e-3).
TABLE = {
  1.0: (1.081977, 1.081976, 0.565083, 1.115039, 1.1139),
  2.0: (1.313035, 1.313034, 0.533784, 1.453963, 1.4525),
  5.0: (2.533918, 2.533910, 0.416159, 3.477656, 3.4742),
  10.0: (5.000454, 5.000407, 0.288737, 8.029636, 8.0216),
  20.0: (10.000000, 9.999657, 0.181845, 17.668387, 17.6503),
}
PATHS = {
  1.0: (1.0696, 1.6735, 4.4099),
  2.0: (1.2472, 2.8533, 8.6439),
  5.0: (1.9580, 6.6831, 21.4645),
  10.0: (2.8027, 13.0329, 42.8259),
  20.0: (2.3847, 25.0742, 85.3533),
}
FOUR, SIX = 5.1e-5, 5.1e-7  # half a unit of the last digit printed


@functools.partial(jax.jit, static_argnames="method")
def distortion(instance, beta, method):
  return sc.distortion(instance, beta, method)


def over(make, betas):
  """One instance for each temperature, stacked."""
  instances = [make(beta) for beta in betas]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *instances)


@functools.partial(jax.jit, static_argnames="method")
def distortions(instances, betas, method):
  return jax.vmap(lambda i, b: sc.distortion(i, b, method))(instances, betas)


# --- bounds ------------------------------------------------------------------


def test_bounds_have_the_printed_values():
  bound = sc.borda_lower_bound(np.array(BETAS))
  printed = np.array([TABLE[beta] for beta in BETAS])
  helpers.assert_close(
    sc.distortion_bound(np.array(BETAS)), printed[:, 0], atol=SIX, rtol=0
  )
  helpers.assert_close(bound.gamma, printed[:, 2], atol=SIX, rtol=0)
  helpers.assert_close(bound.value, printed[:, 3], atol=SIX, rtol=0)


def test_bound_is_half_beta_over_tanh():
  beta = np.geomspace(1e-6, 1e3, 200)
  expected = beta / 2 * (1 + np.exp(-beta)) / -np.expm1(-beta)
  helpers.assert_close(sc.distortion_bound(beta), expected, rtol=1e-14)
  squared_is_less = expected < 2
  helpers.assert_close(
    sc.borda_upper_bound(beta),
    np.where(squared_is_less, expected**2, 2 * expected),
    rtol=1e-13,
  )


@pytest.mark.parametrize("beta", [0.01, 1.0, 5.0, 40.0])
def test_borda_bound_is_the_maximum(beta):
  def coefficient(gamma):
    vote = scipy.special.expit(beta * gamma) - 0.5
    chord = scipy.special.expit(beta) - 0.5
    return 0.25 * beta / chord * (1 - gamma + vote / chord)

  best = scipy.optimize.minimize_scalar(
    lambda gamma: -coefficient(gamma),
    bounds=(0, 1),
    method="bounded",
    options={"xatol": 1e-12},
  )
  value, gamma = sc.borda_lower_bound(beta)
  helpers.assert_close(value, -best.fun, rtol=1e-12)
  # A maximum is flat, with curvature beta^2 in gamma: its place is known to the
  # root of a rounding over beta.
  helpers.assert_close(gamma, best.x, atol=1e-7 / min(beta, 1), rtol=0)
  assert sc.distortion_bound(beta) < value <= sc.borda_upper_bound(beta)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_borda_bound_keeps_its_digits_at_small_beta(dtype):
  # gamma = 1/sqrt(3) - 7 beta^2 / (360 sqrt(3)) + ..., C = 1 + beta^2
  # (1/12 + 1/(18 sqrt(3))) + ...
  beta = np.array([1e-9, 1e-5, 1e-3, 1e-2], dtype)
  value, gamma = sc.borda_lower_bound(jnp.asarray(beta))
  eps = float(jnp.finfo(dtype).eps)
  helpers.assert_close(gamma, 3**-0.5 + 0 * beta, atol=2e-6 + 10 * eps, rtol=0)
  helpers.assert_close(
    value,
    1 + beta**2 * (1 / 12 + 1 / (18 * 3**0.5)),
    atol=1e-9 + 4 * eps,
    rtol=0,
  )
  gradient = jax.vmap(jax.grad(lambda b: sc.borda_lower_bound(b).value))(
    jnp.asarray(beta)
  )
  slope = 1 / 6 + 1 / (9 * 3**0.5)
  # The gradient is a difference of terms of order 1 / beta.
  rounding = 8 * eps / beta + 1e-6
  assert np.all(np.abs(gradient - slope * beta) <= rounding)


def test_borda_bound_is_continuous_where_its_series_ends():
  # gamma is smooth: second differences of 200 points 1e-3 apart are 1e-6.
  gamma = sc.borda_lower_bound(np.linspace(0.1, 0.3, 201)).gamma
  assert np.max(np.abs(np.diff(gamma, 2))) < 1e-7


@pytest.mark.parametrize(
  "bound",
  [
    sc.distortion_bound,
    sc.borda_upper_bound,
    lambda beta: sc.borda_lower_bound(beta).value,
    lambda beta: sc.borda_lower_bound(beta).gamma,
  ],
)
def test_bounds_differentiate_and_transform(bound):
  for beta in (0.15, 1.0, 5.0, 20.0):
    helpers.assert_gradient(bound, beta, rtol=1e-5)
  helpers.assert_transforms(bound, jnp.array([[0.1, 2.0], [5.0, 40.0]]))


# --- lemma -------------------------------------------------------------------


def test_votes_are_nearly_linear_in_average_utilities(key):
  def slacks(key):
    of_weights, of_utilities, of_beta = jax.random.split(key, 3)
    weights = jax.random.dirichlet(of_weights, jnp.ones(3))
    utilities = jax.random.beta(of_utilities, 0.3, 0.3, (3, 2))
    beta = jnp.exp(jax.random.uniform(of_beta, (), minval=-3, maxval=4))
    x, y = sc.average_utility(weights, utilities)
    margin = sc.margin_matrix(weights, utilities, beta)[0, 1]
    slope = 1 / (4 * sc.distortion_bound(beta))
    lower, upper = slope * x - y / 4, x / 4 - slope * y
    return margin / beta - lower, upper - margin / beta

  slack = jax.jit(jax.vmap(slacks))(jax.random.split(key, 20_000))
  assert min(np.min(s) for s in slack) >= -1e-12  # roundings
  # With the slope doubled the lemma is false: the profiles are hard enough.
  assert min(np.min(s) for s in slack) < 1e-4


# --- maximal lotteries -------------------------------------------------------


def test_lottery_has_the_printed_values():
  betas = jnp.array(BETAS)
  printed = np.array([TABLE[beta][1] for beta in BETAS])
  close = over(lambda b: sc.instance_ml(b, eps=1e-3, xi=1 + 1e-6), BETAS)
  plain = over(sc.instance_ml, BETAS)
  for method in ("maximal_lottery", "nlhf"):
    found = distortions(close, betas, method)
    helpers.assert_close(found, printed, atol=SIX, rtol=0)
    # Exactly w_1 / (xi eps w_2), by hand.
    vote = np.tanh(np.array([betas * 1e-3, betas]) / 2)
    helpers.assert_close(
      distortions(plain, betas, method), vote[0] / (1.001e-3 * vote[1])
    )


def test_first_alternative_wins_below_the_tie():
  instance = sc.instance_ml(5.0, xi=0.999)
  helpers.assert_close(distortion(instance, 5.0, "maximal_lottery"), 1.0)
  margins = sc.margin_matrix(*sc.instance_ml(5.0, xi=1.0)[:2], 5.0)
  helpers.assert_close(margins, np.zeros((2, 2)), atol=1e-18)


def test_uniform_on_fair_coins():
  for size, printed in ((100, 2.4951), (10_000, 2.5335)):
    instance = sc.instance_any(5.0, num_alternatives=size)
    a = sc.average_utility(instance.weights, instance.utilities)
    # `distortion` would form all pairs of 10000 alternatives.
    ratio = jnp.max(a) / jnp.mean(a)
    helpers.assert_close(ratio, printed, atol=FOUR, rtol=0)
  instance = sc.instance_any(5.0, num_alternatives=100)
  helpers.assert_close(
    sc.distortion(instance, 5.0, "uniform"), 2.4951, atol=FOUR, rtol=0
  )
  margins = sc.margin_matrix(instance.weights, instance.utilities, 5.0)
  helpers.assert_close(margins, np.zeros((100, 100)), atol=1e-16)


# --- Borda, RLHF and DPO -----------------------------------------------------


def test_borda_has_the_printed_values():
  betas = jnp.array(BETAS)
  printed = np.array([TABLE[beta][4] for beta in BETAS])
  instances = over(sc.instance_borda, BETAS)
  for method in ("borda", "rlhf", "dpo"):
    found = distortions(instances, betas, method)
    helpers.assert_close(found, printed, atol=FOUR, rtol=0)
    assert np.all(found <= sc.borda_upper_bound(betas))
  smaller = over(lambda b: sc.instance_borda(b, eps=1e-5), BETAS)
  limit = sc.borda_lower_bound(betas).value
  found = distortions(smaller, betas, "borda")
  # Utilities of order 1 are wrong by eps, votes of the tie by (beta eps)^2.
  helpers.assert_close(found, limit, rtol=2e-5)


@pytest.mark.parametrize(
  ("beta", "limit", "cut", "half"),
  [(5.0, 2.96826, 2.9532, 5.1e-6), (10.0, 220.265, 103.23, 5.1e-4)],
)
def test_exponential_instance(beta, limit, cut, half):
  instance = sc.instance_exponential(beta)
  formula = math.exp(beta) / (10 * beta)
  helpers.assert_close(formula, limit, atol=half, rtol=0)
  nearer = sc.instance_exponential(beta, log_clone_ref=-600.0)
  alike = sc.instance_exponential(beta, clone_mass=1e-9)
  for method in ("rlhf", "dpo"):
    # The clones' reference mass e^-L costs about e^beta / L of the limit.
    found = distortion(instance, beta, method)
    helpers.assert_close(found, formula, rtol=2e-5)
    found = distortion(nearer, beta, method)
    digits = 5.1e-5 if beta == 5 else 5.1e-3
    helpers.assert_close(found, cut, atol=digits, rtol=0)
    helpers.assert_close(distortion(alike, beta, method), 1.0, rtol=1e-8)
  helpers.assert_close(distortion(instance, beta, "nlhf"), 1.0, rtol=1e-9)


@pytest.mark.parametrize(("beta", "printed"), [(5.0, 0.778), (10.0, 0.998)])
def test_comparisons_like_the_reference_order_rewards_rightly(beta, printed):
  @jax.jit
  def rewards(instance):
    win = sc.win_matrix(instance.weights, instance.utilities, beta)
    return sc.bradley_terry_mle(win, instance.pair_weights).scores

  alike = rewards(sc.instance_exponential(beta, clone_mass=1e-9))
  helpers.assert_close(alike[0] - alike[1], printed, atol=5.1e-4, rtol=0)
  uniform = rewards(sc.instance_exponential(beta))
  assert uniform[0] < uniform[1] < uniform[2]


def test_exponential_at_twenty():
  helpers.assert_close(math.exp(20) / 200, 2.42583e6, atol=5.1, rtol=0)
  found = distortion(sc.instance_exponential(20.0), 20.0, "rlhf")
  helpers.assert_close(found, math.exp(20) / 200, rtol=2e-5)


@pytest.mark.parametrize("beta", [30.0, 40.0])
def test_exponential_where_the_share_of_clones_rounds_to_one(beta):
  instance = sc.instance_exponential(beta)
  others = np.diagonal(np.asarray(instance.pair_weights)) ** 0.5
  rare = 10 / (10 + math.exp(beta))
  clones = 2 / (rare * (1 / 3 - math.e / 10))
  helpers.assert_close(others[0], 1 / (clones + 2), rtol=1e-10)
  # Beyond, the share of users who gain is lost in win probabilities.
  if beta <= 30:
    found = distortion(instance, beta, "rlhf")
    helpers.assert_close(found, math.exp(beta) / (10 * beta), rtol=2e-5)


def test_dpo_loss_is_stationary_at_the_tilted_reference():
  beta, lam = 5.0, 0.7
  instance = sc.instance_exponential(beta, log_clone_ref=-3.0)
  win = sc.win_matrix(instance.weights, instance.utilities, beta)
  scores = sc.bradley_terry_mle(win, instance.pair_weights).scores

  def loss(log_policy):
    log_ratio = jax.nn.log_softmax(log_policy) - instance.log_ref
    margin = lam * (log_ratio[:, None] - log_ratio)
    votes = instance.pair_weights * win
    return -jnp.sum(votes * jax.nn.log_sigmoid(margin))

  tilted = jax.nn.log_softmax(instance.log_ref + scores / lam)
  gradient = jax.jit(jax.grad(loss))
  helpers.assert_close(gradient(tilted), np.zeros(3), atol=1e-15)
  assert np.max(np.abs(gradient(instance.log_ref))) > 1e-4


# --- paths -------------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
def test_paths_have_the_printed_ratios(beta):
  instance = sc.instance_path(beta, num_alternatives=1000)
  a = np.asarray(sc.average_utility(instance.weights, instance.utilities))
  ratios = a[0] / a[[9, 99, 999]]
  helpers.assert_close(ratios, np.array(PATHS[beta]), atol=FOUR, rtol=0)
  assert np.all(np.diff(a) < 0)
  u = np.asarray(instance.utilities)
  votes = np.tanh(beta / 2 * (u[:, 1:] - u[:, :-1])).mean(0)
  assert np.all(votes > 0)
  assert np.min(u) >= 0 and np.max(u) <= 1


@pytest.mark.parametrize("beta", BETAS)
def test_rlhf_goes_to_the_end_of_the_path(beta):
  short = sc.instance_path(beta, num_alternatives=10)
  found = distortion(short, beta, "rlhf")
  helpers.assert_close(found, PATHS[beta][0], atol=FOUR, rtol=0)
  lottery = distortion(short, beta, "maximal_lottery")
  assert 1 - 1e-12 <= lottery <= sc.distortion_bound(beta)


def test_rlhf_with_a_few_comparisons_off_the_path():
  # Votes off the path pull the other way: from 5e-4 on the end loses.
  for off_path in (0.0, 1e-4):
    instance = sc.instance_path(5.0, num_alternatives=40, off_path=off_path)
    a = sc.average_utility(instance.weights, instance.utilities)
    found = distortion(instance, 5.0, "rlhf")
    helpers.assert_close(found, a[0] / a[-1], rtol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("off_path", [0.0, 0.25])
def test_pairs_along_a_path_are_a_law(size, off_path):
  pairs = np.asarray(
    sc.instance_path(5.0, num_alternatives=size, off_path=off_path).pair_weights
  )
  helpers.assert_close(pairs.sum(), 1.0)
  helpers.assert_close(pairs, pairs.T)
  near = np.diagonal(pairs, 1).sum() * 2
  # Two alternatives are neighbours: no pair is off the path.
  helpers.assert_close(near, 1.0 if size == 2 else 1 - off_path)
  assert np.all(np.diagonal(pairs) == 0)


# --- every instance ----------------------------------------------------------


@pytest.mark.parametrize(
  "make",
  [
    sc.instance_ml,
    sc.instance_borda,
    lambda b: sc.instance_any(b, num_alternatives=4),
    lambda b: sc.instance_exponential(float(b)),
    lambda b: sc.instance_path(float(b), num_alternatives=5),
  ],
)
@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_instances_are_populations(make, beta):
  instance = make(jnp.array(beta))
  helpers.assert_close(instance.weights.sum(), 1.0)
  assert np.all(instance.weights >= 0)
  assert np.all((instance.utilities >= 0) & (instance.utilities <= 1))
  helpers.assert_close(instance.pair_weights.sum(), 1.0)
  assert np.all(instance.pair_weights >= 0)
  helpers.assert_close(instance.pair_weights, instance.pair_weights.T)
  helpers.assert_close(jax.nn.logsumexp(instance.log_ref), 0.0)
  assert instance.tau > 0
  assert all(leaf.dtype == jnp.float64 for leaf in instance)


@pytest.mark.parametrize(
  "make",
  [
    sc.instance_ml,
    sc.instance_borda,
    lambda beta: sc.instance_any(beta, num_alternatives=3),
  ],
)
def test_instances_transform_and_differentiate(make):
  helpers.assert_transforms(make, jnp.array([0.5, 5.0]))
  helpers.assert_gradient(lambda b: make(b).weights[0], 5.0)


def test_path_and_exponential_transform():
  betas = jnp.array([0.5, 5.0])
  path = functools.partial(sc.instance_path, num_alternatives=4, off_path=0.1)
  jitted = jax.jit(jax.vmap(path))(betas)
  helpers.assert_close(jitted, over(path, (0.5, 5.0)))
  with jax.enable_x64(False):
    for instance in (path(5.0), sc.instance_exponential(5.0)):
      assert all(leaf.dtype == jnp.float32 for leaf in instance)


# --- distortion --------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(sc.METHODS))
def test_distortion_transforms(method):
  # Away from ties, which the variants would break differently.
  instances = over(lambda b: sc.instance_ml(b, eps=0.3, xi=1.3), (2.0, 5.0))
  instances = instances._replace(tau=jnp.array([0.1, 0.2]))
  helpers.assert_transforms(
    lambda *leaves: sc.distortion(sc.Instance(*leaves), 3.0, method),
    *instances,
    rtol=1e-9,
  )


def test_distortion_by_hand():
  weights, utilities = jnp.array([0.25, 0.75]), jnp.array([[1.0, 0], [0, 0.2]])
  instance = sc.Instance(
    weights,
    utilities,
    jnp.full((2, 2), 0.25),
    jnp.log(jnp.array([0.5, 0.5])),
    jnp.array(jnp.inf),
  )
  # a = (.25, .15): the uniform policy has .2, and .75 of the users vote for
  # the second alternative, if narrowly.
  helpers.assert_close(sc.distortion(instance, 50.0, "uniform"), 1.25)
  for method in sorted(set(sc.METHODS) - {"uniform"}):
    helpers.assert_close(distortion(instance, 50.0, method), 0.25 / 0.15)
  inside = instance._replace(tau=jnp.array(0.1))
  rel_entr = scipy.special.rel_entr
  p = scipy.optimize.brentq(
    lambda p: rel_entr(p, 0.5) + rel_entr(1 - p, 0.5) - 0.1, 0.5, 1
  )
  expected = (0.25 * p + 0.15 * (1 - p)) / (0.25 * (1 - p) + 0.15 * p)
  for method in ("nlhf", "rlhf", "dpo"):
    helpers.assert_close(distortion(inside, 50.0, method), expected)


def test_distortion_differentiates():
  instance = sc.instance_ml(5.0, eps=0.3, xi=1.3)._replace(tau=jnp.array(0.1))

  @functools.partial(jax.jit, static_argnames="method")
  def at(utilities, method):
    return sc.distortion(instance._replace(utilities=utilities), 5.0, method)

  inside = jnp.clip(instance.utilities, 0.05, 0.95)
  for method in ("nlhf", "rlhf"):
    helpers.assert_gradient(
      lambda u, method=method: at(u, method=method), inside, rtol=1e-5
    )


def test_distortion_without_a_finite_fit_is_nan():
  # At beta = 100 nobody errs: the likelihood has no maximum.
  instance = sc.Instance(
    jnp.ones(1),
    jnp.array([[1.0, 0.0]]),
    jnp.full((2, 2), 0.25),
    jnp.log(jnp.array([0.5, 0.5])),
    jnp.array(jnp.inf),
  )
  assert np.isnan(distortion(instance, 100.0, "rlhf"))
  helpers.assert_close(distortion(instance, 100.0, "nlhf"), 1.0)


# --- finite samples ----------------------------------------------------------

SAMPLE = functools.partial(sc.instance_ml, 5.0, eps=0.05, xi=1.2)


def test_finite_samples_have_the_printed_values():
  printed = (1.373691, 1.416467, 1.562301, 1.967075, 2.100668)
  instance = SAMPLE()
  law = jax.jit(sc.finite_sample_distortion, static_argnums=2)
  for i, value in enumerate(printed, 1):
    found = law(instance, 5.0, 10**i)
    helpers.assert_close(found, value, atol=SIX, rtol=0)
  population = distortion(instance, 5.0, "maximal_lottery")
  helpers.assert_close(population, 2.100669, atol=SIX, rtol=0)


def by_enumeration(win, utilities, num_users):
  """Every sequence of answers: none, or a win of either alternative."""
  probs = {0: 0.5, 1: 0.5 * win, -1: 0.5 * (1 - win)}
  mean = 0.0
  for answers in itertools.product(probs, repeat=num_users):
    balance = np.sign(sum(answers))
    chosen = (1 + balance) / 2
    value = chosen * utilities[1] + (1 - chosen) * utilities[0]
    mean += math.prod(probs[x] for x in answers) * value
  return max(utilities) / mean


@pytest.mark.parametrize("num_users", [1, 2, 3, 6])
def test_finite_samples_by_enumeration(num_users):
  instance = SAMPLE()
  win = float(sc.win_matrix(instance.weights, instance.utilities, 5.0)[1, 0])
  a = np.asarray(sc.average_utility(instance.weights, instance.utilities))
  helpers.assert_close(
    sc.finite_sample_distortion(instance, 5.0, num_users),
    by_enumeration(win, a, num_users),
  )


@pytest.mark.parametrize("row", [[0.0, 1.0], [1.0, 0.0]])
def test_finite_samples_of_voters_who_never_err(row):
  # The win probability rounds to 0 or 1; 3 users err only by not answering.
  instance = SAMPLE()._replace(weights=jnp.ones(1), utilities=jnp.array([row]))
  found = sc.finite_sample_distortion(instance, 100.0, 3)
  helpers.assert_close(found, 1 / (1 - 2.0**-4))


def test_finite_samples_differentiate_and_transform():
  instance = SAMPLE()

  def at(weights, utilities):
    return sc.finite_sample_distortion(
      instance._replace(weights=weights, utilities=utilities), 5.0, 7
    )

  inside = jnp.array([[0.9, 0.1], [0.2, 0.3]])
  helpers.assert_gradient(jax.jit(at), jnp.array([0.2, 0.8]), inside)
  helpers.assert_transforms(
    at,
    jnp.array([[0.2, 0.8], [0.5, 0.5]]),
    jnp.stack([inside, inside**2]),
  )


# --- errors ------------------------------------------------------------------


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: sc.distortion_bound(0.0), "beta must be above 0, was 0.0"),
    (lambda: sc.borda_lower_bound(-1.0), "beta must be above 0, was -1.0"),
    (lambda: sc.borda_upper_bound(0.0), "beta must be above 0"),
    (lambda: sc.instance_ml(0.0), "beta must be above 0"),
    (lambda: sc.instance_ml(1.0, eps=0.0), "eps must be above 0"),
    (lambda: sc.instance_ml(1.0, xi=-1.0), "xi must be above 0"),
    (
      lambda: sc.instance_any(-1.0, num_alternatives=2),
      "beta must be above 0",
    ),
    (
      lambda: sc.instance_any(1.0, num_alternatives=1),
      "num_alternatives must be at least 2, was 1",
    ),
    (lambda: sc.instance_borda(0.0), "beta must be above 0"),
    (lambda: sc.instance_borda(1.0, eps=-1.0), "eps must be above 0"),
    (lambda: sc.instance_exponential(0.0), "beta must be above 0"),
    (
      lambda: sc.instance_exponential(1.0, clone_mass=1.0),
      r"clone_mass must be in \(0, 1\), was 1.0",
    ),
    (lambda: sc.instance_path(0.0, num_alternatives=2), "beta must be above"),
    (
      lambda: sc.instance_path(1.0, num_alternatives=1),
      "num_alternatives must be at least 2, was 1",
    ),
    (
      lambda: sc.instance_path(1.0, num_alternatives=3, off_path=1.0),
      r"off_path must be in \[0, 1\), was 1.0",
    ),
    (
      lambda: sc.distortion(SAMPLE(), 5.0, "plurality"),
      "unknown method 'plurality': choose one of borda, dpo",
    ),
    (lambda: sc.distortion(SAMPLE(), 0.0, "borda"), "beta must be above 0"),
    (
      lambda: sc.finite_sample_distortion(SAMPLE(), 5.0, 0),
      "num_users must be above 0, was 0",
    ),
  ],
)
def test_domains(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.parametrize("size", [1, 3])
def test_finite_samples_are_of_two_alternatives(size):
  instance = SAMPLE()._replace(utilities=jnp.ones((2, size)) / 2)
  with pytest.raises(AssertionError, match="utilities"):
    sc.finite_sample_distortion(instance, 5.0, 3)

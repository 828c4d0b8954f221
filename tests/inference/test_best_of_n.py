# SPDX-License-Identifier: Apache-2.0
import decimal
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from jaxalign import checks
from jaxalign.divergences import categorical, generators
from jaxalign.inference import best_of_n
from tests import helpers

P = np.array([0.3, 0.2, 0.1, 0.25, 0.15])
R = np.array([1.0, 2.0, 2.0, 0.0, 2.0])
LOG_P = np.log(P)
TIES = ("uniform", "index")
# Ten outcomes in order of reward.
LOGITS = [
  -0.95311,
  -0.018337,
  -0.899911,
  -0.970207,
  -0.126353,
  0.535985,
  -0.826372,
  1.093029,
  0.751966,
  -0.860145,
]
# Two bases with zeros in the middle, at the bottom and at the top of the order.
ZEROS_P = np.array([[0.0, 0.2, 0.5, 0.3, 0.0], [0.4, 0.0, 0.0, 0.1, 0.5]])
ZEROS_R = np.array([[-1.0, 2.0, 0.0, 0.0, 5.0], [0.0, 1.0, 7.0, 2.0, 2.0]])


@functools.partial(jax.jit, static_argnames=("ties",))
def log_pmf(log_p, rewards, log_n, ties="uniform"):
  return best_of_n.log_pmf(log_p, rewards, log_n=log_n, ties=ties)


def pmf(log_p, rewards, log_n, ties="uniform"):
  return np.exp(log_pmf(log_p, rewards, log_n, ties))


@jax.jit
def estimate(log_e, log_n):
  return best_of_n.kl_estimator(log_e, log_n=log_n)


@functools.partial(jax.jit, static_argnames=("ties",))
def kl_and_gap(log_p, r, log_n, ties):
  def row(p, r, log_n):
    return (
      best_of_n.kl_exact(p, r, log_n=log_n, ties=ties),
      best_of_n.kl_gap(p, r, log_n=log_n, ties=ties),
    )

  return jax.vmap(row)(log_p, r, log_n)


def enumerated(p, r, n, ties):
  """Law of the best of n draws, by going through all V^n of them."""
  law = np.zeros_like(p)
  for draws in itertools.product(range(len(p)), repeat=n):
    mass = np.prod(p[list(draws)])
    best = max(r[i] for i in draws)
    winners = [i for i in draws if r[i] == best]
    if ties == "uniform":
      for i in winners:
        law[i] += mass / len(winners)
    else:
      law[max(winners)] += mass
  return law


def random_bases(rng, rows, size=6):
  """Bases over a simplex, some with tiny masses, rewards with many ties."""
  logits = rng.normal(size=(rows, size)) * rng.choice([0.5, 2, 8], (rows, 1))
  rewards = rng.integers(0, size, (rows, size)).astype(float)
  return jax.nn.log_softmax(logits), rewards


# --- the exact law -----------------------------------------------------------


@pytest.mark.parametrize(
  ("ties", "expected"),
  [
    ("uniform", [0.0876, 0.40378, 0.20189, 0.00391, 0.30283]),
    ("index", [0.0876, 0.2249, 0.2056, 0.00391, 0.47799]),
  ],
)
def test_pmf_of_the_worked_case(ties, expected):
  value = pmf(LOG_P, R, np.log(4), ties)
  np.testing.assert_allclose(value, expected, rtol=0, atol=5.001e-6)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_pmf_equals_enumeration(ties, n):
  expected = enumerated(P, R, n, ties)
  helpers.assert_close(pmf(LOG_P, R, np.log(n), ties), expected)
  for p, r in zip(ZEROS_P, ZEROS_R, strict=True):
    with np.errstate(divide="ignore"):
      value = pmf(np.log(p), r, np.log(n), ties)
    helpers.assert_close(value, enumerated(p, r, n, ties))
    assert np.all(value[p == 0] == 0)


def test_pmf_equals_a_million_draws(key):
  def draw(key):
    outcome = lambda k: jax.random.categorical(k, jnp.asarray(LOG_P))
    return best_of_n.sample(key, outcome, lambda i: jnp.asarray(R)[i], 4)

  count = 1_000_000
  kept = jax.jit(jax.vmap(draw))(jax.random.split(key, count))
  share = np.bincount(kept.sample, minlength=5) / count
  law = np.asarray(pmf(LOG_P, R, np.log(4)))
  error = np.sqrt(law * (1 - law) / count)
  # Five comparisons at 3 standard errors, with a fixed key.
  assert np.all(np.abs(share - law) < 3 * error)
  assert np.all(np.asarray(kept.reward) == R[np.asarray(kept.sample)])
  assert np.all((kept.index >= 0) & (kept.index < 4))


@pytest.mark.parametrize("ties", TIES)
def test_pmf_of_one_draw_is_the_base_and_all_sum_to_one(ties):
  log_p, r = random_bases(np.random.default_rng(0), 200)
  helpers.assert_close(pmf(log_p, r, 0.0, ties), jnp.exp(log_p), rtol=1e-12)
  for log_n in (0.0, 1.0, 10.0, 100.0, 1e4):
    helpers.assert_close(pmf(log_p, r, log_n, ties).sum(-1), np.ones(200))


@pytest.mark.parametrize("ties", TIES)
def test_composition_multiplies_the_numbers(ties):
  log_p, r = random_bases(np.random.default_rng(1), 200)
  inner = jnp.log(pmf(log_p, r, np.log(3), ties))
  twice = pmf(inner, r, np.log(5), ties)
  # Through probabilities of e^-60 and back: relative error of their logarithm.
  helpers.assert_close(twice, pmf(log_p, r, np.log(15), ties), rtol=1e-9)


def test_only_the_order_of_rewards_matters():
  expected = pmf(LOG_P, R, np.log(7))
  for mapped in (np.exp(R), R**3 - 5, np.where(R == 0, -np.inf, R)):
    helpers.assert_close(pmf(LOG_P, mapped, np.log(7)), expected, rtol=0)


def test_rewards_keep_their_digits_beside_a_narrower_base():
  close = np.array([1.0, 1.0 + 1e-12])
  law = pmf(np.log(np.array([0.5, 0.5], np.float32)), close, np.log(2))
  # A base of single precision.
  helpers.assert_close(law, np.array([0.25, 0.75]), rtol=1e-6)


def test_outcomes_permute():
  shuffle = np.array([3, 0, 4, 2, 1])
  helpers.assert_close(
    pmf(LOG_P[shuffle], R[shuffle], np.log(7)),
    pmf(LOG_P, R, np.log(7))[shuffle],
  )


def decimal_log_pmf(log_p, log_n):
  """Total order from worst to best, in 120 digits."""
  with decimal.localcontext() as context:
    context.prec = 120
    context.Emin, context.Emax = -999_999_999, 999_999_999
    p = [decimal.Decimal(float(x)).exp() for x in log_p]
    n = decimal.Decimal(log_n).exp()
    upto, total, logs = decimal.Decimal(0), sum(p), []
    for mass in p:
      low, upto = upto, upto + mass
      power = (n * (low / total).ln()).exp() if low else decimal.Decimal(0)
      logs.append(float(((n * (upto / total).ln()).exp() - power).ln()))
  return np.array(logs)


def test_pmf_keeps_digits_in_both_tails():
  # The best outcomes have masses e^-100 and e^-60, the worst ones e^-40.
  log_p = np.array([-40.0, -80.0, -1.0, 0.0, -25.0, -60.0, -100.0])
  r = np.arange(7.0)
  for log_n in (0.5, 3.0, 24.0, 59.0, 61.0, 99.0):
    expected = decimal_log_pmf(log_p, log_n)
    value = log_pmf(log_p, r, log_n)
    seen = expected > -1e6  # beyond, the exponent's rounding is all there is
    np.testing.assert_allclose(value[seen], expected[seen], rtol=1e-12)
    single = log_pmf(log_p.astype(np.float32), r.astype(np.float32), log_n)
    near = expected > -100
    np.testing.assert_allclose(
      single[near], expected[near], rtol=1e-5, atol=1e-5
    )


def test_n_beyond_every_float():
  @jax.jit
  def kl(log_p, log_n):
    return best_of_n.kl_exact(log_p, R, log_n=log_n)

  log_p = jnp.asarray(LOG_P)
  gradient_of = jax.jit(jax.grad(kl))
  # KL = -log P(top): its gradient through the softmax.
  expected = P - np.where(R == 2, P / 0.45, 0)
  for log_n in (1e2, 1e4, 1e300):
    helpers.assert_close(kl(log_p, log_n), -np.log(0.45))
    with jax.debug_nans(True):
      helpers.assert_close(gradient_of(log_p, log_n), expected)
  law = np.exp(best_of_n.log_pmf(LOG_P, R, 10**400))
  helpers.assert_close(law, np.where(R == 2, P / 0.45, 0))


def test_n_and_log_n_agree():
  for n in (1, 2.5, np.float64(16), jnp.array(16), 10**9):
    helpers.assert_close(
      best_of_n.log_pmf(LOG_P, R, n),
      log_pmf(LOG_P, R, np.log(float(n))),
    )


@pytest.mark.parametrize("ties", TIES)
def test_pmf_gradient(ties):
  weights = np.array([0.3, -1.0, 0.7, 2.0, -0.2])
  fn = jax.jit(
    lambda x: weights @ best_of_n.log_pmf(x, R, log_n=1.7, ties=ties)
  )
  helpers.assert_gradient(fn, jnp.asarray(LOG_P))
  helpers.assert_gradient(fn, jnp.asarray(LOG_P) + 3 * weights)
  # The base is normalised: its gradient has no component along the ones.
  helpers.assert_close(jax.grad(fn)(jnp.asarray(LOG_P)).sum(), 0.0)


@pytest.mark.parametrize("ties", TIES)
def test_gradients_with_zeros_equal_those_of_the_slice(ties):
  def total(x, r):
    log_pi = best_of_n.log_pmf(x, r, 4, ties=ties)
    divergence = best_of_n.kl_exact if ties == "uniform" else best_of_n.kl_gap
    return divergence(x, r, 4, ties=ties) + best_of_n.win_rate(log_pi, x, r)

  gradient_of = jax.jit(jax.grad(total))
  for p, r in zip(ZEROS_P, ZEROS_R, strict=True):
    live = p > 0
    log_p = jnp.asarray(np.where(live, np.log(np.where(live, p, 1)), -np.inf))
    with jax.debug_nans(True):
      gradient = gradient_of(log_p, r)
    assert np.all(gradient[~live] == 0)
    helpers.assert_close(gradient[live], gradient_of(log_p[live], r[live]))


def test_tangent_with_zeros():
  log_p = jnp.array([-jnp.inf, -1.0, -jnp.inf, -0.5, -jnp.inf])

  def law(x):
    return jnp.exp(best_of_n.log_pmf(x, jnp.arange(5.0), 4))

  with jax.debug_nans(True):
    direction = jnp.array([1.0, 1.0, 0.0, 2.0, -1.0])
    tangent = jax.jit(lambda x: jax.jvp(law, (x,), (direction,))[1])(log_p)
  assert np.all(tangent[jnp.array([0, 2, 4])] == 0)
  # Of two outcomes: d F_le^4 = 4 F^3 dF, with d logit = 1 towards the best.
  low = jax.nn.sigmoid(-0.5)
  slope = 4 * low**3 * low * (1 - low)
  helpers.assert_close(tangent[1], -slope)
  helpers.assert_close(tangent[3], slope)


def test_transforms():
  log_p, r = jnp.stack([LOG_P, LOG_P[::-1]]), jnp.stack([R, R])

  def everything(log_p, r, n):
    log_pi = best_of_n.log_pmf(log_p, r, n)
    return (
      log_pi,
      best_of_n.log_pmf(log_p, r, n, ties="index"),
      best_of_n.kl_exact(log_p, r, n),
      best_of_n.kl_gap(log_p, r, n),
      best_of_n.win_rate(log_pi, log_p, r),
      best_of_n.kl_estimator(log_p, n),
    )

  n = jnp.array([4.0, 1.0])
  compiled = jax.jit(everything)
  # Eager execution is compared once: elsewhere it only costs time.
  helpers.assert_transforms(lambda *args: compiled(*args), log_p, r, n)
  eager = everything(log_p[0], r[0], n[0])
  helpers.assert_close(eager, compiled(log_p[0], r[0], n[0]))


def test_scalar_transforms():
  def everything(n):
    kinds = best_of_n.CONTINUOUS_DIVERGENCES
    orders = [0.3 if kind == "renyi" else None for kind in kinds]
    kl = best_of_n.kl_upper_bound(n)
    coef = best_of_n.win_rate_tilt_coef(kl)
    return (
      [
        best_of_n.f_divergence_continuous(n, kind, alpha=order)
        for kind, order in zip(kinds, orders, strict=True)
      ],
      best_of_n.win_rate_upper_bound(n),
      coef,
      best_of_n.win_rate_tilt(coef),
      best_of_n.rewind_and_repeat(1 / n),
    )

  compiled = jax.jit(everything)
  helpers.assert_transforms(lambda n: compiled(n), jnp.array([2.0, 16.0]))
  helpers.assert_close(everything(jnp.array(2.0)), compiled(jnp.array(2.0)))


# --- its KL ------------------------------------------------------------------


def test_kl_of_uniform_orders():
  sizes, r = np.array([10, 100, 1000]), np.arange(1000.0)
  log_p = jnp.where(r < sizes[:, None], -jnp.log(sizes)[:, None], -jnp.inf)
  value, gap = kl_and_gap(log_p, jnp.tile(r, (3, 1)), np.log([16] * 3), "index")
  expected = np.array([1.73306, 1.83402, 1.83508])
  np.testing.assert_allclose(value, expected, rtol=0, atol=5e-6)
  bound = best_of_n.kl_upper_bound(16)
  helpers.assert_close(value + gap, np.full(3, bound))
  np.testing.assert_allclose(bound, 1.83509, rtol=0, atol=5e-6)


def test_kl_saturates_on_binary_rewards():
  log_p, r = np.log([0.5, 0.5]), np.array([0.0, 1.0])
  for n, exact, bound in ((16, 0.69296, 1.83509), (128, 0.693147, 3.85984)):
    half = 5e-6 if n == 16 else 5e-7
    np.testing.assert_allclose(
      best_of_n.kl_exact(log_p, r, n), exact, atol=half
    )
    np.testing.assert_allclose(best_of_n.kl_upper_bound(n), bound, atol=5e-6)


def test_kl_never_exceeds_its_bound_and_gap_is_exact():
  rng = np.random.default_rng(2)
  log_p, r = random_bases(rng, 20_000)
  log_n = jnp.asarray(rng.uniform(0, 8, 20_000))

  bound = best_of_n.kl_upper_bound(log_n=log_n)
  by_ties = {}
  for ties in TIES:
    kl, gap = kl_and_gap(log_p, r, log_n, ties)
    assert np.all(kl >= 0) and np.all(kl <= bound + 1e-12)
    assert np.all(gap >= -1e-12)
    helpers.assert_close(kl + gap, bound, atol=1e-11)
    by_ties[ties] = kl
  assert np.all(by_ties["uniform"] <= by_ties["index"] + 1e-12)
  assert np.any(by_ties["uniform"] < by_ties["index"] - 1e-3)


def test_kl_and_gap_gradients():
  def total(x):
    kl = best_of_n.kl_exact(x, R, 4, ties="index")
    return kl + 2 * best_of_n.kl_gap(x, R, 4, ties="index")

  helpers.assert_gradient(jax.jit(total), jnp.asarray(LOG_P))


# --- the estimator -----------------------------------------------------------


@pytest.mark.parametrize("n", [2, 16, 300])
@pytest.mark.parametrize("top", [1e-4, 0.03, 0.5, 0.95])
def test_estimator_is_the_kl_of_an_atom_over_a_continuum(n, top):
  def integrand(u):
    density = n * u ** (n - 1)
    return density * np.log(density) if density > 0 else 0.0

  inside, _ = scipy.integrate.quad(
    integrand, 0, 1 - top, epsabs=1e-13, epsrel=1e-12, limit=400
  )
  hit = -np.expm1(n * np.log1p(-top))
  expected = inside + hit * np.log(hit / top)
  value = estimate(jnp.log(top), np.log(n))
  np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-10)


def test_estimator_limits():
  edges = jnp.array([0.0, -jnp.inf, -1e3, -50.0])
  with jax.debug_nans(True):
    value = estimate(edges, np.log(16))
    gradient = jax.jit(jax.grad(lambda x: estimate(x, np.log(16)).sum()))(edges)
  bound = best_of_n.kl_upper_bound(16)
  helpers.assert_close(value, np.array([0.0, bound, bound, bound]))
  assert np.all(np.isfinite(gradient)) and gradient[1] == 0
  helpers.assert_close(estimate(jnp.log(P), 0.0), np.zeros(5))
  # n e^1000 times the mass of everything: the KL of an atom, -log e.
  helpers.assert_close(estimate(jnp.log(P), 1e3), -np.log(P))


def test_estimator_on_ten_outcomes():
  logits = np.array(LOGITS)
  log_p, r = jax.nn.log_softmax(logits), np.arange(10.0)
  law = pmf(log_p, r, np.log(16))
  estimated = law @ estimate(log_p, np.log(16))
  exact = kl_and_gap(log_p[None], r[None], np.log([16]), "uniform")[0][0]
  np.testing.assert_allclose(exact, 1.62791, atol=5e-6)
  np.testing.assert_allclose(estimated, 1.65248, atol=5e-6)
  assert exact < estimated < best_of_n.kl_upper_bound(16)


def test_estimator_gradient():
  x = jnp.array([-0.1, -0.7, -3.0, -20.0])
  helpers.assert_gradient(
    jax.jit(lambda x: best_of_n.kl_estimator(x, 16).sum()), x
  )


# --- win rates ---------------------------------------------------------------


def test_win_rate_equals_all_pairs():
  law = pmf(LOG_P, R, np.log(4))
  pairs = (R[:, None] > R) + (R[:, None] == R) / 2
  value = best_of_n.win_rate(jnp.log(law), LOG_P, R)
  helpers.assert_close(value, law @ pairs @ P)
  helpers.assert_close(best_of_n.win_rate(LOG_P, LOG_P, R), 0.5)


def test_win_rate_bound_and_its_continuous_case():
  rng = np.random.default_rng(3)
  log_p, r = random_bases(rng, 20_000)
  log_n = jnp.asarray(rng.uniform(0, 6, 20_000))

  @jax.jit
  @jax.vmap
  def win(log_p, r, log_n):
    log_pi = best_of_n.log_pmf(log_p, r, log_n=log_n)
    return best_of_n.win_rate(log_pi, log_p, r)

  bound = best_of_n.win_rate_upper_bound(log_n=log_n)
  assert np.all(win(log_p, r, log_n) <= bound + 1e-12)
  size = 1000
  fine = np.full(size, -np.log(size))
  (value,) = win(fine[None], np.arange(1.0 * size)[None], np.log([4.0]))
  # The midpoint rule on u 4u^3: the error is n (n-1) / (12 V^2) or less.
  np.testing.assert_allclose(value, 0.8, rtol=0, atol=1e-6)
  for n in (1, 2, 16):
    helpers.assert_close(best_of_n.win_rate_upper_bound(n), n / (n + 1))


def test_win_rate_gradient():
  r = jnp.asarray(R)
  helpers.assert_gradient(
    jax.jit(lambda x, y: best_of_n.win_rate(x, y, r)),
    jnp.array([0.1, -0.4, 0.0, 1.0, 0.3]),
    jnp.asarray(LOG_P),
  )


@pytest.mark.parametrize(
  ("n", "win", "digits", "optimal", "optimal_digits"),
  [
    (2, 0.66667, 5, 0.67591, 5),
    (4, 0.8, 5, 0.804, 5),
    (16, 0.941176, 6, 0.941287, 6),
  ],
)
def test_optimal_tilt_at_the_kl_of_best_of_n(
  n, win, digits, optimal, optimal_digits
):
  kl = best_of_n.kl_upper_bound(n)
  coef = best_of_n.win_rate_tilt_coef(kl)
  tilt = best_of_n.win_rate_tilt(coef)
  helpers.assert_close(tilt.kl, kl)
  value = best_of_n.win_rate_upper_bound(n)
  np.testing.assert_allclose(value, win, atol=0.5 * 10**-digits)
  np.testing.assert_allclose(
    tilt.win_rate, optimal, atol=0.5 * 10**-optimal_digits
  )
  assert tilt.win_rate > value
  if n == 16:
    assert abs(coef - 17) < 0.1


def test_rewind_and_repeat():
  kl = best_of_n.kl_upper_bound(4)
  rewound = best_of_n.rewind_and_repeat(jnp.exp(-kl))
  np.testing.assert_allclose(rewound.win_rate, 0.73537, atol=5.1e-6)
  assert isinstance(rewound, best_of_n.WinRateKL)
  helpers.assert_close(rewound.kl, kl)
  # A fine base restricted to its best quarter.
  size = 1000
  r = np.arange(1.0 * size)
  fine = np.full(size, -np.log(size))
  kept = jnp.where(r >= 0.75 * size, 0.0, -jnp.inf)
  exact = best_of_n.rewind_and_repeat(0.25)
  helpers.assert_close(best_of_n.win_rate(kept, fine, r), exact.win_rate)
  helpers.assert_close(categorical.kl(kept, fine), exact.kl)
  gradient = jax.jacobian(best_of_n.rewind_and_repeat)(jnp.array(0.25))
  helpers.assert_close(tuple(gradient), (-0.5, -4.0))
  with pytest.raises(ValueError, match="phi must be above 0"):
    best_of_n.rewind_and_repeat(0.0)


@pytest.mark.parametrize(
  "coef", [-3.0, 1e-3, 0.2, 0.59, 0.61, 5.0, 60.0, 900.0]
)
def test_tilt_equals_quadrature(coef):
  size = abs(coef)

  def log_density(v):  # of v = u, or of 1 - u for a negative coefficient
    return np.log(size) + size * (v - 1) - np.log(-np.expm1(-size))

  def moment(fn):
    return scipy.integrate.quad(
      lambda v: np.exp(log_density(v)) * fn(v),
      *(max(0, 1 - 50 / size), 1),
      epsabs=1e-14,
      epsrel=1e-13,
      limit=500,
    )[0]

  tilt = best_of_n.win_rate_tilt(coef)
  win = moment(lambda v: v if coef > 0 else 1 - v)
  # What is left out has mass e^-50.
  np.testing.assert_allclose(tilt.win_rate, win, rtol=1e-11)
  np.testing.assert_allclose(
    tilt.kl, moment(log_density), rtol=1e-9, atol=1e-13
  )


def test_tilt_near_the_base():
  # KL = c^2/24 - c^4/960: what is printed is lost if terms cancel.
  coef = jnp.array([0.0, 1e-8, -1e-5, 1e-2])
  with jax.debug_nans(True):
    tilt = best_of_n.win_rate_tilt(coef)
  helpers.assert_close(tilt.kl, coef**2 / 24 - coef**4 / 960, atol=0)
  helpers.assert_close(tilt.win_rate - 0.5, coef / 12 - coef**3 / 720)
  # The two forms meet at 0.6.
  low, high = best_of_n.win_rate_tilt(jnp.array([0.6 - 1e-9, 0.6 + 1e-9]))[1]
  np.testing.assert_allclose(high - low, 2e-9 * 0.6 / 12, rtol=0.05)


def test_tilt_is_stationary_on_the_frontier():
  # dKL/dc = c dwin/dc: win - KL/c is stationary, so nothing beats the tilt.
  coef = jnp.array([0.05, 0.7, 4.0, 40.0])
  ones = jnp.ones_like(coef)
  slope = jax.jvp(jax.jit(best_of_n.win_rate_tilt), (coef,), (ones,))[1]
  helpers.assert_close(slope.kl, coef * slope.win_rate)
  for i in range(2):
    helpers.assert_gradient(
      jax.jit(lambda c, i=i: best_of_n.win_rate_tilt(c)[i]), jnp.array(2.3)
    )


def test_tilt_coefficient():
  coef = jnp.array([1e-4, 0.3, 2.0, 17.0, 1e6])
  kl = best_of_n.win_rate_tilt(coef).kl
  helpers.assert_close(best_of_n.win_rate_tilt_coef(kl), coef, rtol=1e-9)
  edges = best_of_n.win_rate_tilt_coef(jnp.array([0.0, 30 - 1e-9, 30 + 1e-9]))
  assert edges[0] == 0
  # dc/dKL = c, and the two forms meet.
  np.testing.assert_allclose(edges[2] / edges[1] - 1, 2e-9, rtol=0.01)
  helpers.assert_gradient(
    jax.jit(lambda kl: best_of_n.win_rate_tilt_coef(kl)), jnp.array(0.7)
  )
  with pytest.raises(ValueError, match="kl must be at least 0"):
    best_of_n.win_rate_tilt_coef(-0.1)


# --- other divergences -------------------------------------------------------

PLAIN = tuple(k for k in best_of_n.CONTINUOUS_DIVERGENCES if k != "renyi")
ORDERS = (0.0, 0.5, 1.0, 1.0001, 2.0, 7.0)


@pytest.mark.parametrize("n", [2, 7.5, 40])
@pytest.mark.parametrize("kind", PLAIN)
def test_continuous_divergences_equal_quadrature(kind, n):
  div = generators.f_divergence(kind)
  # E_p f(dpi/dp) over ranks u = e^-t, in the density's logarithm.
  crossing = np.log(n) / (n - 1)

  def integrand(t):
    log_ratio = np.log(n) - (n - 1) * t
    return float(np.exp(-t) * _generator(kind, log_ratio))

  parts = [0, crossing, 1.0 + crossing, 8.0, 60.0]
  expected = sum(
    scipy.integrate.quad(integrand, a, b, epsabs=1e-13, limit=400)[0]
    for a, b in itertools.pairwise(parts)
  )
  value = best_of_n.f_divergence_continuous(n, kind)
  # What is left beyond t = 60 is below e^-60 times 60 n.
  np.testing.assert_allclose(value, expected, rtol=1e-9)
  u = jnp.array(1.7)
  # A generator is defined up to a multiple of u - 1.
  tangent = div.f_prime_one * (u - 1)
  helpers.assert_close(div.f(u) - tangent, _generator(kind, np.log(1.7)))


def _generator(kind, log_u):
  """Each generator written out once more, in NumPy."""
  u = np.exp(log_u)
  return {
    "kl": u * log_u - u + 1,
    "reverse_kl": u - 1 - log_u,
    "jeffreys": (u - 1) * log_u,
    "pearson_chi2": (u - 1) ** 2,
    "total_variation": abs(u - 1) / 2,
    "squared_hellinger": (np.sqrt(u) - 1) ** 2 / 2,
  }[kind]


@pytest.mark.parametrize("n", [1, 2, 16, 1000])
def test_continuous_divergences_in_closed_form(n):
  log_n = np.log(n)
  tv = n ** (-1 / (n - 1)) - n ** (-n / (n - 1)) if n > 1 else 0.0
  expected = {
    "kl": log_n - (n - 1) / n,
    "reverse_kl": (n - 1) - log_n,
    "jeffreys": (n - 1) ** 2 / n,
    "pearson_chi2": (n - 1) ** 2 / (2 * n - 1),
    "total_variation": tv,
    "squared_hellinger": (np.sqrt(n) - 1) ** 2 / (n + 1),
  }
  for kind in PLAIN:
    value = best_of_n.f_divergence_continuous(n, kind)
    helpers.assert_close(value, expected[kind])
  for a in (0.0, 0.5, 2.0, 7.0):
    value = best_of_n.f_divergence_continuous(n, "renyi", alpha=a)
    helpers.assert_close(
      value, np.log(n**a / (a * (n - 1) + 1)) / (a - 1), atol=1e-11
    )


def test_renyi_orders():
  renyi = functools.partial(best_of_n.f_divergence_continuous, kind="renyi")
  helpers.assert_close(renyi(16, alpha=1.0), best_of_n.kl_upper_bound(16))
  helpers.assert_close(
    renyi(16, alpha=1 + 1e-9), renyi(16, alpha=1.0), rtol=1e-8
  )
  helpers.assert_close(renyi(16, alpha=np.inf), np.log(16))
  helpers.assert_close(renyi(16, alpha=1e9), np.log(16), rtol=1e-7)
  # Order -0.05 exists for n = 16 (a (n-1) = -0.75), -0.1 does not.
  expected = np.log(16**-0.05 / (-0.05 * 15 + 1)) / -1.05
  helpers.assert_close(renyi(16, alpha=-0.05), expected)
  assert renyi(16, alpha=-0.1) == -np.inf
  assert renyi(16, alpha=-np.inf) == -np.inf
  assert renyi(1, alpha=-np.inf) == 0


def test_continuous_divergences_bound_the_discrete_ones():
  log_p, r = random_bases(np.random.default_rng(4), 3000)
  log_pi = jnp.log(pmf(log_p, r, np.log(5), "index"))

  @jax.jit
  def discrete():
    plain = [getattr(categorical, kind)(log_pi, log_p) for kind in PLAIN]
    renyi = [categorical.renyi(log_pi, log_p, alpha=a) for a in ORDERS]
    return plain + renyi

  bounds = [best_of_n.f_divergence_continuous(5, kind) for kind in PLAIN]
  bounds += [
    best_of_n.f_divergence_continuous(5, "renyi", alpha=a) for a in ORDERS
  ]
  for value, bound in zip(discrete(), bounds, strict=True):
    assert np.all(value <= bound * (1 + 1e-9) + 1e-12)
    assert np.any(value > bound / 2) or bound == 0


def test_continuous_divergences_at_huge_n():
  log_n = 1e3
  expected = {
    "kl": log_n - 1,
    "reverse_kl": np.inf,
    "jeffreys": np.inf,
    "pearson_chi2": np.inf,
    "total_variation": 1.0,
    "squared_hellinger": 1.0,
  }
  for kind in PLAIN:
    value = best_of_n.f_divergence_continuous(kind=kind, log_n=log_n)
    helpers.assert_close(value, expected[kind])
  value = best_of_n.f_divergence_continuous(
    kind="renyi", alpha=2.0, log_n=log_n
  )
  helpers.assert_close(value, log_n - np.log(2))
  # (n-1)^2 overflows where the divergence does not.
  single = best_of_n.f_divergence_continuous(
    kind="pearson_chi2", log_n=jnp.float32(60)
  )
  np.testing.assert_allclose(single, np.exp(60) / 2, rtol=1e-4)


def test_continuous_divergences_gradients():
  def total(n):
    plain = [best_of_n.f_divergence_continuous(n, kind) for kind in PLAIN]
    renyi = best_of_n.f_divergence_continuous(n, "renyi", alpha=0.3)
    bounds = [best_of_n.kl_upper_bound(n), best_of_n.win_rate_upper_bound(n)]
    terms = [*plain, renyi, *bounds]
    return sum((i + 1) * x for i, x in enumerate(terms))

  helpers.assert_gradient(jax.jit(total), jnp.array(3.7))


# --- sampling and arguments --------------------------------------------------


def test_sample_takes_trees_and_the_first_of_equals(key):
  def sampler(key):
    x = jax.random.normal(key, (3,), jnp.float32)
    return {"x": x, "flag": x[0] > 0}

  def reward(s):
    return s["x"].sum()

  draw = jax.jit(lambda key: best_of_n.sample(key, sampler, reward, 8))
  kept = draw(key)
  assert isinstance(kept, best_of_n.Selection)
  assert kept.sample["x"].shape == (3,)
  helpers.assert_close(kept.reward, reward(kept.sample))
  level = best_of_n.sample(key, sampler, lambda s: jnp.array(0.0), 8)
  assert level.index == 0
  keys = jax.random.split(key, 2)
  helpers.assert_transforms(lambda k: draw(k).reward, keys)
  # Common candidates: the maximum is above what any temperature keeps.
  warm = best_of_n.sample(key, sampler, reward, 8, temperature=5.0)
  assert warm.reward <= kept.reward


def test_sample_refuses():
  def draw(key):
    return jax.random.normal(key)

  with pytest.raises(ValueError, match="n must be at least 1, was 0"):
    best_of_n.sample(jax.random.key(0), draw, lambda x: x, 0)
  with pytest.raises(ValueError, match="temperature must be at least 0"):
    best_of_n.sample(jax.random.key(0), draw, lambda x: x, 2, temperature=-1.0)
  with pytest.raises(AssertionError, match="rewards"):
    best_of_n.sample(jax.random.key(0), draw, lambda x: x[None], 2)


def test_arguments_are_checked():
  for fn in (best_of_n.log_pmf, best_of_n.kl_exact, best_of_n.kl_gap):
    with pytest.raises(AssertionError, match="log_p .5,., rewards .4,."):
      fn(LOG_P, R[:4], 4)
    with pytest.raises(AssertionError, match="rewards int"):
      fn(LOG_P, R.astype(int), 4)
    with pytest.raises(ValueError, match="n must be at least 1"):
      fn(LOG_P, R, 0)
    with pytest.raises(ValueError, match="n must be at least 1"):
      fn(LOG_P, R, log_n=-0.1)
    with pytest.raises(ValueError, match="give one of n and log_n"):
      fn(LOG_P, R, 4, log_n=2.0)
    with pytest.raises(ValueError, match="give one of n and log_n"):
      fn(LOG_P, R)
    with pytest.raises(ValueError, match="unknown ties 'first'"):
      fn(LOG_P, R, 4, ties="first")
  with pytest.raises(AssertionError, match="log_policy .4,., log_p .5,."):
    best_of_n.win_rate(LOG_P[:4], LOG_P, R)
  with pytest.raises(ValueError, match="unknown kind 'chi3'"):
    best_of_n.f_divergence_continuous(4, "chi3")
  with pytest.raises(ValueError, match="alpha belongs to renyi"):
    best_of_n.f_divergence_continuous(4, "kl", alpha=2.0)
  with pytest.raises(ValueError, match="alpha belongs to renyi"):
    best_of_n.f_divergence_continuous(4, "renyi")


def test_host_side_check():
  best_of_n.check_base(P, R)
  best_of_n.check_base(P, np.where(R == 0, -np.inf, R))
  with pytest.raises(checks.InputError, match=r"probs \(5,\), rewards \(4,\)"):
    best_of_n.check_base(P, R[:4])
  with pytest.raises(checks.InputError, match="probs must sum to 1"):
    best_of_n.check_base(P / 2, R)
  with pytest.raises(checks.InputError, match="probs must be non-negative"):
    best_of_n.check_base(P - 0.15, R)
  with pytest.raises(checks.InputError, match="1 of 5 are NaN"):
    best_of_n.check_base(P, np.where(R == 0, np.nan, R))

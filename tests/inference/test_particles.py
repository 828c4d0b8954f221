# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxalign.exact import sequences
from jaxalign.inference import particles
from tests import helpers

# Sampling tests use a fixed key; a correct sampler fails a chi-squared test for
# one key in a thousand, and four standard errors for one in sixteen thousand.
P_VALUE = 1e-3
V, T, N, RUNS = 3, 5, 3, 8192
SCHEMES = [
  ("multinomial", 1.0),
  ("systematic", 1.0),
  ("multinomial", 0.7),
  ("multinomial", 0.0),
]


def world(key, vocab_size, length):
  """A base table and log-potentials of every prefix, both `[rows, V]`."""
  base, potential = (
    sequences.random_table(k, vocab_size, length) for k in jax.random.split(key)
  )
  return 0.7 * base, 0.7 * potential


def functions(logits, log_g):
  """The two functions of one particle."""

  def step_fn(key, tokens, t):
    row = sequences.prefix_index(tokens, logits.shape[-1])[t]
    return jax.random.categorical(key, logits[row])

  def log_potential(tokens, t):
    return log_g[sequences.prefix_index(tokens, logits.shape[-1])[t], tokens[t]]

  return step_fn, log_potential


def log_potentials(log_g, tokens):
  """The sum of the log-potentials of all prefixes of each sequence."""
  rows = sequences.prefix_index(tokens, log_g.shape[-1])
  return jnp.sum(log_g[rows, tokens], -1)


def target(logits, log_g, length):
  """Probabilities of all sequences, and Z, by enumeration."""
  tokens = sequences.enumerate_sequences(logits.shape[-1], length)
  log_p = sequences.sequence_log_probs(logits, tokens)
  mass = np.exp(log_p + log_potentials(log_g, tokens))
  return mass / mass.sum(), mass.sum()


def number(tokens, vocab_size):
  """The position of sequences among all of them."""
  tokens = np.array(tokens)
  return tokens @ vocab_size ** np.arange(tokens.shape[-1])[::-1]


@functools.partial(
  jax.jit, static_argnames=("n", "length", "resample", "ess_threshold")
)
def many_filters(
  keys,
  logits,
  log_g,
  *,
  n=N,
  length=T,
  resample="multinomial",
  ess_threshold=1.0,
):
  def one(key):
    return particles.particle_filter(
      key,
      *functions(logits, log_g),
      n,
      length,
      resample=resample,
      ess_threshold=ess_threshold,
    )

  return jax.vmap(one)(keys)


# --- the filter --------------------------------------------------------------


@pytest.fixture
def keys(key):
  return jax.random.split(jax.random.fold_in(key, 1), RUNS)


@pytest.mark.parametrize(("resample", "threshold"), SCHEMES)
def test_z_and_every_unnormalised_mean_are_unbiased(
  key, keys, resample, threshold
):
  logits, log_g = world(key, V, T)
  probs, z = target(logits, log_g, T)
  result = many_filters(
    keys, logits, log_g, resample=resample, ess_threshold=threshold
  )
  z_hat = np.exp(result.log_z)
  error = np.std(z_hat) / RUNS**0.5
  assert error < 0.02 * z
  assert abs(np.mean(z_hat) - z) < 4 * error
  # Z_hat times the weighted mean of f is unbiased for every f: here for the
  # first two tokens, nine indicators at once (5 standard errors for the worst).
  helpers.assert_close(np.exp(result.log_weights).sum(-1), np.ones(RUNS))
  cell = number(result.particles[..., :2], V)
  indicators = cell[..., None] == np.arange(9)
  weights = np.exp(result.log_weights)[..., None]
  mass = z_hat[:, None] * np.sum(weights * indicators, 1)
  exact = z * probs.reshape(9, -1).sum(-1)
  assert np.all(np.abs(mass.mean(0) - exact) < 5 * mass.std(0) / RUNS**0.5)


def check_law_of_first_tokens(paths, logits):
  base, _ = target(logits, jnp.zeros_like(logits), T)
  counts = np.bincount(number(paths[:, :3], V), minlength=27)
  expected = RUNS * base.reshape(27, -1).sum(-1)
  assert scipy.stats.chisquare(counts, expected).pvalue > P_VALUE


def test_without_potentials_the_base_is_sampled(key, keys):
  logits, log_g = world(key, V, T)
  result = many_filters(keys, logits, jnp.zeros_like(log_g))
  helpers.assert_close(result.log_z, np.zeros(RUNS), atol=1e-14)
  equal = np.full((RUNS, N), -np.log(N))
  helpers.assert_close(result.log_weights, equal, atol=1e-14)
  # One particle of each filter: those of one filter share ancestors.
  check_law_of_first_tokens(result.particles[:, 1], logits)


def test_one_particle_is_importance_sampling(key, keys):
  logits, log_g = world(key, V, T)
  result = many_filters(keys, logits, log_g, n=1)
  assert isinstance(result, particles.SMCResult)
  paths = result.particles[:, 0]
  helpers.assert_close(result.log_z, log_potentials(log_g, paths))
  assert np.all(result.log_weights == 0)
  check_law_of_first_tokens(paths, logits)


def test_weights_are_carried_where_there_is_no_resampling(key, keys):
  logits, log_g = world(key, V, T)
  result = many_filters(keys, logits, log_g, ess_threshold=0.0)
  log_weights = log_potentials(log_g, result.particles)
  helpers.assert_close(
    result.log_z, scipy.special.logsumexp(log_weights, -1) - np.log(N)
  )
  helpers.assert_close(result.log_weights, jax.nn.log_softmax(log_weights))


def test_resampling_waits_for_the_effective_sample_size(key, keys):
  # Only the first token weighs: at the end the weights are equal where
  # resampling has taken place, and those of the first step elsewhere.
  logits, log_g = world(key, V, T)
  log_g = (3 * log_g).at[1:].set(0)
  carried = many_filters(keys, logits, log_g, ess_threshold=0.0)
  weights = np.exp(log_g[0])[carried.particles[..., 0]]
  ess = weights.sum(-1) ** 2 / (weights**2).sum(-1)
  helpers.assert_close(
    particles.effective_sample_size(carried.log_weights), ess
  )
  halfway = many_filters(keys, logits, log_g, ess_threshold=0.7)
  due = ess < 0.7 * N
  assert 0.2 < due.mean() < 0.8
  # Weights may be equal by chance, but are never unequal after resampling.
  assert np.all(np.ptp(halfway.log_weights, -1)[due] < 1e-12)
  helpers.assert_close(halfway.log_weights[~due], carried.log_weights[~due])
  helpers.assert_close(halfway.particles[~due], carried.particles[~due])
  # The estimate is the mean weight of the first step either way.
  helpers.assert_close(halfway.log_z, carried.log_z)


def test_self_normalised_means_have_a_bias_of_order_one_over_n(key, keys):
  logits, log_g = world(key, V, T)
  log_g = 2 * log_g
  probs, _ = target(logits, log_g, T)
  base, _ = target(logits, jnp.zeros_like(log_g), T)
  exact = probs[: 3 ** (T - 1)].sum()
  bias, error = {}, {}
  for n in (N, 4 * N):
    result = many_filters(keys, logits, log_g, n=n)
    first = result.particles[..., 0] == 0
    means = np.sum(np.exp(result.log_weights) * first, -1)
    bias[n] = means.mean() - exact
    error[n] = means.std() / RUNS**0.5
  assert abs(base[: 3 ** (T - 1)].sum() - exact) > abs(bias[N])
  assert abs(bias[N]) > 6 * error[N]
  # n bias is a constant up to order 1/n: four times as many particles leave
  # about a quarter of the bias, here between an eighth and a half, to noise.
  share = bias[4 * N] / bias[N]
  noise = 4 * error[4 * N] / abs(bias[N])
  assert 1 / 8 - noise < share < 1 / 2 + noise


def test_dead_particles(key, keys):
  logits, log_g = world(key, V, T)
  # Token 2 is forbidden at the second step; everything is, from the third on
  # or from the start.
  forbidden = log_g.at[1:4, 2].set(-jnp.inf)
  with jax.debug_nans(True):
    result = many_filters(keys, logits, forbidden)
    live = np.array(result.log_weights) > -np.inf
    assert np.all(result.particles[..., 1][live] != 2)
    assert 0.5 < live.mean() < 1
    for threshold in (0.7, 1.0):
      for start in (4, 0):
        result = many_filters(
          keys,
          logits,
          forbidden.at[start:].set(-jnp.inf),
          ess_threshold=threshold,
        )
        assert np.all(result.log_z == -np.inf)
        assert np.all(result.log_weights == -np.inf)


def test_gradient_with_respect_to_potentials(key):
  # At fixed draws, hence at fixed ancestors, log Z_hat is smooth.
  logits, log_g = world(key, 2, 3)

  @jax.jit
  def summary(log_g):
    result = particles.particle_filter(
      key, *functions(logits, log_g), 4, 3, ess_threshold=0.9
    )
    return result.log_z + jnp.exp(result.log_weights[0])

  helpers.assert_gradient(summary, log_g)


def test_float32_is_kept_and_all_transforms_agree(key):
  logits, log_g = jax.vmap(lambda k: jnp.stack(world(k, 2, 3)))(
    jax.random.split(key)
  ).swapaxes(0, 1)
  keys = jax.random.split(jax.random.fold_in(key, 1))
  path = jnp.zeros(3, jnp.int32)

  def run(key, logits, log_g):
    pair = functions(logits, log_g)
    weights = log_g[..., 0]
    return (
      particles.particle_filter(
        key, *pair, 4, 3, resample="systematic", ess_threshold=0.9
      ),
      particles.particle_gibbs_step(key, path, *pair, 3),
      particles.effective_sample_size(weights),
      particles.resample_indices(key, weights),
    )

  helpers.assert_transforms(run, keys, logits, log_g)


# --- weights -----------------------------------------------------------------


def test_effective_sample_size(key):
  log_weights = 3 * jax.random.normal(key, (5, 7))
  weights = np.exp(log_weights)
  value = particles.effective_sample_size(log_weights)
  helpers.assert_close(value, weights.sum(-1) ** 2 / (weights**2).sum(-1))
  helpers.assert_close(
    particles.effective_sample_size(log_weights[:, ::-1] + 100), value
  )
  helpers.assert_gradient(
    jax.jit(particles.effective_sample_size), log_weights[0]
  )
  dead = jnp.array([[-jnp.inf, 0.0, 0.0], [-jnp.inf] * 3])
  with jax.debug_nans(True):
    helpers.assert_close(
      particles.effective_sample_size(dead), np.array([2.0, 0.0])
    )
    slope = jax.grad(lambda x: jnp.sum(particles.effective_sample_size(x)))(
      dead
    )
    assert np.all(slope[:, 0] == 0) and np.all(slope[1] == 0)


def test_children_are_proportional_to_weights(key):
  weights = np.array([0.31, 0.0, 0.27, 0.02, 0.4, 0.0])
  log_weights = jnp.log(weights) + 5
  keys = jax.random.split(key, 20_000)
  for scheme in particles.RESAMPLING:
    draw = functools.partial(particles.resample_indices, resample=scheme)
    indices = jax.jit(jax.vmap(draw, (0, None)))(keys, log_weights)
    assert indices.dtype == jnp.int32
    children = (indices[..., None] == np.arange(6)).sum(1)
    assert np.all(children[:, weights == 0] == 0)
    if scheme == "systematic":
      assert np.all(children >= np.floor(6 * weights))
      assert np.all(children <= np.ceil(6 * weights))
      variance = 6 * weights % 1 * (1 - 6 * weights % 1)
    else:
      variance = 6 * weights * (1 - weights)
    error = np.sqrt(variance / 20_000)
    # To rounding, where the number of children does not vary.
    assert np.all(np.abs(children.mean(0) - 6 * weights) < 4 * error + 1e-12)
    np.testing.assert_allclose(
      children.var(0), variance, atol=6 * np.sqrt(variance.max() / 20_000)
    )


def test_systematic_resampling_survives_rounding(key):
  # In float32 the last of 1000 points rounds to 1 where the offset is close to
  # it, and the last particle has no weight.
  log_weights = jnp.zeros(1000, jnp.float32).at[-1].set(-jnp.inf)
  keys = jax.random.split(key, 2**17)
  offsets = jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float32))(keys)
  closest = keys[jnp.argmax(offsets)]
  assert (jnp.float32(999) + offsets.max()) / jnp.float32(1000) == 1
  for k in (closest, keys[0]):
    indices = particles.resample_indices(k, log_weights, resample="systematic")
    assert indices.max() == 998 and indices.min() == 0


# --- particle Gibbs ----------------------------------------------------------

CHAINS = 2500


@functools.partial(jax.jit, static_argnames=("n",))
def sweeps(key, paths, logits, log_g, count, *, n):
  def sweep(key, path):
    return particles.particle_gibbs_step(
      key, path, *functions(logits, log_g), n
    )

  def body(t, paths):
    keys = jax.random.split(jax.random.fold_in(key, t), len(paths))
    return jax.vmap(sweep)(keys, paths)

  return jax.lax.fori_loop(0, count, body, paths)


@pytest.mark.parametrize("n", [2, 4])
def test_one_sweep_keeps_the_target(key, n):
  logits, log_g = world(key, 2, 4)
  probs, _ = target(logits, log_g, 4)
  tokens = sequences.enumerate_sequences(2, 4)
  counts, moved = np.zeros(16), 0
  for k in jax.random.split(jax.random.fold_in(key, n), 8):
    start, move = jax.random.split(k)
    chosen = jax.random.categorical(start, jnp.log(probs), shape=(CHAINS,))
    paths = number(sweeps(move, tokens[chosen], logits, log_g, 1, n=n), 2)
    counts += np.bincount(paths, minlength=16)
    moved += np.sum(paths != chosen)
  expected = 8 * CHAINS * probs
  assert scipy.stats.chisquare(counts, expected).pvalue > P_VALUE
  assert moved > 0.2 * 8 * CHAINS


# Two particles let go of the first token once in some 40 sweeps.
@pytest.mark.parametrize(("n", "count"), [(2, 400), (4, 50)])
def test_sweeps_reach_the_target_from_anywhere(key, n, count):
  logits, log_g = world(key, 2, 4)
  probs, _ = target(logits, log_g, 4)
  worst = sequences.enumerate_sequences(2, 4)[np.argmin(probs)]
  paths = jnp.broadcast_to(worst, (CHAINS, 4))
  key = jax.random.fold_in(key, n)
  paths = sweeps(key, paths, logits, log_g, count, n=n)
  counts = np.bincount(number(paths, 2), minlength=16)
  assert scipy.stats.chisquare(counts, CHAINS * probs).pvalue > P_VALUE
  # The chains are independent, so their law is as far from the target as that
  # of as many exact draws: this far on average, with a spread of a quarter.
  distance = np.abs(counts / CHAINS - probs).sum() / 2
  average = np.sqrt(2 * probs * (1 - probs) / (np.pi * CHAINS)).sum() / 2
  assert 0.25 * average < distance < 1.75 * average


def test_many_particles_forget_the_retained_path(key):
  logits, log_g = world(key, 2, 4)
  probs, _ = target(logits, log_g, 4)
  worst = sequences.enumerate_sequences(2, 4)[np.argmin(probs)]
  paths = jnp.broadcast_to(worst, (500, 4))
  paths = sweeps(key, paths, logits, log_g, 1, n=300)
  counts = np.bincount(number(paths, 2), minlength=16)
  # One path of 300 moves the law by less than 500 draws can show.
  assert scipy.stats.chisquare(counts, 500 * probs).pvalue > P_VALUE


def test_retained_path_survives_where_nothing_else_can(key):
  logits, _ = world(key, 2, 4)
  path = jnp.array([1, 0, 1, 1], jnp.int32)
  rows = sequences.prefix_index(path, 2)
  only = jnp.full_like(logits, -jnp.inf).at[rows, path].set(0.0)
  with jax.debug_nans(True):
    paths = jnp.broadcast_to(path, (CHAINS, 4))
    paths = sweeps(key, paths, logits, only, 3, n=2)
  assert np.all(paths == path)


# --- more samples, or more steps ---------------------------------------------


@pytest.mark.parametrize(("horizon", "n"), [(8, 3), (32, 3), (8, 5)])
def test_a_verifier_gains_in_proportion_to_the_horizon(horizon, n):
  # The first correct step of a trace is uniform on 1..H and returns H - t + 1.
  logits = jnp.zeros((1, horizon))
  returns = horizon - jnp.arange(horizon, dtype=float)
  cloned = sequences.expectation(logits, returns)
  helpers.assert_close(cloned, (horizon + 1) / 2)
  # Best of n, over all groups of n traces: H n / (n + 1), up to the sum's
  # distance from its integral, 1/2 - n / (12 H) + O(n^3 / H^3).
  groups = sequences.enumerate_sequences(horizon, n)
  best = np.mean(np.max(np.array(returns)[groups], -1))
  integral = horizon * n / (n + 1)
  assert abs(best - integral - 1 / 2 + n / (12 * horizon)) < (n / horizon) ** 3
  gap = horizon * (n - 1) / (2 * (n + 1))
  assert abs(best - cloned - gap) < n / (12 * horizon) + 1e-12


def test_the_best_particle_of_one_step_is_best_of_n(key):
  horizon, n, runs = 16, 3, 5000
  returns = horizon - jnp.arange(horizon, dtype=float)
  step_fn, _ = functions(jnp.zeros((1, horizon)), None)

  def one(key):
    result = particles.particle_filter(
      key, step_fn, lambda tokens, t: jnp.log(returns[tokens[t]]), n, 1
    )
    return returns[result.particles[jnp.argmax(result.log_weights), 0]]

  sampled = jax.jit(jax.vmap(one))(jax.random.split(key, runs))
  steps = np.arange(horizon) / horizon
  best = np.sum(1 - steps**n)
  assert abs(best - horizon * n / (n + 1)) < 0.5
  assert abs(sampled.mean() - best) < 4 * sampled.std() / runs**0.5


def test_wrong_arguments_are_refused(key):
  step_fn, log_potential = functions(*world(key, 2, 2))
  run = functools.partial(
    particles.particle_filter, key, step_fn, log_potential
  )
  with pytest.raises(ValueError, match="n must be at least 1, was 0"):
    run(0, 2)
  with pytest.raises(ValueError, match="length must be at least 1, was 0"):
    run(2, 0)
  with pytest.raises(ValueError, match=r"ess_threshold must be in \[0, 1\]"):
    run(2, 2, ess_threshold=1.5)
  with pytest.raises(ValueError, match="unknown resample 'residual'"):
    run(2, 2, resample="residual")
  with pytest.raises(ValueError, match="unknown resample 'residual'"):
    particles.resample_indices(key, jnp.zeros(2), resample="residual")
  with pytest.raises(AssertionError, match="need rank 1: log_weights"):
    particles.resample_indices(key, jnp.zeros((2, 2)))
  with pytest.raises(AssertionError, match="need floats: log_weights"):
    particles.effective_sample_size(jnp.zeros(2, int))
  sweep = functools.partial(
    particles.particle_gibbs_step,
    key,
    step_fn=step_fn,
    log_potential=log_potential,
  )
  with pytest.raises(ValueError, match="n must be at least 2, was 1"):
    sweep(jnp.zeros(2, int), n=1)
  with pytest.raises(AssertionError, match="need rank 1: retained"):
    sweep(jnp.zeros((2, 2), int), n=2)
  with pytest.raises(AssertionError):
    sweep(jnp.zeros(2), n=2)

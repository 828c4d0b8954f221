# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import clusterable, online_calibration
from tests import helpers

T, M = 60, 5


def test_groups_are_posteriors_and_their_largest():
  logdens = np.random.default_rng(0).normal(size=(2, 7, 3)) * 3
  logdens[0, 0, 1] = -np.inf
  found = clusterable.likelihood_groups(jnp.asarray(logdens))
  np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-14)
  expected = np.exp(logdens) / np.exp(logdens).sum(-1, keepdims=True)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  member = clusterable.discriminant_groups(jnp.asarray(logdens))
  np.testing.assert_array_equal(member.sum(-1), 1)
  np.testing.assert_array_equal(member.argmax(-1), logdens.argmax(-1))
  logdens[0, 0, 1] = -5
  helpers.assert_transforms(clusterable.likelihood_groups, logdens)
  weights = np.arange(21.0).reshape(7, 3)

  def total(logdens):
    return jnp.sum(weights * clusterable.likelihood_groups(logdens))

  helpers.assert_gradient(total, jnp.asarray(logdens[0]))


def mixture(gap):
  return clusterable.GaussianMixture(
    jnp.log(jnp.array([0.3, 0.7])),
    jnp.array([[0.0, 0.0], [gap, 0.0]]),
    jnp.array([[1.0, 1.0], [0.5, 2.0]]),
  )


def test_without_overlap_both_kinds_of_groups_are_one():
  rng = np.random.default_rng(1)
  which = rng.random(T) < 0.5
  differences = []
  for gap in (1.0, 4.0, 40.0):
    x = rng.normal(size=(T, 2)) + which[:, None] * np.array([gap, 0.0])
    logdens = clusterable.mixture_log_densities(mixture(gap), jnp.asarray(x))
    member, likely = (
      clusterable.discriminant_groups(logdens),
      clusterable.likelihood_groups(logdens),
    )
    p = rng.integers(0, M + 1, T) / M
    y = rng.integers(0, 2, T).astype(float)
    errors = [clusterable.cell_sums(p, y, g, M) for g in (member, likely)]
    differences.append(np.abs(errors[0] - errors[1]).max())
  assert differences[0] > 0.1 and differences[2] < 1e-12


def test_log_densities_are_gaussian():
  x = np.random.default_rng(2).normal(size=(2, 4, 2))
  found = clusterable.mixture_log_densities(mixture(1.0), jnp.asarray(x))
  weights, means, variances = map(np.asarray, mixture(1.0))
  for k in range(2):
    density = np.exp(-((x - means[k]) ** 2) / (2 * variances[k]))
    density /= np.sqrt(2 * math.pi * variances[k])
    expected = weights[k] + np.log(density.prod(-1))
    np.testing.assert_allclose(found[..., k], expected, rtol=1e-12)


def test_cell_sums_are_sums_over_cells():
  rng = np.random.default_rng(3)
  p, y = rng.integers(0, M + 1, (2, T)) / M, rng.integers(0, 2, (2, T)) * 1.0
  groups = rng.random((2, T, 2))
  found = clusterable.cell_sums(p[0], y[0], groups[0], M)
  for k in range(2):
    for v in range(M + 1):
      cell = p[0] == v / M
      expected = np.sum(groups[0, cell, k] * (p[0] - y[0])[cell])
      np.testing.assert_allclose(found[k, v], expected, atol=1e-13)

  def sums(p, y, groups):
    return clusterable.cell_sums(p, y, groups, M)

  helpers.assert_transforms(sums, p, y, groups)


def test_cell_sums_are_what_the_online_run_keeps():
  rng = np.random.default_rng(4)
  groups, y = rng.random((T, 2)), rng.integers(0, 2, T) * 1.0
  found = online_calibration.online_calibrate(
    jax.random.key(0), jnp.asarray(groups), jnp.asarray(y), M, 0.3,
    tests="cells",
  )  # fmt: skip
  sums = clusterable.cell_sums(found.predictions, y, groups, M)
  np.testing.assert_allclose(found.sums, sums, atol=1e-12)


def test_fitting_raises_the_likelihood_and_finds_clusters():
  rng = np.random.default_rng(5)
  which = rng.random(400) < 0.3
  x = rng.normal(size=(400, 2)) * np.where(which, 1, 0.5)[:, None]
  x[:, 0] += np.where(which, 3.0, -1.0)
  fits = [
    clusterable.fit_gaussian_mixture(jnp.asarray(x), 2, num_steps=n)
    for n in (0, 1, 2, 60, 61)
  ]
  total = [
    jnp.sum(jax.nn.logsumexp(clusterable.mixture_log_densities(fit, x), -1))
    for fit in fits
  ]
  assert np.all(np.diff(total) > -1e-9)
  helpers.assert_close(fits[-1], fits[-2], rtol=1e-8, atol=1e-8)
  # Five standard errors of 120 and 280 samples; overlap adds little.
  order = np.argsort(fits[-1].means[:, 0])
  means = np.asarray(fits[-1].means)[order]
  np.testing.assert_allclose(means[0], [-1, 0], atol=5 * 0.5 / 280**0.5)
  np.testing.assert_allclose(means[1], [3, 0], atol=5 / 120**0.5)
  weights = np.exp(fits[-1].log_weights[order])
  np.testing.assert_allclose(weights[1], which.mean(), atol=0.02)


def data(seed):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(T, 1)) + 3 * rng.choice([-1, 1], (T, 1))
  y = (rng.random(T) < np.where(x[:, 0] > 0, 0.8, 0.3)).astype(float)
  return jnp.asarray(x), jnp.asarray(y)


def test_each_cluster_has_a_calibrator_of_its_own():
  x, y = data(6)
  key, warmup, eta = jax.random.key(7), 20, 0.4
  found = clusterable.cluster_then_predict(
    key, x, y, M, eta, num_clusters=2, num_warmup=warmup
  )
  late = np.arange(T) >= warmup
  right = np.asarray(x[:, 0] > 0)
  for k, member in enumerate((~late, late & ~right, late & right)):
    alone = online_calibration.online_calibrate(
      key, jnp.asarray(member[:, None] * 1.0), y, M, eta, tests="cells"
    )
    np.testing.assert_array_equal(
      found.predictions[member], alone.predictions[member]
    )
    np.testing.assert_allclose(found.sums[k], alone.sums[0], atol=1e-12)


def test_one_cluster_without_warmup_is_plain_calibration():
  x, y = data(8)
  key, eta = jax.random.key(9), 0.4
  found = clusterable.cluster_then_predict(
    key, x, y, M, eta, num_clusters=1, num_warmup=T
  )
  plain = online_calibration.online_calibrate(
    key, jnp.ones((T, 1)), y, M, eta, tests="cells"
  )
  np.testing.assert_array_equal(found.predictions, plain.predictions)


def test_bad_input():
  x, y = data(10)
  run = clusterable.cluster_then_predict
  with pytest.raises(ValueError, match="num_warmup must be from 2 to 60"):
    run(jax.random.key(0), x, y, M, 0.1, num_clusters=2, num_warmup=1)
  with pytest.raises(ValueError, match="as many rounds"):
    run(jax.random.key(0), x, y[1:], M, 0.1, num_clusters=2, num_warmup=9)
  with pytest.raises(ValueError, match="num_clusters must be from 1"):
    clusterable.fit_gaussian_mixture(x, 0)
  with pytest.raises(AssertionError, match="need rank 2"):
    clusterable.fit_gaussian_mixture(x[:, 0], 2)
  with pytest.raises(ValueError, match="a row for each of 60 rounds"):
    clusterable.cell_sums(y, y, x[1:], M)
  with pytest.raises(AssertionError):
    clusterable.likelihood_groups(jnp.ones(2, int))
  with pytest.raises(AssertionError):
    clusterable.discriminant_groups(jnp.ones(2, int))

# SPDX-License-Identifier: Apache-2.0
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import linear_f2 as library
from tests import helpers

N, D = 5, 4
POINTS = np.array(list(itertools.product((0, 1), repeat=D)))


def systems(seed, size):
  """Random samples; some systems have no solution, some have many."""
  rng = np.random.default_rng(seed)
  features = rng.integers(2, size=(size, N, D))
  features[: size // 4, :, 1] = 0
  where = rng.random((size, N)) < 0.7
  return features, rng.integers(2, size=(size, N)), where


@functools.cache
def solve():
  return jax.jit(jax.vmap(library.f2_solve))


def test_solutions_are_those_of_brute_force(key):
  size = 200
  features, labels, where = systems(0, size)
  found = solve()(jax.random.split(key, size), features, labels, where)
  seen = set()
  for i in range(size):
    x, y = features[i][where[i]], labels[i][where[i]]
    fits = ((POINTS @ x.T - y) % 2 == 0).all(1)
    assert found.consistent[i] == fits.any()
    seen.add(int(fits.sum()))
    # 2^(D - rank) linear functions agree on no sample less than on none.
    null = ((POINTS @ x.T) % 2 == 0).all(1).sum()
    assert 2 ** (D - int(found.rank[i])) == null
    if fits.any():
      solution = np.asarray(found.solution[i]).astype(int)
      assert ((x @ solution - y) % 2 == 0).all()
      rows = np.asarray(found.features[i]).astype(int)
      same = (POINTS @ rows.T - np.asarray(found.labels[i])) % 2 == 0
      np.testing.assert_array_equal(same.all(1), fits)
  assert {0, 1, 2, 4} <= seen


def test_every_solution_is_equally_likely(key):
  size = 4000
  features = jnp.array([[1, 1, 0, 0], [0, 1, 1, 0], *[[0] * 4] * 3])
  labels = jnp.array([1, 0, 0, 0, 0])
  each = jax.vmap(library.f2_solve, (0, None, None))
  found = each(jax.random.split(key, size), features, labels).solution
  _, counts = np.unique(np.asarray(found), axis=0, return_counts=True)
  assert len(counts) == 4
  # Five standard errors of a binomial.
  assert np.all(np.abs(counts - size / 4) < 5 * (size * 3 / 16) ** 0.5)


def test_what_was_learned_can_be_pooled(key):
  """In two parts, of what is solved in one go."""
  size = 8
  features, _, _ = systems(1, size)
  labels = features[:, :, 0] ^ features[:, :, 3]  # a system with a solution
  keys = jax.random.split(key, size)
  each = functools.partial(solve(), keys)
  whole = each(features, labels, np.ones((size, N), bool))
  first = each(features, labels, np.arange(N) < np.full((size, 1), 3))
  rest = jax.vmap(library.f2_solve)(
    keys,
    np.concatenate([first.features, features[:, 3:] == 1], 1),
    np.concatenate([first.labels, labels[:, 3:] == 1], 1),
  )
  np.testing.assert_array_equal(rest.rank, whole.rank)
  np.testing.assert_array_equal(rest.features, whole.features)
  assert np.all(rest.consistent) and np.any(first.rank < whole.rank)


def test_solving_transforms(key):
  features, labels, where = systems(2, 2)
  keys = jax.random.split(key, 2)
  helpers.assert_transforms(library.f2_solve, keys, features, labels, where)


def test_hard_instances_have_disjoint_coordinates_in_random_order(key):
  dims = (3, 1, 1, 1)
  make = jax.vmap(functools.partial(library.f2_hard_instance, dims=dims))
  made = make(jax.random.split(key, 40))
  assert np.all(made.members.sum(1) == 1)  # each coordinate has one owner
  sizes = np.asarray(made.members.sum(2))
  np.testing.assert_array_equal(np.sort(sizes), [[1, 1, 1, 3]] * 40)
  assert set(sizes.argmax(1)) == {0, 1, 2, 3}
  assert 0 < made.target.mean() < 1


def test_samples_are_uniform_on_their_subspace(key):
  instance = library.f2_hard_instance(key, (2, 1))
  sources = jnp.repeat(jnp.arange(2), 2000)
  x, y = library.f2_samples(jax.random.key(1), instance, sources)
  members = np.asarray(instance.members)
  assert not np.any(x & ~members[np.asarray(sources)])
  np.testing.assert_array_equal(y, (x @ np.asarray(instance.target)) % 2)
  share = np.asarray(x[:2000]).mean(0)[members[0]]
  assert np.all(np.abs(share - 0.5) < 5 * 0.5 / 2000**0.5)


def test_errors_are_those_of_enumeration(key):
  instance = library.F2Instance(
    target=jnp.array([1, 0, 1, 1]) == 1,
    members=jnp.array([[1, 1, 1, 0], [0, 0, 0, 1]]) == 1,
  )
  rng = np.random.default_rng(3)
  vote = jax.jit(library.f2_majority_errors)
  for _ in range(20):
    hypotheses = rng.integers(2, size=(3, D))
    single = library.f2_errors(instance, jnp.asarray(hypotheses))
    majority = vote(instance, jnp.asarray(hypotheses))
    for j, own in enumerate(np.asarray(instance.members)):
      x = POINTS * own
      label = x @ np.asarray(instance.target) % 2
      values = x @ hypotheses.T % 2
      np.testing.assert_array_equal(
        single[:, j], np.mean(values != label[:, None], 0)
      )
      expected = np.mean((values.mean(1) >= 0.5) != label)
      np.testing.assert_allclose(majority[j], expected, atol=1e-15)


def test_bad_input(key):
  bits = jnp.zeros((N, D), bool)
  with pytest.raises(AssertionError, match=r"labels \(3,\)"):
    library.f2_solve(key, bits, bits[:3, 0])
  with pytest.raises(AssertionError):
    library.f2_solve(key, bits * 1.0, bits[:, 0])
  with pytest.raises(ValueError, match=r">= 1, was \(2, 0\)"):
    library.f2_hard_instance(key, (2, 0))
  with pytest.raises(ValueError, match="dims must be one or more"):
    library.f2_hard_instance(key, ())
  instance = library.f2_hard_instance(key, (2, 1))
  with pytest.raises(AssertionError):
    library.f2_errors(instance, jnp.zeros(4, bool))
  with pytest.raises(AssertionError):
    library.f2_samples(key, instance, jnp.zeros(2))

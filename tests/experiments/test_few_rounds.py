# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import numpy as np
import pytest

from experiments import few_rounds as experiment
from experiments.stages.few_rounds import agnostic, boosting, hedge, parities
from jaxalign.learning import (
  finite_class,
  multi_distribution,
  on_demand_sampling,
)
from tests.experiments import conventions

NUM = 20  # trials of the smoke preset, for which programs are compiled


def failed(part, *args, **options):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(*args, **options).claims)
  jax.clear_caches()
  return names


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_printed_parameters_and_rounds():
  tables = conventions.smoke(experiment).tables
  rows = tables["boosting: parameters for eps = .1"]
  for row, potential in zip(rows, (".51", ".49", ".41"), strict=False):
    conventions.assert_printed(row["potential"], potential)
  conventions.assert_printed(rows[1]["theta"], ".4809")
  conventions.assert_printed(1e4 * rows[1]["p"], "6.30")
  rows = tables["LazyHedge on hard functions"]
  # Fewer steps than behind the print (4000 for 20000), the same rounds.
  assert [row["box rounds"] for row in rows] == [5, 10]
  assert [row["ellipsoid rounds"] for row in rows] == [2, 3]


def test_samples_are_about_those_printed():
  """Each is the 80 % quantile of 10 trials, among sizes 5 % apart."""
  tables = conventions.smoke(experiment).tables
  printed = {
    "64, 8 x 8, 55 x 1": (4636, 2080, 756),
    "64, 63 x 1": (4636, 1054, 571),
  }
  for name, expected in printed.items():
    rows = tables[f"pooling learner, dimensions {name}"]
    found = [row["samples in all"] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=0.25)
    assert all(row["success"] >= parities.NEEDED for row in rows)
  rows = tables["boosting, dimensions 64, 8 x 8, 55 x 1"]
  found = [row["samples of a round"] for row in rows]
  np.testing.assert_allclose(found, (5020, 2100, 1092), rtol=0.25)


def test_another_seed_gives_other_draws():
  def draws(seed):
    rng = np.random.default_rng(seed)
    chance, errors = agnostic.world(rng)
    return errors, agnostic.sample(rng, chance)[0, 0]

  for x, y, z in zip(draws(0), draws(0), draws(1), strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.array_equal(x, z)


def test_a_search_finds_the_least_size_that_is_enough():
  needed = np.array([700, 800, 5000])

  def run(size):
    return size >= np.repeat(needed, 2), 3 * size

  size, seen, share = parities.search(run, np.full(3, 1000), 2)
  candidates = np.ceil(1000 * parities.RATIO ** np.arange(15.0))
  for i in range(2):
    assert size[i] == candidates[candidates >= needed[i]].min()
    assert seen[i] == 3 * size[i] and share[i] == 1
  assert np.isnan([size[2], seen[2], share[2]]).all()


def test_rounds_pool_what_is_known():
  with jax.enable_x64(True):  # as the experiment, whose program this is
    dims = next(iter(parities.LEVELS.values()))
    world = parities.instances(jax.random.key(0), dims, NUM)
    keys = jax.random.split(jax.random.key(1), NUM)
    even = np.ones((NUM, parities.NUM))
    learn = functools.partial(parities.learn, keys)
    size = np.full(NUM, 400)  # more than a chunk
    first, errors = learn(0, world, even, size, parities.nothing(NUM))
    again, _ = learn(0, world, even, size, first)
    second, fewer = learn(1, world, even, size, first)
  assert np.all(first.consistent & second.consistent)
  # The same samples teach nothing, others do.
  np.testing.assert_array_equal(again.rank, first.rank)
  assert np.all(second.rank > first.rank)
  assert fewer.sum() < errors.sum()


def test_a_carrying_learner_is_done_when_nothing_fails():
  world = parities.instances(
    jax.random.key(0), next(iter(parities.LEVELS.values())), NUM
  )
  keys = jax.random.split(jax.random.key(1), NUM)
  success, seen = parities.carry_over(keys, world, np.full(NUM, 3000), 6)
  assert np.all(success) and np.all(seen < 18000)
  success, seen = parities.carry_over(keys, world, np.full(NUM, 10), 2)
  assert not np.any(success) and np.all(seen == 20)


def test_errors_of_the_agnostic_worlds_are_those_of_samples():
  rng = np.random.default_rng(0)
  chance, errors = agnostic.world(rng)
  found = agnostic.sample(rng, chance).mean(-1)
  spread = np.sqrt(errors * (1 - errors) / agnostic.MOST)
  assert np.all(np.abs(found - errors) < 6 * spread + 1e-9)
  # What is best on average is bad for the few that differ.
  best = errors[errors.mean(1).argmin()]
  assert best.max() > errors.max(1).min() + 0.04


# --- wrong versions ----------------------------------------------------------


def test_rounds_that_do_not_look_at_what_fails_fail(monkeypatch):
  """All rounds sample everything alike: as good as one of that many samples."""
  original = parities.carry_over
  monkeypatch.setattr(
    parities,
    "carry_over",
    lambda keys, world, size, rounds: original(keys, world, size * rounds, 1),
  )
  # Of no interest here.
  monkeypatch.setattr(
    parities, "boost", lambda keys, world, size, rounds: (size > 0, size)
  )
  part = parities.parities(
    jax.random.key(0), parities.FEWEST, num_seeds=2, trials=10, progress=False
  )
  assert {"two_rounds", "six_rounds"} <= conventions.failed(part.claims)


def test_weights_that_avoid_what_is_bad_fail(monkeypatch):
  original = multi_distribution.boost_update
  monkeypatch.setattr(
    multi_distribution,
    "boost_update",
    lambda q, bad, alpha: original(q, bad, -alpha),
  )
  found = failed(boosting.boosting, jax.random.key(0), runs=20)
  assert found == {"adversary"}


def test_a_tie_that_says_zero_fails(monkeypatch):
  monkeypatch.setattr(
    multi_distribution, "majority", lambda votes: votes.mean(-1) > 0.5
  )
  found = boosting.tight_error()
  assert found[0] / found[1] < 3


def test_a_theta_of_the_logarithm_to_base_two_fails(monkeypatch):
  original = multi_distribution.boost_params

  def wrong(k, r, eps):
    theta = min(r / (2 * np.log2(k)), 0.5)
    return original(k, r, eps)._replace(theta=theta)

  monkeypatch.setattr(multi_distribution, "boost_params", wrong)
  # Of the printed cases: theta no longer fits p.
  table = [wrong(*case, 0.1) for case in boosting.PRINTED]
  k, r = np.array(boosting.PRINTED).T
  theta, p = np.array(table).T[:2]
  form = k * (4 * p ** (1 - theta)) ** (r / 2) - 2 ** (-(1 - theta) * r / 2)
  assert np.abs(form).max() > 1e-3


def test_caps_that_forget_fail(monkeypatch):
  original = on_demand_sampling.lazy_hedge_expand

  def forgetful(state, **options):
    state = state._replace(peaks=0 * state.peaks)
    return original(state, **options)

  monkeypatch.setattr(on_demand_sampling, "lazy_hedge_expand", forgetful)
  found = failed(hedge.hedge, jax.random.key(0), (16,), 2000)
  assert "caps_grow" in found


def test_hypotheses_that_ignore_the_weights_fail(monkeypatch):
  original = finite_class.finite_class_erm
  monkeypatch.setattr(
    finite_class,
    "finite_class_erm",
    lambda weights, losses: original(weights * 0 + 1, losses),
  )
  run = functools.partial(agnostic.agnostic, worlds=2, progress=False)
  found = failed(run, np.random.default_rng(0))
  assert "agnostic_uniform" in found


def test_bad_flags():
  make = functools.partial(experiment.Config.from_preset, "smoke")
  with pytest.raises(ValueError, match="1, 2 and 6 among them: was 1, 2"):
    make(rounds=(1, 2))
  with pytest.raises(ValueError, match="distributions must be at least 4"):
    make(distributions=(2, 16))

# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import curation, harness
from tests.experiments import conventions


def failed(claims) -> set[str]:
  return {claim.name for claim in claims if not claim.holds}


@pytest.fixture(scope="module")
def results():
  config = curation.Config.from_preset("smoke")
  return curation.run(config, progress=False)


@pytest.fixture(scope="module")
def loops():
  """The configuration, its loops, and what they do."""
  config = curation.Config.from_preset("smoke", rounds=20)
  with jax.enable_x64(True):
    problems = curation.example(config)
    return config, problems, curation.trajectory(problems, config.rounds)


def test_claims_reproduce():
  conventions.assert_reproduces(curation)


def test_another_seed_gives_other_draws():
  conventions.assert_seed_matters(curation, "simulated", "random_gain")


# --- the printed numbers, to half a unit of the last digit -------------------


def test_numbers_without_real_data(results):
  rows = {row["round"]: row for row in results.tables["without real data"]}
  assert abs(rows[0]["E e^r"] - 1.79293) <= 5e-6
  assert abs(rows[0]["least gain"] - 0.42262) <= 5e-6
  assert abs(rows[1]["E e^r"] - rows[0]["E e^r"] - 1.25818) <= 5e-6
  assert abs(rows[30]["KL(p_inf||p_t)"] - 7.5e-11) <= 0.05e-11


def test_numbers_with_real_data():
  p, rate = curation.pair_fixed_point()
  assert abs(p.sum() - 1) < 1e-12
  assert abs(p @ np.exp(curation.R) - 4.06550) <= 5e-6
  assert abs(p @ np.log(p / curation.P) - 0.41367) <= 5e-6
  # The last factor by which the loop approaches its fixed point.
  weight = np.exp(curation.R)
  better = 2 * weight[:, None] / (weight[:, None] + weight)
  q, distances = np.array(curation.P), []
  for _ in range(60):
    q = (np.array(curation.P) + 2 * q * (better @ q)) / 3
    q /= q.sum()
    distances.append(np.abs(q - p).max())
  assert abs(distances[-1] / distances[-2] - rate) < 1e-4


# --- the pieces --------------------------------------------------------------


def test_mixed_rows_are_mixtures(loops):
  config, problems, found = loops
  p = np.exp(found["log_p"])
  rows = p[:, :, : len(curation.P)]
  pure, simulated = rows[:, 0], rows[:, 4]
  np.testing.assert_allclose(
    simulated[1], (np.array(curation.P) + 2 * pure[1]) / 3, atol=1e-12
  )
  assert problems.lam[4] == 2
  assert problems.lam[5:9].tolist() == list(config.lam)
  np.testing.assert_allclose(p.sum(-1), 1, atol=1e-12)
  # Padding gets no mass, and the rows that fill up repeat the last one.
  assert np.all(p[:, :, len(curation.P) :] == 0)
  np.testing.assert_array_equal(rows[:, 9:], rows[:, 8:9].repeat(7, 1))


def test_numbers_of_a_model(loops):
  _, _, found = loops
  p, value = np.array(curation.P), np.exp(curation.R)
  mean = p @ value
  np.testing.assert_allclose(found["mean"][0, 0], mean)
  np.testing.assert_allclose(found["variance"][0, 0], p @ (value - mean) ** 2)
  np.testing.assert_allclose(
    np.exp(found["log_outside"][0, :3]), [0.9, 0.9, 0.7]
  )
  assert found["kl"][0, 0] == 0 and found["kl"][1, 0] > 0
  np.testing.assert_allclose(found["kl_bound"][0, 5], -math.log(1 - 0.2 * 3))


def test_random_problems_are_distributions(key):
  config = curation.Config.from_preset("smoke", bases=5, vocab=3)
  problems = curation.random_problems(key, config)
  rows = 5 * (3 + len(config.lam))
  assert len(problems) == -(-rows // curation.ROWS)
  k = np.exp(np.concatenate([x.log_k for x in problems]))
  lam = np.concatenate([x.lam for x in problems])
  assert set(np.round(k).astype(int)) <= {2, 3, 4, 8} and len(set(k)) > 1
  assert np.isinf(lam[::7][:5]).all()
  for problem in problems:
    assert problem.log_ref.shape == (curation.ROWS, 4)
    np.testing.assert_allclose(np.exp(problem.log_ref).sum(1), 1)
    assert np.all(problem.log_ref[:, 3] == -np.inf)


def test_linearisation_is_a_difference_quotient(loops):
  _, _, found = loops
  log_p = found["log_p"][: curation.SIMULATED_ROUNDS, [0, 4], :4].swapaxes(0, 1)
  lam = np.array(curation.SIMULATED)
  jacobian = curation.linearisation(log_p, lam, math.log(4))
  shift = np.array([1e-5, -3e-5, 1e-5, 1e-5])

  @jax.jit
  def after(p, lam):
    args = jnp.log(jnp.array(curation.P)), jnp.array(curation.R), math.log(4)
    return jnp.exp(curation.next_model(jnp.log(p), *args, lam))

  for i in range(2):
    p = np.exp(log_p[i, 1])
    change = (after(p + shift, lam[i]) - after(p - shift, lam[i])) / 2
    # Third order in the shift.
    np.testing.assert_allclose(jacobian[i, 1] @ shift, change, atol=1e-11)


def test_spreads_add_up():
  models = np.array([curation.P, curation.P, curation.P])
  value = np.exp(curation.R)
  variance = curation.P @ (value - curation.P @ value) ** 2
  identity = np.broadcast_to(np.eye(4), (2, 4, 4))
  found = curation.spreads(models, identity)
  np.testing.assert_allclose(found**2, variance * np.array([1, 2, 3]))
  np.testing.assert_allclose(
    curation.spreads(models, 0 * identity) ** 2, [variance] * 3
  )


def test_a_population_keeps_its_size_and_its_law(key, loops):
  config, _, found = loops
  size, seeds = config.population, config.num_seeds
  keys = jax.random.split(key, (seeds, curation.SIMULATED_ROUNDS + 1))
  for lam, row in zip(np.array(curation.SIMULATED), (0, 4), strict=True):
    counts = size * curation.simulate(keys, lam, k=4, population=size)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    np.testing.assert_allclose(counts.sum(-1), size)
    exact = np.exp(found["log_p"][:2, row, :4])
    # Standard errors of all draws; after a round also those of its start,
    # which the round stretches by less than 3.
    error = (exact * (1 - exact) / (seeds * size)) ** 0.5 * np.array([[1], [3]])
    assert np.all(np.abs(counts[:, :2].mean(0) / size - exact) < 5 * error)


# --- unusable input ----------------------------------------------------------


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--k=1", "k must be at least 2 and at most 64, was 1"),
    ("--k=100", "k must be at least 2 and at most 64, was 100"),
    ("--lam=1,-2", "lam must be finite and above 0"),
    ("--lam=inf", "lam must be finite and above 0"),
    ("--lam=nan", "lam must be finite and above 0"),
    ("--lam=1,x", "--lam takes floats separated by commas"),
    (f"--lam={','.join(['1'] * 12)}", "lam needs 1 to 11 numbers, had 12"),
    ("--rounds=5", "rounds must be at least 20"),
    ("--population=10", "population must be at least 100, was 10"),
    ("--vocab=1", "vocab must be at least 2, was 1"),
    ("--num_seeds=1", "num_seeds must be at least 2"),
  ],
)
def test_unusable_flags_exit_2_and_write_nothing(
  argument, message, capsys, tmp_path
):
  output = tmp_path / "out"
  arguments = ["curation", f"--output_dir={output}", argument]
  assert curation.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and message in error
  assert not output.exists()


def test_other_flags_run(tmp_path):
  output = tmp_path / "out"
  flags = "--preset=smoke", "--k=3", "--lam=.1,4", "--rounds=25", "--bases=1"
  assert curation.main(["curation", f"--output_dir={output}", *flags]) == 0
  record = harness.read_record(output)
  assert record is not None
  rows = record["tables"]["with real data, after the last round"]
  assert [row["lam"] for row in rows] == [0.1, 4]
  assert {path.name for path in output.iterdir()} >= {
    "collapse.png",
    "real_data.png",
    "bounds.png",
    "populations.png",
  }


# --- claims fail where what they check is broken -----------------------------


def test_choices_that_are_too_good_fail(monkeypatch):
  """A loop that tilts at once, as with K to infinity."""

  def wrong(log_p, log_ref, rewards, log_k, lam):
    return jax.nn.log_softmax(log_p + rewards)

  monkeypatch.setattr(curation, "next_model", wrong)
  curation.advance.clear_cache()
  config = curation.Config.from_preset("smoke", rounds=20)
  problems = curation.example(config)
  found = curation.trajectory(problems, config.rounds)
  curation.advance.clear_cache()
  names = failed(curation._collapse(config, found))
  assert names == {"first_gain", "collapse_rate"}
  names = failed(curation._fixed_point(config, found))
  assert names == {"fixed_point_reward", "fixed_point_kl"}
  names = failed(curation._bounds([(problems, found)]))
  assert names >= {"kl_bound", "variance_kept"}


@pytest.mark.parametrize(
  ("name", "factor", "claim"),
  [
    ("gain_bound", 10, "gain_bound"),
    ("kl_bound", 0.01, "kl_bound"),
    ("ref_gain_bound", 100, "gain_over_real_data"),
  ],
)
def test_bounds_that_are_too_tight_fail(loops, name, factor, claim):
  _, problems, found = loops
  assert not failed(curation._bounds([(problems, found)]))
  found = found | {name: factor * found[name]}
  assert failed(curation._bounds([(problems, found)])) == {claim}


def test_populations_of_another_loop_fail(loops):
  config, _, found = loops
  claims, _, _ = curation._simulated(config, config.key(), found)
  assert not failed(claims)
  mean = found["mean"].copy()
  mean[:, 4] = mean[:, 3]  # that of two samples
  found = found | {"mean": mean}
  claims, _, _ = curation._simulated(config, config.key(), found)
  assert failed(claims) == {"simulated_reward", "simulated_paths"}


def test_copies_of_one_population_fail(loops, monkeypatch):
  config, _, found = loops
  right = curation.simulate

  def wrong(*args, **options):
    return 0 * right(*args, **options) + right(*args, **options)[:1]

  monkeypatch.setattr(curation, "simulate", wrong)
  claims, _, _ = curation._simulated(config, config.key(), found)
  assert "simulated_spread" in failed(claims)


def test_spread_scores_are_normal():
  x = np.random.default_rng(0).normal(5, 2, (20_000, 8))
  scores = np.array([curation.spread_score(row, 2) for row in x])
  assert abs(scores.mean()) < 0.05 and abs(scores.std() - 1) < 0.05
  assert np.mean(np.abs(scores) > 4) < 1e-3


def test_a_loop_that_forgets_outcomes_fails(loops):
  config, _, found = loops
  log_p = found["log_p"].copy()
  log_p[-1, 2, :2] += [0.1, -0.1]
  claims = curation._collapse(config, found | {"log_p": log_p})
  assert failed(claims) == {"best_outcomes_keep_their_odds"}

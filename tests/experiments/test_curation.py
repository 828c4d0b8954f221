# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import curation, harness
from experiments.stages.curation import collapse, loops, populations, real_data
from tests.experiments import conventions

pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture(scope="module")
def results():
  return conventions.smoke(curation)


def follow(config):
  """The loops of the example, and what they do."""
  problems = loops.example(k=config.k, lam=config.lam, vocab=config.vocab)
  return problems, loops.trajectory(problems, config.rounds)


def claims_on(config, problems, found):
  """Those on loops without real data and with it."""
  trajectories = [(problems, found)] * 2
  return [
    *collapse.collapse(trajectories, k=config.k).claims,
    *real_data.real_data(trajectories, k=config.k, lam=config.lam).claims,
  ]


def simulated(config, found):
  """The claims on populations."""
  return populations.populations(
    config.key(),
    found,
    k=config.k,
    num_seeds=config.num_seeds,
    population=config.population,
  ).claims


@pytest.fixture(scope="module")
def short():
  """A configuration of few rounds, its loops, and what they do."""
  config = curation.Config.from_preset("smoke", rounds=20)
  with jax.enable_x64(True):
    return config, *follow(config)


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
  p, rate = real_data.pair_fixed_point()
  assert abs(p.sum() - 1) < 1e-12
  assert abs(p @ np.exp(loops.R) - 4.06550) <= 5e-6
  assert abs(p @ np.log(p / loops.P) - 0.41367) <= 5e-6
  # The last factor by which the loop approaches its fixed point.
  weight = np.exp(loops.R)
  better = 2 * weight[:, None] / (weight[:, None] + weight)
  q, distances = np.array(loops.P), []
  for _ in range(60):
    q = (np.array(loops.P) + 2 * q * (better @ q)) / 3
    q /= q.sum()
    distances.append(np.abs(q - p).max())
  assert abs(distances[-1] / distances[-2] - rate) < 1e-4


# --- the pieces --------------------------------------------------------------


def test_mixed_rows_are_mixtures(short):
  config, problems, found = short
  p = np.exp(found["log_p"])
  rows = p[:, :, : len(loops.P)]
  pure, simulated = rows[:, 0], rows[:, 4]
  np.testing.assert_allclose(
    simulated[1], (np.array(loops.P) + 2 * pure[1]) / 3, atol=1e-12
  )
  assert problems.lam[4] == 2
  assert problems.lam[5:9].tolist() == list(config.lam)
  np.testing.assert_allclose(p.sum(-1), 1, atol=1e-12)
  # Padding gets no mass, and the rows that fill up repeat the last one.
  assert np.all(p[:, :, len(loops.P) :] == 0)
  np.testing.assert_array_equal(rows[:, 9:], rows[:, 8:9].repeat(7, 1))


def test_numbers_of_a_model(short):
  _, _, found = short
  p, value = np.array(loops.P), np.exp(loops.R)
  mean = p @ value
  np.testing.assert_allclose(found["mean"][0, 0], mean)
  np.testing.assert_allclose(found["variance"][0, 0], p @ (value - mean) ** 2)
  np.testing.assert_allclose(
    np.exp(found["log_outside"][0, :3]), [0.9, 0.9, 0.7]
  )
  assert found["kl"][0, 0] == 0 and found["kl"][1, 0] > 0
  np.testing.assert_allclose(found["kl_bound"][0, 5], -math.log(1 - 0.2 * 3))


def test_random_problems_are_distributions(key):
  config = curation.Config.from_preset("smoke")
  problems = loops.random_problems(key, bases=5, lam=config.lam, vocab=3)
  rows = 5 * (3 + len(config.lam))
  assert len(problems) == -(-rows // loops.ROWS)
  k = np.exp(np.concatenate([x.log_k for x in problems]))
  lam = np.concatenate([x.lam for x in problems])
  assert set(np.round(k).astype(int)) <= {2, 3, 4, 8} and len(set(k)) > 1
  assert np.isinf(lam[::7][:5]).all()
  for problem in problems:
    assert problem.log_ref.shape == (loops.ROWS, 4)
    np.testing.assert_allclose(np.exp(problem.log_ref).sum(1), 1)
    assert np.all(problem.log_ref[:, 3] == -np.inf)


def test_linearisation_is_a_difference_quotient(short):
  _, _, found = short
  log_p = found["log_p"][: populations.ROUNDS, [0, 4], :4].swapaxes(0, 1)
  lam = np.array(populations.LAM)
  jacobian = populations.linearisation(log_p, lam, math.log(4))
  shift = np.array([1e-5, -3e-5, 1e-5, 1e-5])

  @jax.jit
  def after(p, lam):
    args = jnp.log(jnp.array(loops.P)), jnp.array(loops.R), math.log(4)
    return jnp.exp(loops.next_model(jnp.log(p), *args, lam))

  for i in range(2):
    p = np.exp(log_p[i, 1])
    change = (after(p + shift, lam[i]) - after(p - shift, lam[i])) / 2
    # Third order in the shift.
    np.testing.assert_allclose(jacobian[i, 1] @ shift, change, atol=1e-11)


def test_spreads_add_up():
  models = np.array([loops.P, loops.P, loops.P])
  value = np.exp(loops.R)
  variance = loops.P @ (value - loops.P @ value) ** 2
  identity = np.broadcast_to(np.eye(4), (2, 4, 4))
  found = populations.spreads(models, identity)
  np.testing.assert_allclose(found**2, variance * np.array([1, 2, 3]))
  np.testing.assert_allclose(
    populations.spreads(models, 0 * identity) ** 2, [variance] * 3
  )


def test_a_population_keeps_its_size_and_its_law(key, short):
  config, _, found = short
  size, seeds = config.population, config.num_seeds
  keys = jax.random.split(key, (seeds, populations.ROUNDS + 1))
  for lam, row in zip(np.array(populations.LAM), (0, 4), strict=True):
    counts = size * populations.simulate(keys, lam, k=4, population=size)
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
    ("--k=1", "k must be at least 2, was 1"),
    ("--k=100", "k must be at most 64, was 100"),
    ("--lam=1,-2", "lam must be finite and above 0"),
    ("--lam=inf", "lam must be finite and above 0"),
    ("--lam=nan", "lam must be finite and above 0"),
    ("--lam=1,x", "--lam takes floats separated by commas"),
    (f"--lam={','.join(['1'] * 12)}", "lam takes at most 11 numbers, had 12"),
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

  monkeypatch.setattr(loops, "next_model", wrong)
  loops.advance.clear_cache()
  config = curation.Config.from_preset("smoke", rounds=20)
  trajectory = follow(config)
  loops.advance.clear_cache()
  assert conventions.failed(claims_on(config, *trajectory)) == {
    "first_gain",
    "collapse_rate",
    "kl_bound",
    "variance_kept",
    "fixed_point_reward",
    "fixed_point_kl",
  }


@pytest.mark.parametrize(
  ("name", "factor", "claim"),
  [
    ("gain_bound", 10, "gain_bound"),
    ("kl_bound", 0.01, "kl_bound"),
    ("ref_gain_bound", 100, "gain_over_real_data"),
  ],
)
def test_bounds_that_are_too_tight_fail(short, name, factor, claim):
  config, problems, found = short
  assert not conventions.failed(claims_on(config, problems, found))
  found = found | {name: factor * found[name]}
  assert conventions.failed(claims_on(config, problems, found)) == {claim}


def test_populations_of_another_loop_fail(short):
  config, _, found = short
  assert not conventions.failed(simulated(config, found))
  mean = found["mean"].copy()
  mean[:, 4] = mean[:, 3]  # that of two samples
  found = found | {"mean": mean}
  assert conventions.failed(simulated(config, found)) == {
    "simulated_reward",
    "simulated_paths",
  }


def test_copies_of_one_population_fail(short, monkeypatch):
  config, _, found = short
  right = populations.simulate

  def wrong(*args, **options):
    return 0 * right(*args, **options) + right(*args, **options)[:1]

  monkeypatch.setattr(populations, "simulate", wrong)
  assert "simulated_spread" in conventions.failed(simulated(config, found))


def test_the_fewest_samples_and_rounds_are_enough():
  config = curation.Config.from_preset("smoke", k=2, rounds=20)
  assert not conventions.failed(claims_on(config, *follow(config)))


def test_spread_scores_are_normal():
  x = np.random.default_rng(0).normal(5, 2, (20_000, 8))
  scores = np.array([populations.spread_score(row, 2) for row in x])
  assert abs(scores.mean()) < 0.05 and abs(scores.std() - 1) < 0.05
  assert np.mean(np.abs(scores) > 4) < 1e-3


def test_a_loop_that_forgets_outcomes_fails(short):
  config, problems, found = short
  log_p = found["log_p"].copy()
  log_p[-1, 2, :2] += [0.1, -0.1]
  claims = claims_on(config, problems, found | {"log_p": log_p})
  assert conventions.failed(claims) == {"best_outcomes_keep_their_odds"}

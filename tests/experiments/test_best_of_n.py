# SPDX-License-Identifier: Apache-2.0
import csv
import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from experiments import best_of_n, harness
from jaxalign import data
from tests.experiments import conventions


def failed(claims) -> set[str]:
  return {claim.name for claim in claims if not claim.holds}


@pytest.fixture(scope="module")
def results():
  config = best_of_n.Config.from_preset("smoke")
  return best_of_n.run(config, progress=False)


def column(results, title: str, name: str, **where) -> list:
  return [
    row[name]
    for row in results.tables[title]
    if all(row[k] == v for k, v in where.items())
  ]


def test_claims_reproduce():
  conventions.assert_reproduces(best_of_n)


def test_another_seed_gives_other_draws():
  conventions.assert_seed_matters(
    best_of_n, "drawn", "known_reward", "samples_reward", "random_kls"
  )


# --- the printed numbers, to half a unit of the last digit -------------------


def assert_printed(value: float, printed: str):
  digits = len(printed.partition(".")[2])
  assert abs(value - float(printed)) <= 0.5000001 * 10**-digits, printed


@pytest.mark.parametrize(
  ("base", "n", "printed"),
  [
    ("fair coin", 16, ".69296"),
    ("fair coin", 128, ".693147"),
    ("uniform, 10", 16, "1.73306"),
    ("uniform, 100", 16, "1.83402"),
    ("uniform, 1000", 16, "1.83508"),
  ],
)
def test_kl_by_base(results, base, n, printed):
  title = "KL and win rate of best-of-n"
  (kl,) = column(results, title, "KL", base=base, n=n)
  assert_printed(kl, printed)
  (bound,) = column(results, title, "bound", base=base, n=n)
  assert_printed(bound, {16: "1.83509", 128: "3.85984"}[n])


def test_frontier_numbers(results):
  n = results.curves["frontier_n"].tolist()
  win, kl = results.curves["frontier_win"], results.curves["frontier_kl"]
  loss, rewind = results.curves["frontier_loss"]
  for x, best, optimum in (
    (2, ".66667", ".67591"),
    (4, ".80000", ".80400"),
    (16, ".941176", ".941287"),
  ):
    i = n.index(x)
    assert_printed(win[i], best)
    assert_printed(win[i] + loss[i], optimum)
  i = n.index(4)
  assert_printed(win[i] + loss[i] - rewind[i], ".73537")
  np.testing.assert_allclose(kl, np.log(n) - 1 + 1 / np.array(n), atol=1e-12)


def test_token_numbers(results):
  title = "best-of-n over Bernoulli tokens, per token"
  for name, printed in (
    ("reward", ".51126"),
    ("KL to optimum", ".001989"),
    ("KL to base", ".09894"),
    ("decay of tail", ".01717"),
  ):
    (value,) = column(results, title, name, tokens="1000")
    assert_printed(value, printed)
  optimum, slope, rate = best_of_n.token_limits()
  assert_printed(optimum, ".5146291")
  assert_printed(rate, ".014710")
  # The slope is that of the rate function at the optimum.
  step = 1e-6
  rise = best_of_n.coin_kl(optimum + step, 0.3) - best_of_n.DELTA
  assert abs(rise / step - slope) < 1e-5


def test_soft_numbers(results):
  kl, tv = results.curves["soft_rate"]
  assert_printed(kl, "1.25029")
  assert_printed(tv, ".75253")
  assert_printed(results.curves["soft_scaled"][0, -1], "1.2530")
  assert_printed(results.curves["soft_scaled"][1, -1], ".7531")
  whole = results.curves["soft_tokens"][1]
  printed = (".00401", ".01980", ".11953", ".31355", ".58542")
  for value, text in zip(whole, printed, strict=True):
    assert_printed(value, text)
  assert_printed(whole[0], ".0040130")


@pytest.mark.parametrize(
  ("ties", "printed"),
  [
    ("uniform", (".0876", ".40378", ".20189", ".00391", ".30283")),
    ("index", (".0876", ".2249", ".2056", ".00391", ".4780")),
  ],
)
def test_tied_example(ties, printed):
  config = best_of_n.Config.from_preset("smoke", ties=ties)
  _, log_p, rewards = best_of_n._named_bases(config.key(), config.vocab)
  n, _ = best_of_n._counts(config)
  found = best_of_n.describe(log_p, rewards, n, ties=ties)
  (law,) = np.exp(found["log_pi"][4, n == 4, :5])
  for p, text in zip(law, printed, strict=True):
    assert_printed(p, text)


# --- the pieces --------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_enumeration_of_multisets_is_that_of_tuples(temperature):
  p, r, n = np.array([0.5, 0.2, 0.3]), np.array([1.0, 0.0, 1.0]), 3
  expected = np.zeros(3)
  for drawn in itertools.product(range(3), repeat=n):
    values = r[list(drawn)]
    weight = (
      np.exp(values / temperature)
      if temperature
      else (values == values.max()).astype(float)
    )
    np.add.at(
      expected, list(drawn), p[list(drawn)].prod() * weight / weight.sum()
    )
  found = best_of_n.by_enumeration(p, r, n, temperature)
  np.testing.assert_allclose(found, expected, atol=1e-14)


def test_known_laws_are_exact():
  n = np.array([1.0, 2.0, 37.0])
  laws = best_of_n.known_laws()

  def gaussian(power, n):
    normal = scipy.stats.norm
    return scipy.integrate.quad(
      lambda x: x**power * n * normal.pdf(x) * normal.cdf(x) ** (n - 1), -12, 12
    )[0]

  mean, variance = laws["gaussian mean 0 sd 1"].best_of(n)
  expected = np.array([gaussian(1, x) for x in n])
  # Cells of width 1e-3: their middles are off by its square.
  np.testing.assert_allclose(mean, expected, atol=1e-6)
  second = np.array([gaussian(2, x) for x in n])
  np.testing.assert_allclose(variance, second - expected**2, atol=1e-6)
  np.testing.assert_allclose(mean[1], np.pi**-0.5, atol=1e-6)
  shifted, _ = laws["gaussian mean 2 sd 0.5"].best_of(n)
  np.testing.assert_allclose(shifted, 2 + mean / 2, atol=1e-6)
  mean, variance = laws["correct 1 in 10"].best_of(n)
  np.testing.assert_allclose(mean, 1 - 0.9**n, atol=1e-12)
  np.testing.assert_allclose(variance, mean * (1 - mean), atol=1e-12)
  mean, _ = laws["integers 0 to 4"].best_of(n)
  below = (np.arange(1, 5) / 5)[:, None] ** n
  np.testing.assert_allclose(mean, (1 - below).sum(0), atol=1e-12)


def test_quantiles_of_known_laws():
  laws = best_of_n.known_laws()
  u = np.array([0.05, 0.1, 0.5, 0.8999, 0.9001])
  np.testing.assert_allclose(
    laws["gaussian mean 2 sd 0.5"].quantile(u),
    scipy.stats.norm(2, 0.5).ppf(u),
    atol=1e-9,
  )
  assert laws["correct 1 in 10"].quantile(u).tolist() == [0, 0, 0, 0, 1]
  assert laws["integers 0 to 4"].quantile(u).tolist() == [0, 0, 2, 4, 4]


def test_resamples(key):
  times = best_of_n._resample(key, 3, (40, 50, 5))
  assert times.shape == (40, 50, 5)
  assert times[0, 0].tolist() == [1, 1, 1, 0, 0]
  assert np.all(times.sum(-1) == 3) and np.all(times[..., 3:] == 0)
  # Of three draws each sample has one on average, with variance 2/3.
  assert np.all(
    abs(times[..., :3].mean((0, 1)) - 1) < 5 * (2 / 3 / 2000) ** 0.5
  )
  assert len(np.unique(times.reshape(-1, 5), axis=0)) == 10


def test_rows_repeat_single_entries():
  rows = best_of_n._rows(name="x", win_rate=np.array([0.5, 1.0]), n=2)
  assert rows == [
    {"name": "x", "win rate": 0.5, "n": 2},
    {"name": "x", "win rate": 1.0, "n": 2},
  ]


# --- rewards of samples ------------------------------------------------------

# Ten samples of each known law: files of at most ten need no other program.
OPTIONS = {"n": (2, 4, 16, 128), "samples": 10}


def on_file(path, **overrides) -> best_of_n.Stage:
  options = {"rewards": str(path)} | OPTIONS | overrides
  config = best_of_n.Config.from_preset("smoke", **options)
  return best_of_n._samples(config, config.key(), False)


def run_main(tmp_path, *arguments, output="out"):
  directory = tmp_path / output
  flags = f"--output_dir={directory}", "--preset=smoke", *arguments
  return best_of_n.main(["best_of_n", *flags]), directory


def write(path, *lines):
  path.write_text("\n".join(lines) + "\n")
  return path


@pytest.mark.parametrize(
  ("ties", "law"),
  [("uniform", [1, 4, 4, 7]), ("index", [1, 3, 5, 7])],
)
def test_a_small_file_by_hand(tmp_path, ties, law):
  path = write(
    tmp_path / "rewards.csv",
    "model,prompt,reward",
    *(f"m,a,{r}" for r in (0, 1, 1, 3)),
    "m,b,-2.5",
    *(f"m,c,{r}" for r in range(10)),
  )
  claims, curves, tables = on_file(path, ties=ties)
  assert not failed(claims)
  rows = tables["rewards of samples, with 95 % bootstrap intervals"]
  first, second, third, total = rows[::4]
  assert {row["n"] for row in rows[::4]} == {2}
  pi = np.array(law) / 16
  assert (first["prompt"], first["samples"]) == ("a", 4)
  np.testing.assert_allclose(first["reward"], (8 + 7 * 3) / 16)
  np.testing.assert_allclose(first["KL"], pi @ np.log(4 * pi))
  np.testing.assert_allclose(first["bound"], np.log(2) - 1 / 2)
  assert first["low"] < first["reward"] < first["high"]
  assert second["KL"] == 0 and second["reward"] == -2.5
  assert second["low"] == second["high"] == -2.5
  largest = np.maximum.outer(np.arange(10), np.arange(10)).mean()
  np.testing.assert_allclose(third["reward"], largest)
  assert total["samples"] == 15
  np.testing.assert_allclose(total["reward"], (29 / 16 - 2.5 + largest) / 3)
  # At n = 1 the reward is the mean, and so it is of the resamples.
  value, low, high = curves["samples_reward"][:, 0, 0]
  assert value == 5 / 4 and 0 <= low < 5 / 4 < high <= 3


def test_many_prompts_show_the_first_ones(tmp_path):
  path = tmp_path / "many.csv"
  prompts = tuple(f"p{i}" for i in range(25))
  data.write_rewards(path, data.Rewards(prompts, (np.arange(10.0),) * 25))
  _, curves, tables = on_file(path)
  (title,) = [t for t in tables if "first 20 of 25 prompts" in t]
  assert len(tables[title]) == 21 * 4
  assert curves["samples_kl"].shape == (25, 5)


def test_large_rewards_are_no_fall(tmp_path):
  path = write(tmp_path / "r.csv", "prompt,reward", "a,1e9", "a,1000000001")
  assert not failed(on_file(path)[0])


def test_generated_files(tmp_path, capsys):
  path = tmp_path / "known.csv"
  config = best_of_n.Config.from_preset("smoke", generate=str(path))
  claims, generated, _ = best_of_n._samples(config, config.key(), False)
  assert not failed(claims)
  with path.open() as stream:
    rows = list(csv.DictReader(stream))
  assert len(rows) == 4 * 400 and set(rows[0]) == {"prompt", "reward"}
  found = data.read_rewards(path)
  assert found.prompts == tuple(best_of_n.known_laws())
  assert set(found.rewards[2]) == {0, 1}
  content = path.read_bytes()

  # It is not overwritten, and nothing else is written.
  code, again = run_main(tmp_path, f"--generate={path}", output="again")
  error = capsys.readouterr().err
  assert code == 2 and error.count("\n") == 1 and "exists" in error
  assert path.read_bytes() == content and not again.exists()

  # As a file of rewards it gives the same numbers, through the command line.
  code, directory = run_main(tmp_path, f"--rewards={path}")
  assert code == 0
  record = harness.read_record(directory)
  assert record is not None and record["flags"]["rewards"] == str(path)
  assert (directory / "rewards.png").exists()
  read = np.load(directory / "curves.npz")
  np.testing.assert_array_equal(generated["samples_kl"], read["samples_kl"])
  np.testing.assert_array_equal(
    generated["samples_reward"][0], read["samples_reward"][0]
  )


def test_arena_scores_as_rewards(real_data, tmp_path):
  with (real_data / "lmarena_text.csv").open(newline="") as stream:
    rows = list(csv.DictReader(stream))
  path = write(
    tmp_path / "arena.csv",
    "prompt,reward",
    *(f"all,{row['arena_score']}" for row in rows),
  )
  claims, curves, _ = on_file(path, samples=len(rows))
  assert not failed(claims)
  scores = np.sort([float(row["arena_score"]) for row in rows])
  cdf = np.arange(scores.size + 1) / scores.size
  for i, n in enumerate(curves["samples_n"]):
    expected = scores @ np.diff(cdf**n)
    np.testing.assert_allclose(curves["samples_reward"][0, 0, i], expected)


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (None, "no such file"),
    (("prompt,score", "a,1"), "expected a column 'reward'"),
    (("prompt,reward", "a,1", "a"), "line 3: expected 2 columns"),
    (("prompt,reward", "a,1", "b,good"), "line 3: expected a finite number"),
    (("prompt,reward", "a,nan"), "line 2: expected a finite number"),
    (("prompt,reward",), "expected rows"),
  ],
)
def test_unusable_files_exit_2_and_write_nothing(
  lines, message, capsys, tmp_path
):
  path = tmp_path / "rewards.csv"
  if lines is not None:
    write(path, *lines)
  code, directory = run_main(tmp_path, f"--rewards={path}")
  error = capsys.readouterr().err
  assert code == 2 and error.count("\n") == 1 and message in error
  assert not directory.exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--ties=random",), "ties"),
    (("--n=1,0",), "n must be at least 1, was 0"),
    (("--n=-3",), "n must be at least 1, was -3"),
    (("--n=1,two",), "--n takes ints separated by commas"),
    ((f"--n={10**16}",), "n must be at most"),
    (("--tokens=5",), "tokens must be at least 10, was 5"),
    (("--vocab=1",), "vocab must be at least 2, was 1"),
    (("--bootstrap=3",), "bootstrap must be at least 40, was 3"),
    (("--num_seeds=1",), "num_seeds must be at least 2"),
    (("--rewards=a.csv", "--generate=b.csv"), "exclude each other"),
    (("--generate=absent/folder/b.csv",), "there is no directory"),
  ],
)
def test_unusable_flags_exit_2_and_write_nothing(
  arguments, message, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  code, _ = run_main(tmp_path, *arguments)
  error = capsys.readouterr().err
  assert code == 2 and error.count("\n") == 1 and message in error
  assert not list(tmp_path.iterdir())


# --- claims fail where what they check is broken -----------------------------


@pytest.fixture
def fresh_programs():
  """Forgets compiled programs, which would not see a patch or outlive it."""
  programs = best_of_n.describe, best_of_n.search, best_of_n.draw
  for program in programs:
    program.clear_cache()
  yield
  for program in programs:
    program.clear_cache()


def test_the_target_without_its_sum_fails(monkeypatch, fresh_programs):
  def wrong(log_p, rewards, n=None, *, log_n=None, ties):
    del ties
    return best_of_n.bond.bond_log_pmf(
      log_p, rewards, n, log_n=log_n, keep_sum=False
    )

  monkeypatch.setattr(best_of_n.bon, "log_pmf", wrong)
  config = best_of_n.Config.from_preset("smoke", bases=6)
  claims, _, _ = best_of_n._law(config, config.key(), False)
  assert failed(claims) >= {"law_by_enumeration", "kl_gap_formula"}
  assert failed(claims) >= {"coin_saturates"}
  assert "win_rate_below_bound" not in failed(claims)


def test_a_biased_sampler_fails(monkeypatch, fresh_programs):
  right = best_of_n.bon.sample

  def wrong(key, sampler, reward_fn, n):
    return right(key, sampler, lambda x: -reward_fn(x), n)

  monkeypatch.setattr(best_of_n.bon, "sample", wrong)
  config = best_of_n.Config.from_preset("smoke", draws=1000)
  claims, _, _ = best_of_n._sampled(config, config.key(), False)
  assert failed(claims) == {
    "sampled_law",
    "sampled_reward",
    "sampled_estimator",
  }


def test_wrong_numbers_of_samples_fail(monkeypatch):
  right = best_of_n.on_samples

  def wrong(*args, **options):
    found = right(*args, **options)
    return found | {"reward": -found["reward"], "kl": found["kl"] + 0.2}

  monkeypatch.setattr(best_of_n, "on_samples", wrong)
  config = best_of_n.Config.from_preset("smoke")
  claims, _, _ = best_of_n._samples(config, config.key(), False)
  assert failed(claims) == {claim.name for claim in claims}


def test_a_wrong_limit_of_tokens_fails(monkeypatch):
  limits = best_of_n.token_limits()
  wrong = limits[0] + 0.02, *limits[1:]
  monkeypatch.setattr(best_of_n, "token_limits", lambda: wrong)
  config = best_of_n.Config.from_preset("smoke")
  claims, _, _ = best_of_n._asymptotics(config, config.key(), False)
  assert failed(claims) >= {"reward_per_token", "kl_identity"}


def test_too_few_steps_of_distillation_fail(monkeypatch):
  monkeypatch.setattr(best_of_n, "STEPS", 20)
  best_of_n.distil.clear_cache()
  config = best_of_n.Config.from_preset("smoke")
  claims, _, _ = best_of_n._distillation(config, config.key(), False)
  best_of_n.distil.clear_cache()
  assert failed(claims) == {"bond_distilled"}


def test_swapped_scores_lower_the_minimum(monkeypatch):
  combine = best_of_n.reward_transforms.lsc_combine
  monkeypatch.setattr(
    best_of_n.reward_transforms,
    "lsc_combine",
    lambda rewards, r_ref, *, axis: -combine(rewards, r_ref, axis=axis),
  )
  best_of_n.closed_form_errors.clear_cache()
  config = best_of_n.Config.from_preset("smoke")
  claims, _, _ = best_of_n._conjunction(config, config.key(), False)
  best_of_n.closed_form_errors.clear_cache()
  assert "log_sigmoids_raise_the_minimum" in failed(claims)


def test_highest_means_are_those_of_a_grid_search():
  log_p, score = np.log([0.2, 0.5, 0.3]), np.array([[1.0, 0.0, 2.0]])
  found = best_of_n.highest_means(log_p, score, score, np.array([0.1]))
  grid = np.linspace(0, 1, 401)
  a, b = np.meshgrid(grid, grid)
  p = np.stack([a, b, 1 - a - b])[:, a + b <= 1]
  kl = scipy.special.rel_entr(p, np.exp(log_p)[:, None]).sum(0)
  best = (score[0] @ p)[kl <= 0.1].max()
  # The grid is 1/400 apart and the best of it is inside the ball.
  assert 0 <= float(found[0, 0, 0]) - best < 2 / 400

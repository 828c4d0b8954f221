# SPDX-License-Identifier: Apache-2.0
import csv

import numpy as np
import pytest

from experiments import best_of_n, harness
from experiments.stages.best_of_n import known_laws, sampled_rewards
from jaxalign import data
from tests.experiments import conventions


@pytest.fixture(scope="module")
def results():
  return conventions.smoke(best_of_n)


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
  conventions.assert_printed(kl, printed)
  (bound,) = column(results, title, "bound", base=base, n=n)
  conventions.assert_printed(bound, {16: "1.83509", 128: "3.85984"}[n])


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
    conventions.assert_printed(win[i], best)
    conventions.assert_printed(win[i] + loss[i], optimum)
  i = n.index(4)
  conventions.assert_printed(win[i] + loss[i] - rewind[i], ".73537")
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
    conventions.assert_printed(value, printed)


def test_soft_numbers(results):
  kl, tv = results.curves["soft_rate"]
  conventions.assert_printed(kl, "1.25029")
  conventions.assert_printed(tv, ".75253")
  conventions.assert_printed(results.curves["soft_scaled"][0, -1], "1.2530")
  conventions.assert_printed(results.curves["soft_scaled"][1, -1], ".7531")
  whole = results.curves["soft_tokens"][1]
  printed = (".00401", ".01980", ".11953", ".31355", ".58542")
  for value, text in zip(whole, printed, strict=True):
    conventions.assert_printed(value, text)
  conventions.assert_printed(whole[0], ".0040130")


# --- files and flags through the command line --------------------------------


def run_main(tmp_path, *arguments, output="out"):
  directory = tmp_path / output
  flags = f"--output_dir={directory}", "--preset=smoke", *arguments
  return best_of_n.main(["best_of_n", *flags]), directory


def test_generated_files(tmp_path, capsys, key):
  path = tmp_path / "known.csv"
  claims, generated, _ = sampled_rewards.sampled_rewards(
    key,
    n=best_of_n.Config.from_preset("smoke").n,
    ties="uniform",
    samples=400,
    bootstrap=50,
    write_to=str(path),
    progress=False,
  )
  assert not conventions.failed(claims)
  with path.open() as stream:
    rows = list(csv.DictReader(stream))
  assert len(rows) == 4 * 400 and set(rows[0]) == {"prompt", "reward"}
  found = data.read_rewards(path)
  assert found.prompts == tuple(known_laws.known_laws())
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
    path.write_text("\n".join(lines) + "\n")
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

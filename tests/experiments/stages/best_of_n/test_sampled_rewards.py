# SPDX-License-Identifier: Apache-2.0
import csv

import jax
import numpy as np
import pytest

from experiments import harness
from experiments.stages.best_of_n import sampled_rewards
from jaxalign import data
from tests.experiments import conventions


def on_file(path, **overrides) -> harness.Part:
  # Ten samples of each known law: files of at most ten need no other program.
  options = {"ties": "uniform", "samples": 10, "bootstrap": 50} | overrides
  return sampled_rewards.sampled_rewards(
    jax.random.key(0),
    n=(2, 4, 16, 128),
    read_from=str(path),
    progress=False,
    **options,
  )


def write(path, *lines):
  path.write_text("\n".join(lines) + "\n")
  return path


def test_resamples(key):
  times = sampled_rewards.resample(key, 3, (40, 50, 5))
  assert times.shape == (40, 50, 5)
  assert times[0, 0].tolist() == [1, 1, 1, 0, 0]
  assert np.all(times.sum(-1) == 3) and np.all(times[..., 3:] == 0)
  # Of three draws each sample has one on average, with variance 2/3.
  assert np.all(
    abs(times[..., :3].mean((0, 1)) - 1) < 5 * (2 / 3 / 2000) ** 0.5
  )
  assert len(np.unique(times.reshape(-1, 5), axis=0)) == 10


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
  assert not conventions.failed(claims)
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
  assert not conventions.failed(on_file(path)[0])


def test_arena_scores_as_rewards(real_data, tmp_path):
  with (real_data / "lmarena_text.csv").open(newline="") as stream:
    rows = list(csv.DictReader(stream))
  path = write(
    tmp_path / "arena.csv",
    "prompt,reward",
    *(f"all,{row['arena_score']}" for row in rows),
  )
  claims, curves, _ = on_file(path, samples=len(rows))
  assert not conventions.failed(claims)
  scores = np.sort([float(row["arena_score"]) for row in rows])
  cdf = np.arange(scores.size + 1) / scores.size
  for i, n in enumerate(curves["samples_n"]):
    expected = scores @ np.diff(cdf**n)
    np.testing.assert_allclose(curves["samples_reward"][0, 0, i], expected)


def test_wrong_numbers_fail(monkeypatch, key):
  right = sampled_rewards.on_samples

  def wrong(*args, **options):
    found = right(*args, **options)
    return found | {"reward": -found["reward"], "kl": found["kl"] + 0.2}

  monkeypatch.setattr(sampled_rewards, "on_samples", wrong)
  claims, _, _ = sampled_rewards.sampled_rewards(
    key,
    n=(1, 4, 16, 128),
    ties="uniform",
    samples=400,
    bootstrap=50,
    progress=False,
  )
  assert conventions.failed(claims) == {claim.name for claim in claims}

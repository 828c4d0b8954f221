# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from jaxalign import data
from jaxalign.checks import InputError

SOC = """# FILE NAME: toy.soc
# ALTERNATIVE NAME 1: tea
# ALTERNATIVE NAME 2: coffee
# ALTERNATIVE NAME 3: water
5: 1,3,2
2: 2,1,3
"""


def write(tmp_path, text, name="file.csv"):
  path = tmp_path / name
  path.write_text(text)
  return path


def test_preflib(tmp_path):
  rankings = data.read_preflib(write(tmp_path, SOC, "toy.soc"))
  assert rankings.names == ("tea", "coffee", "water")
  np.testing.assert_array_equal(rankings.orders, [[0, 2, 1], [1, 0, 2]])
  np.testing.assert_array_equal(rankings.counts, [5, 2])
  parsed = data.parse_preflib(SOC)
  np.testing.assert_array_equal(parsed.orders, rankings.orders)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("2: 1,2", "line 7: expected every alternative from 1 to 3 once, was 1,2"),
    ("2: 1,2,2", "line 7: expected every alternative"),
    ("2: 1,{2,3}", "line 7: expected 'count: i1,i2,...' with whole numbers"),
    ("1,2,3", "line 7: expected 'count: i1,i2,...'"),
    ("0: 1,2,3", "line 7: expected a count above 0, was 0"),
  ],
)
def test_preflib_errors_name_file_line_and_expectation(tmp_path, line, message):
  path = write(tmp_path, SOC + line, "toy.soc")
  with pytest.raises(InputError, match="toy.soc, " + message):
    data.read_preflib(path)


def test_preflib_without_rankings_or_file(tmp_path):
  with pytest.raises(InputError, match="found none"):
    data.parse_preflib("# nothing")
  with pytest.raises(InputError, match="no such file"):
    data.read_preflib(tmp_path / "absent.soc")


def test_ratings(tmp_path):
  path = write(
    tmp_path, "rank,model,arena_score,votes\n1,a,1400,10\n2,b,1000,20\n"
  )
  ratings = data.read_ratings(path)
  assert ratings.names == ("a", "b")
  assert ratings.votes.tolist() == [10, 20]
  # 400 points are odds of ten to one.
  odds = np.exp(ratings.logits[0] - ratings.logits[1])
  np.testing.assert_allclose(odds, 10)
  assert abs(ratings.logits.sum()) < 1e-12


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("model,votes\na,1\n", "line 1: expected a column 'arena_score', found"),
    ("", "found nothing"),
    (
      "model,arena_score,votes\na,high,1\n",
      "line 2: expected a finite number in 'arena_score', was 'high'",
    ),
    ("model,arena_score,votes\na,nan,1\n", "line 2: expected a finite number"),
    ("model,arena_score,votes\na,1\n", "line 2: expected 3 columns"),
    ("model,arena_score,votes\na,1,2,3\n", "line 2: expected 3 columns"),
    ("model,arena_score,votes\na,1,2\n", "expected at least two models"),
  ],
)
def test_ratings_errors(tmp_path, text, message):
  with pytest.raises(InputError, match=message):
    data.read_ratings(write(tmp_path, text))


def test_real_ratings(real_data):
  ratings = data.read_ratings(real_data / "lmarena_text.csv")
  assert len(ratings.names) == 266
  assert np.all(np.diff(ratings.scores) <= 0)


def test_rewards_round_trip(tmp_path):
  rewards = data.Rewards(
    ("a", "b, c"), (np.array([0.1, 1 / 3]), np.array([-2.0]))
  )
  path = tmp_path / "rewards.csv"
  data.write_rewards(path, rewards)
  back = data.read_rewards(path)
  assert back.prompts == rewards.prompts
  for x, y in zip(back.rewards, rewards.rewards, strict=True):
    np.testing.assert_array_equal(x, y)
  with pytest.raises(InputError, match="exists: choose another file"):
    data.write_rewards(path, rewards)


def test_rewards_errors(tmp_path):
  with pytest.raises(InputError, match="line 3: expected a finite number"):
    data.read_rewards(write(tmp_path, "prompt,reward\na,1\na,inf\n"))
  with pytest.raises(InputError, match="expected rows"):
    data.read_rewards(write(tmp_path, "prompt,reward\n"))

# SPDX-License-Identifier: Apache-2.0
import pytest

from experiments.stages.best_of_n import draws
from tests.experiments import conventions


@pytest.fixture
def fresh_program():
  """Forgets the compiled program, which would not see a patch or outlive it."""
  draws.draw.clear_cache()
  yield
  draws.draw.clear_cache()


def test_a_biased_sampler_fails(monkeypatch, fresh_program, key):
  right = draws.bon.sample

  def wrong(key, sampler, reward_fn, n):
    return right(key, sampler, lambda x: -reward_fn(x), n)

  monkeypatch.setattr(draws.bon, "sample", wrong)
  part = draws.draws(key, ties="uniform", num_seeds=2, per_seed=1000)
  assert conventions.failed(part.claims) == {
    "sampled_law",
    "sampled_reward",
    "sampled_estimator",
  }

# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from experiments.stages.best_of_n import exact_law
from jaxalign.inference import bond
from tests.experiments import conventions


@pytest.mark.parametrize(
  ("ties", "printed"),
  [
    ("uniform", (".0876", ".40378", ".20189", ".00391", ".30283")),
    ("index", (".0876", ".2249", ".2056", ".00391", ".4780")),
  ],
)
def test_tied_example(ties, printed, key):
  names, log_p, rewards = exact_law.named_bases(key, 10)
  found = exact_law.describe(log_p, rewards, np.array([4.0]), ties=ties)
  law = np.exp(found["log_pi"][names.index("tied example"), 0, :5])
  for p, text in zip(law, printed, strict=True):
    conventions.assert_printed(p, text)


@pytest.fixture
def fresh_programs():
  """Forgets compiled programs, which would not see a patch or outlive it."""
  programs = exact_law.describe, exact_law.search
  for program in programs:
    program.clear_cache()
  yield
  for program in programs:
    program.clear_cache()


def test_the_target_without_its_sum_fails(monkeypatch, fresh_programs, key):
  def wrong(log_p, rewards, n=None, *, log_n=None, ties):
    del ties
    return bond.bond_log_pmf(log_p, rewards, n, log_n=log_n, keep_sum=False)

  monkeypatch.setattr(exact_law.bon, "log_pmf", wrong)
  part = exact_law.exact_law(
    key,
    n=(1, 4, 16, 128),
    vocab=10,
    ties="uniform",
    num_bases=6,
    progress=False,
  )
  assert conventions.failed(part.claims) >= {
    "law_by_enumeration",
    "kl_gap_formula",
    "coin_saturates",
  }
  assert "win_rate_below_bound" not in conventions.failed(part.claims)

# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import numpy as np
import pytest

from experiments import risk as experiment
from experiments.stages.risk import (
  control,
  equivalents,
  gamble,
  history_policies,
  learning,
  worlds,
)
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_the_printed_values():
  claims = {c.name: c for c in conventions.smoke(experiment).claims}
  conventions.assert_printed(claims["gradient_ratio"].measured, "66.69")
  conventions.assert_printed(claims["level_discounted"].measured, "-.7245")
  conventions.assert_printed(claims["level_constant"].measured, "-.0563")
  for name, text in {"never": "-1", "always": "-.7", "stock": "-.5"}.items():
    conventions.assert_printed(claims[f"gamble_{name}"].measured, text)


def test_another_seed_gives_other_problems():
  first, other = worlds.random_processes((0, 1), discount=0.9)
  assert not np.array_equal(first.rewards, other.rewards)
  chains = worlds.island_chains(range(2))
  np.testing.assert_allclose(chains.transitions.sum(-1), 1)
  assert not np.array_equal(chains.rewards[0], chains.rewards[1])
  numbers = learning.draws(range(2), 3)
  assert not np.array_equal(numbers[0], numbers[1])
  curves = conventions.smoke(experiment).curves
  for name in ("cvar", "markov", "neutral"):
    assert not np.array_equal(*curves[f"control/{name}"])


def test_all_history_policies_are_listed():
  (mdp,) = worlds.random_processes((0,), discount=0.9)
  listed = history_policies.history_policies(mdp, first=0, horizon=3)
  assert listed.returns.shape == (2**13, 9)
  np.testing.assert_allclose(listed.probs.sum(-1), 1)
  # One action at time 0, then one for each of three states, twice.
  assert listed.markov.sum() == 2**7
  # The best mean is that of ordinary dynamic programming.
  means = np.sum(listed.probs * listed.returns, -1)
  values = np.zeros(3)
  for _ in range(3):
    values = np.max(mdp.rewards + 0.9 * mdp.transitions @ values, -1)
  np.testing.assert_allclose(means.max(), values[0])
  np.testing.assert_allclose(means[listed.markov].max(), means.max())


def test_lower_tails_are_means_of_the_worst():
  returns = np.array([[3.0, 1.0, 2.0, 4.0], [0.0, 0.0, 5.0, 1.0]])
  tails = history_policies.lower_tails(
    returns, np.full((2, 4), 0.25), (0.25, 0.5, 0.625, 1.0)
  )
  np.testing.assert_allclose(tails[:2], [[1, 0], [1.5, 0]])
  # A share between two samples counts in part.
  np.testing.assert_allclose(tails[2:], [[1.8, 0.2], [2.5, 1.5]])


@functools.cache
def compared():
  with jax.enable_x64(True):
    return control.compare(range(2))


def test_policies_without_memory_or_aversion_fail():
  found, best = compared()
  assert not conventions.failed(control.claims(found, best))
  wrong = found | {"cvar": best["markov"]}
  # In some processes the best of these is that of the largest mean.
  failed = conventions.failed(control.claims(wrong, best))
  assert {"cvar", "memory"} <= failed <= {"cvar", "memory", "aversion"}
  wrong = found | {"cvar": best["neutral"]}
  failed = conventions.failed(control.claims(wrong, best))
  assert failed == {"cvar", "memory", "aversion"}


@pytest.mark.parametrize(
  ("name", "failing"),
  [
    ("entropic", "entropic"),
    ("risk", "scoring"),
    ("utility", "distributional"),
    ("mean", "cvar_of_all"),
  ],
)
def test_what_is_not_optimal_fails(name, failing):
  found, best = compared()
  wrong = found | {name: found[name] - 1e-9}
  assert conventions.failed(control.claims(wrong, best)) == {failing}


def test_the_static_objective_is_no_nested_one():
  found, best = compared()
  wrong = found | {"nested": best["cvar"][:, 0]}
  assert conventions.failed(control.claims(wrong, best)) == {"nested"}


def failed_with(monkeypatch, part, target, name, wrong):
  monkeypatch.setattr(target, name, wrong)
  jax.clear_caches()
  with jax.enable_x64(True):
    failed = conventions.failed(part().claims)
  jax.clear_caches()
  return failed


def test_the_wrong_loss_fails(monkeypatch):
  failed = failed_with(
    monkeypatch,
    lambda: equivalents.equivalents(seeds=range(2)),
    equivalents.risk,
    "itakura_saito_loss",
    lambda values, targets, *, level: (values - targets) ** 2 / 2,
  )
  assert failed == {"minimiser", "gradient_ratio", "gradient_ratios"}


def test_without_the_outer_maximum_the_gamble_fails(monkeypatch):
  best = gamble.stock.optimal_cvar

  def first_threshold(graph, start, *, tau):
    found = best(graph, start, tau=tau)
    return found._replace(value=found.objectives[0])

  failed = failed_with(
    monkeypatch, gamble.gamble, gamble.stock, "optimal_cvar", first_threshold
  )
  assert failed == {"gamble_stock"}


@pytest.mark.parametrize("name", ["Itakura-Saito", "exponential squared"])
def test_final_errors_are_those_at_the_end(name):
  errors = np.array([[4.0, 3.0, 2.0, 1.0, 0.5], [1.0, 1.0, 1.0, 1.0, np.nan]])
  np.testing.assert_array_equal(learning.final_errors(errors), [0.5, np.inf])
  final = conventions.smoke(experiment).curves[f"learning/final {name}"]
  assert final.shape == (len(learning.RATES), 2)

# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from experiments import alignment_as_divergence as experiment
from experiments.stages.alignment_as_divergence import (
  bias,
  groups,
  laws,
  policies,
  values,
)
from jaxalign import divergences, preference
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_the_printed_values():
  found = conventions.smoke(experiment)
  first, _, labels, _ = found.tables.values()
  rows = {row["loss"]: row for row in first}
  printed = {"KLDO": "-1.140135", "BCO": ".907962", "DPO": ".308767"}
  for name, text in printed.items():
    for column in ("limit", "descent"):
      conventions.assert_printed(rows[name][column], text)
  conventions.assert_printed(rows["KTO"]["limit"], ".4")
  # After t = 4000 the excess is about 4/t.
  excess = rows["KTO"]["descent"] - 0.4
  np.testing.assert_allclose(excess, 4 / 4000, rtol=0.02)
  for row, text in zip(labels, (".362", ".270", ".215", ".132"), strict=True):
    conventions.assert_printed(row["theory"], text)


def test_another_seed_gives_other_laws():
  conventions.assert_seed_matters(
    experiment,
    "values/path",
    "policies/found",
    "groups/label_errors",
    "bias/naive",
  )


def test_examples_have_their_laws():
  world = laws.laws(range(3))
  for good, bad, at in zip(world.good, world.bad, world.examples, strict=True):
    for law, side in zip((good, bad), np.split(at, 2), strict=True):
      np.testing.assert_allclose(np.bincount(side) / laws.EACH, law)
    assert good.min() > 0 and bad.min() > 0
  np.testing.assert_allclose(world.good[0], [0.5, 0.3, 0.15, 0.05])


def test_groups_are_all_there():
  listed, orders = groups.all_groups(3)
  assert listed.shape == (220, 3) and orders.sum() == 10**3
  weights = orders * np.prod(groups.SKEWED[listed], -1)
  np.testing.assert_allclose(weights.sum(), 1)


def test_the_flow_of_kto_solves_its_equation():
  world, time = laws.laws(range(0)), 50.0
  excess = values.kto_flow(world, np.array([time]))
  gaps, (r,) = np.abs(world.good - world.bad)[0], np.zeros((1, 4))
  for _ in range(50_000):  # Euler, in small steps
    r += time / 50_000 * gaps / (2 + 2 * np.cosh(r))
  expected = np.sum(gaps / (1 + np.exp(r)))
  np.testing.assert_allclose(excess, [[expected]], rtol=1e-4)


# --- wrong versions ----------------------------------------------------------


def failed_with(monkeypatch, part, module, name, wrong):
  monkeypatch.setattr(module, name, wrong)
  jax.clear_caches()
  failed = conventions.failed(part().claims)
  jax.clear_caches()
  return failed


def run_values():
  return values.values(laws=laws.laws(range(1)), steps=1000)


def scaled(loss):
  def wrong(*args, **options):
    out = loss(*args, **options)
    return out._replace(loss=0.9 * out.loss)

  return wrong


@pytest.mark.parametrize(
  ("name", "failing"),
  [
    ("kldo_loss", {"kldo"}),
    ("bco_loss", {"bco"}),
    ("kto_loss", {"kto_above", "kto_approach"}),
  ],
)
def test_the_wrong_loss_fails(monkeypatch, name, failing):
  wrong = scaled(getattr(preference, name))
  found = failed_with(monkeypatch, run_values, values.preference, name, wrong)
  assert found == failing


def test_the_wrong_divergences_fail(monkeypatch):
  bound = divergences.variational_bound
  found = failed_with(
    monkeypatch,
    run_values,
    values.divergences,
    "variational_bound",
    lambda div, good, bad: bound(div, bad, good),
  )
  assert found == {"f_divergences"}


def test_what_is_not_the_optimal_policy_fails():
  world = laws.laws(range(2))
  found = np.asarray(policies.minimize(world, steps=2000))
  assert not conventions.failed(policies.claims(world, found))
  fixed = policies.POLICIES.index("BCO")
  for i, name in enumerate(("kldo", "bco_shift", "dpo")):
    wrong = found.copy()
    wrong[:, i] = found[:, fixed]
    failed = conventions.failed(policies.claims(world, wrong))
    assert failed == {f"policy_{name}"}
  wrong = found.copy()
  wrong[:, fixed] = policies.consistent(world)
  failed = conventions.failed(policies.claims(world, wrong))
  assert failed == {"policy_bco"}
  free = world.ref * (world.good / world.bad) ** (1 / policies.BETA)
  wrong[:, fixed] = free  # of free rewards: not normalised
  failed = conventions.failed(policies.claims(world, wrong))
  assert failed == {"bco_constrained"}
  wrong = found.copy()
  wrong[:, -1] = found[:, fixed]
  failed = conventions.failed(policies.claims(world, wrong))
  assert failed == {"bco_unconstrained"}


def run_groups():
  return groups.groups(sizes=(2,), seed=0, draws=20_000)


def test_sums_in_the_place_of_means_fail(monkeypatch):
  mdpo = preference.mdpo_loss

  def wrong(h_chosen, h_rejected, *, beta):
    return mdpo(h_chosen, h_rejected, beta=2 * beta)

  found = failed_with(
    monkeypatch, run_groups, groups.preference, "mdpo_loss", wrong
  )
  assert found == {"mdpo_optimum", "mdpo_uniform"}


def test_labels_of_the_wrong_rate_fail(monkeypatch):
  theory = groups.label_error
  monkeypatch.setattr(groups, "optimum", lambda k, betas: np.ones((2, 10)))
  monkeypatch.setattr(groups, "expected", lambda k, beta: np.ones(10))
  monkeypatch.setattr(groups, "UNIFORM", np.ones(10))
  monkeypatch.setattr(
    groups, "label_error", lambda k: theory(1.2 * np.array(k))
  )
  assert conventions.failed(run_groups().claims) == {"label_errors"}


def test_the_wrong_correction_fails(monkeypatch):
  def wrong(h_chosen, h_rejected, *, tau):
    """Divides variances by k."""
    gap = h_chosen.mean(-1) - h_rejected.mean(-1) - 1 / (2 * tau)
    noise = h_chosen.var(-1) + h_rejected.var(-1)
    zero = 0 * gap
    return preference.PairLoss(gap**2 - noise / h_chosen.shape[-1], zero, zero)

  found = failed_with(
    monkeypatch,
    lambda: bias.bias(seeds=range(2)),
    bias.preference,
    "mipo_loss",
    wrong,
  )
  assert found == {"mipo_unbiased"}


def test_an_mdpo_without_bias_fails(monkeypatch):
  def linear(h_chosen, h_rejected, *, beta):
    gap = beta * (h_rejected.mean(-1) - h_chosen.mean(-1))
    return preference.PairLoss(gap, gap, gap)

  found = failed_with(
    monkeypatch,
    lambda: bias.bias(seeds=range(2)),
    bias.preference,
    "mdpo_loss",
    linear,
  )
  assert found == {"mdpo_biased"}

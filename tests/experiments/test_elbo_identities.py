# SPDX-License-Identifier: Apache-2.0
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import elbo_identities
from experiments.stages.elbo_identities import (
  any_order,
  chains,
  estimators,
  even_times,
  flow_bounds,
  forwards,
  gaussian_bounds,
  t_steps,
  upper_surrogate,
  worlds,
)
from jaxalign.diffusion import schedules
from jaxalign.exact import masked
from tests.experiments import conventions

SEEDS = range(1)


def failed(part):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part().claims)
  jax.clear_caches()
  return names


def wrapped(monkeypatch, module, name, change):
  """Replaces a function by one that changes its result."""
  original = getattr(module, name)

  @functools.wraps(original)
  def patched(*args, **options):
    return change(original(*args, **options))

  monkeypatch.setattr(module, name, patched)


def test_claims_reproduce():
  conventions.assert_reproduces(elbo_identities)


def test_another_seed_gives_other_problems(monkeypatch):
  monkeypatch.setattr(forwards, "CASES", forwards.CASES[:1])
  conventions.assert_seed_matters(
    elbo_identities,
    "t_steps/elbo",
    "estimators/std",
    "eubo/excess",
    draws=10_000,
  )


# --- printed numbers ---------------------------------------------------------


def test_gaussian_losses_have_the_printed_values():
  part = gaussian_bounds.gaussian_bounds(seed=0)
  (rows,) = part.tables.values()
  losses = {row["T"]: row["loss"] for row in rows}
  for steps, text in {
    "4": "55.05",
    "16": "8.23",
    "64": "5.638",
    "1024": "5.056",
    "infinite": "5.0205",
  }.items():
    conventions.assert_printed(losses[steps], text)
  (entropy,) = (c for c in part.claims if c.name == "nelbo_entropy")
  conventions.assert_printed(entropy.measured, "0.0144441395")


def test_flow_likelihoods_have_the_printed_errors():
  (rows,) = flow_bounds.flow_bounds(seed=0).tables.values()
  errors = {row["steps"]: row["error"] for row in rows}
  assert f"{errors[5]:.1e}" == "6.7e-05" and f"{errors[10]:.1e}" == "1.9e-06"


def test_forwards_have_the_printed_values(key):
  (rows,) = forwards.forwards(key=key).tables.values()
  printed = ("7.06", "14.26", "442.8")
  for row, text in zip(rows, printed, strict=True):
    conventions.assert_printed(row["expected"], text)


def test_two_tokens_have_the_printed_values():
  pi, surrogate = upper_surrogate.counterexample()
  conventions.assert_printed(pi, ".41")
  conventions.assert_printed(surrogate, ".25")


# --- the parts' own sums -----------------------------------------------------


def test_sums_by_count():
  log_probs = worlds.log_probs(worlds.tables(SEEDS, vocab_size=2, length=3))
  found = worlds.sums_by_count(log_probs)
  sizes = 3 - masked.visible_sets(3).sum(-1)
  for k in range(4):
    expected = np.asarray(log_probs)[..., sizes == k, :].sum((-2, -1))
    np.testing.assert_allclose(found[..., k], expected, atol=1e-14)
  # The bound, and one step, which masks everything.
  weights = [0, *(1 / (k * math.comb(3, k)) for k in (1, 2, 3))]
  elbo = masked.any_order_elbo(log_probs)
  np.testing.assert_allclose(found @ weights, elbo, rtol=1e-13)


def test_draws_are_all_there_are():
  (table,) = worlds.tables(SEEDS, vocab_size=2, length=8)
  for name in estimators.mask_draws.ESTIMATORS:
    _, chance = estimators.all_draws(table, name)
    assert abs(chance.sum() - 1) < 1e-12, name


def test_multisets_are_all_there_are():
  sets, chance = upper_surrogate.multisets(4)
  assert len(sets) == math.comb(10, 4) and abs(chance.sum() - 1) < 1e-13
  # Among them four draws in any order: a set is masked as often as the bound
  # weighs it.
  masks = 3 - masked.visible_sets(3)[:-1].sum(-1)
  for k in (1, 2, 3):
    share = chance @ (masks[sets] == k).mean(-1)
    assert abs(share - 1 / 3) < 1e-13


# --- wrong versions ----------------------------------------------------------


def test_a_schedule_that_does_not_end_fails(monkeypatch):
  wrong = any_order.SCHEDULES | {"linear": lambda t: 1 - t / 2}
  monkeypatch.setattr(any_order, "SCHEDULES", wrong)
  part = functools.partial(any_order.any_order, seeds=SEEDS)
  assert failed(part) == {"any_order_schedule_linear"}


def test_a_wrong_likelihood_fails(monkeypatch):
  wrapped(monkeypatch, masked, "any_order_log_prob", lambda x: x + 0.1)
  part = functools.partial(any_order.any_order, seeds=SEEDS)
  assert failed(part) == {
    "any_order_recursion",
    "any_order_normalised",
    "any_order_gap",
  }


def test_a_bound_without_its_weights_fails(monkeypatch):
  monkeypatch.setattr(
    masked, "any_order_elbo", lambda x: 0.5 * jnp.sum(x, (-2, -1))
  )
  part = functools.partial(any_order.any_order, seeds=SEEDS)
  assert failed(part) == {
    "any_order_schedule_linear",
    "any_order_schedule_cosine",
    "any_order_schedule_quadratic",
    "any_order_mean_over_orders",
    "any_order_gap",
  }


def test_steps_of_another_schedule_fail(monkeypatch):
  monkeypatch.setattr(schedules, "linear_alpha", schedules.polynomial_alpha)
  part = functools.partial(t_steps.t_steps, seeds=SEEDS)
  assert failed(part) == {"t_steps_expansion"}


def test_the_limit_in_the_place_of_steps_fails(monkeypatch):
  monkeypatch.setattr(
    masked, "t_step_elbo", lambda x, alphas: masked.any_order_elbo(x)
  )
  part = functools.partial(t_steps.t_steps, seeds=SEEDS)
  with np.errstate(divide="ignore", invalid="ignore"):
    found = failed(part)
  assert {"one_step_gap", "t_steps_expansion", "t_steps_rate"} <= found


def estimated(key, num_draws=10_000):
  return estimators.estimators(seeds=SEEDS, key=key, num_draws=num_draws)


@pytest.mark.parametrize("name", estimators.COUNTED)
def test_weights_that_are_too_large_fail(monkeypatch, key, name):
  original = estimators.mask_draws.masks_from_noise

  def heavy(*args, estimator):
    found = original(*args, estimator=estimator)
    factor = 1.2 if estimator == name else 1.0
    return found._replace(weights=factor * found.weights)

  monkeypatch.setattr(estimators.mask_draws, "masks_from_noise", heavy)
  wrong = {f"mean_{name}", f"sampled_{name}"}
  # The released draw is one of fixed counts.
  wrong |= {"released_draw"} if name == "fixed_count" else set()
  assert failed(lambda: estimated(key)) == wrong


def test_weights_that_are_cut_off_have_a_variance(monkeypatch, key):
  wrapped(
    monkeypatch,
    estimators.mask_draws,
    "masks_from_noise",
    lambda draws: draws._replace(weights=jnp.minimum(draws.weights, 1e4)),
  )
  assert failed(lambda: estimated(key)) == {
    "no_variance_bernoulli",
    "no_variance_coupled_t",
  }


@pytest.mark.parametrize(
  ("method", "change", "wrong"),
  [
    ("stratified", "iid", {"times_stratified"}),
    ("single_u", "equal", {"times_single_u", "times_no_worse"}),
  ],
)
def test_times_that_are_not_even_fail(monkeypatch, key, method, change, wrong):
  original = even_times.mask_draws.sample_times

  def uneven(key, n, name):
    if name != method:
      return original(key, n, name)
    if change == "equal":
      return jnp.broadcast_to(original(key, 1, "iid"), n)
    return original(key, n, change)

  monkeypatch.setattr(even_times.mask_draws, "sample_times", uneven)
  part = functools.partial(
    even_times.even_times, seeds=SEEDS, key=key, num_draws=160_000
  )
  assert failed(part) == wrong


def test_a_sampler_that_predicts_before_it_knows_fails(monkeypatch, key):
  monkeypatch.setattr(forwards, "CASES", ((16, 8, 4000),))
  wrapped(
    monkeypatch,
    forwards.samplers,
    "ancestral_sample",
    lambda x: x._replace(num_forwards=1 + x.num_forwards),
  )
  part = functools.partial(forwards.forwards, key=key)
  assert failed(part) == {"counted_forwards_16_8"}


def upper():
  return upper_surrogate.upper_surrogate(seeds=SEEDS, num_tables=50)


def test_a_power_below_the_length_is_no_bound(monkeypatch):
  original = masked.masked_eubo
  monkeypatch.setattr(
    masked, "masked_eubo", lambda x, power: original(x, power=power - power % 2)
    if power > 2 else original(x, power=power)
  )  # fmt: skip
  assert failed(upper) == {"eubo_bound"}


def test_an_estimate_without_its_weights_fails(monkeypatch):
  wrapped(
    monkeypatch,
    upper_surrogate.estimates,
    "eubo_from_log_probs",
    lambda x: x + 2.0,
  )
  assert failed(upper) == {"eubo_one_draw", "eubo_bias"}


def test_wrong_gaussian_weights_fail(monkeypatch):
  wrapped(
    monkeypatch, gaussian_bounds.gaussian, "ddpm_weights", lambda w: 2 * w
  )
  part = functools.partial(gaussian_bounds.gaussian_bounds, seed=0)
  # Predictions of x, v and u have weights of their own.
  assert failed(part) == {"ddpm_weights", "vdm_steps", "vdm_predictions"}


def test_the_uniform_weight_is_no_bound(monkeypatch):
  original = flow_bounds.flow.flow_matching_loss

  def uniform(*args, weight="uniform"):
    del weight
    return original(*args)

  monkeypatch.setattr(flow_bounds.flow, "flow_matching_loss", uniform)
  part = functools.partial(flow_bounds.flow_bounds, seed=0)
  assert failed(part) == {"flow_elbo_weight", "flow_integral"}


def test_a_flow_without_its_divergence_fails(monkeypatch):
  def still(velocity, x, *, num_steps):
    del velocity, num_steps
    return -jnp.sum(x**2 + math.log(2 * math.pi)) / 2

  monkeypatch.setattr(flow_bounds.flow, "ode_log_prob", still)
  part = functools.partial(flow_bounds.flow_bounds, seed=0)
  assert failed(part) == {"ode_order", "ode_log_prob"}


@pytest.mark.parametrize(
  ("shift", "wrong"),
  [
    (-1.0, {"chain_simulated", "chain_tight"}),
    (20.0, {"chain_simulated", "chain_tight", "chain_bound"}),
  ],
)
def test_a_shifted_bound_of_a_chain_fails(monkeypatch, key, shift, wrong):
  wrapped(monkeypatch, chains.gaussian_chain, "chain_elbo", lambda x: x + shift)
  part = functools.partial(chains.chains, seed=0, key=key, num_draws=20_000)
  assert failed(part) == wrong

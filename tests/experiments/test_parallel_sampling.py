# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import parallel_sampling
from experiments.stages.parallel_sampling import (
  costs,
  laws,
  orders,
  parity,
  steps,
  tree,
)
from jaxalign.diffusion import samplers
from jaxalign.exact import circuits, masked, parallel, sequences
from tests.experiments import conventions

SEEDS = range(2)


@pytest.fixture
def fresh():
  """Nothing compiled before or during the test is used on the other side."""
  jax.clear_caches()
  yield
  jax.clear_caches()


def test_claims_reproduce():
  conventions.assert_reproduces(parallel_sampling)


def test_counts_have_the_printed_values():
  part = steps.forwards(jax.random.key(0), num_runs=2)
  printed = ("7.06", "14.26", "442.8")
  for claim, text in zip(part.claims, printed, strict=True):
    conventions.assert_printed(claim.theory, text)
  (rows,) = tree.tree(seed=0).tables.values()
  found = {(row["bits"], row["sampler"]): row for row in rows}
  for n, m in ((4, 2), (32, 5), (256, 8)):
    of = {name: found[n, name] for name in tree.WAYS}
    # The sheet: m + 1 rounds and 2 n - 1 tokens, 2 n - 1 steps, n + n / 2.
    assert of["diffusion, scratch"]["rounds"] == m + 1
    assert of["diffusion, scratch"]["footprint"] == 2 * n - 1
    assert of["autoregressive, scratch"]["rounds"] == 2 * n - 1
    for name in ("diffusion, remasking", "diffusion, revision"):
      assert of[name]["rounds"] == m + 1
      assert of[name]["footprint"] <= n + n // 2
  assert all(row["fan-in"] == 2 for row in rows)


def test_schedules_of_four_bits_are_all_visited():
  found = parity.schedules(4)
  # Sequential ones: 24 orders, in which position i sees any of i earlier.
  sequential = [s for s in found if s.num_rounds == 4]
  assert len(sequential) == 24 * 1 * 2 * 4 * 8
  assert sum(s.num_rounds == 1 for s in found) == 1
  exact = [s for s in found if s.kl < 0.1]
  assert exact and all(s.num_last == 1 and s.fan_in == 3 for s in exact)
  assert all(s.kl > 0.69 for s in found if s not in exact)


def test_another_seed_gives_other_laws(monkeypatch):
  monkeypatch.setattr(tree, "SIZES", (4, 8))
  monkeypatch.setattr(steps, "LONG", (8, 8))
  conventions.assert_seed_matters(
    parallel_sampling,
    "orders/confidence_tv",
    "costs/kl",
    "forwards/counts",
    "steps/tv",
  )


# --- wrong versions fail -----------------------------------------------------


def fails(part):
  return conventions.failed(part.claims)


def test_a_wrong_revision_fails(monkeypatch, fresh):
  fair = lambda z: jnp.zeros((*z.shape, 2))
  monkeypatch.setattr(parity.revision, "parity_denoiser", fair)
  assert fails(parity.parity()) == {"parity_revision"}


def test_wrong_scratch_fails(monkeypatch):
  alone = lambda n: np.stack([np.arange(n)] * 2, -1)
  monkeypatch.setattr(parity, "ring", alone)
  assert fails(parity.parity()) == {"parity_scratch"}


def test_imperfect_conditionals_fail(monkeypatch):
  right = laws.perfect_laws

  def tempered(log_joint, seen, *, vocab_size):
    log_q = right(log_joint, seen, vocab_size=vocab_size)
    return 0.9 * log_q + 0.1 * np.log(1 / len(log_q))

  monkeypatch.setattr(laws, "perfect_laws", tempered)
  assert "parity_full_fan_in" in fails(parity.parity())
  assert fails(costs.costs(seeds=SEEDS)) == {
    "costs_identity",
    "costs_one_round",
    "costs_sequential",
  }


def test_predictors_that_see_too_much_fail(monkeypatch):
  def all_seen(log_joint, seen, *, vocab_size):
    return np.repeat(log_joint[:, None], len(seen), 1)

  monkeypatch.setattr(laws, "perfect_laws", all_seen)
  assert fails(parity.parity()) == {
    "parity_limited_fan_in",
    "parity_limited_variation",
    "parity_last_round",
  }


def test_uniform_last_bits_are_not_skewed(monkeypatch):
  uniform = lambda n: np.full(2**n, 0.5**n)
  monkeypatch.setattr(parity, "skewed_law", uniform)
  assert fails(parity.parity()) == {"parity_skewed"}


@pytest.mark.parametrize(
  ("name", "wrong", "claims"),
  [
    (
      "diffusion, remasking",
      circuits.unmask_layers,
      {"tree_footprint", "tree_reuse"},
    ),
    ("autoregressive, scratch", circuits.unmask_layers, {"tree_rounds"}),
    (
      "diffusion, scratch",
      circuits.revise_layers,
      {"tree_footprint", "tree_plain"},
    ),
  ],
)
def test_another_way_to_run_the_tree_fails(monkeypatch, name, wrong, claims):
  monkeypatch.setitem(tree.WAYS, name, wrong)
  assert fails(tree.tree(seed=0)) == claims


def test_a_wrong_tree_fails(monkeypatch):
  right = circuits.xor_tree

  def deaf(num_bits):
    return (*right(num_bits)[:-1], np.zeros((1, 2), int))

  monkeypatch.setattr(circuits, "xor_tree", deaf)
  assert fails(tree.tree(seed=0)) == {"tree_output"}


def run_orders():
  return orders.orders(jax.random.key(0), seeds=SEEDS, num_samples=1000)


def test_a_bound_is_no_likelihood(monkeypatch):
  def bound(table):
    log_probs = masked.subset_log_probs(
      masked.table_denoiser(table),
      sequences.enumerate_sequences(table.shape[2], table.shape[1]),
      mask_id=table.shape[2],
    )
    return jnp.exp(masked.any_order_elbo(log_probs))

  # Of perfect conditionals it is one, and the other claims are about those.
  monkeypatch.setattr(orders, "likelihood", bound)
  assert fails(run_orders()) == {"random_order_law"}


def test_what_samples_the_likelihood_is_not_confidence(monkeypatch):
  def unbiased(table, *, temperature):
    return orders.likelihood(table)

  monkeypatch.setattr(orders, "confidence_law", unbiased)
  assert fails(run_orders()) == {
    "confidence_two_bits",
    "confidence_biased",
    "confidence_greedy",
  }


def test_left_to_right_is_not_biased(monkeypatch, fresh):
  right = samplers.top_positions

  def leftmost(scores, where, count):
    return right(jnp.zeros_like(scores), where, count)

  monkeypatch.setattr(samplers, "top_positions", leftmost)
  assert fails(run_orders()) == {"confidence_two_bits", "confidence_biased"}


def test_another_sampler_fails(monkeypatch):
  monkeypatch.setattr(
    samplers, "confidence_sample", samplers.random_order_sample
  )
  assert fails(run_orders()) == {"confidence_sampled"}


def test_wrong_costs_fail(monkeypatch, fresh):
  right = parallel.parallel_costs

  def without_last(log_joint, rounds, *, vocab_size):
    return right(log_joint, rounds, vocab_size=vocab_size)[..., :-1]

  monkeypatch.setattr(parallel, "parallel_costs", without_last)
  assert fails(costs.costs(seeds=SEEDS)) == {"costs_identity"}


def test_forwards_without_skipping_fail(monkeypatch):
  every = lambda alphas, length: float(len(alphas) - 1)
  monkeypatch.setattr(steps.bounds, "expected_nfe", every)
  part = steps.forwards(jax.random.key(0), num_runs=100)
  assert fails(part) == {claim.name for claim in part.claims}


def test_a_bound_is_no_law_of_steps(monkeypatch, fresh):
  monkeypatch.setattr(masked, "t_step_log_prob", masked.t_step_elbo)
  assert fails(steps.law(seeds=SEEDS)) == {"steps_mix_schedules", "steps_rate"}


def test_temperature_sharpens(fresh):
  """The law by enumeration, against draws of the sampler at another one."""
  table = masked.self_distill(jnp.asarray(laws.random_tables(SEEDS, 3, 3))[0])
  run = functools.partial(orders.confidence_law, table)
  sharp, flat = run(temperature=0.0), run(temperature=1.0)
  assert np.max(sharp) == pytest.approx(1) and np.max(flat) < 0.9
  found = samplers.confidence_sample(
    jax.random.key(0),
    masked.table_denoiser(table),
    jnp.zeros((1, 3), jnp.int32),
    jnp.ones((1, 3), bool),
    mask_id=3,
  )
  assert np.argmax(sharp) == found.tokens[0] @ np.array([9, 3, 1])

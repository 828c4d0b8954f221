# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments import kl_estimators
from experiments.stages.kl_estimators import (
  enumeration,
  gaussians,
  sequence_estimates,
  uses,
)
from jaxalign.divergences import categorical
from jaxalign.divergences import kl_estimators as estimators
from jaxalign.exact import sequences
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(kl_estimators)


def test_another_seed_gives_other_draws():
  conventions.assert_seed_matters(
    kl_estimators,
    "gaussians",
    "use_cosines",
    "value_variances",
    "gradient_errors",
    "sequence_kls",
  )


def test_the_table_of_the_blog_post():
  printed = {
    0.1: {"sd k1": 20, "sd k2": 1.418, "sd k3": 1.417, "bias k2": 0.0025},
    1.0: {"sd k1": 2, "sd k2": 1.732, "sd k3": 1.695, "bias k2": 0.25},
  }
  # Half a unit of the last digit printed.
  half = {"sd k1": 0.05, "sd k2": 5e-4, "sd k3": 5e-4, "bias k2": 5e-5}
  for d, row in printed.items():
    theory = gaussians.closed_forms(d)
    assert theory["bias k1"] == theory["bias k3"] == 0
    for name, number in row.items():
      assert abs(theory[name] - number) <= half[name], (d, name)


@pytest.mark.parametrize("d", [0.1, 1.0, 1.5])
def test_standard_errors_are_those_of_theory(d):
  count, kl = 1000, d**2 / 2
  errors = gaussians.standard_errors(d, count)
  theory = gaussians.closed_forms(d)
  # k1 is Gaussian: its sample standard deviation has error sd / sqrt(2 n).
  np.testing.assert_allclose(errors["sd k1"], 2 / d / (2 * count) ** 0.5)
  np.testing.assert_allclose(errors["bias k1"], theory["sd k1"] / count**0.5)
  np.testing.assert_allclose(errors["bias k3"], theory["sd k3"] / count**0.5)
  # E k2^2, E k2 k3 and E k3^2 by hand, with lr ~ N(d^2/2, d^2).
  k2_k2 = theory["sd k2"] ** 2 * kl**2 + (kl + d**4 / 8) ** 2
  k3_k3 = theory["sd k3"] ** 2 * kl**2 + kl**2
  lr2, lr3 = d**2 + d**4 / 4, d**6 / 8 + 3 * d**4 / 2
  # Under e^-lr the mean of lr is -d^2/2: its square has the same mean.
  k2_k3 = (lr2 - lr2 + lr3) / 2
  variance = k2_k2 - 2 * k2_k3 + k3_k3 - (d**4 / 8) ** 2
  np.testing.assert_allclose(
    # The variance is a difference of numbers up to 1e4 times its size.
    errors["bias k2"],
    (variance / count) ** 0.5 / kl,
    rtol=1e-8,
  )


def test_simulation_is_at_the_samples_of_the_policy(key):
  keys, shifts = jax.random.split(key, 2), jnp.array([0.5, 1.0])
  found = gaussians.simulate(keys, shifts, draws=1000)
  assert found.shape == (2, 2, 2, 3)
  x = np.asarray(jax.random.normal(keys[1], (1000,)))
  log_ratio = scipy.stats.norm.logpdf(x) - scipy.stats.norm.logpdf(x, 1.0)
  k1, k2, k3 = log_ratio, log_ratio**2 / 2, np.exp(-log_ratio) - 1 + log_ratio
  expected = [
    [2 * k.std(ddof=1) for k in (k1, k2, k3)],
    [2 * k1.mean() - 1, 2 * (k2 - k3).mean(), 2 * k3.mean() - 1],
  ]
  np.testing.assert_allclose(found[1, 1], expected, rtol=1e-10, atol=1e-12)


def test_what_the_token_surrogates_lack(key):
  """The gradient of the chain rule's sum over prefixes, term by term."""
  policy_key, ref_key = jax.random.split(key)
  ids = sequences.enumerate_sequences(2, 3)
  policy = sequences.random_table(policy_key, 2, 3)
  ref = sequences.random_table(ref_key, 2, 3)
  parents = np.array([0, 0, 0, 1, 1, 2, 2])
  tokens = np.array([0, 0, 1, 0, 1, 0, 1])

  def by_prefix(table, weights):
    """sum_i pi(prefix i) weights_i over the seven prefixes."""
    logp = jax.nn.log_softmax(table)
    reach = [jnp.float64(1)]
    for i in range(1, 7):
      reach.append(reach[parents[i]] * jnp.exp(logp[parents[i], tokens[i]]))
    return jnp.stack(reach) @ weights

  @jax.jit
  def gradients(policy, ref):
    token_kl = categorical.kl(policy, ref)
    return (
      jax.grad(by_prefix)(policy, token_kl),
      jax.grad(lambda x: by_prefix(x, categorical.kl(x, ref)))(policy),
      enumeration.prefix_score(policy, ref, ids),
      jax.grad(enumeration.sequence_kl)(policy, ref, ids),
    )

  left_out, whole, prefix_score, exact = gradients(policy, ref)
  np.testing.assert_allclose(prefix_score, left_out, atol=1e-12)
  np.testing.assert_allclose(exact, whole, atol=1e-12)
  assert np.max(np.abs(left_out)) > 1e-3


@pytest.mark.parametrize("size", [6, 7, 50, 101, 1000])
def test_interval_of_the_median_covers(size):
  low, high = sequence_estimates.median_interval(np.arange(size)[::-1])
  below = scipy.stats.binom(size, 0.5)
  coverage = below.cdf(high) - below.cdf(low)
  assert 0.94 < coverage < 0.99


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--draws=10", "draws must be at least 1000, was 10"),
    ("--outcomes=1", "outcomes must be at least 2, was 1"),
    ("--tables=5", "tables must be at least 6, was 5"),
    ("--length=1", "length must be at least 2, was 1"),
    ("--vocab=40", "vocab ** length must be at most 1024"),
    ("--seeds=3", "Unknown command line flag 'seeds'"),
  ],
)
def test_unusable_flags_exit_2_and_write_nothing(
  argument, message, capsys, tmp_path
):
  output = tmp_path / "out"
  arguments = ["kl_estimators", f"--output_dir={output}", argument]
  assert kl_estimators.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and message in error
  assert not output.exists()


# --- claims fail where what they check is broken -----------------------------


@pytest.fixture
def fresh_programs():
  """Forgets compiled programs, which would not see a patch or outlive it."""
  programs = (
    gaussians.samples,
    gaussians.simulate,
    uses.gradients_by_use,
    enumeration.enumerate_tables,
  )
  for program in programs:
    program.clear_cache()
  yield
  for program in programs:
    program.clear_cache()


def test_a_wrong_estimator_fails(monkeypatch, key, fresh_programs):
  right = estimators.kl_estimate

  def wrong(log_ratio, *, kind):
    sign = -1 if kind == "k3" else 1  # e^lr - 1 - lr: for the other direction
    return right(sign * log_ratio, kind=kind)

  monkeypatch.setattr(estimators, "kl_estimate", wrong)
  draw_key, pair_key = jax.random.split(key)
  claims = gaussians.gaussians(draw_key, num_seeds=2, draws=20_000).claims
  assert conventions.failed(claims) >= {
    "k1_k3_unbiased",
    "bias_k2_at_d1",
    "sd_k3_at_d1",
  }
  claims = uses.uses(pair_key, categoricals=20, outcomes=8).claims
  assert conventions.failed(claims) >= {
    "k3_as_loss",
    "k3_in_reward",
    "ratio_weighted",
  }
  assert "k2_as_loss" not in conventions.failed(claims)


def test_a_truncated_surrogate_fails(monkeypatch, key, fresh_programs):
  def truncated(policy_logits, ref_logits, ids):
    value = categorical.kl(policy_logits, ref_logits).sum(-1)
    return estimators.RBResult(value, value)

  monkeypatch.setattr(estimators, "rao_blackwell_kl", truncated)
  found = sequence_estimates.sequence_estimates(
    key, tables=10, vocab=3, length=3
  )
  assert conventions.failed(found.claims) == {"exact_surrogates"}

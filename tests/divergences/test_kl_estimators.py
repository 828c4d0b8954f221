# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxalign.divergences import categorical, generators, kl_estimators
from jaxalign.exact import sequences
from tests import helpers

# Rounding of sums over at most 27 sequences, with terms of order 1.
EXACT = dict(rtol=0, atol=1e-12)

_RNG = np.random.default_rng(7)

# One categorical: the policy, the reference, and what drew off-policy samples.
POLICY, REF, OLD = _RNG.normal(size=(3, 5))

# All sequences of three tokens out of three, and the rows of logits they visit.
TABLE, REF_TABLE, OLD_TABLE = _RNG.normal(size=(3, 13, 3))
IDS = np.asarray(sequences.enumerate_sequences(3, 3))


def token_logp(table):
  """Log-probabilities `[27, 3]` of every sequence's tokens."""
  return sequences.token_log_probs(jnp.asarray(table), IDS)


def visited(table):
  """Next-token distributions `[27, 3, 3]` at every sequence's prefixes."""
  return sequences.conditional_log_probs(jnp.asarray(table), IDS)


def sequence_probs(table):
  return np.exp(sequences.sequence_log_probs(jnp.asarray(table), IDS))


def sequence_kl(table):
  """KL of the laws of whole sequences, as two categoricals over all 27."""
  logp, ref_logp = token_logp(table).sum(-1), token_logp(REF_TABLE).sum(-1)
  return jnp.sum(jnp.exp(logp) * (logp - ref_logp))


def mean_gradient(weights, surrogate, parameters):
  """Expected gradient of a surrogate on samples that are held fixed."""
  return jax.jit(jax.grad(lambda x: jnp.dot(weights, surrogate(x))))(parameters)


def rao_blackwell(table):
  return jax.jit(kl_estimators.rao_blackwell_kl)(
    visited(table), visited(REF_TABLE), jnp.asarray(IDS)
  )


# --- values ------------------------------------------------------------------


def test_estimates_by_formula():
  lr = jnp.arange(-20, 21) / 5
  helpers.assert_close(kl_estimators.kl_estimate(lr, kind="k1"), lr)
  helpers.assert_close(kl_estimators.kl_estimate(lr, kind="k2"), lr**2 / 2)
  k3 = kl_estimators.kl_estimate(lr, kind="k3")
  helpers.assert_close(k3, scipy.special.kl_div(1, np.exp(-lr)), atol=1e-15)
  assert np.all(k3 >= 0) and k3[20] == 0


def test_k3_keeps_its_relative_accuracy_in_float32():
  lr = np.geomspace(1e-8, 50, 60)
  lr = np.concatenate([lr, -lr]).astype(np.float32)
  wide = lr.astype(np.float64)
  # The series is free of cancellation and so is the reference.
  small = wide**2 * (1 / 2 - wide / 6 + wide**2 / 24 - wide**3 / 120)
  exact = np.where(np.abs(wide) < 1e-3, small, np.expm1(-wide) + wide)
  k3 = kl_estimators.kl_estimate(jnp.array(lr), kind="k3")
  # exp(50) has relative error 50 ulp.
  np.testing.assert_allclose(k3, exact, rtol=1e-5)
  plain = np.expm1(-lr) + lr
  assert np.max(np.abs(plain / exact - 1)) > 0.1


@pytest.mark.parametrize("kind", kl_estimators.KINDS)
def test_estimates_at_infinite_ratios(kind):
  lr = jnp.array([jnp.inf, -jnp.inf, 0.0])
  with jax.debug_nans(True):
    value = kl_estimators.kl_estimate(lr, kind=kind)
    slope = jax.vmap(
      jax.grad(lambda x: kl_estimators.kl_estimate(x, kind=kind))
    )(lr)
  expected = lr if kind == "k1" else jnp.array([jnp.inf, jnp.inf, 0.0])
  assert np.array_equal(value, expected)
  assert np.array_equal(slope, [1, 1, 1] if kind == "k1" else [0, 0, 0])
  # What is not a number is not hidden.
  assert np.isnan(kl_estimators.kl_estimate(jnp.array(jnp.nan), kind=kind))


@pytest.mark.parametrize(
  ("kind", "slope"),
  [
    ("k1", np.ones_like),
    ("k2", lambda lr: lr),
    ("k3", lambda lr: -np.expm1(-lr)),
  ],
)
def test_estimates_derivatives_and_transforms(kind, slope):
  def estimate(lr):
    return kl_estimators.kl_estimate(lr, kind=kind)

  lr = np.array([[0.3, -2.0, 0.9], [1.1, 0.4, -0.7]])
  gradient = jax.grad(lambda x: estimate(x).sum())(lr)
  helpers.assert_close(gradient, slope(lr))
  helpers.assert_gradient(lambda x: estimate(x).sum(), lr)
  helpers.assert_transforms(estimate, lr)


def test_estimates_means_on_a_categorical():
  log_pi, log_ref = jax.nn.log_softmax(POLICY), jax.nn.log_softmax(REF)
  kl = np.sum(np.exp(log_pi) * (log_pi - log_ref))
  mean = {
    kind: float(
      np.exp(log_pi) @ kl_estimators.kl_estimate(log_pi - log_ref, kind=kind)
    )
    for kind in kl_estimators.KINDS
  }
  helpers.assert_close(mean["k1"], kl, **EXACT)
  helpers.assert_close(mean["k3"], kl, **EXACT)
  assert abs(mean["k2"] - kl) > 0.01


# --- two Gaussians -----------------------------------------------------------


def gaussian_theory(d):
  """KL, and over it: bias of k2 and the standard deviations of k1, k2, k3."""
  kl = d**2 / 2
  return kl, {
    "sd k1": 2 / d,
    "bias k2": d**2 / 4,
    "sd k2": np.sqrt(d**4 / 2 + d**6 / 4) / kl,
    "sd k3": np.sqrt(np.exp(d**2) - 1 - d**2) / kl,
  }


def gaussian_quadrature(d):
  """The same with expectations under N(0, 1) by quadrature."""
  x, weight = np.polynomial.hermite_e.hermegauss(80)
  weight = weight / weight.sum()
  log_ratio = jnp.array((x - d) ** 2 / 2 - x**2 / 2)
  out, kl = {}, d**2 / 2
  for kind in kl_estimators.KINDS:
    k = np.asarray(kl_estimators.kl_estimate(log_ratio, kind=kind))
    mean = weight @ k
    out[f"bias {kind}"] = (mean - kl) / kl
    out[f"sd {kind}"] = np.sqrt(weight @ (k - mean) ** 2) / kl
  return out


@pytest.mark.parametrize("d", [0.1, 0.5, 1.0, 1.5])
def test_gaussian_closed_forms(d):
  measured, (_, theory) = gaussian_quadrature(d), gaussian_theory(d)
  for name, value in theory.items():
    # Rounding of means of order 1 over a KL of .005.
    np.testing.assert_allclose(measured[name], value, rtol=1e-9)
  assert abs(measured["bias k1"]) < 1e-11
  assert abs(measured["bias k3"]) < 1e-11


@pytest.mark.parametrize(
  ("d", "sd_k1", "bias_k2", "sd_k2", "sd_k3"),
  [
    (0.1, (20, 0.5), (0.0025, 5e-5), (1.418, 5e-4), (1.417, 5e-4)),
    (1.0, (2, 0.05), (0.25, 5e-3), (1.732, 5e-4), (1.695, 5e-4)),
  ],
)
def test_schulman_table(d, sd_k1, bias_k2, sd_k2, sd_k3):
  measured = gaussian_quadrature(d)
  assert abs(measured["bias k1"]) < 1e-11 and abs(measured["bias k3"]) < 1e-11
  for name, (value, half_unit) in {
    "sd k1": sd_k1,
    "bias k2": bias_k2,
    "sd k2": sd_k2,
    "sd k3": sd_k3,
  }.items():
    np.testing.assert_allclose(measured[name], value, rtol=0, atol=half_unit)


def test_k3_variance_follows_chi_squared_of_ref_to_policy():
  def variances(rare):
    pi, ref = np.array([1 - rare, rare]), np.array([0.9, 0.1])
    lr = jnp.array(np.log(pi / ref))
    k1, k3 = (kl_estimators.kl_estimate(lr, kind=k) for k in ("k1", "k3"))
    return np.array([pi @ k**2 - (pi @ k) ** 2 for k in (k1, k3)])

  # Where the reference has a tail that the policy lacks, chi2(ref||pi) is about
  # .01 over the policy's mass there, and so is k3's variance; k1's is not.
  assert variances(1e-2)[1] > variances(1e-2)[0]
  np.testing.assert_allclose(
    variances(1e-6)[1] / variances(1e-5)[1], 10, rtol=0.01
  )
  assert variances(1e-6)[0] < variances(1e-5)[0]
  # In the bulk it is the other way round.
  assert variances(0.08)[1] < variances(0.08)[0]


# --- gradients: the nine entries ---------------------------------------------


def gradient_table():
  """Gradients in the logits, `[use][kind]`, by summing over outcomes."""
  pi = np.exp(jax.nn.log_softmax(POLICY))
  log_ref = jax.nn.log_softmax(jnp.array(REF))
  fixed = jax.lax.stop_gradient

  def used(use, kind):
    def loss(logits):
      logp = jax.nn.log_softmax(logits)
      k = kl_estimators.kl_estimate(logp - log_ref, kind=kind)
      if use == "loss":
        return k
      if use == "reward":
        return fixed(k) * logp
      return jnp.exp(logp - fixed(logp)) * k

    return mean_gradient(pi, loss, jnp.array(POLICY))

  return {
    use: {kind: used(use, kind) for kind in kl_estimators.KINDS}
    for use in ("loss", "reward", "ratio")
  }


def test_gradient_of_each_estimator_in_each_use():
  table = gradient_table()
  reverse = jax.grad(categorical.kl)(jnp.array(POLICY), jnp.array(REF))
  forward = jax.grad(categorical.kl, 1)(jnp.array(REF), jnp.array(POLICY))
  assert np.max(np.abs(reverse - forward)) > 0.1
  expected = {
    "loss": {"k1": 0 * reverse, "k2": reverse, "k3": forward},
    "reward": {"k1": reverse, "k2": None, "k3": reverse - forward},
    "ratio": {"k1": reverse, "k2": None, "k3": reverse},
  }
  for use, row in expected.items():
    for kind, gradient in row.items():
      if gradient is None:  # no divergence's: in particular not the right one
        assert np.max(np.abs(table[use][kind] - reverse)) > 0.02
      else:
        helpers.assert_close(table[use][kind], gradient, **EXACT)


@pytest.mark.parametrize("estimator", kl_estimators.KINDS)
@pytest.mark.parametrize("sampler", ["policy", "old"])
def test_penalty_has_the_gradient_of_reverse_kl(estimator, sampler):
  old = jax.nn.log_softmax(OLD if sampler == "old" else POLICY)

  def penalty(logits):
    return kl_estimators.kl_penalty_loss(
      jax.nn.log_softmax(logits),
      jax.nn.log_softmax(jnp.array(REF)),
      old if sampler == "old" else None,
      estimator=estimator,
    )

  policy = jnp.array(POLICY)
  kl, reverse = jax.value_and_grad(categorical.kl)(policy, jnp.array(REF))
  helpers.assert_close(
    mean_gradient(np.exp(old), penalty, policy), reverse, **EXACT
  )
  value = np.exp(old) @ penalty(policy)
  if estimator == "k2":
    assert abs(value - kl) > 0.01
  else:
    helpers.assert_close(value, kl, **EXACT)


def test_penalty_sample_by_sample():
  logp, ref_logp, old = jnp.array([[-0.7, -1.5], [-1.1, -0.2], [-0.9, -0.8]])
  lr, w = logp - ref_logp, jnp.exp(logp - old)
  k3 = np.expm1(-lr) + lr
  expected = {
    "k1": (w * lr, w * (lr + 1)),
    "k2": (w * lr**2 / 2, w * lr),
    "k3": (w * k3, w * lr),
  }
  for estimator, (value, slope) in expected.items():
    for drawn_by in (old, None):
      scale = w if drawn_by is None else 1

      def penalty(logp, estimator=estimator, drawn_by=drawn_by):
        return kl_estimators.kl_penalty_loss(
          logp, ref_logp, drawn_by, estimator=estimator
        )

      helpers.assert_close(penalty(logp), value / scale)
      gradient = jax.grad(lambda x, fn=penalty: fn(x).sum())(logp)
      helpers.assert_close(gradient, slope / scale)
  default = kl_estimators.kl_penalty_loss(logp, ref_logp)
  helpers.assert_close(default, k3)
  # The law that drew the samples is data.
  on_old = jax.grad(
    lambda o: kl_estimators.kl_penalty_loss(logp, ref_logp, o).sum()
  )(old)
  assert np.all(on_old == 0)
  # With a ratio that autodiff sees whole, numbers agree with it.
  for estimator in ("k1", "k3"):
    helpers.assert_gradient(
      lambda a, b, e=estimator: kl_estimators.kl_penalty_loss(
        a, b, old, estimator=e
      ).sum(),
      np.array(logp),
      np.array(ref_logp),
    )


def test_penalty_at_zeros():
  logp = jnp.array([-jnp.inf, -0.5, -jnp.inf, -0.5])
  ref_logp = jnp.array([-1.0, -jnp.inf, -jnp.inf, -0.7])
  old = jnp.full(4, -0.6)
  # pi = 0 leaves ref/old of k3; ref = 0 < pi is infinitely far; neither, 0.
  with jax.debug_nans(True):
    for estimator, absent in (("k1", 0), ("k2", 0), ("k3", np.exp(-0.4))):

      def penalty(*args, estimator=estimator):
        return kl_estimators.kl_penalty_loss(*args, old, estimator=estimator)

      value = penalty(logp, ref_logp)
      helpers.assert_close(value[:3], np.array([absent, np.inf, 0]))
      gradients = jax.grad(lambda *a, fn=penalty: fn(*a).sum(), (0, 1))(
        logp, ref_logp
      )
      assert np.all(np.isfinite(gradients))
      assert np.all(gradients[0][:3] == 0) and gradients[0][3] != 0


def test_penalty_does_not_overflow_where_the_policy_vanishes():
  # Off-policy, k3 itself is e^120 here, which float32 does not hold.
  logp, ref_logp, old = jnp.array([[-121.0], [-1.0], [-2.0]], jnp.float32)
  value, slope = jax.value_and_grad(
    lambda x: kl_estimators.kl_penalty_loss(x, ref_logp, old).sum()
  )(logp)
  np.testing.assert_allclose(value, np.e, rtol=1e-6)
  assert slope == 0  # e^-119 times 120 underflows


@pytest.mark.parametrize("estimator", kl_estimators.KINDS)
def test_penalty_masks_and_transforms(estimator):
  clean = np.array([[-0.7, -1.5, 0.0], [-1.1, -0.2, 0.0], [-0.9, -0.8, 0.0]])
  keep = np.array([True, True, False])

  def penalty(*args, where=None):
    return kl_estimators.kl_penalty_loss(
      *args, estimator=estimator, where=where
    )

  short = penalty(*clean[:, :2])
  for dirt in ((np.nan,) * 3, (-1e10, 0.0, -1e10), (-np.inf,) * 3):
    dirty = np.where(keep, clean, np.array(dirt)[:, None])
    helpers.assert_close(penalty(*dirty, where=keep)[:2], short)
    assert penalty(*dirty, where=keep)[2] == 0
    gradients = jax.grad(
      lambda a, b, old: penalty(a, b, old, where=keep).sum(), (0, 1)
    )(*dirty)
    expected = jax.grad(lambda a, b, old: penalty(a, b, old).sum(), (0, 1))(
      *clean[:, :2]
    )
    helpers.assert_close([g[:2] for g in gradients], list(expected))
    assert all(g[2] == 0 for g in gradients)
  rows = [np.stack([row, row[::-1]]) for row in clean]
  helpers.assert_transforms(penalty, *rows)
  helpers.assert_transforms(penalty, *rows[:2])
  helpers.assert_transforms(
    lambda a, b, m: penalty(a, b, where=m), *rows[:2], np.stack([keep, ~keep])
  )


# --- sequences ---------------------------------------------------------------


def test_sequence_values_are_unbiased_and_ordered():
  probs = sequence_probs(TABLE)
  lr = token_logp(TABLE) - token_logp(REF_TABLE)
  kl = float(sequence_kl(jnp.array(TABLE)))
  values = {
    "k1": kl_estimators.kl_estimate(lr, kind="k1").sum(-1),
    "k3": kl_estimators.kl_estimate(lr, kind="k3").sum(-1),
    "k3 of the sequence": kl_estimators.kl_estimate(lr.sum(-1), kind="k3"),
    "Rao-Blackwell": rao_blackwell(TABLE).value,
  }
  variance = {}
  for name, value in values.items():
    helpers.assert_close(probs @ value, kl, **EXACT)
    variance[name] = probs @ (value - kl) ** 2
  assert variance["Rao-Blackwell"] < variance["k3"] < variance["k1"]
  # The two surrogates from tokens have the values that they say.
  logp, ref_logp = token_logp(TABLE), token_logp(REF_TABLE)
  to_go = kl_estimators.sequence_kl_to_go_surrogate(logp, ref_logp)
  helpers.assert_close(to_go, values["k1"])
  k2 = kl_estimators.sequence_kl_k2_surrogate(logp, ref_logp)
  helpers.assert_close(k2, lr.sum(-1) ** 2 / 2)


def test_rao_blackwell_is_not_always_the_better_estimate():
  # The first token's log-ratio makes up for the divergence that it leads to, so
  # that every sequence has one and the same log-ratio, whose variance is 0.
  later = 2.0
  first = 1 / (1 + np.exp(later))
  ref = np.log(
    [[first, 1 - first], [0.5, 0.5], [np.exp(-later), -np.expm1(-later)]]
  )
  with np.errstate(divide="ignore"):
    policy = np.log([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
  ids = np.array([[0, 0], [0, 1], [1, 0]])
  nodes = np.stack([np.zeros(3, int), 1 + ids[:, 0]], 1)
  probs = np.array([0.25, 0.25, 0.5])
  pick = (nodes, ids)
  k1 = (policy - ref)[pick].sum(-1)
  value, surrogate = kl_estimators.rao_blackwell_kl(
    jnp.array(policy[nodes]), jnp.array(ref[nodes]), jnp.array(ids)
  )
  helpers.assert_close(k1, np.full(3, k1[0]))
  helpers.assert_close(probs @ value, k1[0])
  helpers.assert_close(probs @ (value - k1[0]) ** 2, later**2 / 4)
  helpers.assert_close(surrogate, value)


SURROGATES = {
  "k2": lambda table: kl_estimators.sequence_kl_k2_surrogate(
    token_logp(table), token_logp(REF_TABLE)
  ),
  "to go": lambda table: kl_estimators.sequence_kl_to_go_surrogate(
    token_logp(table), token_logp(REF_TABLE)
  ),
  "Rao-Blackwell": lambda table: rao_blackwell(table).surrogate,
}


def truncated_kl(table):
  """The divergences at visited prefixes, blind to the prefixes' own score."""
  return categorical.kl(visited(table), visited(REF_TABLE)).sum(-1)


def relative_error(gradient, exact):
  return np.linalg.norm(gradient - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("name", SURROGATES)
def test_sequence_surrogates_have_the_exact_gradient(name):
  table = jnp.array(TABLE)
  gradient = mean_gradient(sequence_probs(TABLE), SURROGATES[name], table)
  exact = jax.jit(jax.grad(sequence_kl))(table)
  helpers.assert_close(gradient, exact, **EXACT)


def test_gradient_variance_of_the_sequence_surrogates():
  probs, table = sequence_probs(TABLE), jnp.array(TABLE)

  def total_variance(surrogate):
    rows = jax.jit(jax.jacrev(surrogate))(table).reshape(27, -1)
    return probs @ np.sum((rows - probs @ rows) ** 2, -1)

  variance = {k: total_variance(fn) for k, fn in SURROGATES.items()}
  assert variance["Rao-Blackwell"] < variance["to go"] < variance["k2"]


def test_truncated_surrogates_miss_the_score_of_the_prefix():
  probs, table = sequence_probs(TABLE), jnp.array(TABLE)
  exact = jax.jit(jax.grad(sequence_kl))(table)
  fixed, ref_logp = jax.lax.stop_gradient, token_logp(REF_TABLE)

  def sum_of_k2(table):
    lr = token_logp(table) - ref_logp
    return kl_estimators.kl_estimate(lr, kind="k2").sum(-1)

  def penalty(table):
    return kl_estimators.kl_penalty_loss(token_logp(table), ref_logp).sum(-1)

  def one_step_rewards(table):
    logp = token_logp(table)
    return (fixed(logp - ref_logp) * logp).sum(-1)

  truncated = mean_gradient(probs, truncated_kl, table)
  assert relative_error(truncated, exact) > 0.05
  cosine = np.sum(truncated * exact) / (
    np.linalg.norm(truncated) * np.linalg.norm(exact)
  )
  assert cosine < 0.999
  for surrogate in (sum_of_k2, penalty, one_step_rewards):
    helpers.assert_close(
      mean_gradient(probs, surrogate, table), truncated, **EXACT
    )
  # The value, being only a report, has no gradient that could be mistaken.
  value_gradient = mean_gradient(probs, lambda x: rao_blackwell(x).value, table)
  assert np.all(value_gradient == 0)


@pytest.mark.parametrize("estimator", kl_estimators.KINDS)
def test_penalty_off_policy_on_sequences_and_on_tokens(estimator):
  table, old_probs = jnp.array(TABLE), sequence_probs(OLD_TABLE)
  ref_logp, old_logp = token_logp(REF_TABLE), token_logp(OLD_TABLE)

  def on_sequences(table):
    return kl_estimators.kl_penalty_loss(
      token_logp(table).sum(-1),
      ref_logp.sum(-1),
      old_logp.sum(-1),
      estimator=estimator,
    )

  def on_tokens(table):
    return kl_estimators.kl_penalty_loss(
      token_logp(table), ref_logp, old_logp, estimator=estimator
    ).sum(-1)

  # Ratios of whole sequences reach e^3 here.
  loose = dict(rtol=0, atol=1e-11)
  exact = jax.jit(jax.grad(sequence_kl))(table)
  gradient = mean_gradient(old_probs, on_sequences, table)
  helpers.assert_close(gradient, exact, **loose)
  # On tokens: the divergences at prefixes as often as the sampler visits them.
  local = mean_gradient(old_probs, truncated_kl, table)
  gradient = mean_gradient(old_probs, on_tokens, table)
  helpers.assert_close(gradient, local, **loose)
  assert relative_error(gradient, exact) > 0.05


@pytest.mark.parametrize(
  "name", [*sorted(set(generators.NAMES) - {"alpha", "hockey_stick"})]
)
def test_token_sums_of_divergences_on_reference_samples(name):
  div = generators.f_divergence(name)
  probs = sequence_probs(REF_TABLE)
  lr = token_logp(TABLE) - token_logp(REF_TABLE)
  sampled = probs @ div.f(jnp.exp(lr)).sum(-1)
  per_prefix = categorical.categorical_f_divergence(
    div, visited(TABLE), visited(REF_TABLE)
  )
  helpers.assert_close(sampled, probs @ per_prefix.sum(-1), atol=1e-11)
  sequence = probs @ div.f(jnp.exp(lr.sum(-1)))
  if name == "reverse_kl":  # KL(ref||policy): the chain rule
    helpers.assert_close(sampled, sequence, **EXACT)
  else:
    assert abs(sampled / sequence - 1) > 0.01


# --- sequences: masks, zeros, shapes -----------------------------------------


def test_rao_blackwell_by_hand():
  policy = np.log(np.array([[[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]]]))
  ref = np.log(np.array([[[0.25, 0.75], [0.5, 0.5], [0.6, 0.4]]]))
  ids = jnp.array([[1, 0, 1]])
  kl = np.sum(np.exp(policy) * (policy - ref), -1)
  value, surrogate = kl_estimators.rao_blackwell_kl(policy, ref, ids)
  helpers.assert_close(value, kl.sum(-1))
  helpers.assert_close(surrogate, kl.sum(-1))

  def hand(logits):
    logp = jax.nn.log_softmax(logits)
    here = jnp.sum(jnp.exp(logp) * (logp - ref), -1).sum()
    weights = [kl[0, 1] + kl[0, 2], kl[0, 2]]
    return here + weights[0] * logp[0, 0, 1] + weights[1] * logp[0, 1, 0]

  def surrogate_of(logits):
    return kl_estimators.rao_blackwell_kl(logits, ref, ids).surrogate.sum()

  shifted = policy + 0.3  # logits need not be normalised
  helpers.assert_close(jax.grad(surrogate_of)(shifted), jax.grad(hand)(shifted))


def _padded(dirt):
  """Rows of 3, 2 and 0 tokens in arrays of 4 that end in dirt, and the mask."""
  rng = np.random.default_rng(3)
  keep = np.arange(4) < np.array([3, 2, 0])[:, None]
  policy, ref = rng.normal(size=(2, 3, 4, 5))
  logp, ref_logp = -rng.exponential(size=(2, 3, 4))
  ids = rng.integers(5, size=(3, 4))
  wide = keep[..., None]
  return (
    (np.where(keep, logp, dirt), np.where(keep, ref_logp, -dirt)),
    (
      np.where(wide, policy, dirt),
      np.where(wide, ref, -dirt),
      np.where(keep, ids, -100),
    ),
    keep,
  )


def test_masks_select_tokens():
  def gradients(fn, arrays, keep):
    inexact = tuple(
      i for i, x in enumerate(arrays) if np.issubdtype(x.dtype, np.floating)
    )

    def total(*a):
      value = fn(*a, where=keep)
      return jnp.sum(value), value

    slopes, value = jax.jit(jax.grad(total, inexact, has_aux=True))(*arrays)
    return value, slopes

  def rao_blackwell_surrogate(*args, where=None):
    return kl_estimators.rao_blackwell_kl(*args, where=where).surrogate

  for dirt in (np.nan, np.inf):
    tokens, logits, keep = _padded(dirt)
    clean_tokens, clean_logits, _ = _padded(0.0)
    for fn, dirty, clean in (
      (kl_estimators.sequence_kl_k2_surrogate, tokens, clean_tokens),
      (kl_estimators.sequence_kl_to_go_surrogate, tokens, clean_tokens),
      (rao_blackwell_surrogate, logits, clean_logits),
    ):
      value, gradient = gradients(fn, dirty, keep)
      helpers.assert_close((value, gradient), gradients(fn, clean, keep))
      assert value[2] == 0
      for g in gradient:
        assert np.all(g[~keep] == 0)
      for row, length in enumerate((3, 2)):
        short = [x[row, :length] for x in clean]
        helpers.assert_close(value[row], jax.jit(fn)(*short))


def test_a_hole_in_the_mask_is_a_shorter_sequence():
  (logp, ref_logp), (policy, ref, ids), _ = _padded(0.0)
  ids = np.abs(ids) % 5
  keep = np.array([True, False, True, True])

  def both(logp, ref_logp, policy, ref, ids, where=None):
    to_go = kl_estimators.sequence_kl_to_go_surrogate
    rb = kl_estimators.rao_blackwell_kl(policy, ref, ids, where=where)
    return to_go(logp, ref_logp, where=where) + rb.surrogate

  arrays = [x[0] for x in (logp, ref_logp, policy, ref, ids)]
  arrays[0] = arrays[0] - 0.3
  arrays[2] = arrays[2] + np.arange(5) / 3
  both = jax.jit(jax.value_and_grad(both, (0, 2)))
  whole = both(*arrays, keep)
  sliced = both(*[x[keep] for x in arrays])
  helpers.assert_close(whole[0], sliced[0])
  helpers.assert_close([g[keep] for g in whole[1]], list(sliced[1]))


def test_sequences_at_zeros():
  out = -jnp.inf
  policy = jnp.array([[0.2, out, -0.3], [0.5, 0.1, out]])
  ref = jnp.array([[0.1, out, 0.4], [-0.2, 0.3, 0.0]])
  ids = jnp.array([2, 0])
  with jax.debug_nans(True):

    def surrogate(policy, ref):
      return kl_estimators.rao_blackwell_kl(policy, ref, ids).surrogate

    value, gradient = jax.value_and_grad(surrogate)(policy, ref)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    assert gradient[0, 1] == 0 and gradient[1, 2] == 0
    # Mass that the reference lacks: infinite, and no gradient that is not.
    value, gradient = jax.value_and_grad(surrogate)(policy.at[0, 1].set(0), ref)
    assert value == jnp.inf and np.all(np.isfinite(gradient))
    value, gradient = jax.value_and_grad(surrogate)(
      policy, ref.at[1, 0].set(out)
    )
    assert value == jnp.inf and np.all(np.isfinite(gradient))
    logp, ref_logp = jnp.array([-0.5, -0.7]), jnp.array([-0.4, out])
    for fn in (
      kl_estimators.sequence_kl_k2_surrogate,
      kl_estimators.sequence_kl_to_go_surrogate,
    ):
      value, gradient = jax.value_and_grad(fn)(logp, ref_logp)
      assert value == jnp.inf and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", SURROGATES)
def test_exact_gradient_with_tokens_that_are_never_drawn(name):
  # The policy has lost a token that the reference keeps at one prefix, and both
  # have lost another elsewhere; their sequences are still enumerated.
  lost = np.zeros((13, 3))
  lost[0, 1] = lost[6, 2] = -np.inf
  ref = REF_TABLE + lost
  lost[2, 0] = lost[4, 1] = -np.inf
  table = jnp.array(TABLE + lost)

  def surrogate(table):
    if name == "Rao-Blackwell":
      return kl_estimators.rao_blackwell_kl(
        visited(table), visited(ref), jnp.array(IDS)
      ).surrogate
    fn = {
      "k2": kl_estimators.sequence_kl_k2_surrogate,
      "to go": kl_estimators.sequence_kl_to_go_surrogate,
    }[name]
    return fn(token_logp(table), token_logp(ref))

  def penalty(table):
    logp, ref_logp = (token_logp(x).sum(-1) for x in (table, ref))
    return kl_estimators.kl_penalty_loss(logp, ref_logp)

  def exact(table):
    logp, ref_logp = (token_logp(x).sum(-1) for x in (table, ref))
    return categorical.kl(logp, ref_logp)

  probs = sequence_probs(table)
  with jax.debug_nans(True):
    expected = jax.jit(jax.grad(exact))(table)
    for fn in (surrogate, penalty):
      assert np.all(np.isfinite(fn(table)))
      helpers.assert_close(mean_gradient(probs, fn, table), expected, **EXACT)


def test_sequence_transforms():
  (logp, ref_logp), (policy, ref, ids), _ = _padded(0.0)
  ids, keep = np.abs(ids) % 5, np.array([[True, True, False, True]] * 2)
  for fn in (
    kl_estimators.sequence_kl_k2_surrogate,
    kl_estimators.sequence_kl_to_go_surrogate,
  ):
    helpers.assert_transforms(
      lambda a, b, m, fn=fn: fn(a, b, where=m), logp[:2], ref_logp[:2], keep
    )
  helpers.assert_transforms(
    lambda a, b, i, m: kl_estimators.rao_blackwell_kl(a, b, i, where=m),
    policy[:2],
    ref[:2],
    ids[:2],
    keep,
  )
  # Tokens may be renamed.
  order = np.array([3, 0, 4, 1, 2])
  renamed = kl_estimators.rao_blackwell_kl(
    policy[..., order], ref[..., order], np.argsort(order)[ids]
  )
  helpers.assert_close(
    renamed, kl_estimators.rao_blackwell_kl(policy, ref, jnp.array(ids))
  )
  # k2 has the gradient of its value; the others by design have not.
  helpers.assert_gradient(
    lambda a, b: kl_estimators.sequence_kl_k2_surrogate(a, b).sum(),
    logp[:2, :2],
    ref_logp[:2, :2],
  )


def test_wrong_arguments_raise():
  zeros = jnp.zeros((2, 3))
  with pytest.raises(ValueError, match="unknown kind 'k4': choose one of k1"):
    kl_estimators.kl_estimate(zeros, kind="k4")
  with pytest.raises(AssertionError, match="log_ratio int"):
    kl_estimators.kl_estimate(jnp.zeros(3, int), kind="k1")
  with pytest.raises(ValueError, match="unknown estimator 'kl'"):
    kl_estimators.kl_penalty_loss(zeros, zeros, estimator="kl")
  with pytest.raises(AssertionError, match=r"logp_old \(3,\)"):
    kl_estimators.kl_penalty_loss(zeros, zeros, jnp.zeros(3))
  for fn in (
    kl_estimators.kl_penalty_loss,
    kl_estimators.sequence_kl_k2_surrogate,
    kl_estimators.sequence_kl_to_go_surrogate,
  ):
    with pytest.raises(AssertionError, match=r"ref_logp \(3,\)"):
      fn(zeros, jnp.zeros(3))
    with pytest.raises(AssertionError, match=r"where \(3,\)"):
      fn(zeros, zeros, where=jnp.ones(3, bool))
    with pytest.raises(AssertionError, match="ref_logp int"):
      fn(zeros, jnp.zeros((2, 3), int))
  logits, ids = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int)
  rao_blackwell_kl = kl_estimators.rao_blackwell_kl
  with pytest.raises(AssertionError, match=r"ref_logits \(3, 4\)"):
    rao_blackwell_kl(logits, logits[0], ids)
  with pytest.raises(AssertionError, match=r"ids \(2,\)"):
    rao_blackwell_kl(logits, logits, ids[:, 0])
  with pytest.raises(AssertionError, match="need integers: ids"):
    rao_blackwell_kl(logits, logits, zeros)
  with pytest.raises(AssertionError, match=r"where \(3,\)"):
    rao_blackwell_kl(logits, logits, ids, where=jnp.ones(3, bool))

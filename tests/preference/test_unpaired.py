# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

RNG = np.random.default_rng(0)
H = np.concatenate(
  [
    golden.PAIRS.policy_chosen - golden.PAIRS.ref_chosen,
    golden.PAIRS.policy_rejected - golden.PAIRS.ref_rejected,
  ]
)
GOOD = np.array([True, True, False, False])

# Laws of good and of bad completions, and 20 examples of each that have them.
P, REF = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.2, 0.3, 0.4])
Q = P[::-1]
AT_P = np.repeat(np.arange(4), (20 * P).round().astype(int))
AT, LABEL = np.concatenate([AT_P, 3 - AT_P]), np.arange(40) < 20


def all_losses(h, label, where, log_ema, z0, delta, ratio):
  """Every loss of the module, for tests of what they share."""
  return (
    preference.kldo_loss(h, label, where=where),
    preference.kldo_loss(h, label, log_ema, where=where),
    preference.bco_loss(h, label, delta, ratio, where=where),
    preference.kto_loss(h, label, z0, where=where),
    preference.kto_reference_point(h, where=where),
    preference.bco_delta_update(
      preference.BCODelta(delta, jnp.full((), 3)), h, where=where
    ),
  )


def inputs(rows=2):
  """Rows of random examples, a third of them padding."""
  shape = (rows, 6)
  label, where = RNG.uniform(size=shape) < 0.5, np.arange(6) < 4
  label[:, :2] = True, False
  state = RNG.normal(size=(3, rows))
  ratio = RNG.uniform(0, 3, size=shape)
  where = np.broadcast_to(where, shape)
  return 4 * RNG.normal(size=shape), label, where, *state, ratio


def test_golden_values():
  golden.assert_golden(preference.kldo_loss(H, GOOD).loss, 0.052792)
  bco = preference.bco_loss(H, GOOD, -0.0275)
  golden.assert_golden(bco.loss, [0.608330, 0.810573, 0.643210, 0.769614])
  np.testing.assert_allclose(bco.reward, 0.1 * H, rtol=1e-15)
  kto = preference.kto_loss(H, GOOD, 0.3)
  golden.assert_golden(kto.loss, [0.470036, 0.569546, 0.460085, 0.522485])


def test_kto_without_a_reference_point_is_apo_zero():
  sigmoid = 1 / (1 + np.exp(-0.1 * H))
  expected = np.where(GOOD, 1 - sigmoid, sigmoid)
  helpers.assert_close(preference.kto_loss(H, GOOD, 0.0).loss, expected)


def test_weights_of_kto_and_of_bco():
  plain = preference.kto_loss(H, GOOD, 0.3).loss
  out = preference.kto_loss(
    H, GOOD, 0.3, desirable_weight=2.0, undesirable_weight=3.0
  )
  helpers.assert_close(out.loss, np.where(GOOD, 2, 3) * plain)
  ratio = np.array([100.0, 100.0, 100.0, 2.0])  # of the bad alone, clipped
  plain = preference.bco_loss(H, GOOD, 0.1).loss
  out = preference.bco_loss(H, GOOD, 0.1, ratio)
  helpers.assert_close(out.loss, plain * np.array([1, 1, 10, 2]))
  out = preference.bco_loss(H, GOOD, 0.1, ratio, clip=(3.0, 4.0))
  helpers.assert_close(out.loss, plain * np.array([1, 1, 4, 3]))


# --- optima ------------------------------------------------------------------


def kldo_of(rewards):
  return preference.kldo_loss(rewards[AT], LABEL, beta=1.0).loss


def bco_of(rewards, delta=0.0):
  """The sum of the two means, each of half of the examples."""
  shifted = rewards - delta  # the argument delta is a constant
  out = preference.bco_loss(shifted[AT], LABEL, 0.0, beta=1.0)
  return 2 * jnp.mean(out.loss)


def kto_of(rewards):
  out = preference.kto_loss(rewards[AT], LABEL, 0.0, beta=1.0)
  return 2 * jnp.mean(out.loss)


def dpo_of(rewards):
  """On independent pairs, good ones chosen."""
  loss = functools.partial(preference.dpo_loss, beta=1.0)
  weights = P[:, None] * Q
  return preference.population_loss(loss, rewards, np.zeros(4), weights)


def test_values_at_the_optimum_over_free_rewards():
  def values(x):
    r = x.reshape(3, 4)
    return jnp.stack([kldo_of(r[0]), bco_of(r[1]), dpo_of(r[2])])

  found = preference.minimize_population(
    lambda x: jnp.sum(values(x)), np.zeros(12)
  )
  mixture = P + Q  # log 2 is part of each of its logarithms
  halves = P * np.log(mixture / P) + Q * np.log(mixture / Q)
  least = values(found.x)
  golden.assert_golden(least, [-1.140135, 0.907962, 0.308767])
  expected = [-np.sum(P * np.log(P / Q)), np.sum(halves)]
  helpers.assert_close(least[:2], np.array(expected))


def test_kto_comes_down_to_one_less_total_variation():
  signs = np.sign(P - Q)
  np.testing.assert_allclose(kto_of(np.inf * signs), 0.4, rtol=1e-14)
  values = [float(kto_of(scale * signs)) for scale in (1.0, 5.0, 10.0)]
  # At each outcome |p - q| s(-|r|) is left to lose; their sum is 2 TV.
  excess = 1.2 / (1 + np.exp([1.0, 5.0, 10.0]))
  np.testing.assert_allclose(np.array(values) - 0.4, excess, rtol=1e-9)


def test_policies_are_consistent_with_alignment():
  beta = 0.7

  def rewards(logits):
    return beta * (jax.nn.log_softmax(logits) - np.log(REF))

  def total(x):
    return (
      kldo_of(rewards(x[:4]))
      + bco_of(rewards(x[4:8]), delta=x[12])
      + dpo_of(rewards(x[8:12]))
    )

  found = preference.minimize_population(total, np.zeros(13))
  policies = jax.nn.softmax(found.x[:12].reshape(3, 4))
  expected = REF * (P / Q) ** (1 / beta)
  expected = np.broadcast_to(expected / expected.sum(), (3, 4))
  helpers.assert_close(policies, expected, rtol=0, atol=1e-12)


# --- the state of KLDO and of BCO --------------------------------------------


def test_kldo_with_an_average_divides_by_it():
  """Value of the batch, gradient `e^r / (n ema)`, ema of all batches."""
  ema, rate, r = 1.7, 0.1, 0.1 * H[2:]
  mixed = (1 - rate) * ema + rate * np.mean(np.exp(r))

  def loss(h):
    return preference.kldo_loss(h, GOOD, jnp.log(ema), rate=rate)

  out = loss(H)
  golden.assert_golden(out.loss, 0.052792)
  helpers.assert_close(out.log_ema, np.log(mixed))
  gradient = jax.grad(lambda h: loss(h).loss)(H)
  helpers.assert_close(gradient[:2], np.full(2, -0.1 / 2))
  helpers.assert_close(gradient[2:], 0.1 * np.exp(r) / (2 * mixed))
  # Equal batches: the average goes to their mean, and stays there.
  state = jnp.log(ema)
  for _ in range(200):
    state = preference.kldo_loss(H, GOOD, state, rate=rate).log_ema
  helpers.assert_close(state, np.log(np.mean(np.exp(r))), rtol=1e-6)
  first = preference.kldo_loss(H, GOOD, jnp.array(-jnp.inf))
  helpers.assert_close(first.log_ema, np.log(np.mean(np.exp(r))))
  # Its gradient is then that of the batch.
  helpers.assert_close(
    jax.grad(lambda h: preference.kldo_loss(h, GOOD, first.log_ema).loss)(H),
    jax.grad(lambda h: preference.kldo_loss(h, GOOD).loss)(H),
  )


def test_kldo_makes_bad_completions_less_likely_whatever_the_signs():
  """A ratio of the two terms, -.69 here, would turn the gradient around."""
  rewards = np.array([-0.5, -0.2, 0.4, 0.6])
  ratio = np.mean(rewards[:2]) / np.log(np.mean(np.exp(rewards[2:])))
  assert round(ratio, 2) == -0.69
  gradient = jax.grad(lambda r: preference.kldo_loss(r, GOOD, beta=1.0).loss)(
    rewards
  )
  shares = np.exp(rewards[2:]) / np.sum(np.exp(rewards[2:]))
  helpers.assert_close(gradient, np.concatenate([[-0.5, -0.5], shares]))


def test_bco_delta_is_the_mean_of_all_rewards_so_far():
  rewards = preference.bco_loss(H, GOOD, 0.0).reward
  state = preference.bco_delta_init(dtype=np.float64)
  state = preference.bco_delta_update(state, rewards)
  np.testing.assert_allclose(state.mean, -0.0275, rtol=1e-14)
  more = RNG.normal(size=(3, 5))
  where = RNG.uniform(size=(3, 5)) < 0.6
  for row, keep in zip(more, where, strict=True):
    row = np.where(keep, row, np.nan)
    state = preference.bco_delta_update(state, row, where=keep)
  seen = np.concatenate([rewards, more[where]])
  np.testing.assert_allclose(state.mean, seen.mean(), rtol=1e-14)
  assert state.count == len(seen)
  padding = np.zeros(5, bool)
  same = preference.bco_delta_update(state, more[0], where=padding)
  helpers.assert_close(same, state)


def test_kto_reference_point_is_a_constant_at_least_0():
  value = preference.kto_reference_point(np.array([1.0, -3.0, 5.0]))
  np.testing.assert_allclose(value, 1.0)
  where = np.array([True, True, False])
  h = np.array([1.0, -3.0, np.nan])
  assert preference.kto_reference_point(h, where=where) == 0
  assert preference.kto_reference_point(h, where=np.zeros(3, bool)) == 0

  def loss(h):
    z0 = preference.kto_reference_point(h)
    return preference.kto_loss(H, GOOD, z0).loss.sum()

  assert not np.any(jax.grad(loss)(np.abs(H)))


# --- zeros, padding, one label -----------------------------------------------


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_is_defined(label):
  labels, h = np.full(3, label), np.array([1.0, -2.0, 0.5])

  def losses(h):
    return jnp.stack(
      [
        preference.kldo_loss(h, labels).loss,
        preference.kldo_loss(h, labels, jnp.array(-jnp.inf)).loss,
        preference.bco_loss(h, labels, 0.1).loss.sum(),
        preference.kto_loss(h, labels, 0.1).loss.sum(),
      ]
    )

  assert not np.any(losses(h)[:2])
  gradients = np.asarray(jax.jacobian(losses)(h))
  assert not np.any(gradients[:2])
  assert np.all(np.sign(gradients[2:]) == (-1 if label else 1))
  one = preference.kto_loss(h[:1], labels[:1], 0.1).loss
  helpers.assert_close(one, preference.kto_loss(h, labels, 0.1).loss[:1])


def test_padding_is_as_if_absent():
  h, *args = (x[0] for x in inputs(1))
  keep = args[1]

  def batch_loss(out):
    return sum(jnp.sum(x.loss) for x in out[:4])

  full = np.where(keep, h, np.nan)
  cut = [x[:4] for x in (h, args[0], keep)] + args[2:5] + [args[5][:4]]
  padded = all_losses(full, *args[:5], np.where(keep, args[5], np.nan))
  sliced = all_losses(*cut)
  for kind in (2, 3):  # losses of examples
    assert not np.any(padded[kind].loss[4:])
  trimmed = jax.tree.map(lambda x: x[:4] if np.ndim(x) else x, padded)
  helpers.assert_close(trimmed, sliced)
  gradient = jax.grad(lambda h: batch_loss(all_losses(h, *args)))(full)
  assert not np.any(gradient[4:]) and np.all(np.isfinite(gradient))
  nothing = all_losses(h, args[0], np.zeros(6, bool), *args[2:])
  assert batch_loss(nothing) == 0


def test_a_policy_that_excludes_a_completion():
  """Of good ones KLDO and BCO cost infinitely much, of bad ones nothing."""
  infinite = np.array([-np.inf, 0.3, 0.2, -np.inf])
  none = np.array([-0.1, 0.3, 0.2, -np.inf])
  log_ema = jnp.array(0.0)

  def losses(h):
    return jnp.stack(
      [
        preference.kldo_loss(h, GOOD).loss,
        preference.kldo_loss(h, GOOD, log_ema).loss,
        preference.bco_loss(h, GOOD, 0.1).loss.sum(),
        preference.kto_loss(h, GOOD, 0.1).loss.sum(),
      ]
    )

  assert np.all(losses(infinite)[:3] == np.inf)
  assert np.isfinite(losses(infinite)[3])
  assert np.all(np.isfinite(losses(none)))
  assert np.all(np.isfinite(jax.jacobian(losses)(none)))


def test_gradients_and_transforms():
  args = inputs()
  helpers.assert_transforms(all_losses, *args)
  h, *rest = (x[0] for x in args)

  def loss(h):
    kldo, _, bco, kto, *_ = all_losses(h, *rest)
    return kldo.loss + bco.loss @ np.arange(6.0) + kto.loss @ np.arange(6.0)

  helpers.assert_gradient(loss, h)


def test_bad_input():
  with pytest.raises(AssertionError, match=r"label \(3,\)"):
    preference.kldo_loss(H, GOOD[:3])
  with pytest.raises(AssertionError):  # not -1 and 1
    preference.kto_loss(H, np.where(GOOD, 1, -1), 0.0)
  with pytest.raises(AssertionError, match=r"z0 \(1,\)"):
    preference.kto_loss(H, GOOD, np.zeros(1))
  with pytest.raises(AssertionError, match=r"density_ratio \(2,\)"):
    preference.bco_loss(H, GOOD, 0.0, np.ones(2))
  with pytest.raises(AssertionError, match="state.mean"):
    preference.bco_delta_update(preference.bco_delta_init((2,)), H)
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    preference.bco_loss(H, GOOD, 0.0, beta=0.0)
  with pytest.raises(ValueError, match="undesirable_weight must be above 0"):
    preference.kto_loss(H, GOOD, 0.0, undesirable_weight=0.0)
  with pytest.raises(ValueError, match=r"rate must be in \(0, 1\), was 1"):
    preference.kldo_loss(H, GOOD, rate=1)
  with pytest.raises(ValueError, match="clip must be"):
    preference.bco_loss(H, GOOD, 0.0, clip=(2.0, 1.0))

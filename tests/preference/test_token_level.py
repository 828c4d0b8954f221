# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from jaxalign.preference import token_level
from tests import helpers

RNG = np.random.default_rng(0)
B, T, S, V = 2, 7, 5, 3
# Completions need not be contiguous. Lengths 5 and 3, then 2 and 3.
WHERE_CHOSEN = np.array([[0, 1, 1, 0, 1, 1, 1], [1, 0, 1, 0, 0, 0, 0]], bool)
WHERE_REJECTED = np.array([[1, 1, 0, 1, 0], [0, 0, 1, 1, 1]], bool)
LOGPS = preference.TokenLogps(
  *(-RNG.exponential(size=(B, n)) for n in (T, S, T, S)),
  WHERE_CHOSEN,
  WHERE_REJECTED,
)
LOGITS = RNG.normal(size=(B, T, V))
REJECTED_LOGITS = RNG.normal(size=(B, S, V))
TOKENS = RNG.integers(0, V, (B, T))
REJECTED_TOKENS = RNG.integers(0, V, (B, S))


def sums(logps):
  """Plain sums over the completions."""
  where = (logps.where_chosen, logps.where_rejected) * 2
  return [
    np.sum(np.where(w, x, 0), -1) for x, w in zip(logps[:4], where, strict=True)
  ]


def spoilt(logps):
  """The same pairs with NaN wherever there is no token."""
  where = (logps.where_chosen, logps.where_rejected) * 2
  arrays = [
    np.where(w, x, np.nan) for x, w in zip(logps[:4], where, strict=True)
  ]
  return preference.TokenLogps(*arrays, *logps[4:])


def every_draw(where, count):
  """What is drawn for each order of the uniforms `[orders, T]`."""
  size = int(where.sum())
  orders = np.array(list(itertools.permutations(range(size))))
  uniforms = np.full((len(orders), len(where)), 0.5)
  uniforms[:, where] = (orders + 1) / (size + 1)
  mask = np.broadcast_to(where, uniforms.shape)
  counts = np.full((len(orders), 1), count)
  return np.asarray(token_level._drawn(uniforms, mask, counts))


def test_sampo_draws_every_subset_equally_often():
  draws = every_draw(WHERE_CHOSEN[0], 3)
  assert not draws[:, ~WHERE_CHOSEN[0]].any()
  subsets, times = np.unique(draws, axis=0, return_counts=True)
  assert len(subsets) == 10 and np.all(subsets.sum(-1) == 3)
  assert np.all(times == 12)
  x = LOGPS.policy_chosen[0]
  mean = np.mean(draws @ x)
  np.testing.assert_allclose(mean, 3 / 5 * x[WHERE_CHOSEN[0]].sum(), rtol=1e-13)


def test_sampo_thins_the_longer_completion_only():
  keys = jax.random.split(jax.random.key(0), 300)
  out = jax.vmap(lambda key: preference.sampo_logratio(key, spoilt(LOGPS)))(
    keys
  )
  full = sums(LOGPS)
  # The shorter one's sum is whole, the other's one of ten, or of three.
  np.testing.assert_allclose(out.policy_rejected[:, 0], full[1][0], rtol=1e-12)
  np.testing.assert_allclose(out.policy_chosen[:, 1], full[0][1], rtol=1e-12)
  assert len(np.unique(np.round(out.policy_chosen[:, 0], 9))) == 10
  assert len(np.unique(np.round(out.policy_rejected[:, 1], 9))) == 3
  np.testing.assert_array_equal(out.chosen_length[0], [3, 2])
  np.testing.assert_array_equal(out.rejected_length[0], [3, 2])


def test_equal_lengths_are_dpo():
  logps = LOGPS._replace(
    where_chosen=np.array([[0, 1, 0, 0, 1, 1, 0], [1, 0, 1, 0, 1, 0, 0]], bool)
  )
  out = preference.sampo_logratio(jax.random.key(1), logps)
  whole = preference.PairLogps(*sums(logps))
  helpers.assert_close(preference.dpo_loss(out), preference.dpo_loss(whole))


def test_a_constant_ratio_has_no_margin_left():
  """Also shows one draw for policy and reference: with two h would be noise."""
  where = np.arange(50) < 50, np.arange(50) < 10
  policy = RNG.normal(size=(2, 50))
  logps = preference.TokenLogps(*policy, *(policy - 0.1), *where)
  whole = sums(logps)
  margin = (whole[0] - whole[2]) - (whole[1] - whole[3])
  np.testing.assert_allclose(margin, 4.0, rtol=1e-12)
  out = preference.sampo_logratio(jax.random.key(0), logps)
  chosen = out.policy_chosen - out.ref_chosen
  rejected = out.policy_rejected - out.ref_rejected
  helpers.assert_close((chosen, rejected), (1.0, 1.0), rtol=1e-12)
  assert abs(chosen - rejected) < 1e-13


def test_two_draws_have_the_deviation_of_log_probabilities():
  """`sqrt(m (1 - m/n))` deviations, of ratios or of log-probabilities."""
  size, count = 7, 3
  ref = RNG.normal(size=size)
  policy = ref + 0.05 * RNG.normal(size=size)
  draws = every_draw(np.ones(size, bool), count)
  scale = np.sqrt(count * (1 - count / size))
  one = np.std(draws @ (policy - ref))
  np.testing.assert_allclose(one, scale * np.std(policy - ref, ddof=1))
  two = np.sqrt(np.var(draws @ policy) + np.var(draws @ ref))
  spread = np.var(policy, ddof=1) + np.var(ref, ddof=1)
  np.testing.assert_allclose(two, scale * np.sqrt(spread))
  assert two > 10 * one


def test_ld_weights_positions_of_the_completion():
  for alpha in (1.0, 0.0, 0.3):
    out = preference.ld_logps(spoilt(LOGPS), ld_alpha=alpha)
    for i, (n, m) in enumerate(((5, 3), (2, 2))):
      x = LOGPS.policy_chosen[i][WHERE_CHOSEN[i]]
      assert len(x) == n
      expected = x[:m].sum() + alpha * x[m:].sum()
      np.testing.assert_allclose(out.policy_chosen[i], expected, rtol=1e-13)
      x = LOGPS.ref_rejected[i][WHERE_REJECTED[i]]
      expected = x[:m].sum() + alpha * x[m:].sum()
      np.testing.assert_allclose(out.ref_rejected[i], expected, rtol=1e-13)
    if alpha == 1:
      helpers.assert_close(out[:4], tuple(sums(LOGPS)))


def test_ld_of_zero_never_sees_the_tail():
  logps = LOGPS._replace(policy_chosen=LOGPS.policy_chosen.copy())
  logps.policy_chosen[0, 6] = -np.inf
  out = preference.ld_logps(logps, ld_alpha=0.0)
  assert np.all(np.isfinite(out.policy_chosen))


def wpo(chosen, rejected, clip_max=None):
  return preference.wpo_weights(
    chosen,
    TOKENS,
    rejected,
    REJECTED_TOKENS,
    where_chosen=WHERE_CHOSEN,
    where_rejected=WHERE_REJECTED,
    clip_max=clip_max,
  )


def test_wpo_weights_of_a_loop():
  logs = []
  for logits, tokens, where in (
    (LOGITS, TOKENS, WHERE_CHOSEN),
    (REJECTED_LOGITS, REJECTED_TOKENS, WHERE_REJECTED),
  ):
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    picked = np.take_along_axis(probs, tokens[..., None], -1)[..., 0]
    terms = np.log(picked / (probs**2).sum(-1))
    logs.append([np.mean(terms[i][where[i]]) for i in range(B)])
  expected = np.exp(np.sum(logs, 0))
  weights = wpo(
    np.where(WHERE_CHOSEN[..., None], LOGITS, np.nan), REJECTED_LOGITS
  )
  np.testing.assert_allclose(weights, expected, rtol=1e-12)
  clipped = wpo(LOGITS, REJECTED_LOGITS, clip_max=float(expected.min()))
  np.testing.assert_allclose(clipped, expected.min(), rtol=1e-12)
  gradient = jax.grad(lambda x: jnp.sum(wpo(x, REJECTED_LOGITS)))(LOGITS)
  assert not np.any(gradient)


def test_a_drawn_token_has_mean_weight_one():
  tokens = np.arange(V)[:, None]
  logits = np.broadcast_to(LOGITS[0, :1], (V, 1, V))
  weights = preference.wpo_weights(
    logits,
    tokens,
    logits,
    tokens,
    where_chosen=np.ones((V, 1), bool),
    where_rejected=np.zeros((V, 1), bool),  # no token: weight 1
  )
  probs = np.exp(LOGITS[0, 0]) / np.exp(LOGITS[0, 0]).sum()
  np.testing.assert_allclose(probs @ weights, 1, rtol=1e-14)


def every(key, *arrays):
  """All functions of this module, as one."""
  logps = preference.TokenLogps(*arrays[:6])
  weights = preference.wpo_weights(
    arrays[6],
    jnp.zeros(T, int),
    arrays[7],
    jnp.zeros(S, int),
    where_chosen=logps.where_chosen,
    where_rejected=logps.where_rejected,
  )
  drawn = preference.sampo_logratio(key, logps)
  weighted = preference.ld_logps(logps, ld_alpha=0.5)
  losses = [preference.dpo_loss(x).loss for x in (drawn, weighted)]
  return drawn, weighted, weights, *losses


def test_transforms():
  keys = jax.random.split(jax.random.key(3))
  helpers.assert_transforms(every, keys, *LOGPS, LOGITS, REJECTED_LOGITS)


def test_gradient_and_what_is_masked():
  key = jax.random.key(4)

  def total(chosen, rejected):
    logps = LOGPS._replace(policy_chosen=chosen, policy_rejected=rejected)
    *_, drawn, weighted = jax.vmap(every)(
      jnp.stack([key, key]), *logps, LOGITS, REJECTED_LOGITS
    )
    return jnp.sum(drawn) + jnp.sum(weighted)

  helpers.assert_gradient(total, *LOGPS[:2])
  gradient = jax.jit(jax.grad(total))(
    np.where(WHERE_CHOSEN, LOGPS[0], np.nan), LOGPS[1]
  )
  assert not np.any(np.asarray(gradient)[~WHERE_CHOSEN])
  assert not np.any(np.isnan(gradient))


def test_an_empty_completion():
  logps = LOGPS._replace(where_chosen=np.zeros((B, T), bool))
  out = preference.sampo_logratio(jax.random.key(0), logps)
  assert not np.any(out.policy_chosen) and not np.any(out.policy_rejected)
  np.testing.assert_allclose(preference.dpo_loss(out).loss, np.log(2))
  out = preference.ld_logps(logps, ld_alpha=0.5)
  assert not np.any(out.policy_chosen)
  helpers.assert_close(out.policy_rejected, sums(LOGPS)[1] / 2)


def test_refusals():
  wrong = LOGPS._replace(where_chosen=WHERE_CHOSEN[0])
  with pytest.raises(AssertionError, match=r"where_chosen \(7,\)"):
    preference.sampo_logratio(jax.random.key(0), wrong)
  one = [x[:1] for x in LOGPS]
  wrong = preference.TokenLogps(
    *(one[i] if i % 2 else LOGPS[i] for i in range(6))
  )
  with pytest.raises(AssertionError, match=r"chosen \(2,\), rejected \(1,\)"):
    preference.ld_logps(wrong, ld_alpha=0.5)
  with pytest.raises(ValueError, match=r"ld_alpha must be in \[0, 1\], was 2"):
    preference.ld_logps(LOGPS, ld_alpha=2)
  with pytest.raises(ValueError, match="clip_max must be above 0, was 0"):
    wpo(LOGITS, REJECTED_LOGITS, clip_max=0)
  with pytest.raises(AssertionError, match=r"positions \(2, 6\)"):
    wpo(LOGITS[:, 1:], REJECTED_LOGITS)

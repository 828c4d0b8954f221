# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from jaxalign.rl import covariance, surrogates
from tests import helpers

WHERE = jnp.arange(4) < jnp.array([4, 2, 0])[:, None]


SCALE = jnp.array([0.5, 1, 1])[:, None, None]


def draw(key):
  """Log-ratios, advantages and log-probabilities `[3, 4]`."""
  return jax.random.normal(key, (3, 3, 4)) * SCALE


def slope_of(loss, x):
  """The gradient of a loss's sum."""
  return jax.grad(lambda y: jnp.sum(loss(y).loss))(x)


def test_levels_of_the_ratio(key):
  logp, old, _ = draw(key)
  lr = np.where(WHERE, logp - old, 0)
  lengths = np.array([4, 2, 1])[:, None]
  assert surrogates.LEVELS[3] == "sequence_mean_token"
  for level, expected in (
    ("token", lr),
    ("sequence", np.where(WHERE, lr.sum(1, keepdims=True), 0)),
    ("sequence_mean", np.where(WHERE, lr.sum(1, keepdims=True) / lengths, 0)),
  ):
    actual = surrogates.log_ratio(
      jnp.where(WHERE, logp, jnp.nan),
      jnp.where(WHERE, old, -jnp.inf),
      where=WHERE,
      level=level,
    )
    helpers.assert_close(actual, expected)
  # The geometric mean of the tokens' ratios, with each token's own gradient.
  helpers.assert_close(jnp.exp(actual[0, 0]), np.prod(np.exp(lr[0])) ** (1 / 4))

  def token_mean(x):
    return surrogates.log_ratio(
      x, old, where=WHERE, level="sequence_mean_token"
    )

  helpers.assert_close(token_mean(logp), actual)
  jacobian = jax.jacobian(token_mean)(logp)[0, :, 0]
  helpers.assert_close(jacobian, np.eye(4), atol=0)


def test_clip_against_rlax(key):
  lr, advantages, _ = draw(key)
  loss = surrogates.clip_loss(lr, advantages, eps_low=0.2, eps_high=0.2).loss
  expected = rlax.clipped_surrogate_pg_loss(
    jnp.exp(lr).ravel(), advantages.ravel(), 0.2
  )
  helpers.assert_close(jnp.mean(loss), expected)
  slope, rlax_slope = (
    jax.grad(fn)(lr)
    for fn in (
      lambda x: jnp.mean(surrogates.clip_loss(x, advantages).loss),
      lambda x: rlax.clipped_surrogate_pg_loss(
        jnp.exp(x).ravel(), advantages.ravel(), 0.2
      ),
    )
  )
  helpers.assert_close(slope, rlax_slope)


def test_reinforce_against_rlax(key):
  logits, advantages = jax.random.normal(key, (5, 3)), jnp.arange(5.0) - 2
  actions = jnp.array([0, 2, 1, 1, 0])

  def mine(x):
    logp = jnp.take_along_axis(jax.nn.log_softmax(x), actions[:, None], -1)
    return jnp.mean(surrogates.reinforce_loss(advantages, logp[:, 0]).loss)

  def theirs(x):
    return rlax.policy_gradient_loss(x, actions, advantages, jnp.ones(5))

  helpers.assert_close(
    jax.value_and_grad(mine)(logits), jax.value_and_grad(theirs)(logits)
  )


def test_clipped_is_where_the_gradient_vanishes(key):
  lr, advantages, _ = draw(key)
  lr = 2 * lr
  for options in ({}, {"dual_clip": 1.5}, {"delta": 1.6}, {"eps_high": 0.5}):
    fn = functools.partial(
      surrogates.clip_loss, advantages=advantages, **options
    )
    slope, clipped = slope_of(fn, lr), fn(lr).clipped
    np.testing.assert_array_equal(slope == 0, clipped)
    assert 0 < clipped.sum() < clipped.size


def test_dual_clip_equals_delta():
  """Printed: r = .5, .9, 1.5, 5 and A = -1 give .8, .9, 1.5, 3."""
  lr = jnp.log(jnp.array([0.5, 0.9, 1.5, 5.0]))
  both = []
  for options in ({"dual_clip": 3.0}, {"delta": 3.0}):
    fn = functools.partial(
      surrogates.clip_loss, advantages=-jnp.ones(4), **options
    )
    both.append((fn(lr).loss, slope_of(fn, lr)))
  helpers.assert_close(*both)
  loss = surrogates.clip_loss(lr, -jnp.ones(4), dual_clip=3.0).loss
  helpers.assert_close(loss, jnp.array([0.8, 0.9, 1.5, 3.0]))


def test_gmpo_by_hand():
  lr = np.array([[1.0, -1.0, 0.1, 9.9]])
  where = jnp.array([[True, True, True, False]])
  kept = {1.0: [0.4, -1.0, 0.1], -1.0: [1.0, -0.4, 0.1]}
  for sign, x in kept.items():
    loss = surrogates.gmpo_loss(jnp.asarray(lr), jnp.full((1, 4), sign), where)
    expected = -np.exp(np.mean(x)) * sign
    helpers.assert_close(loss.loss, np.array([[expected] * 3 + [0.0]]))
    np.testing.assert_array_equal(loss.clipped[0, :3], np.array(x) != lr[0, :3])


def test_sapo_slope():
  """d/dr is -A sech^2(tau (r - 1) / 2), 1 at r = 1."""
  ratio = jnp.array([0.3, 1.0, 1.7])
  for sign, tau in ((1.0, 1.0), (-1.0, 1.05)):
    fn = functools.partial(surrogates.sapo_loss, advantages=jnp.full(3, sign))
    slope = slope_of(fn, jnp.log(ratio)) / ratio
    expected = -sign / np.cosh(tau * (np.asarray(ratio) - 1) / 2) ** 2
    helpers.assert_close(slope, expected)


def test_vespo_kernel():
  """phi(1) = 1; largest at k / lam: 1.208 at 2/3 and 1.242 at 3/2."""

  def phi(log_w, sign):
    # The loss at log pi = -1 is A phi.
    ones = jnp.ones_like(log_w)
    loss = surrogates.vespo_loss(log_w, sign * ones, -ones).loss
    return sign * loss

  for sign, argmax, most in ((1.0, 2 / 3, 1.208), (-1.0, 1.5, 1.242)):
    assert abs(phi(jnp.zeros(1), sign)[0] - 1) < 1e-12
    at = jnp.log(jnp.array([argmax]))
    assert abs(phi(at, sign)[0] - most) < 5e-4
    near = phi(at[0] + jnp.array([-1e-3, 1e-3]), sign)
    assert jnp.all(near < phi(at, sign))
  # The score has no part of the kernel's slope.
  slope = jax.grad(
    lambda x: surrogates.vespo_loss(x, jnp.ones(1), x - 1).loss[0]
  )(jnp.array([0.3]))
  helpers.assert_close(-slope, phi(jnp.array([0.3]), 1.0))


def test_cispo_caps_the_weight_and_keeps_the_score():
  lr = jnp.log(jnp.array([0.5, 2.0, 50.0]))
  slope = jax.grad(
    lambda x: jnp.sum(surrogates.cispo_loss(lr, jnp.ones(3), x).loss)
  )(lr)
  helpers.assert_close(slope, -jnp.array([0.5, 2.0, 5.0]))


def test_one_gradient_at_the_old_policy(key):
  """grpo, gspo, gspo_token, gmpo, cispo, sapo and vespo agree there."""
  logp, advantages, _ = draw(key)
  advantages = jnp.broadcast_to(advantages[:, :1], WHERE.shape)
  lengths = jnp.maximum(WHERE.sum(-1, keepdims=True), 1)

  def ratio(x, level="token"):
    return surrogates.log_ratio(x, logp, where=WHERE, level=level)

  losses = {
    "grpo": lambda x: surrogates.clip_loss(ratio(x), advantages),
    "gspo": lambda x: surrogates.clip_loss(
      ratio(x, "sequence_mean"), advantages
    ),
    "gspo_token": lambda x: surrogates.gspo_token_loss(
      x, logp, advantages, where=WHERE
    ),
    "gmpo": lambda x: surrogates.gmpo_loss(ratio(x), advantages, WHERE),
    "cispo": lambda x: surrogates.cispo_loss(ratio(x), advantages, x),
    "sapo": lambda x: surrogates.sapo_loss(ratio(x), advantages),
    "vespo": lambda x: surrogates.vespo_loss(
      ratio(x, "sequence"), advantages, x
    ),
  }

  def total(x, name):
    return jnp.sum(jnp.where(WHERE, losses[name](x).loss, 0) / lengths)

  actual = jax.jit(
    lambda x: {name: jax.grad(total)(x, name) for name in losses}
  )(logp)
  expected = jnp.where(WHERE, -advantages / lengths, 0)
  for name, gradient in actual.items():
    assert np.max(np.abs(gradient - expected)) < 1e-15, name


def test_gspo_and_gspo_token_agree_off_policy(key):
  logp, old, advantages = draw(key)
  old = logp + 1e-3 * old  # within and beyond clips of a few 1e-4
  advantages = jnp.broadcast_to(advantages[:, :1], WHERE.shape)

  def both(x):
    mean = surrogates.log_ratio(x, old, where=WHERE, level="sequence_mean")
    return jnp.stack(
      [
        surrogates.clip_loss(
          mean, advantages, eps_low=3e-4, eps_high=4e-4
        ).loss,
        surrogates.gspo_token_loss(x, old, advantages, where=WHERE).loss,
      ]
    )

  kept = jnp.where(WHERE, both(logp), 0)
  helpers.assert_close(kept[0], kept[1])
  rows = jax.jacobian(lambda x: jnp.sum(jnp.where(WHERE, both(x), 0), (1, 2)))(
    logp
  )
  helpers.assert_close(rows[0], rows[1])


def test_covariance_losses_by_hand(key):
  lr, advantages, logp = draw(key)
  valid = np.asarray(WHERE)
  a, x = np.asarray(advantages), np.asarray(logp)
  cov = (a - a[valid].mean()) * (x - x[valid].mean())
  share = 0.34  # of six tokens: two
  top = np.zeros(valid.shape, bool)
  top.flat[np.argsort(np.where(valid, -cov, np.inf), None)[:2]] = True
  kl = covariance.kl_cov_loss(
    lr, advantages, logp, WHERE, share=share, coefficient=0.7
  )
  expected = -np.exp(lr) * a + 0.7 * np.abs(lr) * top
  helpers.assert_close(
    np.where(valid, kl.loss, 0), np.where(valid, expected, 0)
  )
  np.testing.assert_array_equal(kl.clipped, top)
  eligible = valid & (cov > 0.01) & (cov < 5)
  held = covariance.clip_cov_loss(
    lr, advantages, logp, WHERE, key, share=share, min_cov=0.01
  )
  plain = surrogates.clip_loss(lr, advantages)
  left_out = np.asarray(held.clipped & ~plain.clipped)
  assert 0 < left_out.sum() <= 2 and not np.any(left_out & ~eligible)
  kept = ~np.asarray(held.clipped) | np.asarray(plain.clipped)
  helpers.assert_close(
    np.where(kept & valid & ~eligible, held.loss, 0),
    np.where(kept & valid & ~eligible, plain.loss, 0),
  )
  # Every eligible token is left out by some key, no other by any.
  often = np.mean(
    jax.vmap(
      lambda k: (
        covariance.clip_cov_loss(
          lr, advantages, logp, WHERE, k, share=share, min_cov=0.01
        ).loss
        == 0
      )
    )(jax.random.split(key, 50)),
    0,
  )
  np.testing.assert_array_equal((often > 0) & valid, eligible)


def test_ratio_losses_differentiate(key):
  lr, advantages, logp = draw(key)[:, :2]

  def total(x, y):
    return (
      jnp.sum(surrogates.sapo_loss(x, advantages).loss)
      + jnp.sum(surrogates.clip_loss(x, advantages).loss)
      + jnp.sum(surrogates.gmpo_loss(x, advantages, WHERE[:2]).loss)
      + jnp.sum(surrogates.reinforce_loss(advantages, y).loss)
      + jnp.sum(covariance.kl_cov_loss(x, advantages, logp, WHERE[:2]).loss)
    )

  helpers.assert_gradient(total, lr, logp)


def test_zero_advantage_beside_an_overflow():
  with jax.debug_nans(True):
    lr, advantages = jnp.array([1e4, -jnp.inf]), jnp.zeros(2)
    for loss in (surrogates.clip_loss, surrogates.sapo_loss):
      fn = functools.partial(loss, advantages=advantages)
      assert not np.any(fn(lr).loss) and not np.any(slope_of(fn, lr))
  # With an advantage the overflow is seen, not hidden.
  assert jnp.isposinf(surrogates.clip_loss(lr, -jnp.ones(2)).loss[0])


def test_transforms(key):
  args = tuple(draw(key)[:, :2])

  def everything(lr, advantages, logp):
    where = jnp.arange(4) < 3
    return (
      surrogates.log_ratio(logp, lr, where=where, level="sequence_mean"),
      surrogates.clip_loss(lr, advantages, dual_clip=3.0),
      surrogates.gspo_token_loss(logp, lr, advantages, where=where),
      surrogates.gmpo_loss(lr, advantages, where),
      surrogates.sapo_loss(lr, advantages),
      surrogates.reinforce_loss(advantages, logp),
      surrogates.cispo_loss(lr, advantages, logp),
      surrogates.vespo_loss(lr, advantages, logp),
      covariance.kl_cov_loss(lr, advantages, logp, where),
      covariance.clip_cov_loss(
        lr, advantages, logp, where, jax.random.key(0), min_cov=0.01
      ),
    )

  helpers.assert_transforms(everything, *args)


def test_bad_input():
  x, ones = jnp.zeros((2, 3)), jnp.ones((2, 3), bool)
  with pytest.raises(AssertionError, match="need one shape: advantages"):
    surrogates.clip_loss(x, jnp.zeros(2))
  with pytest.raises(ValueError, match="dual_clip must be above 1, was 1"):
    surrogates.clip_loss(x, x, dual_clip=1.0)
  with pytest.raises(ValueError, match="delta must be above 1 .* = 1.2"):
    surrogates.clip_loss(x, x, delta=1.1)
  with pytest.raises(ValueError, match="eps_low must be above 0"):
    surrogates.clip_loss(x, x, eps_low=-0.1)
  with pytest.raises(ValueError, match="unknown level 'word'"):
    surrogates.log_ratio(x, x, where=ones, level="word")
  with pytest.raises(ValueError, match="cap must be above 0"):
    surrogates.cispo_loss(x, x, x, cap=0.0)
  with pytest.raises(ValueError, match="share must be above 0"):
    covariance.kl_cov_loss(x, x, x, ones, share=0.0)

# SPDX-License-Identifier: Apache-2.0
"""Losses of single completions with a label, good or bad; no pairs.

With `h = log(pi/ref)` of a completion, the reward is `beta h`. Arrays are
`[..., n]`, the n examples of a batch last. KLDO is a loss of the batch; BCO and
KTO are losses of examples, of which the caller takes the mean.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import variational

__all__ = (
  "BCODelta",
  "KLDOLoss",
  "UnpairedLoss",
  "bco_delta_init",
  "bco_delta_update",
  "bco_loss",
  "kldo_loss",
  "kto_loss",
  "kto_reference_point",
)

Mask = jax.Array | None


class UnpairedLoss(NamedTuple):
  """A loss of labelled examples, and what it reports.

  Attributes:
    loss: `[..., n]`, to be minimised; 0 for padding.
    reward: `[..., n]`, `beta log(pi/ref)`, without gradient; 0 for padding.
  """

  loss: jax.Array
  reward: jax.Array


class KLDOLoss(NamedTuple):
  """A loss of a batch, and what it reports.

  Attributes:
    loss: `[...]`, to be minimised.
    reward: `[..., n]`, `beta log(pi/ref)`, without gradient; 0 for padding.
    log_ema: `[...]`, the state for the next batch, without gradient; `None`
      where none was given.
  """

  loss: jax.Array
  reward: jax.Array
  log_ema: jax.Array | None


class BCODelta(NamedTuple):
  """The mean of all rewards so far.

  Attributes:
    mean: `[...]`, nats; 0 before the first.
    count: int32 `[...]`, of rewards seen.
  """

  mean: jax.Array
  count: jax.Array


def _read(
  h: jax.Array, label: jax.Array, where: Mask, beta: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Log-ratios that are 0 where padded, rewards, and what is no padding."""
  if where is None:
    where = jnp.ones(jnp.shape(h), bool)
  checks.check_same_shape(h=h, label=label, where=where)
  checks.check_float(h=h)
  # Labels of -1 and 1 would all count as true.
  chex.assert_type([label, where], bool)
  checks.check_positive(beta=beta)
  h = jnp.where(where, numerics.as_float(h), 0)
  return h, jax.lax.stop_gradient(beta * h), where


def _of_batch(name: str, value: jax.Array, h: jax.Array) -> jax.Array:
  """A constant `[...]` of each batch, as `[..., 1]`."""
  value = jax.lax.stop_gradient(jnp.asarray(value, h.dtype))
  checks.check_same_shape(**{name: value, "h[..., 0]": h[..., 0]})
  return value[..., None]


def kldo_loss(
  h: jax.Array,
  label: jax.Array,
  log_ema: jax.Array | None = None,
  *,
  beta: float = 0.1,
  rate: float = 0.1,
  where: Mask = None,
) -> KLDOLoss:
  """KL divergence optimisation, from good and bad completions. Batch-level.

  `-mean_good(beta h) + log mean_bad e^(beta h)`. Over laws p of good and q of
  bad completions its least value is `-KL(p||q)`, and its minimiser the policy
  `ref (p/q)^(1/beta)`. It is minus `divergences.donsker_varadhan` of the
  rewards.

  The logarithm makes gradients of minibatches biased. With a state the second
  term's gradient divides by a moving average of `mean_bad e^(beta h)` instead
  of the batch's own. The released code also scales the second term by a
  detached ratio of the two terms; the ratio is negative where these differ in
  sign, and bad completions then become more likely: it is left out here.

  Args:
    h: `[..., n]`, `log(pi/ref)` of completions; differentiated.
    label: bool `[..., n]`, whether a completion is good.
    log_ema: `[...]`, the state: `log_ema` of the last batch, -inf before the
      first. Without it the batch's own mean is taken.
    beta: above 0, nats of reward per nat of log-ratio.
    rate: of the moving average, in (0, 1): the weight of this batch.
    where: bool `[..., n]`, false for padding; all by default.

  Returns:
    `KLDOLoss`, its loss `[...]`. A batch without good or without bad examples
    has loss 0.

  Raises:
    AssertionError: shapes do not fit, h is not floating point, or label or
      where not bool.
    ValueError: an option outside its range.

  >>> h, label = jnp.array([1., 3., 0.]), jnp.array([True, True, False])
  >>> print(kldo_loss(h, label, beta=1.).loss)
  -2.0

  Reference:
    LLM Safety Alignment is Divergence Estimation in Disguise (2502.00657);
    the moving average is that of MINE (1801.04062), section 3.2.
  """
  if not 0 < rate < 1:
    raise ValueError(f"rate must be in (0, 1), was {rate}")
  h, reward, where = _read(h, label, where, beta)
  critic = beta * h
  masks = dict(where_p=label & where, where_q=~label & where)
  if log_ema is None:
    bound = variational.donsker_varadhan(critic, critic, **masks)
  else:
    bound, log_ema = variational.donsker_varadhan_ema(
      critic, critic, log_ema, decay=1 - rate, **masks
    )
  return KLDOLoss(-bound, reward, log_ema)


def bco_loss(
  h: jax.Array,
  label: jax.Array,
  delta: jax.Array,
  density_ratio: jax.Array | None = None,
  *,
  beta: float = 0.1,
  clip: tuple[float, float] = (0.5, 10.0),
  where: Mask = None,
) -> UnpairedLoss:
  """Binary classifier optimisation: tell good from bad by the reward.

  `-log sigmoid(beta h - delta)` of the good, `-log sigmoid(delta - beta h)` of
  the bad. Over laws p of good and q of bad completions the sum of the two means
  is at least `2 log 2 - 2 JS(p, q)`, reached at `beta h - delta = log(p/q)`.
  With a free delta the minimiser is `ref (p/q)^(1/beta)`; with a fixed one it
  is not, for `E_ref e^h = 1` leaves the rewards no constant of their own.

  Args:
    h: `[..., n]`, `log(pi/ref)` of completions; differentiated.
    label: bool `[..., n]`, whether a completion is good.
    delta: `[...]`, the mean of all rewards so far, a constant (see
      `bco_delta_update`).
    density_ratio: `[..., n]`, how much likelier the prompt is among good than
      among bad examples, a constant: it weights the losses of the bad.
    beta: above 0, nats of reward per nat of log-ratio.
    clip: least and largest weight.
    where: bool `[..., n]`, false for padding; all by default.

  Returns:
    `UnpairedLoss`, arrays `[..., n]`. One label alone is fine.

  Raises:
    AssertionError: shapes do not fit, h is not floating point, or label or
      where not bool.
    ValueError: an option outside its range.

  >>> h, label = jnp.array([0., 0.]), jnp.array([True, False])
  >>> good, bad = bco_loss(h, label, 1.).loss
  >>> print(f"{good:.4f} {bad:.4f}")
  1.3133 0.3133

  Reference:
    Binary Classifier Optimization (2404.04656).
  """
  if not 0 < clip[0] <= clip[1]:
    raise ValueError(f"clip must be (least, largest), both > 0, was {clip}")
  h, reward, where = _read(h, label, where, beta)
  x = beta * h - _of_batch("delta", delta, h)
  loss = -jax.nn.log_sigmoid(jnp.where(label, x, -x))
  if density_ratio is not None:
    checks.check_same_shape(h=h, density_ratio=density_ratio)
    weight = jnp.clip(jnp.asarray(density_ratio, h.dtype), *clip)
    loss *= jnp.where(label | ~where, 1, jax.lax.stop_gradient(weight))
  return UnpairedLoss(jnp.where(where, loss, 0), reward)


def bco_delta_init(
  shape: tuple[int, ...] = (), dtype: jax.typing.DTypeLike = jnp.float32
) -> BCODelta:
  """BCO's delta before any reward: 0.

  Args:
    shape: of delta, the leading axes of the rewards.
    dtype: of the mean.

  Returns:
    `BCODelta`.

  >>> bco_delta_init().mean
  Array(0., dtype=float32)

  Reference:
    Binary Classifier Optimization (2404.04656).
  """
  return BCODelta(jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.int32))


def bco_delta_update(
  state: BCODelta, rewards: jax.Array, *, where: Mask = None
) -> BCODelta:
  """The mean of all rewards, these included.

  `mean + (sum - n mean) / (count + n)`: every reward ever seen counts alike.
  (Released code elsewhere mixes the average with itself: it never moves.)

  Args:
    state: `BCODelta`, arrays `[...]`.
    rewards: `[..., n]`, of good and bad completions, finite: the `reward` of
      `bco_loss`.
    where: bool `[..., n]`, false for padding; all by default.

  Returns:
    `BCODelta`; the state itself where all is padding.

  Raises:
    AssertionError: shapes do not fit, or rewards are not floating point.

  >>> state = bco_delta_update(bco_delta_init(), jnp.array([1., 3.]))
  >>> state = bco_delta_update(state, jnp.array([5.]))
  >>> print(*state)
  3.0 3

  Reference:
    Binary Classifier Optimization (2404.04656).
  """
  checks.check_float(rewards=rewards)
  if where is None:
    where = jnp.ones(jnp.shape(rewards), bool)
  checks.check_same_shape(rewards=rewards, where=where)
  checks.check_same_shape(
    **{"state.mean": state.mean, "rewards[..., 0]": rewards[..., 0]}
  )
  rewards = jax.lax.stop_gradient(jnp.asarray(rewards, state.mean.dtype))
  count = state.count + jnp.sum(where, -1, dtype=state.count.dtype)
  excess = numerics.masked_sum(rewards - state.mean[..., None], where, -1)
  mean = state.mean + excess / jnp.maximum(count, 1).astype(excess.dtype)
  return BCODelta(mean, count)


def kto_loss(
  h: jax.Array,
  label: jax.Array,
  z0: jax.Array,
  *,
  beta: float = 0.1,
  desirable_weight: float = 1.0,
  undesirable_weight: float = 1.0,
  where: Mask = None,
) -> UnpairedLoss:
  """Kahneman-Tversky optimisation: gains and losses against a reference point.

  `w_D (1 - sigmoid(beta (h - z0)))` of the good, `w_U (1 - sigmoid(beta (z0 -
  h)))` of the bad: z0 is a log-ratio, which beta multiplies as well. With
  `z0 = 0` it is APO-zero for single completions. Over laws p of good and q of
  bad completions the sum of the two means is above `1 - TV(p, q)`, which it
  approaches as rewards go to infinity: there is no finite minimiser.

  Args:
    h: `[..., n]`, `log(pi/ref)` of completions; differentiated.
    label: bool `[..., n]`, whether a completion is good.
    z0: `[...]`, a constant (see `kto_reference_point`).
    beta: above 0, nats of reward per nat of log-ratio.
    desirable_weight: w_D, above 0.
    undesirable_weight: w_U, above 0.
    where: bool `[..., n]`, false for padding; all by default.

  Returns:
    `UnpairedLoss`, arrays `[..., n]`. One label alone is fine.

  Raises:
    AssertionError: shapes do not fit, h is not floating point, or label or
      where not bool.
    ValueError: an option not above 0.

  >>> h, label = jnp.array([0., 0.]), jnp.array([True, False])
  >>> good, bad = kto_loss(h, label, 1., beta=1.).loss
  >>> print(f"{good:.4f} {bad:.4f}")
  0.7311 0.2689

  Reference:
    KTO (2402.01306), equation 8.
  """
  checks.check_positive(
    desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
  )
  h, reward, where = _read(h, label, where, beta)
  x = beta * (h - _of_batch("z0", z0, h))
  loss = jnp.where(
    label,
    desirable_weight * jax.nn.sigmoid(-x),
    undesirable_weight * jax.nn.sigmoid(x),
  )
  return UnpairedLoss(jnp.where(where, loss, 0), reward)


def kto_reference_point(
  mismatched_h: jax.Array, *, where: Mask = None
) -> jax.Array:
  """KTO's z0, an estimate of `KL(pi||ref)` that is not negative. Batch-level.

  `max(0, mean h)` over completions that were written for other prompts: score
  the i-th prompt with `jnp.roll(completions, 1, 0)`.

  Args:
    mismatched_h: `[..., n]`, `log(pi/ref)`, not multiplied by beta.
    where: bool `[..., n]`, false for padding; all by default.

  Returns:
    `[...]`, nats, without gradient; 0 where all is padding.

  Raises:
    AssertionError: shapes differ, or the type is not floating point.

  >>> print(kto_reference_point(jnp.array([1., 2.])))
  1.5

  Reference:
    KTO (2402.01306), section 4.2.
  """
  checks.check_float(mismatched_h=mismatched_h)
  if where is None:
    where = jnp.ones(jnp.shape(mismatched_h), bool)
  checks.check_same_shape(mismatched_h=mismatched_h, where=where)
  h = jax.lax.stop_gradient(numerics.as_float(mismatched_h))
  return jnp.maximum(0, numerics.masked_mean(h, where, -1))

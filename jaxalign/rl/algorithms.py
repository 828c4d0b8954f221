# SPDX-License-Identifier: Apache-2.0
"""One policy-gradient loss, composed of its parts.

  ratio level -> surrogate of each token -> correction -> divergence -> average

An algorithm is a choice of these parts: `ALGORITHMS` names the published ones,
`algorithm("gspo", eps_low=1e-3)` changes what it likes, and a
`PolicyLossConfig` that is written by hand combines anything with anything. What
advantages are is up to the caller (see `group_advantages`).

A surrogate's signature is its specification: its positional parameters are the
arrays that it reads from the batch, its keyword-only ones are its options.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.rl import (
  aggregation,
  corrections,
  covariance,
  kl_penalty,
  surrogates,
)

__all__ = (
  "ALGORITHMS",
  "CORRECTIONS",
  "SURROGATES",
  "LossOutput",
  "PolicyBatch",
  "PolicyLossConfig",
  "algorithm",
  "policy_loss",
)

SURROGATES: Mapping[str, Callable[..., surrogates.TokenLoss]] = {
  "reinforce": surrogates.reinforce_loss,
  "clip": surrogates.clip_loss,
  "cispo": surrogates.cispo_loss,
  "gmpo": surrogates.gmpo_loss,
  "sapo": surrogates.sapo_loss,
  "vespo": surrogates.vespo_loss,
  "kl_cov": covariance.kl_cov_loss,
  "clip_cov": covariance.clip_cov_loss,
}
CORRECTIONS: Mapping[str, Callable[..., jax.Array]] = {
  "truncate": corrections.truncated_is_weights,
  "mask": corrections.masked_is_weights,
}
Options = tuple[tuple[str, Any], ...]


class PolicyBatch(NamedTuple):
  """What a loss may read; only `logp` is differentiated.

  Attributes:
    logp: `[B, T]`, of the sampled tokens.
    old_logp: `[B, T]`, of the policy at the last collection of samples.
    advantages: `[B]`, or `[B, T]`.
    where: bool `[B, T]`, tokens of completions, EOS included.
    ref_logp: `[B, T]`, for a divergence.
    sampler_logp: `[B, T]`, as the sampling engine reported it, for a
      correction.
    selected: bool `[B, T]`, tokens that the surrogate learns from (see
      `top_entropy_mask`, `off_policy_mask`); others count as 0 in the average.
    key: a typed key, for `clip_cov`.
  """

  logp: jax.Array
  old_logp: jax.Array
  advantages: jax.Array
  where: jax.Array
  ref_logp: jax.Array | None = None
  sampler_logp: jax.Array | None = None
  selected: jax.Array | None = None
  key: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class PolicyLossConfig:
  """The parts of a loss. Hashable, hence static under `jit`.

  Attributes:
    surrogate: a name in `SURROGATES`.
    level: of the ratio, one of `LEVELS`.
    aggregation: one of `AGGREGATIONS`.
    options: of the surrogate, as `(name, value)` pairs.
    max_length: of the aggregation `"constant"`.
    kl: one of `KL_TERMS`, in the loss of each token, or `"none"`. (k1 in the
      reward is in the advantages: see `kl_in_reward`.)
    kl_coefficient: of that term.
    correction: a name in `CORRECTIONS`, or `"none"`.
    correction_options: of the correction, as `(name, value)` pairs.
    max_log_ratio: log-ratios are cut to plus or minus this, and lose their
      gradient there; `None` cuts nothing. The metric `overflow` counts them.
  """

  surrogate: str = "clip"
  level: str = "token"
  aggregation: str = "seq_mean_token_mean"
  options: Options = ()
  max_length: int | None = None
  kl: str = "none"
  kl_coefficient: float = 0.0
  correction: str = "none"
  correction_options: Options = ()
  max_log_ratio: float | None = 20.0

  def __post_init__(self):
    """Refuses what no algorithm takes, before anything is computed."""
    checks.check_choice("surrogate", self.surrogate, SURROGATES)
    checks.check_choice("level", self.level, surrogates.LEVELS)
    checks.check_choice(
      "aggregation", self.aggregation, aggregation.AGGREGATIONS
    )
    checks.check_choice("kl", self.kl, ("none", *kl_penalty.KL_TERMS))
    checks.check_choice("correction", self.correction, ("none", *CORRECTIONS))
    checks.check_options(
      self.surrogate, SURROGATES[self.surrogate], dict(self.options)
    )
    if self.correction != "none":
      checks.check_options(
        self.correction,
        CORRECTIONS[self.correction],
        dict(self.correction_options),
      )
    elif self.correction_options:
      raise ValueError("correction_options were given, but no correction")
    if (self.kl == "none") != (self.kl_coefficient == 0):
      raise ValueError(
        "kl and kl_coefficient belong together: were"
        f" {self.kl!r} and {self.kl_coefficient}"
      )


# With the advantages that `group_advantages` names, these are the published
# losses, but for `constant`, whose max_length the caller must give.
ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
  "reinforce": dict(surrogate="reinforce", aggregation="seq_mean_token_sum"),
  "rloo": dict(surrogate="clip", level="sequence"),
  "ppo": dict(surrogate="clip", aggregation="token_mean"),
  "grpo": dict(surrogate="clip"),
  "bnpo": dict(surrogate="clip", aggregation="token_mean"),
  "dr_grpo": dict(surrogate="clip", aggregation="constant"),
  "dapo": dict(surrogate="clip", aggregation="token_mean", eps_high=0.28),
  "dual_clip": dict(surrogate="clip", aggregation="token_mean", dual_clip=3.0),
  "two_sided": dict(surrogate="clip", aggregation="token_mean", delta=4.0),
  "cispo": dict(surrogate="cispo", aggregation="token_mean"),
  "gspo": dict(
    surrogate="clip", level="sequence_mean", eps_low=3e-4, eps_high=4e-4
  ),
  "gspo_token": dict(
    surrogate="clip", level="sequence_mean_token", eps_low=3e-4, eps_high=4e-4
  ),
  "gmpo": dict(surrogate="gmpo"),
  # A sequence's loss stands at each of its tokens: their sum is L times it.
  "luspo": dict(
    surrogate="clip",
    level="sequence_mean",
    aggregation="seq_mean_token_sum",
    eps_low=2e-3,
    eps_high=2.5e-3,
  ),
  "sapo": dict(surrogate="sapo"),
  "vespo": dict(surrogate="vespo", level="sequence", aggregation="token_mean"),
  "kl_cov": dict(surrogate="kl_cov", aggregation="token_mean"),
  "clip_cov": dict(surrogate="clip_cov", aggregation="token_mean"),
}


def algorithm(name: str, **changes: Any) -> PolicyLossConfig:
  """The loss of a published algorithm, with changes.

  `"gspo"` is `clip_loss` at the level `"sequence_mean"`, and so on: see
  `ALGORITHMS`.

  Args:
    name: one of `ALGORITHMS`.
    **changes: fields of `PolicyLossConfig`, or options of the surrogate.

  Returns:
    `PolicyLossConfig`.

  Raises:
    ValueError: an unknown algorithm, or something that it does not take.

  >>> algorithm("dapo", kl="k2", kl_coefficient=.01).options
  (('eps_high', 0.28),)
  >>> try: algorithm("sapo", eps_high=.3)
  ... except ValueError as error: print(error)
  'sapo' takes no option 'eps_high': it takes tau_pos, tau_neg

  Reference:
    Each surrogate names its own.
  """
  checks.check_choice("algorithm", name, ALGORITHMS)
  fields = {field.name for field in dataclasses.fields(PolicyLossConfig)}
  settings = {**ALGORITHMS[name], **changes}
  if settings.get("aggregation") == "constant" and "max_length" not in settings:
    raise ValueError(f"{name!r} needs max_length, the longest completion")
  chosen = {k: v for k, v in settings.items() if k in fields}
  options = {k: v for k, v in settings.items() if k not in fields}
  options = {**dict(chosen.pop("options", ())), **options}
  return PolicyLossConfig(**chosen, options=tuple(sorted(options.items())))


class LossOutput(NamedTuple):
  """The loss of a batch.

  Attributes:
    loss: scalar, to be minimised.
    weight: scalar; `sum w_k loss_k / sum w_k` over devices or microbatches is
      the loss of all of them.
    metrics: scalars by name, without gradient: `clipped`, the share of tokens
      whose ratio is clipped; `overflow`, of those whose log-ratio was cut;
      `log_ratio`, its mean; `empty`, the number of completions without
      tokens; and, where they apply, `kl`, the mean of the divergence's term,
      and `correction`, the mean weight.
  """

  loss: jax.Array
  weight: jax.Array
  metrics: dict[str, jax.Array]


def _read(batch: PolicyBatch) -> dict[str, jax.Array]:
  """What is given, checked, `[B, T]`, 0 under the mask; only logp moves."""
  checks.check_rank(2, logp=batch.logp)
  arrays = {
    "logp": batch.logp,
    "old_logp": batch.old_logp,
    "ref_logp": batch.ref_logp,
    "sampler_logp": batch.sampler_logp,
  }
  given = {name: x for name, x in arrays.items() if x is not None}
  checks.check_same_shape(**given, where=batch.where)
  advantages = numerics.as_float(batch.advantages)
  if advantages.ndim == 1:
    checks.check_same_shape(advantages=advantages, completions=batch.logp[:, 0])
    advantages = jnp.broadcast_to(advantages[:, None], batch.logp.shape)
  checks.check_same_shape(advantages=advantages, logp=batch.logp)
  given["advantages"] = advantages
  clean = {
    name: jnp.where(batch.where, numerics.as_float(x), 0)
    for name, x in given.items()
  }
  return {
    name: x if name == "logp" else jax.lax.stop_gradient(x)
    for name, x in clean.items()
  }


def _need(arrays: Mapping[str, Any], names, what: str) -> list:
  for name in names:
    if arrays.get(name) is None:
      raise ValueError(f"{what!r} needs {name}, which the batch does not have")
  return [arrays[name] for name in names]


def policy_loss(config: PolicyLossConfig, batch: PolicyBatch) -> LossOutput:
  """The loss of a batch of completions, by its parts.

  `aggregate(correction * surrogate(ratio, A) + c KL)`.

  Args:
    config: the parts; static under `jit`.
    batch: the arrays.

  Returns:
    `LossOutput`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: the batch lacks what a part needs.

  >>> logp, where = jnp.full((2, 2), -1.), jnp.ones((2, 2), bool)
  >>> batch = PolicyBatch(logp, logp, jnp.array([1., -1.]), where)
  >>> print(jax.grad(lambda x: policy_loss(
  ...   algorithm("grpo"), batch._replace(logp=x)).loss)(logp))
  [[-0.25 -0.25]
   [ 0.25  0.25]]

  Reference:
    DeepSeekMath (2402.03300), equation 3, in which all parts are present.
  """
  where, arrays = batch.where, _read(batch)
  ratio = surrogates.log_ratio(
    arrays["logp"], arrays["old_logp"], where=where, level=config.level
  )
  overflow = jnp.zeros(where.shape, bool)
  if config.max_log_ratio is not None:
    overflow = jnp.abs(ratio) > config.max_log_ratio
    ratio = jnp.clip(ratio, -config.max_log_ratio, config.max_log_ratio)
  surrogate = SURROGATES[config.surrogate]
  inputs = {**arrays, "log_ratio": ratio, "where": where, "key": batch.key}
  names = [
    p.name
    for p in inspect.signature(surrogate).parameters.values()
    if p.kind is not inspect.Parameter.KEYWORD_ONLY
  ]
  token = surrogate(
    *_need(inputs, names, config.surrogate), **dict(config.options)
  )
  loss = token.loss
  metrics = {"clipped": token.clipped, "overflow": overflow}
  metrics["log_ratio"] = ratio
  if config.correction != "none":
    pair = _need(arrays, ("old_logp", "sampler_logp"), config.correction)
    weights = CORRECTIONS[config.correction](
      *pair, where=where, **dict(config.correction_options)
    )
    metrics["correction"], loss = weights, loss * weights
  if batch.selected is not None:
    checks.check_same_shape(selected=batch.selected, where=where)
    loss = jnp.where(batch.selected, loss, 0)
  if config.kl != "none":
    (ref_logp,) = _need(arrays, ("ref_logp",), config.kl)
    term = kl_penalty.kl_in_loss(
      arrays["logp"],
      ref_logp,
      kind=config.kl,
      where=where,
      old_logp=arrays["old_logp"],
    )
    metrics["kl"], loss = term, loss + config.kl_coefficient * term
  total = aggregation.aggregate(
    loss, where=where, mode=config.aggregation, max_length=config.max_length
  )
  mean = functools.partial(
    aggregation.aggregate, where=where, mode="token_mean"
  )
  metrics = {
    name: mean(x.astype(loss.dtype)).loss
    for name, x in jax.lax.stop_gradient(metrics).items()
  }
  metrics["empty"] = jnp.sum(jnp.sum(where.astype(loss.dtype), -1) == 0)
  return LossOutput(*total, metrics)

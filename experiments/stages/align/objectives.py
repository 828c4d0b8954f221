# SPDX-License-Identifier: Apache-2.0
"""What each stage minimises: losses of pairs, and their sums.

An objective is `objective(trained, start, batch) -> Outcome`, of each pair. The
losses themselves are those of `jaxalign.preference`; here their names and
options are resolved, once.
"""

import ast
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.stages.align import pairs, policy
from jaxalign import checks, data, divergences, preference, training

# The loss of a pair depends on the others of its batch.
_OF_BATCHES = ("aot", "kto")


class Outcome(NamedTuple):
  """What an objective says of pairs.

  Attributes:
    loss: `[B]`, to be divided by the sum of weights.
    weight: `[B]`, pairs or tokens; 0 where nothing exists.
    chosen_reward: `[B]`, what the model thinks of the preferred answer.
    rejected_reward: `[B]`, of the other.
  """

  loss: jax.Array
  weight: jax.Array
  chosen_reward: jax.Array
  rejected_reward: jax.Array


Objective = Callable[[Any, Any, pairs.Batch], Outcome]


# --- by name -----------------------------------------------------------------


def options_of(text: str) -> dict[str, Any]:
  """Parses `--loss_options=beta=.1,label_smoothing=.1`.

  >>> options_of("beta=.1,average_log_prob=True")
  {'beta': 0.1, 'average_log_prob': True}
  """
  options = {}
  for part in filter(None, text.split(",")):
    name, equals, value = part.partition("=")
    try:
      options[name.strip()] = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
      equals = ""
    if not equals:
      raise checks.InputError(
        f"loss_options: expected NAME=NUMBER separated by commas, was {part!r}"
      )
  return options


class Loss(NamedTuple):
  """A preference loss with its options.

  Attributes:
    name: of the loss.
    function: of `PairLogps` for pairs; of answers and labels for "kto".
    div: `FDivergence`, by name or `None`.
    beta: what divides rewards in its optimum; `None` for those without.
  """

  name: str
  function: Callable
  div: divergences.FDivergence | None
  beta: float | None


def resolve(
  name: str, options: str, divergence: str, *, num_microbatches: int
) -> Loss:
  """A loss from its flags.

  Raises:
    InputError: an unknown loss or divergence, an option that the loss does not
      take or that is out of its range.
  """
  checked = (*preference.PAIR_LOSSES, "kto")
  given = options_of(options)
  try:
    checks.check_choice("loss", name, checked)
    div = divergences.f_divergence(divergence) if divergence else None
    if name == "f_dpo" and div is None:
      raise ValueError("f_dpo needs --divergence=NAME, kl for example")
    if div is not None:
      given["div"] = div
    if name == "kto":
      checks.check_options(name, preference.kto_loss, given)
      function = functools.partial(preference.kto_loss, **given)
      one = jnp.ones(1)
      jax.eval_shape(lambda h: function(h, one > 0, h[0]), one)
    else:
      function = preference.pair_loss(name, **given)
  except (ValueError, TypeError) as error:
    raise checks.InputError(str(error)) from None
  if name in _OF_BATCHES and num_microbatches > 1:
    raise checks.InputError(
      f"{name} compares all pairs of a batch: num_microbatches must be 1, was"
      f" {num_microbatches}"
    )
  return Loss(name, function, div, _beta(name, function, given))


def _beta(name: str, function: Callable, given: dict) -> float | None:
  """Of those whose optimum is that of `E r - beta D(pi || ref)`."""
  if name not in ("dpo", "f_dpo") or given.get("label_smoothing"):
    return None
  return inspect.signature(function).parameters["beta"].default


# --- objectives --------------------------------------------------------------


def _exists(batch: data.PairBatch) -> jax.Array:
  return jnp.any(batch.chosen_where, -1)


def _lengths(batch: data.PairBatch) -> list[jax.Array]:
  masks = batch.chosen_completion, batch.rejected_completion
  return [jnp.sum(mask, -1) for mask in masks]


def sft(model: policy.Policy, *, on_both: bool = False) -> Objective:
  """The likelihood of preferred answers, per token; or of both answers."""

  def objective(trained, start, batch):
    params = model.merged(trained, start)
    lengths = _lengths(batch.pairs)
    chosen = model.logps(params, *batch.pairs[::2])
    if not on_both:
      # What is not learned from costs a forward pass alone.
      params = jax.lax.stop_gradient(params)
    rejected = model.logps(params, *batch.pairs[1::2])
    if on_both:
      return Outcome(-chosen - rejected, sum(lengths), chosen, rejected)
    return Outcome(-chosen, lengths[0], chosen, rejected)

  return objective


def reward(model: policy.Policy) -> Objective:
  """The likelihood of preferences under Bradley and Terry's model."""

  def objective(trained, start, batch):
    tokens, where, _ = policy.both(batch.pairs)
    params = model.merged(trained, start)
    scores = policy.apart(model.score(params, trained["score"], tokens, where))
    # DPO's loss, of rewards in the place of log-ratios.
    zero = jnp.zeros_like(scores[0])
    logps = preference.PairLogps(*scores, zero, zero)
    out = preference.dpo_loss(logps, beta=1.0)
    return Outcome(out.loss, _exists(batch.pairs), *out[1:])

  return objective


def preferences(model: policy.Policy, loss: Loss) -> Objective:
  """A preference loss of log-probabilities."""

  def objective(trained, start, batch):
    params = model.merged(trained, start)
    logps = preference.PairLogps(
      *policy.apart(model.logps(params, *policy.both(batch.pairs))),
      batch.ref_logps[:, 0],
      batch.ref_logps[:, 1],
      *_lengths(batch.pairs),
    )
    if loss.name == "kto":
      out = _kto(model, loss.function, params, start, batch.pairs, logps)
    else:
      out = loss.function(logps)
    return Outcome(out.loss, _exists(batch.pairs), *out[1:])

  return objective


def _kto(model, function, params, start, batch, logps) -> preference.PairLoss:
  """A pair is a good and a bad answer; its loss is their mean."""
  mismatched = roll_answers(batch)
  policy_logps, ref_logps = (
    jax.lax.stop_gradient(model.logps(p, *mismatched)) for p in (params, start)
  )
  z0 = preference.kto_reference_point(
    policy_logps - ref_logps, where=jnp.any(mismatched[2], -1)
  )
  exists = _exists(batch)
  good = jnp.ones_like(exists)
  chosen, rejected = (
    function(h, label, z0, where=exists)
    for h, label in (
      (logps.policy_chosen - logps.ref_chosen, good),
      (logps.policy_rejected - logps.ref_rejected, ~good),
    )
  )
  mean = (chosen.loss + rejected.loss) / 2
  return preference.PairLoss(mean, chosen.reward, rejected.reward)


def roll_answers(batch: data.PairBatch) -> list[jax.Array]:
  """Each prompt with the preferred answer of the pair before it.

  Tokens and both masks, `[B, T]`; what goes beyond T is cut.
  """
  prompt = jnp.sum(batch.chosen_where & ~batch.chosen_completion, -1)[:, None]
  answer = jnp.sum(batch.chosen_completion, -1)[:, None]
  other_prompt, other_answer = (jnp.roll(x, 1, 0) for x in (prompt, answer))
  place = jnp.arange(batch.chosen_tokens.shape[-1])
  source = jnp.clip(place - prompt + other_prompt, 0, place[-1])
  rolled = jnp.take_along_axis(jnp.roll(batch.chosen_tokens, 1, 0), source, 1)
  exists = _exists(batch)[:, None] & (other_answer > 0)
  where = (place < prompt + other_answer) & exists
  tokens = jnp.where(place < prompt, batch.chosen_tokens, rolled)
  return [tokens, where, where & (place >= prompt)]


def loss_fn(objective: Objective) -> Callable[..., training.BatchLoss]:
  """The sums that a training step wants."""

  def sums(trained, batch, key, start):
    del key  # nothing is drawn
    out = objective(trained, start, batch)
    exists = out.weight > 0
    count = jnp.sum(exists)
    margin = out.chosen_reward - out.rejected_reward

    def total(x):
      return jnp.sum(jnp.where(exists, x, 0))

    return training.BatchLoss(
      total(out.loss),
      total(out.weight),
      {
        "accuracy": (total((1 + jnp.sign(margin)) / 2), count),
        "margin": (total(margin), count),
        "chosen_reward": (total(out.chosen_reward), count),
        "rejected_reward": (total(out.rejected_reward), count),
      },
    )

  return sums

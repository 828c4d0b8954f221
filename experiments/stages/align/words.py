# SPDX-License-Identifier: Apache-2.0
"""The generated words: laws over all of them, and what is best."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.align import objectives, pairs, policy
from jaxalign import data, divergences, exact

_TOLERANCE = 0.05


@functools.partial(jax.jit, static_argnames="model")
def _logps(model, params, batch):
  return model.logps(params, *batch[::2])


@functools.partial(jax.jit, static_argnames="model")
def _scores(model, params, score, batch):
  return model.score(params, score, *batch[::2][:2])


def _batch(found: pairs.Data) -> data.PairBatch:
  """All n words as the preferred answers of a batch."""
  return data.pair_batch(found.words, np.arange(len(found.words[0])))


def _rewards(world: data.WordWorld) -> jax.Array:
  words = exact.enumerate_sequences(len(world.letters), world.length)
  return data.word_rewards(world, words)


def _value(
  log_policy: jax.Array, log_ref: jax.Array, rewards: jax.Array
) -> dict[str, float]:
  """Expected reward and KL to the reference of laws `[n]` of words."""
  return {
    "reward": float(jnp.sum(jnp.exp(log_policy) * rewards)),
    "KL": float(divergences.kl(log_policy, log_ref)),
  }


def preferred_law(world: data.WordWorld) -> jax.Array:
  """The law of preferred answers, `[n]`, exactly.

  `2 q(x) sum_{y != x} q(y) sigmoid(r(x) - r(y))`, normalised, for q the law
  that answers are drawn from.
  """
  words = exact.enumerate_sequences(len(world.letters), world.length)
  q = jnp.exp(data.word_log_probs(world, words))
  r = _rewards(world)
  wins = jax.nn.sigmoid(r[:, None] - r) * (1 - jnp.eye(len(r)))
  return jax.nn.log_softmax(jnp.log(q * (wins @ q)))


def _report(
  found: dict[str, float], best: dict[str, float], table: list[dict[str, Any]]
) -> harness.Part:
  claims = [
    harness.Claim(
      name=f"optimal_{name}",
      statement=f"expected {what} of the trained policy is the optimum's",
      theory=best[key],
      measured=found[key],
      tolerance=_TOLERANCE * best[key],
    )
    for name, key, what in (
      ("reward", "reward", "reward"),
      ("kl", "KL", "KL to the reference"),
    )
  ]
  return harness.Part(claims, {}, {"generated words": table})


def _log_law(logps: jax.Array) -> jax.Array:
  """Given that a word is written."""
  return jax.nn.log_softmax(logps)


def of_policy(
  model: policy.Policy,
  params: policy.Params,
  start: policy.Params,
  found: pairs.Data,
  loss: objectives.Loss,
) -> harness.Part:
  """A trained policy against `argmax E r - beta D(pi || ref)`.

  Where the loss has another optimum, or none, there is nothing to claim.
  """
  rewards = _rewards(found.world)
  batch = _batch(found)
  logps, ref_logps = (_logps(model, p, batch) for p in (params, start))
  log_policy, log_ref = _log_law(logps), _log_law(ref_logps)

  def line(name, logps):
    law = _log_law(logps)
    mass = float(jnp.exp(jax.nn.logsumexp(logps)))
    return {"law": name, **_value(law, log_ref, rewards), "mass": mass}

  table = [line("reference", ref_logps), line("trained", logps)]
  if loss.beta is None:
    return harness.Part([], {}, {"generated words": table})
  div = loss.div or divergences.f_divergence("kl")
  optimum = divergences.regularized_maximizer(div, rewards, log_ref, loss.beta)
  table.append(line("optimum", optimum))
  part = _report(
    _value(log_policy, log_ref, rewards),
    _value(optimum, log_ref, rewards),
    table,
  )
  curves = {
    "words/trained": np.exp(log_policy),
    "words/optimum": np.exp(optimum),
    "words/reference": np.exp(log_ref),
  }
  return part._replace(curves=curves)


def of_reward(
  model: policy.Policy,
  params: policy.Params,
  score: jax.Array,
  found: pairs.Data,
) -> harness.Part:
  """A learned reward, by what is optimal under it at beta = 1."""
  world = found.world
  rewards = _rewards(world)
  words = exact.enumerate_sequences(len(world.letters), world.length)
  log_ref = data.word_log_probs(world, words)
  scores = _scores(model, params, score, _batch(found))
  log_policy = _log_law(log_ref + scores)
  value = _value(log_policy, log_ref, rewards)
  best = data.word_optimum(world, 1.0)
  theory = {"reward": float(best.reward), "KL": float(best.kl)}
  table = [{"law": "trained", **value}, {"law": "optimum", **theory}]
  part = _report(value, theory, table)
  # The KL is quadratic in the scale of the reward, which the default number of
  # steps leaves some 5 % too small: it is shown, not claimed.
  return part._replace(claims=part.claims[:1])


def of_imitation(
  model: policy.Policy, params: policy.Params, found: pairs.Data
) -> harness.Part:
  """A fine-tuned model against the law of the answers it imitates."""
  world = found.world
  rewards = _rewards(world)
  words = exact.enumerate_sequences(len(world.letters), world.length)
  log_ref = data.word_log_probs(world, words)
  log_policy = _log_law(_logps(model, params, _batch(found)))
  value = _value(log_policy, log_ref, rewards)
  theory = _value(preferred_law(world), log_ref, rewards)
  table = [{"law": "trained", **value}, {"law": "preferred answers", **theory}]
  part = _report(value, theory, table)
  # The KL is so small that what is left to learn is 5 % of it: not claimed.
  return part._replace(claims=part.claims[:1])

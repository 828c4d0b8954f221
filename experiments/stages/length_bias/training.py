# SPDX-License-Identifier: Apache-2.0
"""How long completions become when those who label prefer longer ones.

Completions of at most five tokens out of three, the first of which ends them; a
policy is a table, its expected length a sum. Pairs come from the reference,
labels from a random quality, which knows no length, plus a bonus per token.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages import preference_pairs
from jaxalign import preference
from jaxalign.exact import completions, sequences

V, T, PAIRS = 3, 5, 400
BETA, BONUS = 0.3, 0.4  # nats of preference per token
RATE, EVERY = 0.005, 10  # of Adam; updates between points of the curves
ALL = completions.enumerate_completions(V, T)
LENGTHS = np.asarray(ALL.where).sum(-1)


class Problem(NamedTuple):
  """One world for each seed.

  Attributes:
    ref_logits: `[S, 121, 3]`, a table.
    quality: `[S, 63]`, of completions.
    chosen: int `[S, N]`, which completion was preferred.
    rejected: int `[S, N]`, to which.
  """

  ref_logits: np.ndarray
  quality: np.ndarray
  chosen: np.ndarray
  rejected: np.ndarray


def problems(seeds: range) -> Problem:
  """Normal logits and qualities; pairs from the reference."""
  each = []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    logits = 0.5 * rng.standard_normal((sequences.num_prefixes(V, T), V))
    quality = rng.standard_normal(len(LENGTHS))
    law = np.exp(_completion_logps(jnp.asarray(logits)).sum(-1))
    scores = quality + BONUS * LENGTHS
    pairs = preference_pairs.draw(rng, law, scores, PAIRS)
    each.append((logits, quality, *pairs))
  return Problem(*(np.stack(x) for x in zip(*each, strict=True)))


def _completion_logps(logits: jax.Array) -> jax.Array:
  """`[63, 5]`, nats; 0 after the end."""
  return completions.completion_log_probs(logits, ALL)


def _dpo(key, tokens: preference.TokenLogps) -> preference.PairLoss:
  del key
  whole = preference.ld_logps(tokens, ld_alpha=1.0)
  return preference.dpo_loss(whole, beta=BETA)


def _ld_dpo(key, tokens: preference.TokenLogps) -> preference.PairLoss:
  del key
  weighted = preference.ld_logps(tokens, ld_alpha=0.5)
  return preference.dpo_loss(weighted, beta=BETA)


def _truncated(key, tokens: preference.TokenLogps) -> preference.PairLoss:
  del key
  first = preference.ld_logps(tokens, ld_alpha=0.0)
  return preference.dpo_loss(first, beta=BETA)


def _sampo(key, tokens: preference.TokenLogps) -> preference.PairLoss:
  drawn = preference.sampo_logratio(key, tokens)
  return preference.dpo_loss(drawn, beta=BETA)


def _per_token(key, tokens: preference.TokenLogps) -> preference.PairLoss:
  """Means over tokens, with beta times the mean length in their place."""
  del key
  whole = preference.ld_logps(tokens, ld_alpha=1.0)
  lengths = (whole.chosen_length, whole.rejected_length) * 2
  means = preference.PairLogps(
    *(x / n for x, n in zip(whole[:4], lengths, strict=True))
  )
  mean_length = float(LENGTHS.mean())
  return preference.dpo_loss(means, beta=BETA * mean_length)


ARMS = {
  "DPO": _dpo,
  "LD-DPO, .5": _ld_dpo,
  "LD-DPO, 0": _truncated,
  "SamPO": _sampo,
  "per token": _per_token,
}


class Found(NamedTuple):
  """Along training, every tenth update, the start first.

  Attributes:
    length: `[..., P]`, expected number of tokens.
    quality: `[..., P]`, expected quality.
    kl: `[..., P]`, `KL(pi||ref)`, nats.
  """

  length: jax.Array
  quality: jax.Array
  kl: jax.Array


def _measure(logits: jax.Array, problem: Problem) -> Found:
  log_pi, log_ref = (
    jnp.sum(_completion_logps(x), -1) for x in (logits, problem.ref_logits)
  )
  law = jnp.exp(log_pi)
  return Found(law @ LENGTHS, law @ problem.quality, law @ (log_pi - log_ref))


def train(key, problem: Problem, arm: jax.Array, steps: int) -> Found:
  """Adam on one problem; the arm is a number."""
  optimiser = optax.adam(RATE)
  ref = _completion_logps(problem.ref_logits)
  pairs = (problem.chosen, problem.rejected)
  wheres = (ALL.where[i] for i in pairs)
  constants = (*(ref[i] for i in pairs), *wheres)

  def loss(logits, key):
    policy = _completion_logps(logits)
    tokens = preference.TokenLogps(*(policy[i] for i in pairs), *constants)
    return jnp.mean(jax.lax.switch(arm, list(ARMS.values()), key, tokens).loss)

  def update(t, carry):
    logits, state = carry
    gradient = jax.grad(loss)(logits, jax.random.fold_in(key, t))
    updates, state = optimiser.update(gradient, state)
    return logits + updates, state

  def step(carry, t):
    found = _measure(carry[0], problem)
    return jax.lax.fori_loop(t, t + EVERY, update, carry), found

  start = problem.ref_logits, optimiser.init(problem.ref_logits)
  (logits, _), path = jax.lax.scan(step, start, jnp.arange(0, steps, EVERY))
  return jax.tree.map(jnp.append, path, _measure(logits, problem))


@functools.partial(jax.jit, static_argnames="steps")
def run_arms(keys: jax.Array, problem: Problem, steps: int) -> Found:
  """Every arm on every problem, arrays `[arms, S, P]`."""

  def run(arm):  # mapped, so that only its own branch is taken
    return jax.vmap(lambda key, world: train(key, world, arm, steps))(
      keys, problem
    )

  return jax.lax.map(run, jnp.arange(len(ARMS)))


def _shorter(name, short: str, long: str, length: dict) -> harness.Claim:
  excess = length[short] - length[long]
  return harness.Claim(
    name=name,
    statement=f"expected length after training, {short} less {long}: mean over"
    " seeds, tokens",
    theory=0.0,
    measured=excess.mean(),
    tolerance=0.0,
    relation="<=",
    interval=harness.confidence_interval(excess),
  )


def _claims(found: Found) -> list[harness.Claim]:
  length = dict(zip(ARMS, found.length[:, :, -1], strict=True))
  longer = length["DPO"] - found.length[0, :, 0]
  return [
    harness.Claim(
      name="dpo_lengthens",
      statement="expected length after DPO less the reference's: smallest over"
      " seeds, tokens",
      theory=0.0,
      measured=longer.min(),
      tolerance=0.0,
      relation=">=",
    ),
    _shorter("sampo_shorter", "SamPO", "DPO", length),
    _shorter("ld_half_shorter", "LD-DPO, .5", "DPO", length),
    _shorter("ld_zero_shorter", "LD-DPO, 0", "LD-DPO, .5", length),
    _shorter("per_token_shorter", "per token", "DPO", length),
  ]


def _rows(found: Found) -> list[dict]:
  table = []
  for i, name in enumerate(ARMS):
    row = {"loss": name}
    for key in Found._fields:
      ends = getattr(found, key)[i, :, -1]
      low, high = harness.confidence_interval(ends)
      row[key] = f"{ends.mean():.3f} +- {(high - low) / 2:.3f}"
    excess = found.length[i, :, -1] - found.length[0, :, -1]
    low, high = harness.confidence_interval(excess)
    row["length less DPO's"] = f"{excess.mean():.3f} +- {(high - low) / 2:.3f}"
    table.append(row)
  return table


def training(key: jax.Array, seeds: range, *, steps: int) -> harness.Part:
  """Claims on expected lengths at the end."""
  worlds = problems(seeds)
  keys = jax.random.split(key, len(seeds))
  problem = jax.tree.map(jnp.asarray, worlds)
  found = jax.tree.map(np.asarray, run_arms(keys, problem, steps))
  data = {
    "reference": found.length[0, :, 0],
    "chosen": LENGTHS[worlds.chosen].mean(-1),
    "rejected": LENGTHS[worlds.rejected].mean(-1),
  }
  lengths = {name: float(x.mean()) for name, x in data.items()}
  curves = found._asdict() | {
    "arms": np.array(list(ARMS)),
    "update": EVERY * np.arange(found.length.shape[-1]),
  }
  tables = {
    "mean lengths before training": [lengths],
    f"after {steps} updates: means over seeds": _rows(found),
  }
  return harness.Part(_claims(found), curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Length against DPO's by update, and the quality that goes with it."""
  figure, (left, right) = plotting.figure(1, 2, height=3.0)
  for i, name in enumerate(curves["arms"]):
    style = plotting.line_style(i)
    length, quality = curves["length"], curves["quality"]
    excess = length[i] - length[0]  # of one world: worlds differ far more
    plotting.band(left, curves["update"], excess, name, **style)
    right.plot(length[i].mean(0), quality[i].mean(0), **style)
  left.set(xlabel="update", ylabel="expected length less DPO's, tokens")
  right.set(xlabel="expected length, tokens", ylabel="expected quality")
  handles, labels = left.get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=5)
  return figure

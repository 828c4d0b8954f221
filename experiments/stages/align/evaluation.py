# SPDX-License-Identifier: Apache-2.0
"""What a model is worth: preferences, samples, distance to the reference."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import harness
from experiments.stages.align import pairs, policy
from jaxalign import data, models, training

# Of a split at most: the interval then reaches 4 % to either side.
MOST_PAIRS = 512
# Sums of some hundred log-probabilities in float32 are no better.
_ROUNDING = 1e-4
_NUM_SAMPLES = 16
_NUM_SHOWN = 4
_NEW_TOKENS = 64


class Scores(NamedTuple):
  """An objective's outcome of all pairs of a split.

  Attributes:
    loss: scalar.
    margins: `[N]`, reward of the preferred answer less that of the other.
  """

  loss: float
  margins: np.ndarray

  @property
  def hits(self) -> np.ndarray:
    """`[N]`: 1 where the preferred answer has more reward, 1/2 if equal."""
    equal = np.abs(self.margins) < _ROUNDING
    margins = np.where(equal, 0, self.margins)
    return (1 + np.sign(margins)) / 2


def _own_rows(batch: pairs.Batch) -> pairs.Batch:
  """Those that this process puts on its devices."""
  size = len(batch.ref_logps) // jax.process_count()
  first = size * jax.process_index()
  return jax.tree.map(lambda x: x[first : first + size], batch)


class Runner:
  """Compiled passes over a split, on a mesh if there is one."""

  def __init__(self, mesh: Mesh | None):
    self._mesh = mesh

  def compiled(self, function):
    """The function's program, whose results every process has whole."""
    if self._mesh is None:
      return jax.jit(function)
    whole = NamedSharding(self._mesh, PartitionSpec())
    return jax.jit(function, out_shardings=whole)

  def over(self, program, split: pairs.Split, batch_size: int, *trees) -> Any:
    """Results `[N, ...]` of `program(*trees, batch)` for all pairs."""
    parts = []
    for batch in split.passes(batch_size):
      if self._mesh is not None:
        batch = training.shard_batch(_own_rows(batch), self._mesh)
      parts.append(program(*trees, batch))
    parts = [jax.tree.map(np.asarray, part) for part in parts]
    return jax.tree.map(lambda *x: np.concatenate(x)[: split.size], *parts)


def reference_logps(
  runner: Runner,
  model: policy.Policy,
  start: policy.Params,
  split: pairs.Split,
  batch_size: int,
) -> pairs.Split:
  """The split with the reference's log-probabilities beside its tokens."""

  def logps(start, batch):
    return model.logps(start, *policy.both(batch.pairs)).reshape(-1, 2)

  found = runner.over(runner.compiled(logps), split, batch_size, start)
  return split._replace(ref_logps=found)


def scores(
  runner: Runner, program, split: pairs.Split, batch_size: int, *trees
) -> Scores:
  """Loss and margins of a split, by the compiled objective."""
  out = runner.over(program, split, batch_size, *trees)
  return Scores(
    float(out.loss.sum() / out.weight.sum()),
    out.chosen_reward - out.rejected_reward,
  )


def row(split: str, model: str, found: Scores) -> dict[str, Any]:
  """A row of the table of preferences."""
  low, high = harness.confidence_interval(found.hits)
  return {
    "split": split,
    "model": model,
    "pairs": len(found.margins),
    "loss": found.loss,
    "accuracy": found.hits.mean(),
    "from": low,
    "to": high,
    "margin": found.margins.mean(),
  }


# --- samples -----------------------------------------------------------------


def _prompts(tokens: data.PairTokens, num: int) -> tuple[np.ndarray, ...]:
  """Tokens `[num, P]`, padded on the left, and what exists of them."""
  lengths = tokens.prompt_lengths[:num]
  size = lengths.max()
  place = np.arange(size) - (size - lengths[:, None])
  rows = np.take_along_axis(
    tokens.chosen_tokens[:num], np.maximum(place, 0), axis=1
  )
  return rows, place >= 0


@functools.partial(jax.jit, static_argnames="model")
def _token_kl(model, params, ref, tokens, where, completion):
  return model.token_kl(params, ref, tokens, where, completion)


def samples(
  key: jax.Array,
  model: policy.Policy,
  params: policy.Params,
  start: policy.Params,
  split: pairs.Split,
  tokenizer: data.Tokenizer,
) -> dict[str, list[dict[str, Any]]]:
  """Answers to held-out prompts: how long, how far from the reference.

  The KL of each token is summed over the vocabulary, at the answers' tokens.
  """
  tokens = split.tokens
  num = min(_NUM_SAMPLES, split.size)
  prompts, where = _prompts(tokens, num)
  out = models.sample(
    key,
    model.model,
    params,
    prompts,
    where=where,
    max_new_tokens=_NEW_TOKENS,
    stop_ids=(tokenizer.eos_id,),
  )
  out = jax.tree.map(np.asarray, out)
  kl = _token_kl(
    model,
    params,
    start,
    np.concatenate([prompts, out.tokens], 1),
    np.concatenate([where, out.where], 1),
    np.concatenate([np.zeros_like(where), out.where], 1),
  )
  ended = np.any((out.tokens == tokenizer.eos_id) & out.where, 1)
  summary = {
    "KL to the reference per token": np.sum(kl) / out.where.sum(),
    "tokens of samples": out.where.sum(1).mean(),
    "samples that end": ended.mean(),
    "tokens of chosen": np.mean(tokens.chosen_lengths - tokens.prompt_lengths),
    "tokens of rejected": np.mean(
      tokens.rejected_lengths - tokens.prompt_lengths
    ),
  }
  texts = [
    {
      "prompt": _shown(tokenizer, prompts[i][where[i]], last=True),
      "sample": _shown(tokenizer, out.tokens[i][out.where[i]]),
    }
    for i in range(min(_NUM_SHOWN, num))
  ]
  return {"held-out samples": [summary], "samples": texts}


def _shown(tokenizer, tokens, *, last: bool = False) -> str:
  """As one line that fits beside another."""
  text = tokenizer.decode([int(x) for x in tokens])
  text = repr(text[-40:] if last else text[:60])[1:-1]
  return text[-45:] if last else text[:60]

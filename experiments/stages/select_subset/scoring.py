# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of answers, with the system prompt and without it."""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.stages.align import policy
from jaxalign import checks, data, models
from jaxalign.learning import selection

_BETWEEN = "\n\n"  # the system prompt and what follows


class Model(NamedTuple):
  """What scores.

  Attributes:
    policy: the model.
    params: its parameters.
    tokenizer: its tokens.
  """

  policy: policy.Policy
  params: policy.Params
  tokenizer: data.Tokenizer


class Passes(NamedTuple):
  """Pairs as tokens, in the two ways in which they are scored.

  Attributes:
    records: N pairs.
    with_system: `PairTokens` of them, the system prompt in front.
    without: `PairTokens` of them.
  """

  records: tuple[data.Preference, ...]
  with_system: data.PairTokens
  without: data.PairTokens

  @property
  def lengths(self) -> np.ndarray:
    """Tokens `[N, 2]` of the preferred and of the other answer, with EOS."""
    tokens = self.without
    ends = np.stack([tokens.chosen_lengths, tokens.rejected_lengths], 1)
    return ends - tokens.prompt_lengths[:, None]


def load(key: jax.Array, name: str, tokenizer: str) -> Model:
  """A model by name or from a directory; without a file tokens are bytes.

  Raises:
    InputError: a file cannot be used, or the tokenizer is too large.
  """
  made = data.load_tokenizer(tokenizer) if tokenizer else data.byte_tokenizer()
  config, params = policy.load(key, name, init_from="")
  data.check_vocab(made, config.vocab_size)
  model = policy.Policy(models.Transformer(config), lora=False)
  return Model(model, jax.tree.map(jax.numpy.asarray, params), made)


def under(system_prompt: str, prompt: str) -> str:
  """The prompt after the system prompt; itself where there is none.

  "No system prompt" is nothing at all rather than a turn without contents, and
  so it is in both answers' log-probabilities. A blank line stands between, as
  it does before the first turn of a dialogue.
  """
  if not system_prompt:
    return prompt
  return system_prompt + _BETWEEN + prompt.removeprefix(_BETWEEN)


def _tokenize(
  records: Sequence[data.Preference], tokenizer: data.Tokenizer
) -> data.PairTokens:
  """With room for the longest and no more."""

  def length(record):
    prompt, *answers = (len(tokenizer.encode(text)) for text in record)
    return prompt + max(answers) + 2  # BOS and EOS

  return data.tokenize_pairs(
    records, tokenizer, max_length=max(map(length, records))
  )


def tokenize(
  records: Sequence[data.Preference], model: Model, system_prompt: str
) -> Passes:
  """Both passes over the pairs; without those whose answers are the same.

  Raises:
    InputError: the model's context is too short, or all answers are the same.
  """
  systems = [r._replace(prompt=under(system_prompt, r.prompt)) for r in records]
  passes = [_tokenize(x, model.tokenizer) for x in (systems, records)]
  longest = passes[0].chosen_tokens.shape[1]
  context = model.policy.model.config.max_positions
  if longest > context:
    raise checks.InputError(
      f"system prompt, prompt and answer take {longest} tokens, the model's"
      f" context is {context}: choose a smaller max_prompt_tokens"
    )
  # Which answers are the same does not depend on what precedes them.
  return Passes(tuple(records[i] for i in passes[0].records), *passes)


@functools.partial(jax.jit, static_argnames="model")
def _logps(model, params, batch):
  return model.logps(params, *policy.both(batch)).reshape(-1, 2)


def logps(model: Model, passes: Passes, rows: np.ndarray) -> np.ndarray:
  """Of the given pairs: `[B, 2, 2]`, with and without, preferred and other.

  Args:
    model: what scores.
    passes: N pairs.
    rows: int `[B]`; -1 for a row of nothing, whose results are 0.
  """
  found = [
    _logps(model.policy, model.params, data.pair_batch(tokens, rows))
    for tokens in (passes.with_system, passes.without)
  ]
  return np.stack(found, 1)


def scores(logps: np.ndarray, lengths: np.ndarray) -> selection.LLSScores:
  """Scores `[N]` of log-probabilities `[N, 2, 2]`; on the host."""
  found = selection.lls_scores(
    *(logps[:, at, answer] for answer in (0, 1) for at in (0, 1)), *lengths.T
  )
  return selection.LLSScores(*map(np.asarray, found))


def digest(model: Model, passes: Passes) -> str:
  """Names all that log-probabilities depend on: a run resumes on its own."""
  found = hashlib.sha256(repr(model.policy.model.config).encode())
  for tokens in (passes.with_system, passes.without):
    for array in tokens:
      found.update(np.ascontiguousarray(array))
  for array in jax.tree.leaves(model.params):
    found.update(np.ascontiguousarray(array))
  return found.hexdigest()[:16]

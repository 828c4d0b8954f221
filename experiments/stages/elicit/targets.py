# SPDX-License-Identifier: Apache-2.0
"""What is to be elicited, from flags to hidden states."""

import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stages.align import policy
from experiments.stages.elicit import forward
from jaxalign import checks, data, models
from jaxalign.learning import surjectivity

if TYPE_CHECKING:
  from experiments import elicit

_SPREAD = 3.0  # of random targets


class Task(NamedTuple):
  """A model and what it shall produce.

  Attributes:
    model: in float64.
    params: on the host.
    tokenizer: of the texts.
    states: `[T, width]`, hidden states before the final norm.
    tokens: `[T]`, of the prompt that has these states; none otherwise.
  """

  model: models.Transformer
  params: Any
  tokenizer: data.Tokenizer
  states: np.ndarray
  tokens: np.ndarray | None


def _read(path: str, width: int) -> np.ndarray:
  """States `[T, width]` of a file."""
  if not pathlib.Path(path).is_file():
    raise checks.InputError(f"{path}: no such file")
  try:
    found = np.load(path, allow_pickle=False)
  except (ValueError, OSError, EOFError) as error:
    raise checks.InputError(f"{path}: not a .npy file: {error}") from None
  if not isinstance(found, np.ndarray) or not np.issubdtype(
    found.dtype, np.floating
  ):
    raise checks.InputError(f"{path}: expected an array of floats")
  if found.ndim != 2 or found.shape[1] != width or not len(found):
    raise checks.InputError(
      f"{path}: expected hidden states [T, {width}] of this model, was"
      f" {list(found.shape)}"
    )
  checks.check_finite(**{path: found})
  return found.astype(np.float64)


def _prompt_tokens(prompt: str, tokenizer: data.Tokenizer) -> np.ndarray:
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  return np.array(begin + tokenizer.encode(prompt))


def _before_norm(params: Any, states: np.ndarray, eps: float) -> np.ndarray:
  """What the final norm maps to the states, if anything is."""
  found = surjectivity.rms_norm_inverse(
    jnp.asarray(states),
    scale=jnp.asarray(params["final_norm"]["scale"]),
    eps=eps,
  )
  bad = np.flatnonzero(~np.asarray(found.ok))
  if bad.size:
    raise checks.InputError(
      f"target is out of reach: at token {bad[0]} its mean square without the"
      f" final norm's scale is {found.square[bad[0]]:.6g}, the norm gives less"
      " than 1: give states from before it (--state=residual)"
    )
  return np.asarray(found.x)


def _states(
  config: "elicit.Config", model: models.Transformer, params: Any, tokens
) -> np.ndarray:
  """The target, at the point of the model that the flags name."""
  width = model.config.width
  if config.target:
    return _read(config.target, width)
  if tokens is not None:
    embeddings = params["embed"]["embedding"][tokens]
    normed = config.state == "normed"
    run = jax.jit(forward.states, static_argnames=("model", "normed"))
    return np.asarray(run(model, params, embeddings, normed=normed))
  rng = np.random.default_rng(config.seed)
  return _SPREAD * rng.normal(size=(config.length, width))


def make(config: "elicit.Config") -> Task:
  """Reads and checks everything that flags name.

  Raises:
    InputError: something that the flags name cannot be used, or the target is
      out of the final norm's reach.
  """
  tokenizer = (
    data.load_tokenizer(config.tokenizer)
    if config.tokenizer
    else data.byte_tokenizer()
  )
  made, params = policy.load(config.key(), config.model, init_from="")
  made, params = forward.in_float64(made, params)
  model = models.Transformer(made)
  tokens = None
  if config.prompt:
    tokens = _prompt_tokens(config.prompt, tokenizer)
    policy.check_fits(made, tokenizer, len(tokens))
  states = _states(config, model, params, tokens)
  if len(states) > made.max_positions:
    raise checks.InputError(
      f"the target has {len(states)} tokens, the model's context is"
      f" {made.max_positions}"
    )
  if config.state == "normed":
    states = _before_norm(params, states, made.norm_eps)
  return Task(model, params, tokenizer, states, tokens)

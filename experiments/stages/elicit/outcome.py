# SPDX-License-Identifier: Apache-2.0
"""What the embeddings give, and how far they are from any tokens."""

import functools

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.elicit import forward, inversion, targets

# Errors of some 1e-7 of each sub-block's softmax, in float32, which the
# sub-blocks after it enlarge.
TOLERANCE = 1e-5


def _nearest(
  embeddings: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The nearest token of each embedding and its distance, `[T]` each."""
  distance = np.stack([np.linalg.norm(table - x, axis=-1) for x in embeddings])
  return distance.argmin(-1), distance.min(-1)  # of NaN the first, and NaN


def _spacing(table: np.ndarray) -> float:
  """Median distance of a token to the next one, by up to 256 of them."""
  some = table[:: max(1, len(table) // 256)]
  distance = np.stack([np.linalg.norm(table - x, axis=-1) for x in some])
  return float(np.median(np.sort(distance, -1)[:, 1]))


def _of_blocks(found: inversion.Found) -> list[dict]:
  """A row for each sub-block."""
  num_layers = len(found.ok) // len(forward.KINDS)
  return harness.rows(
    layer=np.repeat(np.arange(num_layers), len(forward.KINDS)),
    kind=list(forward.KINDS) * num_layers,
    tokens_found=found.ok.sum(1),
    mean_steps=found.steps.mean(1),
    most_steps=found.steps.max(1),
    most_folds=found.folds.max(1),
    largest_error=found.residual.max(1),
  )


def _texts(task: targets.Task, tokens: np.ndarray) -> list[str]:
  return [repr(task.tokenizer.decode([token])) for token in tokens]


def verified(task: targets.Task, found: inversion.Found) -> harness.Part:
  """The claim that the forward pass of what was found gives the target."""
  run = jax.jit(
    functools.partial(forward.states, normed=False), static_argnames="model"
  )
  size = max(1.0, np.abs(task.states).max())

  def off(embeddings):
    hidden = run(task.model, task.params, embeddings)
    return np.abs(np.asarray(hidden) - task.states).max(-1) / size

  table = task.params["embed"]["embedding"]
  embeddings, spacing = found.states[0], _spacing(table)
  tokens, distance = _nearest(embeddings, table)
  error = off(embeddings)
  claim = harness.all_agree(
    "elicited",
    "the forward pass of the embeddings gives the target, relative to its"
    " largest entry: largest difference",
    [error],
    tolerance=TOLERANCE,
  )
  columns = {
    "position": np.arange(len(tokens)),
    "nearest_token": _texts(task, tokens),
    "distance_to_it": distance,
    "between_tokens": spacing,
    "length": np.linalg.norm(embeddings, axis=-1),
    "error": error,
    "error_of_nearest_tokens": off(table[tokens]),
  }
  if task.tokens is not None:
    columns["token_of_the_prompt"] = _texts(task, task.tokens)
  tables = {
    "embeddings": harness.rows(**columns),
    "sub-blocks": _of_blocks(found),
  }
  curves = {
    "embeddings": embeddings,
    "target": task.states,
    "error": error,
    "lengths": np.linalg.norm(found.states, axis=-1),
    "distance": distance,
    "spacing": np.array(spacing),
    "steps": found.steps,
  }
  return harness.Part([claim], curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Lengths of states through the model, and distances to tokens."""
  figure, (left, right) = plotting.figure(1, 2)
  depth = np.arange(len(curves["lengths"]))
  for t, lengths in enumerate(curves["lengths"].T):
    left.plot(depth, lengths, label=f"{t}", **plotting.line_style(t % 30))
  left.set(
    xlabel="sub-blocks passed",
    ylabel="length of the state",
    ylim=(0, None),
    title="from the embedding to the target",
  )
  left.xaxis.get_major_locator().set_params(integer=True)
  if curves["lengths"].shape[1] <= 8:
    left.legend(title="token")
  right.bar(np.arange(len(curves["distance"])), curves["distance"])
  right.axhline(curves["spacing"], color="k", linestyle="--", linewidth=1)
  right.set(
    xlabel="token",
    ylabel="distance to the nearest token's",
    title="found embeddings (dashed: between tokens)",
  )
  return figure

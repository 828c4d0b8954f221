# SPDX-License-Identifier: Apache-2.0
"""What was selected, claims on how, and a plot."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.select_subset import scoring
from jaxalign import checks, data
from jaxalign.learning import selection

_PADDING = 5
# Nats: sums of up to some ten float32 log-probabilities of up to ten nats each,
# of which rounding moves the sixth digit.
_ROUNDING = 1e-3


class Selected(NamedTuple):
  """The outcome.

  Attributes:
    scores: of N pairs.
    rows: int `[n]`, the pairs that were kept, the best first.
  """

  scores: selection.LLSScores
  rows: np.ndarray


def swapped(record: data.Preference) -> data.Preference:
  """With the label exchanged."""
  return record._replace(chosen=record.rejected, rejected=record.chosen)


def _padded(tokens: data.PairTokens) -> data.PairTokens:
  """With padding behind, of a token that would matter if it were seen."""
  wider = ((0, 0), (0, _PADDING))
  return tokens._replace(
    chosen_tokens=np.pad(tokens.chosen_tokens, wider),
    rejected_tokens=np.pad(tokens.rejected_tokens, wider),
  )


def _selected_of(wn: np.ndarray, gamma: float) -> int:
  """How many are selected; 0 where selection says that there are none."""
  try:
    return len(selection.lls_select(wn, gamma))
  except checks.InputError:
    return 0


def claims(
  model: scoring.Model,
  passes: scoring.Passes,
  system_prompt: str,
  logps: np.ndarray,
  found: Selected,
  gamma: float,
  batch_size: int,
) -> list[harness.Claim]:
  """Of the whole selection, and of some pairs scored in other ways.

  Args:
    model: what scored.
    passes: N pairs.
    system_prompt: in front of the first pass.
    logps: `[N, 2, 2]`, of all.
    found: the selection.
    gamma: the share of positive pairs.
    batch_size: how many pairs to score in other ways.
  """
  some = passes.records[:batch_size]
  # In the shape of a whole batch, whose program is there already.
  rows = np.where(np.arange(batch_size) < len(some), np.arange(batch_size), -1)

  def again(other):
    return scoring.logps(model, other, rows)[: len(some)]

  def w(other):
    return scoring.scores(again(other), other.lengths).w

  exchanged = scoring.tokenize([swapped(r) for r in some], model, system_prompt)
  none = scoring.tokenize(some, model, "")
  padded = passes._replace(
    with_system=_padded(passes.with_system), without=_padded(passes.without)
  )
  of_none = scoring.scores(again(none), none.lengths)
  positive = int(np.sum(found.scores.w > 0))
  return [
    harness.Claim(
      name="size",
      statement="pairs kept: the share gamma of those with a positive score,"
      " rounded up",
      theory=math.ceil(Fraction(str(gamma)) * positive),
      measured=len(found.rows),
      tolerance=0.0,
    ),
    harness.all_agree(
      "antisymmetry",
      "scores with exchanged labels, plus those without: largest, nats",
      [w(exchanged) + found.scores.w[: len(some)]],
      tolerance=_ROUNDING,
    ),
    harness.all_agree(
      "padding",
      "log-probabilities of answers with more padding, less those without:"
      " largest, nats",
      [again(padded) - logps[: len(some)]],
      tolerance=_ROUNDING,
    ),
    harness.all_agree(
      "empty_system_prompt",
      "scores under an empty system prompt: largest, nats",
      [of_none.w],
      tolerance=0.0,
    ),
    harness.Claim(
      name="empty_selection",
      statement="pairs kept under an empty system prompt",
      theory=0,
      measured=_selected_of(of_none.wn, gamma),
      tolerance=0.0,
    ),
  ]


def report(
  found: Selected, passes: scoring.Passes, counts: dict[str, int]
) -> harness.Part:
  """Counts, scores, the first pairs kept, and what plots need."""
  w, wn = found.scores
  pairs = {
    **counts,
    "scored": len(w),
    "positive": int(np.sum(w > 0)),
    "kept": len(found.rows),
  }
  lengths = passes.lengths.sum(1)
  scores = [
    {
      "pairs": name,
      "mean w": w[rows].mean(),
      "smallest w": w[rows].min(),
      "largest w": w[rows].max(),
      "mean tokens": lengths[rows].mean(),
    }
    for name, rows in (("all", np.arange(len(w))), ("kept", found.rows))
  ]
  tables = {
    "pairs": harness.rows(outcome=list(pairs), number=list(pairs.values())),
    "scores, nats": scores,
  }
  curves = {"w": w, "wn": wn, "kept": found.rows}
  return harness.Part([], curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Scores of all pairs and of those kept."""
  figure, (left, right) = plotting.figure(1, 2)
  w, wn, rows = (curves[name] for name in ("w", "wn", "kept"))
  bins = np.histogram_bin_edges(w, 40)
  left.hist(w, bins, color="C0", alpha=0.5, label="all")
  left.hist(w[rows], bins, color="C1", label="kept")
  left.set(xlabel="w, nats", ylabel="pairs", title="scores")
  left.legend()
  order = np.sort(wn)[::-1]
  right.plot(np.arange(1, len(order) + 1), order, color="C0")
  right.plot(np.arange(1, len(rows) + 1), wn[rows], color="C1", linewidth=3)
  right.axhline(0, color="k", linewidth=0.8)
  right.set(xlabel="rank", ylabel="w per token, scaled", title="selection")
  return figure

# SPDX-License-Identifier: Apache-2.0
"""The XOR tree of n bits: rounds and footprint of every way to run it.

Both are counted on the strings that the run goes through, not computed.
"""

import numpy as np

from experiments import harness
from jaxalign.exact import circuits, sequences

SIZES = (4, 8, 16, 32, 64, 128, 256)
ENUMERATED = (4, 8)  # on all inputs; the others on random ones
WAYS = {
  "diffusion, scratch": circuits.unmask_layers,
  "autoregressive, scratch": circuits.unmask_one_by_one,
  "diffusion, remasking": circuits.remask_layers,
  "diffusion, revision": circuits.revise_layers,
}
# Of n = 2^m bits.
ROUNDS = {
  "diffusion, scratch": lambda n, m: m + 1,
  "autoregressive, scratch": lambda n, m: 2 * n - 1,
  "diffusion, remasking": lambda n, m: m + 1,
  "diffusion, revision": lambda n, m: m + 1,
}
FOOTPRINT = {
  "diffusion, scratch": lambda n, m: 2 * n - 1,
  "autoregressive, scratch": lambda n, m: 2 * n - 1,
  "diffusion, remasking": lambda n, m: n + n // 2,
  "diffusion, revision": lambda n, m: n,
}


def inputs(seed: int, n: int) -> np.ndarray:
  """All strings of n bits, or 64 random ones."""
  if n in ENUMERATED:
    return np.asarray(sequences.enumerate_sequences(2, n))
  # That no string changes in a round of revision has a chance of 2^-64.
  return np.random.default_rng((seed, n)).integers(0, 2, (64, n))


def measure(name: str, bits: np.ndarray) -> dict[str, int]:
  """Counts of one way, over all inputs."""
  n = bits.shape[-1]
  program = WAYS[name](n, circuits.xor_tree(n))
  run = circuits.run_program(program, bits)
  before, after = run.strings[:, :-1], run.strings[:, 1:]
  parity = np.sum(bits, -1, keepdims=True) % 2
  return {
    "rounds": int(np.max(run.num_rounds)),
    "footprint": int(np.max(run.footprint)),
    "fan-in": max(r.read.shape[1] for r in program.rounds),
    "wrong": int(np.sum(run.outputs != parity)),
    "rewritten": int(np.max(np.sum((before < 2) & (after != before), (1, 2)))),
  }


def _agrees(rows: list[dict], column: str, formulas: dict) -> np.ndarray:
  return np.array(
    [
      row[column]
      - formulas[row["sampler"]](row["bits"], row["bits"].bit_length() - 1)
      for row in rows
    ]
  )


def tree(*, seed: int) -> harness.Part:
  """Claims on rounds and footprint, and their table."""
  rows = []
  for n in SIZES:
    bits = inputs(seed, n)
    rows += [
      {"bits": n, "sampler": name} | measure(name, bits) for name in WAYS
    ]
  plain = [row for row in rows if row["sampler"].endswith("scratch")]
  freed = [row for row in rows if not row["sampler"].endswith("scratch")]
  claims = [
    harness.all_agree(
      "tree_output",
      "XOR tree of n bits, every sampler: wrong outputs, on all inputs for n ="
      " 4 and 8, on random ones up to 256",
      [row["wrong"] for row in rows],
      tolerance=0,
    ),
    harness.all_agree(
      "tree_rounds",
      "XOR tree of n = 2^m bits, rounds counted: m + 1 for diffusion, 2 n - 1"
      " autoregressive",
      _agrees(rows, "rounds", ROUNDS),
      tolerance=0,
    ),
    harness.all_agree(
      "tree_footprint",
      "XOR tree of n bits, positions counted: 2 n - 1 with scratch, n + n / 2"
      " with remasking, n with revision",
      _agrees(rows, "footprint", FOOTPRINT),
      tolerance=0,
    ),
    harness.none_exceeds(
      "tree_reuse",
      "XOR tree of n bits, remasking or revision: most positions beyond n + n"
      " / 2",
      [row["footprint"] - 1.5 * row["bits"] for row in freed],
      tolerance=0,
    ),
    harness.all_agree(
      "tree_plain",
      "XOR tree, samplers with scratch: visible tokens that a round changes",
      [row["rewritten"] for row in plain],
      tolerance=0,
    ),
  ]
  counts = {
    f"tree/{column}": np.array(
      [[r[column] for r in rows if r["sampler"] == name] for name in WAYS]
    )
    for column in ("rounds", "footprint")
  }
  return harness.Part(claims, counts, {"XOR tree": rows})


def plot(axes, curves: dict[str, np.ndarray], column: str) -> None:
  """Counts against n, with the formulas as thin lines."""
  formulas = {"rounds": ROUNDS, "footprint": FOOTPRINT}[column]
  looks = zip(("o", "s", "x", "+"), (11, 6, 6, 9), strict=True)
  for i, (name, counts, (marker, size)) in enumerate(
    zip(WAYS, curves[f"tree/{column}"], looks, strict=True)
  ):
    style = dict(color=f"C{i}", marker=marker, ms=size, fillstyle="none")
    axes.plot(SIZES, counts, linestyle="", label=name, **style)
    theory = [formulas[name](n, n.bit_length() - 1) for n in SIZES]
    axes.plot(SIZES, theory, "-", color=f"C{i}", lw=0.8)
  axes.set(
    xlabel="bits n", ylabel=f"{column}, counted", title=f"XOR tree: {column}"
  )

# SPDX-License-Identifier: Apache-2.0
"""Circuits of XOR gates, run as rounds of a sampler.

A layered circuit is a tuple of int arrays, one for each layer of gates: row g
of `[gates, fan-in]` lists the wires of the layer before that gate g reads; the
random bits are the layer before the first. A sampler runs a circuit as a
`Program`: in each round it writes some positions of a string of masks, each
from a few positions of the string as it was. How it may use positions is what
tells samplers apart: plain ones never touch a token again, so that what is not
output is scratch (a chain of thought); remasking frees positions; revision
overwrites them. Rounds and footprint are counted on the strings of a run.
"""

import itertools
from typing import NamedTuple

import chex
import numpy as np

__all__ = (
  "Program",
  "ProgramRun",
  "Round",
  "remask_layers",
  "revise_layers",
  "run_program",
  "unmask_layers",
  "unmask_one_by_one",
  "xor_tree",
)

_MASK = 2  # beside the bits 0 and 1
Circuit = tuple[np.ndarray, ...]


class Round(NamedTuple):
  """What happens at once, given the string as it was.

  Attributes:
    written: int `[k]`, positions that get a bit.
    read: int `[k, F]`, positions of which each bit is the XOR; with F = 0 they
      are the next k random bits.
    masked: int `[r]`, positions that become masks again.
  """

  written: np.ndarray
  read: np.ndarray
  masked: np.ndarray


class Program(NamedTuple):
  """How a sampler runs a circuit.

  Attributes:
    rounds: in their order.
    outputs: int `[W]`, where the last layer stands at the end.
  """

  rounds: tuple[Round, ...]
  outputs: np.ndarray


class ProgramRun(NamedTuple):
  """What a program did, and what it took.

  Attributes:
    outputs: int `[..., W]`, the last layer.
    num_rounds: int `[...]`, rounds that changed the string.
    footprint: int `[...]`, positions that ever held a bit.
    strings: int `[..., rounds + 1, P]`, from all masks, which are 2, to the
      end.
  """

  outputs: np.ndarray
  num_rounds: np.ndarray
  footprint: np.ndarray
  strings: np.ndarray


def xor_tree(num_bits: int) -> Circuit:
  """The balanced tree of XOR gates, whose root is the parity of its leaves.

  Args:
    num_bits: n, a power of 2, at least 2.

  Returns:
    `log2 n` layers of int `[n / 2, 2]` to `[1, 2]`.

  Raises:
    ValueError: not such a power.

  >>> [layer.tolist() for layer in xor_tree(4)]
  [[[0, 1], [2, 3]], [[0, 1]]]

  Reference:
    DLMs are Provably Optimal Parallel Samplers (2512.25014), circuits.
  """
  if num_bits < 2 or num_bits & (num_bits - 1):
    raise ValueError(
      f"num_bits must be a power of 2 and at least 2, was {num_bits}"
    )
  widths = [num_bits >> depth for depth in range(num_bits.bit_length() - 1)]
  return tuple(np.arange(width).reshape(-1, 2) for width in widths)


# --- ways to run a circuit ---------------------------------------------------


def _widths(num_bits: int, circuit: Circuit) -> list[int]:
  """Of the bits and of every layer; checks the circuit."""
  widths = [num_bits, *(len(layer) for layer in circuit)]
  for number, layer in enumerate(circuit, start=1):
    width = widths[number - 1]
    if np.ndim(layer) != 2 or np.min(layer) < 0 or np.max(layer) >= width:
      raise ValueError(
        f"layer {number} must be [gates, fan-in] of wires below {width}, was"
        f" {np.asarray(layer).tolist()}"
      )
  return widths


def _by_layers(
  circuit: Circuit, places: list[np.ndarray], *, remask: bool = False
) -> Program:
  """A round for the random bits and one for each layer, at these places."""
  none = np.zeros(0, int)
  rounds = [Round(places[0], np.zeros((len(places[0]), 0), int), none)]
  steps = zip(circuit, itertools.pairwise(places), strict=True)
  for layer, (before, after) in steps:
    rounds.append(Round(after, before[layer], before if remask else none))
  return Program(tuple(rounds), places[-1])


def unmask_layers(num_bits: int, circuit: Circuit) -> Program:
  """Plain masked diffusion with scratch tokens: every wire has its position.

  As many rounds as layers, with that of the random bits, and a footprint of the
  circuit's size.

  Args:
    num_bits: n, random bits.
    circuit: layers of int `[gates, fan-in]`.

  Returns:
    `Program`.

  Raises:
    ValueError: a gate reads a wire that is not there.

  >>> len(unmask_layers(4, xor_tree(4)).rounds)
  3

  Reference:
    DLMs are Provably Optimal Parallel Samplers (2512.25014), theorem 3.1.
  """
  ends = np.cumsum([0, *_widths(num_bits, circuit)])
  places = [np.arange(*pair) for pair in itertools.pairwise(ends)]
  return _by_layers(circuit, places)


def unmask_one_by_one(num_bits: int, circuit: Circuit) -> Program:
  """Autoregression with a chain of thought: one wire after the other.

  As many rounds as wires.

  Args:
    num_bits: n, random bits.
    circuit: layers of int `[gates, fan-in]`.

  Returns:
    `Program`.

  Raises:
    ValueError: a gate reads a wire that is not there.

  >>> len(unmask_one_by_one(4, xor_tree(4)).rounds)
  7

  Reference:
    DLMs are Provably Optimal Parallel Samplers (2512.25014), comparison with
    autoregressive models.
  """
  layers, outputs = unmask_layers(num_bits, circuit)
  rounds = [
    Round(layer.written[i : i + 1], layer.read[i : i + 1], layer.masked)
    for layer in layers
    for i in range(len(layer.written))
  ]
  return Program(tuple(rounds), outputs)


def remask_layers(num_bits: int, circuit: Circuit) -> Program:
  """Diffusion with remasking: a layer is masked as soon as it has been read.

  Layers are written in turn to two banks of positions, the random bits to the
  first; a bank is as wide as the widest of its layers.

  Args:
    num_bits: n, random bits.
    circuit: layers of int `[gates, fan-in]`.

  Returns:
    `Program`.

  Raises:
    ValueError: a gate reads a wire that is not there.

  >>> remask_layers(4, xor_tree(4)).rounds[2].written.tolist()
  [0]

  Reference:
    The project's own, for the claim of DLMs are Provably Optimal Parallel
    Samplers (2512.25014).
  """
  widths = _widths(num_bits, circuit)
  starts = (0, max(widths[::2]))
  places = [starts[i % 2] + np.arange(width) for i, width in enumerate(widths)]
  return _by_layers(circuit, places, remask=True)


def revise_layers(num_bits: int, circuit: Circuit) -> Program:
  """Diffusion with revision: a layer overwrites the one before.

  The footprint is the circuit's width.

  Args:
    num_bits: n, random bits.
    circuit: layers of int `[gates, fan-in]`.

  Returns:
    `Program`.

  Raises:
    ValueError: a gate reads a wire that is not there.

  >>> revise_layers(4, xor_tree(4)).rounds[1].written.tolist()
  [0, 1]

  Reference:
    DLMs are Provably Optimal Parallel Samplers (2512.25014), revision.
  """
  return _by_layers(circuit, [np.arange(w) for w in _widths(num_bits, circuit)])


# --- running and counting ----------------------------------------------------


def run_program(program: Program, bits: np.ndarray) -> ProgramRun:
  """Runs a program on random bits, and counts. On the host, in NumPy.

  Args:
    program: its rounds.
    bits: int `[..., n]` of 0 and 1, in the order in which they are drawn.

  Returns:
    `ProgramRun`. Its `num_rounds` is of this string: a revision may happen to
    change nothing.

  Raises:
    AssertionError: bits are not integers.
    ValueError: a round reads a mask, or the program draws another number of
      bits.

  >>> run = run_program(revise_layers(4, xor_tree(4)), np.array([1, 1, 1, 0]))
  >>> print(run.outputs, run.num_rounds, run.footprint)
  [1] 3 4

  Reference:
    DLMs are Provably Optimal Parallel Samplers (2512.25014), the model of a
    round.
  """
  chex.assert_type(bits, int)
  bits = np.asarray(bits)
  num_drawn = sum(len(r.written) for r in program.rounds if not r.read.shape[1])
  if bits.shape[-1] != num_drawn:
    raise ValueError(f"the program draws {num_drawn} bits, was {bits.shape}")
  size = 1 + max(np.max(r.written) for r in program.rounds)
  z = np.full((*bits.shape[:-1], size), _MASK)
  strings, drawn = [z], 0
  for number, (written, read, masked) in enumerate(program.rounds):
    if np.any(z[..., read] == _MASK):
      raise ValueError(
        f"round {number} reads a mask, at one of {read.tolist()}"
      )
    new = np.sum(z[..., read], -1) % 2
    if not read.shape[1]:
      new = bits[..., drawn : drawn + len(written)]
      drawn += len(written)
    z = z.copy()
    z[..., masked] = _MASK
    z[..., written] = new
    strings.append(z)
  run = np.stack(strings, -2)
  changed = np.any(run[..., 1:, :] != run[..., :-1, :], -1)
  return ProgramRun(
    z[..., program.outputs],
    np.sum(changed, -1),
    np.sum(np.any(run != _MASK, -2), -1),
    run,
  )

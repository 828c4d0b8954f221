# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from jaxalign.exact import circuits, sequences

WAYS = {
  "unmask_layers": circuits.unmask_layers,
  "unmask_one_by_one": circuits.unmask_one_by_one,
  "remask_layers": circuits.remask_layers,
  "revise_layers": circuits.revise_layers,
}
# Of the tree over n = 2^m bits: rounds and footprint.
COSTS = {
  "unmask_layers": lambda n, m: (m + 1, 2 * n - 1),
  "unmask_one_by_one": lambda n, m: (2 * n - 1, 2 * n - 1),
  "remask_layers": lambda n, m: (m + 1, n + n // 2),
  "revise_layers": lambda n, m: (m + 1, n),
}
# One layer that pairs each bit with its neighbour in a ring of five, and a
# second layer of other fan-in: widths 5, 5, 2.
UNEVEN = (
  np.stack([np.arange(5), np.arange(5) - 1], -1) % 5,
  np.array([[0, 1, 2], [2, 3, 4]]),
)


def all_bits(n):
  return np.asarray(sequences.enumerate_sequences(2, n))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("n", [4, 8])
def test_every_way_computes_the_parity(name, n):
  x = all_bits(n)
  program = WAYS[name](n, circuits.xor_tree(n))
  found = circuits.run_program(program, x)
  assert found.outputs.shape == (2**n, 1)
  np.testing.assert_array_equal(found.outputs[:, 0], np.sum(x, -1) % 2)
  rounds, footprint = COSTS[name](n, n.bit_length() - 1)
  # A revision may leave a string as it is; some string does change each time.
  assert np.max(found.num_rounds) == rounds == len(program.rounds)
  assert np.all(found.footprint == footprint)
  if name != "revise_layers":
    assert np.all(found.num_rounds == rounds)


@pytest.mark.parametrize("name", WAYS)
def test_other_circuits(name):
  x = all_bits(5)
  found = circuits.run_program(WAYS[name](5, UNEVEN), x)
  ring = np.asarray(x ^ np.roll(x, 1, -1))
  expected = np.stack([ring[:, :3].sum(-1), ring[:, 2:].sum(-1)], -1) % 2
  np.testing.assert_array_equal(found.outputs, expected)
  footprint = {"remask_layers": 10, "revise_layers": 5}.get(name, 12)
  assert np.all(found.footprint == footprint)


@pytest.mark.parametrize("name", WAYS)
def test_rounds_read_and_change_what_they_say(name):
  """On the strings: what a round does not write or mask stays as it was."""
  program = WAYS[name](8, circuits.xor_tree(8))
  z = circuits.run_program(program, all_bits(8)).strings
  assert np.all(z[:, 0] == 2)
  for i, (written, read, masked) in enumerate(program.rounds):
    before, after = z[:, i], z[:, i + 1]
    if read.shape[1]:
      assert np.all(before[:, read] < 2)
      xor = before[:, read].sum(-1) % 2
      np.testing.assert_array_equal(after[:, written], xor)
    assert np.all(after[:, masked] == 2)
    rest = np.setdiff1d(np.arange(z.shape[-1]), [*written, *masked])
    np.testing.assert_array_equal(after[:, rest], before[:, rest])
    is_new = np.all(before[:, written] == 2)
    assert is_new == (name != "revise_layers" or i == 0)
  kept = (z[:, :-1] == 2) | (z[:, :-1] == z[:, 1:])
  assert np.all(kept) == name.startswith("unmask")


def test_scratch_or_revision_give_even_parity():
  """The ring of fan-in 2, for which plain sampling needs scratch."""
  x = all_bits(5)
  for way in (circuits.unmask_layers, circuits.revise_layers):
    found = circuits.run_program(way(5, UNEVEN[:1]), x)
    counts = np.bincount(found.outputs @ (1 << np.arange(5)), minlength=32)
    even = np.sum(x, -1) % 2 == 0
    rows = x @ (1 << np.arange(5))
    np.testing.assert_array_equal(counts[rows], np.where(even, 2, 0))
    assert np.all(
      found.footprint == (10 if way is circuits.unmask_layers else 5)
    )


def test_leading_axes():
  program = circuits.remask_layers(5, UNEVEN)
  bits = all_bits(5)
  rows = [circuits.run_program(program, row) for row in bits]
  found = circuits.run_program(program, bits.reshape(2, 16, 5))
  for name, value in found._asdict().items():
    apart = np.stack([getattr(row, name) for row in rows])
    np.testing.assert_array_equal(value, apart.reshape(value.shape))


def test_bad_arguments():
  for n in (0, 1, 6):
    with pytest.raises(ValueError, match=f"power of 2 and at least 2, was {n}"):
      circuits.xor_tree(n)
  for way in WAYS.values():
    with pytest.raises(ValueError, match=r"layer 2 must be .* wires below 2"):
      way(4, (np.array([[0, 1], [2, 3]]), np.array([[0, 2]])))
  program = circuits.unmask_layers(4, circuits.xor_tree(4))
  with pytest.raises(ValueError, match=r"draws 4 bits, was \(3,\)"):
    circuits.run_program(program, np.zeros(3, int))
  with pytest.raises(AssertionError):
    circuits.run_program(program, np.zeros(4))
  first, second, last = program.rounds
  late = program._replace(rounds=(first, last, second))
  with pytest.raises(ValueError, match="round 1 reads a mask"):
    circuits.run_program(late, np.zeros(4, int))

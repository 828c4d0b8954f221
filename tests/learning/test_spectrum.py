# SPDX-License-Identifier: Apache-2.0
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import spectrum
from tests import helpers

# Of text: D a description, I an input, O an output, E its end, P padding.
SCORED = ("outputs", "first", "last", "all")


def by_hand(text, scored):
  """Walks through messages as the paper's format has them."""
  described, number, scores, groups = "D" in text, -1, [], []
  for before, token in zip("E" + text, text, strict=False):
    begins = token in ("O", "E") and before != "O"
    number += begins
    counts = token in ("O", "E") and (described or number > 0)
    scores.append(counts)
    groups.append(number if counts else None)
  numbers = [g for g in groups if g is not None]
  if scored == "all":
    return [token != "P" for token in text]
  if scored == "outputs" or not numbers:
    return scores
  kept = min(numbers) if scored == "first" else max(numbers)
  return [g == kept for g in groups]


def arrays(text):
  outputs, number = [], -1
  for before, token in zip("E" + text, text, strict=False):
    number += token in ("O", "E") and before != "O"
    outputs.append(number if token in ("O", "E") else -1)
  return outputs, "D" in text, [token != "P" for token in text]


TEXTS = ("DDIOOEIOEOEP", "IOEIOOEIOOEP", "OEOEOEOEOEOE", "DDOOEPPPPPPP")
ROWS = [np.array(x) for x in zip(*map(arrays, TEXTS), strict=True)]


@pytest.mark.parametrize("scored", SCORED)
def test_mask_is_that_of_a_walk_through_the_messages(scored):
  outputs, described, where = map(jnp.asarray, ROWS)
  found = spectrum.spectrum_mask(outputs, described, where=where, scored=scored)
  expected = [by_hand(text, scored) for text in TEXTS]
  np.testing.assert_array_equal(found, expected)


def test_what_is_there_and_does_not_count():
  one = jnp.array([-1, 0, 0])  # a single output, not described
  for scored in SCORED[:-1]:
    found = spectrum.spectrum_mask(one, jnp.array(False), scored=scored)
    assert not found.any()
  # An output that was cut off at the end of the context does not count.
  cut = spectrum.spectrum_mask(
    jnp.array([0, 1, 2]),
    jnp.array(False),
    where=jnp.array([True, True, False]),
    scored="last",
  )
  np.testing.assert_array_equal(cut, [False, True, False])


def test_transforms():
  outputs, described, where = (x[:2] for x in ROWS)
  for scored in ("first", "all"):
    helpers.assert_transforms(
      lambda o, d, w, s=scored: spectrum.spectrum_mask(o, d, where=w, scored=s),
      outputs,
      described,
      where,
    )


def test_bad_input():
  fn = functools.partial(spectrum.spectrum_mask, jnp.array([0, 1]))
  with pytest.raises(ValueError, match="unknown scored 'inputs': choose one"):
    fn(jnp.array(True), scored="inputs")
  with pytest.raises(AssertionError, match=r"has_description \(2,\)"):
    fn(jnp.array([True, False]))
  with pytest.raises(AssertionError):
    fn(jnp.array(1.0))

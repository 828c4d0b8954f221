# SPDX-License-Identifier: Apache-2.0
"""Pairwise losses by name: the one place where a string becomes a function."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxalign import checks
from jaxalign.preference import pairs, pairwise

__all__ = ("PAIR_LOSSES", "pair_loss")

Loss = Callable[[pairs.PairLogps], pairs.PairLoss]

PAIR_LOSSES: Mapping[str, Callable[..., pairs.PairLoss]] = {
  "dpo": pairwise.dpo_loss,
  "hinge": pairwise.hinge_loss,
}


def pair_loss(name: str, **options: Any) -> Loss:
  """A pairwise loss with its options, both checked before any data is seen.

  Args:
    name: one of `PAIR_LOSSES`.
    **options: keyword-only parameters of that function.

  Returns:
    A function of `PairLogps`, arrays `[...]`, that gives `PairLoss`.

  Raises:
    ValueError: an unknown loss, an option that it does not take, or a value
      outside its range.

  >>> loss = pair_loss("dpo", beta=.5)
  >>> try: pair_loss("dpo", tau=.5)
  ... except ValueError as error: print(error)
  'dpo' takes no option 'tau': it takes beta, label_smoothing

  Reference:
    Each loss names its own.
  """
  checks.check_choice("loss", name, PAIR_LOSSES)
  function = PAIR_LOSSES[name]
  checks.check_options(name, function, options)
  loss = functools.partial(function, **options)
  size = len(pairs.PairLogps._fields)
  jax.eval_shape(lambda x: loss(pairs.PairLogps(*[x] * size)), jnp.ones(2))
  return loss

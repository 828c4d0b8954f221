# SPDX-License-Identifier: Apache-2.0
"""Pairwise losses by name: the one place where a string becomes a function."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxalign import checks
from jaxalign.preference import (
  aot,
  f_dpo,
  pairs,
  pairwise,
  pointwise,
  reference_free,
  regularized,
)

__all__ = ("PAIR_LOSSES", "pair_loss")

Loss = Callable[[pairs.PairLogps], pairs.PairLoss]

PAIR_LOSSES: Mapping[str, Callable[..., pairs.PairLoss]] = {
  "dpo": pairwise.dpo_loss,
  "f_dpo": f_dpo.f_dpo_loss,
  "hdpo": pairwise.hdpo_loss,
  "ipo": pairwise.ipo_loss,
  "robust": pairwise.robust_dpo_loss,
  "hinge": pairwise.hinge_loss,
  "exo_pair": pairwise.exo_pair_loss,
  "discopop": pairwise.discopop_loss,
  "sigmoid_norm": pairwise.sigmoid_norm_loss,
  "nca_pair": pointwise.nca_pair_loss,
  "bco_pair": pointwise.bco_pair_loss,
  "sppo_hard": pointwise.sppo_hard_loss,
  "apo_zero": pointwise.apo_zero_loss,
  "apo_down": pointwise.apo_down_loss,
  "aot": aot.aot_loss,
  "dpop": regularized.dpop_loss,
  "rpo": regularized.rpo_loss,
  "orpo": reference_free.orpo_loss,
  "cpo": reference_free.cpo_loss,
  "simpo": reference_free.simpo_loss,
  "alphapo": reference_free.alphapo_loss,
}


def pair_loss(name: str, **options: Any) -> Loss:
  """A pairwise loss with its options, both checked before any data is seen.

  Args:
    name: one of `PAIR_LOSSES`.
    **options: keyword-only parameters of that function.

  Returns:
    A function of `PairLogps`, arrays `[...]`, that gives `PairLoss`.

  Raises:
    ValueError: an unknown loss, an option that it does not take, a missing one
      that has no default, or a value outside its range.

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
  for p in inspect.signature(function).parameters.values():
    required = p.kind is p.KEYWORD_ONLY and p.default is p.empty
    if required and p.name not in options:
      raise ValueError(f"{name!r} needs the option {p.name!r}")
  loss = functools.partial(function, **options)
  size = len(pairs.PairLogps._fields)
  jax.eval_shape(lambda x: loss(pairs.PairLogps(*[x] * size)), jnp.ones(2))
  return loss

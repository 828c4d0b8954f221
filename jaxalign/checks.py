# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments: one line that says what was given and what is allowed.

Shapes and static options are known while a function is traced and are always
checked. Values are not: `check_distribution` and `check_finite` are for
host-side entry points (readers, binaries, notebooks) and must not be called
under `jit`.
"""

import inspect
from collections.abc import Callable, Collection

import chex
import jax
import numpy as np

__all__ = (
  "InputError",
  "check_choice",
  "check_distribution",
  "check_finite",
  "check_float",
  "check_options",
  "check_positive",
  "check_rank",
  "check_same_shape",
)


class InputError(ValueError):
  """What came from outside (a file, a flag, a host array) cannot be used."""


def check_same_shape(**arrays: chex.Array) -> None:
  """Raises unless all arrays, passed by name, have one shape.

  Args:
    **arrays: the arrays, under the names that the error shall use. Any shape.

  Raises:
    AssertionError: naming every argument with its shape.

  >>> import numpy as np
  >>> check_same_shape(p=np.zeros(3), q=np.zeros(3))
  """
  shapes = ", ".join(f"{name} {np.shape(x)}" for name, x in arrays.items())
  chex.assert_equal_shape(
    tuple(arrays.values()), custom_message=f"need one shape: {shapes}"
  )


def check_rank(rank: int, **arrays: chex.Array) -> None:
  """Raises unless every array, passed by name, has the given rank.

  Args:
    rank: the rank.
    **arrays: the arrays, under the names that the error shall use. Any shape.

  Raises:
    AssertionError: naming every argument with its shape.

  >>> import numpy as np
  >>> check_rank(1, rewards=np.zeros(3))
  """
  shapes = ", ".join(f"{name} {np.shape(x)}" for name, x in arrays.items())
  chex.assert_rank(
    tuple(arrays.values()), rank, custom_message=f"need rank {rank}: {shapes}"
  )


def check_float(**arrays: chex.Array) -> None:
  """Raises unless every array, passed by name, is of floating-point type.

  Args:
    **arrays: the arrays, under the names that the error shall use. Any shape.

  Raises:
    AssertionError: naming every argument with its type.

  >>> import numpy as np
  >>> check_float(logits=np.zeros(3))
  """
  types = ", ".join(
    f"{n} {jax.dtypes.result_type(x)}" for n, x in arrays.items()
  )
  chex.assert_type(
    tuple(arrays.values()), float, custom_message=f"need floats: {types}"
  )


def check_positive(**values: float | jax.Array) -> None:
  """Raises unless every number, passed by name, is above 0.

  Args:
    **values: scalars or arrays. A traced value cannot be looked at and passes.

  Raises:
    ValueError: naming the argument and what it was.

  >>> check_positive(beta=.1)
  """
  for name, value in values.items():
    traced = isinstance(value, jax.core.Tracer)
    if not traced and not np.all(np.asarray(value) > 0):
      raise ValueError(f"{name} must be above 0, was {value}")


def check_choice(name: str, value: str, allowed: Collection[str]) -> None:
  """Raises unless `value` is one of `allowed`.

  Args:
    name: what the option is called.
    value: what was given.
    allowed: every value that is allowed.

  Raises:
    ValueError: naming the option, what was given and every allowed value.

  >>> check_choice("ties", "uniform", ("uniform", "index"))
  """
  if value not in allowed:
    raise ValueError(
      f"unknown {name} {value!r}: choose one of {', '.join(sorted(allowed))}"
    )


def check_options(
  name: str, function: Callable, options: Collection[str]
) -> None:
  """Raises unless the function takes all options, as keyword-only parameters.

  `where` is data, hence no option.

  Args:
    name: what the function is called where options are given.
    function: whose keyword-only parameters are the options.
    options: their names.

  Raises:
    ValueError: naming the option and every one that is taken.

  >>> check_options("sorted", lambda x, *, key: x, ["key"])
  """
  allowed = [
    p.name
    for p in inspect.signature(function).parameters.values()
    if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != "where"
  ]
  for option in options:
    if option not in allowed:
      raise ValueError(
        f"{name!r} takes no option {option!r}: it takes"
        f" {', '.join(allowed) or 'none'}"
      )


def check_distribution(name: str, probs: np.ndarray, axis: int = -1) -> None:
  """Raises unless `probs` is non-negative and sums to 1. Host side only.

  Args:
    name: what the argument is called.
    probs: probabilities `[..., V]`.
    axis: the axis that must sum to 1 (to 1e-6).

  Raises:
    InputError: naming the argument and its worst entry or sum.

  >>> import numpy as np
  >>> check_distribution("weights", np.array([.25, .75]))
  """
  probs = np.asarray(probs, np.float64)
  if not np.all(probs >= 0):
    raise InputError(
      f"{name} must be non-negative, its smallest entry is {probs.min():.3g}"
    )
  total = probs.sum(axis)
  worst = np.ravel(total)[np.argmax(np.abs(np.ravel(total) - 1))]
  if abs(worst - 1) > 1e-6:
    raise InputError(f"{name} must sum to 1, sums to {worst:.6g}: normalise it")


def check_finite(**arrays: np.ndarray) -> None:
  """Raises unless arrays, passed by name, are free of NaN and inf. Host only.

  A single NaN reward makes every advantage of its group, and so every parameter
  of the next update, NaN: check rewards before they are used.

  Args:
    **arrays: the arrays, under the names that the error shall use. Any shape.

  Raises:
    InputError: naming the array, how many entries are not finite and the first.

  >>> import numpy as np
  >>> try:
  ...   check_finite(rewards=np.array([[0., 1.], [np.nan, 2.]]))
  ... except InputError as error: print(error)
  rewards must be finite: 1 of 4 entries are not, first nan at (1, 0)
  """
  for name, array in arrays.items():
    values = np.asarray(array)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
      first = tuple(bad[0].tolist())
      raise InputError(
        f"{name} must be finite: {len(bad)} of {values.size} entries are not,"
        f" first {values[first]} at {first}"
      )

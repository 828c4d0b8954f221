# SPDX-License-Identifier: Apache-2.0
"""Library functions as one program each, for the tests.

Op by op a function of fifty operations is fifty programs, and compiling them is
most of what a suite of small exact tests costs. Here every public function is
compiled whole when a test calls it with concrete arrays; options (what is no
array) are static. Functions are what a user imports

- inside `op_by_op`: where `helpers.assert_transforms` compares eager with jit,
  in experiments, and where an error is expected (values are checked eagerly);
- within a trace;
- if they refuse tracers, as those on the host do, or return no arrays.
"""

import contextlib
import functools
import importlib
import inspect
import pkgutil
import types

import jax
import numpy as np
import pytest

import jaxalign

_REFUSALS = (
  TypeError,  # also of JAX: a value is needed, or a result is no array
  jax.errors.NonConcreteBooleanIndexError,
)
_ARRAY = object()
_raises = pytest.raises
_whole = True
_refused = set()


@contextlib.contextmanager
def op_by_op():
  """Within it public functions run eagerly, as they are written."""
  global _whole
  before, _whole = _whole, False
  try:
    yield
  finally:
    _whole = before


@functools.cache
def _program(function, tree, leaves):
  def run(arrays):
    rest = iter(arrays)
    filled = [next(rest) if x is _ARRAY else x for _, x in leaves]
    args, kwargs = jax.tree.unflatten(tree, filled)
    return function(*args, **kwargs)

  return jax.jit(run)


def _call(function, args, kwargs):
  leaves, tree = jax.tree.flatten((args, kwargs))
  arrays = [
    x for x in leaves if isinstance(x, np.ndarray | np.generic | jax.Array)
  ]
  traced = any(isinstance(x, jax.core.Tracer) for x in arrays)
  if traced or not arrays or not _whole or function in _refused:
    return function(*args, **kwargs)
  # With types: 1 and 1.0 and True are equal.
  static = tuple(
    (None, _ARRAY) if any(x is y for y in arrays) else (type(x), x)
    for x in leaves
  )
  try:
    return _program(function, tree, static)(arrays)
  except _REFUSALS:
    _refused.add(function)
    return function(*args, **kwargs)


def _wrap(function, call):
  def wrapped(*args, **kwargs):
    return call(function, args, kwargs)

  # With the globals of its module, or doctest would not look at it.
  wrapped = types.FunctionType(
    wrapped.__code__,
    function.__globals__,
    closure=wrapped.__closure__,
  )
  return functools.wraps(function)(wrapped)


@contextlib.contextmanager
def raises(*args, **kwargs):
  """`pytest.raises` of functions as they are written: they look at values."""
  with op_by_op(), _raises(*args, **kwargs) as info:
    yield info


def compile_whole():
  """Replaces the public functions of all modules of the library."""
  pytest.raises = raises
  wrapped = {}
  for info in pkgutil.walk_packages(jaxalign.__path__, "jaxalign."):
    module = importlib.import_module(info.name)
    for name in module.__all__:
      thing = getattr(module, name)
      if inspect.isfunction(thing):
        wrapped.setdefault(thing, _wrap(thing, _call))
        setattr(module, name, wrapped[thing])

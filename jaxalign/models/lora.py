# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters as a transform of parameters.

Adapters live beside the parameters, not inside the model: any model is applied
to `apply_lora(params, lora)`, whose kernels are `W + scale A B`. What is
trained is `lora` alone, and what is exported is the same merged tree, which has
the parameters' structure, shapes and types.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ("apply_lora", "init_lora")

Paths = str | Callable[[str], bool]


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _chooses(paths: Paths, name: str) -> bool:
  return bool(re.search(paths, name) if isinstance(paths, str) else paths(name))


def _check_kernel(name: str, kernel: jax.Array, stacked: bool, rank: int):
  axes = "[layers, in, out]" if stacked else "[in, out]"
  if kernel.ndim != 2 + stacked:
    raise ValueError(
      f"kernel {name} must be {axes}, was {kernel.shape}: choose by `stacked`"
      " what has an axis of layers, and by `targets` no other kernels"
    )
  if rank > min(kernel.shape[-2:]):
    raise ValueError(
      f"rank must be at most {min(kernel.shape[-2:])} for kernel {name}"
      f" {kernel.shape}, was {rank}"
    )


def init_lora(
  key: jax.Array,
  params: Any,
  *,
  rank: int,
  targets: Paths = "kernel$",
  stacked: Paths = "^layers/",
) -> dict[str, dict[str, jax.Array]]:
  """Adapters of chosen kernels, which change nothing yet.

  `A` is normal with variance `1 / in`, truncated at two standard deviations,
  and `B` is 0.

  Args:
    key: consumed.
    params: a tree of parameters.
    rank: r, at least 1 and at most the kernels' smaller axis.
    targets: which kernels: a regular expression that is searched for in each
      parameter's path, `outer/inner/kernel`, or a predicate of it.
    stacked: which of those have layers in front, `[L, in, out]`, likewise, as a
      scan over layers stacks them; what is under `layers` by default.

  Returns:
    By path, `{"a": [in, r], "b": [r, out]}`, or with layers in front of each;
    float32, or wider as the kernel: `r (in + out)` numbers a layer.

  Raises:
    ValueError: no parameter is chosen; a kernel has other axes (those of
      `[in, heads, dim]` say not where its inputs end); a rank out of range.

  >>> params = {"up": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
  >>> lora = init_lora(jax.random.key(0), params, rank=2)
  >>> jax.tree.map(jnp.shape, lora)
  {'up/kernel': {'a': (4, 2), 'b': (2, 8)}}

  Reference:
    LoRA: Low-Rank Adaptation of Large Language Models (2106.09685), section
    4.1.
  """
  if rank < 1:
    raise ValueError(f"rank must be at least 1, was {rank}")
  leaves = [
    (_name(path), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  ]
  chosen = [(name, leaf) for name, leaf in leaves if _chooses(targets, name)]
  if not chosen:
    some = ", ".join(name for name, _ in leaves[:5])
    raise ValueError(f"targets choose no parameter: paths are as {some}")
  init = jax.nn.initializers.lecun_normal
  lora = {}
  keys = jax.random.split(key, len(chosen))
  for own, (name, kernel) in zip(keys, chosen, strict=True):
    in_stack = _chooses(stacked, name)
    _check_kernel(name, kernel, in_stack, rank)
    *layers, num_in, num_out = kernel.shape
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    a = init(batch_axis=tuple(range(len(layers))))
    lora[name] = {
      "a": a(own, (*layers, num_in, rank), dtype),
      "b": jnp.zeros((*layers, rank, num_out), dtype),
    }
  return lora


def apply_lora(
  params: Any, lora: dict[str, dict[str, jax.Array]], *, scale: float
) -> Any:
  """Parameters with their adapters merged in: `W + scale A B`.

  Differentiable in both; for training, differentiate in `lora` alone. The
  product is formed in the adapters' type and the sum in the wider of both, and
  then rounded to the kernel's type.

  Args:
    params: a tree of parameters.
    lora: from `init_lora` of a tree with these paths and shapes.
    scale: what the literature writes as alpha / rank.

  Returns:
    A tree like `params`, to apply, save or export.

  Raises:
    ValueError: an adapter fits no parameter.

  >>> params = {"kernel": jnp.ones((1, 1))}
  >>> lora = {"kernel": {"a": jnp.ones((1, 1)), "b": jnp.ones((1, 1))}}
  >>> apply_lora(params, lora, scale=2.)
  {'kernel': Array([[3.]], dtype=float32)}

  Reference:
    LoRA: Low-Rank Adaptation of Large Language Models (2106.09685), section
    4.1.
  """
  found = set()

  def merge(path, kernel):
    name = _name(path)
    if name not in lora:
      return kernel
    found.add(name)
    update = jnp.matmul(lora[name]["a"], lora[name]["b"])
    if update.shape != kernel.shape:
      raise ValueError(
        f"the adapter of {name} is for {update.shape}, the kernel is"
        f" {kernel.shape}"
      )
    return (kernel + scale * update).astype(kernel.dtype)

  merged = jax.tree_util.tree_map_with_path(merge, params)
  missing = sorted(set(lora) - found)
  if missing:
    raise ValueError(f"adapters without parameters: {', '.join(missing)}")
  return merged

# SPDX-License-Identifier: Apache-2.0
"""jaxalign: the mathematics of alignment as pure JAX functions.

Sub-packages are imported on first use, so that `import jaxalign` costs little:

>>> import jaxalign
>>> "divergences" in dir(jaxalign)
True
"""

import importlib

__version__ = "0.1.0"

__all__ = (
  "checks",
  "data",
  "diffusion",
  "divergences",
  "evaluation",
  "exact",
  "inference",
  "learning",
  "models",
  "numerics",
  "preference",
  "rl",
  "social_choice",
  "training",
)


def __getattr__(name: str):
  if name in __all__:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted((*__all__, "__version__"))

# SPDX-License-Identifier: Apache-2.0
"""The f-divergences that the parts go through."""

from jaxalign.divergences import generators

ALPHA, GAMMA = 0.4, 1.5


def registry() -> dict[str, generators.FDivergence]:
  """Every generator by name; those with a parameter at one value of it."""
  parameters = {"alpha": {"alpha": ALPHA}, "hockey_stick": {"gamma": GAMMA}}
  return {
    name: generators.f_divergence(name, **parameters.get(name, {}))
    for name in generators.NAMES
  }

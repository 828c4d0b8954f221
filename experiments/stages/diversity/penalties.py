# SPDX-License-Identifier: Apache-2.0
"""The divergences to the base that are compared, mode-seeking ones first."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import divergences


def _alpha(order: float) -> divergences.FDivergence:
  order = divergences.alpha_order(order, convention="dph_rl")
  return divergences.f_divergence("alpha", alpha=order)


PENALTIES = {
  "reverse KL": divergences.f_divergence("kl"),
  "alpha = .2": _alpha(0.2),
  "alpha = .5": _alpha(0.5),
  "JS": divergences.f_divergence("jensen_shannon"),
  "forward KL": divergences.f_divergence("reverse_kl"),
}
# The generator of DPH-RL over the one here: its JS is 2 JS.
TIMES = {name: 2.0 if name == "JS" else 1.0 for name in PENALTIES}


@functools.cache
def curvatures() -> dict[str, float]:
  """`f''(1)` of each, all in one program."""
  names, divs = zip(*PENALTIES.items(), strict=True)
  one = np.ones(())
  found = jax.jit(lambda x: jnp.stack([d.f_second(x) for d in divs]))(one)
  return dict(zip(names, np.asarray(found).tolist(), strict=True))

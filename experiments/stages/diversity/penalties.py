# SPDX-License-Identifier: Apache-2.0
"""The divergences to the base that are compared, mode-seeking ones first."""

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

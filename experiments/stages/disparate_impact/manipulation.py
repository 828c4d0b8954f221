# SPDX-License-Identifier: Apache-2.0
"""Ways to show a disparate impact, and what detectors see of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import divergences
from jaxalign.learning import fairness

WAYS = ("projection", "shares free", "balanced", "flips")
CELLS = ("S=0, y=0", "S=0, y=1", "S=1, y=0", "S=1, y=1")
_DEGREES = 3  # of freedom, of the shares of four cells


class Sample(NamedTuple):
  """Predictions and groups, floats 0 or 1; leading axes `[S]`.

  Attributes:
    predictions: `[N]`.
    groups: `[N]`.
  """

  predictions: np.ndarray
  groups: np.ndarray


class Manipulated(NamedTuple):
  """What each of the `WAYS` makes of a sample.

  Attributes:
    weights: `[N]`, of the projection, mean 1.
    flipped: `[N]`, predictions after flips.
    flips: `[]`, how many.
    impacts: `[W]`, disparate impact that is shown.
    kl: `[W]`, of the shares of cells from the true ones, nats.
    distance: `[W]`, total variation of these shares: also their Wasserstein
      distance where moving a row to any other cell costs 1.
    p_value: `[W]`, of a likelihood-ratio test on a sample of size N that shows
      exactly these shares.
    direct: `[]`, the projection's divergence by the problem in one unknown.
    residual: `[]`, of the projection's constraints.
    before: `[]`, the true impact.
    cells: `[4]`, true shares.
    shown: `[W, 4]`, shares that are shown.
  """

  weights: jax.Array
  flipped: jax.Array
  flips: jax.Array
  impacts: jax.Array
  kl: jax.Array
  distance: jax.Array
  p_value: jax.Array
  direct: jax.Array
  residual: jax.Array
  before: jax.Array
  cells: jax.Array
  shown: jax.Array


def _cells(sample: Sample, weights: jax.Array) -> jax.Array:
  """Shares `[4]` of the `CELLS`."""
  predictions, groups = sample
  members = [(groups == s) & (predictions == y) for s in (0, 1) for y in (0, 1)]
  mass = jnp.stack([jnp.sum(jnp.where(m, weights, 0)) for m in members])
  return mass / jnp.sum(mass)


def _of_rates(rates: fairness.ImpactRates, share: jax.Array) -> jax.Array:
  """Shares `[4]` of groups as they were, at new rates."""
  low, high = rates.disadvantaged, rates.advantaged
  parts = [(1 - share) * (1 - low), (1 - share) * low]
  return jnp.stack([*parts, share * (1 - high), share * high])


@jax.jit
def manipulate(
  key: jax.Array, sample: Sample, impact: jax.Array
) -> Manipulated:
  """Every way, for one sample."""
  predictions, groups = sample
  features, target = fairness.impact_constraints(
    predictions, groups, impact=impact
  )
  found = fairness.entropic_projection(features, target)
  free = fairness.entropic_projection(features[:, :1], target[:1])
  flipped = fairness.flip_predictions(key, predictions, groups, impact=impact)
  rates, share = fairness.group_rates(predictions, groups), target[1]
  direct = fairness.entropic_rates(rates, share, impact=impact)
  balanced = fairness.balanced_rates(rates, share, impact=impact)
  equal = jnp.ones_like(predictions)
  cells = _cells(sample, equal)
  shown = jnp.stack(
    [
      _cells(sample, found.weights),
      _cells(sample, free.weights),
      _of_rates(balanced, share),
      _cells(Sample(flipped, groups), equal),
    ]
  )
  kl = divergences.kl(jnp.log(shown), jnp.broadcast_to(jnp.log(cells), (4, 4)))
  zero, one = shown[:, :2], shown[:, 2:]
  return Manipulated(
    weights=found.weights * predictions.size,
    flipped=flipped,
    flips=jnp.sum(flipped != predictions),
    impacts=(zero[:, 1] / zero.sum(1)) / (one[:, 1] / one.sum(1)),
    kl=kl,
    distance=divergences.total_variation(
      jnp.log(shown), jnp.broadcast_to(jnp.log(cells), (4, 4))
    ),
    p_value=jax.scipy.stats.chi2.sf(2 * predictions.size * kl, _DEGREES),
    direct=direct.kl,
    residual=found.residual,
    before=fairness.disparate_impact(predictions, groups),
    cells=cells,
    shown=shown,
  )


@jax.jit
def divergence_by_impact(
  rates: jax.Array, share: jax.Array, impacts: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Divergences of the projection and of the balanced variant, `[T]` each."""

  def at(impact):
    best = fairness.entropic_rates(rates, share, impact=impact)
    return best.kl, fairness.balanced_rates(rates, share, impact=impact).kl

  return jax.vmap(at)(impacts)

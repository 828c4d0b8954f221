# SPDX-License-Identifier: Apache-2.0
"""The expected gradient of each estimator in each of its uses.

By enumeration on random categoricals, against the gradient of the quantity that
theory names.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.kl_estimators import comparison
from experiments.stages.kl_estimators.kinds import KINDS
from jaxalign.divergences import categorical, kl_estimators

USES = {
  "loss": "as a loss",
  "reward": "in the reward",
  "ratio": "ratio-weighted",
}
PENALTIES = ("penalty, on-policy", "penalty, off-policy")
REVERSE, FORWARD = "KL(pi||ref)", "KL(ref||pi)"
# The quantity whose gradient each surrogate has in expectation.
MEANING = {
  ("loss", "k1"): "0",
  ("loss", "k2"): REVERSE,
  ("loss", "k3"): FORWARD,
  ("reward", "k1"): REVERSE,
  ("reward", "k2"): f"E[k2] - {REVERSE}",
  ("reward", "k3"): f"{REVERSE} - {FORWARD}",
  ("ratio", "k1"): REVERSE,
  ("ratio", "k2"): "E[k2]",
  ("ratio", "k3"): REVERSE,
  **{(use, kind): REVERSE for use in PENALTIES for kind in KINDS},
}
# Name, statement and cells of each claim.
_CLAIMS = (
  ("k1_as_loss", "k1 as a loss has expected gradient 0", [("loss", "k1")]),
  (
    "k2_as_loss",
    "k2 as a loss has the gradient of KL(policy||ref)",
    [("loss", "k2")],
  ),
  (
    "k3_as_loss",
    "k3 as a loss has the gradient of KL(ref||policy)",
    [("loss", "k3")],
  ),
  (
    "k1_in_reward",
    "k1 in the reward has the gradient of KL(policy||ref)",
    [("reward", "k1")],
  ),
  (
    "k3_in_reward",
    "k3 in the reward has the gradient of KL(policy||ref) less KL(ref||policy)",
    [("reward", "k3")],
  ),
  (
    "ratio_weighted",
    "k1 and k3 times the differentiated ratio have the gradient of"
    " KL(policy||ref)",
    [("ratio", "k1"), ("ratio", "k3")],
  ),
  (
    "k2_elsewhere",
    "k2 times the ratio has the gradient of E[k2], in the reward that less"
    " KL(policy||ref)",
    [("ratio", "k2"), ("reward", "k2")],
  ),
  (
    "penalty_losses",
    "kl_penalty_loss, every estimator, on- and off-policy, has the gradient of"
    " KL(policy||ref)",
    [cell for cell in MEANING if cell[0] in PENALTIES],
  ),
)


def used(use: str, kind: str, logp, ref_logp, old_logp) -> jax.Array:
  """A surrogate's value at every outcome; the samples do not move with it."""
  fixed = jax.lax.stop_gradient
  if use in PENALTIES:
    old_logp = fixed(logp) if use == "penalty, on-policy" else old_logp
    return kl_estimators.kl_penalty_loss(
      logp, ref_logp, old_logp, estimator=kind
    )
  k = kl_estimators.kl_estimate(logp - ref_logp, kind=kind)
  if use == "loss":
    return k
  if use == "reward":
    return fixed(k) * logp
  return jnp.exp(logp - fixed(logp)) * k


@jax.jit(static_argnames="outcomes")
def gradients_by_use(
  keys: jax.Array, *, outcomes: int
) -> tuple[jax.Array, jax.Array]:
  """Errors and cosines of the expected gradients, per pair of categoricals.

  Returns:
    `[C, 15]` errors against `MEANING`, in its order, and `[C, 15]` cosines with
    the gradient of KL(pi||ref).
  """

  def one(key):
    policy, ref, old = jax.random.normal(key, (3, outcomes))
    log_pi, log_ref, log_old = jax.nn.log_softmax(jnp.stack([policy, ref, old]))

    def expected_values(x):
      """Means under fixed samplers, and the means that do move with pi."""
      logp = jax.nn.log_softmax(x)
      means = [
        jnp.exp(log_old if use == "penalty, off-policy" else log_pi)
        @ used(use, kind, logp, log_ref, log_old)
        for use, kind in MEANING
      ]
      square = jnp.exp(logp) @ (logp - log_ref) ** 2 / 2
      reverse, forward = categorical.kl(x, ref), categorical.kl(ref, x)
      return jnp.stack(means), jnp.stack([square, reverse, forward])

    gradients, (square, reverse, forward) = jax.jacrev(expected_values)(policy)
    theory = {
      "0": jnp.zeros_like(reverse),
      REVERSE: reverse,
      FORWARD: forward,
      f"{REVERSE} - {FORWARD}": reverse - forward,
      "E[k2]": square,
      f"E[k2] - {REVERSE}": square - reverse,
    }
    theory = jnp.stack([theory[meaning] for meaning in MEANING.values()])
    errors = jax.vmap(comparison.relative_error, (0, 0, None))
    cosines = jax.vmap(comparison.cosine, (0, None))
    return errors(gradients, theory, reverse), cosines(gradients, reverse)

  return jax.vmap(one)(keys)


def uses(key: jax.Array, *, categoricals: int, outcomes: int) -> harness.Part:
  """Claims, curves and a table of the expected gradients.

  Args:
    key: of the categoricals.
    categoricals: random pairs.
    outcomes: of each categorical.
  """
  keys = jax.random.split(key, categoricals)
  errors, cosines = map(np.asarray, gradients_by_use(keys, outcomes=outcomes))
  error = dict(zip(MEANING, errors.T, strict=True))
  cosine = dict(zip(MEANING, np.median(cosines, 0), strict=True))
  claims = [
    comparison.exact_claim(name, statement, [error[cell] for cell in cells])
    for name, statement, cells in _CLAIMS
  ]
  rows = [
    {
      "use": use,
      "estimator": kind,
      "gradient of": meaning,
      "largest error": error[use, kind].max(),
      "median cosine": cosine[use, kind],
    }
    for (use, kind), meaning in MEANING.items()
  ]
  by_use = np.array([[cosine[use, kind] for kind in KINDS] for use in USES])
  return harness.Part(
    claims,
    {"use_errors": errors, "use_cosines": by_use},
    {"expected gradient by use": rows},
  )


def draw(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Cosines with the gradient of KL(pi||ref), by use and estimator."""
  cosines = curves["use_cosines"]
  for i, kind in enumerate(KINDS):
    axes.bar(
      np.arange(len(USES)) + 0.27 * (i - 1), cosines[:, i], 0.25, label=kind
    )
  axes.axhline(1, color="black", linewidth=0.8)
  axes.set_xticks(range(len(USES)), USES.values())
  axes.set(
    ylabel="cosine with grad KL(pi||ref)",
    title="one categorical: direction of the expected gradient",
    ylim=(min(0, cosines.min()) - 0.05, 1.35),
  )
  axes.set_axisbelow(True)
  axes.legend(ncols=3, loc="upper left")

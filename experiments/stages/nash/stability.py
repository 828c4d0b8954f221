# SPDX-License-Identifier: Apache-2.0
"""The step size up to which self-play converges.

Factors of the KL per step beside it, on a cycle, against those of the
linearised step; the threshold is where their fit crosses 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from jaxalign.divergences import categorical
from jaxalign.exact import games
from jaxalign.social_choice import nash

TAU, WIN = 0.02, 0.8
ETAS = (1.28, 1.3, 1.31, 1.33, 1.34, 1.36)
STEPS, FITTED_STEPS = 20_000, 2000


@functools.partial(jax.jit, static_argnames="steps")
def play(etas: jax.Array, *, steps: int) -> tuple[jax.Array, jax.Array]:
  """KL from pi* `[T + 1, K]` of self-play, and its threshold."""
  pref = games.cyclic_game(3, WIN)
  log_ref = jnp.full(3, -jnp.log(3.0))
  first = jax.nn.log_softmax(jnp.array([1e-3, 0.0, -1e-3]))

  def advance(log_pi, _):
    distance = categorical.kl(jnp.broadcast_to(log_ref, log_pi.shape), log_pi)
    log_pi = jax.vmap(
      lambda x, eta: nash.self_play_md_step(x, log_ref, pref, TAU, eta)
    )(log_pi, etas)
    return log_pi, distance

  first = jnp.broadcast_to(first, (len(etas), 3))
  paths = jax.lax.scan(advance, first, length=steps + 1)[1]
  return paths, nash.self_play_threshold(log_ref, pref, TAU)


def linear_factor(eta: np.ndarray) -> np.ndarray:
  """Factor of the KL per step there, with omega^2 = (win - 1/2)^2 / 3."""
  turn = eta * (WIN - 0.5) / 3**0.5
  return (1 - eta * TAU) ** 2 + turn**2


def _claims(etas, factors, expected, threshold) -> list[harness.Claim]:
  case = f"tau = {TAU:g}, cycle of wins {WIN:g}"
  return [
    harness.Claim(
      name="self_play_threshold",
      statement=f"step size up to which self-play converges, {case}",
      theory=threshold,
      # The factor is quadratic in the step size, and 1 at the threshold.
      measured=np.roots(np.polyfit(etas, factors - 1, 2)).real.max(),
      # Half a unit of the last digit of 1.31579.
      tolerance=5e-6,
    ),
    *(
      harness.Claim(
        name=f"self_play_{verb}_at_{eta:g}",
        statement=f"self-play {verb} at step size {eta:g}: factor of the KL per"
        f" step, {case}",
        theory=expected[ETAS.index(eta)],
        measured=factors[ETAS.index(eta)],
        # Terms of third order in a start 1e-3 away. The sides of 1 differ by
        # hundreds of this.
        tolerance=1e-6,
      )
      for eta, verb in ((1.31, "converges"), (1.33, "cycles"))
    ),
  ]


def stability() -> harness.Part:
  """Claims, curves and a table on self-play's threshold."""
  etas = np.array(ETAS)
  kl, threshold = map(np.asarray, play(etas, steps=STEPS))
  factors = (kl[FITTED_STEPS] / kl[0]) ** (1 / FITTED_STEPS)
  expected = linear_factor(etas)
  columns = {
    "eta": etas,
    "fitted": factors,
    "theory": expected,
    "final KL": kl[-1],
  }
  shown = np.arange(0, STEPS + 1, STEPS // 500)
  return harness.Part(
    claims=_claims(etas, factors, expected, threshold),
    curves={
      "stability_etas": etas,
      "stability_factors": factors,
      "stability_threshold": threshold,
      "stability_steps": shown,
      "stability_kl": kl[shown],
    },
    tables={
      "self-play beside its threshold": [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
      ]
    },
  )


def plot(curves: dict[str, np.ndarray]):
  """Factors beside the threshold, and the paths."""
  figure, (factors, paths) = plotting.figure(1, 2)
  etas, threshold = curves["stability_etas"], curves["stability_threshold"]
  fine = np.linspace(etas.min(), etas.max(), 100)
  factors.plot(
    fine, 1e3 * (linear_factor(fine) - 1), color="black", label="theory"
  )
  fitted = 1e3 * (curves["stability_factors"] - 1)
  factors.plot(etas, fitted, "o", label="fitted")
  factors.axvline(
    threshold, color="C3", linestyle="--", label=f"threshold {threshold:.5f}"
  )
  factors.set(
    xlabel="step size eta",
    ylabel="factor of the KL per step - 1, in 1/1000",
    title=f"self-play on a cycle, tau = {TAU:g}",
  )
  factors.legend(frameon=False)
  for k, eta in enumerate(etas):
    paths.plot(
      curves["stability_steps"] / 1000,
      curves["stability_kl"][:, k],
      label=f"eta = {eta:g}",
    )
  plotting.log_scale(paths, "y")
  paths.set(
    xlabel="step / 1000",
    ylabel="KL(pi*||pi), nats",
    title="below: to pi*; above: to a cycle",
    ylim=(1e-13, 1e3),
  )
  paths.legend(ncols=3, loc="upper center", frameon=False)
  return figure

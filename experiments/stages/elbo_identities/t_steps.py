# SPDX-License-Identifier: Apache-2.0
"""The bound in T steps: what it bounds, and how it tends to its limit.

`ELBO_T` of even steps is a Riemann sum of g at 1/T, ..., 1, where `g(u)` is the
mean of `sum_{masked} log p / u` at a share u of masks, of which the bound in
continuous time is the integral. It is a polynomial of degree L - 1, so the
series of Euler and Maclaurin ends, for L up to 4 with

  ELBO_T - ELBO = (g(1) - g(0)) / (2 T) + (g'(1) - g'(0)) / (12 T^2).
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.elbo_identities import any_order, worlds
from jaxalign.diffusion import schedules
from jaxalign.exact import masked

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FITTED = slice(6, None)  # from 64 on the term of 1/T^2 is below a hundredth


@jax.jit
def measure(log_probs: jax.Array) -> dict[str, jax.Array]:
  """Bounds and likelihoods `[steps, S, N]`."""
  found = {"elbo": [], "log_pi": []}
  for steps in STEPS:
    alphas = schedules.alpha_grid(schedules.linear_alpha, num_steps=steps)
    found["elbo"].append(masked.t_step_elbo(log_probs, alphas))
    found["log_pi"].append(masked.t_step_log_prob(log_probs, alphas))
  return jax.tree.map(jnp.stack, found, is_leaf=lambda x: isinstance(x, list))


def expansion(log_probs: np.ndarray) -> np.ndarray:
  """`ELBO_T - ELBO` of L up to 4 tokens by the series, `[steps, ...]`."""
  by_count = worlds.sums_by_count(log_probs)
  length = by_count.shape[-1] - 1
  first, last = by_count[..., 1], by_count[..., length]  # g(0), g(1)
  slope_first = by_count[..., 2] - (length - 1) * first
  slope_last = (length - 1) * last - by_count[..., length - 1]
  steps = np.array(STEPS).reshape(-1, *[1] * first.ndim)
  return (last - first) / (2 * steps) + (slope_last - slope_first) / (
    12 * steps**2
  )


def t_steps(*, seeds: range) -> harness.Part:
  """Claims on the bound of T steps."""
  tables = worlds.tables(seeds, vocab_size=3, length=3)
  log_probs = np.asarray(worlds.log_probs(tables))
  found = {key: np.asarray(x) for key, x in measure(log_probs).items()}
  elbo, log_pi = found["elbo"], found["log_pi"]
  bounds = any_order.bounds(log_probs)
  limit = {key: np.asarray(bounds[key]) for key in ("elbo", "log_pi")}
  one_step = log_probs[..., 0, :].sum(-1)
  error = elbo - limit["elbo"]
  largest = np.abs(error).max((1, 2))
  exponent = np.polyfit(np.log(STEPS[FITTED]), np.log(largest[FITTED]), 1)[0]
  claims = [
    harness.none_exceeds(
      "t_steps_bound",
      "ELBO_T exceeds log pi_T by, for T from 1 to 1024",
      elbo - log_pi,
      tolerance=any_order.EXACT,
    ),
    harness.all_agree(
      "t_steps_normalised",
      "likelihood of T steps: largest distance of its sum over sequences from"
      " 1",
      np.exp(log_pi).sum(-1) - 1,
      tolerance=any_order.EXACT,
    ),
    harness.all_agree(
      "one_step_gap",
      "one step: largest difference of ELBO_1, log pi_1 and the sum of one-step"
      " log-probabilities",
      [elbo[0] - log_pi[0], elbo[0] - one_step],
      tolerance=any_order.EXACT,
    ),
    harness.Claim(
      name="t_steps_rate",
      statement="largest |ELBO_T - ELBO| falls with T from 64 to 1024 with the"
      " exponent",
      theory=-1.0,
      measured=exponent,
      tolerance=0.01,
    ),
    harness.all_agree(
      "t_steps_expansion",
      "ELBO_T - ELBO against half the one-step less the leave-one-out"
      " log-probabilities over T, with the term of 1/T^2: largest difference",
      error - expansion(log_probs),
      # T terms are summed, up to 1024.
      tolerance=1e-11,
    ),
  ]
  curves = {
    "t_steps/steps": np.array(STEPS),
    "t_steps/elbo": elbo[:, 0].mean(-1),
    "t_steps/log_pi": log_pi[:, 0].mean(-1),
    "t_steps/limits": np.array([limit[key][0].mean() for key in limit]),
  }
  rows = harness.rows(
    T=STEPS,
    ELBO_T=elbo[:, 0].mean(-1),
    log_pi_T=log_pi[:, 0].mean(-1),
    gap=(log_pi - elbo)[:, 0].mean(-1),
    largest_error=np.abs(error[:, 0]).max(-1),
  )
  title = "T steps, first table, means over the 27 sequences"
  return harness.Part(claims, curves, {title: rows})


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """The bound and the likelihood against T, and their limits."""
  names = {"log_pi": "log pi_T", "elbo": "ELBO_T"}
  for i, (key, name) in enumerate(names.items()):
    axes.plot(
      curves["t_steps/steps"],
      curves[f"t_steps/{key}"],
      "o-",
      ms=3,
      color=f"C{i}",
      label=name,
    )
  for i, value in enumerate(curves["t_steps/limits"][::-1]):
    axes.axhline(value, color=f"C{i}", ls=":", lw=1)
  plotting.log_scale(axes, "x")
  axes.set(
    xlabel="steps T",
    ylabel="nats, mean over sequences",
    title="The bound of T steps (dotted: any order)",
  )
  axes.legend()

# SPDX-License-Identifier: Apache-2.0
"""What masking again keeps: the schedule's shares, and the law of noising."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.remasking import chains, confidence
from experiments.stages.remasking.chains import STATES, L, V
from jaxalign.diffusion import remasking, schedules

EXACT = 1e-12  # products of up to 32 steps in float64
SHOWN = 4  # steps of the run whose shares are told
KNOWN = np.array([2, 0, 1])  # a sequence


def noised(alpha: np.ndarray) -> np.ndarray:
  """The noising law of `KNOWN` at each share of visible tokens, `[N, 64]`."""
  alpha = np.asarray(alpha)[:, None, None]
  seen = np.where(STATES == KNOWN, alpha, 0)
  return np.prod(np.where(STATES == V, 1 - alpha, seen), -1)


def accepted(num_steps: int) -> int:
  """How many steps take a sigma that is a hundredth above its maximum."""
  alphas = schedules.alpha_grid(schedules.linear_alpha, num_steps=num_steps)
  count = 0
  for i in range(num_steps):
    sigmas = remasking.sigma_max(alphas).at[i].add(0.01)
    try:
      remasking.remasking_probs(alphas, sigmas)
      count += 1
    except ValueError:
      pass
  return count


@functools.partial(jax.jit, static_argnums=0)
def largest_sigma(counts: tuple[int, ...]) -> list[jax.Array]:
  """The larger probability of each step less 1, at the largest sigma."""
  found = []
  for num_steps in counts:
    alphas = schedules.alpha_grid(schedules.linear_alpha, num_steps=num_steps)
    most = remasking.remasking_probs(alphas, remasking.sigma_max(alphas))
    found.append(jnp.maximum(most.reveal, most.remask) - 1)
  return found


def _kept(found: dict, steps: dict) -> list[harness.Claim]:
  """Shares and the noising law, by schedule."""
  # A denoiser that knows the sequence.
  knows = np.where(np.arange(V) == KNOWN[:, None], 0.0, -np.inf)
  knows = np.broadcast_to(knows, (len(STATES), L, V))
  claims = []
  for name, laws in found.items():
    claims.append(
      harness.all_agree(
        f"shares_{name}".replace("-", "_"),
        f"{name}: share of visible tokens less the schedule's, largest over"
        " positions and all steps of 1 to 32",
        chains.shares(laws) - np.asarray(steps[name].alpha)[:, None],
        tolerance=EXACT,
      )
    )
  for name, each in steps.items():
    claims.append(
      harness.all_agree(
        f"noising_{name}".replace("-", "_"),
        f"{name}, with a denoiser that knows the sequence: law after each step"
        " less that of noising, largest",
        np.asarray(chains.laws(knows, each)) - noised(each.alpha),
        tolerance=EXACT,
      )
    )
  return claims


def _lost(tables) -> tuple[harness.Claim, list[dict]]:
  """ReMDM-conf, whose shares are below the schedule's."""
  each = chains.steps_of("conf")
  laws = jax.vmap(confidence.laws, (0, None))(tables, each)
  found = chains.shares(np.asarray(laws)).mean(-1)  # [S, N]
  runs = dict(zip(chains.STEPS, chains.ENDS, strict=True))
  last = runs[SHOWN]
  run = slice(last - SHOWN + 1, last + 1)
  # After the first step each token is visible with chance 1/T. Then sigma is 1
  # and, where one is visible at all, masks one of them on average; of the rest
  # as many come as before.
  some = 1 - (1 - 1 / SHOWN) ** L
  claim = harness.Claim(
    name="shares_conf",
    statement="conf, 4 steps: share of visible tokens after the second, where"
    " the schedule says .5",
    theory=2 / SHOWN - some / L,
    measured=found[:, run][:, 1].mean(),
    tolerance=EXACT,
  )
  rows = harness.rows(
    step=np.arange(1, SHOWN + 1),
    schedule=each.alpha[run],
    conf=found[:, run].mean(0),
  )
  return claim, rows


def shares(*, seeds: range) -> harness.Part:
  """Claims on what is kept and what is not."""
  tables = chains.tables(seeds)
  steps = {name: chains.steps_of(name) for name in chains.SCHEDULES}
  over = jax.vmap(chains.laws, (0, None))
  found = {name: np.asarray(over(tables, each)) for name, each in steps.items()}
  claims = _kept(found, steps)
  claim, rows = _lost(tables)
  claims.append(claim)
  ancestral = found["ancestral"][:, chains.ENDS][..., chains.FINAL]
  by_paths = jax.vmap(
    lambda table: chains.ancestral_laws(table, runs=chains.STEPS)
  )(tables)
  claims += [
    harness.all_agree(
      "no_remasking",
      "sigma 0: law less that of ancestral sampling by sums over paths, largest"
      " over sequences and 1 to 32 steps",
      ancestral - np.asarray(by_paths),
      tolerance=EXACT,
    ),
    harness.all_agree(
      "sigma_max",
      "at the largest sigma all masks are revealed or all tokens masked: the"
      " larger of both probabilities less 1, largest over steps",
      largest_sigma(chains.STEPS),
      tolerance=EXACT,
    ),
    harness.Claim(
      name="sigma_refused",
      statement="steps of 8 that take a sigma .01 above its maximum",
      theory=0,
      measured=accepted(8),
      tolerance=0,
    ),
  ]
  title = "conf, 4 steps: share of visible tokens"
  return harness.Part(claims, {}, {title: rows})

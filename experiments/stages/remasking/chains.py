# SPDX-License-Identifier: Apache-2.0
"""The laws of samplers that mask again, exactly: a chain over 64 states.

Three tokens of three values, each of which may be a mask. The denoiser has the
exact conditionals of its target, so that one token at a time and in any order
there is no error; what is left is that of revealing several at once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.diffusion import remasking, samplers, schedules
from jaxalign.exact import masked

V = L = 3
SCALE = 4.0  # of the logits whose law is the target
STEPS = (1, 2, 4, 8, 16, 32)
ENDS = np.cumsum(STEPS) - 1  # of the runs, one after another
STATES = np.indices((V + 1,) * L).reshape(L, -1).T
X = np.indices((V,) * L).reshape(L, -1).T
START = len(STATES) - 1  # all masks
FINAL = np.flatnonzero(np.all(STATES < V, -1))  # in the order of X


class Steps(NamedTuple):
  """Steps of runs that follow each other, each from time 1 to time 0.

  Attributes:
    reveal: `[N]`, probability that a mask becomes a token.
    remask: `[N]`, probability that a token becomes a mask.
    alpha: `[N]`, share of visible tokens after the step.
    first: bool `[N]`, whether a run begins.
  """

  reveal: jax.Array
  remask: jax.Array
  alpha: jax.Array
  first: jax.Array


def _even(num_steps: int) -> jax.Array:
  return schedules.alpha_grid(schedules.linear_alpha, num_steps=num_steps)


def _loop(num_steps: int) -> remasking.RemaskingSchedule:
  # As published but for eta, which is nearly its maximum of 1/9 here.
  return remasking.loop_schedule(
    num_steps=num_steps, t_on=0.55, t_off=0.05, alpha_on=0.9, eta=0.1
  )


def _on_even(sigma):
  """A schedule of a remasking probability over even shares."""

  def schedule(num_steps):
    alphas = _even(num_steps)
    return remasking.RemaskingSchedule(alphas, sigma(alphas))

  return schedule


SCHEDULES = {
  "ancestral": _on_even(lambda a: 0 * remasking.sigma_max(a)),
  "cap": _on_even(lambda a: remasking.sigma_cap(a, eta=0.2)),
  "rescale": _on_even(lambda a: remasking.sigma_rescale(a, eta=0.5)),
  "forward-backward": _on_even(remasking.sigma_forward_backward),
  "loop": _loop,
}


def _concatenate(runs) -> Steps:
  """Runs of (alphas, reveal, remask), which are in the order of time."""
  columns = [[], [], [], []]
  for alphas, reveal, remask in runs:
    first = np.arange(len(reveal)) == 0
    parts = reveal[::-1], remask[::-1], alphas[:-1][::-1], first
    for column, part in zip(columns, parts, strict=True):
      column.append(part)
  return Steps(*map(jnp.concatenate, columns))


def _run_of(name: str, num_steps: int) -> tuple:
  """Alphas, reveal and remask of a schedule, or of ReMDM-conf."""
  if name == "conf":  # with the largest sigma; it is yet to be spread
    alphas = _even(num_steps)
    reveal = samplers.ancestral_probs(alphas)
    return alphas, reveal, remasking.sigma_max(alphas)
  schedule = SCHEDULES[name](num_steps)
  return (schedule.alphas, *remasking.remasking_probs(*schedule))


@functools.partial(jax.jit, static_argnums=0)
def _all_steps(counts: tuple[int, ...]) -> dict[str, Steps]:
  """Runs of so many steps, by name: one program for all."""
  return {
    name: _concatenate([_run_of(name, n) for n in counts])
    for name in (*SCHEDULES, "conf")
  }


def steps_of(name: str) -> Steps:
  """All runs of a schedule, or of ReMDM-conf by the name of conf."""
  return _all_steps(STEPS)[name]


# --- laws --------------------------------------------------------------------


@jax.jit
def _distilled(rough: jax.Array) -> jax.Array:
  return jax.vmap(masked.self_distill)(rough)


def tables(seeds: range) -> jax.Array:
  """Denoisers `[S, 64, 3, 3]` with the conditionals of a random law."""
  rough = [
    SCALE * np.random.default_rng(s).standard_normal((len(STATES), L, V))
    for s in seeds
  ]
  return _distilled(np.stack(rough))


def _log_probs(table: jax.Array) -> jax.Array:
  denoiser = masked.table_denoiser(table)
  return masked.subset_log_probs(denoiser, jnp.asarray(X), mask_id=V)


@jax.jit
def target(table: jax.Array) -> jax.Array:
  """What the denoiser's conditionals belong to, `[27]`."""
  return jnp.exp(masked.any_order_log_prob(_log_probs(table)))


@functools.partial(jax.jit, static_argnames="runs")
def ancestral_laws(table: jax.Array, *, runs: tuple[int, ...]) -> jax.Array:
  """Ancestral sampling by sums over paths, in so many steps, `[runs, 27]`."""
  log_probs = _log_probs(table)
  found = [masked.t_step_log_prob(log_probs, _even(n)) for n in runs]
  return jnp.exp(jnp.stack(found))


@jax.jit
def laws(table: jax.Array, steps: Steps) -> jax.Array:
  """The law over states after each step, `[N, 64]`."""
  logits = masked.table_denoiser(table)(STATES)
  shape = len(STATES), len(STATES), L
  before, after = (
    jnp.broadcast_to(jnp.asarray(z), shape) for z in (STATES[:, None], STATES)
  )
  logits = jnp.broadcast_to(logits[:, None], (*shape, V))
  start = jnp.zeros(len(STATES)).at[START].set(1.0)

  def advance(law, step):
    log_chance = remasking.step_log_prob(
      logits,
      before,
      after,
      jnp.ones(shape, bool),
      step.reveal,
      step.remask,
      mask_id=V,
    )
    law = jnp.where(step.first, start, law) @ jnp.exp(log_chance)
    return law, law

  return jax.lax.scan(advance, start, steps)[1]


def shares(laws: np.ndarray) -> np.ndarray:
  """Probability that a position is visible, `[..., L]`."""
  return laws @ (STATES < V)

# SPDX-License-Identifier: Apache-2.0
"""How many of n steps reveal something: forwards of a sampler that caches."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign.diffusion import masked, samplers, schedules

# Tokens, steps, runs.
CASES = ((16, 8, 4000), (16, 64, 4000), (1024, 512, 32))


@functools.partial(jax.jit, static_argnames=("length", "steps", "runs"))
def count(key, *, length: int, steps: int, runs: int) -> jax.Array:
  """Forwards `[runs]` of ancestral sampling, one sequence at a time."""
  alphas = schedules.alpha_grid(schedules.linear_alpha, num_steps=steps)

  def only_one(z):  # what is revealed does not matter
    return jnp.zeros((*z.shape, 1))

  def run(key):
    tokens, where = jnp.zeros(length, jnp.int32), jnp.ones(length, bool)
    return samplers.ancestral_sample(
      key, only_one, tokens, where, alphas, mask_id=1
    ).num_forwards

  return jax.vmap(run)(jax.random.split(key, runs))


@functools.partial(jax.jit, static_argnums=0)
def expected(cases: tuple[tuple[int, int, int], ...]) -> list[jax.Array]:
  """Forwards by formula, in one program for all cases."""
  found = []
  for length, steps, _ in cases:
    alphas = schedules.alpha_grid(schedules.linear_alpha, num_steps=steps)
    found.append(masked.expected_nfe(alphas, jnp.asarray(length)))
  return found


def forwards(*, key: jax.Array) -> harness.Part:
  """Claims on the expected number, by formula and by counting."""
  claims, rows = [], []
  formula = [float(x) for x in expected(CASES)]
  for i, (length, steps, runs) in enumerate(CASES):
    exact = formula[i]
    theory = steps * (1 - (1 - 1 / steps) ** length)
    found = count(
      jax.random.fold_in(key, i), length=length, steps=steps, runs=runs
    )
    found = np.asarray(found)
    error = found.std(ddof=1) / math.sqrt(runs)
    claims += [
      harness.Claim(
        name=f"forwards_{length}_{steps}",
        statement=f"expected forwards, {length} tokens in {steps} steps:"
        " expected_nfe against n (1 - (1 - 1/n)^l)",
        theory=theory,
        measured=exact,
        tolerance=1e-9,
      ),
      harness.Claim(
        name=f"counted_forwards_{length}_{steps}",
        statement=f"forwards of the sampler, {length} tokens in {steps} steps",
        theory=theory,
        measured=found.mean(),
        tolerance=harness.STANDARD_ERRORS * error,
        interval=harness.confidence_interval(found),
      ),
    ]
    rows += harness.rows(
      tokens=length, steps=steps, expected=exact, counted=found.mean()
    )
  return harness.Part(claims, {}, {"forwards of ancestral sampling": rows})

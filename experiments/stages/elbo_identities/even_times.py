# SPDX-License-Identifier: Apache-2.0
"""Times that lie evenly over a batch, with counts of masks.

For a batch that is a multiple of the length, both ways of spreading times give
each count equally often: what is left of the variance is that within counts.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.elbo_identities import estimators, worlds
from jaxalign.diffusion import mask_draws

BATCH = 16


@functools.partial(jax.jit, static_argnames=("method", "num"))
def batch_means(table, key, *, method: str, num: int) -> jax.Array:
  """Means `[num]` of batches of draws with a fixed count."""
  time_key, noise_key = jax.random.split(key)
  times = jax.vmap(lambda k: mask_draws.sample_times(k, BATCH, method))(
    jax.random.split(time_key, num)
  )
  noise = jax.random.uniform(noise_key, (num * BATCH, estimators.LENGTH))
  found = estimators.values(
    table, times.ravel(), noise, estimator="fixed_count"
  )
  return jnp.mean(found.reshape(num, BATCH), -1)


def exact_stds(table, bound: float) -> dict[str, float]:
  """Of a batch's mean, by method."""
  value, chance = estimators.all_draws(table, "fixed_count")
  by_count = estimators.SIZE[:, None] == np.arange(1, estimators.LENGTH + 1)
  mean = (chance * value) @ by_count * estimators.LENGTH
  within = chance @ value**2 - np.mean(mean**2)
  total = chance @ (value - bound) ** 2
  return {
    method: math.sqrt((total if method == "iid" else within) / BATCH)
    for method in mask_draws.TIME_METHODS
  }


def even_times(*, seeds: range, key: jax.Array, num_draws: int) -> harness.Part:
  """Claims on the deviation of a batch's mean.

  Args:
    seeds: of the tables, of which the first is used.
    key: of the samples.
    num_draws: in all batches of a method together.
  """
  (table,) = worlds.tables(
    seeds[:1], vocab_size=estimators.VOCAB, length=estimators.LENGTH
  )
  value, chance = estimators.all_draws(table, "fixed_count")
  bound = float(chance @ value)
  exact = exact_stds(table, bound)
  claims, stds, errors = [], {}, {}
  for i, method in enumerate(mask_draws.TIME_METHODS):
    means = batch_means(
      table, jax.random.fold_in(key, i), method=method, num=num_draws // BATCH
    )
    squares = (np.asarray(means) - bound) ** 2
    stds[method] = std = math.sqrt(squares.mean())
    errors[method] = error = (
      squares.std(ddof=1) / math.sqrt(squares.size) / (2 * std)
    )
    claims.append(
      harness.Claim(
        name=f"times_{method}",
        statement=f"standard deviation of a batch's mean over the exact one,"
        f" 16 draws with {method} times",
        theory=1.0,
        measured=std / exact[method],
        tolerance=harness.STANDARD_ERRORS * error / exact[method],
        interval=tuple(
          (std + z * error) / exact[method] for z in (-1.96, 1.96)
        ),
      )
    )
  even = max(("single_u", "stratified"), key=lambda method: stds[method])
  ratio = stds[even] / stds["iid"]
  spread = ratio * math.hypot(
    errors[even] / stds[even], errors["iid"] / stds["iid"]
  )
  claims.append(
    harness.Claim(
      name="times_no_worse",
      statement="the larger standard deviation of a batch's mean with even"
      " times over that with independent times",
      theory=1.0,
      measured=ratio,
      tolerance=harness.STANDARD_ERRORS * spread,
      relation="<=",
      interval=(ratio - 1.96 * spread, ratio + 1.96 * spread),
    )
  )
  rows = harness.rows(
    times=list(stds), exact_std=list(exact.values()), std=list(stds.values())
  )
  return harness.Part(claims, {}, {"mean of a batch of 16 draws": rows})

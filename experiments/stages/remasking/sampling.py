# SPDX-License-Identifier: Apache-2.0
"""The sampler itself against the exact laws of its chain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.remasking import chains, confidence
from experiments.stages.remasking.chains import L, V
from jaxalign.diffusion import remasking, schedules
from jaxalign.exact import masked

STEPS = 8
PLACES = V ** np.arange(L)[::-1]


@functools.partial(jax.jit, static_argnames=("num", "conf"))
def sampled(table, key, schedule, *, num: int, conf: bool) -> jax.Array:
  """Frequencies of the sequences `[27]`."""
  found = remasking.remdm_sample(
    key,
    masked.table_denoiser(table),
    jnp.zeros((num, L), jnp.int32),
    jnp.ones((num, L), bool),
    *schedule,
    mask_id=V,
    confidence=conf,
  )
  return jnp.bincount(found.tokens @ PLACES, length=V**L) / num


@jax.jit
def _schedules() -> tuple[remasking.RemaskingSchedule, ...]:
  """The sampler's, without and with confidence."""
  alphas = schedules.alpha_grid(schedules.linear_alpha, num_steps=STEPS)
  conf = remasking.RemaskingSchedule(alphas, remasking.sigma_max(alphas))
  return chains.SCHEDULES["rescale"](STEPS), conf


def deviations(frequencies, law, num: int) -> np.ndarray:
  """In standard errors; of what is rare one draw is no surprise."""
  return (frequencies - law) / (np.sqrt(law * (1 - law) / num) + 1 / num)


def sampling(*, seeds: range, key: jax.Array, num_draws: int) -> harness.Part:
  """Claims that samples have the law of the chain.

  Args:
    seeds: of the targets, of which the first is used.
    key: of the samples.
    num_draws: samples of each schedule.
  """
  tables = chains.tables(seeds)
  table = np.asarray(tables)[0]
  end = chains.ENDS[chains.STEPS.index(STEPS)]
  rescale, conf = _schedules()
  # Of all targets, for which the programs are there.
  cases = {
    name: (schedule, jax.vmap(laws, (0, None))(tables, chains.steps_of(name)))
    for name, schedule, laws in (
      ("rescale", rescale, chains.laws),
      ("conf", conf, confidence.laws),
    )
  }
  claims, rows = [], {"sequence": [str(tuple(x)) for x in chains.X.tolist()]}
  for i, (name, (schedule, laws)) in enumerate(cases.items()):
    law = np.asarray(laws)[0, end, chains.FINAL]
    found = np.asarray(
      sampled(
        table,
        jax.random.fold_in(key, i),
        schedule,
        num=num_draws,
        conf=name == "conf",
      )
    )
    claims.append(
      harness.all_agree(
        f"sampled_{name}",
        f"{name}, 8 steps: frequency of a sequence less its exact probability,"
        " largest in standard errors",
        deviations(found, law, num_draws),
        tolerance=harness.STANDARD_ERRORS,
      )
    )
    rows |= {f"{name} exact": law, f"{name} sampled": found}
  likely = np.argsort(-rows["rescale exact"])[:6]
  rows = {k: np.array(v)[likely] for k, v in rows.items()}
  title = f"8 steps, {num_draws} samples: the likeliest sequences"
  return harness.Part(claims, {}, {title: harness.rows(**rows)})

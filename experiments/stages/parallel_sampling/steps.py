# SPDX-License-Identifier: Apache-2.0
"""T ancestral steps: how often the denoiser runs, and how far the law is off.

A schedule of n steps is one of more steps whose first alphas are 0, which
reveal nothing: so one program serves every n.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.parallel_sampling import laws
from jaxalign.diffusion import masked as bounds
from jaxalign.diffusion import samplers
from jaxalign.exact import masked, parallel, sequences

V = L = 3
SCHEDULES = list(parallel.ordered_partitions(L))
STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTH = 16  # of what is sampled against STEPS
LONG = (1024, 512)  # tokens, steps


def schedule(num_steps: int, size: int) -> np.ndarray:
  """Linear alphas of so many steps, then 0 `[size + 1]`."""
  return np.maximum(1 - np.arange(size + 1) / num_steps, 0)


# --- forwards ----------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("length", "num_runs"))
def count_forwards(
  key: jax.Array, alphas: jax.Array, *, length: int, num_runs: int
) -> jax.Array:
  """Of `ancestral_sample` with a denoiser that knows one token `[S, runs]`."""

  def one(key, alphas):
    found = samplers.ancestral_sample(
      key,
      lambda z: jnp.zeros((*z.shape, 1)),
      jnp.zeros(length, jnp.int32),
      jnp.ones(length, bool),
      alphas,
      mask_id=1,
      temperature=0.0,
    )
    return found.num_forwards

  keys = jax.random.split(key, (len(alphas), num_runs))
  return jax.vmap(jax.vmap(one, (0, None)))(keys, alphas)


def _forwards_claim(length: int, steps: int, counts: np.ndarray):
  alphas = jnp.asarray(schedule(steps, steps))
  error = counts.std(ddof=1) / math.sqrt(counts.size)
  return harness.Claim(
    name=f"forwards_{length}_{steps}",
    statement=f"ancestral sampling of {length} tokens in {steps} steps: mean"
    " number of forwards, those that reveal nothing skipped",
    theory=bounds.expected_nfe(alphas, length),
    measured=counts.mean(),
    tolerance=harness.STANDARD_ERRORS * error,
    interval=harness.confidence_interval(counts),
  )


def forwards(key: jax.Array, *, num_runs: int) -> harness.Part:
  """Claims on the number of forwards.

  Args:
    key: of the samples.
    num_runs: samples for each number of steps.
  """
  key, long_key = jax.random.split(key)
  size = max(STEPS)
  alphas = np.stack([schedule(n, size) for n in STEPS])
  counts = np.asarray(
    count_forwards(key, alphas, length=LENGTH, num_runs=num_runs)
  )
  length, steps = LONG
  alphas = schedule(steps, steps)[None]
  long_counts = np.asarray(
    count_forwards(long_key, alphas, length=length, num_runs=num_runs)[0]
  )
  shown = [(LENGTH, n, counts[STEPS.index(n)]) for n in (8, 64)]
  shown.append((length, steps, long_counts))
  claims = [_forwards_claim(*one) for one in shown]
  table = [
    {
      "tokens": c[0],
      "steps": c[1],
      "forwards": float(c[2].mean()),
      "expected": claim.theory,
    }
    for c, claim in zip(shown, claims, strict=True)
  ]
  return harness.Part(
    claims,
    {"forwards/counts": counts, "forwards/long_counts": long_counts},
    {"forwards of ancestral sampling": table},
  )


def plot_forwards(axes, curves: dict[str, np.ndarray]) -> None:
  """Counted forwards against steps, with the formula's line."""
  counts = curves["forwards/counts"]
  error = 1.96 * counts.std(1, ddof=1) / math.sqrt(counts.shape[1])
  axes.errorbar(
    STEPS, counts.mean(1), error, fmt="o", ms=4, label="counted, 95 %"
  )
  n = np.geomspace(1, max(STEPS), 200)
  axes.plot(n, n * (1 - (1 - 1 / n) ** LENGTH), label="n (1 - (1 - 1/n)^l)")
  axes.axhline(LENGTH, color="C3", ls="--", label="tokens l")
  axes.set(xlabel="steps n", ylabel="forwards", title=f"{LENGTH} tokens")
  plotting.log_scale(axes, "x")
  axes.legend(loc="lower right")


# --- the law -----------------------------------------------------------------


@jax.jit
def step_laws(tables: jax.Array, alphas: jax.Array):
  """Laws of T steps, of any order and of schedules, over all sequences.

  Args:
    tables: denoisers `[S, (V + 1)**L, L, V]`.
    alphas: `[steps, T + 1]`.

  Returns:
    `[S, steps, V**L]`, `[S, V**L]` and `[S, V**L, schedules]`.
  """
  seen = np.stack([parallel.seen_before(rounds) for rounds in SCHEDULES])

  def one(table):
    log_probs = masked.subset_log_probs(
      masked.table_denoiser(table),
      sequences.enumerate_sequences(V, L),
      mask_id=V,
    )
    by_steps = jax.vmap(masked.t_step_log_prob, (None, 0))(log_probs, alphas)
    return (
      jnp.exp(by_steps),
      jnp.exp(masked.any_order_log_prob(log_probs)),
      jnp.exp(parallel.fixed_schedule_log_prob(log_probs, seen)),
    )

  return jax.vmap(one)(tables)


def law(*, seeds: range) -> harness.Part:
  """Claims on the law of T steps and how it nears that of any order.

  Every position falls into one of T steps, each as likely: schedules of R
  rounds come with probability C(T, R) / T^L each.

  Args:
    seeds: of the denoisers.
  """
  rounds = np.array([len(r) for r in SCHEDULES])
  alphas = np.stack([schedule(n, max(STEPS)) for n in STEPS])
  tables = jnp.asarray(laws.random_tables(seeds, V, L))
  by_steps, pi, by_schedule = map(np.asarray, step_laws(tables, alphas))
  chance = np.array([[math.comb(n, r) / n**L for r in rounds] for n in STEPS])
  mixed = np.einsum("nr,sxr->snx", chance, by_schedule)
  tv = laws.total_variation(by_steps, pi[:, None])
  # Schedules in which two positions coincide, and no more.
  pair = by_schedule[..., rounds == L - 1].mean(-1)
  limit = math.comb(L, 2) * laws.total_variation(pair, pi)
  n = np.array(STEPS)
  claims = [
    harness.all_agree(
      "steps_mix_schedules",
      "random denoisers over 27 sequences, 1 to 256 steps: the law of T steps"
      " mixes all schedules of R rounds with weights C(T, R) / T^L",
      [laws.total_variation(by_steps, mixed)],
      tolerance=laws.EXACT,
    ),
    harness.none_exceeds(
      "steps_rate",
      "random denoisers over 27 sequences, 1 to 256 steps: T times the total"
      " variation from any order leaves its limit by at most 3 / T",
      # From the weights: T (law - pi) = 3 (pair - pi) + (2 pi - 3 pair + one
      # round) / T.
      [np.abs(n * tv - limit[:, None]) - 3 / n],
      tolerance=laws.EXACT,
    ),
  ]
  table = harness.rows(
    steps=STEPS,
    mean_TV=tv.mean(0),
    steps_x_TV=(n * tv).mean(0),
    limit=limit.mean(),
  )
  return harness.Part(
    claims,
    {"steps/tv": tv, "steps/limit": limit},
    {"law of T steps": table},
  )


def plot_law(axes, curves: dict[str, np.ndarray]) -> None:
  """Total variation against steps, with its rate."""
  plotting.band(axes, STEPS, curves["steps/tv"], "T steps against any order")
  n = np.geomspace(4, max(STEPS), 50)
  rate = curves["steps/limit"].mean() / n
  axes.plot(n, rate, "k--", lw=1, label="limit / T")
  axes.set(
    xlabel="steps T", ylabel="total variation", title="Ancestral sampling"
  )
  plotting.log_scale(axes, "x", "y")
  axes.legend()

# SPDX-License-Identifier: Apache-2.0
"""What rounds save and what they cost: total correlation, on random laws.

Four tokens of three values, perfect conditionals, every schedule fixed in
advance. The divergence of the sampler is measured on its law over all 81
sequences, the costs are computed from entropies.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.parallel_sampling import laws
from jaxalign.exact import parallel

V, L = 3, 4
SCHEDULES = list(parallel.ordered_partitions(L))
ROUNDS = np.array([len(rounds) for rounds in SCHEDULES])


@jax.jit
def costs_of(log_joint: jax.Array) -> jax.Array:
  """Sums over the rounds `[..., schedules]`, nats."""
  found = [
    parallel.parallel_costs(log_joint, rounds, vocab_size=V)
    for rounds in SCHEDULES
  ]
  return jnp.stack([jnp.sum(cost, -1) for cost in found], -1)


def product_of_marginals(p: np.ndarray) -> np.ndarray:
  """The law of one round `[V**L]`, from a joint of this shape."""
  cube = p.reshape((V,) * L)
  out = np.ones(())
  for place in range(L):
    rest = tuple(i for i in range(L) if i != place)
    out = np.multiply.outer(out, cube.sum(rest))
  return out.ravel()


def costs(*, seeds: range) -> harness.Part:
  """Claims on the price of parallel rounds, and its table.

  Args:
    seeds: of the laws.
  """
  logits = laws.random_logits(seeds, V**L)
  log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
  seen = np.stack([parallel.seen_before(rounds) for rounds in SCHEDULES])
  log_q = np.moveaxis(laws.perfect_laws(log_p, seen, vocab_size=V), -1, 1)
  divergence = laws.kl(log_p[:, None], log_q)  # [seeds, schedules]
  tv = laws.total_variation(np.exp(log_p)[:, None], np.exp(log_q))
  alone = [np.log(product_of_marginals(p)) for p in np.exp(log_p)]
  by_rounds = [divergence[:, ROUNDS == r] for r in range(1, L + 1)]
  best = np.stack([kl.min(1) for kl in by_rounds], 1)
  claims = [
    harness.all_agree(
      "costs_identity",
      "random laws of four tokens, all 75 schedules: KL from the sampler with"
      " perfect conditionals is the sum over rounds of E[total correlation]",
      [divergence - np.asarray(costs_of(jnp.asarray(log_p)))],
      tolerance=laws.EXACT,
    ),
    harness.all_agree(
      "costs_one_round",
      "random laws of four tokens: the cost of one round is the law's total"
      " correlation, KL from the product of its marginals",
      [by_rounds[0][:, 0] - laws.kl(log_p, np.stack(alone))],
      tolerance=laws.EXACT,
    ),
    harness.none_exceeds(
      "costs_fall",
      "random laws of four tokens: the best KL falls with the number of rounds:"
      " largest increase",
      [np.diff(best, axis=1)],
      tolerance=laws.EXACT,
    ),
    harness.all_agree(
      "costs_sequential",
      "random laws of four tokens, one token a round, in any order: KL is 0",
      [by_rounds[-1]],
      tolerance=laws.EXACT,
    ),
  ]
  columns = {
    name: [of(kl, 1).mean() for kl in by_rounds]
    for name, of in (("best", np.min), ("mean", np.mean), ("worst", np.max))
  }
  table = harness.rows(
    rounds=range(1, L + 1),
    schedules=[int(np.sum(r == ROUNDS)) for r in range(1, L + 1)],
    **{f"{name} KL": column for name, column in columns.items()},
    mean_TV=[tv[:, r == ROUNDS].mean() for r in range(1, L + 1)],
  )
  return harness.Part(
    claims,
    {"costs/kl": divergence, "costs/tv": tv},
    {"random laws of four tokens": table},
  )


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """KL and total variation against rounds, with intervals over laws."""
  x = range(1, L + 1)
  for key, color in (("kl", "C0"), ("tv", "C1")):
    values = [curves[f"costs/{key}"][:, r == ROUNDS] for r in x]
    for name, of, dashes in (
      ("best", np.min, "-"),
      ("mean", np.mean, "--"),
      ("worst", np.max, ":"),
    ):
      samples = np.stack([of(value, 1) for value in values], 1)
      label = {"kl": "KL, nats", "tv": "TV"}[key] + f", {name} schedule"
      plotting.band(axes, x, samples, label, color=color, linestyle=dashes)
  axes.set(
    xlabel="rounds",
    xticks=x,
    ylabel="distance of the sampler",
    title="Random laws, perfect conditionals",
  )
  axes.legend()

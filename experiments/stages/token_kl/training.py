# SPDX-License-Identifier: Apache-2.0
"""DPO, TDPO and Ra-DPO on the same pairs, with exact divergences.

A table over sequences of three tokens out of four starts at its reference,
which also drew the pairs; Bradley-Terry labels of random rewards. All losses
see all pairs at every update.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages import preference_pairs
from jaxalign import preference
from jaxalign.exact import sequences

V, T, PAIRS = 4, 3, 400
BETA, ALPHA, LAM, MASS, REWARD_SCALE = 0.3, 0.5, 1.0, 0.95, 2.0
RATE, EVERY = 0.005, 10  # of Adam; updates between points of the curves
ALL = sequences.enumerate_sequences(V, T)
EXACT = 1e-11  # sums of 64 terms of order 10 in float64
LOWER = 0.99  # times: what counts as lower


class Arm(NamedTuple):
  """Shares of losses and of risks in what an arm minimises; 0 or 1 here.

  Attributes:
    dpo: weight of `dpo_loss`.
    tdpo1: weight of `tdpo_loss`, first variant.
    tdpo2: of the second.
    kl: weight of `sequential_kl` in the drift.
    entropic: of `sequential_entropic_risk`.
    cvar: of `sequential_cvar`.
  """

  dpo: float = 0.0
  tdpo1: float = 0.0
  tdpo2: float = 0.0
  kl: float = 0.0
  entropic: float = 0.0
  cvar: float = 0.0


ARMS = {
  "DPO": Arm(dpo=1.0),
  "TDPO1": Arm(tdpo1=1.0, kl=1.0),
  "TDPO2": Arm(tdpo2=1.0, kl=1.0),
  "Ra-DPO2, CVaR .95": Arm(tdpo2=1.0, cvar=1.0),
  "Ra-DPO2, entropic 1": Arm(tdpo2=1.0, entropic=1.0),
}


class Problem(NamedTuple):
  """One world for each seed.

  Attributes:
    ref_logits: `[S, 21, 4]`, a table.
    rewards: `[S, 64]`, of sequences.
    chosen: int `[S, N]`, which sequence was preferred.
    rejected: int `[S, N]`, to which.
  """

  ref_logits: np.ndarray
  rewards: np.ndarray
  chosen: np.ndarray
  rejected: np.ndarray


def problems(seeds: range) -> Problem:
  """Normal logits and rewards; pairs from the reference."""
  each = []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    ref_logits = rng.standard_normal((sequences.num_prefixes(V, T), V))
    rewards = REWARD_SCALE * rng.standard_normal(V**T)
    law = np.exp(sequences.sequence_log_probs(jnp.asarray(ref_logits), ALL))
    pairs = preference_pairs.draw(rng, law, rewards, PAIRS)
    each.append((ref_logits, rewards, *pairs))
  return Problem(*(np.stack(x) for x in zip(*each, strict=True)))


class Found(NamedTuple):
  """Along training, every tenth update, the start first.

  Attributes:
    kl: `[..., P]`, `KL(ref||pi)` of sequences, nats.
    reverse_kl: `[..., P]`, `KL(pi||ref)`.
    accuracy: `[..., P]`, share of pairs with a margin above 0.
    reward: `[..., P]`, expected reward.
    drift: `[..., P]`, the mean of `sequential_kl` under the reference.
    logits: `[..., 21, 4]`, at the end.
  """

  kl: jax.Array
  reverse_kl: jax.Array
  accuracy: jax.Array
  reward: jax.Array
  drift: jax.Array
  logits: jax.Array


def _read(logits: jax.Array, ref_logits: jax.Array):
  """Log-ratios `[64]` and risks `[3, 64]` of every sequence."""
  where = jnp.ones(ALL.shape, bool)
  policy, ref = (
    sequences.conditional_log_probs(x, ALL) for x in (logits, ref_logits)
  )
  log_ratio = preference.sequence_logps(policy, ALL, where=where)
  log_ratio -= preference.sequence_logps(ref, ALL, where=where)
  risks = (
    preference.sequential_kl(policy, ref, where=where),
    preference.sequential_entropic_risk(policy, ref, lam=LAM, where=where),
    preference.sequential_cvar(policy, ref, mass=MASS, where=where),
  )
  return log_ratio, jnp.stack(risks)


def _loss(logits: jax.Array, problem: Problem, arm: Arm) -> jax.Array:
  log_ratio, risks = _read(logits, problem.ref_logits)
  drift = jnp.stack([arm.kl, arm.entropic, arm.cvar]) @ risks
  zero = jnp.zeros(problem.chosen.shape)
  logps = preference.PairLogps(
    log_ratio[problem.chosen], log_ratio[problem.rejected], zero, zero
  )
  drifts = drift[problem.chosen], drift[problem.rejected]
  losses = (
    preference.dpo_loss(logps, beta=BETA),
    preference.tdpo_loss(logps, *drifts, variant="tdpo1", beta=BETA),
    preference.tdpo_loss(logps, *drifts, alpha=ALPHA, beta=BETA),
  )
  means = jnp.stack([jnp.mean(x.loss) for x in losses])
  return jnp.stack([arm.dpo, arm.tdpo1, arm.tdpo2]) @ means


def _measure(logits: jax.Array, problem: Problem) -> tuple[jax.Array, ...]:
  log_ratio, risks = _read(logits, problem.ref_logits)
  log_ref = sequences.sequence_log_probs(problem.ref_logits, ALL)
  ref, law = jnp.exp(log_ref), jnp.exp(log_ref + log_ratio)
  right = log_ratio[problem.chosen] > log_ratio[problem.rejected]
  return (
    -ref @ log_ratio,
    law @ log_ratio,
    jnp.mean(right),
    law @ problem.rewards,
    ref @ risks[0],
  )


def train(problem: Problem, arm: Arm, steps: int) -> Found:
  """Adam on one problem."""
  optimiser = optax.adam(RATE)

  def update(_, carry):
    logits, state = carry
    gradient = jax.grad(_loss)(logits, problem, arm)
    updates, state = optimiser.update(gradient, state)
    return logits + updates, state

  def step(carry, _):
    return jax.lax.fori_loop(0, EVERY, update, carry), _measure(
      carry[0], problem
    )

  start = problem.ref_logits, optimiser.init(problem.ref_logits)
  (logits, _), path = jax.lax.scan(step, start, length=steps // EVERY)
  last = _measure(logits, problem)
  path = (jnp.append(x, y) for x, y in zip(path, last, strict=True))
  return Found(*path, logits)


@functools.partial(jax.jit, static_argnames="steps")
def run_arms(problem: Problem, arms: Arm, steps: int) -> Found:
  """Every arm on every problem, arrays `[arms, S, ...]`."""

  def run(arm):
    return jax.vmap(lambda world: train(world, arm, steps))(problem)

  return jax.vmap(run)(arms)


def _below(name, low: str, high: str, kl: dict) -> harness.Claim:
  return harness.Claim(
    name=name,
    statement="KL(ref||pi) of sequences after training,"
    f" {low} over {high}: largest over seeds",
    theory=LOWER,
    measured=np.max(kl[low] / kl[high]),
    tolerance=0.0,
    relation="<=",
  )


def _claims(found: Found) -> list[harness.Claim]:
  kl = dict(zip(ARMS, found.kl[:, :, -1], strict=True))
  return [
    harness.all_agree(
      "drift_is_kl",
      "KL(ref||pi) of sequences less the reference's mean of sequential KLs,"
      " along every path: largest",
      [found.kl - found.drift],
      tolerance=EXACT,
    ),
    _below("tdpo2_below_dpo", "TDPO2", "DPO", kl),
    _below("tdpo2_below_tdpo1", "TDPO2", "TDPO1", kl),
    _below("cvar_below_tdpo2", "Ra-DPO2, CVaR .95", "TDPO2", kl),
    _below("entropic_below_cvar", *list(ARMS)[:2:-1], kl),
  ]


def _rows(found: Found) -> list[dict]:
  table = []
  for i, name in enumerate(ARMS):
    row = {"loss": name}
    for title, key in (
      ("KL(ref||pi)", "kl"),
      ("KL(pi||ref)", "reverse_kl"),
      ("accuracy", "accuracy"),
      ("reward", "reward"),
    ):
      ends = getattr(found, key)[i, :, -1]
      low, high = harness.confidence_interval(ends)
      row[title] = f"{ends.mean():.3f} +- {(high - low) / 2:.3f}"
    table.append(row)
  return table


def training(seeds: range, *, steps: int) -> tuple[harness.Part, np.ndarray]:
  """Claims on the order of divergences; DPO's tables `[S, 21, 4]` as well."""
  arms = jax.tree.map(lambda *x: jnp.array(x), *ARMS.values())
  problem = jax.tree.map(jnp.asarray, problems(seeds))
  found = jax.tree.map(np.asarray, run_arms(problem, arms, steps))
  curves = {
    "arms": np.array(list(ARMS)),
    "update": EVERY * np.arange(found.kl.shape[-1]),
  }
  for key in ("kl", "reverse_kl", "accuracy", "reward"):
    curves[key] = getattr(found, key)
  table = {f"after {steps} updates: means over seeds": _rows(found)}
  part = harness.Part(_claims(found), curves, table)
  return part, found.logits[list(ARMS).index("DPO")]


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Divergence and accuracy by update."""
  figure, (left, right) = plotting.figure(1, 2, height=3.0)
  for i, name in enumerate(curves["arms"]):
    for axes, key in ((left, "kl"), (right, "accuracy")):
      style = plotting.line_style(i)
      # At the start margins are 0, and their signs those of rounding.
      update, values = curves["update"][1:], curves[key][i, :, 1:]
      plotting.band(axes, update, values, name, **style)
  left.set(xlabel="update", ylabel="KL(ref||pi), nats")
  right.set(xlabel="update", ylabel="share of pairs ranked right")
  handles, labels = left.get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=5)
  return figure

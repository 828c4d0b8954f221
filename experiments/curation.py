# SPDX-License-Identifier: Apache-2.0
"""Generative models retrained on their own samples, curated by preference.

Paper: Self-Consuming Generative Models with Curated Data Provably Optimize
Human Preferences (2407.09499).
Claims: (1) Without real data a round raises E e^r by at least ((K-1)/K)
Var(e^r)/e^max r, and the model collapses onto the best outcomes: the mass
outside shrinks by K w/(K-1+w) a round, w = e^(second best - best). Expected at
p = (.1, .4, .2, .3), r = (2, 0, 1, -1), K = 4: E e^r 1.79293, first gain
1.25818 against its bound .42262, KL(p_inf||p_30) = 7.5e-11, rate .436927. For K
to infinity p_t is p_0 e^(t r), normalised. (2) With one real sample per lam
curated ones the loop stays within KL -log(1 - lam (K-1)) of the real data, has
E e^r above it by lam/(1+lam)^3 of the bound in (1), and keeps 1/(1+lam) of its
variance. Expected fixed point at lam = 2, K = 2: E e^r 4.06550, KL .41367, to
ten times what is left after so many rounds of contraction. (3) Populations of
finite size follow the exact recursion, with the spread of its linearisation.
Expected: within 5 standard errors, all else to 1e-10 where no tolerance is
named.
Command: `python -m experiments.curation`
About 30 seconds on 2 cores.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.best_of_n import by_enumeration
from jaxalign import numerics
from jaxalign.divergences import categorical
from jaxalign.inference import curation

# Sums of few terms of order 1 after an exact quadrature, in float64.
EXACT = 1e-10
# Exceeded by a normal error twice in a million.
STANDARD_ERRORS = 5.0

P = (0.1, 0.4, 0.2, 0.3)
R = (2.0, 0.0, 1.0, -1.0)
TIED_P = (0.1, 0.2, 0.3, 0.4)
TIED_R = (1.0, 1.0, 0.0, -1.0)
MANY = 40.0  # log K at which 1/K is below rounding
PAIR = 2  # K and lam of the fixed point


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """The loop, the number of random bases and the simulated populations."""

  num_seeds: int = harness.field(
    32, smoke=8, full=128, help="simulated populations, for intervals"
  )
  k: int = harness.field(4, help="samples among which one is kept")
  lam: tuple[float, ...] = harness.field(
    (0.2, 1.0, 2.0, 5.0), help="curated samples per real one"
  )
  rounds: int = harness.field(100, help="rounds of retraining")
  bases: int = harness.field(
    200, smoke=12, full=2000, help="random bases for what always holds"
  )
  vocab: int = harness.field(8, help="outcomes of the random bases")
  population: int = harness.field(
    4000, smoke=1000, full=40_000, help="samples per round of a simulation"
  )

  def __post_init__(self):
    super().__post_init__()
    if not self.lam or len(self.lam) > ROWS - len(_FIXED_ROWS):
      raise ValueError(
        f"lam needs 1 to {ROWS - len(_FIXED_ROWS)} numbers, had {len(self.lam)}"
      )
    if not all(0 < x < math.inf for x in self.lam):
      raise ValueError(f"lam must be finite and above 0, was {self.lam}")
    # Enumeration of all draws and expansions for large populations.
    least = {"k": 2, "rounds": 20, "bases": 1, "vocab": 2, "population": 100}
    most = {"k": 64, "rounds": 1000}
    for name, bound in least.items():
      value = getattr(self, name)
      if not bound <= value <= most.get(name, value):
        above = f" and at most {most[name]}" if name in most else ""
        raise ValueError(f"{name} must be at least {bound}{above}, was {value}")


# --- the exact recursion -----------------------------------------------------

ROWS = 16  # problems at once: one shape, so one program
_FIXED_ROWS = ("pure", "many", "tied", "pair", "simulated")
SIMULATED_LAM = 2.0


class Problems(NamedTuple):
  """Loops that start at their real data; fields have one row each."""

  log_ref: np.ndarray  # [B, V]
  rewards: np.ndarray  # [B, V]
  log_k: np.ndarray  # [B]
  lam: np.ndarray  # [B]; inf for none of the real data


def next_model(log_p, log_ref, rewards, log_k, lam) -> jax.Array:
  """One round of one loop `[V]`."""
  pure = curation.curation_step(log_p, rewards, log_k=log_k)
  real = jnp.isfinite(lam)
  mixed = curation.curation_step(
    log_p, rewards, log_k=log_k, log_ref=log_ref, lam=jnp.where(real, lam, 1.0)
  )
  return jnp.where(real, mixed, pure)


@jax.jit
def advance(log_p, problems: Problems) -> tuple[jax.Array, dict]:
  """The next models `[B, V]`, and numbers `[B]` on the present ones."""

  def one(log_p, problem):
    log_ref, rewards, log_k, lam = problem
    live = log_ref > -jnp.inf
    best = jnp.max(jnp.where(live, rewards, -jnp.inf))
    value = jnp.exp(rewards)
    mean = jnp.exp(log_p) @ value
    finite = jnp.where(jnp.isfinite(lam), lam, 1.0)
    numbers = {
      "mean": mean,
      "variance": jnp.exp(log_p) @ (value - mean) ** 2,
      "kl": categorical.kl(log_p, log_ref),
      "log_outside": numerics.masked_logsumexp(log_p, rewards < best),
      "gain_bound": curation.curation_gain_bound(log_p, rewards, log_k=log_k),
      "ref_gain_bound": curation.curation_ref_gain_bound(
        log_ref, rewards, log_k=log_k, lam=finite
      ),
      "kl_bound": curation.curation_kl_bound(log_k=log_k, lam=finite),
    }
    return next_model(log_p, *problem), numbers

  return jax.vmap(one)(log_p, problems)


def trajectory(
  problems: Problems, rounds: int, *, progress: bool = False
) -> dict[str, np.ndarray]:
  """Models `[T + 1, B, V]` and numbers `[T + 1, B]` of the loops."""
  log_p, rows = problems.log_ref, []
  for _ in harness.track(range(rounds + 1), "rounds", progress=progress):
    log_next, numbers = advance(log_p, problems)
    rows.append(numbers | {"log_p": log_p})
    log_p = log_next
  return {k: np.stack([np.asarray(row[k]) for row in rows]) for k in rows[0]}


def _padded(rows: list[tuple], size: int) -> Problems:
  """ROWS problems from `(p, rewards, log K, lam)`; the last one is repeated."""
  rows = rows + [rows[-1]] * (ROWS - len(rows))
  p, rewards = (
    np.stack([np.pad(row[i], (0, size - len(row[i]))) for row in rows])
    for i in range(2)
  )
  log_k, lam = np.array([row[2:] for row in rows], float).T
  with np.errstate(divide="ignore"):
    return Problems(np.log(p), rewards, log_k, lam)


def _size(config: Config) -> int:
  return max(config.vocab, len(P))


def example(config: Config) -> Problems:
  """The loops of `_FIXED_ROWS`, and one for every lam."""
  log_k = math.log(config.k)
  rows = [
    (P, R, log_k, math.inf),
    (P, R, MANY, math.inf),
    (TIED_P, TIED_R, log_k, math.inf),
    (P, R, math.log(PAIR), PAIR),
    (P, R, log_k, SIMULATED_LAM),
  ]
  rows += [(P, R, log_k, lam) for lam in config.lam]
  return _padded(rows, _size(config))


def random_problems(key: jax.Array, config: Config) -> list[Problems]:
  """Random bases, each without real data and with several amounts of it."""
  shape = (config.bases, 3, config.vocab)
  uniform = np.asarray(jax.random.uniform(key, shape, minval=-3, maxval=3))
  rows = []
  for logits, rewards, (choice, *_) in uniform:
    p = np.exp(logits) / np.exp(logits).sum()
    k = (2, 3, 4, 8)[int((choice + 3) / 6 * 4)]
    # Half of, and almost, the most for which the KL is bounded.
    amounts = (math.inf, 0.5 / (k - 1), 0.95 / (k - 1), *config.lam)
    rows += [(p, rewards, math.log(k), lam) for lam in amounts]
  size = _size(config)
  return [_padded(rows[i : i + ROWS], size) for i in range(0, len(rows), ROWS)]


def _at_most(name, statement, excess, *, tolerance=EXACT) -> harness.Claim:
  return harness.Claim(
    name=name,
    statement=statement,
    theory=0.0,
    measured=np.max(excess),
    tolerance=tolerance,
    relation="<=",
  )


# --- without real data -------------------------------------------------------


def _collapse(config: Config, found: dict) -> list[harness.Claim]:
  """Claims on the loops of the example that see no real data."""
  pure = {k: x[:, _FIXED_ROWS.index("pure")] for k, x in found.items()}
  p, value = np.array(P), np.exp(R)
  law = by_enumeration(p, R, config.k, 1.0)
  best, second = np.sort(R)[::-1][:2]
  ratio = math.exp(second - best)
  rate = config.k * ratio / (config.k - 1 + ratio)
  left = rate**config.rounds
  size = len(P)
  times = np.arange(config.rounds + 1)[:, None]
  tilt = np.log(p) + times * np.array(R)
  tilt = np.exp(tilt - tilt.max(1, keepdims=True))
  tilt /= tilt.sum(1, keepdims=True)
  many = np.exp(found["log_p"][:, _FIXED_ROWS.index("many"), :size])
  tied = np.exp(found["log_p"][:, _FIXED_ROWS.index("tied"), :2])
  kept = tied[:, 0] / tied.sum(1)
  outside = found["log_outside"][:, : _FIXED_ROWS.index("pair")]
  return [
    harness.Claim(
      name="first_gain",
      statement="gain of E e^r in the first round, by enumeration of all draws",
      theory=float((law - p) @ value),
      measured=pure["mean"][1] - pure["mean"][0],
      tolerance=EXACT,
    ),
    _at_most(
      "collapse",
      "without real data the mass outside the best outcomes falls in every"
      " round: largest change of its logarithm",
      np.diff(outside, axis=0),
      tolerance=0.0,
    ),
    harness.Claim(
      name="collapse_rate",
      statement="without real data the mass outside the best outcome shrinks,"
      " in the last round, by K w/(K-1+w)",
      theory=rate,
      measured=math.exp(np.diff(pure["log_outside"])[-1]),
      # What is left of that mass is what the rate leaves out.
      tolerance=10 * left + 1e-9,
    ),
    harness.Claim(
      name="variance_vanishes",
      statement="without real data the variance of e^r vanishes",
      theory=0.0,
      measured=pure["variance"][-1],
      tolerance=(10 * left + EXACT) * value.max() ** 2,
    ),
    harness.Claim(
      name="best_outcomes_keep_their_odds",
      statement="of several best outcomes each keeps its share of them: largest"
      " change over rounds",
      theory=0.0,
      measured=np.max(np.abs(kept - kept[0])),
      tolerance=EXACT,
    ),
    harness.Claim(
      name="many_samples_tilt",
      statement="for K to infinity the model is p_0 e^(t r): largest difference"
      " over rounds",
      theory=0.0,
      measured=np.max(np.abs(many - tilt)),
      tolerance=EXACT,
    ),
  ]


# --- with real data ----------------------------------------------------------


def pair_fixed_point() -> tuple[np.ndarray, float]:
  """Where the loop with K = lam = 2 rests, by Newton; its contraction rate.

  With two samples `H(x) = sum_y p(y) 2 e^r(x) / (e^r(x) + e^r(y))`.
  """
  ref, weight = np.array(P), np.exp(R)
  share = PAIR / (1 + PAIR)
  better = 2 * weight[:, None] / (weight[:, None] + weight)

  def jacobian(p):
    return share * (np.diag(better @ p) + p[:, None] * better)

  def step(p):
    p = (1 - share) * ref + share * p * (better @ p)
    return p / p.sum()

  p = ref
  for _ in range(20):  # into the region where Newton converges
    p = step(p)
  for _ in range(20):
    excess = p - (1 - share) * ref - share * p * (better @ p)
    p = p - np.linalg.solve(np.eye(p.size) - jacobian(p), excess)
  # On differences of probabilities, which sum to 0.
  basis = np.linalg.svd(np.ones((1, p.size)))[2][1:]
  rate = np.abs(np.linalg.eigvals(basis @ jacobian(p) @ basis.T)).max()
  return p, float(rate)


def _fixed_point(config: Config, found: dict) -> list[harness.Claim]:
  p, rate = pair_fixed_point()
  row = _FIXED_ROWS.index("pair")
  theory = {
    "mean": float(p @ np.exp(R)),
    "kl": float(p @ np.log(p / np.array(P))),
  }
  names = {"mean": ("reward", "E e^r"), "kl": ("kl", "KL from the real data")}
  return [
    harness.Claim(
      name=f"fixed_point_{name}",
      statement=f"{text} after the last round, K = 2, lam = 2, is that of the"
      " fixed point",
      theory=theory[what],
      measured=found[what][-1, row],
      # The start is of order 1 away in either; every round leaves the rate.
      tolerance=10 * rate**config.rounds + EXACT,
    )
    for what, (name, text) in names.items()
  ]


RANDOM_ROUNDS = 8


def _bounds(trajectories: list[tuple[Problems, dict]]) -> list[harness.Claim]:
  """What never fails, over all loops."""
  gain, drift, reward, variance = [], [], [], []
  for problems, found in trajectories:
    real = np.isfinite(problems.lam)
    mean = found["mean"]
    gain.append((found["gain_bound"][:-1] - np.diff(mean, axis=0))[:, ~real])
    drift.append((found["kl"] - found["kl_bound"])[:, real])
    least = mean[0] + found["ref_gain_bound"][1:]
    reward.append((least - mean[1:])[:, real])
    least = found["variance"][0] / (1 + problems.lam)
    variance.append((least - found["variance"])[:, real])

  def flat(rows):
    return np.concatenate([np.ravel(x) for x in rows])

  return [
    _at_most(
      "gain_bound",
      "without real data the gain of E e^r in a round is at least its bound:"
      " largest lack over bases, K and rounds",
      flat(gain),
      # E e^r is up to e^3.
      tolerance=EXACT,
    ),
    _at_most(
      "kl_bound",
      "with real data KL from it is at most -log(1 - lam (K-1)): largest excess"
      " over bases, K, lam and rounds",
      flat(drift),
    ),
    _at_most(
      "gain_over_real_data",
      "with real data the gain of E e^r over it is at least its bound: largest"
      " lack over bases, K, lam and rounds",
      flat(reward),
    ),
    _at_most(
      "variance_kept",
      "with real data the variance of e^r is at least 1/(1+lam) of its own:"
      " largest lack over bases, K, lam and rounds",
      flat(variance),
    ),
  ]


# --- finite populations ------------------------------------------------------

SIMULATED_ROUNDS = 15
SIMULATED = (math.inf, SIMULATED_LAM)
# A round is not linear in the population it starts from: its mean is off by
# order 1/population, for K from 2 to 64 by at most this over the population.
BIAS = 4 * math.exp(max(R))
FEWEST = 25  # samples outside the best outcome that make a count normal


@jax.jit(static_argnames=("k", "population"))
def simulate(keys, lam, *, k: int, population: int) -> jax.Array:
  """Frequencies `[S, T + 1, V]` of populations retrained on what they keep.

  Every member of the next population is real with probability 1/(1 + lam), or
  else the one that a Bradley-Terry choice keeps of k members of the present.

  Args:
    keys: `[S, T + 1]`.
    lam: curated samples per real one; inf for no real ones.
    k: samples among which one is kept.
    population: members.
  """
  cdf = jnp.cumsum(jnp.array(P))[:-1]
  rewards = jnp.array(R)

  def one_round(members, key):
    uniform = jax.random.uniform(key, (population, 2 * k + 2))
    candidates = members[(uniform[:, :k] * population).astype(int)]
    # The largest of r plus Gumbel noise is a choice by softmax of r.
    noise = -jnp.log(-jnp.log(uniform[:, k : 2 * k]))
    winner = jnp.argmax(rewards[candidates] + noise, -1, keepdims=True)
    kept = jnp.take_along_axis(candidates, winner, -1)[:, 0]
    from_real_data = jnp.searchsorted(cdf, uniform[:, -1])
    members = jnp.where(uniform[:, -2] * (1 + lam) < 1, from_real_data, kept)
    return members, jnp.bincount(members, length=len(P))

  def one_seed(keys):
    start = jnp.searchsorted(cdf, jax.random.uniform(keys[0], (population,)))
    _, counts = jax.lax.scan(one_round, start, keys[1:])
    first = jnp.bincount(start, length=len(P))
    return jnp.concatenate([first[None], counts]) / population

  return jax.lax.map(one_seed, keys)


@jax.jit
def linearisation(log_p, lam, log_k) -> jax.Array:
  """Jacobians `[L, T, V, V]` of a round at models `[L, T, V]`, lam `[L]`."""
  log_ref, rewards = jnp.log(jnp.array(P)), jnp.array(R)

  def jacobian(log_p, lam):
    def probs(p):
      return jnp.exp(next_model(jnp.log(p), log_ref, rewards, log_k, lam))

    return jax.jacfwd(probs)(jnp.exp(log_p))

  return jax.vmap(jax.vmap(jacobian, (0, None)))(log_p, lam)


def spreads(models: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
  """Standard deviations `[T + 1]` of E e^r, times the root of the population.

  To leading order: each round is a multinomial draw, whose covariance the
  next ones carry on linearly.

  Args:
    models: the exact recursion `[T + 1, V]`.
    jacobians: of its rounds `[T, V, V]`.
  """
  covariance, found = np.zeros((len(R), len(R))), []
  for t, p in enumerate(models):
    if t:
      covariance = jacobians[t - 1] @ covariance @ jacobians[t - 1].T
    covariance = covariance + np.diag(p) - np.outer(p, p)
    found.append(np.exp(R) @ covariance @ np.exp(R))
  return np.sqrt(found)


def spread_score(x: np.ndarray, spread: float) -> float:
  """How far the variance of normal `x [S]` is from `spread^2`, standardised.

  The cube root of chi-square over its degrees of freedom is close to normal
  (Wilson and Hilferty).
  """
  variance = 2 / (9 * (x.size - 1))
  root = (x.var(ddof=1) / spread**2) ** (1 / 3)
  return (root - (1 - variance)) / math.sqrt(variance)


def _simulated(
  config: Config, key: jax.Array, found: dict
) -> tuple[list[harness.Claim], dict, list[dict]]:
  rows = [_FIXED_ROWS.index(name) for name in ("pure", "simulated")]
  log_p = found["log_p"][: SIMULATED_ROUNDS + 1, rows, : len(P)].swapaxes(0, 1)
  exact = found["mean"][: SIMULATED_ROUNDS + 1, rows].T
  lam = np.array(SIMULATED)
  jacobians = linearisation(log_p[:, :-1], lam, math.log(config.k))
  spread = np.stack(
    [
      spreads(np.exp(models), jacobian)
      for models, jacobian in zip(log_p, np.asarray(jacobians), strict=True)
    ]
  ) / math.sqrt(config.population)
  keys = jax.random.split(
    key, (len(lam), config.num_seeds, SIMULATED_ROUNDS + 1)
  )
  means = np.stack(
    [
      np.asarray(simulate(k, x, k=config.k, population=config.population))
      @ np.exp(R)
      for k, x in zip(keys, lam, strict=True)
    ]
  )
  error = spread / math.sqrt(config.num_seeds)
  bias = BIAS / config.population
  beyond = np.maximum(np.abs(means.mean(1) - exact) - bias, 0) / error
  # Late in a collapse so few are left outside that counts are not normal.
  outside = np.exp(found["log_outside"][: SIMULATED_ROUNDS + 1, rows].T)
  normal = config.population * outside >= FEWEST
  last = means[1, :, -1]
  claims = [
    harness.Claim(
      name="simulated_reward",
      statement=f"E e^r of populations after {SIMULATED_ROUNDS} rounds,"
      f" lam = {SIMULATED_LAM:g}, is that of the exact recursion",
      theory=exact[1, -1],
      measured=last.mean(),
      tolerance=STANDARD_ERRORS * error[1, -1] + bias,
      interval=harness.confidence_interval(last),
    ),
    harness.Claim(
      name="simulated_paths",
      statement="E e^r of populations follows the exact recursion, without real"
      " data and with it: largest distance over rounds beyond the bias, in"
      " standard errors",
      theory=0.0,
      measured=np.max(beyond[normal]),
      tolerance=STANDARD_ERRORS,
    ),
    harness.Claim(
      name="simulated_spread",
      statement=f"variance of E e^r over populations after {SIMULATED_ROUNDS}"
      f" rounds, lam = {SIMULATED_LAM:g}, against that of the linearised"
      " recursion, in standard errors",
      theory=0.0,
      measured=spread_score(last, spread[1, -1]),
      tolerance=STANDARD_ERRORS,
    ),
  ]
  table = []
  for i, name in enumerate(("none", f"lam = {SIMULATED_LAM:g}")):
    for t in range(0, SIMULATED_ROUNDS + 1, 3):
      low, high = harness.confidence_interval(means[i, :, t])
      table.append(
        {
          "real data": name,
          "round": t,
          "exact": exact[i, t],
          "simulated": means[i, :, t].mean(),
          "low": low,
          "high": high,
        }
      )
  curves = {"simulated": means, "simulated_exact": exact}
  return claims, curves, table


# --- the experiment ----------------------------------------------------------


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs the exact loops, then random ones, then finite populations."""
  base_key, population_key = jax.random.split(config.key())
  problems = example(config)
  found = trajectory(problems, config.rounds, progress=progress)
  trajectories = [(problems, found)]
  for batch in harness.track(
    random_problems(base_key, config), "random bases", progress=progress
  ):
    trajectories.append((batch, trajectory(batch, RANDOM_ROUNDS)))
  simulated, curves, populations = _simulated(config, population_key, found)
  claims = [
    *_collapse(config, found),
    *_bounds(trajectories),
    *_fixed_point(config, found),
    *simulated,
  ]
  pure = _FIXED_ROWS.index("pure")
  shown = sorted({0, 1, 2, 3, 5, 10, 20, 30, config.rounds})
  collapse = [
    {
      "round": t,
      "E e^r": found["mean"][t, pure],
      "least gain": found["gain_bound"][t, pure],
      "variance": found["variance"][t, pure],
      "KL(p_inf||p_t)": -math.log1p(-math.exp(found["log_outside"][t, pure])),
    }
    for t in shown
    if t <= config.rounds
  ]
  first = len(_FIXED_ROWS)
  mixed = slice(first, first + len(config.lam))
  fixed = [
    {
      "K": config.k,
      "lam": lam,
      "E e^r": found["mean"][-1, first + i],
      "least": found["mean"][0, first + i]
      + found["ref_gain_bound"][-1, first + i],
      "KL": found["kl"][-1, first + i],
      "largest KL": found["kl_bound"][-1, first + i],
      "variance": found["variance"][-1, first + i],
      "least variance": found["variance"][0, first + i] / (1 + lam),
    }
    for i, lam in enumerate(config.lam)
  ]
  random = [
    {name: x[name][:-1] for name in ("gain_bound", "kl", "kl_bound")}
    | {"gain": np.diff(x["mean"], axis=0), "lam": problem.lam}
    for problem, x in trajectories[1:]
  ]

  def gather(name, real):
    rows = [x[name][:, np.isfinite(x["lam"]) == real] for x in random]
    return np.concatenate([np.ravel(row) for row in rows])

  curves |= {
    "lam": np.array(config.lam),
    "pure_log_p": found["log_p"][:, pure, : len(P)],
    "pure_mean": found["mean"][:, pure],
    "pure_variance": found["variance"][:, pure],
    "pure_log_outside": found["log_outside"][:, pure],
    "pure_gain_bound": found["gain_bound"][:, pure],
    "mixed_mean": found["mean"][:, mixed],
    "mixed_kl": found["kl"][:, mixed],
    "mixed_variance": found["variance"][:, mixed],
    "random_gain": gather("gain", False),
    "random_gain_bound": gather("gain_bound", False),
    "random_kl": gather("kl", True),
    "random_kl_bound": gather("kl_bound", True),
  }
  return harness.Results(
    experiment="curation",
    paper="Self-Consuming Generative Models with Curated Data Provably Optimize"
    " Human Preferences (2407.09499)",
    claims=tuple(claims),
    curves=curves,
    tables={
      "without real data": collapse,
      "with real data, after the last round": fixed,
      "populations, with 95 % intervals": populations,
    },
  )


# --- plots -------------------------------------------------------------------


def _plot_collapse(curves):
  figure, (models, reward, vanishing) = plotting.figure(1, 3)
  few = slice(0, 31)
  p = np.exp(curves["pure_log_p"][few])
  t = np.arange(len(p))
  for x, r in enumerate(R):
    models.plot(t, p[:, x], label=f"outcome {x}, reward {r:g}")
  models.set(ylabel="probability", title="model")
  reward.plot(t, curves["pure_mean"][few])
  reward.axhline(np.exp(max(R)), color="black", linestyle="--", label="e^max r")
  reward.set(ylabel="E e^r", title="reward")
  outside = curves["pure_log_outside"][few]
  vanishing.plot(t, -np.log1p(-np.exp(outside)), label="KL(p_inf||p_t)")
  vanishing.plot(t, curves["pure_variance"][few], label="variance of e^r")
  gain = np.diff(curves["pure_mean"])[few]
  vanishing.plot(t[: gain.size], gain[: t.size], label="gain of E e^r")
  bound = curves["pure_gain_bound"][few]
  vanishing.plot(t, bound, "k--", label="least gain")
  vanishing.set(ylabel="nats, and units of e^r", yscale="log", title="collapse")
  for axes in (models, reward, vanishing):
    axes.set(xlabel="round")
    axes.legend()
  return figure


def _plot_real_data(curves):
  figure, panels = plotting.figure(1, 3, height=3.6)
  for axes, what, title in zip(
    panels,
    ("mean", "kl", "variance"),
    ("E e^r", "KL from the real data, nats", "variance of e^r"),
    strict=True,
  ):
    values = curves[f"mixed_{what}"][:31]
    for i, lam in enumerate(curves["lam"]):
      axes.plot(values[:, i], label=f"lam = {lam:g}")
    if what != "kl":
      pure = curves[f"pure_{what}"][:31]
      axes.plot(pure, "k--", label="no real data")
    axes.set(xlabel="round", ylabel=title, title=title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
  return figure


def _plot_bounds(curves):
  figure, (gains, drifts) = plotting.figure(1, 2)
  for axes, what, title in (
    (gains, "gain", "gain of E e^r in a round, no real data"),
    (drifts, "kl", "KL from the real data"),
  ):
    bound, value = curves[f"random_{what}_bound"], curves[f"random_{what}"]
    # What is 0 or infinite has no place on these axes.
    shown = np.isfinite(bound) & (bound > 1e-12) & (value > 1e-12)
    bound, value = bound[shown], value[shown]
    axes.plot(bound, value, ".", ms=2, alpha=0.4, label="random loops")
    line = np.array([bound.min(), bound.max()])
    axes.plot(line, line, "k--", label="bound")
    axes.set(yscale="log", xlabel="bound", ylabel=title, title=title)
    axes.legend()
  gains.set_xscale("log")
  return figure


def _plot_populations(curves):
  figure, (paths, errors) = plotting.figure(1, 2)
  means, exact = curves["simulated"], curves["simulated_exact"]
  t = np.arange(exact.shape[1])
  for i, name in enumerate(("no real data", f"lam = {SIMULATED_LAM:g}")):
    paths.plot(t, means[i].T, color=f"C{i}", alpha=0.15, linewidth=0.7)
    paths.plot(t, exact[i], "--", color=f"C{i}", label=f"exact, {name}")
    plotting.band(errors, t, means[i] - exact[i], name)
  errors.axhline(0, color="black", linewidth=0.8)
  paths.set(ylabel="E e^r", title="populations")
  errors.set(
    ylabel="E e^r less the exact one", title="mean over populations, 95 %"
  )
  for axes in (paths, errors):
    axes.set(xlabel="round")
    axes.legend()
  return figure


def plot(results: harness.Results) -> dict:
  """Collapse, the loop with real data, the bounds, and populations."""
  plots = {
    "collapse": _plot_collapse,
    "real_data": _plot_real_data,
    "bounds": _plot_bounds,
    "populations": _plot_populations,
  }
  return {name: draw(results.curves) for name, draw in plots.items()}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)

# SPDX-License-Identifier: Apache-2.0
"""Best-of-n: its exact law, what it costs, and its relatives.

Paper: Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879);
Asymptotics of Language Model Alignment (2404.01730); Soft Best-of-n Sampling
(2505.03156); BOND (2407.14622); Transforming and Combining Rewards
(2402.00742).
Claims: (1) The KL from the base is at most log n - (n-1)/n, with equality only
without atoms: over V ordered outcomes of equal mass the gap falls as 1/V^2,
over a fair coin the KL stops at log 2. Expected at n = 16, bound 1.83509: coin
.69296, V = 10, 100, 1000: 1.73306, 1.83402, 1.83508; at n = 128 the coin has
.693147, bound 3.85984. (2) The win rate is close to the best at this KL.
Expected at n = 2, 4, 16: .66667, .8, .941176 against .67591, .80400, .941287;
rewind-and-repeat has .73537 at the KL of n = 4. (3) With n = e^(m/10) over m
Bernoulli(.3) tokens the reward per token tends to .514629 and the KL to the
optimum to 0, to (log m)/m. Expected at m = 1e5: .51457 and .000043. (4) Soft
best-of-n reaches its tilt as 1/n^2. Expected: n^2 KL -> 1.25029, n TV ->
.75253, to 4/n; at n = 8 over T = 1, 2, 4, 6, 8 tokens KL .00401, .01980,
.11953, .31355, .58542. (5) Distilling best-of-2 of a moving anchor k times
gives best-of-2^k: exactly, and by gradient descent to a KL of 1e-4. (6) Of two
rewards, summing log-sigmoids raises the smaller one against the plain sum, at
equal KL: expected at every KL. (7) On rewards of samples (`--rewards=FILE.csv`
with columns prompt and reward) the bound holds and the reward does not fall
with n; on known laws (`--generate=FILE.csv` writes a file of them and runs on
it) it is the exact one. Expected: simulations agree within 5 standard errors,
all else to 1e-10 where no tolerance is named.
Command: `python -m experiments.best_of_n`
About 25 seconds on 2 cores.
"""

import dataclasses
import functools
import itertools
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app

from experiments import harness, plotting
from jaxalign import checks, data
from jaxalign.divergences import categorical, generators, regularized
from jaxalign.inference import asymptotics, bond, reward_transforms
from jaxalign.inference import best_of_n as bon
from jaxalign.inference import soft_best_of_n as soft

# Sums of at most a thousand terms of order 1, in float64.
EXACT = 1e-10
# Exceeded by a normal error twice in a million.
STANDARD_ERRORS = 5.0
MOST = 10**15  # draws that a float64 counts one by one


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Counts of draws, sizes of the worlds, and files of rewards."""

  n: tuple[int, ...] = harness.field(
    (1, 2, 4, 8, 16, 32, 64, 128),
    smoke=(1, 4, 16, 128),
    full=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    help="numbers of draws of which the best is kept",
  )
  vocab: int = harness.field(10, help="outcomes of the random bases")
  ties: str = harness.field(
    "uniform",
    help="which of equal rewards is kept: any of the draws, or the last listed",
    choices=("uniform", "index"),
  )
  bases: int = harness.field(
    20_000, smoke=500, full=200_000, help="random bases for what always holds"
  )
  draws: int = harness.field(
    125_000, smoke=10_000, full=500_000, help="best-of-n samples per seed"
  )
  tokens: tuple[int, ...] = harness.field(
    (10, 100, 1000, 10_000, 100_000),
    smoke=(1000,),
    full=(10, 100, 1000, 10_000, 100_000, 1_000_000),
    help="lengths of sequences; at n = e^(length/10)",
  )
  rewards: str = harness.field(
    "", help="CSV file with columns prompt,reward: samples of the base policy"
  )
  generate: str = harness.field(
    "", help="file to write with rewards of known laws, and to run on"
  )
  samples: int = harness.field(
    2000, smoke=400, full=20_000, help="samples per known law"
  )
  bootstrap: int = harness.field(
    200, smoke=50, full=1000, help="resamples for intervals of the reward"
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ("n", "tokens"):
      if not getattr(self, name):
        raise ValueError(f"{name} needs at least one number")
    least = {
      "n": 1,
      "vocab": 2,
      "bases": 6,
      "draws": 1000,
      "tokens": 10,
      "samples": 10,
      "bootstrap": 40,
    }
    for name, bound in least.items():
      if np.min(getattr(self, name)) < bound:
        raise ValueError(
          f"{name} must be at least {bound}, was {np.min(getattr(self, name))}"
        )
    if max(self.n) > MOST:
      raise ValueError(f"n must be at most {MOST}, was {max(self.n)}")
    if self.rewards and self.generate:
      raise ValueError(
        "rewards and generate exclude each other: a generated file is run on"
      )


Stage = tuple[list[harness.Claim], dict[str, np.ndarray], dict[str, list[dict]]]


def _at_most(name, statement, excess, *, tolerance=EXACT) -> harness.Claim:
  return harness.Claim(
    name=name,
    statement=statement,
    theory=0.0,
    measured=np.max(excess),
    tolerance=tolerance,
    relation="<=",
  )


def _equal(name, statement, error, *, tolerance=EXACT) -> harness.Claim:
  return harness.Claim(
    name=name,
    statement=f"{statement}: largest difference",
    theory=0.0,
    measured=np.max(np.abs(error)),
    tolerance=tolerance,
  )


def _rows(**columns: Any) -> list[dict[str, Any]]:
  """Rows of a table from its columns; a single entry stands in every row."""
  columns = {k.replace("_", " "): np.ravel(x) for k, x in columns.items()}
  size = max(x.size for x in columns.values())
  full = [np.broadcast_to(x, size).tolist() for x in columns.values()]
  rows = zip(*full, strict=True)
  return [dict(zip(columns, row, strict=True)) for row in rows]


# --- what several parts need --------------------------------------------------

# Beside those of the flag: of these the theory below is a closed form.
ALWAYS_N = (1.0, 2.0, 4.0, 16.0)
BATCH = 500  # random bases at once
# Measured on a base, and the closed form without atoms that bounds it.
_DIVERGENCES = {
  "kl": categorical.kl,
  "reverse_kl": categorical.reverse_kl,
  "pearson_chi2": categorical.pearson_chi2,
  "total_variation": categorical.total_variation,
  "squared_hellinger": categorical.squared_hellinger,
}


def _counts(config: Config) -> tuple[np.ndarray, np.ndarray]:
  """All n, ascending, and which of them were asked for."""
  asked = [float(x) for x in config.n]
  n = np.unique([*ALWAYS_N, *asked])
  return n, np.isin(n, asked)


@jax.jit
def continuous(n: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Divergences `[N, D]` and win rates `[N]` over a base without atoms."""
  values = [bon.f_divergence_continuous(n, kind) for kind in _DIVERGENCES]
  return jnp.stack(values, -1), bon.win_rate_upper_bound(n)


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
  """Uniform over the middles of 2^32 cells of (0, 1): neither 0 nor 1."""
  bits = jax.random.bits(key, shape, jnp.uint32)
  return (np.asarray(bits) + 0.5) / 2**32


def random_bases(key: jax.Array, vocab: int) -> tuple[np.ndarray, np.ndarray]:
  """Log-probabilities and rewards `[BATCH, V]`; every second base has ties."""
  logits, rewards = 6 * _uniform(key, (2, BATCH, vocab)) - 3
  tied = np.arange(BATCH)[:, None] % 2 == 1
  mass = np.exp(logits)
  return (
    np.log(mass / mass.sum(1, keepdims=True)),
    np.where(tied, np.round(rewards), rewards),
  )


def by_enumeration(p, rewards, n: int, temperature: float = 0.0) -> np.ndarray:
  """The law `[V]` of what is kept of n draws, over all their multisets."""
  p, rewards = np.asarray(p), np.asarray(rewards)
  drawn = itertools.combinations_with_replacement(range(p.size), n)
  times = (np.array(list(drawn))[..., None] == np.arange(p.size)).sum(1)
  factorial = np.cumprod([1.0, *range(1, n + 1)])
  chance = factorial[n] * np.prod(p**times / factorial[times], 1)
  if temperature:
    weight = np.exp((rewards - rewards.max()) / temperature) * times
  else:
    best = np.where(times > 0, rewards, -np.inf).max(1, keepdims=True)
    weight = np.where(rewards == best, times, 0)
  return chance @ (weight / weight.sum(1, keepdims=True))


# --- the exact law against its bounds ----------------------------------------

FINE = 1000  # outcomes of the finest base
GAP_N = 16
TIED_P = (0.3, 0.2, 0.1, 0.25, 0.15)
TIED_R = (1.0, 2.0, 2.0, 0.0, 2.0)
DRAWN_N = 4


@jax.jit(static_argnames="ties")
def describe(log_p, rewards, n, *, ties: str) -> dict[str, jax.Array]:
  """Best-of-n on bases `[B, V]`: its law `[B, N, V]`, and numbers `[B, N]`."""

  def at(log_p, rewards, n):
    log_pi = bon.log_pmf(log_p, rewards, n, ties=ties)
    estimates = bon.kl_estimator(log_p, n)
    return {
      "log_pi": log_pi,
      "kl": categorical.kl(log_pi, log_p),
      "estimate": jnp.sum(jnp.exp(log_pi) * estimates, -1),
      "win": bon.win_rate(log_pi, log_p, rewards),
    }

  row = jax.vmap(at, (None, None, 0))
  return jax.vmap(row, (0, 0, None))(log_p, rewards, n)


@jax.jit(static_argnames="ties")
def search(log_p, rewards, n, *, ties: str) -> dict[str, jax.Array]:
  """What always holds, on bases `[B, V]`: `[B, N]`, divergences `[B, N, D]`."""
  others = "index" if ties == "uniform" else "uniform"

  def at(log_p, rewards, n):
    log_pi = bon.log_pmf(log_p, rewards, n, ties=ties)
    values = [measure(log_pi, log_p) for measure in _DIVERGENCES.values()]
    estimates = bon.kl_estimator(log_p, n)
    return {
      "divergences": jnp.stack(values),
      f"kl_{ties}": values[0],
      f"kl_{others}": bon.kl_exact(log_p, rewards, n, ties=others),
      "estimate": jnp.sum(jnp.exp(log_pi) * estimates, -1),
      "gap": bon.kl_gap(log_p, rewards, n, ties=ties),
      "win": bon.win_rate(log_pi, log_p, rewards),
    }

  row = jax.vmap(at, (None, None, 0))
  return jax.vmap(row, (0, 0, None))(log_p, rewards, n)


def _named_bases(key, vocab: int) -> tuple[list[str], np.ndarray, np.ndarray]:
  """Names, log-probabilities and rewards, padded with outcomes of no mass."""
  log_p, rewards = random_bases(key, vocab)
  bases = {"fair coin": (np.log([0.5, 0.5]), np.arange(2.0))}
  bases |= {
    f"uniform, {v}": (np.full(v, -np.log(v)), np.arange(float(v)))
    for v in (10, 100, FINE)
  }
  bases["tied example"] = (np.log(TIED_P), np.array(TIED_R))
  bases["random"] = (log_p[0], rewards[0])
  bases["random, tied"] = (log_p[1], rewards[1])
  size = max(FINE, vocab)
  padded = [
    [np.pad(x, (0, size - x.size), constant_values=fill) for x, fill in pair]
    for pair in (
      zip(base, (-np.inf, 0.0), strict=True) for base in bases.values()
    )
  ]
  return list(bases), *np.swapaxes(padded, 0, 1)


def _law(config: Config, key: jax.Array, progress: bool) -> Stage:
  base_key, search_key = jax.random.split(key)
  n, asked = _counts(config)
  bounds, win_bound = map(np.asarray, continuous(n))
  bound = bounds[:, 0]
  names, *bases = _named_bases(base_key, config.vocab)
  found = describe(*bases, n, ties=config.ties)
  found = {k: np.asarray(x) for k, x in found.items()}
  random = [
    search(*random_bases(batch_key, config.vocab), n, ties=config.ties)
    for batch_key in harness.track(
      jax.random.split(search_key, -(-config.bases // BATCH)),
      "random bases",
      progress=progress,
    )
  ]
  random = {
    k: np.concatenate([np.asarray(x[k]) for x in random])[: config.bases]
    for k in random[0]
  }
  kl = random["divergences"][..., 0]
  # A coin that shows the worse side n times in a row, or does not.
  miss = -n * np.log(2)
  hit = np.log1p(-np.exp(miss))
  coin = np.log(2) + np.exp(miss) * miss + np.exp(hit) * hit
  # To second order in a cell's width the gap is E[(d log density/du)^2] / 24.
  gap = GAP_N * (GAP_N - 1) ** 2 / (24 * (GAP_N - 2))
  fine = names.index(f"uniform, {FINE}")
  rewards = np.argsort(np.argsort(TIED_R, kind="stable"))
  rewards = TIED_R if config.ties == "uniform" else rewards
  size = len(TIED_P)
  law = found["log_pi"][names.index("tied example"), n == DRAWN_N, :size]
  claims = [
    _equal(
      "law_by_enumeration",
      "the law of best-of-4 with ties is that by enumeration of all draws",
      np.exp(law) - by_enumeration(TIED_P, rewards, DRAWN_N),
    ),
    _at_most(
      "kl_below_bound",
      "KL of best-of-n at most log n - (n-1)/n: largest excess over bases and"
      " n",
      [np.max(found["kl"] - bound), np.max(kl - bound)],
    ),
    _equal(
      "kl_gap_formula",
      "the bound exceeds the KL by the formula for the gap",
      bound - kl - random["gap"],
    ),
    _equal(
      "coin_saturates",
      "KL over a fair coin is log 2 less the entropy of n misses",
      found["kl"][0] - coin,
    ),
    harness.Claim(
      name="gap_of_fine_bases",
      statement=f"bound less KL times V^2, V = {FINE} ordered outcomes,"
      f" n = {GAP_N}",
      theory=gap,
      measured=FINE**2 * (bound - found["kl"][fine])[n == GAP_N].item(),
      tolerance=gap * GAP_N / FINE,  # the next order is n/V smaller
    ),
    _at_most(
      "uniform_ties_below_index",
      "KL with ties broken uniformly at most that in a total order: largest"
      " excess over random bases",
      random["kl_uniform"] - random["kl_index"],
    ),
    _at_most(
      "estimator_between",
      "the estimator's mean lies between KL and bound: largest distance outside"
      " over random bases",
      np.maximum(kl - random["estimate"], random["estimate"] - bound),
    ),
    _at_most(
      "win_rate_below_bound",
      "win rate against the base at most n/(n+1): largest excess over bases",
      [np.max(found["win"] - win_bound), np.max(random["win"] - win_bound)],
    ),
    _at_most(
      "divergences_below_continuous",
      "five divergences at most those without atoms: largest excess over"
      " 1 + bound, over random bases",
      (random["divergences"] - bounds) / (1 + bounds),
    ),
  ]
  rows = []
  for i, name in enumerate(names):
    rows += _rows(
      base=name,
      n=n[asked].astype(int),
      KL=found["kl"][i, asked],
      estimator=found["estimate"][i, asked],
      bound=bound[asked],
      win_rate=found["win"][i, asked],
      highest=win_bound[asked],
    )
  curves = {
    "n": n,
    "bound": bound,
    "base_names": np.array(names),
    "base_kls": found["kl"],
    "base_estimates": found["estimate"],
    "random_kls": kl,
    "random_estimates": random["estimate"],
  }
  return claims, curves, {"KL and win rate of best-of-n": rows}


# --- win rate against KL -----------------------------------------------------

FRONTIER_N = (2.0, 4.0, 16.0)


@jax.jit
def highest_means(log_p, scores, values, max_kl) -> jax.Array:
  """Means of values `[R, V]` under the best for each score `[C, V]` at KLs.

  Args:
    log_p: `[V]`.
    scores: `[C, V]`, of which the mean is maximised.
    values: `[R, V]`.
    max_kl: `[K]`.

  Returns:
    `[C, K, R]`.
  """

  def means(score, max_kl):
    best = asymptotics.kl_constrained_policy(log_p, score, max_kl)
    return values @ jnp.exp(best.log_policy)

  return jax.vmap(jax.vmap(means, (None, 0)), (0, None))(scores, max_kl)


@jax.jit
def frontier(kl: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Win rates `[K]` of the optimal tilt and of rewind-and-repeat at KLs."""
  optimum = bon.win_rate_tilt(bon.win_rate_tilt_coef(kl)).win_rate
  return optimum, bon.rewind_and_repeat(jnp.exp(-kl)).win_rate


def _frontier(config: Config, key: jax.Array, progress: bool) -> Stage:
  del key, progress  # nothing is random, and it is short
  n, asked = _counts(config)
  bounds, win = map(np.asarray, continuous(n))
  kl = bounds[:, 0]
  line = np.linspace(0, max(kl[-1], 2.0), 200)
  best, repeat = map(np.asarray, frontier(np.concatenate([kl, line])))
  optimum, rewind = best[: n.size], repeat[: n.size]
  few = np.isin(n, FRONTIER_N)
  # An outcome's reward is its own win rate.
  rank = (np.arange(FINE)[None] + 0.5) / FINE
  log_p = np.full(FINE, -np.log(FINE))
  grid = np.asarray(highest_means(log_p, rank, rank, kl[few]))[0, :, 0]
  loss = optimum - win
  claims = [
    _equal(
      "tilt_is_optimal",
      "win rate of the rank tilt is the highest at its KL, found over ordered"
      " outcomes at the KL of n = 2, 4, 16",
      grid - optimum[few],
      # Over one cell of mass 1/V the density changes by e^(17/V).
      tolerance=(17 / FINE) ** 2 / 12,
    ),
    _at_most(
      "best_of_n_below_optimum",
      "win rate of best-of-n at most the optimum at its KL: largest excess over"
      " n",
      -loss,
    ),
    harness.Claim(
      name="best_of_n_near_optimum",
      statement="win rate lost by best-of-n against the optimum at its KL is"
      " largest at n = 2",
      theory=(optimum[n == 2] - 2 / 3).item(),
      measured=np.max(loss),
      tolerance=EXACT,
      relation="<=",
    ),
    _at_most(
      "rewind_below_best_of_n",
      "win rate of rewind-and-repeat at most that of best-of-n at its KL:"
      " largest excess over n",
      rewind - win,
    ),
  ]
  rows = _rows(
    n=n[asked].astype(int),
    KL=kl[asked],
    best_of_n=win[asked],
    optimum=optimum[asked],
    rewind_and_repeat=rewind[asked],
  )
  curves = {
    "frontier_n": n,
    "frontier_kl": kl,
    "frontier_win": win,
    "frontier_loss": np.stack([loss, optimum - rewind]),
    "frontier_lines": np.stack([line, best[n.size :], repeat[n.size :]]),
  }
  return claims, curves, {"highest win rate at the KL of best-of-n": rows}


# --- draws -------------------------------------------------------------------


@jax.jit
def draw(keys: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Frequencies `[S, V]` of best-of-4 on the tied example, from keys `[S, D]`.

  Beside them the estimates `[V]` of the KL from each outcome.
  """
  p = jnp.array(TIED_P)
  cdf = jnp.cumsum(p)

  def one(key):
    return bon.sample(
      key,
      lambda key: jnp.searchsorted(cdf, jax.random.uniform(key)),
      lambda x: scores[x],
      DRAWN_N,
    ).sample

  def frequencies(keys):
    return jnp.bincount(jax.vmap(one)(keys), length=p.size) / keys.size

  return jax.lax.map(frequencies, keys), bon.kl_estimator(jnp.log(p), DRAWN_N)


def _mean_claim(name, statement, frequencies, pmf, values, total):
  """Mean of `values [V]` under draws against its mean under the exact law."""
  means = frequencies @ values
  theory = pmf @ values
  error = np.sqrt(pmf @ (values - theory) ** 2 / total)
  return harness.Claim(
    name=name,
    statement=statement,
    theory=theory,
    measured=means.mean(),
    tolerance=STANDARD_ERRORS * error,
    interval=harness.confidence_interval(means),
  )


def _sampled(config: Config, key: jax.Array, progress: bool) -> Stage:
  del progress  # one program
  # In a total order no scores are equal.
  rank = np.argsort(np.argsort(TIED_R, kind="stable")).astype(float)
  scores = np.array(TIED_R) if config.ties == "uniform" else rank
  shape = (config.num_seeds, config.draws)
  found, estimates = map(np.asarray, draw(jax.random.split(key, shape), scores))
  total = config.num_seeds * config.draws
  pmf = by_enumeration(TIED_P, scores, DRAWN_N)
  error = np.sqrt(pmf * (1 - pmf) / total)
  claims = [
    _equal(
      "sampled_law",
      "frequencies of best-of-4 with ties against the exact law, in standard"
      " errors",
      (found.mean(0) - pmf) / error,
      tolerance=STANDARD_ERRORS,
    ),
    _mean_claim(
      "sampled_reward",
      "mean reward of draws of best-of-4 is that of the exact law",
      found,
      pmf,
      np.array(TIED_R),
      total,
    ),
    _mean_claim(
      "sampled_estimator",
      "mean of the KL estimator over draws of best-of-4 is its exact mean",
      found,
      pmf,
      estimates,
      total,
    ),
  ]
  intervals = [harness.confidence_interval(x) for x in found.T]
  rows = _rows(
    outcome=np.arange(pmf.size),
    reward=TIED_R,
    exact=pmf,
    drawn=found.mean(0),
    low=[low for low, _ in intervals],
    high=[high for _, high in intervals],
  )
  title = "frequencies of best-of-4 with ties, with 95 % intervals"
  return claims, {"drawn": found}, {title: rows}


# --- many tokens -------------------------------------------------------------

TOKEN_P = 0.3
DELTA = 0.1  # KL per token, nats
LEVEL = (3, 5)  # the share of ones whose probability decays


def coin_kl(x: float, p: float) -> float:
  """`KL(Bernoulli(x)||Bernoulli(p))`."""
  return x * math.log(x / p) + (1 - x) * math.log((1 - x) / (1 - p))


def token_limits() -> tuple[float, float, float]:
  """Reward x* and slope s of the optimum at KL Delta, and Cramer's rate."""
  low, high = TOKEN_P, 1 - 1e-9
  for _ in range(100):
    middle = (low + high) / 2
    inside = coin_kl(middle, TOKEN_P) <= DELTA
    low, high = (middle, high) if inside else (low, middle)
  slope = math.log(low / (1 - low)) - math.log(TOKEN_P / (1 - TOKEN_P))
  return low, slope, coin_kl(LEVEL[0] / LEVEL[1], low)


@jax.jit(static_argnames="num_tokens")
def over_tokens(optimum: float, *, num_tokens: int) -> jax.Array:
  """Best-of-n per token, and -log P(share of ones >= LEVEL) per token."""
  found = asymptotics.bernoulli_best_of_n(TOKEN_P, DELTA, num_tokens)
  least = -(-LEVEL[0] * num_tokens // LEVEL[1])
  log_count = asymptotics.binomial_log_pmf(optimum, num_tokens)
  tail = -jax.nn.logsumexp(log_count[least:]) / num_tokens
  return jnp.stack([*found, tail])


def _asymptotics(config: Config, key: jax.Array, progress: bool) -> Stage:
  del key  # nothing is random
  lengths = sorted({int(m) for m in config.tokens})
  optimum, slope, rate = token_limits()
  found = [
    np.asarray(over_tokens(optimum, num_tokens=m))
    for m in harness.track(lengths, "tokens", progress=progress)
  ]
  reward, to_optimum, to_base, tail = np.stack(found, 1)
  last = lengths[-1]
  # The best of n reaches the level whose probability, e^(-m I) over a factor
  # of order sqrt m, is 1/n: to leading order log m / (2 s m) below x*. Double.
  share = np.log(last) / last
  claims = [
    harness.Claim(
      name="reward_per_token",
      statement="reward per token of best-of-n over the longest sequence is"
      " that of the optimum at KL Delta",
      theory=optimum,
      measured=reward[-1],
      tolerance=share / slope,
    ),
    harness.Claim(
      name="kl_to_optimum_per_token",
      statement="KL per token from the optimum vanishes over the longest"
      " sequence",
      theory=0.0,
      measured=to_optimum[-1],
      tolerance=share,
    ),
    harness.Claim(
      name="kl_to_base_per_token",
      statement="KL per token from the base is Delta over the longest sequence",
      theory=DELTA,
      measured=to_base[-1],
      # log n - (n-1)/n lacks 1 nat; steps of the count lose less than another.
      tolerance=2 / last,
    ),
    _at_most(
      "kl_to_optimum_below_regret",
      "KL from the optimum at most s times the reward lost: largest excess over"
      " lengths",
      to_optimum - slope * (optimum - reward),
    ),
    _equal(
      "kl_identity",
      "KL from the base is KL from the optimum, less s times the reward lost,"
      " plus Delta",
      to_base - to_optimum + slope * (optimum - reward) - DELTA,
      # Log-probabilities of counts have m log m units in the last place.
      tolerance=1e-8,
    ),
    harness.Claim(
      name="large_deviation_rate",
      statement="decay per token of the probability of many ones under the"
      " optimum, over the longest sequence",
      theory=rate,
      measured=tail[-1],
      tolerance=share,  # the factor of order sqrt m, doubled
    ),
    _at_most(
      "chernoff",
      "the probability of many ones decays at least at Cramer's rate: largest"
      " lack over lengths",
      rate - tail,
    ),
  ]
  rows = _rows(
    tokens=[*map(str, lengths), "limit"],
    reward=[*reward, optimum],
    KL_to_optimum=[*to_optimum, 0.0],
    KL_to_base=[*to_base, DELTA],
    decay_of_tail=[*tail, rate],
  )
  curves = {
    "lengths": np.array(lengths),
    "per_token": np.stack([reward, to_optimum, to_base, tail]),
    "per_token_limits": np.array([optimum, slope, rate]),
  }
  return claims, curves, {"best-of-n over Bernoulli tokens, per token": rows}


# --- soft best-of-n ----------------------------------------------------------

SOFT_P = (0.1, 0.4, 0.2, 0.3)
SOFT_R = (2.0, 0.0, 1.0, -1.0)
SOFT_N = tuple(2.0**k for k in range(11))
MANY = math.exp(40.0)
COLD = 0.01  # a temperature at which e^(-1/temperature) is below rounding
TOKEN_COUNTS = (1, 2, 4, 6, 8)
BETTER_P, BETTER_R, TOKEN_N = 0.4, 1.5, 8  # a better token, and draws


@jax.jit
def soft_laws(log_p, rewards, n, temperature) -> tuple[jax.Array, ...]:
  """Laws `[B, V]` of soft best-of-n and of its limit; KL and TV; the rate."""

  def one(log_p, rewards, n, temperature):
    law = soft.soft_log_pmf(log_p, rewards, n, temperature)
    tilt = soft.tilted_log_pmf(log_p, rewards, temperature)
    distances = (
      categorical.kl(tilt, law),
      categorical.total_variation(tilt, law),
    )
    rate = soft.soft_rate(log_p, rewards, temperature)
    return law, tilt, jnp.stack(distances), jnp.stack(rate)

  return jax.vmap(one)(log_p, rewards, n, temperature)


def _soft_problems() -> list[tuple[np.ndarray, np.ndarray, float, float]]:
  """Base, rewards, n and temperature, in the order in which they are used."""
  problems: list[tuple] = [(SOFT_P, SOFT_R, n, 1.0) for n in (*SOFT_N, MANY)]
  problems.append((TIED_P, TIED_R, float(DRAWN_N), COLD))
  for t in TOKEN_COUNTS:
    # The law of a sequence depends on its number of better tokens alone.
    k = np.arange(t + 1)
    p = [math.comb(t, i) * BETTER_P**i * (1 - BETTER_P) ** (t - i) for i in k]
    problems.append((p, BETTER_R * k, float(TOKEN_N), 1.0))
  return [(np.array(p), np.array(r), n, lam) for p, r, n, lam in problems]


def _soft(config: Config, key: jax.Array, progress: bool) -> Stage:
  del config, key, progress  # nothing is random, and the sizes are the paper's
  problems = _soft_problems()
  size = max(p.size for p, *_ in problems)
  with np.errstate(divide="ignore"):
    log_p = np.log([np.pad(p, (0, size - p.size)) for p, *_ in problems])
  rewards = np.stack([np.pad(r, (0, size - r.size)) for _, r, *_ in problems])
  n, temperature = np.array([problem[2:] for problem in problems]).T
  law, tilt, distances, rate = map(
    np.asarray, soft_laws(log_p, rewards, n, temperature)
  )
  law, tilt = np.exp(law), np.exp(tilt)
  count = len(SOFT_N)
  scaled = np.array(SOFT_N) ** np.array([[2], [1]]) * distances[:count].T
  four, many, cold = SOFT_N.index(DRAWN_N), count, count + 1
  tokens, whole = np.array(TOKEN_COUNTS), distances[count + 2 :, 0]
  enumerated = [four, *range(count + 2, len(problems))]
  errors = [
    np.abs(law[i, : p.size] - by_enumeration(p, r, int(x), lam)).max()
    for i, (p, r, x, lam) in enumerate(problems)
    if i in enumerated
  ]
  ratio = whole / (tokens * whole[0])
  claims = [
    harness.Claim(
      name=f"soft_{name}_rate",
      statement=f"{text} at n = {SOFT_N[-1]:.0f}",
      theory=rate[0, i],
      measured=scaled[i, -1],
      # The next order in 1/n has coefficients of order 1.
      tolerance=4 / SOFT_N[-1] * rate[0, i],
    )
    for i, (name, text) in enumerate(
      (
        ("kl", "n^2 KL(tilt||soft best-of-n)"),
        ("tv", "n times the total variation of tilt and soft best-of-n"),
      )
    )
  ]
  claims += [
    _equal(
      "soft_by_enumeration",
      "the law of soft best-of-n is that by enumeration of all draws, n = 4 and"
      " whole sequences with n = 8",
      errors,
    ),
    _equal(
      "soft_limits",
      "soft best-of-n is the base at n = 1, the tilt for n to infinity and"
      " best-of-n for temperature to 0",
      [
        np.abs(law[0] - np.exp(log_p[0])).max(),
        np.abs(law[many] - tilt[many]).max(),
        np.abs(
          law[cold, : len(TIED_P)] - by_enumeration(TIED_P, TIED_R, DRAWN_N)
        ).max(),
      ],
    ),
    harness.Claim(
      name="soft_tokens_beat_sequences",
      statement="selecting among whole sequences over selecting token by token,"
      " ratio of KLs from the tilt: least over lengths above 1",
      theory=1.0,
      measured=np.min(ratio[1:]),
      tolerance=EXACT,
      relation=">=",
    ),
  ]
  rates = _rows(
    n=np.array(SOFT_N, int),
    KL=distances[:count, 0],
    KL_times_n_squared=scaled[0],
    TV_times_n=scaled[1],
  )
  by_tokens = _rows(
    tokens=tokens,
    whole_sequences=whole,
    token_by_token=tokens * whole[0],
    ratio=ratio,
  )
  curves = {
    "soft_n": np.array(SOFT_N),
    "soft_scaled": scaled,
    "soft_rate": rate[0],
    "soft_tokens": np.stack([tokens, whole]),
  }
  tables = {
    "soft best-of-n against its tilt": rates,
    "soft best-of-8 over T tokens, KL from the tilt": by_tokens,
  }
  return claims, curves, tables


# --- distillation ------------------------------------------------------------

ROUNDS, STEPS, LEARNING_RATE = 5, 500, 0.2
WEIGHTS = (0.0, 0.5, 1.0)  # of the backward KL


@jax.jit
def distil(anchors, log_p, rewards, n) -> dict[str, jax.Array]:
  """One round of best-of-2 of each anchor, beside best-of-n of the base.

  Args:
    anchors: `[1 + W, V]`, of the exact recursion and of a descent per weight.
    log_p: `[V]`, the base.
    rewards: `[V]`.
    n: what the anchors will have reached after this round.

  Returns:
    The next anchors; the losses `[W, STEPS]`; errors and positions.
  """
  of_two = jnp.full((len(anchors),), 2.0)
  targets = jax.vmap(bond.bond_log_pmf, (0, None, 0))(
    jnp.concatenate([anchors, log_p[None]]), rewards, jnp.append(of_two, n)
  )
  exact, direct = targets[0], targets[-1]
  optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))
  gradient = jax.value_and_grad(bond.jeffreys_objective)

  def descend(anchor, target, weight):
    def step(carry, _):
      logits, state = carry
      loss, slope = gradient(logits, target, weight=weight)
      updates, state = optimizer.update(slope, state)
      return (optax.apply_updates(logits, updates), state), loss

    start = anchor, optimizer.init(anchor)
    (logits, _), losses = jax.lax.scan(step, start, length=STEPS)
    return jax.nn.log_softmax(logits), losses

  policies, losses = jax.vmap(descend)(
    anchors[1:], targets[1:-1], jnp.array(WEIGHTS)
  )
  anchors = jnp.concatenate([exact[None], policies])
  others = jnp.stack(
    [jnp.broadcast_to(x, anchors.shape) for x in (direct, log_p)]
  )
  return {
    "anchors": anchors,
    "losses": losses,
    "composition": jnp.max(jnp.abs(jnp.exp(exact) - jnp.exp(direct))),
    "distance": categorical.kl(others[0], anchors)[1:],
    "kl": categorical.kl(anchors, others[1]),
    "reward": jnp.exp(anchors) @ rewards,
  }


def _distillation(config: Config, key: jax.Array, progress: bool) -> Stage:
  log_p, rewards = (x[1] for x in random_bases(key, config.vocab))  # with ties
  n = 2.0 ** np.arange(1, ROUNDS + 1)
  anchors = np.tile(log_p, (1 + len(WEIGHTS), 1))
  found = []
  for x in harness.track(n, "distillation", progress=progress):
    found.append(distil(anchors, log_p, rewards, x))
    anchors = found[-1]["anchors"]
  found = {k: np.stack([np.asarray(x[k]) for x in found]) for k in found[0]}
  bound = np.log(n) - (n - 1) / n
  claims = [
    _equal(
      "bond_composition",
      "best-of-2 of a moving anchor, k times, is best-of-2^k",
      found["composition"],
    ),
    _at_most(
      "bond_kl_bound",
      "KL after k rounds at most log 2^k - 1 + 2^-k: largest excess over"
      " rounds",
      found["kl"][:, 0] - bound,
    ),
    _equal(
      "bond_distilled",
      "descent on the Jeffreys objective, five rounds of best-of-2: KL of"
      " best-of-2^k from the policy, over weights and rounds",
      found["distance"],
      # Adam with a step that falls to 0 stops at about 1e-5.
      tolerance=1e-4,
    ),
  ]
  rows = _rows(
    rounds=np.arange(1, ROUNDS + 1),
    n=n.astype(int),
    reward=found["reward"][:, 0],
    KL=found["kl"][:, 0],
    bound=bound,
    **{
      f"distance at b = {weight:g}": found["distance"][:, w]
      for w, weight in enumerate(WEIGHTS)
    },
  )
  start = np.exp(log_p) @ rewards
  curves = {
    "bond_losses": np.concatenate(found["losses"], 1),
    "bond_kl": np.pad(found["kl"], ((1, 0), (0, 0))),
    "bond_reward": np.pad(
      found["reward"], ((1, 0), (0, 0)), constant_values=start
    ),
  }
  return claims, curves, {"best-of-2 of a moving anchor": rows}


# --- combining rewards -------------------------------------------------------

BOTH_P = (0.2, 0.2, 0.6)
BOTH_R = ((10.0, 2.0, 0.0), (-5.0, 2.0, 0.0))  # of two properties, reference 0
GAMMAS = (0.5, 1.0, 2.0)


@jax.jit
def closed_form_errors(logits: jax.Array, rewards: jax.Array) -> jax.Array:
  """Conjunction against the maximiser of log-sigmoids less KL, `[G, B]`.

  Args:
    logits: of bases, `[B, V]`.
    rewards: of two properties, `[B, 2, V]`.
  """
  r_ref = jnp.mean(rewards, -1)
  utility = reward_transforms.lsc_combine(
    rewards, jnp.broadcast_to(r_ref[..., None], rewards.shape), axis=1
  )
  div = generators.f_divergence("kl")

  def error(gamma):
    closed = reward_transforms.conjunction_log_policy(
      logits, rewards, r_ref, gamma=gamma
    )
    found = regularized.regularized_maximizer(div, utility, logits, gamma)
    return jnp.max(jnp.abs(jnp.exp(closed) - jnp.exp(found)), -1)

  return jax.vmap(error)(jnp.array(GAMMAS))


def _conjunction(config: Config, key: jax.Array, progress: bool) -> Stage:
  del progress  # two programs
  # Up to the KL at which only the best outcome is left.
  kls = np.linspace(0.02, -np.log(BOTH_P[0]), 40)
  numbers = 6 * _uniform(key, (3, 100, config.vocab)) - 3
  rewards = numbers[1:].swapaxes(0, 1)
  errors = np.asarray(closed_form_errors(numbers[0], rewards))
  rewards = np.array(BOTH_R)
  combine = jax.jit(functools.partial(reward_transforms.lsc_combine, axis=0))
  scores = np.stack([rewards.sum(0), combine(rewards, np.zeros_like(rewards))])
  means = np.asarray(highest_means(np.log(BOTH_P), scores, rewards, kls))
  plain, both = means.min(-1)
  claims = [
    _equal(
      "conjunction_is_optimal",
      "the base given that all is good maximises the sum of log-sigmoids less"
      " KL",
      errors,
      tolerance=1e-9,  # the maximiser is found by bisection
    ),
    harness.Claim(
      name="log_sigmoids_raise_the_minimum",
      statement="smaller one of two mean rewards, sum of log-sigmoids less"
      " plain sum at equal KL: least over KLs",
      theory=0.0,
      measured=np.min(both - plain),
      tolerance=EXACT,
      relation=">=",
    ),
  ]
  few = slice(3, None, 9)
  rows = _rows(
    KL=kls[few],
    first_of_plain_sum=means[0, few, 0],
    second_of_plain_sum=means[0, few, 1],
    first_of_log_sigmoids=means[1, few, 0],
    second_of_log_sigmoids=means[1, few, 1],
  )
  curves = {"both_kl": kls, "both_means": means}
  return claims, curves, {"mean rewards at equal KL": rows}


# --- rewards of samples ------------------------------------------------------

SHOWN_PROMPTS = 20


class Law(NamedTuple):
  """A known law of rewards."""

  quantile: Callable[[np.ndarray], np.ndarray]  # of [...] in (0, 1)
  values: np.ndarray  # [L], ascending: of cells with
  cdf: np.ndarray  # [L]

  def best_of(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the best of n draws `[N]`."""
    below = np.concatenate([[0.0], self.cdf[:-1]])
    mass = self.cdf ** n[:, None] - below ** n[:, None]
    mean = mass @ self.values
    return mean, mass @ self.values**2 - mean**2


def _gaussian(mean: float, sd: float) -> Law:
  normal = statistics.NormalDist(mean, sd)
  edges = mean + sd * np.linspace(-10, 10, 20_001)
  return Law(
    np.vectorize(normal.inv_cdf, otypes=[float]),
    (edges[1:] + edges[:-1]) / 2,
    np.vectorize(normal.cdf, otypes=[float])(edges[1:]),
  )


def _tied(values: Sequence[float], probs: Sequence[float]) -> Law:
  levels, cdf = np.array(values, float), np.cumsum(probs)
  cdf[-1] = 1.0
  return Law(lambda u: levels[np.searchsorted(cdf, u)], levels, cdf)


def known_laws() -> dict[str, Law]:
  """Laws of rewards by prompt: without ties, and with many."""
  return {
    "gaussian mean 0 sd 1": _gaussian(0.0, 1.0),
    "gaussian mean 2 sd 0.5": _gaussian(2.0, 0.5),
    "correct 1 in 10": _tied((0, 1), (0.9, 0.1)),
    "integers 0 to 4": _tied(range(5), (0.2,) * 5),
  }


def known_rewards(key: jax.Array, samples: int) -> data.Rewards:
  """Samples from every known law, by inversion."""
  laws = known_laws()
  uniform = _uniform(key, (len(laws), samples))
  return data.Rewards(
    tuple(laws),
    tuple(
      law.quantile(u) for law, u in zip(laws.values(), uniform, strict=True)
    ),
  )


def _write(path: str, rewards: data.Rewards) -> data.Rewards:
  """Writes a new file and reads it back."""
  folder = pathlib.Path(path).parent
  if not folder.is_dir():
    raise checks.InputError(f"{path}: there is no directory {folder}")
  data.write_rewards(path, rewards)
  return data.read_rewards(path)


@jax.jit(static_argnames="ties")
def on_samples(times, rewards, n, *, ties: str) -> dict[str, jax.Array]:
  """Best-of-n where each of M samples counts so many times.

  Args:
    times: `[C, B, M]`, C chunks of B resamples that are worked on at once.
    rewards: `[M]`.
    n: `[N]`.
    ties: as in `best_of_n.log_pmf`.

  Returns:
    `kl`, `estimate` and `reward`, `[C, B, N]`.
  """

  def at(times, n):
    log_p = jnp.where(times > 0, jnp.log(jnp.maximum(times, 1)), -jnp.inf)
    log_p -= jnp.log(jnp.sum(times))
    log_pi = bon.log_pmf(log_p, rewards, n, ties=ties)
    estimates = bon.kl_estimator(log_p, n)
    return {
      "kl": categorical.kl(log_pi, log_p),
      "estimate": jnp.sum(jnp.exp(log_pi) * estimates),
      "reward": jnp.sum(jnp.exp(log_pi) * rewards),
    }

  of_chunk = jax.vmap(jax.vmap(at, (None, 0)), (0, None))
  return jax.lax.map(lambda times: of_chunk(times, n), times)


def _resample(key, count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """How often each sample is drawn `[C, B, M]`; the first row is once each."""
  bits = np.asarray(jax.random.bits(key, shape, jnp.uint32), np.uint64)
  drawn = (bits[..., :count] * np.uint64(count)) >> np.uint64(32)
  size = shape[-1]
  rows = np.arange(shape[0] * shape[1]).reshape(*shape[:2], 1) * size
  cells = np.ravel(rows + drawn.astype(np.int64))
  times = np.bincount(cells, minlength=math.prod(shape)).reshape(shape)
  times[0, 0] = np.arange(size) < count
  return times


def _summarise(
  key, found: data.Rewards, config: Config, progress: bool
) -> dict[str, np.ndarray]:
  """Numbers `[P, 1 + B, N]`: of each prompt's samples, and of B resamples."""
  n, _ = _counts(config)
  size = max(len(x) for x in found.rewards)
  count = 1 + config.bootstrap
  # As many at once as fill about 10 MB an array.
  batch = max(1, min(count, 1_000_000 // (size * n.size)))
  shape = (-(-count // batch), batch, size)
  rows = []
  for i, x in harness.track(
    list(enumerate(found.rewards)), "prompts", progress=progress
  ):
    times = _resample(jax.random.fold_in(key, i), len(x), shape)
    padded = np.pad(x, (0, size - len(x)))
    rows.append(on_samples(times, padded, n, ties=config.ties))
  return {
    k: np.stack([np.reshape(row[k], (-1, n.size))[:count] for row in rows])
    for k in rows[0]
  }


def _with_interval(estimates: np.ndarray) -> np.ndarray:
  """Value and percentile interval `[3, ..., N]` of `[..., 1 + B, N]`."""
  low, high = np.quantile(estimates[..., 1:, :], [0.025, 0.975], -2)
  return np.stack([estimates[..., 0, :], low, high])


def _known(
  reward: np.ndarray, n: np.ndarray, asked: np.ndarray, samples: int
) -> tuple[harness.Claim, list[dict], np.ndarray]:
  """Rewards `[3, P, N]` on the known laws against the exact ones."""
  deviations, rows, exact = [], [], []
  few = n <= samples / 10
  for i, (name, law) in enumerate(known_laws().items()):
    mean, variance = law.best_of(n)
    # A mean over all n-subsets of N samples has at most n/N of the variance of
    # one of them (Hoeffding); what is added is for rounding.
    error = np.sqrt(n * np.maximum(variance, 0) / samples) + 1e-9
    deviations.append(((reward[0, i] - mean) / error)[few])
    exact.append(mean)
    rows += _rows(
      law=name,
      n=n[asked].astype(int),
      exact=mean[asked],
      from_samples=reward[0, i, asked],
      low=reward[1, i, asked],
      high=reward[2, i, asked],
    )
  claim = _equal(
    "reward_of_known_laws",
    "expected reward of best-of-n from samples of known laws against the exact"
    " one, in standard errors, n up to a tenth of the samples",
    deviations,
    tolerance=STANDARD_ERRORS,
  )
  return claim, rows, np.stack(exact)


def _samples(config: Config, key: jax.Array, progress: bool) -> Stage:
  n, asked = _counts(config)
  known = known_rewards(key, config.samples)
  # Files come first: what is wrong with them is said before anything is done.
  if config.generate:
    known = _write(config.generate, known)
  found = data.read_rewards(config.rewards) if config.rewards else known
  # Of keys that differ from each other and from the one above.
  known_key, found_key = (jax.random.fold_in(key, i) for i in range(2))
  summary = known_summary = _summarise(known_key, known, config, progress)
  if config.rewards:
    summary = _summarise(found_key, found, config, progress)
  bound = np.log(n) - (n - 1) / n
  kl, estimate = summary["kl"][:, 0], summary["estimate"][:, 0]
  reward = _with_interval(summary["reward"])
  known_reward = _with_interval(known_summary["reward"])
  claim, known_rows, exact = _known(known_reward, n, asked, config.samples)
  scale = np.array([np.max(np.abs(x)) for x in found.rewards])[:, None]
  fall = -np.diff(reward[0], axis=1) / np.where(scale > 0, scale, 1)
  claims = [
    claim,
    _at_most(
      "samples_kl_below_bound",
      "KL of best-of-n from the empirical base of each prompt at most log n -"
      " (n-1)/n: largest excess",
      kl - bound,
    ),
    _at_most(
      "samples_reward_grows",
      "expected reward of best-of-n on samples does not fall with n: largest"
      " fall over the largest reward",
      fall,
    ),
  ]
  shown = found.prompts[:SHOWN_PROMPTS]
  numbers = [
    (prompt, len(found.rewards[i]), kl[i], estimate[i], reward[:, i])
    for i, prompt in enumerate(shown)
  ]
  total = sum(len(x) for x in found.rewards)
  mean = _with_interval(summary["reward"].mean(0))
  numbers.append(("mean of all", total, kl.mean(0), estimate.mean(0), mean))
  rows = []
  for prompt, size, its_kl, its_estimate, its_reward in numbers:
    rows += _rows(
      prompt=prompt,
      samples=size,
      n=n[asked].astype(int),
      KL=its_kl[asked],
      estimator=its_estimate[asked],
      bound=bound[asked],
      reward=its_reward[0, asked],
      low=its_reward[1, asked],
      high=its_reward[2, asked],
    )
  title = "rewards of samples, with 95 % bootstrap intervals"
  if len(shown) < len(found.prompts):
    title += f" (first {len(shown)} of {len(found.prompts)} prompts)"
  curves = {
    "samples_n": n,
    "samples_kl": kl,
    "samples_estimate": estimate,
    "samples_reward": reward,
    "samples_mean": mean,
    "known_reward": known_reward,
    "known_exact": exact,
    "prompts": np.array(shown),
  }
  tables = {"rewards of known laws, with 95 % intervals": known_rows}
  return claims, curves, tables | {title: rows}


# --- the experiment ----------------------------------------------------------


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Reads or makes rewards of samples, then computes everything else."""
  stages = (
    _samples,
    _law,
    _frontier,
    _sampled,
    _asymptotics,
    _soft,
    _distillation,
    _conjunction,
  )
  keys = jax.random.split(config.key(), len(stages))
  claims, curves, tables = [], {}, {}
  for stage, key in zip(stages, keys, strict=True):
    found, arrays, rows = stage(config, key, progress)
    claims += found
    curves |= arrays
    tables |= rows
  return harness.Results(
    experiment="best_of_n",
    paper="Theoretical Guarantees on the Best-of-n Alignment Policy"
    " (2401.01879); Asymptotics of Language Model Alignment (2404.01730); Soft"
    " Best-of-n Sampling (2505.03156); BOND (2407.14622); Transforming and"
    " Combining Rewards (2402.00742)",
    claims=tuple(claims),
    curves=curves,
    tables=tables,
  )


# --- plots -------------------------------------------------------------------


def _plot_kl(curves):
  figure, (named, random) = plotting.figure(1, 2)
  n = curves["n"]
  for i, name in enumerate(curves["base_names"]):
    (line,) = named.plot(n, curves["base_kls"][i], "o-", ms=3, label=name)
    named.plot(
      n, curves["base_estimates"][i], "x", color=line.get_color(), ms=5
    )
  named.plot(n, curves["bound"], "k--", label="log n - (n-1)/n")
  named.set(title="KL by base (crosses: estimator's mean)", ylabel="KL, nats")
  for name, label in (("kls", "KL"), ("estimates", "estimator")):
    low, middle, high = np.quantile(
      curves[f"random_{name}"], [0.05, 0.5, 0.95], 0
    )
    (line,) = random.plot(n, middle, "o-", ms=3, label=f"{label}, median")
    random.fill_between(n, low, high, color=line.get_color(), alpha=0.2)
  random.plot(n, curves["bound"], "k--", label="log n - (n-1)/n")
  random.set(title="random bases, 5 to 95 %", ylabel="KL, nats")
  for axes in (named, random):
    axes.set_xscale("log", base=2)
    axes.set_xlabel("n")
    axes.legend()
  return figure


def _plot_frontier(curves):
  figure, (rates, losses) = plotting.figure(1, 2)
  kl, best, repeat = curves["frontier_lines"]
  rates.plot(kl, best, label="optimal tilt of the rank")
  rates.plot(kl, repeat, label="rewind and repeat")
  rates.plot(
    curves["frontier_kl"], curves["frontier_win"], "ko", ms=4, label="best of n"
  )
  rates.set(
    xlabel="KL from the base, nats", ylabel="win rate", title="win rate"
  )
  loss, rewind = curves["frontier_loss"]
  live = curves["frontier_n"] > 1
  for values, label in ((loss, "best of n"), (rewind, "rewind and repeat")):
    losses.plot(curves["frontier_n"][live], values[live], "o-", label=label)
  losses.set_xscale("log", base=2)
  losses.set(
    xlabel="n",
    ylabel="optimum less win rate",
    yscale="log",
    title="win rate lost at the KL of best-of-n",
  )
  for axes in (rates, losses):
    axes.legend()
  return figure


def _plot_tokens(curves):
  figure, (rewards, kls) = plotting.figure(1, 2)
  m = curves["lengths"]
  reward, to_optimum, to_base, tail = curves["per_token"]
  optimum, slope, rate = curves["per_token_limits"]
  rewards.plot(m, reward, "o-", label="best of e^(0.1 m)")
  rewards.axhline(optimum, color="black", linestyle="--", label="optimum")
  rewards.set(ylabel="reward per token", title="reward")
  kls.plot(m, to_optimum, "o-", label="KL(best of n||optimum)")
  kls.plot(m, DELTA - to_base, "s-", label="Delta - KL(best of n||base)")
  kls.plot(m, slope * (optimum - reward), "^-", label="s times reward lost")
  kls.plot(m, tail - rate, "v-", label="tail decay less Cramer's rate")
  kls.set(yscale="log", ylabel="per token, nats", title="what vanishes")
  for axes in (rewards, kls):
    axes.set(xscale="log", xlabel="tokens m")
    axes.legend()
  return figure


def _plot_soft(curves):
  figure, (rates, tokens) = plotting.figure(1, 2)
  for i, label in enumerate(("n² KL(tilt||soft)", "n TV(tilt, soft)")):
    (line,) = rates.plot(
      curves["soft_n"], curves["soft_scaled"][i], "o-", label=label
    )
    rates.axhline(
      curves["soft_rate"][i], color=line.get_color(), linestyle="--"
    )
  rates.set_xscale("log", base=2)
  rates.set(xlabel="n", ylabel="scaled distance", title="limits (dashed)")
  count, whole = curves["soft_tokens"]
  tokens.plot(count, whole, "o-", label="among whole sequences")
  tokens.plot(count, count * whole[0], "s-", label="token by token")
  tokens.set(
    xlabel="tokens T",
    ylabel="KL(tilt||soft best-of-8), nats",
    title="sequences",
    yscale="log",
  )
  for axes in (rates, tokens):
    axes.legend()
  return figure


def _plot_bond(curves):
  figure, (losses, frontier_axes) = plotting.figure(1, 2)
  for weight, loss in zip(WEIGHTS, curves["bond_losses"], strict=True):
    losses.plot(np.maximum(loss, 1e-16), lw=1, label=f"b = {weight:g}")
  losses.set(
    xlabel="step (a new anchor every 500)",
    ylabel="Jeffreys objective",
    yscale="log",
    title="descent",
  )
  kl, reward = curves["bond_kl"].T, curves["bond_reward"].T
  frontier_axes.plot(kl[0], reward[0], "k-", label="best of 2^k")
  for weight, x, y, mark in zip(
    WEIGHTS, kl[1:], reward[1:], "ox+", strict=True
  ):
    label = f"b = {weight:g}"
    frontier_axes.plot(x, y, mark, ms=7, mfc="none", label=label)
  frontier_axes.set(
    xlabel="KL from the base, nats",
    ylabel="expected reward",
    title="iterated distillation of best-of-2",
  )
  for axes in (losses, frontier_axes):
    axes.legend()
  return figure


def _plot_both(curves):
  figure, (axes,) = plotting.figure(width=7)
  for means, name, color in zip(
    curves["both_means"],
    ("plain sum", "sum of log-sigmoids"),
    ("C0", "C1"),
    strict=True,
  ):
    for i, style in enumerate(("-", "--")):
      axes.plot(
        curves["both_kl"],
        means[:, i],
        style,
        color=color,
        label=f"{name}, {('first', 'second')[i]} reward",
      )
  axes.set(
    xlabel="KL from the base, nats",
    ylabel="mean reward",
    title="two rewards at equal KL",
  )
  axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
  return figure


def _error_bars(axes, n, reward, i, **style):
  middle, low, high = reward[:, i]
  axes.errorbar(
    n,
    middle,
    yerr=np.maximum([middle - low, high - middle], 0),
    capsize=2,
    ms=3,
    **style,
  )


def _plot_rewards(curves):
  figure, (known, found, kls) = plotting.figure(1, 3, height=3.8)
  n = curves["samples_n"]
  for i, name in enumerate(known_laws()):
    known.plot(n, curves["known_exact"][i], color=f"C{i}")
    _error_bars(
      known, n, curves["known_reward"], i, fmt="o", color=f"C{i}", label=name
    )
  known.set(title="known laws (lines: exact)", ylabel="expected reward")
  few = curves["prompts"][:6]
  for i, prompt in enumerate(few):
    label = str(prompt)
    label = label if len(label) <= 24 else label[:23] + "…"
    _error_bars(found, n, curves["samples_reward"], i, fmt="o-", label=label)
    kls.plot(n, curves["samples_kl"][i], "o-", ms=3, label=label)
  total = len(curves["samples_kl"])
  more = f", first {len(few)} of {total} prompts" if len(few) < total else ""
  found.set(title=f"rewards of samples{more}", ylabel="expected reward")
  kls.plot(n, np.log(n) - (n - 1) / n, "k--", label="log n - (n-1)/n")
  kls.set(title="KL from the empirical base", ylabel="KL, nats")
  for axes in (known, found, kls):
    axes.set_xscale("log", base=2)
    axes.set_xlabel("n")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
  return figure


def plot(results: harness.Results) -> dict:
  """One figure for each part."""
  plots = {
    "kl": _plot_kl,
    "frontier": _plot_frontier,
    "tokens": _plot_tokens,
    "soft": _plot_soft,
    "distillation": _plot_bond,
    "conjunction": _plot_both,
    "rewards": _plot_rewards,
  }
  return {name: draw_it(results.curves) for name, draw_it in plots.items()}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)

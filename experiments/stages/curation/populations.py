# SPDX-License-Identifier: Apache-2.0
"""Populations of finite size against the exact recursion.

Their mean E e^r against that of the recursion, and their variance against that
of its linearisation, with real data and without.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.curation import loops
from experiments.stages.curation.loops import SIMULATED_LAM, P, R

ROUNDS = 15
LAM = (math.inf, SIMULATED_LAM)
# Over the population: how far the mean of E e^r is off because a round is not
# linear in the population that it starts from. To second order in the draws the
# most is 21, for K = 2 without real data; this is 30.
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
      return jnp.exp(loops.next_model(jnp.log(p), log_ref, rewards, log_k, lam))

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


def _claims(means, exact, spread, normal, population) -> list[harness.Claim]:
  """Claims on E e^r `[L, S, T + 1]`.

  Args:
    means: of the populations.
    exact: of the recursion, `[L, T + 1]`.
    spread: standard deviations of the means `[L, T + 1]`.
    normal: where the means are close to normal, `[L, T + 1]`.
    population: members.
  """
  error = spread / math.sqrt(means.shape[1])
  bias = BIAS / population
  beyond = np.maximum(np.abs(means.mean(1) - exact) - bias, 0) / error
  last = means[1, :, -1]
  return [
    harness.Claim(
      name="simulated_reward",
      statement=f"E e^r of populations after {ROUNDS} rounds,"
      f" lam = {SIMULATED_LAM:g}, is that of the exact recursion",
      theory=exact[1, -1],
      measured=last.mean(),
      tolerance=harness.STANDARD_ERRORS * error[1, -1] + bias,
      interval=harness.confidence_interval(last),
    ),
    harness.Claim(
      name="simulated_paths",
      statement="E e^r of populations follows the exact recursion, without real"
      " data and with it: largest distance over rounds beyond the bias, in"
      " standard errors",
      theory=0.0,
      measured=np.max(beyond[normal]),
      tolerance=harness.STANDARD_ERRORS,
    ),
    harness.Claim(
      name="simulated_spread",
      statement=f"variance of E e^r over populations after {ROUNDS}"
      f" rounds, lam = {SIMULATED_LAM:g}, against that of the linearised"
      " recursion, in standard errors",
      theory=0.0,
      measured=spread_score(last, spread[1, -1]),
      tolerance=harness.STANDARD_ERRORS,
    ),
  ]


def _rows(means: np.ndarray, exact: np.ndarray) -> list[dict]:
  """Every third round."""
  rows = []
  for i, name in enumerate(("none", f"lam = {SIMULATED_LAM:g}")):
    for t in range(0, ROUNDS + 1, 3):
      low, high = harness.confidence_interval(means[i, :, t])
      rows.append(
        {
          "real data": name,
          "round": t,
          "exact": exact[i, t],
          "simulated": means[i, :, t].mean(),
          "low": low,
          "high": high,
        }
      )
  return rows


def populations(
  key: jax.Array,
  found: dict[str, np.ndarray],
  *,
  k: int,
  num_seeds: int,
  population: int,
) -> harness.Part:
  """Claims, curves and a table on simulated populations.

  Args:
    key: of all their draws.
    found: on the loops of the example.
    k: samples among which one is kept.
    num_seeds: populations.
    population: members of each.
  """
  paths = [loops.one_loop(found, name) for name in ("pure", "simulated")]
  log_p, exact, log_outside = (
    np.stack([path[name][: ROUNDS + 1] for path in paths])
    for name in ("log_p", "mean", "log_outside")
  )
  jacobians = np.asarray(
    linearisation(log_p[:, :-1], np.array(LAM), math.log(k))
  )
  spread = np.stack(list(map(spreads, np.exp(log_p), jacobians)))
  keys = jax.random.split(key, (len(LAM), num_seeds, ROUNDS + 1))
  means = np.stack(
    [
      np.asarray(simulate(row, lam, k=k, population=population)) @ np.exp(R)
      for row, lam in zip(keys, np.array(LAM), strict=True)
    ]
  )
  # Late in a collapse so few are left outside that counts are not normal.
  normal = population * np.exp(log_outside) >= FEWEST
  return harness.Part(
    claims=_claims(
      means, exact, spread / math.sqrt(population), normal, population
    ),
    curves={"simulated": means, "simulated_exact": exact},
    tables={"populations, with 95 % intervals": _rows(means, exact)},
  )


def plot(curves: dict[str, np.ndarray]):
  """Every population, and their mean error."""
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

# SPDX-License-Identifier: Apache-2.0
"""The exact law of best-of-n against its bounds.

Measures divergences from the base, the mean of the KL estimator and win rates
on named bases and on many random ones; against an enumeration of all draws, the
closed forms without atoms, that over a fair coin, and the leading order of the
gap over fine bases.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages import enumeration
from experiments.stages.best_of_n import bases, bounds
from experiments.stages.best_of_n.bounds import EXACT
from jaxalign.divergences import categorical
from jaxalign.inference import best_of_n as bon

FINE = 1000  # outcomes of the finest base
GAP_N = 16

Arrays = dict[str, np.ndarray]


def _at(log_p, rewards, n, ties: str) -> dict[str, jax.Array]:
  """Best-of-n on one base `[V]`: its law `[V]`, and numbers."""
  log_pi = bon.log_pmf(log_p, rewards, n, ties=ties)
  estimates = bon.kl_estimator(log_p, n)
  return {
    "log_pi": log_pi,
    "kl": categorical.kl(log_pi, log_p),
    "estimate": jnp.sum(jnp.exp(log_pi) * estimates, -1),
    "win": bon.win_rate(log_pi, log_p, rewards),
  }


def _over_bases_and_n(measure, log_p, rewards, n) -> dict[str, jax.Array]:
  over_n = jax.vmap(measure, (None, None, 0))
  return jax.vmap(over_n, (0, 0, None))(log_p, rewards, n)


@jax.jit(static_argnames="ties")
def describe(log_p, rewards, n, *, ties: str) -> dict[str, jax.Array]:
  """Best-of-n on bases `[B, V]`: its law `[B, N, V]`, and numbers `[B, N]`."""

  def at(log_p, rewards, n):
    return _at(log_p, rewards, n, ties)

  return _over_bases_and_n(at, log_p, rewards, n)


@jax.jit(static_argnames="ties")
def search(log_p, rewards, n, *, ties: str) -> dict[str, jax.Array]:
  """What always holds, on bases `[B, V]`: `[B, N]`, divergences `[B, N, D]`."""
  others = "index" if ties == "uniform" else "uniform"

  def at(log_p, rewards, n):
    found = _at(log_p, rewards, n, ties)
    log_pi = found.pop("log_pi")
    values = [measure(log_pi, log_p) for measure in bounds.DIVERGENCES.values()]
    return found | {
      "divergences": jnp.stack(values),
      f"kl_{ties}": found["kl"],
      f"kl_{others}": bon.kl_exact(log_p, rewards, n, ties=others),
      "gap": bon.kl_gap(log_p, rewards, n, ties=ties),
    }

  return _over_bases_and_n(at, log_p, rewards, n)


def named_bases(key, vocab: int) -> tuple[list[str], np.ndarray, np.ndarray]:
  """Names, log-probabilities and rewards, padded with outcomes of no mass."""
  log_p, rewards = bases.random_bases(key, vocab)
  named = {"fair coin": (np.log([0.5, 0.5]), np.arange(2.0))}
  named |= {
    f"uniform, {v}": (np.full(v, -np.log(v)), np.arange(float(v)))
    for v in (10, 100, FINE)
  }
  named["tied example"] = (np.log(bases.TIED_P), np.array(bases.TIED_R))
  named["random"] = (log_p[0], rewards[0])
  named["random, tied"] = (log_p[1], rewards[1])
  size = max(FINE, vocab)

  def stacked(arrays, fill):
    return np.stack(
      [np.pad(x, (0, size - x.size), constant_values=fill) for x in arrays]
    )

  log_p, rewards = zip(*named.values(), strict=True)
  return list(named), stacked(log_p, -np.inf), stacked(rewards, 0.0)


def _search_many(
  key: jax.Array,
  n: np.ndarray,
  *,
  vocab: int,
  ties: str,
  count: int,
  progress: bool,
) -> Arrays:
  """What `search` finds on so many random bases."""
  batches = jax.random.split(key, -(-count // bases.BATCH))
  found = [
    search(*bases.random_bases(batch_key, vocab), n, ties=ties)
    for batch_key in harness.track(batches, "random bases", progress=progress)
  ]
  return {
    k: np.concatenate([np.asarray(x[k]) for x in found])[:count]
    for k in found[0]
  }


def _coin_kl(n: np.ndarray) -> np.ndarray:
  """The KL over a fair coin, in closed form."""
  # The worse side is kept where it shows n times in a row.
  miss = -n * np.log(2)
  hit = np.log1p(-np.exp(miss))
  return np.log(2) + np.exp(miss) * miss + np.exp(hit) * hit


def _claims_of_kl(
  n: np.ndarray, names: list[str], named: Arrays, random: Arrays, ties: str
) -> list[harness.Claim]:
  """Claims on the law and on the KL, which is what the paper corrects."""
  bound = np.asarray(bounds.continuous(n)[0])[:, 0]
  law = named["log_pi"][names.index("tied example"), n == bases.DRAWN_N]
  law = law[0, : len(bases.TIED_P)]
  by_enumeration = enumeration.best_of_n(
    bases.TIED_P, bases.tied_scores(ties), bases.DRAWN_N
  )
  fine = named["kl"][names.index(f"uniform, {FINE}")]
  # To second order in a cell's width the gap is E[(d log density/du)^2] / 24.
  gap = GAP_N * (GAP_N - 1) ** 2 / (24 * (GAP_N - 2))
  return [
    harness.all_agree(
      "law_by_enumeration",
      "the law of best-of-4 with ties is that by enumeration of all draws:"
      " largest difference",
      [np.exp(law) - by_enumeration],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "kl_below_bound",
      "KL of best-of-n at most log n - (n-1)/n: largest excess over bases and"
      " n",
      [named["kl"] - bound, random["kl"] - bound],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "kl_gap_formula",
      "the bound exceeds the KL by the formula for the gap: largest difference",
      [bound - random["kl"] - random["gap"]],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "coin_saturates",
      "KL over a fair coin is log 2 less the entropy of n misses: largest"
      " difference",
      [named["kl"][names.index("fair coin")] - _coin_kl(n)],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="gap_of_fine_bases",
      statement=f"bound less KL times V^2, V = {FINE} ordered outcomes,"
      f" n = {GAP_N}",
      theory=gap,
      measured=FINE**2 * (bound - fine)[n == GAP_N].item(),
      tolerance=gap * GAP_N / FINE,  # the next order is n/V smaller
    ),
  ]


def _claims_of_bounds(
  n: np.ndarray, named: Arrays, random: Arrays
) -> list[harness.Claim]:
  """Claims on everything else that is bounded."""
  limits, highest_win = map(np.asarray, bounds.continuous(n))
  return [
    harness.none_exceeds(
      "uniform_ties_below_index",
      "KL with ties broken uniformly at most that in a total order: largest"
      " excess over random bases",
      [random["kl_uniform"] - random["kl_index"]],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "estimator_between",
      "the estimator's mean lies between KL and bound: largest distance outside"
      " over random bases",
      [random["kl"] - random["estimate"], random["estimate"] - limits[:, 0]],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "win_rate_below_bound",
      "win rate against the base at most n/(n+1): largest excess over bases",
      [named["win"] - highest_win, random["win"] - highest_win],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "divergences_below_continuous",
      "five divergences at most those without atoms: largest excess over"
      " 1 + bound, over random bases",
      [(random["divergences"] - limits) / (1 + limits)],
      tolerance=EXACT,
    ),
  ]


def exact_law(
  key: jax.Array,
  *,
  n: Sequence[int],
  vocab: int,
  ties: str,
  num_bases: int,
  progress: bool = True,
) -> harness.Part:
  """The law of best-of-n on named and random bases, and what bounds it.

  Args:
    key: of the random bases.
    n: numbers of draws of which the best is kept.
    vocab: outcomes of the random bases.
    ties: as in `best_of_n.log_pmf`.
    num_bases: how many random ones.
    progress: whether to show it on a terminal.
  """
  base_key, search_key = jax.random.split(key)
  n, asked = bounds.counts(n)
  limits, highest_win = map(np.asarray, bounds.continuous(n))
  bound = limits[:, 0]
  names, *arrays = named_bases(base_key, vocab)
  named = describe(*arrays, n, ties=ties)
  named = {k: np.asarray(x) for k, x in named.items()}
  random = _search_many(
    search_key, n, vocab=vocab, ties=ties, count=num_bases, progress=progress
  )
  rows = []
  for i, name in enumerate(names):
    rows += harness.rows(
      base=name,
      n=n[asked].astype(int),
      KL=named["kl"][i, asked],
      estimator=named["estimate"][i, asked],
      bound=bound[asked],
      win_rate=named["win"][i, asked],
      highest=highest_win[asked],
    )
  curves = {
    "n": n,
    "bound": bound,
    "base_names": np.array(names),
    "base_kls": named["kl"],
    "base_estimates": named["estimate"],
    "random_kls": random["kl"],
    "random_estimates": random["estimate"],
  }
  claims = [
    *_claims_of_kl(n, names, named, random, ties),
    *_claims_of_bounds(n, named, random),
  ]
  return harness.Part(claims, curves, {"KL and win rate of best-of-n": rows})


def plot(curves: Arrays):
  """KL by base, and its range over random bases, under the bound."""
  figure, (named, random) = plotting.figure(1, 2)
  n = curves["n"]
  for i, name in enumerate(curves["base_names"]):
    (line,) = named.plot(n, curves["base_kls"][i], "o-", ms=3, label=name)
    named.plot(
      n, curves["base_estimates"][i], "x", color=line.get_color(), ms=5
    )
  for name, label in (("kls", "KL"), ("estimates", "estimator")):
    low, middle, high = np.quantile(
      curves[f"random_{name}"], [0.05, 0.5, 0.95], 0
    )
    (line,) = random.plot(n, middle, "o-", ms=3, label=f"{label}, median")
    random.fill_between(n, low, high, color=line.get_color(), alpha=0.2)
  named.set_title("KL by base (crosses: estimator's mean)")
  random.set_title("random bases, 5 to 95 %")
  for axes in (named, random):
    axes.plot(n, curves["bound"], "k--", label="log n - (n-1)/n")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="n", ylabel="KL, nats")
    axes.legend()
  return figure

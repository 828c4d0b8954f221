# SPDX-License-Identifier: Apache-2.0
"""Estimators of the bound: means by enumeration, deviations, even times.

Eight tokens of two values, one sequence. A draw is a time and a set of masks;
counts of masks make finitely many of them, and for independent masks a
quadrature over t is exact, since 1/t times the probability of a set that is not
empty is a polynomial. "bernoulli" and "coupled_t" have no variance: the draws
with t above e have one that grows with log(1/e) for ever, at a rate that single
masks set. Their deviations below are those of a sample.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.elbo_identities import worlds
from jaxalign.diffusion import mask_draws
from jaxalign.diffusion import masked as estimates
from jaxalign.exact import masked

VOCAB, LENGTH = 2, 8
X = np.array([1, 0, 0, 1, 1, 0, 1, 0])
COUNTED = ("fixed_count", "coupled")
SETS = masked.visible_sets(LENGTH)  # here: of masks
SIZE = SETS.sum(-1)
WAYS = np.array([math.comb(LENGTH, k) for k in SIZE])


@jax.jit
def scores(tables) -> jax.Array:
  """`log p(x_l | x_S)` of the sequence, `[S, 2**L, L]`."""

  def one(table):
    denoiser = masked.table_denoiser(table)
    return masked.subset_log_probs(denoiser, jnp.asarray(X), mask_id=VOCAB)

  return jax.vmap(one)(tables)


@jax.jit
def elbos(log_probs: jax.Array) -> jax.Array:
  """The bound of each table `[S]`."""
  return masked.any_order_elbo(log_probs)


@functools.partial(jax.jit, static_argnames="estimator")
def values(table, times, noise, *, estimator: str) -> jax.Array:
  """The estimate of each draw `[m]`, with times `[m]` and noise `[m, L]`."""
  where = jnp.ones(LENGTH, bool)
  draws = mask_draws.masks_from_noise(times, noise, where, estimator=estimator)
  log_probs = estimates.masked_log_probs(
    masked.table_denoiser(table), jnp.asarray(X), draws, mask_id=VOCAB
  )
  return estimates.elbo_from_log_probs(log_probs, draws).draws


def value_of_sets(table, times, *, estimator: str) -> np.ndarray:
  """The estimate of every set `[N, 2**L]` at times `[N]` or `[1, 2**L]`."""
  times = np.broadcast_to(np.atleast_2d(times.T).T, (len(times), len(SETS)))
  # Masked at any time, or at none that occurs.
  noise = np.tile(np.where(SETS, 0.0, 1 - 1e-12), (len(times), 1))
  found = values(table, times.ravel(), noise, estimator=estimator)
  return np.asarray(found).reshape(times.shape)


def all_draws(table, estimator: str) -> tuple[np.ndarray, np.ndarray]:
  """Every draw's estimate and probability."""
  if estimator in COUNTED:
    kinds = LENGTH + (estimator == "coupled")
    count = SIZE + (estimator == "coupled")  # the times in (count - 1, count]
    times = np.maximum(count - 0.5, 0.5)[None] / kinds
    chance = np.where(count > 0, 1 / (kinds * WAYS), 0)
    return value_of_sets(table, times, estimator=estimator)[0], chance
  nodes, weights = np.polynomial.legendre.leggauss(LENGTH)
  t = (nodes + 1) / 2
  chance = t[:, None] ** SIZE * (1 - t[:, None]) ** (LENGTH - SIZE)
  found = value_of_sets(table, t, estimator=estimator)
  return found.ravel(), (weights[:, None] / 2 * chance).ravel()


def second_moment(table, estimator: str, smallest: float) -> float:
  """Of draws with t between `smallest` and a half, by quadrature in log t."""
  nodes, weights = np.polynomial.legendre.leggauss(200)
  span = math.log(0.5 / smallest)
  t = 0.5 * np.exp(-span * (nodes + 1) / 2)
  chance = t[:, None] ** SIZE * (1 - t[:, None]) ** (LENGTH - SIZE)
  moment = np.sum(
    chance * value_of_sets(table, t, estimator=estimator) ** 2, -1
  )
  return weights @ (t * moment) / 2 * span


@functools.partial(jax.jit, static_argnames="num")
def _times_and_noise(key, *, num: int) -> tuple[jax.Array, jax.Array]:
  time_key, noise_key = jax.random.split(key)
  times = mask_draws.sample_times(time_key, num)
  return times, jax.random.uniform(noise_key, (num, LENGTH))


def sampled(table, key, *, estimator: str, num: int) -> np.ndarray:
  """Estimates `[num]` of independent draws."""
  times, noise = _times_and_noise(key, num=num)
  return np.asarray(values(table, times, noise, estimator=estimator))


def _mean_claims(
  tables, log_probs, bound
) -> tuple[list[harness.Claim], list[dict]]:
  """Every estimator's expectation, and that of the released draw."""
  claims = []
  for name in mask_draws.ESTIMATORS:
    means = [
      np.dot(*all_draws(table, name)) - b
      for table, b in zip(tables, bound, strict=True)
    ]
    claims.append(
      harness.all_agree(
        f"mean_{name}",
        f"{name}: expectation over all draws less the bound, largest over"
        " random tables",
        means,
        # 256 terms of order 100, which probabilities weigh.
        tolerance=1e-11,
      )
    )
  one_step = log_probs[:, 0].sum(-1)
  released = []
  for table in tables:
    # floor(u L) masks: none as often as any other count, and never all.
    found, chance = all_draws(table, "fixed_count")
    released.append(np.sum(np.where(SIZE < LENGTH, chance * found, 0)))
  claims.append(
    harness.all_agree(
      "released_draw",
      "masks counted from 0 to L - 1: what the expectation misses less 1/L of"
      " the one-step log-probabilities, largest over random tables",
      bound - released - one_step / LENGTH,
      tolerance=1e-11,
    )
  )
  rows = harness.rows(
    bound=bound, released_draw=released, one_step_by_length=one_step / LENGTH
  )
  return claims, rows


def _variance_claims(table, log_probs) -> list[harness.Claim]:
  """How the second moment without a limit grows."""
  # Rows of log_probs are visible sets: here all but one position.
  singles = log_probs[SIZE == LENGTH - 1].sum(-1)
  rate = np.sum(singles**2)
  claims = []
  # coupled_t has a weight of 1/(2 t); its other half is bounded here.
  for name, ends in (("bernoulli", 1.0), ("coupled_t", 0.25)):
    near, far = (second_moment(table, name, e) for e in (1e-6, 1e-9))
    claims.append(
      harness.Claim(
        name=f"no_variance_{name}",
        statement=f"{name}: second moment of the draws with t below a half, by"
        " log 1/t from 1e6 to 1e9, over the sum of squared leave-one-out"
        " log-probabilities",
        theory=ends,
        measured=(far - near) / math.log(1e3) / rate,
        # The moments of order 1000 cancel; what is left is of order t = 1e-6.
        tolerance=1e-5,
      )
    )
  return claims


def _sample_claims(found, exact_std, bound) -> list[harness.Claim]:
  claims = []
  for name in COUNTED:
    draws = found[name]
    claims.append(
      harness.Claim(
        name=f"sampled_{name}",
        statement=f"{name}: mean of independent draws over the bound",
        theory=1.0,
        measured=draws.mean() / bound,
        tolerance=harness.STANDARD_ERRORS
        * exact_std[name]
        / abs(bound)
        / math.sqrt(draws.size),
        interval=tuple(
          sorted(x / bound for x in harness.confidence_interval(draws))
        ),
      )
    )
  return claims


def estimators(*, seeds: range, key: jax.Array, num_draws: int) -> harness.Part:
  """Claims on means and deviations of the four estimators.

  Args:
    seeds: of the tables; deviations are of the first.
    key: of the samples.
    num_draws: independent draws of each estimator.
  """
  tables = worlds.tables(seeds, vocab_size=VOCAB, length=LENGTH)
  log_probs = np.asarray(scores(tables))
  bounds = np.asarray(elbos(log_probs))
  bound = float(bounds[0])
  exact_std, found = {}, {}
  for i, name in enumerate(mask_draws.ESTIMATORS):
    exact_std[name] = math.inf
    if name in COUNTED:
      value, chance = all_draws(tables[0], name)
      exact_std[name] = math.sqrt(chance @ (value - bound) ** 2)
    found[name] = sampled(
      tables[0], jax.random.fold_in(key, i), estimator=name, num=num_draws
    )
  claims, released = _mean_claims(tables, log_probs, bounds)
  claims += _variance_claims(tables[0], log_probs[0])
  claims += _sample_claims(found, exact_std, bound)
  shown = np.unique(np.geomspace(16, num_draws, 60).astype(int))
  running = [[found[name][:n].std() for n in shown] for name in found]
  curves = {
    "estimators/names": np.array(list(found)),
    "estimators/draws": shown,
    "estimators/std": np.array(running),
    "estimators/exact": np.array([exact_std[name] for name in found]),
  }
  rows = harness.rows(
    estimator=list(found),
    forwards=[1 + name.startswith("coupled") for name in found],
    mean=[x.mean() for x in found.values()],
    bound=bound,
    exact_std=[exact_std[name] for name in found],
    sample_std=[x.std(ddof=1) for x in found.values()],
  )
  tables = {
    f"estimators, {LENGTH} tokens, {num_draws} draws": rows,
    "expectation with masks counted from 0 to L - 1": released,
  }
  return harness.Part(claims, curves, tables)


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """Deviations of the first n draws, and those that exist."""
  for i, name in enumerate(curves["estimators/names"]):
    style = plotting.line_style(i)
    axes.plot(
      curves["estimators/draws"],
      curves["estimators/std"][i],
      label=name,
      **style,
    )
    if np.isfinite(curves["estimators/exact"][i]):
      axes.axhline(
        curves["estimators/exact"][i], color=style["color"], ls=":", lw=1
      )
  plotting.log_scale(axes, "x")
  axes.set_ylim(0, None)
  axes.set(
    xlabel="draws",
    ylabel="their standard deviation, nats",
    title="Estimators (dotted: exact, where finite)",
  )
  axes.legend()

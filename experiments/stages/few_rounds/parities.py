# SPDX-License-Identifier: Apache-2.0
"""Rounds against samples on linear functions over F2, the hard instances.

64 distributions of unknown dimension: one round must treat each as if it were
the largest, more rounds leave those alone that are done.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.learning import linear_f2, multi_distribution

EPS = 0.1
LEVELS = {
  "64, 8 x 8, 55 x 1": (64, *[8] * 8, *[1] * 55),
  "64, 63 x 1": (64, *[1] * 63),
}
NUM = 64  # distributions
SIZE = max(map(sum, LEVELS.values()))  # coordinates
NEEDED = 0.8  # share of trials that must succeed
ROUNDS, BOOSTED = (1, 2, 3, 4, 6), (3, 6)
FEWEST = (1, 2, 6)  # rounds of which something is claimed
# The largest number of samples of a round that is tried, by instance.
MOST = {
  1: (6000, 6000),
  2: (1400, 800),
  3: (900, 600),
  4: (400, 400),
  6: (170, 150),
}
MOST_BOOSTED = {3: 3000, 6: 1800}
RATIO, CANDIDATES = 0.95, 15
CHUNK = 384  # samples that are solved at a time

# In every preset: what runs for longer than it compiles.
_optimised = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 2}
)


def instances(
  key: jax.Array, dims: tuple[int, ...], num: int
) -> linear_f2.F2Instance:
  """Hard instances; coordinates that the largest has more are of nobody."""

  @jax.jit
  @jax.vmap
  def make(key):
    made = linear_f2.f2_hard_instance(key, dims)
    more = SIZE - sum(dims)
    return jax.tree.map(
      lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)]), made
    )

  return make(jax.random.split(key, num))


def _draw(keys, instance, weights):
  """A chunk of samples of the mixture of the distributions by weights."""
  source_key, sample_key = keys
  total = jnp.cumsum(weights)
  point = total[-1] * jax.random.uniform(source_key, (CHUNK, 1))
  sources = jnp.sum(total <= point, -1)
  return linear_f2.f2_samples(sample_key, instance, sources)


def nothing(num: int) -> linear_f2.F2Solution:
  """What is known before the first sample, `num` times."""
  empty = np.zeros((num, SIZE), bool)
  return linear_f2.F2Solution(
    solution=empty,
    consistent=np.ones(num, bool),
    rank=np.zeros(num, np.int32),
    features=np.zeros((num, SIZE, SIZE), bool),
    labels=empty,
  )


@_optimised
@functools.partial(jax.vmap, in_axes=(0, None, 0, 0, 0, 0))
def learn(
  key: jax.Array,
  round_number: int,
  instance: linear_f2.F2Instance,
  weights: jax.Array,
  size: jax.Array,
  known: linear_f2.F2Solution,
) -> tuple[linear_f2.F2Solution, jax.Array]:
  """One round of one trial: samples of a mixture, pooled with what is known.

  Args:
    key: typed random key, of the trial.
    round_number: each draws anew.
    instance: what is to be learned.
    weights: `[k]`, of the mixture, need not sum to 1.
    size: number of samples.
    known: of the rounds before.

  Returns:
    What is known now, and the error on each distribution, `[k]`.
  """
  # A chunk's keys differ from those of every other chunk of the trial.
  first = round_number * 1000

  def step(t, found):
    *draw_keys, solve_key = jax.random.split(
      jax.random.fold_in(key, first + t), 3
    )
    x, y = _draw(draw_keys, instance, weights)
    return linear_f2.f2_solve(
      solve_key,
      jnp.concatenate([found.features, x]),
      jnp.concatenate([found.labels, y]),
      jnp.arange(SIZE + CHUNK) < SIZE + size - t * CHUNK,
    )

  found = jax.lax.fori_loop(0, -(-size // CHUNK), step, known)
  return found, linear_f2.f2_errors(instance, found.solution)


def carry_over(keys, world, size: np.ndarray, rounds: int):
  """Pools all samples and goes on with the distributions that still fail.

  Args:
    keys: `[B]`, of trials.
    world: what each is to learn.
    size: `[B]`, samples of a round.
    rounds: of sampling, at most.

  Returns:
    Whether no distribution fails in the end, and how many samples were seen,
    `[B]`.
  """
  known, seen = nothing(len(size)), np.zeros(len(size))
  failing = np.ones((len(size), NUM), bool)
  for t in range(rounds):
    active = failing.any(1)
    # Who is done draws nothing more, and keeps its solution.
    now = np.where(active, size, 0)
    known, errors = learn(keys, t, world, failing * 1.0, now, known)
    failing = active[:, None] & (np.asarray(errors) > EPS)
    seen += now
  return ~failing.any(1), seen


_update = jax.jit(lambda *args: multi_distribution.boost_update(*args))
_vote_errors = _optimised(jax.vmap(lambda *x: linear_f2.f2_majority_errors(*x)))


def boost(keys, world, size: np.ndarray, rounds: int):
  """Boosting over distributions, each round from its own samples alone.

  Errors of single hypotheses are 0 or 1/2, which no evaluation mistakes: they
  are computed, not sampled.

  Args:
    keys: `[B]`, of trials.
    world: what each is to learn.
    size: `[B]`, samples of a round.
    rounds: of sampling.

  Returns:
    Whether the vote is good on every distribution, and the samples seen, `[B]`.
  """
  params = multi_distribution.boost_params(NUM, rounds, EPS)
  weights = np.full((len(size), NUM), 1 / NUM)
  hypotheses = []
  for t in range(rounds):
    fresh = nothing(len(size))
    found, errors = learn(keys, t, world, weights, size, fresh)
    hypotheses.append(np.asarray(found.solution))
    bad = np.asarray(errors) > params.tolerance / 2
    weights = _update(weights, bad, params.alpha)
  errors = _vote_errors(world, np.stack(hypotheses, 1))
  return (np.asarray(errors) <= EPS).all(1), rounds * size


def search(run, most: np.ndarray, trials: int) -> np.ndarray:
  """The least samples of a round with which enough trials succeed.

  Bisection over sizes 5 % apart, for all searches at once, each on the same
  draws at every size.

  Args:
    run: from the size of every trial `[searches * trials]` to success and
      samples seen.
    most: `[searches]`, the largest sizes.
    trials: of each search.

  Returns:
    `[3, searches]`: sizes, mean samples seen and shares of success; NaN where
    no size tried is enough.
  """
  scale = RATIO ** np.arange(CANDIDATES)[::-1]
  low, high = np.full(len(most), -1), np.full(len(most), CANDIDATES)
  found = np.full((3, len(most)), np.nan)
  while np.any(high - low > 1):
    middle = (low + high) // 2
    size = np.ceil(most * scale[middle]).astype(int)
    success, seen = run(np.repeat(size, trials))
    share = np.reshape(success, (-1, trials)).mean(1)
    enough = share >= NEEDED
    low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    here = size, np.reshape(seen, (-1, trials)).mean(1), share
    found = np.where(enough, here, found)
  return found


def _searches(key, rounds, *, num_seeds, trials, progress) -> dict:
  """Sizes, totals and shares of success, by learner, rounds and level."""
  num = num_seeds * trials
  instance_key, run_key = jax.random.split(key)
  worlds = [
    instances(jax.random.fold_in(instance_key, i), dims, num)
    for i, dims in enumerate(LEVELS.values())
  ]
  runs = [
    (carry_over, r, level, MOST[r][level])
    for r in rounds
    for level in range(len(LEVELS))
  ]
  runs += [(boost, r, 0, MOST_BOOSTED[r]) for r in BOOSTED]
  found = {}
  for i, (learner, r, level, most) in enumerate(
    harness.track(runs, "rounds", progress=progress)
  ):
    keys = jax.random.split(jax.random.fold_in(run_key, i), num)
    run = functools.partial(learner, keys, worlds[level], rounds=r)
    found[learner, r, level] = search(run, np.full(num_seeds, most), trials)
  return found


def _claims(rounds, total, per_round) -> list[harness.Claim]:
  """Claims on samples in all of the first instance, and of a round."""
  total = dict(zip(rounds, total[:, 0], strict=True))
  return [
    harness.bounded_mean(
      "two_rounds",
      "samples in all that one round needs over those of two, all pooled, with"
      " dimensions of three sizes",
      total[1] / total[2],
      2.0,
      ">=",
    ),
    harness.bounded_mean(
      "six_rounds",
      "samples in all that six rounds need over those of one, with dimensions"
      " of three sizes",
      total[6] / total[1],
      0.25,
      "<=",
    ),
    harness.bounded_mean(
      "boosting_per_round",
      "samples of a round that boosting needs over those with fewer rounds (1,"
      " 3, 6): largest",
      (per_round[1:] / per_round[:-1]).max(0),
      1.0,
      "<=",
    ),
  ]


def _table(rounds, size, total, share) -> list[dict]:
  return harness.rows(
    rounds=np.array(rounds),
    samples_of_a_round=size.mean(-1),
    samples_in_all=total.mean(-1),
    success=share.mean(-1),
  )


def parities(
  key: jax.Array,
  rounds: tuple[int, ...],
  *,
  num_seeds: int,
  trials: int,
  progress: bool,
) -> harness.Part:
  """Claims on samples by rounds.

  Args:
    key: of instances and samples.
    rounds: of the pooling learner, with 1, 2 and 6 among them.
    num_seeds: independent searches for each number.
    trials: of every size in a search.
    progress: whether to show progress.
  """
  found = _searches(
    key, rounds, num_seeds=num_seeds, trials=trials, progress=progress
  )
  # [size, total or share; rounds; levels; searches].
  levels = range(len(LEVELS))
  pooled = np.moveaxis(
    [[found[carry_over, r, i] for i in levels] for r in rounds], 2, 0
  )
  # One round is one hypothesis, whoever learns it.
  first = found[carry_over, 1, 0]
  boosted = np.moveaxis([first, *(found[boost, r, 0] for r in BOOSTED)], 1, 0)
  boost_rounds = (1, *BOOSTED)
  tables = {
    f"pooling learner, dimensions {name}": _table(rounds, *pooled[:, :, i])
    for i, name in enumerate(LEVELS)
  }
  tables[f"boosting, dimensions {next(iter(LEVELS))}"] = _table(
    boost_rounds, *boosted
  )
  curves = {
    "parities/rounds": np.array(rounds),
    "parities/total": pooled[1],
    "parities/boosted": np.array(boost_rounds),
    "parities/boosting": boosted[0],
  }
  claims = _claims(rounds, pooled[1], boosted[0])
  return harness.Part(claims, curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Samples by rounds, of both learners."""
  for i, name in enumerate(LEVELS):
    samples = curves["parities/total"][:, i].T
    label = f"pooling, in all: {name}"
    plotting.band(
      axes, curves["parities/rounds"], samples, label, marker="o", markersize=4
    )
  plotting.band(
    axes,
    curves["parities/boosted"],
    curves["parities/boosting"].T,
    f"boosting, each round: {next(iter(LEVELS))}",
    color="k",
    linestyle="--",
    marker="s",
    markersize=4,
  )
  plotting.log_scale(axes, "y")
  axes.set(
    xlabel="rounds of sampling",
    ylabel="samples",
    yticks=(500, 1000, 2000, 4000),
    title="64 linear functions over F2, 80 % success",
  )
  axes.legend()

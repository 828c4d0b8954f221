# SPDX-License-Identifier: Apache-2.0
"""The uniform law on strings of even parity: two rounds of revision, or never.

A plain sampler writes each bit once. With a schedule fixed in advance, no
scratch and predictors that see at most n - 2 earlier bits it cannot sample this
law; with revision, with scratch, or with one predictor that sees all others, it
takes two rounds.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.parallel_sampling import laws
from jaxalign.diffusion import revision
from jaxalign.exact import circuits, parallel, sequences

SIZES = (3, 5, 8)
N = 4  # bits, where every schedule is visited
LOG2 = math.log(2)


def strings(n: int) -> np.ndarray:
  """All strings of n bits, `[2**n, n]`."""
  return np.asarray(sequences.enumerate_sequences(2, n))


def even_law(n: int) -> np.ndarray:
  """The law to be sampled, `[2**n]`."""
  return np.where(strings(n).sum(-1) % 2 == 0, 0.5 ** (n - 1), 0)


# --- with revision, with scratch ---------------------------------------------


def revision_law(n: int) -> np.ndarray:
  """Of `revision.parity_sample` by enumeration of both rounds, `[2**n]`."""
  return np.asarray(_two_rounds(jnp.asarray(strings(n))))


@jax.jit
def _two_rounds(x: jax.Array) -> jax.Array:
  """The law of revision over strings x `[N, n]`, which are all."""
  blank = jnp.full_like(x, 2)
  pairs = jnp.broadcast_to(x[:, None], (len(x), *x.shape))
  first = revision.revision_log_prob(
    revision.parity_denoiser(blank), blank, x, jnp.ones(x.shape, bool)
  )
  second = revision.revision_log_prob(
    revision.parity_denoiser(pairs),
    pairs,
    pairs.swapaxes(0, 1),
    jnp.ones(pairs.shape, bool),
  )
  return jnp.exp(first) @ jnp.exp(second)


def ring(n: int) -> np.ndarray:
  """A layer `[n, 2]` whose gate i is the XOR of bits i and i - 1."""
  return np.stack([np.arange(n), np.arange(n) - 1], -1) % n


def ring_run(n: int) -> circuits.ProgramRun:
  """Plain sampling of the layer, n bits of scratch, on all of them."""
  program = circuits.unmask_layers(n, (ring(n),))
  return circuits.run_program(program, strings(n))


def scratch_law(n: int) -> np.ndarray:
  """Of its outputs, `[2**n]`."""
  place = 2 ** np.arange(n)[::-1]
  return np.bincount(ring_run(n).outputs @ place, minlength=2**n) / 2**n


# --- without -----------------------------------------------------------------


class Schedule(NamedTuple):
  """One plain sampler: who sees whom, and with which result.

  Attributes:
    num_rounds: of the schedule.
    num_last: bits revealed in its last round.
    fan_in: the most bits that a predictor sees.
    kl: of the even law from the best such sampler, nats.
    tv: between the two.
  """

  num_rounds: int
  num_last: int
  fan_in: int
  kl: float
  tv: float


def _subsets(items) -> Iterator[tuple[int, ...]]:
  for size in range(len(items) + 1):
    yield from itertools.combinations(items, size)


def schedules(n: int) -> list[Schedule]:
  """All ordered partitions of the bits and all choices of what is seen.

  Given what they see, predictors with the law's own conditionals make the KL
  smallest: it is a sum of one cross-entropy for each.
  """
  target = even_law(n)
  with np.errstate(divide="ignore"):
    log_p = np.log(target)
  kinds, choices = [], []
  for rounds in parallel.ordered_partitions(n):
    past = [np.flatnonzero(row) for row in parallel.seen_before(rounds)]
    for choice in itertools.product(*map(_subsets, past)):
      fan_in = max(map(len, choice))
      kinds.append((len(rounds), len(rounds[-1]), fan_in))
      choices.append(choice)
  seen = [[np.isin(range(n), some) for some in choice] for choice in choices]
  log_q = laws.perfect_laws(log_p, np.array(seen), vocab_size=2).T
  results = zip(
    laws.kl(log_p, log_q),
    laws.total_variation(target, np.exp(log_q)),
    strict=True,
  )
  return [Schedule(*a, *b) for a, b in zip(kinds, results, strict=True)]


def last_bit_distances(n: int) -> np.ndarray:
  """TV where the last bit is a function of at most n - 2 others, uniform.

  Of all functions; TV is linear in a random predictor between them, as long as
  all others are uniform.
  """
  x, target, found = strings(n), even_law(n), []
  for seen in _subsets(range(n - 1)):
    if len(seen) == n - 1:
      continue
    row = x[:, seen] @ 2 ** np.arange(len(seen))
    for says in itertools.product((0, 1), repeat=2 ** len(seen)):
      law = 0.5 ** (n - 1) * (np.array(says)[row] == x[:, -1])
      found.append(laws.total_variation(law, target))
  return np.array(found)


def largest_entropy(n: int) -> float:
  """Of a string of one parity, whose last round is of two bits or more.

  The bits of the last round are independent given the past, so that what they
  may be is a product of sets; all of it must have one parity. Over all such
  products; the past has its largest entropy.
  """
  found = []
  for num_last in range(2, n + 1):
    sets = itertools.product(((0,), (1,), (0, 1)), repeat=num_last)
    for ways in (list(itertools.product(*some)) for some in sets):
      if len({sum(way) % 2 for way in ways}) == 1:
        found.append((n - num_last) * LOG2 + math.log(len(ways)))
  return max(found)


def skewed_law(n: int) -> np.ndarray:
  """A plain law closer to the even one, of fan-in n - 2, `[2**n]`.

  After n - 2 fair bits the last two, at once, each lean by the parity of the
  past: to (0, 0) where it is even, as here, with `P(0) = 1/sqrt 2`, and one of
  them the other way where it is odd. (Not the closest there is.)
  """
  x = strings(n)
  likely = np.stack([x[:, :-2].sum(-1) % 2, np.zeros(len(x), int)], -1)
  chance = np.where(x[:, -2:] == likely, 0.5**0.5, 1 - 0.5**0.5)
  return 0.5 ** (n - 2) * chance.prod(-1)


# --- the part ----------------------------------------------------------------


def _claims_of_schedules(found: list[Schedule]) -> list[harness.Claim]:
  limited = [s for s in found if s.fan_in < N - 1]
  full = [s for s in found if s.num_rounds == 2 and s.fan_in == N - 1]
  wide = [s for s in found if s.num_last > 1]
  return [
    harness.all_agree(
      "parity_limited_fan_in",
      "four bits, plain sampling, no scratch, fan-in at most 2, every schedule"
      " fixed in advance: KL from the best sampler is log 2",
      [s.kl - LOG2 for s in limited],
      tolerance=laws.EXACT,
    ),
    harness.all_agree(
      "parity_limited_variation",
      "four bits, the same samplers: total variation from the one that is best"
      " in KL is 1/2",
      [s.tv - 0.5 for s in limited],
      tolerance=laws.EXACT,
    ),
    harness.all_agree(
      "parity_last_round",
      "four bits, plain sampling, no scratch, any fan-in, two bits or more in"
      " the last round: KL from the best sampler is log 2",
      [s.kl - LOG2 for s in wide],
      tolerance=laws.EXACT,
    ),
    harness.all_agree(
      "parity_full_fan_in",
      "four bits, plain sampling, no scratch, two rounds, the last bit sees all"
      " others: total variation is 0",
      [s.tv for s in full],
      tolerance=laws.EXACT,
    ),
    harness.Claim(
      name="parity_entropy",
      statement="four bits: most entropy of one parity where the last round is"
      " of two bits or more; uniform on even strings it is 3 log 2",
      theory=(N - 2) * LOG2,
      measured=largest_entropy(N),
      tolerance=laws.EXACT,
    ),
  ]


def _table(found: list[Schedule]) -> list[dict]:
  """What samples even strings of four bits, in rounds, fan-in and scratch."""
  even = even_law(N)
  best = min((s for s in found if s.fan_in <= N - 2), key=lambda s: s.kl)
  once = min((s for s in found if s.num_rounds == 1), key=lambda s: s.kl)
  full = min((s for s in found if s.num_rounds == 2), key=lambda s: s.kl)
  others = [of(N) for of in (skewed_law, scratch_law, revision_law)]
  tv = [laws.total_variation(law, even) for law in others]
  with np.errstate(divide="ignore"):
    kl = [laws.kl(np.log(even), np.log(law)) for law in others]
  return harness.rows(
    sampler=[
      "plain, conditionals of the law",
      "plain, conditionals of the law",
      "plain, skewed last bits",
      "plain, conditionals of the law",
      "plain with scratch",
      "revision",
    ],
    rounds=["1", "any", "2", "2", "2", "2"],
    fan_in=[0, N - 2, N - 2, N - 1, 2, 2],
    scratch=[0, 0, 0, 0, int(ring_run(N).footprint[0]) - N, 0],
    TV=[once.tv, best.tv, tv[0], full.tv, *tv[1:]],
    KL=[once.kl, best.kl, kl[0], full.kl, *kl[1:]],
  )


def parity() -> harness.Part:
  """Claims on what can and what cannot sample even strings."""
  found = schedules(N)
  skewed = [
    laws.total_variation(skewed_law(n), even_law(n)) for n in (2, *SIZES)
  ]
  claims = [
    harness.all_agree(
      "parity_revision",
      "3, 5 and 8 bits, two rounds of revision, fan-in 2, no scratch: total"
      " variation from the uniform law on even strings is 0",
      [laws.total_variation(revision_law(n), even_law(n)) for n in SIZES],
      tolerance=laws.EXACT,
    ),
    harness.all_agree(
      "parity_scratch",
      "3, 5 and 8 bits, two rounds of plain sampling, fan-in 2, as much scratch"
      " as bits: total variation is 0",
      [laws.total_variation(scratch_law(n), even_law(n)) for n in SIZES],
      tolerance=laws.EXACT,
    ),
    *_claims_of_schedules(found),
    harness.all_agree(
      "parity_last_bit",
      "3 and 4 bits, the last a function of fewer than all others, which are"
      " uniform: total variation is 1/2, for every function",
      [last_bit_distances(n) - 0.5 for n in (3, N)],
      tolerance=laws.EXACT,
    ),
    harness.all_agree(
      "parity_skewed",
      "2, 3, 5 and 8 bits, fan-in n - 2, the last two skewed instead of"
      " uniform: total variation is sqrt 2 - 1, less than 1/2",
      [tv - (math.sqrt(2) - 1) for tv in skewed],
      tolerance=laws.EXACT,
    ),
  ]
  best = np.full((N, N), np.inf)  # by fan-in and number of rounds
  for s in found:
    more = best[s.fan_in :, s.num_rounds - 1]
    best[s.fan_in :, s.num_rounds - 1] = np.minimum(more, s.kl)
  return harness.Part(
    claims,
    {"parity/best_kl": best},
    {"even strings of four bits": _table(found)},
  )


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """The best KL against rounds, by fan-in."""
  for fan_in, kl in enumerate(curves["parity/best_kl"]):
    width = 8 - 2 * fan_in  # so that lines on top of each other are seen
    label = f"plain, fan-in at most {fan_in}"
    axes.plot(range(1, N + 1), kl, "-o", lw=width, ms=width + 2, label=label)
  axes.plot([2], [0], "*k", ms=14, zorder=3, label="revision, fan-in 2")
  axes.set(
    xlabel="rounds",
    xticks=range(1, N + 1),
    ylabel="KL(even strings || sampler), nats",
    title="Even parity of four bits, without scratch",
  )
  axes.set_ylim(-0.05, 0.8)
  axes.legend(loc="center right")

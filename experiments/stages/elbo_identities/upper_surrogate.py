# SPDX-License-Identifier: Apache-2.0
"""The upper surrogate: a bound for a power of at least L, and not below.

Also the estimate in use, the logarithm of a mean over m draws, whose
expectation is a sum over all multisets of draws.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.elbo_identities import any_order, worlds
from jaxalign.diffusion import mask_draws
from jaxalign.diffusion import masked as estimates
from jaxalign.exact import masked, sequences

LENGTH = 3
POWERS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
BELOW = (1.0, 1.5, 2.0)  # of the published powers all are below the length
PUBLISHED = 1.5
DRAWS = (1, 2, 4, 8)


@jax.jit
def excess(log_probs: jax.Array) -> jax.Array:
  """EUBO - log pi `[powers, S, N]`."""
  log_pi = masked.any_order_log_prob(log_probs)
  return jnp.stack(
    [masked.masked_eubo(log_probs, power=b) - log_pi for b in POWERS]
  )


@jax.jit
def _likelihood_and_surrogate(log_probs) -> tuple[jax.Array, jax.Array]:
  return (
    masked.any_order_log_prob(log_probs),
    masked.masked_eubo(log_probs, power=1.0),
  )


def counterexample() -> tuple[float, float]:
  """Likelihood and surrogate of two tokens whose orders disagree, b = 1.

  The first token has probability .9 if it comes first and .1 if second, the
  second .1 and .9.
  """
  p = np.array([[0.9, 0.1], [1.0, 0.9], [0.1, 1.0], [1.0, 1.0]])
  pi, surrogate = map(math.exp, _likelihood_and_surrogate(np.log(p)))
  return pi, surrogate


# --- the estimate in use -----------------------------------------------------


def multisets(draws: int) -> tuple[np.ndarray, np.ndarray]:
  """Visible sets `[N, m]` of m draws with a fixed count, and their chances."""
  visible = masked.visible_sets(LENGTH)[:-1]
  masks = LENGTH - visible.sum(-1)
  each = 1 / (LENGTH * np.array([math.comb(LENGTH, k) for k in masks]))
  found = itertools.combinations_with_replacement(range(len(visible)), draws)
  found = np.array(list(found))
  times = (found[..., None] == np.arange(len(visible))).sum(1)
  factorial = np.cumprod([1.0, *range(1, draws + 1)])
  ways = factorial[draws] / np.prod(factorial[times], 1)
  return found, ways * np.prod(each**times, 1)


@jax.jit
def expected_estimate(log_probs, sets, chance) -> jax.Array:
  """Expectation `[N]` of the estimate over `multisets`."""
  hidden = ~jnp.asarray(masked.visible_sets(LENGTH))[sets][:, :, None]
  lengths = jnp.full(len(sets), LENGTH, jnp.int32)
  found = mask_draws.MaskDraws(hidden, LENGTH / hidden.sum(-1), lengths)

  def one(log_probs):
    estimate = estimates.eubo_from_log_probs(
      log_probs[sets][:, :, None], found, power=PUBLISHED
    )
    return chance @ estimate

  return jax.lax.map(one, log_probs)


@jax.jit
def _limits(log_probs) -> tuple[jax.Array, jax.Array]:
  """Surrogate and bound."""
  return (
    masked.masked_eubo(log_probs, power=PUBLISHED),
    masked.any_order_elbo(log_probs),
  )


def _bias_claims(log_probs) -> tuple[list[harness.Claim], list[dict]]:
  """The bias by the number of draws, for random and for uniform denoisers."""
  sets, places = log_probs.shape[-2:]
  uniform = np.where(masked.visible_sets(LENGTH), 0.0, -math.log(3))
  each = np.concatenate([log_probs.reshape(-1, sets, places), uniform[None]])
  limit, elbo = map(np.asarray, _limits(each))
  found = [
    np.asarray(expected_estimate(each, *multisets(draws))) for draws in DRAWS
  ]
  bias = np.stack(found) - limit
  # The logarithm of one draw: the bound, and that of the weight L/k.
  shift = np.log(LENGTH / np.arange(1, LENGTH + 1)).sum() / PUBLISHED
  claims = [
    harness.all_agree(
      "eubo_one_draw",
      "estimate of the surrogate from one draw, b = 1.5: its expectation less"
      " ELBO + (1/b) sum_k log(L/k), largest",
      [found[DRAWS.index(1)] - elbo - shift],
      tolerance=any_order.EXACT,
    ),
    harness.none_exceeds(
      "eubo_bias",
      "estimate of the surrogate from 8 draws, b = 1.5: its expectation less"
      " its limit, largest over sequences of random tables",
      bias[DRAWS.index(8)],
      tolerance=0.0,
    ),
  ]
  rows = harness.rows(
    draws=DRAWS,
    mean_bias=bias[:, :-1].mean(-1),
    largest_bias=bias[:, :-1].max(-1),
    bias_of_a_uniform_denoiser=bias[:, -1],
  )
  return claims, rows


# --- the part ----------------------------------------------------------------


@jax.jit
def _single_errors(tables: jax.Array) -> jax.Array:
  """EUBO less the log-probability, of one token `[S, V]`."""
  x = sequences.enumerate_sequences(tables.shape[-1], 1)[:, 0]
  surrogate = masked.masked_eubo(worlds.log_probs(tables), power=1.0)
  return surrogate - jax.nn.log_softmax(tables[:, -1, 0])[:, x]


def upper_surrogate(*, seeds: range, num_tables: int) -> harness.Part:
  """Claims on what the surrogate bounds, and on its estimate.

  Args:
    seeds: of the tables of the estimate.
    num_tables: random tables, from the same first seed, for the bound.
  """
  many = range(seeds.start, seeds.start + num_tables)
  log_probs = np.asarray(
    worlds.log_probs(worlds.tables(many, vocab_size=3, length=LENGTH))
  )
  found = np.asarray(excess(log_probs))
  certified = np.array(POWERS) >= LENGTH
  below = [POWERS.index(b) for b in BELOW]
  pi, surrogate = counterexample()
  single = worlds.tables(seeds, vocab_size=3, length=1)
  claims = [
    harness.none_exceeds(
      "eubo_increases",
      "EUBO falls from one power to the next by, largest over powers from 1 to"
      " 4, random tables and sequences",
      -np.diff(found, axis=0),
      tolerance=any_order.EXACT,
    ),
    harness.none_exceeds(
      "eubo_bound",
      "log pi exceeds EUBO by, largest over powers of at least the length 3,"
      " random tables and sequences",
      -found[certified],
      tolerance=any_order.EXACT,
    ),
    harness.none_exceeds(
      "eubo_no_bound",
      "EUBO - log pi, smallest over random tables and sequences: the largest"
      " for b = 1, 1.5, 2 is below 0",
      found[below].min((1, 2)),
      tolerance=0.0,
    ),
    harness.Claim(
      name="eubo_counterexample",
      statement="two tokens whose orders disagree, b = 1: log pi - EUBO",
      theory=math.log(0.41 / 0.25),
      measured=math.log(pi / surrogate),
      tolerance=any_order.EXACT,
    ),
    harness.all_agree(
      "eubo_single",
      "one token, b = 1: EUBO less the log-probability, largest",
      _single_errors(single),
      tolerance=any_order.EXACT,
    ),
  ]
  bias_claims, bias_rows = _bias_claims(
    log_probs[: len(seeds)]  # the first tables are those of the seeds
  )
  rows = harness.rows(
    b=POWERS,
    smallest=found.min((1, 2)),
    smallest_of_first_table=found[:, 0].min(-1),
    mean=found.mean((1, 2)),
    share_below_0=(found < 0).mean((1, 2)),
  )
  curves = {"eubo/powers": np.array(POWERS), "eubo/excess": found}
  tables = {
    "EUBO - log pi by power b, three tokens": rows,
    "bias of the surrogate's estimate by draws, b = 1.5": bias_rows,
  }
  return harness.Part(claims + bias_claims, curves, tables)


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """What lies between the surrogate and the likelihood, by power."""
  powers = curves["eubo/powers"]
  flat = curves["eubo/excess"].reshape(len(powers), -1)
  low, middle, high = np.quantile(flat, (0.05, 0.5, 0.95), -1)
  axes.fill_between(
    powers, low, high, alpha=0.2, lw=0, label="5 to 95 % of sequences"
  )
  axes.plot(powers, middle, "o-", ms=3, label="median")
  axes.plot(powers, flat.min(-1), "v--", ms=4, color="C3", label="smallest")
  axes.axhline(0, color="black", lw=1)
  axes.axvline(LENGTH, color="black", ls=":", lw=1)
  axes.set(
    xlabel="power b (dotted: the length)",
    ylabel="EUBO - log pi, nats",
    title="The upper surrogate is a bound from b = L on",
  )
  axes.legend()

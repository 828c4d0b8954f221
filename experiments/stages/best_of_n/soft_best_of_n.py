# SPDX-License-Identifier: Apache-2.0
"""Soft best-of-n against the tilt that it approaches.

Measures the distance of its law from the tilt, over n and over the length of
sequences selected whole; against the rates of the theory, an enumeration of all
draws, and its limits in n and temperature.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages import enumeration
from experiments.stages.best_of_n import bases
from experiments.stages.best_of_n.bounds import EXACT
from jaxalign.divergences import categorical
from jaxalign.inference import soft_best_of_n as soft

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


class Problem(NamedTuple):
  """A base of which soft best-of-n is wanted."""

  p: np.ndarray  # [V]
  rewards: np.ndarray  # [V]
  n: float
  temperature: float = 1.0


def _sequences(num_tokens: int) -> Problem:
  """Whole sequences of tokens of which one is better."""
  # The law of a sequence depends on its number of better tokens alone.
  k = np.arange(num_tokens + 1)
  p = [
    math.comb(num_tokens, i) * BETTER_P**i * (1 - BETTER_P) ** (num_tokens - i)
    for i in k
  ]
  return Problem(np.array(p), BETTER_R * k, float(TOKEN_N))


def _laws_of(problems: list[Problem]) -> tuple[np.ndarray, ...]:
  """What `soft_laws` returns, of bases padded with outcomes of no mass."""
  size = max(x.p.size for x in problems)
  with np.errstate(divide="ignore"):
    log_p = np.log([np.pad(x.p, (0, size - x.p.size)) for x in problems])
  rewards = np.stack(
    [np.pad(x.rewards, (0, size - x.p.size)) for x in problems]
  )
  n = np.array([x.n for x in problems])
  temperature = np.array([x.temperature for x in problems])
  return tuple(map(np.asarray, soft_laws(log_p, rewards, n, temperature)))


def _difference(law: np.ndarray, expected: np.ndarray) -> np.ndarray:
  """A law `[V]` less one of the first outcomes only."""
  return law - np.pad(expected, (0, law.size - expected.size))


def _enumeration_error(problem: Problem, law: np.ndarray) -> np.ndarray:
  p, rewards, n, temperature = problem
  expected = enumeration.best_of_n(p, rewards, int(n), temperature)
  return _difference(law, expected)


def _rate_claim(name, statement, rate, measured) -> harness.Claim:
  return harness.Claim(
    name=name,
    statement=f"{statement} at n = {SOFT_N[-1]:.0f}",
    theory=rate,
    measured=measured,
    # The next order in 1/n has coefficients of order 1.
    tolerance=4 / SOFT_N[-1] * rate,
  )


def _claims_of_laws(
  small: list[Problem],
  cold: Problem,
  sequences: list[Problem],
  log_laws: np.ndarray,
  log_tilts: np.ndarray,
) -> list[harness.Claim]:
  """Claims on laws `[B, V]` of the small problems, the cold one, sequences."""
  laws, tilts = np.exp(log_laws), np.exp(log_tilts)
  four, many = SOFT_N.index(bases.DRAWN_N), len(SOFT_N)
  cold_at = len(small)
  return [
    harness.all_agree(
      "soft_by_enumeration",
      "the law of soft best-of-n is that by enumeration of all draws, n = 4 and"
      " whole sequences with n = 8: largest difference",
      map(
        _enumeration_error,
        [small[four], *sequences],
        [laws[four], *laws[-len(sequences) :]],
      ),
      tolerance=EXACT,
    ),
    harness.all_agree(
      "soft_limits",
      "soft best-of-n is the base at n = 1, the tilt for n to infinity and"
      " best-of-n for temperature to 0: largest difference",
      [
        _difference(laws[0], small[0].p),
        laws[many] - tilts[many],
        _enumeration_error(cold._replace(temperature=0.0), laws[cold_at]),
      ],
      tolerance=EXACT,
    ),
  ]


def soft_best_of_n() -> harness.Part:
  """Soft best-of-n of the paper's sizes; nothing is random."""
  small = [
    Problem(np.array(SOFT_P), np.array(SOFT_R), n) for n in (*SOFT_N, MANY)
  ]
  example = np.array(bases.TIED_P), np.array(bases.TIED_R)
  cold = Problem(*example, float(bases.DRAWN_N), COLD)
  sequences = [_sequences(num_tokens) for num_tokens in TOKEN_COUNTS]
  # One program for all of them; those of sequences are the last.
  laws, tilts, distances, rates = _laws_of([*small, cold, *sequences])
  count = len(SOFT_N)
  kl_and_tv, (kl_rate, tv_rate) = distances[:count].T, rates[0]
  scaled = np.array(SOFT_N) ** np.array([[2], [1]]) * kl_and_tv
  num_tokens = np.array(TOKEN_COUNTS)
  whole = distances[-len(sequences) :, 0]
  token_by_token = num_tokens * whole[0]
  ratio = whole / token_by_token
  claims = [
    _rate_claim(
      "soft_kl_rate",
      "n^2 KL(tilt||soft best-of-n)",
      kl_rate,
      scaled[0, -1],
    ),
    _rate_claim(
      "soft_tv_rate",
      "n times the total variation of tilt and soft best-of-n",
      tv_rate,
      scaled[1, -1],
    ),
    *_claims_of_laws(small, cold, sequences, laws, tilts),
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
  tables = {
    "soft best-of-n against its tilt": harness.rows(
      n=np.array(SOFT_N, int),
      KL=kl_and_tv[0],
      KL_times_n_squared=scaled[0],
      TV_times_n=scaled[1],
    ),
    "soft best-of-8 over T tokens, KL from the tilt": harness.rows(
      tokens=num_tokens,
      whole_sequences=whole,
      token_by_token=token_by_token,
      ratio=ratio,
    ),
  }
  curves = {
    "soft_n": np.array(SOFT_N),
    "soft_scaled": scaled,
    "soft_rate": rates[0],
    "soft_tokens": np.stack([num_tokens, whole]),
  }
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]):
  """Scaled distances to their limits, and the two ways to select sequences."""
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

# SPDX-License-Identifier: Apache-2.0
"""Best-of-n over many Bernoulli tokens, n growing exponentially with them.

Measures reward, KLs and the decay of a tail, per token; against the optimum at
the same KL per token, which the asymptotics say is reached, and Cramer's rate.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.best_of_n.bounds import EXACT
from jaxalign.inference import asymptotics

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


def _claims_of_limits(
  longest: int, found: np.ndarray, limits: tuple[float, float, float]
) -> list[harness.Claim]:
  """What holds in the limit, on numbers `[4]` of the longest sequence."""
  reward, to_optimum, to_base, _ = found
  optimum, slope, _ = limits
  # The best of n reaches the level whose probability, e^(-m I) over a factor
  # of order sqrt m, is 1/n: to leading order log m / (2 s m) below x*. Double.
  share = np.log(longest) / longest
  return [
    harness.Claim(
      name="reward_per_token",
      statement="reward per token of best-of-n over the longest sequence is"
      " that of the optimum at KL Delta",
      theory=optimum,
      measured=reward,
      tolerance=share / slope,
    ),
    harness.Claim(
      name="kl_to_optimum_per_token",
      statement="KL per token from the optimum vanishes over the longest"
      " sequence",
      theory=0.0,
      measured=to_optimum,
      tolerance=share,
    ),
    harness.Claim(
      name="kl_to_base_per_token",
      statement="KL per token from the base is Delta over the longest sequence",
      theory=DELTA,
      measured=to_base,
      # log n - (n-1)/n lacks 1 nat; steps of the count lose less than another.
      tolerance=2 / longest,
    ),
  ]


def _claims_of_regret(
  found: np.ndarray, limits: tuple[float, float, float]
) -> list[harness.Claim]:
  """What holds at every length, on numbers `[4, M]`."""
  reward, to_optimum, to_base, _ = found
  optimum, slope, _ = limits
  regret = slope * (optimum - reward)
  return [
    harness.none_exceeds(
      "kl_to_optimum_below_regret",
      "KL from the optimum at most s times the reward lost: largest excess over"
      " lengths",
      [to_optimum - regret],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "kl_identity",
      "KL from the base is KL from the optimum, less s times the reward lost,"
      " plus Delta: largest difference",
      [to_base - to_optimum + regret - DELTA],
      # Log-probabilities of counts have m log m units in the last place.
      tolerance=1e-8,
    ),
  ]


def _claims_of_tail(
  longest: int, tail: np.ndarray, rate: float
) -> list[harness.Claim]:
  """What Cramer's theorem says of the decays `[M]`."""
  return [
    harness.Claim(
      name="large_deviation_rate",
      statement="decay per token of the probability of many ones under the"
      " optimum, over the longest sequence",
      theory=rate,
      measured=tail[-1],
      # The factor of order sqrt m, doubled.
      tolerance=np.log(longest) / longest,
    ),
    harness.none_exceeds(
      "chernoff",
      "the probability of many ones decays at least at Cramer's rate: largest"
      " lack over lengths",
      [rate - tail],
      tolerance=EXACT,
    ),
  ]


def tokens(*, lengths: Sequence[int], progress: bool = True) -> harness.Part:
  """Best-of-n over sequences of Bernoulli tokens, at n = e^(DELTA length)."""
  lengths = sorted({int(m) for m in lengths})
  limits = token_limits()
  optimum, _, rate = limits
  found = np.stack(
    [
      np.asarray(over_tokens(optimum, num_tokens=m))
      for m in harness.track(lengths, "tokens", progress=progress)
    ],
    1,
  )
  reward, to_optimum, to_base, tail = found
  claims = [
    *_claims_of_limits(lengths[-1], found[:, -1], limits),
    *_claims_of_regret(found, limits),
    *_claims_of_tail(lengths[-1], tail, rate),
  ]
  rows = harness.rows(
    tokens=[*map(str, lengths), "limit"],
    reward=[*reward, optimum],
    KL_to_optimum=[*to_optimum, 0.0],
    KL_to_base=[*to_base, DELTA],
    decay_of_tail=[*tail, rate],
  )
  curves = {
    "lengths": np.array(lengths),
    "per_token": found,
    "per_token_limits": np.array(limits),
  }
  tables = {"best-of-n over Bernoulli tokens, per token": rows}
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]):
  """Reward per token, and what vanishes with the length."""
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

# SPDX-License-Identifier: Apache-2.0
"""What drawing tokens does to margins, by enumeration of all draws.

A policy whose every token is likelier by one factor than the reference's has a
margin in length alone. And the draw must be one for policy and reference: with
two, the noise is that of log-probabilities instead of that of their ratios.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign import preference

RATIO, LONG, SHORT = 0.1, 50, 10
SIZE, COUNT = 7, 3
RATIO_SCALE, LOGP_SCALE = 0.05, 1.0
EXACT = 1e-12  # sums of 50 terms of order 1 in float64
APART = 10.0  # times


def _margin(logps: preference.PairLogps) -> jax.Array:
  """`[...]`, nats; `beta = 1`."""
  out = preference.dpo_loss(logps, beta=1.0)
  return out.chosen_reward - out.rejected_reward


@jax.jit
def margins(key: jax.Array, policy: jax.Array) -> tuple[jax.Array, jax.Array]:
  """DPO's and SamPO's, `[N]`, of log-probabilities `[N, 2, 50]`."""
  short = jnp.broadcast_to(jnp.arange(LONG) < SHORT, policy[:, 0].shape)
  chosen, rejected = policy[:, 0], policy[:, 1]
  tokens = preference.TokenLogps(
    chosen, rejected, chosen - RATIO, rejected - RATIO, short | True, short
  )
  whole = preference.ld_logps(tokens, ld_alpha=1.0)
  return _margin(whole), _margin(preference.sampo_logratio(key, tokens))


def _standardised(rng: np.random.Generator, scale: float) -> np.ndarray:
  """`[7]` of deviation `scale`, with n - 1."""
  x = rng.standard_normal(SIZE)
  return scale * (x - x.mean()) / x.std(ddof=1)


def deviations(seed: int) -> dict[str, np.ndarray]:
  """Of the sum of three of seven, with one draw and with two, and in theory."""
  rng = np.random.default_rng(seed)
  ref = _standardised(rng, LOGP_SCALE)
  ratio = _standardised(rng, RATIO_SCALE)
  drawn = np.array(list(itertools.combinations(range(SIZE), COUNT)))
  one, policy, base = (x[drawn].sum(-1) for x in (ratio, ref + ratio, ref))
  two = policy[:, None] - base  # every draw of the one with every of the other
  factor = np.sqrt(COUNT * (1 - COUNT / SIZE))
  spread = np.var(ref + ratio, ddof=1) + np.var(ref, ddof=1)
  return {
    "one draw": one.std(),
    "one draw, theory": factor * RATIO_SCALE,
    "two draws": two.std(),
    "two draws, theory": factor * np.sqrt(spread),
  }


def draws(key: jax.Array, seeds: range) -> harness.Part:
  """Claims on the margin of a constant ratio, and on deviations."""
  policy = np.stack(
    [np.random.default_rng(s).standard_normal((2, LONG)) for s in seeds]
  )
  whole, drawn = map(np.asarray, margins(key, jnp.asarray(policy)))
  each = [deviations(seed) for seed in seeds]
  found = {name: np.array([x[name] for x in each]) for name in each[0]}
  claims = [
    harness.all_agree(
      "constant_ratio_dpo",
      "ratio .1 of every token, 50 against 10 of them: DPO's margin less 4",
      [whole - RATIO * (LONG - SHORT)],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "constant_ratio_sampo",
      "ratio .1 of every token, 50 against 10 of them: SamPO's margin",
      [drawn],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "deviation_of_draws",
      "three of seven tokens, all draws: deviation of the log-ratio less its"
      " closed form, with one draw for policy and reference and with two",
      [found[x] - found[f"{x}, theory"] for x in ("one draw", "two draws")],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="two_draws_are_noise",
      statement="three of seven tokens: deviation with two draws over that with"
      " one, smallest over seeds",
      theory=APART,
      measured=np.min(found["two draws"] / found["one draw"]),
      tolerance=0.0,
      relation=">=",
    ),
  ]
  table = [
    {name: float(found[name].mean()) for name in ("one draw", "two draws")}
  ]
  return harness.Part(
    claims,
    {"two_draws": found["two draws"]},
    {"deviation of the log-ratio, mean over seeds": table},
  )

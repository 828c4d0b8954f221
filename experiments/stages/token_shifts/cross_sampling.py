# SPDX-License-Identifier: Apache-2.0
"""The fine-tuned policy's tokens in the base's sequences, and the reverse.

Exactly, from tables: the divergence by position, and the reward of
cross-sampling by its threshold, against as many tokens replaced at random.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.token_shifts import worlds
from jaxalign import divergences
from jaxalign.rl import cross_sampling

EPS = 0.1
EXACT = 1e-12  # sums of 729 probabilities in float64
# From all tokens to none, with the threshold of the claims among them.
THRESHOLDS = (-1.0, 1e-4, 1e-3, 0.01, 0.02, 0.05, EPS, 0.2, 0.3, 0.4, 0.5, 0.6)
THRESHOLDS += (math.log(2), 1.0)


def _swap(primary: jax.Array, intervention: jax.Array, eps: jax.Array) -> dict:
  """Reward and share of replaced tokens, and as many replaced at random."""
  found = cross_sampling.cross_sample_log_probs(primary, intervention, eps)
  share = worlds.at_visits(found.log_probs, found.replaced)
  one, other = (jax.nn.log_softmax(x) for x in (primary, intervention))
  mean = jnp.minimum(jnp.mean(share), 1)  # which rounding may exceed
  at_random = jnp.logaddexp(one + jnp.log1p(-mean), other + jnp.log(mean))
  # A token kept where the intervention's has another law costs at most the
  # distance of the two, at the prefixes that are visited.
  distance = divergences.total_variation(one, other)
  lost = worlds.at_visits(
    found.log_probs, jnp.where(found.replaced, 0, distance)
  )
  return {
    "reward": worlds.mean_reward(found.log_probs),
    "share": mean,
    "random": worlds.mean_reward(at_random),
    "bound": jnp.sum(lost),
    "from primary": jnp.max(jnp.abs(found.log_probs - one)),
    "from intervention": jnp.max(jnp.abs(found.log_probs - other)),
  }


@jax.jit
def measure(bases: jax.Array) -> dict:
  """Of base policies `[S, rows, V]`; swaps by thresholds, `[S, E]`."""
  thresholds = jnp.array(THRESHOLDS)

  def one(base):
    tuned = worlds.tuned(base)
    divergence = cross_sampling.token_divergence(base, tuned)
    swap = jax.vmap(_swap, (None, None, 0))
    low = (divergence <= EPS).astype(base.dtype)
    depth = [worlds.V**t for t in range(worlds.T)]
    levels = jnp.split(divergence, np.cumsum(depth)[:-1])
    return {
      "base": worlds.mean_reward(base),
      "tuned": worlds.mean_reward(tuned),
      "divergence": jnp.stack([jnp.mean(level) for level in levels]),
      "low": jnp.mean(worlds.at_visits(tuned, low)),
      "forward": swap(base, tuned, thresholds),
      "backward": swap(tuned, base, thresholds),
    }

  return jax.vmap(one)(bases)


def _claims(found: dict) -> list[harness.Claim]:
  at = THRESHOLDS.index(EPS)
  odds = found["base"] * np.exp(1 / worlds.BETA)
  forward, backward = found["forward"], found["backward"]
  none, every = np.array(THRESHOLDS) >= math.log(2), np.array(THRESHOLDS) < 0
  decisive = np.isin(np.arange(worlds.T), worlds.DECISIVE)
  both = (forward, backward)
  return [
    harness.all_agree(
      "optimum",
      "the fine-tuned policy's reward is J e^(1/beta) / (1 - J + J e^(1/beta)),"
      " J the base's: largest difference",
      [found["tuned"] - odds / (1 - found["base"] + odds)],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "ends",
      "a threshold of log 2 or more gives the primary policy, one below 0 the"
      " intervention's: largest difference of log-probabilities",
      [x["from primary"][:, none] for x in both]
      + [x["from intervention"][:, every] for x in both],
      tolerance=0.0,
    ),
    harness.Claim(
      name="decisive_positions",
      statement="mean divergence at the two positions that the reward asks for"
      " less that at any other: smallest over bases",
      theory=0.0,
      measured=np.min(
        found["divergence"][:, decisive].min(1)
        - found["divergence"][:, ~decisive].max(1)
      ),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="forward",
      statement="reward with the fine-tuned tokens where the divergence"
      " exceeds .1, less that with as many of them at random: smallest",
      theory=0.0,
      measured=np.min(forward["reward"][:, at] - forward["random"][:, at]),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="forward_recovers",
      statement="of what fine-tuning gains, the tokens where the divergence"
      " exceeds .1 recover nine tenths: smallest share",
      theory=0.9,
      measured=np.min(
        (forward["reward"][:, at] - found["base"])
        / (found["tuned"] - found["base"])
      ),
      tolerance=0.0,
      relation=">=",
    ),
    harness.none_exceeds(
      "forward_bound",
      "the fine-tuned reward less that of cross-sampling is at most the total"
      " variation at the tokens that are kept: largest excess",
      [found["tuned"][:, None] - forward["reward"] - forward["bound"]],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "backward",
      "reward with the base's tokens where the divergence exceeds .1, less that"
      " with as many of them at random: largest",
      [backward["reward"][:, at] - backward["random"][:, at]],
      tolerance=0.0,
    ),
  ]


def _rows(found: dict, way: str) -> list[dict]:
  at = THRESHOLDS.index(EPS)
  swap = {key: found[way][key][:, at] for key in ("reward", "share", "random")}
  return harness.rows(base=found["base"], tuned=found["tuned"], **swap)


def cross_samples(bases: jax.Array) -> harness.Part:
  """Claims on what few tokens do.

  Args:
    bases: `[S, rows, V]`.
  """
  found = jax.tree.map(np.asarray, measure(bases))
  curves = {f"swap/{key}": found[key] for key in ("base", "tuned")}
  curves["swap/divergence"] = found["divergence"]
  for way in ("forward", "backward"):
    for key in ("reward", "share", "random"):
      curves[f"swap/{way}/{key}"] = found[way][key]
  tables = {
    f"{way}: rewards, and the share of tokens replaced, above .1": _rows(
      found, way
    )
    for way in ("forward", "backward")
  }
  tables[
    "share of the tuned policy's tokens where the divergence is at most"
    " .1, and its mean by position"
  ] = harness.rows(
    low=found["low"],
    **{f"{t + 1}": found["divergence"][:, t] for t in range(worlds.T)},
  )
  return harness.Part(_claims(found), curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Divergence by position; reward by tokens replaced."""
  figure, (left, right) = plotting.figure(1, 2)
  by_position = curves["swap/divergence"]
  positions = np.arange(1, worlds.T + 1)
  colours = ["C3" if t in worlds.DECISIVE else "C0" for t in range(worlds.T)]
  left.bar(positions, by_position.mean(0), color=colours, alpha=0.6)
  for row in by_position:
    left.plot(positions, row, "k.", markersize=3)
  left.set(
    xlabel="position (red: what the reward asks for)",
    ylabel="mean JS of prefixes, nats",
    title="where fine-tuning changes the law",
  )
  for i, way in enumerate(("forward", "backward")):
    share, reward, random = (
      curves[f"swap/{way}/{key}"].mean(0)
      for key in ("share", "reward", "random")
    )
    right.plot(
      share, reward, "o-", color=f"C{i}", label=f"{way}, by divergence"
    )
    right.plot(share, random, "--", color=f"C{i}", label=f"{way}, at random")
  right.set(
    xlabel="share of tokens replaced",
    ylabel="reward, mean over bases",
    title="cross-sampling",
  )
  figure.legend(
    *right.get_legend_handles_labels(), loc="outside lower center", ncols=2
  )
  return figure

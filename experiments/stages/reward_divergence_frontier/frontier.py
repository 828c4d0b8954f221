# SPDX-License-Identifier: Apache-2.0
"""Reward against divergence: the optimum of each regulariser, exactly.

Policies are compared at equal expected reward, since equal weights of different
divergences are not equally strong.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from jaxalign import divergences, evaluation

OUTCOMES = 20
# By what they regularise with; alpha in the convention of f-DPO.
DIVERGENCES = {
  "KL(pi||ref)": divergences.f_divergence("kl"),
  "KL(ref||pi)": divergences.f_divergence("reverse_kl"),
  "Jensen-Shannon": divergences.f_divergence("jensen_shannon"),
  "alpha .5": divergences.f_divergence(
    "alpha", alpha=divergences.alpha_order(0.5, convention="f_dpo")
  ),
}
# How far the expected reward is from the reference's to the best outcome's.
SHARES = np.linspace(0.1, 0.9, 17)
SHOWN = 0.5
LOG_WEIGHTS = (-12.0, 12.0)  # where the weights of those rewards are looked for
STEPS = 20


def worlds(seeds: range) -> tuple[np.ndarray, np.ndarray]:
  """Rewards and log-references, `[S, OUTCOMES]` each."""
  rewards, log_refs = [], []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    rewards.append(rng.normal(size=OUTCOMES))
    log_refs.append(np.log(rng.dirichlet(np.ones(OUTCOMES))))
  return np.stack(rewards), np.stack(log_refs)


@functools.partial(jax.jit, static_argnums=0)
def optimum(div, rewards, log_refs, log_weights):
  """Of each world's weights: the optimum, its reward and divergence.

  Args:
    div: what regularises.
    rewards: `[S, n]`.
    log_refs: `[S, n]`.
    log_weights: `[S, T]`.

  Returns:
    `(log_pi [S, T, n], reward [S, T], divergence [S, T])`, and their
    derivatives in the logarithm of the weight.
  """

  def one(rewards, log_ref, log_weight):
    log_pi = divergences.regularized_maximizer(
      div, rewards, log_ref, jnp.exp(log_weight), num_steps=60
    )
    value = divergences.categorical_f_divergence(div, log_pi, log_ref)
    return log_pi, jnp.exp(log_pi) @ rewards, value

  over = jax.vmap(jax.vmap(one, (None, None, 0)))
  return jax.jvp(
    functools.partial(over, rewards, log_refs),
    (log_weights,),
    (jnp.ones_like(log_weights),),
  )


def solve(div, rewards, log_refs) -> tuple[np.ndarray, ...]:
  """Policies `[S, T, n]` of `SHARES` of the reward, their weights `[S, T]`.

  And how far `dE r` is from `weight dD` there, relative, `[S, T]`.
  """
  base = np.sum(np.exp(log_refs) * rewards, -1, keepdims=True)
  targets = base + SHARES * (rewards.max(-1, keepdims=True) - base)
  low, high = (np.full_like(targets, x) for x in LOG_WEIGHTS)
  log_weights = np.zeros_like(targets)
  for _ in range(STEPS):  # of Newton's method inside a bracket
    (log_pi, reward, _), (_, gain, cost) = jax.tree.map(
      np.asarray, optimum(div, rewards, log_refs, log_weights)
    )
    weights = np.exp(log_weights)
    low = np.where(reward > targets, log_weights, low)
    high = np.where(reward < targets, log_weights, high)
    newton = log_weights + (targets - reward) / gain
    inside = (low <= newton) & (newton <= high)
    log_weights = np.where(inside, newton, (low + high) / 2)
  return log_pi, weights, (gain - weights * cost) / np.abs(gain)


@jax.jit
def measure(log_pi, log_refs):
  """Of policies `[F, S, T, n]`: divergences `[F, ..]` by row, and entropy."""
  ref = jnp.broadcast_to(log_refs[:, None], log_pi.shape)
  values = [
    divergences.categorical_f_divergence(div, log_pi, ref)
    for div in DIVERGENCES.values()
  ]
  return jnp.stack(values), jnp.log(evaluation.effective_number(log_pi))


def _claims(values, entropy, gaps) -> list[harness.Claim]:
  claims = []
  for i, name in enumerate(DIVERGENCES):
    own = values[i, i]
    claims.append(
      harness.none_exceeds(
        f"minimal_{i}",
        f"at equal reward, {name} of its own policy less that of any other"
        " policy, largest over worlds and rewards",
        [own - values[i, j] for j in range(len(DIVERGENCES)) if j != i],
        # Rewards are equal to rounding, hence divergences to 1e-12.
        tolerance=1e-10,
      )
    )
  claims.append(
    harness.all_agree(
      "exchange",
      "along each frontier reward is bought at the weight: dE r - beta dD,"
      " relative, largest over worlds",
      gaps,
      tolerance=1e-10,
    )
  )
  names = list(DIVERGENCES)
  excess = entropy[names.index("KL(ref||pi)")] - entropy[0]
  for name, relation, value in (
    ("entropy_more", ">=", excess.max()),
    ("entropy_less", "<=", excess.min()),
  ):
    size = "largest" if relation == ">=" else "smallest"
    claims.append(
      harness.Claim(
        name=name,
        statement="entropy is ordered either way at equal reward: of the"
        f" KL(ref||pi) policy less the KL(pi||ref) policy, {size}",
        theory=0.0,
        measured=value,
        tolerance=-1e-3,
        relation=relation,
      )
    )
  return claims


def frontier(*, seeds: range) -> harness.Part:
  """Claims on the frontiers of all divergences.

  Args:
    seeds: of the worlds.
  """
  rewards, log_refs = worlds(seeds)
  solved = [solve(div, rewards, log_refs) for div in DIVERGENCES.values()]
  log_pi, weights, gaps = (np.stack(x) for x in zip(*solved, strict=True))
  values, entropy = map(np.asarray, measure(log_pi, log_refs))
  middle = int(np.argmin(np.abs(SHARES - SHOWN)))
  kl, forward = values[0], values[1]
  names = list(DIVERGENCES)
  less = entropy < entropy[:1]
  table = harness.rows(
    regulariser=names,
    beta=np.median(weights[..., middle], 1),
    KL_to_ref=kl[..., middle].mean(1),
    KL_from_ref=forward[..., middle].mean(1),
    entropy=entropy[..., middle].mean(1),
    worlds_with_less_entropy_than_KL=less[..., middle].mean(1),
  )
  curves = {
    "regularisers": np.array(names),
    "shares": SHARES,
    "frontier/kl": kl,
    "frontier/forward_kl": forward,
    "frontier/entropy": entropy,
    "frontier/rewards": np.einsum("fstn,sn->fst", np.exp(log_pi), rewards),
  }
  return harness.Part(
    _claims(values, entropy, gaps),
    curves,
    {f"at share {SHOWN} of the reward, means over worlds": table},
  )


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Both divergences over the least, and entropy, at equal reward."""
  kl, forward, entropy = (
    curves[f"frontier/{name}"] for name in ("kl", "forward_kl", "entropy")
  )
  panels = {
    "KL(pi||ref), over the least": kl / kl[0],
    "KL(ref||pi), over the least": forward / forward[1],
    "entropy, less that of KL(pi||ref)": entropy - entropy[0],
  }
  figure, axes = plotting.figure(1, len(panels), width=3.8)
  for panel, (title, values) in zip(axes, panels.items(), strict=True):
    for i, name in enumerate(curves["regularisers"]):
      style = plotting.line_style(i)
      plotting.band(panel, curves["shares"], values[i], name, **style)
    panel.set(xlabel="share of the reward", title=title)
  axes[0].legend()
  return figure

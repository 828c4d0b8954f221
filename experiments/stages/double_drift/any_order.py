# SPDX-License-Identifier: Apache-2.0
"""Three tokens of three values: both drifts, from a loose and a tight start.

A tabular denoiser of all 64 maskings, random rewards of the 27 sequences,
expected gradients. The gap is `E_pi[log pi - ELBO]`, the cosine that between
the surrogate's gradient and the reward's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.double_drift import ascent
from jaxalign import diffusion
from jaxalign.exact import masked, sequences

V = L = 3
RATE = 1.0
STARTS = {"loose": (4.0, 0.4), "tight": (0.0, 1.0)}  # logits' scale, updates
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 6.0)
ARMS = {
  "exact": ascent.Arm(exact=1.0),
  "FPO": ascent.Arm(),
  "FPO - .04 ELBO": ascent.Arm(beta=-0.04),
  "FPO + .01": ascent.Arm(beta=0.01),
  "FPO + .05": ascent.Arm(beta=0.05),
  "FPO + .3": ascent.Arm(beta=0.3),
  "FPO + 1": ascent.Arm(beta=1.0),
  "SPG": ascent.Arm(omega=0.5),
  "SPG + .05": ascent.Arm(omega=0.5, beta=0.05),
  "one-step": ascent.Arm(one_step=1.0),
}
DISTILLED = ("distilled once", "interleaved")  # beside them, with FPO
EVERY = 10


def world(rewards: jax.Array) -> ascent.World:
  """The policy over all sequences."""
  x = sequences.enumerate_sequences(V, L)

  def draws(table):
    return x, jnp.exp(ascent.bounds_of_table(table).log_pi), rewards

  return ascent.World(
    draws,
    lambda table, _: ascent.bounds_of_table(table),
    masked.self_distill,
    RATE,
  )


def problems(seeds: range, scale: float) -> tuple[np.ndarray, np.ndarray]:
  """Tables `[S, 64, 3, 3]` and rewards `[S, 27]`."""
  tables, rewards = [], []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    tables.append(scale * rng.standard_normal(((V + 1) ** L, L, V)))
    rewards.append(rng.uniform(size=V**L))
  return np.stack(tables), np.stack(rewards)


@functools.partial(jax.jit, static_argnames="steps")
def run_arms(tables, rewards, *, steps: int) -> ascent.Path:
  """Paths `[arms, S, steps + 1]`, those of `DISTILLED` last."""

  def one(table, reward, arm, every=0):
    return ascent.ascend(world(reward), arm, table, steps=steps, every=every)

  over_seeds = functools.partial(jax.vmap, in_axes=(0, 0, None))
  plain = jax.vmap(over_seeds(one), (None, None, 0))(
    tables, rewards, ascent.stack(ARMS)
  )
  tight = jax.vmap(masked.self_distill)(tables)
  fpo = ARMS["FPO"]
  once = over_seeds(one)(tight, rewards, fpo)
  often = over_seeds(functools.partial(one, every=EVERY))(tables, rewards, fpo)
  return jax.tree.map(
    lambda x, *more: jnp.concatenate([x, *(y[None] for y in more)]),
    plain,
    once,
    often,
  )


@jax.jit
def static_drift(tables: jax.Array, rewards: jax.Array):
  """Gap and cosine of FPO `[scales, N]`, before any update."""

  def one(table, reward, scale):
    (base, _, true), found = ascent.gradients(
      world(reward), ARMS["FPO"], scale * table
    )
    return found["gap"], diffusion.gradient_cosine(base, true)

  over = jax.vmap(one, (0, 0, None))
  return jax.lax.map(lambda s: over(tables, rewards, s), jnp.array(SCALES))


def _claims_of_start(start: str, path: dict) -> list[harness.Claim]:
  gap = {name: x.gap.max(-1).mean() for name, x in path.items()}
  if start == "loose":
    gap = {name: x.gap[:, -1].mean() for name, x in path.items()}
  which = "largest" if start == "tight" else "last"
  order = ("FPO - .04 ELBO", "FPO", "FPO + .05", "FPO + .3", "FPO + 1")
  return [
    ascent.falling_gaps(
      f"{start}_regulariser",
      f"any order, {start} start, {which} gap falls with the regulariser's"
      " weight: -.04 (a k1 penalty on ELBOs), 0, .05, .3, 1",
      [gap[name] for name in order],
    ),
    harness.Claim(
      name=f"{start}_interleaved_gap",
      statement=f"any order, {start} start: largest gap with self-distillation"
      " every ten updates",
      theory=0.0,
      measured=path["interleaved"].gap.max(),
      tolerance=0.01,
      relation="<=",
    ),
    harness.Claim(
      name=f"{start}_interleaved_cosine",
      statement=f"any order, {start} start: smallest cosine with"
      " self-distillation every ten updates",
      theory=1.0,
      measured=path["interleaved"].cosine.min(),
      tolerance=0.01,
      relation=">=",
    ),
    harness.Claim(
      name=f"{start}_one_step",
      statement=f"any order, {start} start: the one-step surrogate's reward"
      " over that of FPO with self-distillation, at the end",
      theory=1.0,
      measured=path["one-step"].reward[:, -1].mean()
      / path["interleaved"].reward[:, -1].mean(),
      tolerance=0.0,
      relation="<=",
    ),
  ]


def any_order(
  *, seeds: range, num_updates: int, num_tables: int
) -> harness.Part:
  """Claims on the gap and the cosine of every arm.

  Args:
    seeds: of the tables and rewards.
    num_updates: from the tight start; two fifths of it from the loose one.
    num_tables: random tables for the drift before any update.
  """
  claims, curves, tables = [], {}, {}
  names = [*ARMS, *DISTILLED]
  for start, (scale, share) in STARTS.items():
    steps = round(share * num_updates)
    found = run_arms(*problems(seeds, scale), steps=steps)
    found = jax.tree.map(np.asarray, found)
    path = ascent.by_name(found, names)
    claims += _claims_of_start(start, path)
    if start == "loose":
      early = [
        path[name].reward[:, 100].mean()
        for name in ("interleaved", "FPO + .3", "FPO")
      ]
      claims.append(
        ascent.falling_gaps(
          "loose_early_reward",
          "any order, loose start, reward after 100 updates falls from"
          " interleaved to FPO + .3 to FPO",
          early,
        )
      )
    tables[f"any order, {start} start"] = ascent.rows_of(
      names,
      {
        "reward": found.reward[..., -1].mean(1),
        "reward, 100": found.reward[..., 100].mean(1),
        "last gap": found.gap[..., -1].mean(1),
        "largest gap": found.gap.max(-1).mean(1),
        "last cosine": found.cosine[..., -1].mean(1),
        "smallest cosine": found.cosine.min(-1).mean(1),
      },
    )
    shown = np.unique(np.linspace(0, steps, 201).astype(int))
    curves |= {
      f"{start}/{key}": getattr(found, key)[..., shown]
      for key in ("reward", "gap", "cosine")
    } | {f"{start}/steps": shown}
  gap, cosine = map(
    np.asarray,
    static_drift(*problems(range(seeds.start, seeds.start + num_tables), 1.0)),
  )
  claims.append(
    ascent.falling_gaps(
      "second_drift",
      "any order, random tables of growing scale: the mean cosine falls as the"
      " gap rises",
      cosine.mean(1),
    )
  )
  tables["any order, before any update"] = [
    {"scale": s, "gap": float(g), "cosine": float(c)}
    for s, g, c in zip(SCALES, gap.mean(1), cosine.mean(1), strict=True)
  ]
  curves |= {
    "arms": np.array(names),
    "static/gap": gap,
    "static/cosine": cosine,
  }
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Reward, gap and cosine of every arm, with 95 % intervals over seeds."""
  figure, axes = plotting.figure(len(STARTS), 3, width=3.6, height=2.8)
  rows = zip(STARTS, np.reshape(axes, (len(STARTS), 3)), strict=True)
  for start, (reward, gap, cosine) in rows:
    for i, name in enumerate(curves["arms"]):
      for panel, key in ((reward, "reward"), (gap, "gap"), (cosine, "cosine")):
        samples = curves[f"{start}/{key}"][i]
        style = plotting.line_style(i)
        plotting.band(panel, curves[f"{start}/steps"], samples, name, **style)
    reward.set(ylabel="reward", title=f"{start} start")
    gap.set(ylabel="E[log pi - ELBO], nats", yscale="symlog")
    gap.set_ylim(0, None)
    cosine.set(ylabel="cosine with the reward's gradient")
    for panel in (reward, gap, cosine):
      panel.set_xlabel("update")
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=6)
  return figure


def plot_static(axes, curves: dict[str, np.ndarray]) -> None:
  """The cosine against the gap, before any update."""
  for scale, gap, cosine in zip(
    SCALES, curves["static/gap"], curves["static/cosine"], strict=True
  ):
    axes.plot(gap, cosine, ".", ms=3, label=f"scale {scale:g}")
  axes.set(
    xscale="log",
    xlabel="E[log pi - ELBO], nats",
    ylabel="cosine with the reward's gradient",
    title="Random denoisers: the second drift",
  )
  axes.legend()

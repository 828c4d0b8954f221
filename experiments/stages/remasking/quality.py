# SPDX-License-Identifier: Apache-2.0
"""How far samples are from their target, by steps and by schedule.

In total variation, from exact laws. Theory says that ancestral sampling errs no
more than it reveals two tokens in one step, and that one step draws from the
product of marginals whatever the schedule. What masking again gains or loses is
measured: with a perfect denoiser, and with one that is wrong where it sees
nothing.
"""

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.remasking import chains, confidence
from experiments.stages.remasking.chains import L, V

EXACT = 1e-12
FINE = (256, 1024)  # steps between which the rate is taken
NAMES = (*chains.SCHEDULES, "conf")
DENOISERS = ("perfect", "blind at first")


def all_laws(tables: jax.Array) -> np.ndarray:
  """Laws after every step `[schedules, S, N, 64]`."""
  over = jax.vmap(chains.laws, (0, None))
  found = [over(tables, chains.steps_of(name)) for name in chains.SCHEDULES]
  conf = jax.vmap(confidence.laws, (0, None))
  return np.stack([*found, conf(tables, chains.steps_of("conf"))])


def final(laws: np.ndarray) -> np.ndarray:
  """Laws over sequences at the runs' ends, `[..., runs, 27]`."""
  return laws[..., chains.ENDS, :][..., chains.FINAL]


def distance(law: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Total variation."""
  return np.abs(law - other).sum(-1) / 2


def drawn(laws: np.ndarray) -> np.ndarray:
  """Tokens that a run draws on average `[schedules, runs]`."""
  rows = []
  for name, law in zip(NAMES, laws, strict=True):
    each = chains.steps_of(name)
    visible = chains.shares(law).mean((0, -1))
    before = np.where(each.first, 0, np.roll(visible, 1))
    count = np.cumsum(L * (1 - before) * np.asarray(each.reveal))
    rows.append(np.diff(count[chains.ENDS], prepend=0))
  return np.stack(rows)


def product_of_marginals(law: np.ndarray) -> np.ndarray:
  """Of laws `[S, 27]`."""
  cube = law.reshape(-1, *[V] * L)
  one, two, three = (
    cube.sum(tuple(i + 1 for i in range(L) if i != keep)) for keep in range(L)
  )
  return np.einsum("si,sj,sk->sijk", one, two, three).reshape(law.shape)


def _claims(laws, pi, tables) -> list[harness.Claim]:
  found = final(laws)  # [schedules, S, runs, 27]
  ancestral = distance(found[NAMES.index("ancestral")], pi[:, None])
  steps = np.array(chains.STEPS)
  alone = (1 - 1 / steps) * (1 - 2 / steps)  # all in steps of their own
  many = jax.vmap(lambda table: chains.ancestral_laws(table, runs=FINE))
  coarse, fine = distance(np.asarray(many(tables)), pi[:, None]).T
  exponent = np.log(fine / coarse) / np.log(FINE[1] / FINE[0])
  return [
    harness.all_agree(
      "one_step_product",
      "one step: law less the product of marginals, largest over schedules and"
      " sequences",
      found[:, :, 0] - product_of_marginals(pi),
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "ancestral_bound",
      "ancestral: total variation exceeds the probability of two tokens in one"
      " step by, largest over 1 to 32 steps",
      ancestral - (1 - alone),
      tolerance=EXACT,
    ),
    harness.Claim(
      name="ancestral_rate",
      statement="ancestral: total variation falls from 256 to 1024 steps with"
      " the exponent (that farthest from -1 over random laws)",
      theory=-1.0,
      measured=exponent[np.argmax(np.abs(exponent + 1))],
      tolerance=0.02,  # the next order is a share of a few 1/256
    ),
    harness.none_exceeds(
      "ancestral_falls",
      "ancestral: total variation rises when steps are doubled by, largest over"
      " 1 to 32 steps and random laws",
      np.diff(ancestral, axis=-1),
      tolerance=0.0,
    ),
  ]


def quality(*, seeds: range) -> harness.Part:
  """Claims on ancestral sampling, and what the others do beside it."""
  tables = chains.tables(seeds)
  pi = np.asarray(jax.vmap(chains.target)(tables))
  # Nothing visible: a uniform guess. All other conditionals remain.
  blind = np.array(tables)
  blind[:, chains.START] = 0
  curves, rows = {"names": np.array(NAMES), "steps": np.array(chains.STEPS)}, {}
  for name, each in zip(DENOISERS, (tables, blind), strict=True):
    laws = all_laws(each)
    found = distance(final(laws), pi[:, None])  # [schedules, S, runs]
    curves[f"{name}/distance"] = found
    rows[f"total variation by steps, denoiser: {name}"] = harness.rows(
      schedule=NAMES,
      **{str(n): found.mean(1)[:, i] for i, n in enumerate(chains.STEPS)},
    )
    if name == "perfect":
      claims = _claims(laws, pi, tables)
      cost = drawn(laws)
      rows["tokens drawn by steps, of 3 kept"] = harness.rows(
        schedule=NAMES,
        **{str(n): cost[:, i] for i, n in enumerate(chains.STEPS)},
      )
  return harness.Part(claims, curves, rows)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Total variation by steps, with 95 % intervals over laws."""
  figure, axes = plotting.figure(1, len(DENOISERS))
  for panel, name in zip(axes, DENOISERS, strict=True):
    for i, schedule in enumerate(curves["names"]):
      plotting.band(
        panel,
        curves["steps"],
        curves[f"{name}/distance"][i],
        schedule,
        marker="o",
        ms=3,
        **plotting.line_style(i),
      )
    plotting.log_scale(panel, "x", "y")
    panel.set_xticks(curves["steps"])
    panel.set_yticks((0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
    panel.set_ylim(0.008, 0.8)
    panel.set(
      xlabel="steps",
      ylabel="total variation to the target",
      title=f"denoiser: {name}",
    )
  axes[0].legend()
  return figure

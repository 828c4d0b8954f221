# SPDX-License-Identifier: Apache-2.0
"""f-DPG in expectation: four divergences, a full and a tied family.

50 outcomes, logits from uniform. Tied, five outcomes share a logit: the family
does not hold the target, and what is nearest depends on the divergence.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from jaxalign import divergences, preference

N, TIED = 50, 10
STEPS, RATE = 20_000, 5.0
DECAY = 200  # of total variation's step, 5 / (1 + i / DECAY)
# The paper's f: KL(p||pi), KL(pi||p), twice our Jensen-Shannon, TV.
PAPER = {
  "reverse_kl": ("KL(p||pi)", 1.0),
  "kl": ("KL(pi||p)", 1.0),
  "jensen_shannon": ("JS", 2.0),
  "total_variation": ("TV", 1.0),
}
LABELS = [label for label, _ in PAPER.values()]
SMOOTH = 3  # of them; the last has kinks
GROUPS = {"full": np.arange(N), "tied": np.arange(N) % TIED}
EVERY = 50
STRICTLY = -1e-3  # a tolerance: on the right side by this much


def targets(seeds: range) -> np.ndarray:
  """Log-probabilities `[S, 50]`."""
  logits = [np.random.default_rng(seed).standard_normal(N) for seed in seeds]
  return np.asarray(jax.nn.log_softmax(np.stack(logits)))


def expected_loss(logits, log_target):
  """Of descents `[5, 50]`: its gradient is that of their divergences."""
  logp = jax.nn.log_softmax(logits)
  now = jax.lax.stop_gradient(logp)
  target = jnp.broadcast_to(log_target, logp.shape)
  total = 0.0
  for i, (name, (_, scale)) in enumerate(PAPER.items()):
    # Total variation has two descents, the last two.
    rows = slice(i, i + 1 if i < SMOOTH else None)
    div = divergences.f_divergence(name)
    found = preference.fdpg_surrogate(div, logp[rows], target[rows], now[rows])
    total += scale * jnp.sum(jnp.exp(now[rows]) * found.loss)
  return total


def all_divergences(logits, log_target):
  """`[..., 4]`, in the order and the scaling of `PAPER`."""
  target = jnp.broadcast_to(log_target, logits.shape)
  return jnp.stack(
    [
      scale
      * divergences.categorical_f_divergence(
        divergences.f_divergence(name), logits, target
      )
      for name, (_, scale) in PAPER.items()
    ],
    -1,
  )


@jax.jit
def descend(log_targets):
  """All divergences of all descents `[families, S, 4, shown, 4]`.

  The fourth descent is of total variation with a decaying step; a fifth, with a
  constant one, stands last.
  """
  descents = len(PAPER) + 1

  def run(groups, log_target):
    def loss(logits):
      return expected_loss(logits[:, groups], log_target)

    def step(logits, i):
      decay = 1 / (1 + i / DECAY)
      rates = RATE * jnp.where(jnp.arange(descents) == SMOOTH, decay, 1)
      return logits - rates[:, None] * jax.grad(loss)(logits), None

    def stretch(logits, i):
      logits, _ = jax.lax.scan(step, logits, i + jnp.arange(EVERY))
      return logits, all_divergences(logits[:, groups], log_target)

    start = jnp.zeros((descents, N))
    _, seen = jax.lax.scan(stretch, start, EVERY * jnp.arange(STEPS // EVERY))
    return jnp.moveaxis(seen, 0, 1)

  over_targets = jax.vmap(run, (None, 0))
  groups = jnp.stack(list(GROUPS.values()))
  return jax.vmap(over_targets, (0, None))(groups, log_targets)


def _claims(log_targets, full, tied) -> list[harness.Claim]:
  last = full[..., -1, :]
  # Logits move by at most the step times pi, hence TV by that times pi again.
  jump = RATE / (1 + STEPS / DECAY) * np.sum(np.exp(2 * log_targets), -1)
  reached = [
    harness.Claim(
      name=f"reaches_{name}",
      statement=f"f-DPG of {label} from uniform, 20000 steps of 5: KL(p||pi) to"
      " the target, largest over targets",
      theory=0.0,
      measured=last[:, i, 0].max(),
      tolerance=1e-11,
      relation="<=",
    )
    for i, (name, (label, _)) in enumerate(PAPER.items())
    if i < SMOOTH
  ]
  left = tied[:, : len(PAPER), -1, :]  # [S, descended, measured]
  own = np.einsum("sii->si", left)[:, None, :]
  # In its own divergence every other limit is at least as far.
  excess = (own - left)[:, ~np.eye(len(PAPER), dtype=bool)]
  return [
    *reached,
    harness.Claim(
      name="reaches_total_variation",
      statement="f-DPG of TV, steps of 5/(1 + i/200): TV to the target over the"
      " most that the last step can move it, its size times sum p^2: largest"
      " over targets",
      theory=1.0,
      measured=(last[:, SMOOTH, SMOOTH] / jump).max(),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="total_variation_needs_decay",
      statement="f-DPG of TV: what is left with a decaying step over what is"
      " left with a constant one, largest over targets",
      theory=1.0,
      measured=(last[:, SMOOTH, SMOOTH] / last[:, -1, SMOOTH]).max(),
      tolerance=STRICTLY,
      relation="<=",
    ),
    harness.none_exceeds(
      "each_limit_its_own",
      "tied logits: the limit of each f-DPG in its own divergence, less the"
      " other limits in that divergence, largest over pairs and targets",
      excess,
      tolerance=0.0,
    ),
  ]


def exact(*, seeds: range) -> harness.Part:
  """Claims on where descents end, and two tables of four by four.

  Args:
    seeds: of the targets.
  """
  log_targets = targets(seeds)
  full, tied = np.asarray(descend(log_targets))
  tables = {}
  for family, found in (("full", full), ("tied", tied)):
    last = found[:, :, -1].mean(0)
    tables[f"{family} family, after f-DPG of a row: mean divergences"] = [
      {"f-DPG": row} | dict(zip(LABELS, map(float, x), strict=True))
      for row, x in zip([*LABELS, "TV, constant step"], last, strict=True)
    ]
  curves = {"exact/full": full, "exact/tied": tied}
  return harness.Part(_claims(log_targets, full, tied), curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Descents in the full family, and what the tied one's limits cost."""
  figure, (left, right) = plotting.figure(1, 2)
  found = curves["exact/full"].mean(0)
  steps = EVERY * np.arange(1, found.shape[1] + 1)
  for i, label in enumerate([*LABELS, "TV, constant step"]):
    style = plotting.line_style(i)
    left.plot(steps, found[i, :, 0], label=f"f-DPG of {label}", **style)
  left.set(
    xlabel="step",
    ylabel="KL(p||pi), nats",
    yscale="log",
    title="full family",
    xticks=range(0, STEPS + 1, STEPS // 4),
  )
  limits = curves["exact/tied"][:, : len(LABELS), -1].mean(0)
  excess = 100 * (limits / np.diag(limits) - 1)
  for i, row in enumerate(excess):
    places = np.arange(len(LABELS)) + 0.2 * (i - 1.5)
    right.bar(places, row, 0.2, color=plotting.line_style(i)["color"])
  right.set_xticks(range(len(LABELS)), LABELS)
  right.set(ylabel="above the least limit, %", title="tied family")
  handles, labels = left.get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=5)
  return figure

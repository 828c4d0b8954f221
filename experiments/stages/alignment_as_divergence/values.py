# SPDX-License-Identifier: Apache-2.0
"""Least values of losses over free rewards, by gradient descent.

A loss of good completions from p and bad ones from q, minimised over one reward
for each outcome, ends at a divergence of p and q.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.alignment_as_divergence import laws as worlds
from jaxalign import divergences, preference

# Rates of descent are below 2 over the largest curvature on the way.
LOSSES, RATE = ("KLDO", "BCO", "KTO", "DPO"), 2.0
F_RATES = {
  "reverse_kl": 1.0,
  "squared_hellinger": 1.0,
  "pearson_chi2": 2.0,
}
DIVERGENCES = {name: divergences.f_divergence(name) for name in F_RATES}
REACHED = 1e-6


def losses_of(law: worlds.Laws, rewards: jax.Array) -> jax.Array:
  """Each loss of its own rewards `[losses, 4]`, for one law."""
  kldo, bco, kto, dpo = rewards[: len(LOSSES)]
  at, labels = law.examples, worlds.LABELS
  of_bco = preference.bco_loss(bco[at], labels, 0.0, beta=1.0)
  of_kto = preference.kto_loss(kto[at], labels, 0.0, beta=1.0)
  found = [
    preference.kldo_loss(kldo[at], labels, beta=1.0).loss,
    worlds.sum_of_means(of_bco.loss),
    worlds.sum_of_means(of_kto.loss),
    worlds.dpo_of_pairs(law, dpo, beta=1.0),
  ]
  for critic, div in zip(
    rewards[len(LOSSES) :], DIVERGENCES.values(), strict=True
  ):
    good, bad = jnp.split(div.activation(critic)[at], 2)
    found.append(-divergences.variational_bound(div, good, bad))
  return jnp.stack(found)


@functools.partial(jax.jit, static_argnames="steps")
def descend(laws: worlds.Laws, *, steps: int) -> jax.Array:
  """Losses `[steps + 1, L, losses]`, from rewards of 0."""
  rates = jnp.array([*[RATE] * len(LOSSES), *F_RATES.values()])

  def total(rewards):
    values = jax.vmap(losses_of)(laws, rewards)
    return jnp.sum(values), values

  def step(rewards, _):
    slopes, values = jax.grad(total, has_aux=True)(rewards)
    return rewards - rates[:, None] * slopes, values

  start = jnp.zeros((len(laws.good), len(rates), worlds.SIZE))
  _, values = jax.lax.scan(step, start, length=steps + 1)
  return values


@jax.jit
def limits(laws: worlds.Laws) -> jax.Array:
  """What theory says `[L, losses]`: minus KL, and so on."""
  p, q = jnp.log(laws.good), jnp.log(laws.bad)
  shape = len(laws.good), -1
  pair = (p[:, :, None] + q[:, None, :]).reshape(shape)
  swapped = (q[:, :, None] + p[:, None, :]).reshape(shape)
  found = [
    -divergences.kl(p, q),
    2 * jnp.log(2) - 2 * divergences.jensen_shannon(p, q),
    1 - divergences.total_variation(p, q),
    jnp.log(2) - divergences.jensen_shannon(pair, swapped),
  ]
  found += [
    -divergences.categorical_f_divergence(div, p, q)
    for div in DIVERGENCES.values()
  ]
  return jnp.stack(found, -1)


def kto_flow(laws: worlds.Laws, times: np.ndarray) -> np.ndarray:
  """KTO's excess over its infimum `[times, L]` along its gradient flow.

  `dr/dt = (p - q) s'(r)` with s the sigmoid is solved by
  `2 r + 2 sinh r = (p - q) t`; the excess is `sum |p - q| s(-|r|)`.
  """
  gaps = np.abs(laws.good - laws.bad)
  goal = gaps * times[:, None, None]
  r = np.arcsinh(goal / 2)  # at or above the root, from where Newton comes down
  for _ in range(50):
    r -= (2 * r + 2 * np.sinh(r) - goal) / (2 + 2 * np.cosh(r))
  return np.sum(gaps / (1 + np.exp(r)), -1)


def _claims(last: np.ndarray, kto: np.ndarray, flow: float, limit):
  """Of the last losses `[L, losses]` and of KTO's excess `[steps + 1, L]`."""
  texts = {
    "kldo": "KLDO's least value is minus KL(p||q)",
    "bco": "BCO's least value is 2 log 2 - 2 JS(p, q)",
    "dpo": "DPO's least value on independent pairs is log 2 - JS(pxq, qxp)",
  }
  names = [name.lower() for name in LOSSES]
  errors = last - limit
  found = [
    harness.all_agree(
      name, text, [errors[:, names.index(name)]], tolerance=REACHED
    )
    for name, text in texts.items()
  ]
  return [
    *found,
    harness.all_agree(
      "f_divergences",
      f"the variational loss of f ends at -D_f, for {', '.join(F_RATES)}",
      [errors[:, len(LOSSES) :]],
      tolerance=REACHED,
    ),
    harness.Claim(
      name="kto_above",
      statement="KTO stays above 1 - TV(p, q): the least excess of all steps",
      theory=0.0,
      measured=np.min(kto),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="kto_approach",
      statement="KTO approaches 1 - TV(p, q) as its flow, 2 r + 2 sinh r ="
      " (p - q) t: last excess over the flow's, the law furthest from 1",
      theory=1.0,
      measured=flow,
      # Descent is Euler's method for the flow: ahead of it by a share of order
      # rate log(t) / t.
      tolerance=0.01,
    ),
  ]


def values(*, laws: worlds.Laws, steps: int) -> harness.Part:
  """Claims on what gradient descent ends at.

  Args:
    laws: of good and bad completions.
    steps: of gradient descent.
  """
  path, limit = map(np.asarray, (descend(laws, steps=steps), limits(laws)))
  which = LOSSES.index("KTO")
  kto = path[..., which] - limit[:, which]
  times = RATE * np.arange(1, steps + 1)
  shown = np.unique(np.geomspace(1, steps, 100).round().astype(int))
  flow = kto_flow(laws, times[shown - 1])
  ratio = kto[-1] / flow[-1]
  furthest = ratio[np.argmax(np.abs(ratio - 1))]
  names = [*LOSSES, *F_RATES]
  curves = {
    "values/steps": shown,
    "values/path": path[shown],
    "values/limit": limit,
    "values/flow": flow,
    "values/last": path[-1],
  }
  table = harness.rows(loss=names, limit=limit[0], descent=path[-1, 0])
  claims = _claims(path[-1], kto, furthest, limit)
  title = "p = (.5, .3, .15, .05), q reversed: least values over free rewards"
  return harness.Part(claims, curves, {title: table})


def plot_paths(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """How the losses of the given law approach their limits."""
  steps = curves["values/steps"]
  excess = curves["values/path"][:, 0] - curves["values/limit"][0]
  for i, name in enumerate(LOSSES):
    # Beyond rounding there is nothing to see.
    seen = np.where(excess[:, i] > 1e-14, excess[:, i], np.nan)
    axes.plot(steps, seen, label=name, **plotting.line_style(i))
  flow = curves["values/flow"][:, 0]
  axes.plot(steps, flow, "k:", label="KTO, by its flow")
  axes.set(
    xscale="log",
    yscale="log",
    xlabel="step of gradient descent",
    ylabel="loss less its limit",
    title="Only KTO has no finite minimiser",
  )
  axes.legend()


def _against(axes: Axes, curves, first: int, names) -> None:
  limit, last = curves["values/limit"], curves["values/last"]
  low, high = np.inf, -np.inf
  for i, name in enumerate(names):
    x, y = limit[:, first + i], last[:, first + i]
    axes.plot(x, y, ".", label=name, color=f"C{i}")
    low, high = min(low, x.min()), max(high, x.max())
  axes.plot([low, high], [low, high], "k", lw=0.5, zorder=0)
  axes.set(ylabel="loss after descent")
  axes.legend()


def plot_values(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Final losses against divergences, of all laws."""
  _against(axes, curves, 0, LOSSES)
  axes.set(
    xlabel="-KL, 2 log 2 - 2 JS, 1 - TV, log 2 - JS of pairs",
    title="Losses estimate divergences",
  )


def plot_f_values(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Likewise, of other divergences."""
  _against(axes, curves, len(LOSSES), F_RATES)
  axes.set(xlabel="minus the divergence", title="Any f")

# SPDX-License-Identifier: Apache-2.0
"""Which policies the losses learn: rewards that are `beta log(pi/ref)`.

A policy's rewards are free but for one constraint, `E_ref e^h = 1`. Losses that
a constant added to all rewards does not change, or that have a constant of
their own, are not bound by it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.alignment_as_divergence import laws as worlds
from jaxalign import preference

BETA = 0.7
CONSISTENT = ("KLDO", "BCO, free shift", "DPO")
POLICIES = (*CONSISTENT, "BCO", "BCO, ref = q")
EXACT = 1e-8
RATE = 2.0  # below 2 over the largest curvature
# Equal losses agree to 1e-12: a million times as much is a difference.
DIFFERENT = 1e-6


def losses_of(law: worlds.Laws, logits: jax.Array, shift: jax.Array):
  """Losses `[policies]` of logits `[policies, 4]`, for one law."""
  at, labels = law.examples, worlds.LABELS
  h = jax.nn.log_softmax(logits) - jnp.log(law.ref)
  of_q = jax.nn.log_softmax(logits[-1]) - jnp.log(law.bad)

  def bco(rewards):
    out = preference.bco_loss(rewards[at], labels, 0.0, beta=1.0)
    return worlds.sum_of_means(out.loss)

  return jnp.stack(
    [
      preference.kldo_loss(h[0][at], labels, beta=BETA).loss,
      bco(BETA * h[1] - shift),
      worlds.dpo_of_pairs(law, h[2], beta=BETA),
      bco(BETA * h[3]),
      bco(of_q),  # beta = 1
    ]
  )


@functools.partial(jax.jit, static_argnames="steps")
def minimize(laws: worlds.Laws, *, steps: int) -> jax.Array:
  """Policies `[L, policies, 4]` after gradient descent from uniform ones.

  A loss that does not see constants has the same slopes in the logits as in
  the log-probabilities: descent is as fast as over free rewards.
  """

  def total(x):
    return jnp.sum(jax.vmap(losses_of)(laws, *x))

  def step(x, _):
    slopes = jax.grad(total)(x)
    return jax.tree.map(lambda a, b: a - RATE * b, x, slopes), None

  logits = jnp.zeros((len(laws.good), len(POLICIES), worlds.SIZE))
  (logits, _), _ = jax.lax.scan(
    step, (logits, jnp.zeros(len(laws.good))), length=steps
  )
  return jax.nn.softmax(logits)


def consistent(laws: worlds.Laws) -> np.ndarray:
  """`ref (p/q)^(1/beta)`, normalised, `[L, 4]`."""
  tilted = laws.ref * (laws.good / laws.bad) ** (1 / BETA)
  return tilted / tilted.sum(-1, keepdims=True)


def _bco(laws: worlds.Laws, rewards: np.ndarray) -> np.ndarray:
  """BCO's loss `[L]`, in expectation."""
  good, bad = np.logaddexp(0, -rewards), np.logaddexp(0, rewards)
  return np.sum(laws.good * good + laws.bad * bad, -1)


def _slopes(laws: worlds.Laws, policy: np.ndarray) -> np.ndarray:
  """What BCO's slopes in the rewards lack to be multiples of the policy."""
  reward = BETA * np.log(policy / laws.ref)
  slope = (laws.good + laws.bad) / (1 + np.exp(-reward)) - laws.good
  return slope - policy * slope.sum(-1, keepdims=True)


def claims(laws: worlds.Laws, found: np.ndarray) -> list[harness.Claim]:
  """What is claimed of `minimize`."""
  expected = consistent(laws)
  fixed, of_q = found[:, POLICIES.index("BCO")], found[:, -1]
  least = _bco(laws, np.log(laws.good / laws.bad))  # 2 log 2 - 2 JS
  excess = _bco(laws, BETA * np.log(fixed / laws.ref)) - least
  excess_of_q = _bco(laws, np.log(of_q / laws.bad)) - least
  names = {"KLDO": "kldo", "BCO, free shift": "bco_shift", "DPO": "dpo"}
  return [
    harness.all_agree(
      f"policy_{short}",
      f"{name} learns ref (p/q)^(1/beta): largest difference",
      [found[:, POLICIES.index(name)] - expected],
      tolerance=EXACT,
    )
    for name, short in names.items()
  ] + [
    harness.all_agree(
      "policy_bco",
      "BCO without a shift: its slopes in the rewards are a multiple of the"
      " policy, the multiplier of E_ref e^h = 1",
      [_slopes(laws, fixed)],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="bco_constrained",
      statement="BCO without a shift stays above 2 log 2 - 2 JS where E_ref"
      " (p/q)^(1/beta) is not 1: excess at the first law is more than a"
      " millionth",
      theory=DIFFERENT,
      measured=excess[0],
      tolerance=0.0,
      relation=">=",
    ),
    harness.all_agree(
      "bco_unconstrained",
      "BCO without a shift, ref = q and beta 1, where E_ref p/q = 1: the policy"
      " is p and the loss 2 log 2 - 2 JS",
      [of_q - laws.good, excess_of_q],
      tolerance=EXACT,
    ),
  ]


def policies(*, laws: worlds.Laws, steps: int) -> harness.Part:
  """Claims on the policies that losses learn.

  Args:
    laws: of good and bad completions, and the reference.
    steps: of gradient descent.
  """
  found = np.asarray(minimize(laws, steps=steps))
  shown = {
    "good": laws.good[0],
    "bad": laws.bad[0],
    "ref": laws.ref[0],
    "ref (p/q)^(1/beta)": consistent(laws)[0],
  } | dict(zip(POLICIES, found[0], strict=True))
  table = [
    {"law": name} | {f"y = {i}": float(x) for i, x in enumerate(law)}
    for name, law in shown.items()
  ]
  curves = {
    "policies/names": np.array(list(shown)),
    "policies/first": np.stack(list(shown.values())),
    "policies/found": found,
  }
  title = f"policies at beta {BETA} (ref = q: at 1)"
  return harness.Part(claims(laws, found), curves, {title: table})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Policies of the given law."""
  names = list(curves["policies/names"])
  shown = ["ref", "ref (p/q)^(1/beta)", "KLDO", "BCO, free shift", "DPO", "BCO"]
  width = 0.8 / len(shown)
  for i, name in enumerate(shown):
    at = np.arange(worlds.SIZE) + (i - (len(shown) - 1) / 2) * width
    law = curves["policies/first"][names.index(name)]
    axes.bar(at, law, width, label=name)
  axes.set(
    xlabel="outcome, from mostly good to mostly bad",
    ylabel="probability",
    xticks=range(worlds.SIZE),
    title=f"What is learnt at beta {BETA}",
  )
  axes.legend()

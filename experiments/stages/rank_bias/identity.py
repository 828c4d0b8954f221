# SPDX-License-Identifier: Apache-2.0
"""Rank bias without sampling: one exact gradient step on a softmax bandit."""

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from jaxalign.exact import bandit

PI = np.array([0.4, 0.25, 0.15, 0.08, 0.05, 0.04, 0.02, 0.01])
REWARDS = np.array([1.0, 0, 1, 0, 1, 0, 1, 1])
NUM_RANDOM = 50  # bandits to check the identity on


@jax.jit
def _exact(logits: jax.Array, rewards: jax.Array) -> tuple:
  """The gradient, the identity's change, and advantages: `[..., V]` each."""
  gradient = jax.grad(lambda x: bandit.bandit_value(x, rewards).sum())(logits)
  change = bandit.log_prob_change(logits, rewards)
  return gradient, change, bandit.bandit_advantages(logits, rewards)


def _changes(logits: np.ndarray, gradient: np.ndarray) -> tuple:
  """Of `log pi` along the plain and the natural gradient, by definition."""
  pi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  fisher = pi[..., None] * (np.eye(pi.shape[-1]) - pi[..., None, :])
  # The kernel of the Fisher matrix are the constants: with them added, it has
  # an inverse.
  natural = np.linalg.solve(fisher + 1, gradient[..., None])[..., 0]

  def along(direction):
    return direction - np.sum(pi * direction, -1, keepdims=True)

  return along(gradient), along(natural)


def identity(*, seed: int) -> harness.Part:
  """Claims on which correct answers a step makes rarer."""
  random = np.random.default_rng(seed)
  logits = random.normal(size=(NUM_RANDOM, len(PI)))
  rewards = random.normal(size=logits.shape)
  # The last of them is the example.
  logits[-1], rewards[-1] = np.log(PI), REWARDS
  gradient, change, advantages = map(np.asarray, _exact(logits, rewards))
  plain, natural = _changes(logits, gradient)
  example, fair = plain[-1], natural[-1]
  correct = REWARDS == 1
  value = PI @ REWARDS
  falls = PI * (1 - value) < np.sum(PI**2 * (REWARDS - value))
  claims = [
    harness.all_agree(
      "identity",
      "a step along the exact gradient changes log pi(a) by pi_a A_a - sum_b"
      " pi_b^2 A_b: largest difference",
      [plain - change],
      tolerance=1e-12,
    ),
    harness.all_agree(
      "identity_natural",
      "a step along the natural gradient changes log pi(a) by A_a, without any"
      " rank bias: largest difference",
      [natural - advantages],
      tolerance=1e-10,  # what solving with a near singular matrix leaves
    ),
    harness.Claim(
      name="identity_falls",
      statement="eight answers, five correct: correct ones that an exact step"
      " makes rarer, and as many as the condition says",
      theory=np.sum(falls & correct),
      measured=np.sum((example < 0) & correct),
      tolerance=0,
    ),
  ]
  curves = {
    "identity/pi": PI,
    "identity/correct": correct,
    "identity/change": example,
    "identity/natural": fair,
  }
  rows = harness.rows(
    pi=PI,
    correct=correct.astype(int),
    exact_gradient=example,
    natural_gradient=fair,
  )
  return harness.Part(claims, curves, {"change of log pi in one step": rows})


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Both changes, correct answers filled."""
  figure, axes = plotting.figure(1, 2, width=3.6)
  correct = curves["identity/correct"]
  places = np.arange(len(correct))
  for panel, key in zip(axes, ("change", "natural"), strict=True):
    bars = panel.bar(
      places, curves[f"identity/{key}"], color=np.where(correct, "C0", "C7")
    )
    bars[0].set_label("correct")
    bars[1].set_label("wrong")
    panel.set_xticks(places, [f"{p:g}" for p in curves["identity/pi"]])
    panel.set(xlabel="probability of the answer")
  axes[0].set(title="Exact gradient", ylabel="change of log pi, per unit rate")
  axes[1].set(title="Natural gradient")
  axes[0].legend()
  return figure

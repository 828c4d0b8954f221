# SPDX-License-Identifier: Apache-2.0
"""GRPO where nearly every sample fails, with and without explanations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.self_explanation import worlds
from jaxalign import numerics
from jaxalign.rl import advantages, self_explanation, surrogates

STEPS, NUM_GENERATIONS, RATE, BETA = 400, 8, 1.0, 0.1
CHECKPOINTS = (50, 100, 200, 400)
GAPS = (10.0, 20.0, 40.0)  # nats, of the expert's rationale


class Arm(NamedTuple):
  """What is added to GRPO.

  Attributes:
    beta: weight of the explanation at the start.
    end: the same after the last step.
    expert: whether the expert explains, not the policy.
    gap: nats by which the expert's rationale is below the others.
  """

  beta: float = BETA
  end: float = BETA
  expert: bool = False
  gap: float = GAPS[-1]


ARMS = {
  "GRPO": Arm(beta=0.0, end=0.0),
  "ExPO": Arm(),
  "ExPO, annealed": Arm(end=0.0),
  "expert, 10 nats": Arm(expert=True, gap=10.0),
  "expert, 20 nats": Arm(expert=True, gap=20.0),
  "expert, 40 nats": Arm(expert=True),
}


class Noise(NamedTuple):
  """Gumbel noise that steps draw from; axes `[S, STEPS]` stand in front.

  Attributes:
    rationale: `[G, C]`.
    answer: `[G, A]`.
    explanation: `[C]`.
  """

  rationale: jax.typing.ArrayLike
  answer: jax.typing.ArrayLike
  explanation: jax.typing.ArrayLike


def noise(rng: np.random.Generator, num_seeds: int) -> Noise:
  """Drawn on the host: a generator in the program takes longer to compile."""
  steps = num_seeds, STEPS
  return Noise(
    rng.gumbel(size=(*steps, NUM_GENERATIONS, worlds.NUM_RATIONALES)),
    rng.gumbel(size=(*steps, NUM_GENERATIONS, worlds.NUM_ANSWERS)),
    rng.gumbel(size=(*steps, worlds.NUM_RATIONALES)),
  )


def _step(
  policy: worlds.Policy, noise: Noise, beta: jax.Array, expert: jax.Array
) -> worlds.Policy:
  """One update on a group of samples and one explanation."""
  now = worlds.laws(policy)
  rationale = jnp.argmax(now.rationales + noise.rationale, -1)
  answer = jnp.argmax(now.answers[rationale] + noise.answer, -1)
  found = advantages.group_advantages(
    (answer == worlds.RIGHT).astype(now.success.dtype),
    num_generations=NUM_GENERATIONS,
  )
  own = jnp.argmax(now.posterior + noise.explanation)
  explanation = jnp.where(expert, worlds.EXPERT, own)

  def loss(policy):
    law = worlds.laws(policy)
    logp = law.rationales[rationale] + law.answers[rationale, answer]
    ratio = numerics.gradient_only(logp)  # on policy
    tokens = jnp.stack([law.rationales[explanation], law.right[explanation]])
    own_samples = jnp.mean(surrogates.clip_loss(ratio, found).loss)
    return own_samples + self_explanation.exp_sft_loss(tokens, beta)

  slope = jax.grad(loss)(policy)
  return jax.tree.map(lambda x, g: x - RATE * g, policy, slope)


@jax.jit
def train(noise: Noise, starts: worlds.Policy, arms: Arm) -> jax.Array:
  """Success `[arms, S, STEPS]` after each step.

  Args:
    noise: `[S, STEPS]`, shared by the arms.
    starts: `[arms, S]`.
    arms: `[arms]`.
  """

  def run(arm, start, noise):
    schedule = optax.linear_schedule(arm.beta, arm.end, STEPS)

    def body(policy, x):
      step, noise = x
      policy = _step(policy, noise, schedule(step), arm.expert)
      return policy, jnp.exp(worlds.laws(policy).success)

    return jax.lax.scan(body, start, (jnp.arange(STEPS), noise))[1]

  each = jax.vmap(jax.vmap(run, (None, 0, 0)), (0, 0, None))
  return each(arms, starts, noise)


def _claims(success: dict[str, np.ndarray]) -> list[harness.Claim]:
  own, plain = success["ExPO"], success["GRPO"]
  far = success["expert, 40 nats"]

  def claim(name, statement, theory, values, relation):
    return harness.Claim(
      name=name,
      statement=statement,
      theory=theory,
      measured=values.mean(),
      tolerance=0.0,
      relation=relation,
      interval=harness.confidence_interval(values),
    )

  return [
    claim(
      "expo_100",
      "mean success after 100 steps of GRPO with self-explanations",
      0.9,
      own[:, 99],
      ">=",
    ),
    claim(
      "grpo_100",
      "mean success after 100 steps of GRPO alone",
      0.1,
      plain[:, 99],
      "<=",
    ),
    claim(
      "expert_100",
      "mean success after 100 steps with an expert's rationale 40 nats below"
      " the policy's own",
      0.1,
      far[:, 99],
      "<=",
    ),
    claim(
      "gain_over_grpo",
      "mean success after 400 steps: self-explanations less GRPO alone",
      0.0,
      own[:, -1] - plain[:, -1],
      ">=",
    ),
    claim(
      "gain_over_expert",
      "mean success after 400 steps: self-explanations less the expert's"
      " rationale 40 nats below",
      0.0,
      own[:, -1] - far[:, -1],
      ">=",
    ),
  ]


def training(rng: np.random.Generator, policies: worlds.Policy) -> harness.Part:
  """Claims on who learns.

  Args:
    rng: the source of all draws.
    policies: `[S, gaps]`, for each of `GAPS`.
  """
  arms = Arm(*map(np.array, zip(*ARMS.values(), strict=True)))
  of_arm = [GAPS.index(gap) for gap in arms.gap]
  starts = jax.tree.map(lambda x: x.swapaxes(0, 1)[of_arm], policies)
  draws = noise(rng, len(policies.rationales))
  found = np.asarray(train(draws, starts, arms))
  names = np.array(list(ARMS))
  columns = {f"{t}": found[:, :, t - 1].mean(1) for t in CHECKPOINTS}
  reached = found > 0.5
  first = np.where(reached.any(-1), 1 + reached.argmax(-1), np.inf)
  columns["median step of 1/2"] = np.median(first, 1)
  return harness.Part(
    _claims(dict(zip(ARMS, found, strict=True))),
    {"training/arms": names, "training/success": found},
    {"mean success, by steps": harness.rows(arm=names, **columns)},
  )


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Success by step, with every run in thin lines."""
  figure, (axes,) = plotting.figure(width=6.0)
  for i, name in enumerate(curves["training/arms"]):
    runs = curves["training/success"][i]
    steps = 1 + np.arange(runs.shape[1])
    axes.plot(steps, runs.T, color=f"C{i}", linewidth=0.4, alpha=0.4)
    axes.plot(steps, runs.mean(0), color=f"C{i}", label=name)
  axes.set(
    xlabel="step",
    ylabel="success, mean and runs",
    title="7.5e-4 of the samples are right at the start",
  )
  axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
  return figure

# SPDX-License-Identifier: Apache-2.0
"""A linear task of two domains, one a hundredth of the other.

The domains share weights, and the small one has an offset of its own, of which
its 40 examples with noise say little more than there is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.learning import domain_sampling

DOMAINS = ("large", "small")
SIZES = np.array([4000.0, 40.0])
DIMENSION, OFFSET, NOISE, BATCH = 20, 1.2, 0.8, 2
STEPS, RATE, TAU = 1500, 0.3, 5.0
ARMS = (
  "proportional",
  "temperature",
  "cooldown",
  "scalarisation",
  "scalarisation, small steps",
)
DIVERGED = 1e3  # the error at the start is about 3
EVERY = 10  # steps between points of the plots


class Task(NamedTuple):
  """Examples, and what is drawn in each step; axis `[S]` stands in front.

  Attributes:
    truth: `[2, d]`, weights of the domains.
    features: `[4040, d]`.
    targets: `[4040]`.
    source: `[STEPS, B]`, uniform: the domain.
    example: `[STEPS, B]`, uniform: which of its examples.
  """

  truth: np.ndarray
  features: np.ndarray
  targets: np.ndarray
  source: np.ndarray
  example: np.ndarray


class Arm(NamedTuple):
  """How a run draws and weights.

  Attributes:
    tau: `[STEPS]`.
    weights: `[2]`, of losses by domain.
    rate: `[]`, step size.
  """

  tau: jax.typing.ArrayLike
  weights: jax.typing.ArrayLike
  rate: jax.typing.ArrayLike


def tasks(rng: np.random.Generator, num_seeds: int) -> Task:
  """Draws the tasks of all seeds."""
  shared, own = rng.normal(size=(2, num_seeds, DIMENSION))
  truth = np.stack([shared, shared + OFFSET * own], 1)
  number = SIZES.astype(int)
  features = rng.normal(size=(num_seeds, number.sum(), DIMENSION))
  features /= np.sqrt(DIMENSION)
  weights = np.repeat(truth, number, 1)
  targets = np.sum(features * weights, -1)
  targets += np.sqrt(NOISE) * rng.normal(size=targets.shape)
  draws = rng.random((2, num_seeds, STEPS, BATCH))
  return Task(truth, features, targets, *draws)


def arms() -> Arm:
  """All arms, `[A, ...]`."""
  p1, p = (
    domain_sampling.temperature_weights(SIZES, tau) for tau in (1.0, TAU)
  )
  one, high = np.ones(STEPS), np.full(STEPS, TAU)
  cool = domain_sampling.cooldown_tau(np.arange(STEPS), STEPS, hi=TAU)
  equal, raised = np.ones(2), np.asarray(p / p1)
  return Arm(
    tau=np.stack([one, high, cool, one, one]),
    weights=np.stack([equal, equal, equal, raised, raised]),
    rate=RATE / np.array([1, 1, 1, 1, raised.max()]),
  )


def _errors(weights: jax.Array, truth: jax.Array) -> jax.Array:
  """Expected squared error `[2]` on new examples, with their noise."""
  offset = jnp.stack([weights[0], weights.sum(0)]) - truth
  return jnp.mean(offset**2, -1) + NOISE


@jax.jit
def train(task: Task, arm: Arm) -> jax.Array:
  """Errors `[A, S, STEPS, 2]`."""

  def run(arm, task):
    def step(weights, drawn):
      tau, source, example = drawn
      shares = domain_sampling.temperature_weights(SIZES, tau)
      small = source < shares[1]
      size = jnp.where(small, SIZES[1], SIZES[0])
      row = jnp.floor(example * size) + jnp.where(small, SIZES[0], 0)
      row = row.astype(jnp.int32)
      x, y = task.features[row], task.targets[row]
      inputs = jnp.stack([x, jnp.where(small[:, None], x, 0)])
      error = jnp.einsum("kbd,kd->b", inputs, weights) - y
      error = error * arm.weights[small.astype(jnp.int32)]
      slope = jnp.einsum("kbd,b->kd", inputs, error) / BATCH
      weights = weights - arm.rate * slope
      return weights, _errors(weights, task.truth)

    start = jnp.zeros((2, DIMENSION))
    drawn = arm.tau, task.source, task.example
    return jax.lax.scan(step, start, drawn)[1]

  return jax.vmap(jax.vmap(run, (None, 0)), (0, None))(arm, task)


def training(rng: np.random.Generator, *, num_seeds: int) -> harness.Part:
  """Claims on errors after training.

  Args:
    rng: the source of all draws, which are the same for all arms.
    num_seeds: tasks.
  """
  errors = np.asarray(train(tasks(rng, num_seeds), arms()))
  small = dict(zip(ARMS, errors[..., 1], strict=True))
  end = {name: path[:, -1] for name, path in small.items()}
  warm = round(0.3 * STEPS)
  diverged = {
    name: np.mean(~(path[:, -1] < DIVERGED)) for name, path in small.items()
  }
  claims = [
    harness.bounded_mean(
      "temperature_gain",
      "error on the small domain after training: in proportion less by"
      " temperature",
      end["proportional"] - end["temperature"],
      0.0,
      ">=",
    ),
    harness.bounded_mean(
      "temperature_overfits",
      "error on the small domain by temperature: after all steps less after"
      " 30 % of them",
      end["temperature"] - small["temperature"][:, warm - 1],
      0.0,
      ">=",
    ),
    harness.bounded_mean(
      "cooldown_gain",
      "error on the small domain after training: by temperature less by"
      " Cooldown",
      end["temperature"] - end["cooldown"],
      0.0,
      ">=",
    ),
    harness.Claim(
      "scalarisation_diverges",
      "share of runs in which scalarisation diverges at the others' step size",
      theory=0.9,
      measured=diverged["scalarisation"],
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      "small_steps_converge",
      "share of runs that diverge otherwise, scalarisation with its step over"
      " its largest weight among them",
      theory=0.0,
      measured=max(v for k, v in diverged.items() if k != "scalarisation"),
      tolerance=0.0,
    ),
  ]
  rows = [
    {
      "arm": name,
      "large": float(np.mean(errors[i, :, -1, 0])),
      "small": float(np.mean(end[name])),
      "small, best": float(np.min(np.mean(small[name], 0))),
      "diverged": float(diverged[name]),
    }
    for i, name in enumerate(ARMS)
  ]
  shown = np.arange(EVERY - 1, STEPS, EVERY)
  curves = {"training/steps": shown + 1}
  for i, name in enumerate(ARMS):
    for k, domain in enumerate(DOMAINS):
      curves[f"training/{name}/{domain}"] = errors[i][:, shown, k]
  return harness.Part(claims, curves, {"error after training": rows})


def plot(axes: Axes, curves: dict[str, np.ndarray], domain: str) -> None:
  """Errors on one domain; of what diverges, the median."""
  steps = curves["training/steps"]
  for i, name in enumerate(ARMS):
    path = curves[f"training/{name}/{domain}"]
    if name == "scalarisation":
      axes.plot(
        steps, np.median(path, 0), color=f"C{i}", label=f"{name} (median)"
      )
    else:
      plotting.band(axes, steps, path, name, color=f"C{i}")
  axes.set(
    xlabel="step",
    ylabel="squared error",
    ylim=(NOISE, 3.3),
    title=f"{domain} domain ({SIZES[DOMAINS.index(domain)]:g} examples)",
  )
  if domain == "large":
    axes.legend()

# SPDX-License-Identifier: Apache-2.0
"""Rewards .1 and 1.9 with even chances: what learning of their mean finds."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from jaxalign.rl import value_mapping

LOW, HIGH = 0.1, 1.9
CHANNELS = (value_mapping.Channel(lambda r: r, 1.0, value_mapping.log_map()),)
BEFORE = (0.005, 0.25, 0.5, 0.75, 1.0)  # b_reg
AFTER = 0.005  # b_f, and 1 with the first
STEPS = 20_000


def limit(before: np.ndarray) -> np.ndarray:
  """Where the mapped value's expected step is 0, for small steps after the map.

  `E log((1-b) Q + b r) = log Q`, for two rewards a quadratic; b = 1 is the
  geometric mean, b = 0 the arithmetic mean.
  """
  b = np.asarray(before)
  product, mean = LOW * HIGH, (LOW + HIGH) / 2
  half = (1 - b) * mean
  return (half + np.sqrt(half**2 + (2 - b) * b * product)) / (2 - b)


@jax.jit
def run(rewards: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
  """Learned values after each step, `[arms, seeds, STEPS]`."""

  def learn(before, after, rewards):
    def step(mapped, reward):
      mapped = value_mapping.mapped_q_learning_step(
        mapped,
        CHANNELS,
        0,
        0,
        reward,
        0,
        discount=0.0,
        value_rate=before,
        mapped_rate=after,
      )
      return mapped, mapped[0, 0, 0]

    start = jnp.zeros((1, 1, 1))  # a value of 1
    return jax.lax.scan(step, start, rewards)[1]

  seeds = jax.vmap(learn, (None, None, 0))
  mapped = jax.vmap(seeds, (0, 0, None))(before, after, rewards)
  return CHANNELS[0].value_map.inverse(mapped)


def averaging(*, seeds: range) -> harness.Part:
  """Claims on the limits.

  Args:
    seeds: of independent runs.
  """
  after = np.full(len(BEFORE), AFTER)
  after[0] = 1.0  # steps before the map alone
  rng = np.random.default_rng(seeds.start)
  rewards = rng.choice([LOW, HIGH], (len(seeds), STEPS))
  found = np.asarray(run(rewards, np.array(BEFORE), after))
  late = found[:, :, STEPS // 2 :]
  # After the map it is the logarithm that settles around its limit.
  settled = np.exp(np.log(late).mean(-1))
  settled[0] = late[0].mean(-1)
  theory = limit(np.array(BEFORE))
  theory[0] = (LOW + HIGH) / 2
  claims = [
    _claim("before", "averaged before the map alone", theory[0], settled[0]),
    _claim(
      "between", "half way before, small steps after", theory[2], settled[2]
    ),
    _claim("after", "averaged after the map alone", theory[-1], settled[-1]),
  ]
  table = harness.rows(
    before_the_map=BEFORE,
    after_it=after,
    learned=settled.mean(1),
    theory=theory,
  )
  kept = slice(None, None, STEPS // 200)
  curves = {
    "averaging/steps": np.arange(STEPS)[kept],
    "averaging/before": np.array(BEFORE),
    "averaging/values": found[:, :, kept],
    "averaging/theory": theory,
  }
  title = "rewards .1 and 1.9: value learned"
  return harness.Part(claims, curves, {title: table})


def _claim(name: str, where: str, theory: float, values: np.ndarray):
  # Of the mean of all late rewards; the map only shrinks what is left of it.
  error = (HIGH - LOW) / 2 / np.sqrt(len(values) * STEPS / 2)
  return harness.Claim(
    name=f"averaging_{name}",
    statement=f"rewards .1 and 1.9, {where}: the value learned",
    theory=theory,
    measured=values.mean(),
    # Steps of .005 after the map move the limit by about as much.
    tolerance=harness.STANDARD_ERRORS * error + AFTER,
    interval=harness.confidence_interval(values),
  )


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """What is learned, and the limits."""
  figure, (axes,) = plotting.figure()
  for i, before in enumerate(curves["averaging/before"]):
    label = f"step before the map {before:g}"
    style = plotting.line_style(i)
    plotting.band(
      axes, curves["averaging/steps"], curves["averaging/values"][i], label,
      **style,
    )  # fmt: skip
    axes.axhline(
      curves["averaging/theory"][i], color=style["color"], linestyle=":"
    )
  axes.set(
    xlabel="update",
    ylabel="value learned",
    title="rewards .1 and 1.9",
    ylim=(0.3, 1.6),
  )
  axes.legend()
  return figure

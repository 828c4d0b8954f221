# SPDX-License-Identifier: Apache-2.0
"""Preimages counted with signs, and residual linear attention."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from jaxalign.learning import degree, linear_attention, surjectivity

NUM_NETS, HIDDEN, NUM_STARTS = 12, 32, 512
EPS, SCALE = 1e-2, 2.0
WIDTH, LENGTH = 6, 5
ACCURATE = 1e-6


@jax.jit
def _preimages(key, weights, y):
  """Of planar maps `x + W' tanh(W rms_norm(x))`, one for each target."""

  def run(key, up, down, y):
    def f(x):
      return jnp.tanh(surjectivity.rms_norm(x, eps=EPS) @ up) @ down

    # |tanh| of HIDDEN entries is shorter than their root.
    radius = jnp.linalg.norm(down, 2) * math.sqrt(HIDDEN)
    return degree.signed_preimages(
      key, f, y, radius=radius, num_starts=NUM_STARTS
    )

  return jax.vmap(run)(jax.random.split(key, len(y)), *weights, y)


def degrees(rng: np.random.Generator) -> harness.Part:
  """Claims on counts with signs."""
  up = SCALE * rng.normal(size=(NUM_NETS, 2, HIDDEN)) / math.sqrt(2)
  down = SCALE * rng.normal(size=(NUM_NETS, HIDDEN, 2)) / math.sqrt(HIDDEN)
  y = rng.normal(size=(NUM_NETS, 2))
  key = jax.random.key(rng.integers(2**31))
  found = jax.tree.map(np.asarray, _preimages(key, (up, down), y))
  claims = [
    harness.all_agree(
      "degree",
      "preimages of planar pre-norm maps, counted with the signs of their"
      " slopes, sum to 1: largest difference",
      [found.degree - 1],
      tolerance=0.0,
    ),
    harness.Claim(
      name="several",
      statement="some target has several preimages: most of a target",
      theory=3.0,
      measured=found.count.max(),
      tolerance=0.0,
      relation=">=",
    ),
  ]
  tables = {
    "preimages of planar maps": harness.rows(
      net=np.arange(NUM_NETS), preimages=found.count, signed=found.degree
    )
  }
  most = int(found.count.argmax())
  own = found.where[most]
  curves = {
    "degree/count": found.count,
    "degree/up": up[most],
    "degree/down": down[most],
    "degree/target": y[most],
    "degree/x": found.x[most][own],
    "degree/sign": found.sign[most][own],
  }
  return harness.Part(claims, curves, tables)


@jax.jit
def _invert_attention(a, b, y):
  """Inverses, and errors `[N]` over the bound on the terms they sum."""

  def run(a, b, y):
    found = linear_attention.linear_attention_inverse(
      a, b, y, tolerance=math.inf
    )
    x = found.x
    error = linear_attention.residual_linear_attention(x, a, b) - y
    # Of each term the bound on its size: rounding within it is of that order.
    length = jnp.linalg.norm(x, axis=-1)
    most = jnp.linalg.norm(a, 2) * jnp.linalg.norm(b, 2)
    terms = length * (1 + most * jnp.cumsum(length**2))
    return found, jnp.max(jnp.linalg.norm(error, axis=-1) / terms)

  return jax.vmap(run)(a, b, y)


def linear(rng: np.random.Generator, *, num_instances: int) -> harness.Part:
  """Claims on linear attention.

  Args:
    rng: the source of matrices and targets.
    num_instances: how many.
  """
  size = (num_instances, WIDTH, WIDTH)
  a, b = rng.normal(size=(2, *size)) / math.sqrt(WIDTH)
  y = rng.normal(size=(num_instances, LENGTH, WIDTH))
  found, of_terms = jax.tree.map(np.asarray, _invert_attention(a, b, y))
  claims = [
    # Some preimages, close to a pole, are thousands of times longer than their
    # targets: the error over the target is no measure for them.
    harness.all_agree(
      "linear_attention",
      "residual causal linear attention is inverted at every target, up to"
      " rounding: largest error over the bound on the size of its terms",
      [of_terms],
      tolerance=1e-15,  # some last digits
    ),
    harness.Claim(
      name="linear_attention_median",
      statement="and the median of the error over the target is rounding",
      theory=0.0,
      measured=np.median(found.residual),
      tolerance=1e-12,
    ),
  ]
  tables = {
    "linear attention, errors over the target": harness.rows(
      instances=num_instances,
      within_1e_6=(found.residual <= ACCURATE).mean(),
      median=np.median(found.residual),
      largest=found.residual.max(),
    )
  }
  return harness.Part(claims, {"linear/error": found.residual}, tables)


def plot_degree(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Where a planar map with several preimages hits its target."""
  up, down, y = (curves[f"degree/{k}"] for k in ("up", "down", "target"))
  x, sign = curves["degree/x"], curves["degree/sign"]
  reach = 1.3 * np.abs(np.concatenate([x, y[None]])).max()
  line = np.linspace(-reach, reach, 400)
  grid = np.stack(np.meshgrid(line, line), -1)
  normed = grid / np.sqrt((grid**2).mean(-1, keepdims=True) + EPS)
  error = grid + np.tanh(normed @ up) @ down - y
  for i in range(2):
    axes.contour(line, line, error[..., i], [0], colors=f"C{i}", linewidths=1)
  for value, marker in ((1, "+"), (-1, "_")):
    at = x[sign == value]
    label = f"sign {value:+d}"
    axes.scatter(*at.T, c="k", marker=marker, s=90, label=label, zorder=3)
  axes.set(
    xlabel="$x_1$",
    ylabel="$x_2$",
    title="preimages: lines where an entry is on target",
  )
  axes.legend()

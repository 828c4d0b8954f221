# SPDX-License-Identifier: Apache-2.0
"""What is not onto, and by how much."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from jaxalign.learning import degree, surjectivity

WIDTH, NUM_INPUTS, SLOPE = 8, 4096, 0.1
# Attention over two tokens of one entry each: inputs up to `INPUT`, of which
# more reach nothing new, and outputs in cells up to `OUTPUT`.
INPUT, OUTPUT, NUM_POINTS, NUM_CELLS = 6.0, 2.0, 1201, 40
SIGNS = {"minus": -1.0, "plus": 1.0}


def attention_pairs(sign: float) -> np.ndarray:
  """Softmax attention without residual on a grid of inputs, `[2, N, N]`.

  Logits are `sign x_i x_j`, values the inputs themselves.
  """
  line = np.linspace(-INPUT, INPUT, NUM_POINTS)
  x = np.stack(np.meshgrid(line, line, indexing="ij"))
  other = x[::-1]
  # Weight of the other token: sigmoid of the difference of logits.
  weight = 1 / (1 + np.exp(-sign * x * (other - x)))
  return x + weight * (other - x)


def cells(sign: float) -> np.ndarray:
  """How many grid points reach each cell, `[NUM_CELLS, NUM_CELLS]`."""
  first, second = attention_pairs(sign).reshape(2, -1)
  span = [(-OUTPUT, OUTPUT)] * 2
  return np.histogram2d(first, second, NUM_CELLS, span)[0]


def attention() -> harness.Part:
  """Claims on which outputs no input reaches."""
  hits = {name: cells(sign) for name, sign in SIGNS.items()}
  missed = {name: (h == 0).mean() for name, h in hits.items()}
  claims = [
    harness.Claim(
      name="attention_misses",
      statement="softmax attention without residual, with logits -x_i x_j,"
      " never reaches some 22 % of the cells of its outputs: share",
      theory=0.22,
      measured=missed["minus"],
      tolerance=0.005,
    ),
    harness.Claim(
      name="attention_reaches",
      statement="and with logits x_i x_j it reaches them all: share missed",
      theory=0.0,
      measured=missed["plus"],
      tolerance=0.0,
    ),
  ]
  curves = {f"cells/{name}": h > 0 for name, h in hits.items()}
  return harness.Part(claims, curves, {})


def _norms(rng: np.random.Generator) -> list[harness.Claim]:
  """A normalisation at the end keeps outputs short."""
  y = rng.normal(size=(NUM_INPUTS, WIDTH))
  y -= y.mean(-1, keepdims=True)
  length = np.linalg.norm(y, axis=-1)
  y *= ((1 + rng.random(NUM_INPUTS)) * math.sqrt(WIDTH) / length)[:, None]
  x = rng.normal(size=y.shape) * 10 ** rng.uniform(-3, 3, (NUM_INPUTS, 1))
  # Half of the inputs are those that come closest: the target itself, longer.
  x[::2] = 1e4 * y[::2]
  out = np.asarray(jax.nn.standardize(jnp.asarray(x), epsilon=1e-5))
  distance = np.linalg.norm(out - y, axis=-1)
  least = np.linalg.norm(y, axis=-1) - math.sqrt(WIDTH)
  return [
    harness.none_exceeds(
      "post_norm",
      "an output after LayerNorm stays away from y by |y| - sqrt d at least:"
      " largest shortfall",
      [least - distance],
      tolerance=1e-12,  # last digits of lengths of some 10
    ),
    harness.all_agree(
      "post_norm_least",
      "and comes as close for inputs along y: largest difference",
      [(distance - least)[::2]],
      tolerance=1e-9,  # of eps / |x|^2 at |x| of some 1e4
    ),
  ]


def _layers(rng: np.random.Generator) -> list[harness.Claim]:
  """A last ReLU cuts off, LeakyReLU does not."""
  layers = [
    (rng.normal(size=(WIDTH, WIDTH)) / math.sqrt(WIDTH), rng.normal(size=WIDTH))
    for _ in range(3)
  ]
  # How far errors of a preimage may be enlarged on their way, and back.
  enlarged = np.prod([np.linalg.cond(weight) / SLOPE for weight, _ in layers])
  y = 3 * rng.normal(size=(64, WIDTH))
  x = y
  for weight, bias in reversed(layers):
    x = np.asarray(
      surjectivity.leaky_relu_inverse(x, weight, bias, slope=SLOPE)
    )
  relu = x
  for weight, bias in layers:
    x = np.asarray(jax.nn.leaky_relu(x @ weight + bias, SLOPE))
    relu = np.maximum(relu @ weight + bias, 0)
  return [
    harness.all_agree(
      "leaky_relu",
      "square layers with LeakyReLU are inverted up to rounding: largest error"
      " over the product of the layers' condition numbers",
      [(x - y) / enlarged],
      tolerance=1e-15,  # last digits of entries of some 10
    ),
    harness.none_exceeds(
      "relu",
      "a last ReLU gives no negative entry: largest of their negatives",
      [-relu],
      tolerance=0.0,
    ),
  ]


def _absolute_value(rng: np.random.Generator) -> list[harness.Claim]:
  """|x| = relu(x) + relu(-x) has two preimages or none."""

  def search(y):
    return degree.signed_preimages(
      jax.random.key(0),
      lambda x: jnp.abs(x) - x,
      y,
      radius=2 * abs(targets).max(),
      num_starts=64,
    )

  targets = rng.uniform(0.5, 2, size=(8, 1)) * np.array([[1], [-1]] * 4)
  found = jax.tree.map(np.asarray, jax.jit(jax.vmap(search))(targets))
  return [
    harness.all_agree(
      "absolute_value",
      "|x| = relu(x) + relu(-x) has degree 0: two preimages of opposite sign"
      " above 0, none below; largest difference of counts and sums",
      [found.count - np.where(targets[:, 0] > 0, 2, 0), found.degree],
      tolerance=0.0,
    )
  ]


def layers(rng: np.random.Generator) -> harness.Part:
  """Claims on normalisations, ReLU, LeakyReLU and |x|."""
  claims = [*_norms(rng), *_layers(rng), *_absolute_value(rng)]
  return harness.Part(claims, {}, {})


def plot(axes: Axes, curves: dict[str, np.ndarray], name: str) -> None:
  """The cells that are reached."""
  axes.imshow(
    curves[f"cells/{name}"].T,
    origin="lower",
    extent=(-OUTPUT, OUTPUT) * 2,
    cmap="Blues",
    vmin=-0.3,
    vmax=1.5,
  )
  sign = {"minus": "-", "plus": ""}[name]
  missed = 1 - curves[f"cells/{name}"].mean()
  axes.set(
    xlabel="first output",
    ylabel="second output",
    title=f"attention, logits ${sign}x_i x_j$: {missed:.0%} missed (pale)",
  )
  axes.grid(visible=False)

# SPDX-License-Identifier: Apache-2.0
"""What losses of group means are off by, over all groups of a small law.

Squares of means are too large by the variance of the means; mIPO takes off its
unbiased estimate.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from jaxalign import preference

SIZES = (2, 3, 4)
TAU, BETA = 0.5, 1.0


@jax.jit
def expectations(h, chosen, rejected) -> jax.Array:
  """Of mIPO, of the plain square and of mDPO `[sizes, 3]`, over all groups.

  Args:
    h: `[n]`, log-ratios of outcomes.
    chosen: `[n]`, law of the preferred completions.
    rejected: `[n]`, of the others.
  """
  found = []
  for k in SIZES:
    listed = np.array(list(itertools.product(range(h.shape[-1]), repeat=k)))
    weights = [jnp.prod(law[listed], -1) for law in (chosen, rejected)]
    size = (len(listed), len(listed), k)
    first = jnp.broadcast_to(h[listed][:, None], size)
    second = jnp.broadcast_to(h[listed][None], size)
    mipo = preference.mipo_loss(first, second, tau=TAU)
    gap = jnp.mean(first, -1) - jnp.mean(second, -1)
    plain = (gap - 1 / (2 * TAU)) ** 2
    mdpo = preference.mdpo_loss(first, second, beta=BETA)
    found.append(
      [weights[0] @ x @ weights[1] for x in (mipo.loss, plain, mdpo.loss)]
    )
  return jnp.array(found)


def moments(h, chosen, rejected) -> tuple[float, float]:
  """The gap of the two expectations, and the sum of the two variances."""
  means = [law @ h for law in (chosen, rejected)]
  variances = [
    law @ (h - mean) ** 2
    for law, mean in zip((chosen, rejected), means, strict=True)
  ]
  return means[0] - means[1], sum(variances)


def bias(*, seeds: range) -> harness.Part:
  """Claims on the bias of losses of groups.

  Args:
    seeds: of laws and log-ratios.
  """
  found, gaps, noise = [], [], []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    world = rng.normal(size=3), *rng.dirichlet(np.ones(3), 2)
    found.append(expectations(*world))
    gap, variance = moments(*world)
    gaps.append(gap)
    noise.append(variance)
  mipo, plain, mdpo = np.moveaxis(np.array(found), -1, 0)  # [seeds, sizes]
  gaps, noise = np.array(gaps)[:, None], np.array(noise)[:, None]
  true = (gaps - 1 / (2 * TAU)) ** 2
  of_means = np.logaddexp(0, -BETA * gaps)
  claims = [
    harness.all_agree(
      "mipo_unbiased",
      "mIPO's expectation over all groups is the loss of expectations, for k ="
      " 2, 3, 4",
      [mipo - true],
      tolerance=1e-12,
    ),
    harness.all_agree(
      "mipo_naive",
      "without its correction it is too large by (Var h_w + Var h_l)/k",
      [plain - true - noise / np.array(SIZES)],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="mdpo_biased",
      statement="mDPO's expectation over groups exceeds the loss of"
      " expectations (Jensen): the mean excess is more than a millionth",
      theory=1e-6,
      measured=np.mean(mdpo - of_means),
      tolerance=0.0,
      relation=">=",
    ),
  ]
  curves = {
    "bias/mipo": mipo - true,
    "bias/naive": plain - true,
    "bias/mdpo": mdpo - of_means,
    "bias/noise": noise[:, 0],
  }
  table = harness.rows(
    k=SIZES,
    true=true[0],
    mIPO=mipo[0],
    naive=plain[0],
    by_formula=true[0] + noise[0] / np.array(SIZES),
  )
  title = "first law: expected squared loss of groups"
  return harness.Part(claims, curves, {title: table})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Biases by the size of groups, means over laws."""
  k = np.linspace(SIZES[0], SIZES[-1], 50)
  noise = curves["bias/noise"].mean()
  axes.plot(k, noise / k, "k:", label="(Var + Var)/k")
  labels = {"naive": "mIPO, uncorrected", "mipo": "mIPO", "mdpo": "mDPO"}
  for i, (name, label) in enumerate(labels.items()):
    mean = curves[f"bias/{name}"].mean(0)
    axes.plot(SIZES, mean, "o", label=label, color=f"C{i}")
  axes.set(
    xlabel="completions in a group",
    ylabel="expected excess",
    xticks=SIZES,
    title="What finite groups add",
  )
  axes.legend()

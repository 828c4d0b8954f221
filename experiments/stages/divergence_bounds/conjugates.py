# SPDX-License-Identifier: Apache-2.0
"""Every generator of the registry, against its convex conjugate.

Measured is by how much Fenchel's equality `f*(f'(u)) = u f'(u) - f(u)` fails.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.divergence_bounds import registry
from jaxalign.divergences import generators

_RATIOS = np.geomspace(1e-3, 1e3, 601)  # its middle is 1


@jax.jit
def evaluate_generators(u: jax.Array) -> dict[str, tuple]:
  """f, f', f'' and `f*(f'(u))` of every generator at u `[N]`."""
  values = {}
  for name, div in registry.registry().items():
    slope = div.f_prime(u)
    values[name] = (div.f(u), slope, div.f_second(u), div.conjugate(slope))
  return values


def conjugates() -> harness.Part:
  """Claim, curves and a table of all generators."""
  u = _RATIOS
  found = jax.tree.map(np.asarray, evaluate_generators(jnp.asarray(u)))
  curves, rows, gaps = {"u": u}, [], []
  for name, div in registry.registry().items():
    f, slope, second, conjugate = found[name]
    curves |= {f"f/{name}": f, f"f_prime/{name}": slope}
    gaps.append((conjugate - (u * slope - f)) / (1 + np.abs(f)))
    rows.append(
      {
        "divergence": div.name,
        "f(0)": div.f_zero,
        "f'(inf)": div.f_prime_inf,
        "largest": div.f_zero + div.f_prime_inf,
        "f''(1)": second[u.size // 2],
      }
    )
  claim = harness.all_agree(
    "fenchel_equality",
    "f*(f'(u)) = u f'(u) - f(u) for every generator, u from .001 to 1000:"
    " largest relative error",
    gaps,
    tolerance=1e-12,  # rounding
  )
  return harness.Part([claim], curves, {"generators": rows})


def plot(curves: dict[str, np.ndarray]):
  """Generators, derivatives and what f grows like."""
  figure, (values, slopes, tails) = plotting.figure(1, 3, width=3.8, height=3.6)
  u = curves["u"]
  low, high = (u >= 0.02) & (u <= 4), u > 1
  for i, name in enumerate(generators.NAMES):
    f, f_prime = curves[f"f/{name}"], curves[f"f_prime/{name}"]
    values.plot(u[low], f[low], label=name, **plotting.line_style(i))
    slopes.plot(u[low], f_prime[low], **plotting.line_style(i))
    tails.plot(u[high], f[high] / u[high], **plotting.line_style(i))
  values.set(ylabel="f(u)", title="generator", ylim=(-0.5, 3))
  slopes.set(ylabel="f'(u)", title="derivative", ylim=(-4, 4))
  tails.set(
    xscale="log", ylabel="f(u) / u", title="tail: f'(inf)", ylim=(-0.4, 2.5)
  )
  for axes in (values, slopes, tails):
    axes.set_xlabel("u = p/q")
  figure.legend(loc="outside lower center", ncols=6, frameon=False)
  return figure

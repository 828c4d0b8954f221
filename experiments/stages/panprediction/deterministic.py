# SPDX-License-Identifier: Apache-2.0
"""Deterministic predictions from samples: what is guaranteed, what suffices.

The large world has more points than the smallest samples, so that a sample says
nothing about most of them. Its errors are exact, over the whole population.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages import online_rates
from experiments.stages.panprediction import worlds
from jaxalign.learning import online_calibration as online
from jaxalign.learning import sample_reuse, step_calibration

SCHEMES = ("fresh", "counted", "noisy")
# Audits that get a sample of their own when fewer samples are tried: runs that
# need more count as failed.
MOST_BATCHES = 128


def plan_of(eps: float, world: worlds.World, scheme: str):
  """The guaranteed plan for a world."""
  fixed = world.H.shape[0] * world.actions.size
  return sample_reuse.patching_plan(eps, world.G.shape[0], fixed, scheme=scheme)


@functools.partial(jax.jit, static_argnames="m")
def _run(keys, f, w, world, plan, m):
  """Patches in every run `[S, ...]`; one program serves plans of one grid."""
  _, _, *tests = world

  def run(key, f, w):
    whole = plan._replace(m=m)
    return sample_reuse.patch_on_samples(key, f, w, *tests, whole)

  return jax.vmap(run)(keys, f, w)


@jax.jit
def _population_errors(p, world):
  error = step_calibration.step_calibration_error
  return jax.vmap(lambda p: error(p, *world))(p)


def _patch(rng, world: worlds.World, plan, batch_size: int, num_seeds: int):
  """Errors, steps and convergence of runs on samples of a size."""
  batches = min(plan.num_batches, MOST_BATCHES)
  f, w = worlds.draw_counts(rng, world, batch_size, (num_seeds, batches))
  keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), num_seeds)
  arrays = jax.tree.map(jnp.asarray, (f, w, world))
  if plan.num_batches > batches:
    plan = plan._replace(max_patches=batches - 1)
  found = _run(keys, *arrays, plan, plan.m)
  error = np.asarray(_population_errors(found.predictions, arrays[-1]))
  return error, np.asarray(found.steps), np.asarray(found.converged)


def _exponent(slope: np.ndarray, power: int) -> tuple[float, float, float]:
  """Mean over runs `[S]` of a slope, to a power, with its interval's ends."""
  low, high = harness.confidence_interval(slope)
  # The inverse of an interval that holds 0 is unbounded.
  high = high if power == 1 or high < 0 else -0.0
  with np.errstate(divide="ignore"):
    ends = np.array([low, high, slope.mean()]) ** power
  return -ends[2], *sorted(-ends[:2])


def _exponent_rows(exponents: dict[str, tuple[float, float, float]]):
  found = np.array(list(exponents.values()))
  return harness.rows(
    scheme=np.array(list(exponents)),
    exponent=found[:, 0],
    low=found[:, 1],
    high=found[:, 2],
  )


def guaranteed(
  rng: np.random.Generator,
  world: worlds.World,
  *,
  targets: tuple[float, ...],
  num_seeds: int,
) -> harness.Part:
  """Claims on the errors that planned samples reach.

  Args:
    rng: of samples and noise.
    world: the population.
    targets: eps, falling.
    num_seeds: runs for each.
  """
  eps = np.array(targets)
  plans = {
    scheme: [plan_of(e, world, scheme) for e in targets] for scheme in SCHEMES
  }
  errors = {
    scheme: np.stack(
      [
        _patch(rng, world, p, p.num_samples, num_seeds)[0]
        for p in plans[scheme]
      ]
    )
    for scheme in SCHEMES[1:]
  }
  # Powers of the guarantees themselves, where logarithms hardly count.
  power = {
    scheme: math.log10(
      plan_of(1e-7, world, scheme).num_samples
      / plan_of(1e-6, world, scheme).num_samples
    )
    for scheme in SCHEMES
  }
  claims = [
    harness.none_exceeds(
      f"{scheme}_sample_suffices",
      f"mean step calibration error less eps at the planned sample: {text}",
      [errors[scheme].mean(1) - eps],
      tolerance=0.0,
    )
    for scheme, text in (
      ("counted", "one sample for all audits, no noise"),
      ("noisy", "one sample for all audits, with noise"),
    )
  ] + [
    harness.Claim(
      name=f"{scheme}_power",
      statement=f"n as a power of 1/eps in the guarantee: {text}",
      theory=theory,
      measured=power[scheme],
      tolerance=0.2,  # what logarithms are worth at eps = 1e-6
    )
    for scheme, text, theory in (
      ("fresh", "a sample for each audit", 4.0),
      ("counted", "one sample, no noise", 4.0),
      ("noisy", "one sample with noise, the paper's deterministic rate", 3.0),
    )
  ]
  samples = {
    scheme: np.array([p.num_samples for p in plans[scheme]])
    for scheme in SCHEMES
  }
  table = harness.rows(
    eps=eps,
    **{f"n_{scheme}": samples[scheme] for scheme in SCHEMES},
    counted_error=errors["counted"].mean(1),
    noisy_error=errors["noisy"].mean(1),
  )
  exponents = {
    scheme: _exponent(online_rates.slopes(samples[scheme], error.T), -1)
    for scheme, error in errors.items()
  }
  # The plans themselves, also where no run is made.
  drawn = np.geomspace(targets[0], 0.005, 12)
  curves = {"guarantee/drawn_eps": drawn}
  for scheme in SCHEMES:
    curves[f"guarantee/{scheme}/drawn_samples"] = np.array(
      [plan_of(e, world, scheme).num_samples for e in drawn]
    )
  for scheme, error in errors.items():
    curves[f"guarantee/{scheme}/samples"] = samples[scheme]
    curves[f"guarantee/{scheme}/errors"] = error
  tables = {
    "guaranteed sample sizes": table,
    "measured exponents of 1/error in planned samples (no claim)": (
      _exponent_rows(exponents)
    ),
  }
  return harness.Part(claims, curves, tables)


# --- what suffices -----------------------------------------------------------


def _smallest(success: np.ndarray, used: np.ndarray) -> np.ndarray:
  """For each run the least sample from which on all succeed `[S]`.

  Args:
    success: `[M, S]`, by rising sample size.
    used: `[M, S]`, samples used.
  """
  onwards = np.logical_and.accumulate(success[::-1])[::-1]
  least = used[onwards.argmax(0), np.arange(used.shape[1])]
  return np.where(onwards.any(0), least, np.nan)


def _sufficient(rng, world, eps, scheme, sizes, num_seeds) -> np.ndarray:
  """The least samples `[S]` with which a scheme's error is at most eps."""
  plan = plan_of(eps, world, scheme)
  success, used = [], []
  for multiple in sizes:
    size = math.ceil(multiple / eps**2)
    error, steps, converged = _patch(rng, world, plan, size, num_seeds)
    success.append((error <= eps) & converged)
    audits = steps + 1 if scheme == "fresh" else np.ones_like(steps)
    used.append(size * audits)
  return _smallest(np.array(success), np.array(used))


def _draws(rng, world: worlds.World, num_rounds: int, num_seeds: int):
  """Samples x, y of every run and which points each round's rule will serve."""
  size = (num_seeds, num_rounds)
  x = rng.integers(0, world.w.size, size)
  y = (rng.random(size) < world.f[x]).astype(np.float32)
  order = rng.permuted(np.tile(np.arange(world.w.size), (num_seeds, 1)), axis=1)
  return x, y, order.reshape(*size, -1)


def _rounded(rng, world: worlds.World, num_rounds: int, num_seeds: int):
  """Errors of the online mixture rounded to a deterministic predictor.

  A random permutation gives every point one of the T rules, as many points to
  each, and a draw of its own: from then on its prediction is fixed. No single
  point weighs much, so that the draws even out; that is why this is no way to
  1/eps^2 for every population.
  """
  tests = jnp.asarray(world.fixed_tests(), jnp.float32)
  m = online_rates.grid(num_rounds)
  eta = jnp.float32(online_rates.eta(num_rounds, m, tests.shape[1]))

  def step(sums, inputs):
    (own, others), x, y, served = inputs
    c = online.auditor_weights(sums, tests[served], eta=eta)
    place = online.forecast_rule(others, c)
    sums, _ = online.online_calibration_step(own, sums, tests[x], y, eta=eta)
    return sums, place

  def run(keys, x, y, served):
    start = jnp.zeros((tests.shape[1], m + 1), jnp.float32)
    places = jax.lax.scan(step, start, (keys, x, y, served))[1]
    return jnp.zeros(tests.shape[0]).at[served].set(places / m)

  key = jax.random.key(int(rng.integers(2**31)))
  keys = jax.random.split(key, (num_seeds, num_rounds, 2))
  p = jax.jit(jax.vmap(run))(keys, *_draws(rng, world, num_rounds, num_seeds))
  return np.asarray(_population_errors(p, jax.tree.map(jnp.asarray, world)))


def measured(
  rng: np.random.Generator,
  world: worlds.World,
  *,
  targets: tuple[float, ...],
  sizes: tuple[float, ...],
  rounds: tuple[int, ...],
  num_seeds: int,
) -> harness.Part:
  """Exponents that are measured; nothing is claimed.

  Args:
    rng: of samples and noise.
    world: the population.
    targets: eps, falling.
    sizes: samples tried, as multiples of 1/eps^2, rising.
    rounds: T of the online runs, divisors of the number of points.
    num_seeds: runs of each.
  """
  eps = np.array(targets)
  least = {
    scheme: np.stack(
      [_sufficient(rng, world, e, scheme, sizes, num_seeds) for e in targets], 1
    )
    for scheme in SCHEMES
  }
  errors = np.stack([_rounded(rng, world, t, num_seeds) for t in rounds], 1)
  exponents = {
    scheme: _exponent(online_rates.slopes(eps, n), 1)
    for scheme, n in least.items()
  }
  # Errors at given samples: n ~ error^-q, and the slope measured is -1/q.
  exponents["online, rounded"] = _exponent(
    online_rates.slopes(rounds, errors), -1
  )
  tables = {
    "smallest sample that sufficed (median of runs)": harness.rows(
      eps=eps, **{scheme: np.median(n, 0) for scheme, n in least.items()}
    ),
    "online algorithm, rounded to one prediction a point": harness.rows(
      rounds=rounds, error=errors.mean(0)
    ),
    "measured exponents of 1/error in samples (no claim)": (
      _exponent_rows(exponents)
    ),
  }
  curves = {
    "least/eps": eps,
    "least/rounds": np.array(rounds),
    "least/errors": errors,
    "least/exponents": np.array(list(exponents.values())),
  }
  curves |= {f"least/{scheme}": n for scheme, n in least.items()}
  return harness.Part([], curves, tables)


def plot_guarantee(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Guaranteed samples, and the errors that they give."""
  for i, scheme in enumerate(SCHEMES):
    axes.plot(
      curves[f"guarantee/{scheme}/drawn_samples"],
      curves["guarantee/drawn_eps"],
      "--",
      color=f"C{i}",
      label=f"{scheme}, guaranteed",
    )
  for i, scheme in enumerate(SCHEMES[1:], 1):
    axes.plot(
      curves[f"guarantee/{scheme}/samples"],
      curves[f"guarantee/{scheme}/errors"].mean(1),
      "o",
      color=f"C{i}",
      label=f"{scheme}, found",
    )
  plotting.log_scale(axes, "y")
  axes.set_xscale("log")  # too many powers for plain labels
  axes.set(
    xlabel="samples", ylabel="step calibration error", title="planned samples"
  )
  axes.legend()


def plot_measured(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """What sufficed."""
  eps = curves["least/eps"]
  for i, scheme in enumerate(SCHEMES):
    samples = np.median(curves[f"least/{scheme}"], 0)
    axes.plot(samples, eps, "o-", color=f"C{i}", label=scheme)
  axes.plot(
    curves["least/rounds"],
    curves["least/errors"].mean(0),
    "s-",
    color="C3",
    label="online, rounded",
  )
  plotting.log_scale(axes, "x", "y")
  axes.set(
    xlabel="samples",
    ylabel="step calibration error",
    title="smallest sample that sufficed",
  )
  axes.legend()


def plot_exponents(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Measured exponents with their intervals, beside the guarantees'."""
  found = curves["least/exponents"]
  place = np.arange(len(found))
  reach = np.abs(found[:, 1:] - found[:, :1]).T
  axes.errorbar(place, found[:, 0], reach, fmt="o", capsize=4, label="measured")
  # The rounded online algorithm has none that holds for every population.
  axes.plot(place[:3], (4, 4, 3), "k_", ms=24, label="in the guarantee")
  axes.set(
    xticks=place,
    xlim=(-0.5, len(found) - 0.5),
    ylim=(0, 6),
    ylabel="power of 1/error in samples",
    title="exponents (95 % intervals)",
  )
  axes.set_xticklabels((*SCHEMES, "online,\nrounded"))
  axes.legend()

# SPDX-License-Identifier: Apache-2.0
"""Random targets: the value that few Euler steps read is not the mean.

All with the best velocity in closed form and the quantiles of the noise in the
place of draws: nothing here is sampled or learned.
"""

import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.flow_critics import processes
from jaxalign.rl import flow_critics

TARGETS, PROBS, MEAN = (-1.0, 2.0), (0.3, 0.7), 1.1
STEPS = (1, 2, 8, 32, 64, 128)
WIDTHS = (0.03, 0.1, 0.3, 1.0)
SHOWN = WIDTHS.index(0.1)
# In print at width .1, means of so many draws.
PRINTED, DRAWS = {8: 1.556, 64: 1.140}, 200_000
RANKS = 5000
# Of the processes whose values are iterated.
SWEEPS, PROCESS_STEPS, PROCESS_RANKS = 20, (1, 8, 64), 50


def quantiles(count: int) -> np.ndarray:
  """`[count]`, of a standard normal, at the middles of equal cells."""
  normal = statistics.NormalDist()
  return np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])


def _read(targets, probs, noise, source_std: float, num_steps: int):
  velocity = flow_critics.discrete_velocity(
    targets, probs, source_std=source_std
  )
  return flow_critics.flow_critic_values(
    velocity, source_std * noise, num_steps=num_steps
  )


@jax.jit
def by_width(noise: jax.Array) -> jax.Array:
  """The values `[widths, K]` that K steps read; their mean should be 1.1."""
  targets, probs = jnp.array(TARGETS), jnp.array(PROBS)

  def read(std):
    return jnp.stack([_read(targets, probs, noise, std, k) for k in STEPS])

  return jax.vmap(read)(jnp.array(WIDTHS))


@jax.jit
def sweeps(noise: jax.Array, known: processes.Process) -> jax.Array:
  """What temporal differences make of the true values, `[K, seeds, S]`.

  In each sweep every state's value becomes what K steps read from the best
  velocity for `r + g V(s')`, s' being random. The noise is normal, of the
  deviation that the paper's uniform noise has.
  """
  discount = processes.DISCOUNT
  low, high = flow_critics.source_interval(-1.0, 1.0, discount=discount)
  std = (high - low) / 12**0.5

  def repeated(num_steps, moves, gains, values):
    read = jax.vmap(lambda y, p: _read(y, p, noise, std, num_steps))

    def sweep(values, _):
      return read(gains[:, None] + discount * values, moves), None

    return jax.lax.scan(sweep, values, length=SWEEPS)[0]

  return jnp.stack(
    [jax.vmap(functools.partial(repeated, k))(*known) for k in PROCESS_STEPS]
  )


@jax.jit
def spread_of_the_ends(noise: jax.Array) -> jax.Array:
  """Variance of the end points for one state with rewards of -1 or 1.

  The value is 0, hence the target -1 or 1; the return's variance is
  `1/(1 - g^2)`.
  """
  velocity = flow_critics.discrete_velocity(
    jnp.array([-1.0, 1.0]), jnp.array([0.5, 0.5]), source_std=0.1
  )
  return jnp.var(flow_critics.flow_endpoints(velocity, 0.1 * noise))


def _printed(num_steps: int, value: float) -> harness.Claim:
  theory = PRINTED[num_steps]
  # Of end points that are -1 or 2 with this mean.
  deviation = ((TARGETS[1] - theory) * (theory - TARGETS[0])) ** 0.5
  return harness.Claim(
    name=f"value_of_{num_steps}_steps",
    statement=f"target -1 (.3) or 2 (.7), of mean 1.1, noise of deviation .1:"
    f" value by {num_steps} steps, a printed figure of {DRAWS} draws",
    theory=theory,
    measured=value,
    tolerance=harness.STANDARD_ERRORS * deviation / DRAWS**0.5,
  )


def finite_steps(known: processes.Process) -> harness.Part:
  """Claims on the bias of few steps."""
  noise = quantiles(RANKS)
  values = np.asarray(by_width(noise))  # [widths, K]
  bias = dict(zip(STEPS, (values - MEAN).T, strict=True))
  shown = dict(zip(STEPS, values[SHOWN], strict=True))
  few = quantiles(PROCESS_RANKS)
  random = jax.tree.map(lambda x: x[:, processes.WORLDS.index("random")], known)
  moved = np.asarray(sweeps(few, random)) - random.values
  error = dict(zip(PROCESS_STEPS, np.abs(moved).mean((1, 2)), strict=True))
  variance = float(spread_of_the_ends(few))
  claims = [
    harness.all_agree(
      "one_step_exact",
      "random target: value by one step less the mean, at four widths of the"
      " noise",
      [bias[1]],
      tolerance=1e-12,
    ),
    *(_printed(k, shown[k]) for k in PRINTED),
    harness.Claim(
      name="bias_order",
      statement="random target, noise .1: bias of 128 steps over that of 32, of"
      " first order in 1/K or higher",
      theory=1 / 4,
      measured=bias[128][SHOWN] / bias[32][SHOWN],
      tolerance=0.0,
      relation="<=",
    ),
    harness.none_exceeds(
      "narrow_noise",
      "random target, 8 steps: bias with the wider of two noises less that with"
      " the narrower",
      [np.diff(bias[8])],
      tolerance=0.0,
    ),
    harness.all_agree(
      "truth_stays_with_one_step",
      "random processes: change of the true values in 20 sweeps with one step",
      [moved[PROCESS_STEPS.index(1)]],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="truth_drifts_with_eight_steps",
      statement="random processes: mean change of the true values in 20 sweeps"
      " with 8 steps over that with 64 steps",
      theory=1.0,
      measured=error[8] / error[64],
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="not_distributional",
      statement="one state, rewards -1 or 1, discount .9: variance of the end"
      " points over that of the return, which they do not have",
      theory=1 - 0.9**2,
      measured=variance * (1 - 0.9**2),
      tolerance=1e-3,
    ),
  ]
  tables = {
    "random target: value, of mean 1.1": [
      {"noise": width}
      | {f"K = {k}": float(v) for k, v in zip(STEPS, row, strict=True)}
      for width, row in zip(WIDTHS, values, strict=True)
    ],
    "random processes: true values after 20 sweeps": harness.rows(
      steps=PROCESS_STEPS,
      mean_change=[error[k] for k in PROCESS_STEPS],
      deviation_of_the_values=random.values.std(),
    ),
  }
  curves = {
    "steps/K": np.array(STEPS),
    "steps/noise": np.array(WIDTHS),
    "steps/value": values,
    "sweeps/K": np.array(PROCESS_STEPS),
    "sweeps/true": random.values,
    "sweeps/change": moved,
  }
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """The value by K for each width; where temporal differences settle."""
  figure, (left, right) = plotting.figure(1, 2)
  for i, (width, values) in enumerate(
    zip(curves["steps/noise"], curves["steps/value"], strict=True)
  ):
    left.plot(
      curves["steps/K"],
      values,
      marker="o",
      markersize=3,
      label=f"noise {width:g}",
      **plotting.line_style(i),
    )
  left.axhline(MEAN, color="black", linewidth=0.8)
  left.set(
    xlabel="Euler steps K",
    ylabel="value read",
    title="target -1 (.3) or 2 (.7), mean 1.1",
  )
  plotting.log_scale(left, "x")
  left.legend()
  true = curves["sweeps/true"].ravel()
  for i, (k, moved) in enumerate(
    zip(curves["sweeps/K"], curves["sweeps/change"], strict=True)
  ):
    style = {"markersize": 3, "color": f"C{i}", "label": f"K = {k}"}
    right.plot(true, moved.ravel(), "o", **style)
  right.set(
    xlabel="true value of a state",
    ylabel=f"change in {SWEEPS} sweeps",
    title="temporal differences, random processes",
  )
  right.legend()
  return figure

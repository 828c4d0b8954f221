# SPDX-License-Identifier: Apache-2.0
"""Flow policies: where a tight bound does not align the gradients.

The loss of flow matching bounds the likelihood of the stochastic sampler, with
the weight (1-t)/t, and of nothing else: for the sampler that follows the
differential equation, as FPO's does, and for the weight 1, as FPO's has, the
gradients disagree at an exactly tight velocity too. And few Euler steps make
self-distillation shrink the policy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.double_drift import ascent, bandit
from jaxalign import diffusion
from jaxalign.exact import affine_flow

FINE, COARSE = 200, 10  # sampler's steps
RATE, STEPS = 0.5, 2000
DISTILLATIONS = 15
SAMPLERS = {
  "ancestral": affine_flow.ancestral_marginal,
  "Euler": affine_flow.euler_marginal,
}
ARMS = {
  "exact": ascent.Arm(exact=1.0),
  "FPO": ascent.Arm(),
  "FPO - .04 ELBO": ascent.Arm(beta=-0.04),
  "FPO + .05": ascent.Arm(beta=0.05),
  "FPO + 1": ascent.Arm(beta=1.0),
}
NAMES = (*ARMS, "interleaved")


def _start(steps: int) -> affine_flow.AffineFlow:
  return affine_flow.tight_flow(jnp.zeros(()), jnp.ones(()), num_steps=steps)


def world(steps: int, sampler: str, weight: str) -> ascent.World:
  """The policy of a sampler, with minus the loss in place of the ELBO."""
  nodes, weights = bandit.quadrature()
  marginal = SAMPLERS[sampler]

  def draws(policy):
    mean, var = marginal(policy)
    x = mean + jnp.sqrt(var) * nodes
    return x, jnp.asarray(weights), bandit.reward(x)

  def bounds(policy, x):
    mean, var = marginal(policy)
    log_pi = jax.scipy.stats.norm.logpdf(x, mean, jnp.sqrt(var))
    loss = affine_flow.flow_losses(policy, x, weight=weight)
    # The loss of an ODE policy bounds no likelihood. Shifted by a constant its
    # mean gap is the excess of the loss over its minimum.
    excess = affine_flow.flow_excess(policy, mean, var)
    shift = jax.lax.stop_gradient(weights @ log_pi + weights @ loss - excess)
    elbo = shift - loss
    return ascent.Bounds(log_pi, elbo, elbo, elbo)  # it has no others

  def distill(policy):
    return affine_flow.tight_flow(*marginal(policy), num_steps=steps)

  return ascent.World(draws, bounds, distill, RATE)


@functools.partial(jax.jit, static_argnums=(0, 1))
def cosine_when_tight(sampler: str, weight: str) -> jax.Array:
  """Between the loss's gradient and the reward's, at the tight velocity."""
  slopes, _ = ascent.gradients(
    world(FINE, sampler, weight), ascent.Arm(), _start(FINE)
  )
  base, _, true = slopes
  return diffusion.gradient_cosine(base, true)


@functools.partial(jax.jit, static_argnums=0)
def spreads(steps: int) -> jax.Array:
  """Standard deviation after each self-distillation, from N(0, 1)."""

  def distil(policy, _):
    mean, var = affine_flow.euler_marginal(policy)
    after = affine_flow.tight_flow(mean, var, num_steps=steps)
    return after, jnp.sqrt(var)

  return jax.lax.scan(distil, _start(steps), None, length=DISTILLATIONS)[1]


@jax.jit
def run_arms() -> ascent.Path:
  """Paths `[arms, STEPS + 1]` in the order of `NAMES`, by ten Euler steps."""
  here = world(COARSE, "Euler", "uniform")
  return ascent.run_arms(here, _start(COARSE), ARMS, steps=STEPS, every=1)


def _claims(cosines: dict, shrunk: np.ndarray, path: dict):
  matched = cosines["ancestral", "elbo"]
  others = [value for how, value in cosines.items() if value is not matched]
  excess = {name: x.gap[-1] for name, x in path.items()}
  return [
    harness.Claim(
      name="flow_matched",
      statement="flow policy, tight velocity, ancestral sampler and its weight:"
      " cosine of the loss's gradient and the reward's",
      theory=1.0,
      measured=matched,
      # Both are tight in the limit of many steps; here there are 200.
      tolerance=1 / FINE,
      relation=">=",
    ),
    harness.Claim(
      name="flow_mismatched",
      statement="flow policy, tight velocity: largest cosine with another"
      " sampler or weight, over that of the ancestral sampler with its own",
      theory=1.0,
      measured=max(others) / matched,
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="flow_shrinks",
      statement="flow policy: largest ratio of standard deviations after and"
      " before a self-distillation by ten Euler steps",
      theory=1.0,
      measured=np.max(shrunk[1:] / shrunk[:-1]),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="flow_interleaved",
      statement="flow policy, ten Euler steps: reward at the end with"
      " self-distillation at every update, over its start's",
      theory=1.0,
      measured=path["interleaved"].reward[-1] / path["interleaved"].reward[0],
      tolerance=0.0,
      relation="<=",
    ),
    ascent.falling_gaps(
      "flow_regulariser",
      "flow policy, excess loss after 2000 updates falls with the regulariser's"
      " weight: 0, .05, 1",
      [excess[name] for name in ("FPO", "FPO + .05", "FPO + 1")],
    ),
    harness.Claim(
      name="flow_k1",
      statement="flow policy: updates until the excess exceeds 1000 with a k1"
      " penalty (weight -.04)",
      theory=STEPS,
      measured=ascent.blows_up(path["FPO - .04 ELBO"].gap),
      tolerance=0.0,
      relation="<=",
    ),
  ]


def flow_policies() -> harness.Part:
  """Claims on three traps of flow policies."""
  cosines = {
    (sampler, weight): float(cosine_when_tight(sampler, weight))
    for sampler in SAMPLERS
    for weight in diffusion.WEIGHTS
  }
  shrunk = np.asarray(spreads(COARSE))
  found = jax.tree.map(np.asarray, run_arms())
  path = ascent.by_name(found, NAMES)
  columns = {
    "reward": found.reward[:, -1],
    "excess": found.gap[:, -1],
    "excess above 1000 at": np.array([ascent.blows_up(g) for g in found.gap]),
  }
  tables = {
    "flow policy, tight velocity, 200 steps": [
      {"sampler": sampler, "weight": weight, "cosine": value}
      for (sampler, weight), value in cosines.items()
    ],
    "flow policy, ten Euler steps": ascent.rows_of(NAMES, columns),
    "flow policy: standard deviation after self-distillations": [
      {f"after {n}": float(shrunk[n - 1]) for n in (1, 2, 5, 10, 15)}
    ],
  }
  kept = np.arange(0, STEPS + 1, 10)
  curves = {
    "flow/arms": np.array(NAMES),
    "flow/steps": kept,
    "flow/reward": found.reward[:, kept],
    "flow/excess": found.gap[:, kept],
    "flow/spread": shrunk,
  }
  return harness.Part(_claims(cosines, shrunk, path), curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Reward and excess of every arm; the shrinking under self-distillation."""
  figure, (reward, excess, spread) = plotting.figure(
    1, 3, width=3.6, height=3.0
  )
  for i, name in enumerate(curves["flow/arms"]):
    for panel, key in ((reward, "reward"), (excess, "excess")):
      panel.plot(
        curves["flow/steps"],
        curves[f"flow/{key}"][i],
        label=name,
        **plotting.line_style(i),
      )
      panel.set_xlabel("update")
  reward.set(ylabel="reward", title="flow policy, ten Euler steps")
  excess.set(ylabel="excess flow-matching loss", yscale="log", ylim=(1e-4, 1e3))
  spread.plot(np.arange(1, DISTILLATIONS + 1), curves["flow/spread"])
  spread.set(
    xlabel="self-distillation", ylabel="standard deviation", yscale="log"
  )
  handles, labels = reward.get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=3)
  return figure

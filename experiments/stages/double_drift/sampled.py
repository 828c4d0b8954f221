# SPDX-License-Identifier: Apache-2.0
"""Three tokens of three values again, learned as in practice.

A network denoises, groups of samples stand for expectations, Adam takes several
steps on each group; reward 1 for sequences whose sum is a multiple of 3. Only
the diagnostics, and the bounds of the samples, are exact.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.double_drift import ascent
from jaxalign import diffusion
from jaxalign.exact import sequences

V = L = 3
WIDTH, GROUP, INNER, RATE, CLIP = 64, 16, 8, 0.01, 0.5
ITERATIONS, WARM_UP = 400, 100
SUM = {"normalize": "sequence"}


class Arm(NamedTuple):
  """Which surrogate, and what is added to it.

  Attributes:
    spg: 1 for SPG, 0 for FPO.
    k1: coefficient of the k1 penalty on ELBOs.
    beta: weight of the regulariser.
  """

  spg: float = 0.0
  k1: float = 0.0
  beta: float = 0.0


ARMS = {
  "FPO": Arm(),
  "FPO, k1": Arm(k1=0.04),
  "FPO, k1 + .05": Arm(k1=0.04, beta=0.05),
  "FPO + .05": Arm(beta=0.05),
  "SPG": Arm(spg=1.0),
  "SPG + .05": Arm(spg=1.0, beta=0.05),
}


class Path(NamedTuple):
  """Before each iteration: `[..., iterations]`."""

  reward: jax.Array
  gap: jax.Array
  cosine: jax.Array


class Denoiser(nn.Module):
  """Logits of all tokens from one-hot tokens and masks."""

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Maps `[..., L]` to `[..., L, V]`."""
    x = jax.nn.one_hot(z, V + 1).reshape(*z.shape[:-1], -1)
    for _ in range(2):
      x = jnp.tanh(nn.Dense(WIDTH, param_dtype=jnp.float64)(x))
    return nn.Dense(L * V, param_dtype=jnp.float64)(x).reshape(*z.shape, V)


def _states() -> jax.Array:
  """All partly masked sequences, in the order of a table's rows."""
  return jnp.arange((V + 1) ** L)[:, None] // (V + 1) ** jnp.arange(L) % (V + 1)


def _bounds(params) -> ascent.Bounds:
  """Of all 27 sequences."""
  return ascent.bounds_of_table(Denoiser().apply(params, _states()))


def _base(arm, found, old, advantages) -> diffusion.Surrogate:
  """The surrogate of samples whose bounds are `found`."""
  fpo = diffusion.fpo_loss(found.elbo, old.elbo, advantages, clip=CLIP, **SUM)
  spg = diffusion.spg_loss(found.elbo, found.upper, advantages, **SUM)
  return jax.tree.map(lambda a, b: jnp.where(arm.spg > 0, a, b), spg, fpo)


def _whole(arm, found, old, start, advantages) -> diffusion.Surrogate:
  """With all that is added to it."""
  penalised = diffusion.with_reference(
    _base(arm, found, old, advantages),
    found.elbo,
    start.elbo,
    reference_penalty="k1",
    coefficient=arm.k1,
    **SUM,
  )
  return diffusion.with_dipod(penalised, found.elbo, beta=arm.beta, **SUM)


def _report(arm, params, rewards) -> Path:
  """Reward, gap and cosine over all sequences."""
  now = jax.lax.stop_gradient(_bounds(params))
  law = jnp.exp(now.log_pi)
  advantages = rewards - law @ rewards

  def ascends(params):
    return -law @ _base(arm, _bounds(params), now, advantages).loss

  def rises(params):
    return jnp.exp(_bounds(params).log_pi) @ rewards

  found = diffusion.drift_report(
    law,
    rewards,
    now.log_pi,
    now.elbo,
    surrogate_gradient=jax.grad(ascends)(params),
    reward_gradient=jax.grad(rises)(params),
  )
  return Path(found.reward, found.gap, found.cosine)


def train(arm: Arm, key: jax.Array, *, iterations: int) -> Path:
  """One run."""
  x = sequences.enumerate_sequences(V, L)
  rewards = jnp.asarray(jnp.sum(x, -1) % 3 == 0, float)
  optimizer = optax.adam(RATE)
  init_key, key = jax.random.split(key)
  params = Denoiser().init(init_key, x)
  start = jax.lax.stop_gradient(_bounds(params))

  def iteration(state, key):
    params, opt_state = state
    report = _report(arm, params, rewards)
    old = _bounds(params)
    drawn = jax.random.categorical(key, old.log_pi, shape=(GROUP,))
    advantages = rewards[drawn] - jnp.mean(rewards[drawn])

    def loss(params):
      found, before, first = (
        jax.tree.map(lambda b: b[drawn], bounds)
        for bounds in (_bounds(params), old, start)
      )
      return diffusion.batch_loss(_whole(arm, found, before, first, advantages))

    def step(state, _):
      params, opt_state = state
      updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
      return (optax.apply_updates(params, updates), opt_state), None

    state, _ = jax.lax.scan(step, (params, opt_state), None, length=INNER)
    return state, report

  keys = jax.random.split(key, iterations)
  return jax.lax.scan(iteration, (params, optimizer.init(params)), keys)[1]


@functools.partial(jax.jit, static_argnames="iterations")
def run_arms(keys: jax.Array, *, iterations: int) -> Path:
  """Paths `[arms, S, iterations]`."""
  run = functools.partial(train, iterations=iterations)
  over_seeds = jax.vmap(run, (None, 0))
  return jax.vmap(over_seeds, (0, None))(ascent.stack(ARMS), keys)


def sampled(*, key: jax.Array, num_seeds: int, iterations: int) -> harness.Part:
  """Claims on the penalty that drifts and the regulariser that does not.

  Args:
    key: of networks and samples.
    num_seeds: independent runs.
    iterations: groups of samples to learn from.
  """
  found = run_arms(jax.random.split(key, num_seeds), iterations=iterations)
  found = jax.tree.map(np.asarray, found)
  gap = dict(zip(ARMS, found.gap.max((1, 2)), strict=True))
  late = found.reward[:, :, min(WARM_UP, iterations // 2) :]
  worst = dict(zip(ARMS, late.min((1, 2)), strict=True))

  def ratio(name, statement, values, above, below, relation):
    return harness.Claim(
      name=name,
      statement=f"sampled, {statement}",
      theory=1.0,
      measured=values[above] / values[below],
      tolerance=0.0,
      relation=relation,
    )

  claims = [
    ratio(
      "sampled_regulariser",
      "largest gap over seeds: FPO with weight .05 over FPO",
      gap,
      "FPO + .05",
      "FPO",
      "<=",
    ),
    ratio(
      "sampled_k1",
      "largest gap over seeds: FPO with a k1 penalty on ELBOs over FPO",
      gap,
      "FPO, k1",
      "FPO",
      ">=",
    ),
    ratio(
      "sampled_rescue",
      "largest gap over seeds: FPO with a k1 penalty and weight .05 over that"
      " without the weight",
      gap,
      "FPO, k1 + .05",
      "FPO, k1",
      "<=",
    ),
  ]
  columns = {
    "largest gap": found.gap.max(-1).mean(1),
    "largest gap, worst seed": found.gap.max((1, 2)),
    "smallest cosine": np.min(
      np.where(found.reward < 0.9, found.cosine, 1), (1, 2)
    ),
    "lowest late reward": np.array(list(worst.values())),
    "last reward": found.reward[..., -1].mean(1),
  }
  curves = {"sampled/arms": np.array(list(ARMS))}
  for name in ("reward", "gap"):
    curves[f"sampled/{name}"] = getattr(found, name)
  return harness.Part(
    claims, curves, {"sampled": ascent.rows_of(ARMS, columns)}
  )


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """The lowest reward and the largest gap of any seed."""
  figure, (reward, gap) = plotting.figure(1, 2)
  for i, name in enumerate(curves["sampled/arms"]):
    style = plotting.line_style(i)
    reward.plot(curves["sampled/reward"][i].min(0), label=name, **style)
    gap.plot(curves["sampled/gap"][i].max(0), **style)
  reward.set(
    xlabel="iteration", ylabel="reward, lowest of seeds", title="sampled"
  )
  gap.set(xlabel="iteration", ylabel="gap, nats, largest of seeds")
  gap.set(yscale="log")
  reward.legend()
  return figure

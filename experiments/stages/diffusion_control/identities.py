# SPDX-License-Identifier: Apache-2.0
"""What is known exactly: values of the point mass, ratios, two gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.diffusion_control import (
  distillation,
  environments,
  learning,
  policies,
  rollouts,
)
from jaxalign import diffusion
from jaxalign.exact import gaussian_chain, linear_quadratic

EPISODES = 256
ROUNDING = 1e-9  # float64: sums of 50 steps, ratios, quadratures
CHAIN_STEPS, NODES = 10, 128
# What the chain's slopes are multiplied by, away from a tight bound.
LOOSENESS = 0.85


def point_mass() -> tuple[environments.Environment, tuple]:
  """The world, its best policy and value."""
  env = environments.point_mass()
  return env, linear_quadratic.optimal_linear_policy(
    linear_quadratic.point_mass(), horizon=env.horizon
  )


def best_flow(env: environments.Environment, best) -> policies.Velocity:
  """The best policy as a flow: all noise goes straight to its one action.

  `u = (x - K_t q) / t`, which Euler's last step, of length t, follows exactly.
  """

  def velocity(x, t, seen):
    time = jnp.rint(seen[..., -1] * env.horizon).astype(int)
    action = jnp.einsum("...ij,...j->...i", best.gains[time], seen[..., :-1])
    return (x - action) / t[..., None]

  return velocity


def _surprises(world, value, episodes: rollouts.Episodes) -> jax.Array:
  """How much worse each noise made the best value than expected, `[E]`."""
  x, u = episodes.seen[..., :-1], episodes.actions
  mean = x @ world.dynamics.T + u @ world.control.T
  later = value.matrices[1:-1]

  def cost(y):
    return jnp.einsum("...ti,tij,...tj->...t", y, later, y)

  spread = jnp.einsum("tij,ij->t", later, world.noise)
  return jnp.sum(cost(x[:, 1:]) - cost(mean[:, :-1]) - spread, -1)


@functools.partial(jax.jit, static_argnames="width")
def measure_values(key: jax.Array, *, width: int) -> dict[str, jax.Array]:
  """Differences per episode, of the best flow and of a random one."""
  env, (best, value) = point_mass()
  world = linear_quadratic.point_mass()
  trainer = learning.Trainer(
    env, learning.Setting(updates=0, episodes=0, width=width)
  )
  keys = jax.random.split(key, 3)
  found = {}
  for name, velocity in (
    ("best", best_flow(env, best)),
    ("random", trainer.velocity(trainer.init(keys[0]))),
  ):
    act = functools.partial(
      rollouts.rollout, env, velocity, episodes=EPISODES, chain=False
    )
    episodes = act(keys[1])
    start = linear_quadratic.quadratic_value(value, episodes.seen[:, 0, :-1])
    returns = jnp.sum(episodes.rewards, -1)
    regret = jnp.sum(env.regret(episodes.seen[..., :-1], episodes.actions), -1)
    found[name] = {
      "missing": start - returns - regret,
      "regret": regret,
      "surprises": _surprises(world, value, episodes),
    }
  seen = jnp.zeros((distillation.PLACES, env.observation_size + 1))
  found["best"]["excess"] = distillation.excess_loss(
    best_flow(env, best), keys[2], seen, size=env.action_size, chain=False
  ).excess
  return found


def _standard_errors(samples: np.ndarray) -> float:
  """A mean, in its standard errors."""
  samples = np.asarray(samples)
  return samples.mean() / samples.std(ddof=1) * np.sqrt(samples.size)


def values(key: jax.Array) -> list[harness.Claim]:
  """Claims on the point mass."""
  found = jax.tree.map(np.asarray, measure_values(key, width=8))
  best, random = found["best"], found["random"]
  return [
    harness.Claim(
      name="optimal_value",
      statement="point mass: Riccati's value less the mean return of the best"
      " policy, run as a flow, in standard errors",
      theory=0.0,
      measured=_standard_errors(best["missing"] + best["regret"]),
      tolerance=harness.STANDARD_ERRORS,
    ),
    harness.all_agree(
      "optimal_regret",
      "point mass: largest regret of an episode of the best policy, and its"
      " excess flow matching loss",
      [best["regret"], best["excess"]],
      tolerance=ROUNDING,
    ),
    harness.Claim(
      name="regret_in_expectation",
      statement="point mass: best value less return less regret (performance"
      " difference) of a random network, mean in standard errors",
      theory=0.0,
      measured=_standard_errors(random["missing"]),
      tolerance=harness.STANDARD_ERRORS,
    ),
    harness.all_agree(
      "regret_on_every_path",
      "point mass: the same on every path, less the value's surprises at the"
      " noise of the dynamics: largest difference, relative",
      [
        (x["missing"] - x["surprises"]) / (1 + x["regret"])
        for x in (best, random)
      ],
      tolerance=ROUNDING,
    ),
  ]


@jax.jit
def measure_ratios(key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Losses at the old parameters less their theory; shares clipped `[4, B]`."""
  env = environments.point_mass()
  trainer = learning.Trainer(
    env, learning.Setting(updates=0, episodes=0, width=8)
  )
  keys = jax.random.split(key, 3)
  params = trainer.init(keys[0])
  learner = learning.Learner(params, None, jnp.ones(()))
  velocity = trainer.velocity(params)
  later = np.arange(policies.STEPS)[::-1]
  factors = {
    "fpo": 1.0,
    "fpo++": 1.0,
    "ddpo": policies.STEPS,  # a sum over steps
    "dppo": np.sum(0.99**later),  # in which the late count more
  }

  def one(case):
    index, factor = case
    chain = index >= learning.OF_STEPS
    episodes = rollouts.rollout(env, velocity, keys[1], episodes=4, chain=chain)
    batch = trainer.prepare(learner, episodes, keys[2], chain)
    # Within the limits that DDPO sets to advantages.
    batch = batch._replace(advantages=jnp.clip(batch.advantages, -3, 3))
    found = learning.surrogate(index, velocity, batch, 0.0)
    # FPO++ also counts draws that it cuts, whatever their ratio.
    of_ratios = index != learning.SURROGATES.index("fpo++")
    clipped = jnp.where(of_ratios, found.clipped, 0)
    return found.loss + factor * batch.advantages, clipped

  indices = [learning.SURROGATES.index(name) for name in factors]
  return jax.lax.map(
    one, (jnp.array(indices), jnp.array(list(factors.values())))
  )


def ratios(key: jax.Array) -> list[harness.Claim]:
  """The claim that ratios are 1 where nothing has been learned."""
  return [
    harness.all_agree(
      "ratio_one",
      "FPO, FPO++, DDPO and DPPO at the old parameters: largest difference of"
      " a loss from that of ratio 1, and, but for FPO++, largest share clipped",
      measure_ratios(key),
      tolerance=ROUNDING,
    )
  ]


def loose_chain() -> gaussian_chain.GaussianChain:
  """A denoising chain whose bound is not tight."""
  bar = gaussian_chain.cosine_alpha_bar(CHAIN_STEPS)
  tight = gaussian_chain.tight_chain(jnp.zeros(()), jnp.ones(()), bar)
  return tight._replace(slope=LOOSENESS * tight.slope)


def paths_given_action(
  chain: gaussian_chain.GaussianChain, x: jax.Array
) -> jax.Array:
  """Points `[N, 2T, T + 1]` of paths x_0..x_T that end in the actions `[N]`.

  Equally weighted they have mean and covariance of the path given its action:
  exact for quadratics of the path, which is what scores are.
  """
  steps = chain.slope.size
  mean = jnp.zeros(())
  root = jnp.zeros(steps + 1).at[-1].set(1.0)  # x_T is the last noise itself
  means, roots = [mean], [root]
  for t in range(steps - 1, -1, -1):
    mean = chain.slope[t] * mean + chain.shift[t]
    root = (chain.slope[t] * root).at[t].add(chain.std[t])
    means, roots = [mean, *means], [root, *roots]
  mean, root = jnp.stack(means), jnp.stack(roots)
  cov = root @ root.T
  gain = cov[1:, 0] / cov[0, 0]
  middle = mean[1:] + gain * (x[:, None] - mean[0])
  left = jnp.linalg.cholesky(cov[1:, 1:] - jnp.outer(gain, cov[0, 1:]))
  offsets = np.sqrt(steps) * jnp.concatenate([left.T, -left.T])
  rest = middle[:, None] + offsets
  first = jnp.broadcast_to(x[:, None, None], (*rest.shape[:-1], 1))
  return jnp.concatenate([first, rest], -1)


@jax.jit
def measure_gradients() -> dict[str, jax.Array]:
  """Gradients of a chain's parameters, raised: DDPO's, FPO's and J's own."""
  chain = loose_chain()
  bar = gaussian_chain.cosine_alpha_bar(CHAIN_STEPS)
  nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
  weights = jnp.asarray(weights / weights.sum())

  def actions(chain):
    mean, var = gaussian_chain.chain_marginal(chain)
    return mean + jnp.sqrt(var) * nodes

  def reward(x):
    return jnp.exp(-(((x - 2) / 0.5) ** 2) / 2)

  x = actions(chain)
  advantage = reward(x) - weights @ reward(x)
  paths = paths_given_action(chain, x)

  def of_steps(chain):
    mean = chain.slope * paths[..., 1:] + chain.shift
    z = (paths[..., :-1] - mean) / chain.std
    scores = -(z**2) / 2 - jnp.log(chain.std)
    each = jnp.broadcast_to(advantage[:, None], scores.shape[:2])
    found = diffusion.ddpo_loss(
      scores, jax.lax.stop_gradient(scores), each, normalize="sequence"
    )
    return -weights @ jnp.mean(found.loss, -1)

  def of_bound(chain):
    elbo = gaussian_chain.chain_elbo(chain, x, bar)
    found = diffusion.fpo_loss(
      elbo, jax.lax.stop_gradient(elbo), advantage, normalize="sequence"
    )
    return -weights @ found.loss

  objectives = {
    "DDPO": of_steps,
    "FPO": of_bound,
    "reward": lambda chain: weights @ reward(actions(chain)),
  }
  return {
    name: jax.flatten_util.ravel_pytree(jax.grad(objective)(chain))[0]
    for name, objective in objectives.items()
  }


def gradients() -> list[harness.Claim]:
  """Claims that the chain's gradient is the reward's, and the bound's not."""
  found = {k: np.asarray(x) for k, x in measure_gradients().items()}
  true = found["reward"]
  cosine = float(diffusion.gradient_cosine(found["FPO"], true))
  return [
    harness.all_agree(
      "ddpo_gradient",
      "linear-Gaussian chain of a loose bound: DDPO's expected gradient less"
      " the reward's, largest entry over the largest of the reward's",
      [(found["DDPO"] - true) / np.abs(true).max()],
      tolerance=ROUNDING,
    ),
    harness.Claim(
      name="fpo_gradient",
      statement="the same chain: cosine of FPO's gradient with the reward's,"
      " which a bound that is not tight turns away",
      theory=0.9,
      measured=cosine,
      tolerance=0.0,
      relation="<=",
    ),
  ]


@harness.double_precision
def identities(*, seed: int) -> harness.Part:
  """All claims that are known exactly."""
  keys = jax.random.split(jax.random.key(seed), 2)
  claims = [*values(keys[0]), *ratios(keys[1]), *gradients()]
  return harness.Part(claims, {}, {})

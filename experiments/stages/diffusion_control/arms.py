# SPDX-License-Identifier: Apache-2.0
"""Every arm in an environment: who learns, and whose gap stays small."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.diffusion_control import (
  distillation,
  environments,
  learning,
  rollouts,
)
from jaxalign import checks

DISTILL_STEPS = 300
EVALUATION = 64  # episodes
_INDEX = {name: i for i, name in enumerate(learning.SURROGATES)}
ARMS = {
  "FPO": learning.Arm(_INDEX["fpo"]),
  "FPO + .05": learning.Arm(_INDEX["fpo"], beta=0.05),
  "FPO, distilled": learning.Arm(_INDEX["fpo"], distilled=True),
  "FPO++": learning.Arm(_INDEX["fpo++"]),
  "FPO++ + .05": learning.Arm(_INDEX["fpo++"], beta=0.05),
  "FPO++, distilled": learning.Arm(_INDEX["fpo++"], distilled=True),
  "RWR": learning.Arm(_INDEX["rwr"]),
  "AWR": learning.Arm(_INDEX["awr"]),
  "DDPO": learning.Arm(_INDEX["ddpo"]),
  "DPPO": learning.Arm(_INDEX["dppo"]),
}
# Each of their updates distils the policy's own actions, weighted, and so takes
# in the bias of Euler's steps, which spread actions less than the velocity
# would: they lose their exploration, and some seeds their way.
REGRESSIONS = ("RWR", "AWR")
STARTS = ("flow", "flow, distilled", "chain")


class Evaluation(NamedTuple):
  """A policy's episodes, and the gap at the observations in them.

  Attributes:
    returns: mean return.
    regret: mean regret.
    excess: excess flow matching loss.
    spread: of an action's entries at one observation.
  """

  returns: jax.Array
  regret: jax.Array
  excess: jax.Array
  spread: jax.Array


class Found(NamedTuple):
  """What was found in one environment, of S seeds.

  Attributes:
    starts: entries `[3, S]`, in the order of `STARTS`.
    ends: entries `[arms, S]`.
    curves: entries `[arms, S, updates]`.
  """

  starts: Evaluation
  ends: Evaluation
  curves: learning.Curve


def evaluate(trainer: learning.Trainer, params, key, chain) -> Evaluation:
  """Episodes and gap of a policy."""
  env, velocity = trainer.env, trainer.velocity(params)
  key_act, key_pick, key_gap = jax.random.split(key, 3)
  episodes = rollouts.rollout(
    env, velocity, key_act, episodes=EVALUATION, chain=chain
  )
  seen = episodes.seen.reshape(-1, episodes.seen.shape[-1])
  pick = jax.random.randint(key_pick, (distillation.PLACES,), 0, len(seen))
  gap = distillation.excess_loss(
    velocity, key_gap, seen[pick], size=env.action_size, chain=chain
  )
  return Evaluation(*rollouts.score(env, episodes), *gap)


@functools.partial(jax.jit, static_argnames="trainer")
def run_arms(trainer: learning.Trainer, keys: jax.Array) -> Found:
  """All arms, with the same random numbers for each, over keys `[S]`."""

  def prepare(key):
    key_init, key_distil = jax.random.split(jax.random.fold_in(key, 0))
    params = trainer.init(key_init)
    tight = distillation.self_distil(
      trainer.env,
      trainer.actor,
      params["actor"],
      key_distil,
      episodes=trainer.setting.episodes,
      steps=DISTILL_STEPS,
    )
    return params, params | {"actor": tight}

  def one_arm(arm):
    def one_seed(plain, tight, key):
      start = jax.tree.map(
        lambda x, y: jnp.where(arm.distilled, y, x), plain, tight
      )
      return learning.train(trainer, arm, start, jax.random.fold_in(key, 1))

    return jax.vmap(one_seed)(plain, tight, keys)

  def judge(policy):
    params, chain = policy
    return jax.vmap(
      lambda params, key: evaluate(
        trainer, params, jax.random.fold_in(key, 2), chain
      )
    )(params, keys)

  plain, tight = jax.vmap(prepare)(keys)
  # One after the other: a switch under vmap would run every branch.
  stacked = jax.tree.map(lambda *x: jnp.array(x), *ARMS.values())
  trained, curves = jax.lax.map(one_arm, stacked)
  everyone = jax.tree.map(
    lambda x, y, z: jnp.concatenate([jnp.stack([x, y, x]), z]),
    plain,
    tight,
    trained,
  )
  chains = jnp.concatenate(
    [jnp.array([False, False, True]), stacked.surrogate >= learning.OF_STEPS]
  )
  found = jax.lax.map(judge, (everyone, chains))
  count = len(STARTS)
  return Found(
    jax.tree.map(lambda x: x[:count], found),
    jax.tree.map(lambda x: x[count:], found),
    curves,
  )


def start_of(arm: learning.Arm) -> int:
  """Where an arm starts, as an index of `STARTS`."""
  return 2 if arm.surrogate >= learning.OF_STEPS else int(arm.distilled)


def _interval(samples: np.ndarray) -> dict[str, float]:
  low, high = harness.confidence_interval(samples)
  return {"": (low + high) / 2, " +-": (high - low) / 2}


def _row(arm: str, evaluation: Evaluation, i: int) -> dict:
  row = {"arm": arm}
  for name, samples in evaluation._asdict().items():
    if np.isfinite(samples[i]).all():
      name = {"returns": "return"}.get(name, name)
      found = _interval(samples[i])
      row |= {name + suffix: x for suffix, x in found.items()}
  return row


def _gains(found: Found) -> dict[str, dict[str, np.ndarray]]:
  """What self-distillation adds to the return `[S]`, by surrogate and time."""
  half = found.curves.returns.shape[-1] // 2
  early = found.curves.returns[..., :half].mean(-1)
  names = list(ARMS)
  start = found.starts.returns[1] - found.starts.returns[0]
  gains = {}
  for name in ("FPO", "FPO++"):
    a, b = names.index(f"{name}, distilled"), names.index(name)
    gains[name] = {
      "start": start,
      "early": early[a] - early[b],
      "early less start": early[a] - early[b] - start,
      "end": found.ends.returns[a] - found.ends.returns[b],
    }
  return gains


def _gain_rows(found: Found) -> list[dict]:
  rows = []
  for surrogate, gains in _gains(found).items():
    row = {"surrogate": surrogate}
    for when, samples in gains.items():
      row |= {when + end: x for end, x in _interval(samples).items()}
    rows.append(row)
  return rows


def in_environment(name: str, found: Found) -> tuple[dict, dict]:
  """Curves and tables of one environment."""
  rows = [_row(f"({x})", found.starts, i) for i, x in enumerate(STARTS)]
  rows += [_row(x, found.ends, i) for i, x in enumerate(ARMS)]
  tables = {
    f"{name}: before (in brackets) and after all updates": rows,
    f"{name}: return with self-distillation less that without, at the start, in"
    " the first half and at the end": _gain_rows(found),
  }
  curves = {f"{name}/{key}": x for key, x in found.curves._asdict().items()}
  for when in ("starts", "ends"):
    for key, x in getattr(found, when)._asdict().items():
      curves[f"{name}/{when}/{key}"] = x
  return curves, tables


def _at_most_one(
  name: str, statement: str, ratios: Iterable[np.ndarray]
) -> harness.Claim:
  """Claims that ratios `[S]` are at most 1, by the largest mean over seeds."""
  worst = max(ratios, key=np.mean)
  return harness.Claim(
    name=name,
    statement=f"{statement}, mean over seeds",
    theory=1.0,
    measured=np.mean(worst),
    tolerance=0.0,
    relation="<=",
    interval=harness.confidence_interval(worst),
  )


def claims(worlds: dict[str, Found]) -> list[harness.Claim]:
  """Claims on learning, on the gap, and on early reward.

  Args:
    worlds: what was found, by the environment's name.
  """
  plain, regularised = (list(ARMS).index(x) for x in ("FPO", "FPO + .05"))
  point_mass = worlds[environments.POINT_MASS]
  gains = [x["early"] for x in _gains(point_mass).values()]
  least = min(gains, key=np.mean)
  return [
    _at_most_one(
      "self_distillation",
      "excess flow matching loss after one stage of self-distillation over that"
      " before, worse of two environments",
      [x.starts.excess[1] / x.starts.excess[0] for x in worlds.values()],
    ),
    _at_most_one(
      "regulariser",
      "excess flow matching loss of FPO + .05 over FPO's after all updates,"
      " worse of two environments",
      [
        x.ends.excess[regularised] / x.ends.excess[plain]
        for x in worlds.values()
      ],
    ),
    _at_most_one(
      "policy_gradients_learn",
      "point mass: regret after all updates over that at the start, worst arm"
      " of FPO, FPO++, DDPO and DPPO",
      [
        point_mass.ends.regret[i] / point_mass.starts.regret[start_of(arm)]
        for i, (name, arm) in enumerate(ARMS.items())
        if name not in REGRESSIONS
      ],
    ),
    _at_most_one(
      "regressions_narrow",
      "standard deviation of actions of RWR and AWR after all updates over that"
      " at the start, worst of two environments",
      [
        x.ends.spread[list(ARMS).index(name)] / x.starts.spread[0]
        for x in worlds.values()
        for name in REGRESSIONS
      ],
    ),
    harness.Claim(
      name="early_reward",
      statement="point mass: return in the first half of all updates with a"
      " stage of self-distillation less that without, smaller of FPO's and"
      " FPO++'s, mean over seeds",
      theory=0.0,
      measured=np.mean(least),
      tolerance=0.0,
      relation=">=",
      interval=harness.confidence_interval(least),
    ),
  ]


def arms(
  *, other: str, seed: int, num_seeds: int, setting: learning.Setting
) -> harness.Part:
  """Trains every arm on the point mass and in another environment.

  Args:
    other: name of the other environment.
    seed: of everything random.
    num_seeds: repetitions.
    setting: how long.

  Raises:
    InputError: an environment is absent, or gave rewards that are not finite.
  """
  worlds, curves, tables = {}, {}, {}
  # Networks learn in float32, also where a caller has asked for more.
  with jax.enable_x64(False):
    # All first: a missing extra shall not cost the time of training.
    names = (environments.POINT_MASS, other)
    made = [environments.make(name) for name in names]
    for i, (name, env) in enumerate(zip(names, made, strict=True)):
      key = jax.random.fold_in(jax.random.key(seed), i)
      trainer = learning.Trainer(env, setting)
      found = run_arms(trainer, jax.random.split(key, num_seeds))
      worlds[name] = jax.tree.map(lambda x: np.asarray(x, np.float64), found)
      checks.check_finite(**{f"returns in {name}": found.curves.returns})
      more_curves, more_tables = in_environment(name, worlds[name])
      curves |= more_curves
      tables |= more_tables
  curves |= {
    "environments": np.array(list(worlds)),
    "arms": np.array(list(ARMS)),
  }
  return harness.Part(claims(worlds), curves, tables)

# SPDX-License-Identifier: Apache-2.0
"""Policy-gradient losses against a copy of the bytes that they must read."""

import functools

import jax
import jax.numpy as jnp

from experiments import harness
from experiments.stages.benchmark import timing
from jaxalign import rl

COMPLETIONS, TOKENS, GROUP = 64, 512, 8
# One of each shape of computation: by token, by sequence, with a constant.
LOSSES = ("grpo", "dapo", "dr_grpo", "gspo", "cispo")
BOUND = 2.0


def batch(key: jax.Array) -> rl.PolicyBatch:
  """Completions of random lengths, a policy some updates old."""
  keys = jax.random.split(key, 4)
  shape = (COMPLETIONS, TOKENS)
  logp = -jax.random.exponential(keys[0], shape, jnp.float32)
  old = logp + 0.1 * jax.random.normal(keys[1], shape, jnp.float32)
  rewards = jax.random.uniform(keys[2], (COMPLETIONS,), jnp.float32)
  lengths = jax.random.randint(keys[3], (COMPLETIONS, 1), 1, TOKENS + 1)
  return rl.PolicyBatch(
    logp,
    old,
    rl.group_advantages(rewards, num_generations=GROUP),
    jnp.arange(TOKENS) < lengths,
  )


def _config(name: str) -> rl.PolicyLossConfig:
  constant = rl.ALGORITHMS[name].get("aggregation") == "constant"
  return rl.algorithm(name, **({"max_length": TOKENS} if constant else {}))


def _bare(x: rl.PolicyBatch) -> jax.Array:
  """PPO's clipped mean over tokens, with nothing but the formula."""
  ratio = jnp.exp(x.logp - x.old_logp)
  advantages = x.advantages[:, None]
  gain = jnp.minimum(ratio * advantages, ratio.clip(0.8, 1.2) * advantages)
  total = jnp.sum(jnp.sum(jnp.where(x.where, gain, 0), 0))
  return -total / jnp.sum(jnp.sum(x.where.astype(gain.dtype), 0))


def policy_gradient_part(key: jax.Array, *, turns: int) -> harness.Part:
  """A claim on the slowest loss, and the table of all, the bare formula first.

  Args:
    key: of the batch.
    turns: paired timings.
  """
  given = batch(key)
  copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x))
  losses = {
    name: functools.partial(rl.policy_loss, _config(name)) for name in LOSSES
  }
  rows = []
  for name, value in {"bare formula": _bare, **losses}.items():

    def gradient(x, value=value):
      def loss(logp):
        found = value(x._replace(logp=logp))
        return found.loss if isinstance(found, rl.LossOutput) else found

      return jax.value_and_grad(loss)(x.logp)

    time_value, of_value = timing.paired_ratio(
      jax.jit(value), copy, (given,), turns
    )
    time_gradient, of_gradient = timing.paired_ratio(
      jax.jit(gradient), copy, (given,), turns
    )
    rows.append(
      {
        "loss": name,
        "value, us": 1e6 * time_value,
        "over a copy": of_value,
        "with gradient, us": 1e6 * time_gradient,
        "gradient over a copy": of_gradient,
      }
    )
  claim = harness.Claim(
    name="policy losses",
    statement=f"slowest of {', '.join(LOSSES)} at [{COMPLETIONS}, {TOKENS}]"
    " over a copy of what it reads",
    theory=BOUND,
    measured=harness.largest(row["over a copy"] for row in rows[1:]),
    tolerance=0,
    relation="<=",
  )
  return harness.Part([claim], {}, {"policy losses": rows})

# SPDX-License-Identifier: Apache-2.0
"""Tables over all 64 sequences of three tokens of four, trained on samples.

Every arm draws its own batches from its current policy and follows Adam with a
rate that falls to 0 as a cosine; what is recorded is exact.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxalign.exact import sequences
from jaxalign.rl import advantages, gflownet

V, T = 4, 3
NUM_SEQUENCES = V**T
BATCH, RATE, RECORDS = 64, 0.1, 50


class Arm(NamedTuple):
  """Weights of the losses."""

  tb: float = 0.0
  vargrad: float = 0.0
  subtb: float = 0.0
  db: float = 0.0
  reinforce: float = 0.0


ARMS = {
  "TB": Arm(tb=1.0),
  "VarGrad": Arm(vargrad=1.0),
  "SubTB": Arm(subtb=1.0),
  "DB": Arm(db=1.0),
  "REINFORCE": Arm(reinforce=1.0),
}
GFLOWNETS = tuple(ARMS)[:4]


class Params(NamedTuple):
  """A policy `[21, 4]` and the log-flow of each prefix `[21]`."""

  table: jax.Array
  log_flows: jax.Array


class Path(NamedTuple):
  """What is recorded: `[RECORDS, ...]`, the last at the end.

  Attributes:
    law: `[..., 64]`, the policy, in the order of the enumeration.
    loss: `[...]`, the arm's own loss, expected under its policy; REINFORCE has
      VarGrad's.
  """

  law: jax.Array
  loss: jax.Array


def _losses(params: Params, tokens: jax.Array, log_rewards: jax.Array) -> Arm:
  """Each loss of each sequence `[B]`."""
  log_pf = sequences.token_log_probs(params.table, tokens)
  flows = params.log_flows[sequences.prefix_index(tokens, V)]
  relative = advantages.group_advantages(
    jnp.exp(log_rewards),
    num_generations=len(tokens),
    baseline="loo",
    scale="none",
  )
  return Arm(
    tb=gflownet.tb_loss(flows[:, 0], log_pf, log_rewards),
    vargrad=gflownet.vargrad_loss(log_pf, log_rewards),
    subtb=gflownet.subtb_loss(flows, log_pf, log_rewards),
    db=gflownet.db_loss(flows, log_pf, log_rewards),
    reinforce=-relative * jnp.sum(log_pf, -1),
  )


def _record(params: Params, arm: Arm, log_rewards: jax.Array) -> Path:
  everything = sequences.enumerate_sequences(V, T)
  log_pi = sequences.sequence_log_probs(params.table, everything)
  law, found = jnp.exp(log_pi), _losses(params, everything, log_rewards)
  excess = log_pi - log_rewards
  # The group is the population: its mean is weighted.
  variance = (excess - law @ excess) ** 2
  found = found._replace(vargrad=variance, reinforce=variance)
  return Path(law, law @ sum(w * x for w, x in zip(arm, found, strict=True)))


def _train(
  key: jax.Array, arm: Arm, log_rewards: jax.Array, num_updates: int
) -> Path:
  optimiser = optax.adam(optax.cosine_decay_schedule(RATE, num_updates))

  def mean_loss(params, tokens):
    index = tokens @ V ** jnp.arange(T)[::-1]
    found = _losses(params, tokens, log_rewards[index])
    return jnp.mean(sum(w * x for w, x in zip(arm, found, strict=True)))

  def update(carry, step):
    params, state = carry
    tokens = sequences.sample_sequences(
      jax.random.fold_in(key, step), params.table, BATCH
    )
    slope = jax.grad(mean_loss)(params, tokens)
    updates, state = optimiser.update(slope, state)
    return (optax.apply_updates(params, updates), state), None

  def stretch(carry, steps):
    carry, _ = jax.lax.scan(update, carry, steps)
    return carry, _record(carry[0], arm, log_rewards)

  rows = sequences.num_prefixes(V, T)
  params = Params(jnp.zeros((rows, V)), jnp.zeros(rows))
  steps = jnp.arange(num_updates // RECORDS * RECORDS).reshape(RECORDS, -1)
  return jax.lax.scan(stretch, (params, optimiser.init(params)), steps)[1]


@functools.partial(jax.jit, static_argnames="num_updates")
def train(keys: jax.Array, log_rewards: jax.Array, *, num_updates: int) -> Path:
  """Paths `[arms, S, RECORDS, ...]`.

  Args:
    keys: `[S]`, typed.
    log_rewards: `[S, 64]`.
    num_updates: to the next lower multiple of `RECORDS`.
  """
  arms = jax.tree.map(lambda *x: jnp.array(x), *ARMS.values())

  def one(arm, key, log_rewards):
    return _train(key, arm, log_rewards, num_updates)

  over_seeds = jax.vmap(one, (None, 0, 0))
  return jax.vmap(over_seeds, (0, None, None))(arms, keys, log_rewards)

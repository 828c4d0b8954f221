# SPDX-License-Identifier: Apache-2.0
"""AlignDistil on the trained tables: what distilling token by token forgoes.

The reward is `c log(p_d/ref)` of DPO's table with the penalty `KL(pi||ref)`.
Each token's own optimum is `p_d^c ref^(1-c)`; the sequence's optimum is another
policy, for it knows that prefixes have values of their own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.token_kl import training
from jaxalign import preference
from jaxalign.exact import sequences

WEIGHTS = np.linspace(0, 2, 17)
EXACT = 1e-11  # sums of 64 terms of order 100 in float64
NOTICED = 1e-5  # nats: far above rounding, whatever has been learnt


@jax.jit
def forgone(dpo: jax.Array, ref: jax.Array) -> tuple[jax.Array, ...]:
  """By weight c, `[17]`: value forgone, and two divergences equal to it.

  The second is `KL(pi||pi*)` of sequences, the third what `log Z(s)` makes of
  it: the best value less its mean along the policy's own prefixes.
  """
  log_dpo, log_ref = (
    sequences.sequence_log_probs(x, training.ALL) for x in (dpo, ref)
  )

  def one(c):
    rewards = c * (log_dpo - log_ref)
    best = jax.nn.log_softmax(log_ref + rewards)
    table = _extrapolated(dpo, ref, c)
    log_pi = sequences.sequence_log_probs(table, training.ALL)
    log_z = _log_partition(dpo, ref, c)[
      sequences.prefix_index(training.ALL, training.V)
    ]
    values = [jnp.exp(x) @ (rewards - x + log_ref) for x in (best, log_pi)]
    law = jnp.exp(log_pi)
    return (
      values[0] - values[1],
      law @ (log_pi - best),
      values[0] - law @ jnp.sum(log_z, -1),
    )

  return jax.vmap(one)(jnp.asarray(WEIGHTS))


def _extrapolated(dpo, ref, c) -> jax.Array:
  dpo, ref = jax.nn.log_softmax(dpo), jax.nn.log_softmax(ref)
  return ref + c * (dpo - ref)


def _log_partition(dpo, ref, c) -> jax.Array:
  """`log Z(s)` of each prefix, `[21]`."""
  return jax.nn.logsumexp(_extrapolated(dpo, ref, c), -1)


@jax.jit
def at_teacher(dpo: jax.Array, ref: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`aligndistil_loss` and its gradient where its own teacher is the student.

  Rows of the tables stand for the tokens of one completion.
  """
  where = jnp.ones(len(dpo), bool)
  apart = jnp.abs(jax.nn.softmax(dpo) - jax.nn.softmax(ref))
  weight = jnp.sum(apart, -1, keepdims=True) + 1e-3  # with beta2 = 1
  teacher = _extrapolated(dpo, ref, 1 + weight)

  def loss(logits):
    return preference.aligndistil_loss(logits, dpo, ref, where=where, beta2=1.0)

  return jax.value_and_grad(loss)(teacher)


def distillation(dpo: np.ndarray, ref: np.ndarray) -> harness.Part:
  """Claims on tables `[S, 21, 4]`, of DPO and of the reference."""
  lost, divergence, by_prefix = map(np.asarray, jax.vmap(forgone)(dpo, ref))
  loss, gradient = map(np.asarray, jax.vmap(at_teacher)(dpo, ref))
  exact = (WEIGHTS == 0) | (WEIGHTS == 1)
  claims = [
    harness.all_agree(
      "forgone_is_divergence",
      "distilled token by token: value forgone less KL(pi||pi*) of sequences,"
      " and less what log Z(s) of prefixes makes of it: largest",
      [lost - divergence, lost - by_prefix],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "forgone_at_ends",
      "distilled token by token: value forgone at c = 0 and c = 1, largest",
      [lost[:, exact]],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="forgone_elsewhere",
      statement="distilled token by token: value forgone at every other c,"
      " smallest over seeds, nats",
      theory=NOTICED,
      measured=lost[:, ~exact].min(),
      tolerance=0.0,
      relation=">=",
    ),
    harness.all_agree(
      "teacher_is_least",
      "AlignDistil's loss and gradient at its own teacher, largest",
      [loss, gradient],
      tolerance=EXACT,
    ),
  ]
  table = harness.rows(c=WEIGHTS[::2], value_forgone=lost.mean(0)[::2])
  return harness.Part(
    claims,
    {"weight": WEIGHTS, "forgone": lost},
    {"AlignDistil, nats of beta2: means over seeds": table},
  )


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Value forgone by weight."""
  figure, (axes,) = plotting.figure()
  axes.plot(curves["weight"], curves["forgone"].T, color="C0", alpha=0.5)
  axes.set(
    xlabel="c = beta1/beta2",
    ylabel="value forgone, nats of beta2",
    title="token by token, against the best sequences",
  )
  return figure

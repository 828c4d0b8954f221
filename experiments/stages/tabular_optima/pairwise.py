# SPDX-License-Identifier: Apache-2.0
"""Losses of pairs of outcomes."""

import functools

import jax
import jax.numpy as jnp

from experiments import harness
from experiments.stages.tabular_optima import rows
from jaxalign import divergences, preference

FLIPS = 0.2
SHARPNESS = 0.7
BETA = rows.BETA
# By the name that the paper gives each, the object and how much weaker it is:
# the paper's Jensen-Shannon is twice the table's.
F_DPO = {
  "reverse KL": (divergences.f_divergence("kl"), 1),
  "forward KL": (divergences.f_divergence("reverse_kl"), 1),
  "JS": (divergences.f_divergence("jensen_shannon"), 2),
  **{
    f"alpha {a}": (
      divergences.f_divergence(
        "alpha", alpha=divergences.alpha_order(a, convention="f_dpo")
      ),
      1,
    )
    for a in (0.5, 0.3)
  },
}


def labels(world: rows.World) -> jax.Array:
  """Bradley-Terry labels of pairs from the sampling law, `[n, n]`."""
  return preference.pair_weights(world.rewards, world.sampling)


def cyclic_win(world: rows.World) -> jax.Array:
  """Win probabilities of no Bradley-Terry model, `[n, n]`."""
  turn = world.rewards[:, None] * world.log_ref[None, :]
  return jax.nn.sigmoid(2 * (turn - turn.T))


def cyclic_labels(world: rows.World) -> jax.Array:
  """Their labels of pairs from the sampling law, `[n, n]`."""
  return cyclic_win(world) * world.sampling[:, None] * world.sampling[None, :]


def counts(world: rows.World) -> tuple[jax.Array, jax.Array]:
  """How often each outcome wins and loses, `[n]` each."""
  weights = labels(world)
  return jnp.sum(weights, 1), jnp.sum(weights, 0)


def population(loss, weights=labels, scores=jax.nn.log_softmax):
  """The expectation of a loss of pairs, of logits and a world."""

  def expected(x, world):
    return preference.population_loss(
      loss, scores(x), world.log_ref, weights(world)
    )

  return expected


def free(loss):
  """The expectation with rewards `beta h` as parameters, no policy."""

  def expected(x, world):
    return preference.population_loss(
      loss, world.log_ref + x / BETA, world.log_ref, labels(world)
    )

  return expected


def soft(world: rows.World) -> jax.Array:
  """`ref e^(r/beta)`, normalised."""
  return jax.nn.softmax(world.log_ref + world.rewards / BETA)


def _f_dpo(name):
  div, strength = F_DPO[name]
  loss = functools.partial(preference.f_dpo_loss, div=div, beta=BETA * strength)

  def closed(world):
    return jnp.exp(
      divergences.regularized_maximizer(
        div, world.rewards, world.log_ref, BETA * strength
      )
    )

  return rows.Row(
    f"f_dpo {name}",
    f"f-DPO, {name}: argmax E r - beta D_f(pi||ref)",
    population(loss),
    rows.policy,
    closed,
  )


def _flipped(world):
  weights = labels(world)
  return (1 - FLIPS) * weights + FLIPS * weights.T


def _hdpo(world):
  return jax.nn.softmax((world.log_ref + world.rewards / BETA) / SHARPNESS)


def _ipo(world):
  expected = cyclic_win(world) @ world.sampling
  return jax.nn.softmax(world.log_ref + expected / BETA)


def _nca(world):
  wins, losses = counts(world)
  return jnp.log(2 * wins / (wins + losses))


def _bco(world):
  wins, losses = counts(world)
  return jnp.log(wins / losses)


def _sppo(world):
  wins, losses = counts(world)
  return (wins - losses) / (wins + losses) / 2


def _reward(x, world):
  del world
  return x


def pairwise(worlds: rows.World) -> harness.Part:
  """Claims on losses of pairs.

  Args:
    worlds: arrays `[worlds, ...]`.
  """
  partial = functools.partial
  robust = partial(preference.robust_dpo_loss, beta=BETA, eps=FLIPS)
  hdpo = partial(preference.hdpo_loss, beta=BETA, alpha=SHARPNESS)
  ipo = partial(preference.ipo_loss, tau=BETA)
  of = rows.Row
  return rows.part(
    "losses of pairs",
    [
      of(
        "dpo",
        "DPO: ref e^(r/beta)",
        population(partial(preference.dpo_loss, beta=BETA)),
        rows.policy,
        soft,
      ),
      *(_f_dpo(name) for name in F_DPO),
      of(
        "hdpo",
        f"H-DPO: (ref e^(r/beta))^(1/alpha), alpha {SHARPNESS}",
        population(hdpo),
        rows.policy,
        _hdpo,
      ),
      of(
        "ipo",
        "IPO: ref e^(E p/tau), of preferences without rewards",
        population(ipo, cyclic_labels),
        rows.policy,
        _ipo,
      ),
      of(
        "robust",
        f"robust DPO, labels flipped at rate {FLIPS}: ref e^(r/beta)",
        population(robust, _flipped),
        rows.policy,
        soft,
      ),
      of(
        "nca_pair",
        "NCA, free rewards: log 2w/(w + l)",
        free(partial(preference.nca_pair_loss, beta=BETA)),
        _reward,
        _nca,
      ),
      of(
        "bco_pair",
        "BCO of pairs, free rewards: log w/l",
        free(partial(preference.bco_pair_loss, beta=BETA)),
        _reward,
        _bco,
      ),
      of(
        "sppo_hard",
        "SPPO, free rewards: (w - l)/(w + l)/2",
        free(partial(preference.sppo_hard_loss, beta=BETA)),
        _reward,
        _sppo,
      ),
    ],
    worlds,
  )

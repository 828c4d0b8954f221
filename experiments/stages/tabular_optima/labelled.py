# SPDX-License-Identifier: Apache-2.0
"""Losses of good and bad completions that were drawn apart: p against q."""

import functools

import jax
import jax.numpy as jnp

from experiments import harness
from experiments.stages.tabular_optima import pairwise, rows
from jaxalign import preference

BETA = rows.BETA
GROUP = 2


def consistent(world: rows.World, power: float = 1.0) -> jax.Array:
  """`ref (p/q)^(power/beta)`, normalised."""
  ratio = jnp.log(world.good / world.bad)
  return jax.nn.softmax(world.log_ref + power / BETA * ratio)


def _products(world):
  return world.good[:, None] * world.bad[None, :]


def _batch(h, world):
  """Log-ratios of the good and the bad batch, and their labels."""
  both = jnp.concatenate([h[world.good_batch], h[world.bad_batch]])
  return both, jnp.arange(2 * rows.BATCH) < rows.BATCH


def _kldo(x, world):
  h, label = _batch(rows.log_ratio(x, world), world)
  return preference.kldo_loss(h, label, beta=BETA).loss


def _bco(x, world):
  h, label = _batch(rows.log_ratio(x, world) + x[-1], world)
  return jnp.mean(preference.bco_loss(h, label, jnp.zeros(()), beta=BETA).loss)


def _mdpo(x, world):
  h = rows.log_ratio(x, world)
  n, size = rows.OUTCOMES, rows.OUTCOMES**GROUP
  groups = jnp.stack(
    jnp.meshgrid(*[jnp.arange(n)] * GROUP, indexing="ij"), -1
  ).reshape(size, GROUP)
  loss = preference.mdpo_loss(
    jnp.repeat(h[groups], size, 0), jnp.tile(h[groups], (size, 1)), beta=BETA
  ).loss.reshape(size, size)
  of_good, of_bad = (
    jnp.prod(law[groups], -1) for law in (world.good, world.bad)
  )
  return of_good @ loss @ of_bad


def _ddpo(x, world):
  weights = jnp.broadcast_to(world.weights[:, None], (rows.OUTCOMES,) * 2)
  loss = functools.partial(preference.ddpo_loss, weights=weights, beta=BETA)
  return pairwise.population(loss)(x, world)


def _ddpo_optimum(world):
  reward = world.rewards + jnp.log(world.weights)
  return jax.nn.softmax(world.log_ref + reward / BETA)


def _nce(x, world):
  h, n = rows.log_ratio(x, world), rows.OUTCOMES
  index = jnp.stack(jnp.meshgrid(*[jnp.arange(n)] * 3, indexing="ij"), -1)
  loss = preference.ranking_nce_loss(h[index], beta=BETA)
  ref = jnp.exp(world.log_ref)
  return jnp.einsum("i,j,k,ijk", world.good, ref, ref, loss)


def _nce_optimum(world):
  ratio = jnp.log(world.good) - world.log_ref
  return jax.nn.softmax(world.log_ref + ratio / BETA)


def _dpkd(student, world):
  """Teacher's outcomes against a student's, with the teacher as reference."""
  weights = world.good[:, None] * student[None, :]
  loss = functools.partial(preference.dpkd_loss, beta=BETA)
  return lambda x: preference.population_loss(
    loss, jax.nn.log_softmax(x), jnp.log(world.good), weights
  )


def _dpkd_optimum(world):
  teacher = jnp.log(world.good)
  return jax.nn.softmax(teacher + (teacher - jnp.log(world.bad)) / BETA)


def _kto_infimum(worlds: rows.World) -> float:
  """How far KTO at rewards of plus and minus infinity is from 1 - TV."""

  @jax.vmap
  def difference(world):
    far = jnp.where(world.good > world.bad, jnp.inf, -jnp.inf)
    h, label = _batch(far, world)
    loss = preference.kto_loss(h, label, jnp.zeros(())).loss
    value = 2 * jnp.mean(loss)
    return jnp.abs(value - jnp.sum(jnp.minimum(world.good, world.bad)))

  return harness.largest(difference(worlds))


def _dpkd_rest(worlds: rows.World) -> float:
  """Gradient at the teacher, the student's samples drawn from itself."""
  slopes = jax.vmap(lambda w: jax.grad(_dpkd(w.good, w))(jnp.log(w.good)))(
    worlds
  )
  return harness.largest(jnp.abs(slopes))


def labelled(worlds: rows.World) -> harness.Part:
  """Claims on losses of good and bad completions.

  Args:
    worlds: arrays `[worlds, ...]`.
  """
  of, dpo = rows.Row, functools.partial(preference.dpo_loss, beta=BETA)
  found = rows.part(
    "losses of good and bad completions",
    [
      of(
        "dpo products",
        "DPO on independent pairs p x q: ref (p/q)^(1/beta)",
        pairwise.population(dpo, _products),
        rows.policy,
        consistent,
      ),
      of("kldo", "KLDO: ref (p/q)^(1/beta)", _kldo, rows.policy, consistent),
      of(
        "bco",
        "BCO with a free shift: ref (p/q)^(1/beta)",
        _bco,
        rows.policy,
        consistent,
        rows.OUTCOMES + 1,
      ),
      of(
        "mdpo",
        f"mDPO of groups of {GROUP}: ref (p/q)^(k/beta)",
        _mdpo,
        rows.policy,
        functools.partial(consistent, power=GROUP),
      ),
      of(
        "ddpo",
        "DDPO of weights d: ref (d e^r)^(1/beta)",
        _ddpo,
        rows.policy,
        _ddpo_optimum,
      ),
      of(
        "ranking_nce",
        "ranking-NCE, two negatives of ref: ref (p/ref)^(1/beta)",
        _nce,
        rows.policy,
        _nce_optimum,
      ),
      of(
        "dpkd static",
        "DPKD, samples drawn once from s: p (p/s)^(1/beta)",
        lambda x, world: _dpkd(world.bad, world)(x),
        rows.policy,
        _dpkd_optimum,
      ),
    ],
    worlds,
  )
  kto = rows.zero_claim(
    "kto", "KTO at infinite rewards: 1 - TV(p, q)", _kto_infimum(worlds)
  )
  rest = rows.zero_claim(
    "dpkd on policy", "DPKD at the teacher: gradient 0", _dpkd_rest(worlds)
  )
  return found._replace(claims=[*found.claims, kto, rest])

# SPDX-License-Identifier: Apache-2.0
"""Optima that other functions of the library name, checked by their conditions.

Imitation in an f-divergence, moment constraints, regularised equilibria, and
the divergence that pairs of log-ratios cannot express.
"""

import functools

import jax
import jax.numpy as jnp

from experiments import harness
from experiments.stages.tabular_optima import pairwise, rows
from jaxalign import divergences, preference, social_choice

BETA = rows.BETA
IMITATIONS = ("kl", "pearson_chi2", "squared_hellinger")
# Where the search for V starts: where every conjugate is finite and curved.
FIRST_VALUE = 1.0
CLIPPING = 0.2  # times beta: where chi2's optimum has an exact zero


def _dual(div, x, world):
  """f-SFT: the policy's logits and V, which is shifted into the domain."""
  h = rows.log_ratio(x, world)
  value = jnp.broadcast_to(x[-1] + FIRST_VALUE, h.shape)
  return world.good @ preference.fsft_loss(div, h, value, beta=BETA)


def _primal(div, world):
  """The policy of least `D_f(pi||E) + beta KL(pi||ref)`."""

  def loss(x):
    logits = jax.nn.log_softmax(x)
    imitate = divergences.categorical_f_divergence(
      div, logits, jnp.log(world.good)
    )
    return imitate + BETA * divergences.kl(logits, world.log_ref)

  start = jnp.zeros(rows.OUTCOMES)
  found = preference.minimize_population(loss, start, num_steps=60)
  return jax.nn.softmax(found.x)


def _f_sft(name):
  div = divergences.f_divergence(name)
  return rows.Row(
    f"f-SFT {name}",
    f"f-SFT, {name}: argmin D_f(pi||E) + beta KL(pi||ref)",
    functools.partial(_dual, div),
    rows.policy,
    functools.partial(_primal, div),
    rows.OUTCOMES + 1,
  )


def _gdc(worlds):
  """A tilt of the base, found again from its own moments."""

  @jax.vmap
  def difference(world):
    features = jnp.stack([world.rewards, world.weights], -1)
    target = jax.nn.log_softmax(
      world.log_ref + features @ jnp.array([0.7, -0.4])
    )
    moments = jnp.exp(target) @ features
    found = preference.gdc_target(world.log_ref, features, moments)
    return jnp.max(jnp.abs(jnp.exp(found.log_target) - jnp.exp(target)))

  return harness.largest(jax.jit(difference)(worlds))


def _nash(worlds):
  """`pi = ref e^(P pi/tau)` at the regularised equilibrium."""
  win = jax.vmap(pairwise.cyclic_win)(worlds)
  log_ref = worlds.log_ref
  found = social_choice.regularized_nash(log_ref, win, 1 / BETA).log_policy
  gain = jnp.einsum("wij,wj->wi", win, jnp.exp(found))
  best = jax.nn.softmax(log_ref + gain / BETA)
  return harness.largest(jnp.abs(jnp.exp(found) - best))


def _chi2(worlds):
  """Violation of the optimum's conditions, and how many outcomes it drops.

  On its support `r - beta f'(pi/ref)` is one number; elsewhere, at ratio 0, it
  is at most that number.
  """
  div = divergences.f_divergence("pearson_chi2")
  beta = CLIPPING * BETA
  log_policy = divergences.regularized_maximizer(
    div, worlds.rewards, worlds.log_ref, beta
  )
  ratio = jnp.exp(log_policy - worlds.log_ref)
  gain = worlds.rewards - beta * div.f_prime(ratio)
  kept = ratio > 0
  level = jnp.max(jnp.where(kept, gain, -jnp.inf), -1, keepdims=True)
  uneven = jnp.where(kept, level - gain, 0)
  above = jnp.where(kept, 0, jnp.maximum(gain - level, 0))
  return (
    harness.largest([jnp.max(uneven), jnp.max(above)]),
    int(jnp.min(jnp.sum(~kept, -1))),
  )


def targets(worlds: rows.World) -> harness.Part:
  """Claims on f-SFT, GDC, Nash and chi-squared.

  Args:
    worlds: arrays `[worlds, ...]`.
  """
  found = rows.part("imitation", [_f_sft(name) for name in IMITATIONS], worlds)
  violation, dropped = _chi2(worlds)
  claims = [
    *found.claims,
    rows.zero_claim(
      "gdc", "GDC: the tilt of the base with these moments", _gdc(worlds)
    ),
    rows.zero_claim(
      "nash", "regularised Nash: pi = ref e^(P pi/tau)", _nash(worlds)
    ),
    rows.zero_claim(
      "chi2", "chi2's optimum: one gain where it has mass", violation
    ),
    harness.Claim(
      name="chi2 zeros",
      statement="outcomes without mass under it, which no finite log-ratio has",
      theory=1,
      measured=dropped,
      tolerance=0,
      relation=">=",
    ),
  ]
  return found._replace(claims=claims)

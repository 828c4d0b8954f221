# SPDX-License-Identifier: Apache-2.0
"""An f-divergence to the base, from stored samples of the base (DPH-RL).

No reference model is needed in training: samples and their log-probabilities
under the base are kept, and for `u = pi/ref` the expectation of `f(u)` over
them is the divergence itself, value and gradient. With the surrogate of the
policy gradient on problems that the base does not yet solve, and this on those
that it always solves, what it can do is rehearsed.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, divergences, numerics
from jaxalign.rl import advantages

__all__ = ("base_sample_f_terms", "mastered_groups")


def base_sample_f_terms(
  logp: jax.Array,
  ref_logp: jax.Array,
  *,
  div: divergences.FDivergence,
  where: jax.Array | None = None,
) -> jax.Array:
  """Terms whose mean over samples of the base is `D_f(pi||ref)`.

  `f(u) - f'(1) (u - 1)` with `u = pi/ref`: at least 0, and flat at u = 1. It is
  computed from `log u`. The mean has the value and the gradient of the
  divergence: samples of the base do not move with the policy. The paper's

  - forward KL, `u - log u - 1`, is `f_divergence("reverse_kl")`: KL(ref||pi);
  - JS generator, `u log u - (u + 1) log((u + 1)/2)`, is twice
    `f_divergence("jensen_shannon")`: 2 JS(pi, ref);
  - alpha, `(u^(1-a) - (1-a) u - a) / (a (a - 1))`, is the order
    `alpha_order(a, convention="dph_rl")`: a = .2 is close to KL(pi||ref).

  The maximiser of `E r - eta D_f` is `divergences.regularized_maximizer`. Over
  the tokens of sequences drawn from the base, the sum of forward KL terms has
  the mean of the sequences' KL(ref||pi); no such thing holds for JS.

  Args:
    logp: `[...]`, of tokens or sequences drawn from the base.
    ref_logp: `[...]`, the base's; finite, constants.
    div: the divergence, an `FDivergence`.
    where: bool `[...]`, what is kept; all by default.

  Returns:
    `[...]`; 0 where not kept; `f(0) + f'(1)`, which may be +inf, with gradient
    0, where the policy has no mass.

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> div = divergences.f_divergence("reverse_kl")
  >>> logp, ref_logp = jnp.log(jnp.array([.25, .5])), jnp.log(jnp.ones(2) / 2)
  >>> print(base_sample_f_terms(logp, ref_logp, div=div).round(2))
  [0.19 0.  ]

  Reference:
    DPH-RL (2509.07430), section 3.
  """
  checks.check_same_shape(logp=logp, ref_logp=ref_logp)
  checks.check_float(logp=logp, ref_logp=ref_logp)
  logp = numerics.as_float(logp)
  ref_logp = jax.lax.stop_gradient(numerics.as_float(ref_logp))
  keep = jnp.ones(logp.shape, bool) if where is None else where
  checks.check_same_shape(logp=logp, where=keep)
  live = keep & (logp > -jnp.inf)
  log_u = jnp.where(live, logp, 0) - jnp.where(keep, ref_logp, 0)
  log_u = jnp.where(live, log_u, 0)
  inside = div.term(log_u, jnp.zeros_like(log_u))
  absent = div.f_zero + div.f_prime_one
  return jnp.where(live, inside, jnp.where(keep, absent, 0))


def mastered_groups(correct: jax.Array, *, num_generations: int) -> jax.Array:
  """Whether the base solved a sample's problem in all of its attempts.

  These samples are rehearsed (`base_sample_f_terms`); all others are explored,
  by a clipped policy gradient without any divergence.

  Args:
    correct: bool `[..., B]`, of samples of the base, groups one after the
      other.
    num_generations: attempts at each problem, 8 in the paper; must divide B.

  Returns:
    bool `[..., B]`, equal within a group.

  Raises:
    ValueError: `num_generations` does not divide B.

  >>> correct = jnp.array([True, True, True, False])
  >>> print(mastered_groups(correct, num_generations=2))
  [ True  True False False]

  Reference:
    DPH-RL (2509.07430), section 3. The released script asks for 4 of 4 where
    the text says 8.
  """
  groups = advantages.split_groups(correct, num_generations)
  return jnp.repeat(jnp.min(groups, -1) > 0, num_generations, -1)

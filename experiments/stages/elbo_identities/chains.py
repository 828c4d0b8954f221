# SPDX-License-Identifier: Apache-2.0
"""The bound of a linear-Gaussian chain in closed form, against simulation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign.exact import gaussian_chain

STEPS = 5
ACTIONS = np.array([-1.0, 0.3, 2.5])
BAR = gaussian_chain.cosine_alpha_bar(STEPS)
EXACT = 1e-12


def loose(seed: int) -> gaussian_chain.GaussianChain:
  """A random chain."""
  rng = np.random.default_rng(seed)
  return gaussian_chain.GaussianChain(
    *rng.uniform(-1, 1, (2, STEPS)), rng.uniform(0.3, 1, STEPS)
  )


def _log_normal(x, mean, std):
  return jax.scipy.stats.norm.logpdf(x, mean, std)


@functools.partial(jax.jit, static_argnames="num")
def simulated(chain, key, *, num: int) -> jax.Array:
  """`log p(x_0..x_T) - log q(x_1..x_T | x_0)` of noised actions, `[num, N]`."""
  alpha = BAR[1:] / BAR[:-1]
  noise = jax.random.normal(key, (STEPS, num, len(ACTIONS)))
  x, total = jnp.broadcast_to(ACTIONS, noise.shape[1:]), 0.0
  for t in range(STEPS):
    mean, std = math.sqrt(alpha[t]) * x, math.sqrt(1 - alpha[t])
    after = mean + std * noise[t]
    back = chain.slope[t] * after + chain.shift[t]
    total += _log_normal(x, back, chain.std[t]) - _log_normal(after, mean, std)
    x = after
  return total + _log_normal(x, 0.0, 1.0)


@jax.jit
def closed_form(chain) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Bound and log-likelihood of the actions; the gap of a tight chain."""
  tight = gaussian_chain.tight_chain(*gaussian_chain.chain_marginal(chain), BAR)
  gap = gaussian_chain.chain_log_prob(
    tight, ACTIONS
  ) - gaussian_chain.chain_elbo(tight, ACTIONS, BAR)
  return (
    gaussian_chain.chain_elbo(chain, ACTIONS, BAR),
    gaussian_chain.chain_log_prob(chain, ACTIONS),
    gap,
  )


def chains(*, seed: int, key: jax.Array, num_draws: int) -> harness.Part:
  """Claims on the bound of a random chain and of a tight one."""
  chain = loose(seed)
  bound, log_p, gap = map(np.asarray, closed_form(chain))
  found = np.asarray(simulated(chain, key, num=num_draws))
  errors = found.std(0, ddof=1) / math.sqrt(num_draws)
  claims = [
    harness.all_agree(
      "chain_simulated",
      "linear-Gaussian chain: simulated bound less the closed form, largest in"
      " standard errors over three actions",
      (found.mean(0) - bound) / errors,
      tolerance=harness.STANDARD_ERRORS,
    ),
    harness.none_exceeds(
      "chain_bound",
      "linear-Gaussian chain: the bound exceeds the log-likelihood by",
      bound - log_p,
      tolerance=EXACT,
    ),
    harness.all_agree(
      "chain_tight",
      "tight chain with the same marginal: largest gap",
      [gap],
      tolerance=EXACT,
    ),
  ]
  rows = harness.rows(
    action=ACTIONS,
    ELBO=bound,
    simulated=found.mean(0),
    standard_error=errors,
    log_p=log_p,
  )
  return harness.Part(claims, {}, {"linear-Gaussian chain of 5 steps": rows})

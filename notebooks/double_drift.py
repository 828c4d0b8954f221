# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The double drift of diffusion policies
#
# A diffusion policy has no cheap likelihood, so policy gradients put a bound in
# its place. Here both are exact. Two things drift apart as the policy learns:
# the bound from the likelihood, and the bound's gradient from the reward's.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxalign") is None:
  subprocess.run(
    [sys.executable, "-m", "pip", "install", "-q", "jaxalign[experiments]"],
    check=True,
  )

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
from IPython.display import display

from experiments import harness
from experiments.stages.double_drift import bandit, flow_policies
from jaxalign import diffusion, exact

# %% [markdown]
# ## One denoiser, four numbers for each sequence
#
# Three tokens of three values, a random denoiser. The likelihood of revealing
# one token at a time in a random order is a sum over orders; `ELBO` bounds it
# from below, SPG's `EUBO` from above only if its power is at least the length.

# %%
V = L = 3
x = exact.enumerate_sequences(V, L)
table = exact.random_denoiser(jax.random.key(0), V, L)


def bounds(table):
  scores = exact.subset_log_probs(exact.table_denoiser(table), x, mask_id=V)
  return (
    exact.any_order_log_prob(scores),
    exact.any_order_elbo(scores),
    exact.masked_eubo(scores, power=1.5),
  )


log_pi, elbo, eubo = bounds(table)
print(f"probabilities sum to {jnp.exp(log_pi).sum():.6f}")
print(f"ELBO below log pi by {(log_pi - elbo).min():.3f} at least")
print(f"EUBO of power 1.5 below it by up to {(log_pi - eubo).max():.3f}")

# %% [markdown]
# ## From a model, by sampling
#
# Any denoiser gives the same bound from a few maskings, without bias. With one
# key, old and new parameters are compared on the same maskings.

# %%
estimate = diffusion.masked_elbo(
  jax.random.key(1),
  exact.table_denoiser(table),
  x,
  mask_id=V,
  where=jnp.ones(x.shape, bool),
  num_samples=256,
)
off = jnp.abs(estimate.value - elbo) / estimate.std_err
print(f"largest error of 27 estimates: {off.max():.1f} standard errors")

# %% [markdown]
# ## The second drift, before any update
#
# Surrogates take bounds, never a model. FPO's gradient points elsewhere than
# the reward's; after self-distillation, which leaves the policy as it is, the
# two agree.

# %%
rewards = jax.random.uniform(jax.random.key(2), (len(x),))


def report(table):
  log_pi, elbo, _ = bounds(table)
  law = jnp.exp(log_pi)
  advantages = rewards - law @ rewards

  def loss(table):
    _, now, _ = bounds(table)
    surrogate = diffusion.fpo_loss(now, elbo, advantages, normalize="sequence")
    return law @ surrogate.loss

  def reward(table):
    return jnp.exp(bounds(table)[0]) @ rewards

  return diffusion.drift_report(
    law,
    rewards,
    log_pi,
    elbo,
    surrogate_gradient=-jax.grad(loss)(table),
    reward_gradient=jax.grad(reward)(table),
  )


for name, start in {
  "random denoiser": table,
  "self-distilled": exact.self_distill(table),
}.items():
  found = jax.jit(report)(start)
  print(
    f"{name:>16}: reward {found.reward:.3f}, gap {found.gap:.3f},"
    f" cosine {found.cosine:.3f}"
  )

# %% [markdown]
# ## Learning, with every expectation exact
#
# In the linear-Gaussian bandit FPO rises, drifts and collapses; the bound as a
# regulariser (+ .05 and more) prevents it; a k1 penalty on bounds (- .04), that
# would be neutral for a likelihood, hastens it. Flow policies drift as well,
# and ten Euler steps shrink what is distilled at every update.
#
# `python -m experiments.double_drift` adds sequences of tokens, from a loose
# and a tight start, and a network that learns from samples.

# %%
with jax.enable_x64(True):
  parts = [bandit.bandit(denoising_steps=()), flow_policies.flow_policies()]
for stage, part in zip((bandit, flow_policies), parts, strict=True):
  figure = stage.plot(part.curves)
  figure.set_dpi(60)
  display(figure)

# %% [markdown]
# ## The claims

# %%
for claim in (claim for part in parts for claim in part.claims):
  measured, theory = map(harness.format_number, (claim.measured, claim.theory))
  print(
    f"{'holds' if claim.holds else 'FAILED':>6}  {claim.statement}:"
    f" {measured} {claim.relation} {theory}"
  )

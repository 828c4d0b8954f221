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
# # Divergences: one object, many tails
#
# Every f-divergence of the library is one object: a convex generator with its
# derivative, inverse, conjugate and boundary values. This notebook shows what
# the choice of the generator decides (how a mismatch in the tails is punished,
# whether a fit seeks a mode or covers the mass) and why an estimator of KL with
# the right mean may still have the gradient of another divergence.

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

from experiments import divergence_bounds, harness, kl_estimators
from jaxalign import divergences

# %% [markdown]
# ## Zeros are mathematics
#
# Two distributions whose supports differ. Divergences that can be infinite are;
# no value and no gradient is NaN.

# %%
p, q = jnp.log(jnp.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.25, 0.75, 0.0]]))
parameters = {"alpha": {"alpha": 0.4}, "hockey_stick": {"gamma": 1.7}}
for name in divergences.NAMES:
  div = divergences.f_divergence(name, **parameters.get(name, {}))
  value = divergences.categorical_f_divergence(div, p, q)
  print(
    f"{div.name:>20}: {value:.4f} (at most {div.f_zero + div.f_prime_inf:.4f})"
  )

# %%
slope = jax.grad(divergences.jensen_shannon)(p, q)
print("gradient of Jensen-Shannon, 0 off the support:", slope.round(4))

# %% [markdown]
# ## Tails, modes and bounds
#
# The experiment `divergence_bounds` draws every generator of the registry, fits
# one Gaussian to a mixture under several objectives, and trains critics whose
# bounds approach the closed forms from below.

# %%
bounds = divergence_bounds.run(
  divergence_bounds.Config.from_preset("smoke"), progress=False
)
for figure in divergence_bounds.plot(bounds).values():
  figure.set_dpi(45)
  display(figure)

# %% [markdown]
# ## The trap: an unbiased estimator with the wrong gradient
#
# k1, k2 and k3 all estimate KL(policy||ref) from samples of the policy. As a
# loss, k1 has no gradient at all in expectation, and k3 has that of the other
# direction, KL(ref||policy). `kl_penalty_loss` has the right one.

# %%
estimates = kl_estimators.run(
  kl_estimators.Config.from_preset("smoke"), progress=False
)
for figure in kl_estimators.plot(estimates).values():
  figure.set_dpi(45)
  display(figure)

# %% [markdown]
# ## The claims

# %%
for results in (bounds, estimates):
  for claim in results.claims:
    measured, theory = map(
      harness.format_number, (claim.measured, claim.theory)
    )
    print(
      f"{'holds' if claim.holds else 'FAILED':>6}  {claim.statement}:"
      f" {measured} {claim.relation} {theory}"
    )

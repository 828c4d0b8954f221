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
# # Distortion and best-of-N
#
# Two headline results, exactly. First: when users differ, how much average
# utility does an alignment method lose at worst? Then: what does the best of N
# samples cost in KL, and how good is the familiar formula?

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

from experiments import best_of_n, harness, plotting
from jaxalign import inference, social_choice

# %% [markdown]
# ## A population on which RLHF goes wrong
#
# Most users gain a little from `a`, a few gain much from `b`. Nearly all
# comparisons involve a third alternative that the policy cannot reach; they
# teach a reward model the wrong order of `a` and `b`.

# %%
with jax.enable_x64(True):
  for beta in (5.0, 10.0):
    instance = social_choice.instance_exponential(beta)
    bound = social_choice.distortion_bound(beta)
    print(f"beta = {beta:g}: no rule guarantees less than {bound:.2f}")
    for method in ("rlhf", "nlhf"):
      ratio = social_choice.distortion(instance, beta, method)
      print(f"  {method} loses a factor {ratio:.2f}")

# %% [markdown]
# ## The theory's curves and the instances that attain them
#
# `python -m experiments.distortion` adds the searches for counter-examples, the
# law of finite samples and real preferences.

# %%
betas = jnp.geomspace(0.5, 20, 100)
fig, (axes,) = plotting.figure()
axes.plot(
  betas, social_choice.distortion_bound(betas), label="D*: Nash learning"
)
bound = social_choice.borda_lower_bound(betas).value
axes.plot(betas, bound, label="C: Borda, RLHF, DPO")
claims = []
with jax.enable_x64(True):
  for beta in (2.0, 5.0, 10.0):
    for method, instance, theory in (
      (
        "maximal_lottery",
        social_choice.instance_ml(beta),
        social_choice.distortion_bound(beta),
      ),
      (
        "borda",
        social_choice.instance_borda(beta),
        social_choice.borda_lower_bound(beta).value,
      ),
    ):
      ratio = social_choice.distortion(instance, beta, method)
      axes.plot(beta, ratio, "ko", markerfacecolor="none")
      claims.append(
        harness.Claim(
          name=f"{method} at {beta:g}",
          statement=f"{method} attains its bound at beta = {beta:g}",
          theory=theory,
          measured=ratio,
          tolerance=2e-3 * float(theory),  # eps and xi are not at their limits
        )
      )
axes.set(xlabel="beta", ylabel="distortion", xscale="log", yscale="log")
axes.legend()
display(fig)

# %% [markdown]
# ## Best-of-N: the formula is a bound
#
# `log n - (n-1)/n` is the KL of best-of-n for a base without atoms. For binary
# rewards the exact KL stops at `log 2`, however large n is.

# %%
base = jnp.log(jnp.array([0.5, 0.5]))
reward = jnp.array([0.0, 1.0])
for n in (2, 16, 128):
  exact = inference.kl_exact(base, reward, n)
  print(f"n = {n:3d}: {exact:.5f} <= {inference.kl_upper_bound(n):.5f}")

# %%
best = best_of_n.run(best_of_n.Config.from_preset("smoke"), progress=False)
for figure in best_of_n.plot(best).values():
  figure.set_dpi(45)
  display(figure)

# %% [markdown]
# ## The claims

# %%
for claim in (*claims, *best.claims):
  measured, theory = map(harness.format_number, (claim.measured, claim.theory))
  print(
    f"{'holds' if claim.holds else 'FAILED':>6}  {claim.statement}:"
    f" {measured} {claim.relation} {theory}"
  )

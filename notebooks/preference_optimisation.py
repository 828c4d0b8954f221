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

# %% [markdown]
# # What a preference loss really learns
#
# DPO, IPO, KTO, SimPO and their kin are functions of log-probabilities. Over a
# few outcomes their expectations are functions of a few logits: minimise them,
# and see what each loss learns from infinitely many comparisons.

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
import numpy as np
from IPython.display import display

from experiments import harness, plotting
from experiments.stages.alignment_as_divergence import laws, values
from experiments.stages.overoptimisation import one_pair
from experiments.stages.tabular_optima import labelled, rows
from jaxalign import divergences, preference

# %% [markdown]
# ## Losses take log-probabilities
#
# Sums over the tokens of completions, from any model. Each loss by its
# function or by its name; what a loss does not take is refused before any data
# is seen.

# %%
pairs = preference.PairLogps(
  policy_chosen=jnp.array([-12.0, -30.5]),
  policy_rejected=jnp.array([-14.2, -25.0]),
  ref_chosen=jnp.array([-13.5, -28.0]),
  ref_rejected=jnp.array([-12.9, -26.2]),
  chosen_length=jnp.array([5.0, 12.0]),
  rejected_length=jnp.array([6.0, 9.0]),
)
js = divergences.f_divergence("jensen_shannon")
for name, options in (
  ("dpo", {"beta": 0.1}),
  ("f_dpo", {"beta": 0.2, "div": js}),
  ("ipo", {"tau": 0.1}),
  ("simpo", {"beta": 2.0, "gamma": 1.0}),
):
  out = preference.pair_loss(name, **options)(pairs)
  print(f"{name:>6}:", *(f"{x:8.4f}" for x in out.loss))

try:
  preference.pair_loss("dpo", tau=0.1)
except ValueError as error:
  print(error)

# %% [markdown]
# ## The soft optimum, whatever the sampling
#
# `minimize_population` descends the expectation over all pairs to rounding.
# DPO learns `ref e^(r/beta)` from any sampling of pairs; with your own
# divergence f-DPO learns that divergence's regularised optimum.

# %%
rng = np.random.default_rng(0)
n, beta = 6, 0.5
with jax.enable_x64(True):
  rewards, log_ref = rng.normal(size=n), np.log(rng.dirichlet(np.ones(n)))

  def learn(loss, sampling):
    weights = preference.pair_weights(rewards, sampling)

    def expected(logits):
      log_policy = jax.nn.log_softmax(logits)
      return preference.population_loss(loss, log_policy, log_ref, weights)

    found = preference.minimize_population(expected, jnp.zeros(n))
    return jax.nn.softmax(found.x)

  soft = jax.nn.softmax(log_ref + rewards / beta)
  dpo = preference.pair_loss("dpo", beta=beta)
  for sampling in rng.dirichlet(np.ones(n), 3):
    gap = jnp.max(jnp.abs(learn(dpo, sampling) - soft))
    print(f"DPO from another sampling: off by {gap:.0e}")

  mine = divergences.custom_f_divergence(
    lambda u: u * jnp.log(u) + (1 / u - 1) / 10,
    name="mine",
    f_zero=np.inf,
    f_prime_inf=np.inf,
  )
  f_dpo = preference.pair_loss("f_dpo", div=mine, beta=beta)
  optimum = jnp.exp(
    divergences.regularized_maximizer(mine, rewards, log_ref, beta)
  )
  gap = jnp.max(jnp.abs(learn(f_dpo, sampling) - optimum))
  print(f"f-DPO with my divergence: off by {gap:.0e}")

# %% [markdown]
# ## Losses as divergences
#
# Of good and bad completions drawn apart, from p and from q, each loss ends at
# a divergence of p and q: KTO's total variation is approached and never
# reached. `python -m experiments.alignment_as_divergence` adds policies and
# groups.

# %%
with jax.enable_x64(True):
  parts = [values.values(laws=laws.laws(range(4)), steps=2000)]
  parts.append(labelled.labelled(rows.draw(0, 2)))
  parts.append(one_pair.one_pair())
figure, (left, right) = plotting.figure(1, 2, width=5.2, height=3.4)
values.plot_paths(left, parts[0].curves)
values.plot_values(right, parts[0].curves)
figure.set_dpi(60)
display(figure)

# %% [markdown]
# ## Where mass goes that no pair speaks of
#
# One pair, four actions, features: DPO moves along the difference of the
# pair's features to an action that no pair contains. RPO's likelihood term
# changes the path.

# %%
figure, (left, right) = plotting.figure(1, 2, width=5.2, height=3.4)
for i, axes in enumerate((left, right)):
  one_pair.plot(axes, parts[2].curves, i)
right.legend()
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

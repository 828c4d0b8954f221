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
# # What a policy-gradient surrogate really ascends
#
# GRPO, RLOO, DAPO, GSPO and their kin differ in a baseline, a scale, a clip and
# an average over tokens. Over completions short enough to list, every group can
# be listed too: expected gradients are sums, and each choice shows its effect.

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

from experiments import harness, plotting
from experiments.stages import completions
from experiments.stages.kl_placement import gradients
from experiments.stages.surrogate_gradients import binary, estimators
from jaxalign import rl

# %% [markdown]
# ## One loss, composed of its parts
#
# An algorithm is a choice of parts; what it does not take is refused. A batch
# is arrays: log-probabilities of the sampled tokens, advantages, a mask.

# %%
key = jax.random.key(0)
logp = -jax.random.exponential(key, (8, 5))
where = jnp.arange(5) < jnp.array([5, 3, 4, 1, 2, 5, 5, 3])[:, None]
rewards = jnp.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
batch = rl.PolicyBatch(
  logp,
  logp - 0.1,
  rl.group_advantages(rewards, num_generations=4),
  where,
  ref_logp=logp - 0.3,
)
for config in (
  rl.algorithm("grpo"),
  rl.algorithm("dapo", kl="k2", kl_coefficient=0.01),
  rl.algorithm("gspo"),
):
  loss, _, metrics = rl.policy_loss(config, batch)
  print(f"loss {loss:+.4f}, clipped {metrics['clipped']:.2f}  {config.level}")

try:
  rl.algorithm("sapo", eps_high=0.28)
except ValueError as error:
  print(error)

# %% [markdown]
# ## Your own loss, proved the same way
#
# `expected_group_gradient` sums a loss over all 343 groups of three of the
# seven completions. Here: REINFORCE with the group's best as its baseline,
# which looks harmless.

# %%
worlds = completions.worlds(range(3))
table, _, reward = (x[0] for x in worlds)


def best_as_baseline(logp, group):
  advantages = reward[group] - jnp.max(reward[group])
  return jnp.mean(advantages * jnp.sum(logp, -1))


found = completions.expected_gradient(best_as_baseline, table)
exact = jax.grad(completions.value)(table, reward)
cosine = jnp.vdot(found, exact) / jnp.sqrt(
  jnp.vdot(found, found) * jnp.vdot(exact, exact)
)
print(f"cosine with the gradient of J: {cosine:.3f}")

# %% [markdown]
# ## Advantages times averages
#
# Left: the angle between what is ascended and the gradient of J. Right: how
# much faster prompts of binary reward are learnt if advantages are divided by
# the group's deviation. `python -m experiments.surrogate_gradients` adds every
# published loss, and samples of another policy.

# %%
with jax.enable_x64(True):
  worlds = completions.worlds(range(3))
  parts = [
    estimators.estimators(worlds),
    binary.binary(worlds),
    gradients.placements(worlds),
  ]
figure, (left, right) = plotting.figure(1, 2, width=5.6, height=3.8)
estimators.draw(left, parts[0].curves)
binary.draw(right, parts[1].curves)
figure.set_dpi(60)
display(figure)

# %% [markdown]
# ## Where the divergence is put
#
# The same estimate of KL(policy||ref) has another gradient in another place.
# `python -m experiments.kl_placement` trains with each.

# %%
for row in parts[2].tables["expected gradients"]:
  print(f"{row['term']:>12}: gradient of {row['gradient of (sequences)']}")

# %% [markdown]
# ## The claims

# %%
for claim in (claim for part in parts for claim in part.claims):
  measured, theory = map(harness.format_number, (claim.measured, claim.theory))
  print(
    f"{'holds' if claim.holds else 'FAILED':>6}  {claim.statement}:"
    f" {measured} {claim.relation} {theory}"
  )

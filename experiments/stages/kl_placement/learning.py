# SPDX-License-Identifier: Apache-2.0
"""Where training ends with each term, by its exact expected gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages import completions
from experiments.stages.kl_placement import gradients
from jaxalign import divergences

BETA = 0.5
RATE, STEPS = 0.1, 20_000
SHOWN = np.unique(np.geomspace(1, STEPS, 200).astype(int))  # updates
# What each term leads to, by the divergence that its gradient is of.
OPTIMA = {"k2": "kl", "k3": "reverse_kl", "k1 in reward": "kl"}
REACHED = 1e-6  # of Adam after so many steps, in total variation
TERMS = ("k1", *OPTIMA)


def optimum(rewards, log_ref, name: str) -> jax.Array:
  """`argmax E r - beta D(pi, ref)`, the log-policy over completions."""
  if name == "kl":
    return jax.nn.log_softmax(log_ref + rewards / BETA)
  return divergences.regularized_maximizer(
    divergences.f_divergence(name), rewards, log_ref, BETA
  )


@jax.jit
def train(logits, ref_logits, rewards):
  """Adam on the expected gradient of `-r + beta term`.

  Returns:
    Log-policies over completions, `[K, 7]`, divergences `[K, STEPS]`, and the
    optima that theory names, `[K - 1, 7]`.
  """
  optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
  ref_logp = completions.token_log_probs(ref_logits)

  def objective(x, which):
    logp = completions.token_log_probs(x)
    probs = jax.lax.stop_gradient(jnp.exp(jnp.sum(logp, -1)))
    terms = [
      gradients.surrogate(t, logp, ref_logp, completions.WHERE, tokens=False)
      for t in TERMS
    ]
    score = jnp.sum(logp, -1)
    return probs @ (BETA * jnp.stack(terms)[which] - rewards * score)

  def one(which):
    def step(carry, _):
      x, state = carry
      update, state = optimiser.update(jax.grad(objective)(x, which), state)
      x = optax.apply_updates(x, update)
      return (x, state), gradients.divergence(x, ref_logits)

    start = (logits, optimiser.init(logits))
    (x, _), kl = jax.lax.scan(step, start, None, STEPS)
    return completions.sequence_log_probs(x), kl

  log_ref = completions.sequence_log_probs(ref_logits)
  best = [optimum(rewards, log_ref, name) for name in OPTIMA.values()]
  return *jax.vmap(one)(jnp.arange(len(TERMS))), jnp.stack(best)


def learning(worlds: completions.Worlds) -> harness.Part:
  """Claims on the policies that training ends in."""
  log_pi, kl, best = (np.asarray(x) for x in jax.vmap(train)(*worlds))
  policies, optima = np.exp(log_pi), np.exp(best)
  claims = []
  for i, (term, name) in enumerate(OPTIMA.items()):
    change = policies[:, TERMS.index(term)] - optima[:, i]
    distance = np.abs(change).sum(-1) / 2
    side = "KL(pi||ref)" if name == "kl" else "KL(ref||pi)"
    claims.append(
      harness.all_agree(
        f"ends_{term}".replace(" ", "_"),
        f"{term}: total variation of where training ends to the optimum of"
        f" E r - beta {side}, largest over worlds",
        distance,
        tolerance=REACHED,
      )
    )
  ratio = kl[:, 0, -1] / kl[:, TERMS.index("k2"), -1]
  claims.append(
    harness.Claim(
      name="k1_does_not_hold",
      statement="k1 in the loss: final KL(pi||ref) over that with k2, smallest"
      " over worlds: it holds nothing back",
      theory=1,
      measured=float(ratio.min()),
      tolerance=0,
      relation=">=",
    )
  )
  rewards = np.sum(policies * np.asarray(worlds.rewards)[:, None], -1)
  table = harness.rows(
    term=list(TERMS),
    reward=rewards.mean(0),
    final_KL=kl[:, :, -1].mean(0),
  )
  title = f"after training with beta = {BETA}: means over worlds"
  return harness.Part(claims, {"kl": kl[..., SHOWN - 1]}, {title: table})


def draw(axes: Axes, curves) -> None:
  """Divergence by update."""
  for i, term in enumerate(TERMS):
    in_reward = "reward" in term
    # k1 in the reward lies on k2 in the loss: dashes show both.
    style = plotting.line_style(i) | ({"linestyle": "--"} if in_reward else {})
    label = term if in_reward else f"{term} in loss"
    axes.plot(SHOWN, curves["kl"].mean(0)[i], label=label, **style)
  plotting.log_scale(axes, "x")
  axes.set(
    xlabel="update",
    ylabel="KL(pi||ref), nats",
    title="what holds the policy at its reference",
  )
  axes.legend()

# SPDX-License-Identifier: Apache-2.0
"""The expected gradient of each term, of sequences and of tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages import completions
from experiments.stages.completions import EXACT, WHERE
from jaxalign.divergences import categorical
from jaxalign.rl import kl_penalty

TERMS = (*kl_penalty.KL_TERMS, "k1 in reward")
# The quantity whose gradient each term has in expectation.
MEANING = {
  "k1": "0",
  "k2": "KL(pi||ref)",
  "k3": "KL(ref||pi)",
  "ratio_k3": "KL(pi||ref)",
  "k1 in reward": "KL(pi||ref)",
}


def surrogate(term, logp, ref_logp, where, *, tokens: bool):
  """A term `[7]` whose gradient, averaged over completions, is compared."""
  if term == "k1 in reward":
    old = jax.lax.stop_gradient(logp)
    # No reward but the divergence: minus the shaped reward is a cost.
    shaped = kl_penalty.kl_in_reward(
      jnp.zeros(len(logp)), old, ref_logp, where=where, beta=1.0
    )
    to_go = kl_penalty.reward_to_go(shaped, where=where)
    cost = to_go if tokens else to_go[:, :1]
    return -jnp.sum(cost * jnp.where(where, logp, 0), -1)
  if not tokens:
    pair = (jnp.sum(jnp.where(where, x, 0), -1) for x in (logp, ref_logp))
    keep = jnp.any(where, -1)
    return kl_penalty.kl_in_loss(*pair, kind=term, where=keep)
  each = kl_penalty.kl_in_loss(logp, ref_logp, kind=term, where=where)
  return jnp.sum(each, -1)


def divergence(logits, ref_logits):
  """KL of completions."""
  log_pi, log_ref = (
    completions.sequence_log_probs(x) for x in (logits, ref_logits)
  )
  return categorical.kl(log_pi, log_ref)


def local_divergence(logits, ref_logits, visits, *, forward=False):
  """Divergences at prefixes, weighted by visits that do not move."""
  pair = (ref_logits, logits) if forward else (logits, ref_logits)
  return visits @ categorical.kl(*pair)


@jax.jit
def gradients(logits, ref_logits):
  """Gradients `[K, 4, 3]` of terms of sequences, of tokens, and of theory."""
  ref_logp = completions.token_log_probs(ref_logits)
  probs = jnp.exp(completions.sequence_log_probs(logits))

  def expected(term, tokens):
    def mean(x):
      logp = completions.token_log_probs(x)
      return probs @ surrogate(term, logp, ref_logp, WHERE, tokens=tokens)

    return jax.grad(mean)(logits)

  # Token 0 ends a completion: nothing follows its prefix.
  first = jnp.exp(jax.nn.log_softmax(logits[0])).at[0].set(0)
  visits = jnp.concatenate([jnp.ones(1), first])
  theory = {
    "0": jnp.zeros_like(logits),
    "KL(pi||ref)": jax.grad(divergence)(logits, ref_logits),
    "KL(ref||pi)": jax.grad(divergence, 1)(ref_logits, logits),
    "local KL(pi||ref)": jax.grad(local_divergence)(logits, ref_logits, visits),
    "local KL(ref||pi)": jax.grad(
      lambda x: local_divergence(x, ref_logits, visits, forward=True)
    )(logits),
  }
  of_sequences = {term: expected(term, False) for term in TERMS}
  of_tokens = {term: expected(term, True) for term in TERMS}
  return of_sequences, of_tokens, theory


def _local(term: str) -> str:
  meaning = MEANING[term]
  exact = term == "k1 in reward" or meaning == "0"
  return meaning if exact else f"local {meaning}"


def placements(worlds: completions.Worlds) -> harness.Part:
  """Claims on every cell of the table."""
  sequences, tokens, theory = jax.tree.map(
    np.asarray, jax.vmap(gradients)(worlds.logits, worlds.ref_logits)
  )
  claims = []
  for term in TERMS:
    name = term.replace(" ", "_")
    placed = "" if term == "k1 in reward" else " in the loss"
    claims += [
      harness.all_agree(
        f"sequence_{name}",
        f"{term}{placed}, of sequences: expected gradient less that of"
        f" {MEANING[term]}, largest entry",
        sequences[term] - theory[MEANING[term]],
        tolerance=EXACT,
      ),
      harness.all_agree(
        f"token_{name}",
        f"{term}{placed}, of tokens: expected gradient less that of"
        f" {_local(term)}, largest entry",
        tokens[term] - theory[_local(term)],
        tolerance=EXACT,
      ),
    ]
  full = theory["KL(pi||ref)"]
  size = np.linalg.norm(full, axis=(-2, -1))
  gaps = {
    term: np.linalg.norm(tokens[term] - full, axis=(-2, -1)) / size
    for term in TERMS
  }
  claims.append(
    harness.Claim(
      name="token_gap",
      statement="k2 in the loss, of tokens: relative distance to the gradient"
      " of KL(pi||ref), smallest over worlds",
      theory=0,
      measured=gaps["k2"].min(),
      tolerance=-1e-3,
      relation=">=",
    )
  )
  table = [
    {
      "term": term,
      "gradient of (sequences)": MEANING[term],
      "gradient of (tokens)": _local(term),
      "distance to KL(pi||ref), tokens": float(gaps[term].mean()),
    }
    for term in TERMS
  ]
  return harness.Part(claims, {}, {"expected gradients": table})

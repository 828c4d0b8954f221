# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from experiments import kl_placement as experiment
from experiments.stages import completions
from experiments.stages.kl_placement import gradients, learning
from jaxalign.rl import kl_penalty
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_terms_are_what_they_are_called(key):
  logp, ref = -jnp.abs(jax.random.normal(key, (2, 7, 2)))
  where = completions.WHERE
  change = np.where(where, logp - ref, 0)
  for tokens in (True, False):
    d = change if tokens else change.sum(1, keepdims=True)
    for term, each in {
      "k1": d, "k2": d**2 / 2, "k3": np.exp(-d) - 1 + d
    }.items():  # fmt: skip
      np.testing.assert_allclose(
        gradients.surrogate(term, logp, ref, where, tokens=tokens),
        each.sum(1),
        atol=1e-12,
      )


def test_a_reward_without_what_is_to_go_fails(monkeypatch):
  """The divergence of one token as the advantage of that token."""
  monkeypatch.setattr(
    kl_penalty, "reward_to_go", lambda rewards, *, where: rewards
  )
  jax.clear_caches()
  worlds = completions.worlds(range(1))
  names = conventions.failed(gradients.placements(worlds).claims)
  jax.clear_caches()
  assert names == {"sequence_k1_in_reward", "token_k1_in_reward"}


def test_optima_have_no_gradient(key):
  """Each optimum against the objective that it is said to maximise."""
  rewards = jax.random.normal(key, (7,))
  log_ref = jax.nn.log_softmax(jnp.arange(7.0) / 3)
  for name in ("kl", "reverse_kl"):

    def objective(x, name=name):
      log_pi = jax.nn.log_softmax(x)
      pair = (log_pi, log_ref) if name == "kl" else (log_ref, log_pi)
      kl = jnp.sum(jnp.exp(pair[0]) * (pair[0] - pair[1]))
      return jnp.exp(log_pi) @ rewards - learning.BETA * kl

    best = learning.optimum(rewards, log_ref, name)
    assert np.abs(jax.grad(objective)(best)).max() < 1e-12

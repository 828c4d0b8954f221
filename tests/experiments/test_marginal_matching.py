# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from experiments import marginal_matching as experiment
from experiments.stages.marginal_matching import rewrites, synthesis
from jaxalign.learning import marginal_matching as library
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_another_seed_gives_other_records_and_texts():
  conventions.assert_seed_matters(experiment, "synthesis/gaps", "rewrites/nll")


def test_the_benchmark_is_the_likelihood_of_what_the_model_writes():
  rng = np.random.default_rng(0)
  model, table = rng.normal(size=(2, rewrites.VOCAB, rewrites.VOCAB))
  first = rng.integers(rewrites.VOCAB, size=(1, 4000))
  texts = rewrites._write(rng, first, model[None])[0]
  found = rewrites._nll(jnp.asarray(table), jnp.asarray(texts))
  # 4000 texts of 11 tokens whose surprise varies by about 1.
  expected = rewrites._benchmark(jnp.asarray(model), jnp.asarray(table))
  np.testing.assert_allclose(found, expected, atol=5 / np.sqrt(44000))


# --- wrong versions ----------------------------------------------------------


def test_accepting_whatever_is_proposed_fails(monkeypatch):
  def anything(key, state, target):
    record, values = jax.random.split(key)
    number, columns = state.codes.shape
    at = jax.random.randint(record, (), 0, number)
    new = jax.random.randint(values, (columns,), 0, target.shape[1], jnp.int32)
    state = library.marginal_matching_init(
      state.codes.at[at].set(new), num_values=target.shape[1]
    )
    marginals = state.counts.astype(target.dtype) / number
    return state, library.pairwise_gap(marginals, target)

  monkeypatch.setattr(library, "marginal_matching_step", anything)
  jax.clear_caches()
  part = synthesis.synthesis(
    np.random.default_rng(0), jax.random.key(0), num_seeds=1
  )
  jax.clear_caches()
  assert conventions.failed(part.claims) == {"gap_falls", "gap_ends"}


def test_rewrites_that_are_not_the_model_s_fail(monkeypatch):
  original = rewrites.write

  def copied(rng):
    model, texts = original(rng)
    return model, np.stack([texts[0], texts[0]])

  monkeypatch.setattr(rewrites, "write", copied)
  part = rewrites.rewrites(np.random.default_rng(0))
  assert "tax" in conventions.failed(part.claims)


def test_texts_in_another_order_have_no_correlation(monkeypatch):
  original = rewrites.measure

  def mixed(model, texts):
    found = original(model, texts)
    order = np.random.default_rng(0).permutation(rewrites.SOURCES)
    return found._replace(nll=found.nll[:, order])

  monkeypatch.setattr(rewrites, "measure", mixed)
  part = rewrites.rewrites(np.random.default_rng(0))
  assert "correlation" in conventions.failed(part.claims)

# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a bigram model on text from elsewhere and on its own rewrites.

Texts are first tokens, which a rewrite keeps, and what follows. The logits of
sources turn from the model's own to random ones, from source to source; they
keep their spread, as the likelihood of a text depends on its entropy too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from jaxalign.learning import self_rewrites

VOCAB, LENGTH, TEXTS, SOURCES = 8, 12, 400, 24
ANGLES = np.linspace(0, np.pi / 2, SOURCES)
STEPS, RATE = 20, 4.0  # of fine-tuning


class Found(NamedTuple):
  """Of each source, `[K]`, by its own text and as rewritten, `[2, K]`.

  Attributes:
    nll: nats per token under the model before tuning.
    loss: on the benchmark after tuning, nats per token.
    before: `[]`, loss on the benchmark before tuning.
  """

  nll: jax.Array
  loss: jax.Array
  before: jax.Array


def _write(
  rng: np.random.Generator, first: np.ndarray, tables: np.ndarray
) -> np.ndarray:
  """Texts `[K, n, LENGTH]` by first tokens `[K, n]` and logits `[K, V, V]`."""
  texts = [first]
  source = np.arange(len(tables))[:, None]
  for _ in range(LENGTH - 1):
    logits = tables[source, texts[-1]]
    texts.append(np.argmax(logits + rng.gumbel(size=logits.shape), -1))
  return np.stack(texts, -1)


def _nll(table: jax.Array, texts: jax.Array) -> jax.Array:
  """Mean over texts, of the tokens after the first."""
  logps = jax.nn.log_softmax(table)[texts[:, :-1], texts[:, 1:]]
  each = self_rewrites.mean_token_nll(logps, where=jnp.ones_like(logps, bool))
  return jnp.mean(each)


def _benchmark(model: jax.Array, table: jax.Array) -> jax.Array:
  """Expected `_nll` of a table on what the model writes."""
  law = jax.nn.softmax(model)
  visits = [jnp.full(VOCAB, 1 / VOCAB)]  # by how often a token is the last
  for _ in range(LENGTH - 2):
    visits.append(visits[-1] @ law)
  share = jnp.sum(law * -jax.nn.log_softmax(table), -1)
  return jnp.mean(jnp.stack(visits), 0) @ share


@jax.jit
def measure(model: jax.Array, texts: jax.Array) -> Found:
  """Tunes the model on each of `[2, K, n, LENGTH]` texts."""

  def tuned(texts):
    def step(table, _):
      return table - RATE * jax.grad(_nll)(table, texts), None

    table = jax.lax.scan(step, model, length=STEPS)[0]
    return _nll(model, texts), _benchmark(model, table)

  nll, loss = jax.vmap(jax.vmap(tuned))(texts)
  return Found(nll, loss, _benchmark(model, model))


def write(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """A model's logits `[V, V]`; every source's text and the model's rewrite."""
  model = rng.normal(size=(VOCAB, VOCAB))
  other = rng.normal(size=(SOURCES, VOCAB, VOCAB))
  angle = ANGLES[:, None, None]
  sources = np.cos(angle) * model + np.sin(angle) * other
  first = rng.integers(VOCAB, size=(SOURCES, TEXTS))
  own = np.broadcast_to(model, sources.shape)
  return model, np.stack([_write(rng, first, x) for x in (sources, own)])


def rewrites(rng: np.random.Generator) -> harness.Part:
  """Claims on likelihoods and losses; `rng` draws the model and all texts."""
  found = jax.tree.map(np.asarray, measure(*write(rng)))
  link = self_rewrites.pearson_correlation(
    jnp.asarray(found.nll[0]), jnp.asarray(found.loss[0])
  )
  rise = found.loss - found.before
  half = slice(SOURCES // 2, None)  # the farther half
  claims = [
    harness.Claim(
      "likelihood",
      "nats per token that rewriting takes off the farther half of sources:"
      " mean",
      theory=0.0,
      measured=np.mean(found.nll[0, half] - found.nll[1, half]),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      "correlation",
      "likelihood of a source before tuning and loss on the benchmark after it:"
      " lower end of the correlation's interval",
      theory=0.0,
      measured=link.lower,
      tolerance=0.0,
      relation=">=",
      interval=(float(link.lower), float(link.upper)),
    ),
    harness.Claim(
      "tax",
      "rise of the benchmark's loss by tuning on rewrites over that on the"
      " sources themselves, means of the farther half",
      theory=0.1,
      measured=rise[1, half].mean() / rise[0, half].mean(),
      tolerance=0.0,
      relation="<=",
    ),
  ]
  at = np.linspace(0, SOURCES - 1, 5).astype(int)
  rows = harness.rows(
    angle=ANGLES[at],
    likelihood=found.nll[0, at],
    rise_of_loss=rise[0, at],
    rewritten_likelihood=found.nll[1, at],
    rewritten_rise_of_loss=rise[1, at],
  )
  curves = {
    "rewrites/nll": found.nll,
    "rewrites/rise": rise,
  }
  title = f"sources and rewrites; correlation {float(link.value):.3f}"
  return harness.Part(claims, curves, {title: rows})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Losses after tuning by likelihoods before it."""
  for i, name in enumerate(("as it came", "rewritten by the model")):
    axes.plot(
      curves["rewrites/nll"][i],
      curves["rewrites/rise"][i],
      "os"[i],
      markersize=4,
      label=name,
    )
  axes.set(
    xlabel="nats per token under the model, before",
    ylabel="rise of the benchmark's loss",
    title="fine-tuning on text from elsewhere",
  )
  axes.legend()

# SPDX-License-Identifier: Apache-2.0
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import surjectivity as experiment
from experiments.stages.surjectivity import (
  counterexamples,
  maps,
  nets,
  samplers,
  scales,
)
from jaxalign.learning import ddim_inversion, degree, linear_attention
from jaxalign.learning import surjectivity as library
from tests.experiments import conventions


def failed(part, *args, **options):
  rng = np.random.default_rng(0)
  return conventions.failed(part(rng, *args, **options).claims)


def failed_anew(program, part, **options):
  """Names of the claims of a part whose program is compiled anew."""
  program.clear_cache()
  names = failed(part, **options)
  program.clear_cache()
  return names


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_printed_values():
  results = conventions.smoke(experiment)
  rows = results.tables["inverted to 1e-6, by scale of the weights"]
  assert [row["arclength"] for row in rows] == [1, 1]
  # Seen 7 on average and 9 at most at scale 1, 76 on average at scale 5: of
  # other weights, and with landings counted.
  assert 6 <= rows[0]["mean steps"] <= 10 and rows[0]["most steps"] <= 12
  assert 40 <= rows[-1]["mean steps"] <= 150
  counts = results.curves["degree/count"]
  assert len(counts) == 12 and set(counts.tolist()) <= {1, 3, 5}
  missed = 1 - results.curves["cells/minus"].mean()
  conventions.assert_printed(missed, ".22")


def test_another_seed_gives_other_draws():
  first, again, other = (
    nets.draw(np.random.default_rng(seed), 2) for seed in (0, 0, 1)
  )
  for name, weights in first.items():
    np.testing.assert_array_equal(weights, again[name])
    assert not np.array_equal(weights, other[name])


def test_sub_blocks_are_of_one_kind_and_bounded():
  rng = np.random.default_rng(2)
  p = jax.tree.map(lambda w: w[0], nets.draw(rng, 1))
  x = 10.0 ** rng.uniform(-4, 4, (50, 1, 1))
  x = x * rng.normal(size=(50, nets.TOKENS, nets.WIDTH))
  for k in range(2 * nets.LAYERS):
    own = jax.tree.map(lambda w, k=k: w[k], p)
    silent = ("up", "down") if k % 2 == 0 else ("value", "out")
    assert all(not own[name].any() for name in silent)
    added = jax.vmap(lambda x, own=own: nets.branch(own, x))(x)
    moved = np.linalg.norm(added, axis=-1).max()
    assert nets.bound(own) / 50 < moved <= nets.bound(own)


def test_attention_of_two_tokens_is_the_formula():
  values = counterexamples.attention_pairs(-1.0)
  line = np.linspace(-6, 6, counterexamples.NUM_POINTS)
  for i, j in ((0, 7), (300, 1200), (700, 600)):
    x = jnp.array([line[i], line[j]])
    expected = jax.nn.softmax(-jnp.outer(x, x)) @ x
    np.testing.assert_allclose(values[:, i, j], expected, atol=1e-12)


# --- wrong versions ----------------------------------------------------------


def measured():
  """What paths measure that always succeed, and Newton at scale 1 alone."""
  paths = np.ones((2, 4, 4), int)
  return {
    "error": np.zeros((2, 4)),
    "damped": np.zeros((2, 4)),
    "whole": np.repeat([[0.0], [1.0]], 4, axis=1),
    "steps": 9 * paths,
    "folds": 2 * paths,
    "excess": -1.0 * paths,
  }


@pytest.mark.parametrize(
  ("name", "change", "claim"),
  [
    ("steps", lambda x: x, None),
    ("error", lambda x: x + 1e-5, "arclength"),
    ("excess", lambda x: x + 1e3, "moved"),
    ("folds", lambda x: 0 * x, "folds"),
    ("whole", lambda x: 0 * x, "newton"),
  ],
)
def test_other_measurements_fail(name, change, claim):
  found = measured() | {name: change(measured()[name])}
  with mock.patch.object(scales, "_measure", return_value=found):
    names = failed(
      scales.scales, scales=(1.0, 5.0), num_targets=4, num_restarts=1
    )
  # Where no path finds anything, Newton's method finds no fewer.
  also = {"newton"} if name == "error" else set()
  assert names == also | ({claim} - {None})


def test_counts_without_signs_fail(monkeypatch):
  original = degree.signed_preimages

  def unsigned(*args, **options):
    found = original(*args, **options)
    return found._replace(degree=found.count)

  monkeypatch.setattr(degree, "signed_preimages", unsigned)
  assert failed_anew(maps._preimages, maps.degrees) == {"degree"}


def test_attention_to_others_alone_fails(monkeypatch):
  monkeypatch.setattr(
    linear_attention,
    "residual_linear_attention",
    lambda x, a, b: x + jnp.tril(x @ a @ x.mT, -1) @ x @ b.T,
  )
  assert failed_anew(maps._invert_attention, maps.linear, num_instances=20) == {
    "linear_attention",
    "linear_attention_median",
  }


def test_the_usual_inversion_fails(monkeypatch):
  original = ddim_inversion.ddim_inverse
  monkeypatch.setattr(
    ddim_inversion,
    "ddim_inverse",
    lambda *args, method, **options: original(
      *args, method="explicit", **options
    ),
  )
  names = failed_anew(samplers._measure, samplers.samplers, num_targets=4)
  assert names == {"ddim_newton", "ddim_fixed_point"}


def test_logits_of_the_other_sign_fail(monkeypatch):
  original = counterexamples.attention_pairs
  monkeypatch.setattr(
    counterexamples, "attention_pairs", lambda sign: original(-sign)
  )
  assert conventions.failed(counterexamples.attention().claims) == {
    "attention_misses",
    "attention_reaches",
  }


def test_an_inverse_of_another_slope_fails(monkeypatch):
  original = library.leaky_relu_inverse
  monkeypatch.setattr(
    library,
    "leaky_relu_inverse",
    lambda *args, slope: original(*args, slope=2 * slope),
  )
  assert failed(counterexamples.layers) == {"leaky_relu"}

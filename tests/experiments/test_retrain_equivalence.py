# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from experiments import retrain_equivalence as experiment
from experiments.stages.retrain_equivalence import linear
from jaxalign.learning import unlearning_paths
from tests.experiments import conventions


def failed():
  """Names of the claims, compiled anew, that do not hold."""
  jax.clear_caches()
  part = linear.linear(np.random.default_rng(0), num_seeds=2)
  jax.clear_caches()
  return conventions.failed(part.claims)


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_distances_are_of_the_printed_size():
  """1.87 grew to 1.06e7: of another draw, of which there are many here."""
  curves = conventions.smoke(experiment).curves
  names = [k for k in curves if k.endswith("/distance")][1:]
  distances = np.concatenate([curves[k] for k in names])
  before, after = np.quantile(distances, (0, 1), 0)[:, [0, -1]].T
  assert before[0] < 1.87 < before[1]
  assert after[0] < 1.06e7 < after[1]


def test_another_seed_changes_the_tasks():
  conventions.assert_seed_matters(experiment, "linear/ACB/distance")


# --- wrong versions ----------------------------------------------------------


def test_a_divergence_that_forgets_what_is_unseen_fails(monkeypatch):
  original = unlearning_paths.linear_path_divergence

  def seen_only(difference, features, **options):
    seen = jnp.linalg.pinv(features) @ (features @ difference)
    return original(seen, features, **options)

  monkeypatch.setattr(unlearning_paths, "linear_path_divergence", seen_only)
  assert failed() == {"path_divergence"}


def test_a_commutator_of_the_other_sign_fails(monkeypatch):
  original = unlearning_paths.order_commutator
  monkeypatch.setattr(
    unlearning_paths,
    "order_commutator",
    lambda one, two, *args, **options: original(two, one, *args, **options),
  )
  assert failed() == {"commutator"}


def test_stages_that_do_not_converge_fail(monkeypatch):
  original = unlearning_paths.stagewise_least_squares

  def halfway(weights, features, targets):
    path = original(weights, features, targets)
    return path.at[-1].set((path[-1] + path[-2]) / 2)

  monkeypatch.setattr(unlearning_paths, "stagewise_least_squares", halfway)
  assert failed() == {"recency"}

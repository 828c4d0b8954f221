# SPDX-License-Identifier: Apache-2.0
"""Microbatches, meshes, donation and the guard: none changes an update."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxalign import checks, training
from tests import helpers
from tests.training import toy_run

_MESHES = ({"data": 4, "model": 2}, {"data": 8}, {"model": 8})


def _train(dtype, *, mesh=None, num_microbatches=1):
  """Parameters and metrics of three steps; checks that one trace serves all."""
  # Moments that start at 0 make Adam divide rounding by rounding.
  optimizer = optax.sgd(0.3, momentum=0.9)
  chex.clear_trace_counter()
  counted = optax.GradientTransformation(
    optimizer.init, chex.assert_max_traces(optimizer.update, n=1)
  )
  step = training.make_train_step(
    toy_run.loss_fn, counted, num_microbatches=num_microbatches, mesh=mesh
  )
  params = toy_run.init_params(jax.random.key(7), dtype)
  state = training.init_state(jax.random.key(1), params, optimizer)
  if mesh is not None:
    state = training.shard_tree(state, mesh)
  batches, history = toy_run.Batches(dtype), []
  for _ in range(3):
    placed = jax.tree.map(lambda x: x.sharding, state)
    state, metrics = step(state, next(batches))
    history.append(metrics)
    if mesh is not None:
      assert jax.tree.map(lambda x: x.sharding, state) == placed
  return jax.device_get((state.params, history))


@functools.cache
def _plain(dtype):
  return _train(dtype)


def test_step_is_gradient_descent_on_the_ratio_of_sums():
  def mean(params, batch):
    loss = toy_run.loss_fn(params, batch, jax.random.key(0))
    return loss.loss_sum / loss.weight

  value_and_grad = jax.jit(jax.value_and_grad(mean))
  params = toy_run.init_params(jax.random.key(7), np.float64)
  optimizer = optax.sgd(0.3, momentum=0.9)
  opt_state = optimizer.init(params)
  batches, losses = toy_run.Batches(np.float64), []
  for _ in range(3):
    loss, gradient = value_and_grad(params, next(batches))
    updates, opt_state = optimizer.update(gradient, opt_state)
    params = optax.apply_updates(params, updates)
    losses.append((loss, optax.global_norm(gradient)))
  got, history = _plain(np.float64)
  helpers.assert_close(got, params, atol=1e-12)
  norms = [(m["loss"], m["grad_norm"]) for m in history]
  helpers.assert_close(norms, losses, atol=1e-12)


# In float32 sums in another order differ by some 1e-7, and three steps.
@pytest.mark.parametrize(
  ("dtype", "atol"), [(np.float32, 1e-5), (np.float64, 1e-12)]
)
@pytest.mark.parametrize(
  ("shape", "num_microbatches"),
  [(None, 4), (None, 16), *((s, 1) for s in _MESHES), (_MESHES[0], 4)],
)
def test_parts_change_nothing(shape, num_microbatches, dtype, atol):
  mesh = shape and training.make_mesh(shape)
  got = _train(dtype, mesh=mesh, num_microbatches=num_microbatches)
  helpers.assert_close(got, _plain(dtype), rtol=0, atol=atol)
  assert jax.tree.leaves(got[0])[0].dtype == dtype


def _noise(params, batch, key):
  draws = jax.random.normal(key, batch.shape)
  return params * 0, batch.size, {"noise": (jnp.sum(draws), batch.size)}


def test_step_and_microbatch_draw_from_their_own_keys():
  key, zero = jax.random.key(3), jnp.zeros(())
  state = training.init_state(key, zero, optax.identity())
  step = training.make_train_step(
    lambda *args: training.BatchLoss(*_noise(*args)),
    optax.identity(),
    num_microbatches=2,
  )
  for number in range(2):
    state, metrics = step(state, np.zeros(4))
    own = jax.random.fold_in(key, number)
    draws = [jax.random.normal(jax.random.fold_in(own, m), 2) for m in (0, 1)]
    assert np.isclose(metrics["noise"], np.mean(draws), rtol=1e-6)
  assert state.key == key and state.step == 2


def test_old_state_is_donated():
  state = toy_run.init()
  step = training.make_train_step(toy_run.loss_fn, toy_run.OPTIMIZER)
  step(state, next(toy_run.Batches()))
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def _fragile(params, batch, key, *frozen):
  """Batches choose what is not finite: 1 the loss, 2 a metric, 3 a gradient."""
  kind = batch[0]
  nan = jnp.where(kind == 1, jnp.nan, 0)
  metric = jnp.where(kind == 2, jnp.inf, 0)
  # The root has an infinite slope at 0, where its value is 0.
  root = jnp.sqrt(jnp.where(kind == 3, params["b"], 1))
  loss = params["a"] * 2 + root + nan + sum(frozen)
  return loss, jnp.ones(()), {"spread": (metric, jnp.ones(()))}


def test_guard_names_what_is_not_finite_and_keeps_parameters():
  optimizer = optax.adam(0.1)
  step = training.make_train_step(_fragile, optimizer)
  for kind, name in enumerate((None, "loss", "spread", "gradient of b")):
    state = training.init_state(
      jax.random.key(0), {"a": jnp.ones(()), "b": jnp.zeros(())}, optimizer
    )
    before = jax.device_get((state.params, state.opt_state))
    state, metrics = step(state, np.array([kind]))
    found = training.name_nonfinite(state.params, metrics)
    after = jax.device_get((state.params, state.opt_state))
    assert state.step == 1
    assert found == name
    if name is None:
      assert after[0]["a"] < before[0]["a"]
    else:
      chex.assert_trees_all_equal(after, before)


def test_name_nonfinite_of_a_gradient():
  params = {"layer": {"kernel": 0.0}, "out": 0.0}
  metrics = {"nonfinite": np.int32(4), "loss": 0.0}
  assert training.name_nonfinite(params, metrics) == "gradient of out"


def test_frozen_trees_reach_the_loss_and_stay():
  frozen = jnp.float64(5)
  step = training.make_train_step(_fragile, optax.sgd(0.1))
  params = {"a": jnp.ones(()), "b": jnp.zeros(())}
  state = training.init_state(jax.random.key(0), params, optax.sgd(0.1))
  _, metrics = step(state, np.zeros(1), frozen)
  assert metrics["loss"] == 2 + 1 + 5 and frozen == 5


def test_batch_without_weight_moves_nothing():
  state = toy_run.init()
  before = jax.device_get(state.params)
  batch = next(toy_run.Batches())
  batch = batch | {"where": np.zeros_like(batch["where"])}
  step = training.make_train_step(toy_run.loss_fn, toy_run.OPTIMIZER)
  state, metrics = step(state, batch)
  chex.assert_trees_all_equal(jax.device_get(state.params), before)
  assert metrics["loss"] == metrics["weight"] == metrics["nonfinite"] == 0


def test_bfloat16_parameters_keep_their_type():
  optimizer = optax.adam(0.1)
  params = {"w": jnp.ones(3, jnp.bfloat16)}
  state = training.init_state(jax.random.key(0), params, optimizer)
  loss_fn = lambda p, b, key: (jnp.sum(p["w"] * b), len(b), {})
  types = jax.tree.map(lambda x: x.dtype, state)
  step = training.make_train_step(loss_fn, optimizer, num_microbatches=2)
  state, metrics = step(state, np.ones((2, 1), np.float32))
  assert jax.tree.map(lambda x: x.dtype, state) == types
  assert metrics["loss"].dtype == np.float32


def test_bad_input():
  with pytest.raises(ValueError, match="use jax.random.key"):
    training.init_state(jax.random.PRNGKey(0), {}, optax.sgd(1.0))
  with pytest.raises(ValueError, match="num_microbatches must be above 0"):
    training.make_train_step(toy_run.loss_fn, optax.sgd(1), num_microbatches=0)
  make = functools.partial(
    training.make_train_step, toy_run.loss_fn, toy_run.OPTIMIZER
  )
  batch = next(toy_run.Batches())
  with pytest.raises(ValueError, match="3 must divide the batch of 16"):
    make(num_microbatches=3)(toy_run.init(), batch)
  with pytest.raises(AssertionError, match="needs B rows"):
    make()(toy_run.init(), batch | {"y": batch["y"][:5]})
  own = lambda params, batch, key: (params, 1, {"loss": (params, 1)})
  state = training.init_state(jax.random.key(0), jnp.zeros(()), optax.sgd(1.0))
  with pytest.raises(ValueError, match="metric 'loss' is the step's own"):
    training.make_train_step(own, optax.sgd(1.0))(state, np.zeros(1))
  mesh = training.make_mesh({"data": 8})
  with pytest.raises(checks.InputError, match="choose a multiple of 32"):
    make(num_microbatches=4, mesh=mesh)(toy_run.init(), batch)

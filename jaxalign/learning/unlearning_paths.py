# SPDX-License-Identifier: Apache-2.0
"""What unlearning by ascent depends on: the order in which data was learned.

Gradient ascent on the data to be forgotten sees the weights and not how they
came about. Two models that learned the same stages in another order drift
apart under it, so that at most one of them is what retraining without those
data would give.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "least_squares_ascent",
  "linear_path_divergence",
  "order_commutator",
  "stagewise_least_squares",
)

Params = chex.ArrayTree


def stagewise_least_squares(
  weights: jax.Array, features: jax.Array, targets: jax.Array
) -> jax.Array:
  """Weights after each of S stages of least squares, learned one by one.

  Each stage ends where gradient descent from the last one converges,
  `w <- w + X^+ (y - X w)`: the closest weights of least error on that stage.

  Args:
    weights: `[D]`, the start.
    features: `[S, N, D]`, X of each stage, in the order of training.
    targets: `[S, N]`, y.

  Returns:
    `[S, D]`, weights after each stage; the last row is what is trained.

  Raises:
    AssertionError: shapes do not fit, or no floats.

  >>> features, targets = jnp.eye(2)[:, None], jnp.array([[1.], [2.]])
  >>> print(stagewise_least_squares(jnp.zeros(2), features, targets))
  [[1. 0.]
   [1. 2.]]

  Reference:
    On the Impossibility of Retrain Equivalence in Machine Unlearning
    (2510.16629), the linear case.
  """
  arrays = {"weights": weights, "features": features, "targets": targets}
  checks.check_float(**arrays)
  chex.assert_rank((weights, features, targets), (1, 3, 2))
  checks.check_same_shape(targets=targets, rows=features[..., 0])
  checks.check_same_shape(weights=weights, columns=features[0, 0])
  weights, features, targets = map(numerics.as_float, arrays.values())

  def stage(weights, data):
    x, y = data
    weights = weights + jnp.linalg.pinv(x) @ (y - x @ weights)
    return weights, weights

  return jax.lax.scan(stage, weights, (features, targets))[1]


def least_squares_ascent(
  weights: jax.Array,
  features: jax.Array,
  targets: jax.Array,
  *,
  step_size: float | jax.Array,
  num_steps: int,
) -> jax.Array:
  """Gradient ascent on the squared error of the data to be forgotten.

  `w <- w + eta X^T (X w - y)`. Where these data are fitted exactly, as by a
  last stage that interpolates them, the gradient is 0 and nothing is forgotten.

  Args:
    weights: `[..., D]`, the start.
    features: `[..., N, D]`, X, what is to be forgotten.
    targets: `[..., N]`, y.
    step_size: eta, scalar above 0.
    num_steps: T, at least 1.

  Returns:
    `[T, ..., D]`, weights after each step.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: the step size or the number of steps is not above 0.

  >>> path = least_squares_ascent(jnp.ones(1), jnp.ones((1, 1)),
  ...   jnp.zeros(1), step_size=1., num_steps=3)
  >>> print(path[:, 0])
  [2. 4. 8.]

  Reference:
    On the Impossibility of Retrain Equivalence in Machine Unlearning
    (2510.16629), the linear case.
  """
  checks.check_positive(step_size=step_size, num_steps=num_steps)
  arrays = {"weights": weights, "features": features, "targets": targets}
  checks.check_float(**arrays)
  weights, features, targets = map(numerics.as_float, arrays.values())
  checks.check_same_shape(targets=targets, rows=features[..., 0])
  checks.check_same_shape(weights=weights, columns=features[..., 0, :])

  def step(weights, _):
    error = jnp.einsum("...nd,...d->...n", features, weights) - targets
    slope = jnp.einsum("...nd,...n->...d", features, error)
    weights = weights + step_size * slope
    return weights, weights

  return jax.lax.scan(step, weights, length=num_steps)[1]


def linear_path_divergence(
  difference: jax.Array,
  features: jax.Array,
  *,
  step_size: float | jax.Array,
  num_steps: int | jax.Array,
) -> jax.Array:
  """How far two linear models are apart after ascent on the same data.

  With D0 their difference before, `|(I + eta X^T X)^T D0|`, whose square is
  `sum_i (1 + eta s_i^2)^(2T) (v_i D0)^2 + |P D0|^2`: s and v the singular
  values and directions of X, P the projection on what X does not see. It
  depends on no targets and never falls.

  Args:
    difference: `[..., D]`, D0, weights of the two at the start of ascent.
    features: `[..., N, D]`, X, what is to be forgotten.
    step_size: eta, scalar above 0.
    num_steps: T, scalar, at least 0.

  Returns:
    `[...]`, Euclidean distance of the two.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: the step size is not above 0.

  >>> far = linear_path_divergence(
  ...   jnp.array([3., 4.]), jnp.array([[1., 0.]]), step_size=1., num_steps=2)
  >>> print(f"{far:.4f}")  # of 3 * 2^2 and 4
  12.6491

  Reference:
    On the Impossibility of Retrain Equivalence in Machine Unlearning
    (2510.16629); the paper's constant is unconfirmed, this identity is ours.
  """
  checks.check_positive(step_size=step_size)
  checks.check_float(difference=difference, features=features)
  checks.check_same_shape(difference=difference, columns=features[..., 0, :])
  difference = numerics.as_float(difference)
  features = numerics.as_float(features)
  _, sizes, directions = jnp.linalg.svd(features, full_matrices=False)
  seen = jnp.einsum("...kd,...d->...k", directions, difference)
  unseen = difference - jnp.einsum("...kd,...k->...d", directions, seen)
  grown = seen * (1 + step_size * sizes**2) ** num_steps
  return jnp.linalg.norm(jnp.concatenate([grown, unseen], -1), axis=-1)


def order_commutator(
  first_loss: Callable[[Params], jax.Array],
  second_loss: Callable[[Params], jax.Array],
  params: Params,
  *,
  step_size: float | jax.Array,
) -> Params:
  """What the order of two gradient steps changes, of any two losses.

  `eta^2 (H2 g1 - H1 g2)`, g and H gradients and Hessians at `params`: weights
  after a step on the first loss and then on the second, less those of the
  other order. Exact for quadratic losses such as least squares, and up to
  `O(eta^3)` otherwise. Two products of a Hessian and a vector; no Hessian.

  Args:
    first_loss: maps `params` to a scalar.
    second_loss: maps `params` to a scalar.
    params: a tree of arrays.
    step_size: eta, scalar above 0.

  Returns:
    A tree like `params`.

  Raises:
    ValueError: the step size is not above 0.

  >>> found = order_commutator(lambda w: w**2, lambda w: 3 * w, jnp.array(1.),
  ...   step_size=.5)
  >>> print(found)  # .25 * (0 * 2 - 2 * 3)
  -1.5

  Reference:
    On the Impossibility of Retrain Equivalence in Machine Unlearning
    (2510.16629); the form for one step is ours.
  """
  checks.check_positive(step_size=step_size)
  first, second = jax.grad(first_loss), jax.grad(second_loss)
  # Gradients, and Hessians times the gradient of the other loss.
  _, of_second = jax.jvp(second, (params,), (first(params),))
  _, of_first = jax.jvp(first, (params,), (second(params),))
  return jax.tree.map(lambda x, y: step_size**2 * (x - y), of_second, of_first)

# SPDX-License-Identifier: Apache-2.0
"""Problems of feature selection, and programs that solve batches of them."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.learning import strategic, strategic_subsets


class Problem(NamedTuple):
  """One problem of d features, or a batch with an axis in front.

  Attributes:
    covariance: `[d, d]`.
    beta: `[d]`, the true coefficients.
    costs: `[d]`, of manipulation.
  """

  covariance: np.ndarray
  beta: np.ndarray
  costs: np.ndarray


def standardised(columns: np.ndarray) -> np.ndarray:
  """Columns of mean 0 and variance 1."""
  return (columns - columns.mean(0)) / columns.std(0)


def fitted(x: np.ndarray, y: np.ndarray, costs: np.ndarray) -> Problem:
  """The problem whose moments are those of standardised rows."""
  covariance = x.T @ x / len(y)
  beta = np.linalg.solve(covariance, x.T @ y / len(y))
  return Problem(covariance, beta, costs)


def stacked(problems: list[Problem]) -> Problem:
  """A batch of problems of one size."""
  return Problem(*map(np.stack, zip(*problems, strict=True)))


def subsets(size: int) -> np.ndarray:
  """All masks, `[2^d, d]`."""
  return np.array(list(itertools.product((0.0, 1.0), repeat=size)))


class Solution(NamedTuple):
  """What may be done about a problem.

  Attributes:
    cutoffs: penalties of `cutoff_masks`, `[d + 1]`; the first keeps all.
    joint: the joint selection.
    theta: `[d]`, its coefficients.
    switched: penalties `[d]` of its subset with one feature in or out.
    optimum: the coefficients of least error on all features.
  """

  cutoffs: strategic.Penalty
  joint: strategic_subsets.JointSelection
  theta: jax.Array
  switched: strategic.Penalty
  optimum: strategic.StrategicOptimum


def _solve(problem: Problem) -> Solution:
  size = problem.beta.size
  joint = strategic_subsets.joint_select(*problem)
  masks = jnp.concatenate(
    [
      strategic_subsets.cutoff_masks(problem.costs),
      jnp.abs(joint.mask - jnp.eye(size, dtype=joint.mask.dtype)),
    ]
  )
  found = jax.vmap(lambda mask: strategic.best_penalty(mask, *problem))(masks)
  return Solution(
    cutoffs=jax.tree.map(lambda x: x[: size + 1], found),
    joint=joint,
    theta=strategic.ridge_on_support(
      joint.mask, joint.lam, problem.covariance, problem.beta
    ),
    switched=jax.tree.map(lambda x: x[size + 1 :], found),
    optimum=strategic.strategic_optimum(jnp.ones(size), *problem),
  )


_solve_one = jax.jit(_solve)


def _each(program, batch: Problem):
  """One call after the other: together all would take as long as the longest.

  The program is then that of the size alone, whatever the number of problems.
  """
  calls = [
    program(Problem(*map(jnp.asarray, row))) for row in zip(*batch, strict=True)
  ]
  return jax.tree.map(lambda *x: np.stack(x), *calls)


_select_one = jax.jit(lambda problem: strategic_subsets.joint_select(*problem))


def select(batch: Problem) -> strategic_subsets.JointSelection:
  """The joint selection of each problem of a batch."""
  return _each(_select_one, batch)


def solve(batch: Problem) -> Solution:
  """Solves a batch of problems."""
  return _each(_solve_one, batch)


def _enumerate(problem: Problem) -> dict:
  def one(mask):
    optimum = strategic.strategic_optimum(mask, *problem)
    slope = jax.grad(strategic.strategic_mse)(optimum.theta, *problem)
    return {
      "penalty": strategic.best_penalty(mask, *problem),
      "optimum": optimum,
      "slope": mask * slope,
      "parts": strategic_subsets.decompose(mask, *problem),
      # Of equal costs h, ridge with the penalty 2 tau / h.
      "ridge": strategic.ridge_on_support(
        mask,
        2 * optimum.tau / jnp.min(problem.costs),
        problem.covariance,
        problem.beta,
      ),
    }

  return jax.vmap(one)(jnp.asarray(subsets(problem.beta.size)))


_enumerate_one = jax.jit(_enumerate)


def enumerate_subsets(batch: Problem) -> dict:
  """Penalties, optima and parts of every subset; leading axes `[N, 2^d]`."""
  return _each(_enumerate_one, batch)


def dense_grid(problem: Problem) -> np.ndarray:
  """The least error of each subset over 40001 penalties, `[2^d]`, in NumPy."""
  covariance, beta, costs = problem
  lams = np.concatenate([[0], np.logspace(-8, 3, 40001)])[:, None]
  values = []
  for mask in subsets(beta.size) > 0:
    theta = np.zeros((lams.size, beta.size))
    roots, vectors = np.linalg.eigh(covariance[np.ix_(mask, mask)])
    right = vectors.T @ (covariance @ beta)[mask]
    theta[:, mask] = right / (roots + lams) @ vectors.T
    error = theta - beta
    prediction = np.sum(error @ covariance * error, 1)
    values.append(np.min(prediction + np.sum(theta**2 / costs, 1) ** 2))
  return np.array(values)

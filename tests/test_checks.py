# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from jaxalign import checks


def test_errors_name_the_argument_and_both_shapes():
  with pytest.raises(AssertionError, match=r"p \(3,\), q \(4,\)"):
    checks.check_same_shape(p=np.zeros(3), q=np.zeros(4))
  with pytest.raises(AssertionError, match=r"rank 2: rewards \(3,\)"):
    checks.check_rank(2, rewards=np.zeros(3))
  with pytest.raises(AssertionError, match="ids int"):
    checks.check_float(ids=np.zeros(3, int))


def test_positive():
  checks.check_positive(beta=0.1, tau=np.ones(2))
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    checks.check_positive(beta=0)
  jax.jit(lambda b: checks.check_positive(beta=b))(-1.0)


def test_choice_lists_what_is_allowed():
  with pytest.raises(ValueError, match="unknown ties 'x': choose one of a, b"):
    checks.check_choice("ties", "x", ("b", "a"))


def test_distribution():
  checks.check_distribution("p", [[0.5, 0.5], [1.0, 0.0]])
  with pytest.raises(checks.InputError, match="p must sum to 1, sums to 0.9"):
    checks.check_distribution("p", [0.5, 0.4])
  with pytest.raises(checks.InputError, match="smallest entry is -0.1"):
    checks.check_distribution("p", [1.1, -0.1])
  with pytest.raises(checks.InputError):
    checks.check_distribution("p", [np.nan, 1.0])


def test_finite():
  checks.check_finite(rewards=np.zeros((2, 0)), returns=[1.0, -2.0])
  rewards = np.array([[0.0, np.inf], [np.nan, 2.0]])
  with pytest.raises(checks.InputError) as error:
    checks.check_finite(returns=np.zeros(3), rewards=rewards)
  assert str(error.value) == (
    "rewards must be finite: 2 of 4 entries are not, first inf at (0, 1)"
  )


def test_options_are_the_keyword_only_parameters_but_masks():
  def loss(x, *, beta, eps=0.0, where=None):
    del x, beta, eps, where

  checks.check_options("dpo", loss, {"beta": 1.0})
  for name in ("x", "where", "gamma"):
    with pytest.raises(ValueError, match=f"no option '{name}': .* beta, eps"):
      checks.check_options("dpo", loss, [name])

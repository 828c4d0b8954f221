# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign import checks, preference
from jaxalign.learning import selection
from tests import helpers
from tests.experiments import conventions

N = 7


def arguments(seed):
  """Six arrays `[2, 7]`."""
  rng = np.random.default_rng(seed)
  logps = -rng.exponential(10, (4, 2, N))
  return [*logps, *rng.integers(1, 9, (2, 2, N))]


def swapped(args):
  """The two answers change places."""
  pos_sys, pos, neg_sys, neg, len_pos, len_neg = args
  return [neg_sys, neg, pos_sys, pos, len_neg, len_pos]


# --- scores ------------------------------------------------------------------


def test_scores_are_the_definition():
  args = arguments(0)
  w, wn = jax.jit(selection.lls_scores)(*args)
  expected = np.zeros((2, N))
  for i in np.ndindex(2, N):
    pos_sys, pos, neg_sys, neg = (float(x[i]) for x in args[:4])
    expected[i] = np.log(np.exp(pos_sys - pos) / np.exp(neg_sys - neg))
  helpers.assert_close(w, expected)
  per_token = expected / (args[4] + args[5])
  helpers.assert_close(wn, per_token / per_token.max(-1, keepdims=True))


def test_scores_are_antisymmetric_in_the_answers():
  args = arguments(1)
  scores, other = (selection.lls_scores(*x) for x in (args, swapped(args)))
  np.testing.assert_array_equal(scores.w, -other.w)
  # The scale is of either order's own largest.
  ratio = np.asarray(scores.wn / other.wn)
  helpers.assert_close(ratio, np.broadcast_to(ratio[:, :1], ratio.shape))
  assert np.all(ratio < 0)


def test_what_depends_on_the_prompt_alone_cancels():
  args = arguments(2)
  shift, shift_sys = np.random.default_rng(3).normal(size=(2, 2, N))
  moved = [
    x + (shift_sys if i in (0, 2) else shift) for i, x in enumerate(args[:4])
  ]
  helpers.assert_close(
    selection.lls_scores(*moved, *args[4:]), selection.lls_scores(*args)
  )


def test_an_empty_system_prompt_scores_nothing():
  pos_sys, _, neg_sys, _, *lengths = arguments(4)
  scores = selection.lls_scores(pos_sys, pos_sys, neg_sys, neg_sys, *lengths)
  np.testing.assert_array_equal(scores, 0)
  with pytest.raises(checks.InputError, match="is it empty"):
    selection.lls_select(scores.wn[0], 0.1)


def test_scores_without_a_positive_one_keep_their_signs():
  args = arguments(5)
  w = selection.lls_scores(*args).w
  loser = [
    np.where(w > 0, b, a) for a, b in zip(args, swapped(args), strict=True)
  ]
  scores = selection.lls_scores(*loser)
  assert np.all(scores.w < 0)
  lengths = loser[4] + loser[5]
  helpers.assert_close(scores.wn, scores.w / lengths)


def test_answers_without_tokens_divide_by_one():
  one, none = np.ones(1), np.zeros(1, int)
  scores = selection.lls_scores(3 * one, one, one, one, none, none)
  assert scores.w == 2 and scores.wn == 1


def test_scores_transform():
  helpers.assert_transforms(selection.lls_scores, *arguments(6))


def test_scores_are_linear_in_log_probs():
  args = [x[0] for x in arguments(7)]

  def total(*logps):
    return jnp.sum(selection.lls_scores(*logps, *args[4:]).wn ** 2)

  helpers.assert_gradient(total, *args[:4])


def test_bad_scores_are_refused():
  args = [x[0] for x in arguments(8)]
  with pytest.raises(AssertionError, match="lp_neg"):
    selection.lls_scores(args[0], args[1], args[2], args[3][:2], *args[4:])
  with pytest.raises(AssertionError, match="lp_pos_sys int"):
    selection.lls_scores(args[4], *args[1:])


# --- selection ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("positive", "gamma", "number"),
  [(30, 0.1, 3), (31, 0.1, 4), (1, 1e-6, 1), (9, 1.0, 9), (700, 0.07, 49)],
)
def test_the_share_is_of_positive_scores(positive, gamma, number):
  rng = np.random.default_rng(positive)
  wn = np.concatenate([rng.random(positive) + 1e-3, -rng.random(40), [0.0]])
  wn = rng.permutation(wn)
  found = selection.lls_select(wn, gamma)
  assert found.shape == (number,)
  np.testing.assert_array_equal(wn[found], np.sort(wn)[::-1][:number])


def test_of_equal_scores_the_earlier_comes_first():
  wn = np.array([1.0, 2.0, 1.0, 2.0, 1.0])
  np.testing.assert_array_equal(selection.lls_select(wn, 0.6), [1, 3, 0])


@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(gamma):
  with pytest.raises(ValueError, match=r"gamma must be in \(0, 1\]"):
    selection.lls_select(np.ones(3), gamma)


def test_what_cannot_be_selected_from_is_refused():
  for wn, why in (
    (np.zeros(0), "no pairs"),
    (np.array([-1.0, 0.0]), "none of 2 scores is above 0"),
    (np.array([1.0, np.nan]), "must be finite"),
  ):
    with pytest.raises(checks.InputError, match=why):
      selection.lls_select(wn, 0.5)
  with pytest.raises(ValueError, match=r"wn must be \[n\]"):
    selection.lls_select(np.ones((2, 2)), 0.5)


# --- theory ------------------------------------------------------------------


def test_gaussian_prediction_has_the_printed_value():
  found = selection.gaussian_selection(0.05, dimension=200, num_selected=1000)
  conventions.assert_printed(float(found.projection), "2.0627")
  conventions.assert_printed(float(found.cosine), ".977")


def test_gaussian_projection_is_the_truncated_mean():
  q = np.array([0.001, 0.05, 0.5, 0.9])
  expected = [
    scipy.stats.truncnorm.mean(scipy.stats.norm.isf(x), np.inf) for x in q
  ]
  found = selection.gaussian_selection(
    jnp.asarray(q), dimension=1, num_selected=9
  )
  helpers.assert_close(found.projection, np.array(expected), rtol=1e-8)
  np.testing.assert_array_equal(found.cosine, 1)  # nothing lies across


def test_selected_gaussians_have_the_predicted_cosine():
  """Scores of linear log-probabilities; gamma of the positive ones."""
  rng = np.random.default_rng(0)
  dimension, pairs, gamma = 50, 8000, 0.1
  features = rng.normal(size=(pairs, dimension))
  u = np.eye(dimension)[0]
  zero, one = np.zeros(pairs), np.ones(pairs, int)
  scores = selection.lls_scores(features @ u, zero, zero, zero, one, one)
  kept = selection.lls_select(scores.wn, gamma)
  mean = features[kept].mean(0)
  theory = selection.gaussian_selection(
    gamma / 2, dimension=dimension, num_selected=len(kept)
  )
  # Five standard errors: 400 draws of a spread of .37 (of the projection), and
  # of the share selected itself, which has 1.1 % of spread.
  assert abs(mean @ u - theory.projection) < 5 * 0.022
  # A cosine of 1 - x has x = 49 draws' mean square over the squared length.
  cosine = mean @ u / np.linalg.norm(mean)
  spread = (1 - theory.cosine) * np.sqrt(2 / (dimension - 1))
  assert abs(cosine - theory.cosine) < 5 * spread


def test_the_first_step_of_dpo_goes_along_the_selected_mean():
  rng = np.random.default_rng(1)
  features = rng.normal(size=(2, N, 5))
  theta, beta = jnp.asarray(rng.normal(size=5)), 0.1
  ref = features @ theta

  def loss(theta):
    logps = preference.PairLogps(*(features @ theta), *ref)
    return jnp.mean(preference.dpo_loss(logps, beta=beta).loss)

  expected = beta / 2 * (features[0] - features[1]).mean(0)
  helpers.assert_close(-jax.grad(loss)(theta), expected)


def test_gaussian_selection_transforms():
  def fn(q):
    return selection.gaussian_selection(q, dimension=9, num_selected=20)

  q = np.array([[0.05, 0.2], [0.4, 0.6]])
  helpers.assert_transforms(fn, q)
  helpers.assert_gradient(lambda q: jnp.sum(sum(fn(q))), q[0])


def test_gaussian_selection_refuses():
  with pytest.raises(ValueError, match="num_selected must be above 0"):
    selection.gaussian_selection(0.1, dimension=3, num_selected=0)


def test_singular_values_are_those_of_the_rank():
  rng = np.random.default_rng(2)
  lr = rng.normal(size=(2, 4, 2)) @ rng.normal(size=(2, 2, 9))
  values = jax.jit(selection.normalized_singular_values)(lr)
  # Squared ones are eigenvalues.
  squares = np.linalg.eigvalsh(lr @ np.swapaxes(lr, -1, -2))[:, ::-1]
  expected = np.sqrt(np.abs(squares[:, :2] / squares[:, :1]))
  helpers.assert_close(values[:, :2], expected, rtol=1e-9)
  assert np.all(values[:, 2:] < 1e-14)  # rounding
  np.testing.assert_array_equal(
    selection.normalized_singular_values(np.zeros((3, 2))), 0
  )


def test_singular_values_transform():
  lr = np.random.default_rng(3).normal(size=(2, 2, 3))
  helpers.assert_transforms(selection.normalized_singular_values, lr)
  helpers.assert_gradient(
    lambda x: selection.normalized_singular_values(x)[1], lr[0]
  )


def test_singular_values_refuse():
  with pytest.raises(ValueError, match=r"lr must be \[..., S, R\]"):
    selection.normalized_singular_values(np.ones(3))

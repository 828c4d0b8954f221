# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences, preference
from tests import helpers
from tests.preference import golden

# Options without a default.
REQUIRED = {
  "alphapo": {"alpha": 0.25},
  "f_dpo": {"div": divergences.f_divergence("jensen_shannon")},
  "hdpo": {"alpha": 0.9},
}
# Whether a constant may be added to the policy's two scores. Where the answer
# depends on options, each has its line.
INVARIANT = {
  ("dpo", ()): True,
  ("dpo", (("label_smoothing", 0.1),)): True,
  ("f_dpo", ()): False,
  ("f_dpo", (("div", divergences.f_divergence("kl")),)): True,
  ("hdpo", ()): True,
  ("ipo", ()): True,
  ("ipo", (("average_log_prob", True),)): False,
  ("robust", ()): True,
  ("hinge", ()): True,
  ("exo_pair", ()): True,
  ("discopop", ()): True,
  ("sigmoid_norm", ()): False,
  ("nca_pair", ()): False,
  ("bco_pair", ()): False,
  ("sppo_hard", ()): False,
  ("apo_zero", ()): False,
  ("apo_down", ()): False,
  ("aot", ()): True,
  ("aot", (("paired", False),)): True,  # the same constant for all pairs
  ("dpop", ()): False,
  ("rpo", ()): False,
  ("orpo", ()): False,
  ("cpo", ()): False,
  ("cpo", (("alpha", 0.0),)): True,
  ("simpo", ()): False,
  ("alphapo", ()): False,
}


def loss_of(name, options=()):
  given = REQUIRED.get(name, {}) | dict(options)
  return preference.pair_loss(name, **given)


@functools.cache
def all_losses(dtype=np.float64):
  """Losses and slopes `[2]` of two scores, of every registered loss."""

  def fn(chosen, rejected):
    def total(chosen, rejected, loss):
      scores = {"policy_chosen": chosen, "policy_rejected": rejected}
      data = jax.tree.map(lambda x: jnp.asarray(x, dtype), golden.PAIRS)
      out = loss(data._replace(**scores)).loss
      return jnp.sum(out), out

    slopes = jax.grad(total, (0, 1), has_aux=True)
    return {
      case: slopes(chosen, rejected, loss_of(*case)) for case in INVARIANT
    }

  return jax.jit(fn)


def test_a_named_loss_is_its_function():
  named = preference.pair_loss("dpo", beta=0.3)(golden.PAIRS)
  helpers.assert_close(named, preference.dpo_loss(golden.PAIRS, beta=0.3))


def test_refusals_come_before_data():
  with pytest.raises(ValueError, match="unknown loss 'dop': choose one of"):
    preference.pair_loss("dop")
  with pytest.raises(ValueError, match="takes no option 'tau': it takes beta"):
    preference.pair_loss("dpo", tau=1.0)
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    preference.pair_loss("dpo", beta=0)
  with pytest.raises(ValueError, match="'f_dpo' needs the option 'div'"):
    preference.pair_loss("f_dpo")
  pearson = divergences.f_divergence("pearson_chi2")
  with pytest.raises(ValueError, match="optimum has exact zeros"):
    preference.pair_loss("f_dpo", div=pearson)


@pytest.mark.parametrize("name", preference.PAIR_LOSSES)
def test_every_loss_names_what_it_lacks(name):
  lacking = preference.PairLogps(*golden.PAIRS[:2])
  with pytest.raises(ValueError, match=f"{name} needs .* of PairLogps"):
    loss_of(name)(lacking)


def test_which_losses_are_invariant_to_a_constant():
  assert {name for name, _ in INVARIANT} == set(preference.PAIR_LOSSES)
  chosen, rejected = golden.PAIRS[:2]
  here = all_losses()(chosen, rejected)
  # To lower scores: a mean log-probability above 0 would have no odds.
  there = all_losses()(chosen - 0.75, rejected - 0.75)
  for case, invariant in INVARIANT.items():
    (_, first), (_, second) = here[case], there[case]
    assert np.allclose(first, second, rtol=1e-13, atol=1e-13) == invariant, case


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_completions_without_probability(dtype):
  """Losses are numbers or +inf, and where they are numbers, so are slopes.

  Only the loss of robust DPO, which is unbounded below, may be -inf.
  """
  for at in (0, 1):
    scores = [jnp.array(x, dtype) for x in golden.PAIRS[:2]]
    scores[at] = scores[at].at[0].set(-np.inf)
    for case, (slopes, loss) in all_losses(dtype)(*scores).items():
      assert loss.dtype == dtype
      assert not np.any(np.isnan(loss)), case
      assert loss[0] > -np.inf or (case[0] == "robust" and at == 1), case
      for slope in slopes:
        bad = np.isnan(slope) & np.isfinite(loss)
        assert not bad.any(), (case, slope, loss)


def test_a_certain_completion():
  """A mean log-probability of 0, which rounding makes of confident tokens."""
  chosen, rejected = golden.PAIRS[:2]
  found = all_losses()(chosen * np.array([0, 1]), rejected)
  for case, (slopes, loss) in found.items():
    assert np.all(np.isfinite(loss)) and np.all(np.isfinite(slopes)), case

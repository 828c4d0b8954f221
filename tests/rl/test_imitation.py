# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import mdp as mdps
from jaxalign.rl import imitation
from tests import helpers

BACK = 4


# --- backspaces --------------------------------------------------------------


def typed(actions, keep):
  """The indices of the tokens that stand before each action, by a list."""
  stack, states = [], []
  for t, (action, kept) in enumerate(zip(actions, keep, strict=True)):
    states.append(list(stack))
    if not kept:
      continue
    if action != BACK:
      stack.append(t)
    elif stack:
      stack.pop()
  return [*states, stack]


def test_a_replay_is_what_a_list_does():
  rng = np.random.default_rng(0)
  actions = rng.integers(0, BACK + 1, (2, 10, 9))
  actions = np.where(rng.random(actions.shape) < 0.3, BACK, actions)
  where = rng.random(actions.shape) < 0.8
  replay = jax.jit(
    lambda a, w: imitation.replay_actions(a, backspace_id=BACK, where=w)
  )(actions, where)
  assert replay.visible.shape == (2, 10, 10, 9)
  for i in np.ndindex(2, 10):
    for row, length, state in zip(
      replay.visible[i],
      replay.lengths[i],
      typed(actions[i], where[i]),
      strict=True,
    ):
      assert np.flatnonzero(row).tolist() == state and length == len(state)


def test_backspace_at_the_empty_prefix_does_nothing():
  replay = imitation.replay_actions(
    jnp.array([BACK, 1, BACK, BACK]), backspace_id=BACK
  )
  assert replay.lengths.tolist() == [0, 0, 1, 0, 0]
  assert not replay.visible[-1].any()


# --- the loss ----------------------------------------------------------------


def sequences(key, length=3, vocabulary=4):
  first, second = jax.random.split(key)
  logits = jax.random.normal(first, (2, 5, length, vocabulary))
  actions = jax.random.randint(second, (2, 5, length), 0, vocabulary)
  lengths = jnp.array([[1, 2, 3, 3, 0], [3, 2, 3, 1, 2]])
  return logits, actions, jnp.arange(length) < lengths[..., None]


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_without_penalty_and_on_the_data_it_is_maximum_likelihood(
  key, discount
):
  logits, actions, where = sequences(key)

  @jax.jit
  def losses(logits):
    terms = imitation.sequence_match_terms(
      logits, actions, discount=discount, where=where
    )
    sides = imitation.sequence_match_loss(terms, terms, alpha=math.inf)
    log_pi = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_pi, actions[..., None], -1)[..., 0]
    weights = jnp.where(where, discount ** jnp.arange(3), 0)
    return sides.data + sides.states, -jnp.sum(weights * chosen, -1)

  helpers.assert_close(*losses(logits), atol=1e-14)
  both = jax.jit(jax.jacrev(lambda x: jnp.stack(losses(x)).sum((1, 2))))(logits)
  helpers.assert_close(both[0], both[1], atol=1e-14)


def test_the_falls_of_a_sequence_sum_to_its_first_value(key):
  logits, actions, where = sequences(key)
  terms = imitation.sequence_match_terms(
    logits, actions, discount=0.7, where=where
  )
  first = jax.nn.logsumexp(logits[..., 0, :], -1) * where[..., 0]
  helpers.assert_close(
    jnp.sum(terms.weights * terms.drops, -1), first, atol=1e-14
  )
  # Also where sequences are drawn from elsewhere than the logits' policy.
  other = imitation.sequence_match_terms(
    logits, 3 - actions, discount=0.7, where=where
  )
  helpers.assert_close(other.drops, terms.drops)
  assert not np.allclose(other.rewards, terms.rewards)


def test_the_last_term_telescopes_under_every_policys_occupancy(key):
  """`(1-g) E V(s_0) = E_rho[V - g V']`, rho of any policy, V of any logits."""
  keys = jax.random.split(key, 4)
  world = mdps.random_mdp(keys[0], 4, 3, discount=0.8)
  logits = jax.random.normal(keys[1], (4, 3))
  policies = jax.nn.softmax(2 * jax.random.normal(keys[2], (6, 4, 3)))
  start = jax.nn.softmax(jax.random.normal(keys[3], (4,)))
  values = jax.nn.logsumexp(logits, -1)
  drops = values[:, None] - 0.8 * world.transitions @ values

  def last_term(policy):
    return jnp.sum(mdps.occupancy(world, policy, start) * drops)

  found = jax.jit(jax.vmap(last_term))(policies)
  helpers.assert_close(found, jnp.full(6, 0.2 * start @ values))

  # And by the library's own sums, over every path of three actions.
  @jax.jit
  def by_paths(policy):
    paths = mdps.enumerate_trajectories(world, policy, start, 3)
    terms = imitation.sequence_match_terms(
      logits[paths.states[:, :-1]], paths.actions, discount=0.8
    )
    return paths.probs @ jnp.sum(terms.weights * terms.drops, -1)

  for policy in policies[:2]:
    helpers.assert_close(by_paths(policy), start @ values)


def test_the_best_reward_has_the_chi_square_value(key):
  """`sum (q-p)^2/p` on the data, `alpha sum (p-q)^2/m` on the mixture."""
  p, q = jax.nn.softmax(jax.random.normal(key, (2, 5)))

  def objective(rewards, alpha, penalty):
    # One step each: the fall of the value is the reward, in expectation.
    data, states = (imitation.SoftTerms(rewards, rewards, w) for w in (p, q))
    sides = imitation.sequence_match_loss(
      data, states, alpha=alpha, penalty=penalty
    )
    return -(sides.data + sides.states)

  middle = (p + q) / 2
  for penalty, alpha, best, value in (
    ("data", 1.0, 2 * (1 - q / p), jnp.sum((q - p) ** 2 / p)),
    ("mixture", 1.0, 2 * (p - q) / middle, jnp.sum((p - q) ** 2 / middle)),
    (
      "mixture",
      0.3,
      0.6 * (p - q) / middle,
      0.3 * jnp.sum((p - q) ** 2 / middle),
    ),
  ):
    found, slope = jax.value_and_grad(objective)(best, alpha, penalty)
    helpers.assert_close(found, value)
    helpers.assert_close(slope, jnp.zeros(5), atol=1e-15)
    assert objective(best + 0.1, alpha, penalty) < found
    assert objective(0.9 * best, alpha, penalty) < found


def test_the_occupancy_is_matched_by_the_soft_policy():
  """Descent on the exact objective of a bandit leads to the data's law."""
  p = jnp.array([0.5, 0.3, 0.2])

  def loss(logits):
    def terms(weights):
      found = imitation.sequence_match_terms(
        jnp.broadcast_to(logits, (3, 1, 3)), jnp.arange(3)[:, None]
      )
      return found._replace(weights=weights[:, None] * found.weights)

    data = terms(p)
    # rho from the model, held fixed: any rho has the same last term.
    states = terms(jax.lax.stop_gradient(jax.nn.softmax(logits)))
    sides = imitation.sequence_match_loss(data, states, alpha=math.inf)
    return sides.data.sum() + sides.states.sum()

  step = lambda x, _: (x - 0.5 * jax.grad(loss)(x), None)
  logits, _ = jax.lax.scan(step, jnp.zeros(3), length=400)
  np.testing.assert_allclose(jax.nn.softmax(logits), p, atol=1e-9)


# --- masks, gradients, transforms, refusals ----------------------------------


def test_padding_changes_nothing(key):
  logits, actions, _ = sequences(key)
  where = jnp.broadcast_to(jnp.arange(3) < 2, actions.shape)
  poisoned = jnp.where(where[..., None], logits, jnp.nan)

  def loss(logits, actions, where):
    terms = imitation.sequence_match_terms(logits, actions, where=where)
    sides = imitation.sequence_match_loss(
      terms, terms, alpha=0.5, penalty="mixture"
    )
    return jnp.sum(sides.data + sides.states)

  grad = jax.jit(jax.value_and_grad(loss))
  found, slope = grad(poisoned, jnp.where(where, actions, -1), where)
  expected, short = grad(logits[..., :2, :], actions[..., :2], where[..., :2])
  helpers.assert_close(found, expected)
  helpers.assert_close(slope[..., :2, :], short, atol=1e-15)
  np.testing.assert_array_equal(slope[..., 2, :], jnp.zeros((2, 5, 4)))


def test_an_impossible_action_elsewhere_is_harmless():
  logits = jnp.array([[0.0, -jnp.inf, 1.0]])

  def loss(logits):
    terms = imitation.sequence_match_terms(logits, jnp.array([2]))
    sides = imitation.sequence_match_loss(terms, terms, alpha=1.0)
    return sides.data + sides.states

  value, slope = jax.value_and_grad(loss)(logits)
  assert np.isfinite(value) and np.all(np.isfinite(slope))
  assert slope[0, 1] == 0


def test_gradient_and_transforms(key):
  logits, actions, where = sequences(key)

  def loss(logits, actions, where, penalty="mixture"):
    terms = imitation.sequence_match_terms(
      logits, actions, discount=0.9, where=where
    )
    return imitation.sequence_match_loss(
      terms, terms, alpha=0.5, penalty=penalty
    )

  helpers.assert_gradient(
    lambda x: sum(jnp.sum(y) for y in loss(x, actions[0, :2], where[0, :2])),
    logits[0, :2],
  )

  def everything(logits, actions, where):
    replay = imitation.replay_actions(actions, backspace_id=3, where=where)
    return loss(logits, actions, where, "data"), replay.lengths

  helpers.assert_transforms(everything, logits, actions, where)


def test_bad_input_is_refused():
  logits, actions = jnp.zeros((2, 3)), jnp.zeros(2, int)
  terms = imitation.sequence_match_terms(logits, actions)
  with pytest.raises(ValueError, match="scalar"):
    imitation.replay_actions(jnp.array(1), backspace_id=0)
  with pytest.raises(AssertionError, match="where"):
    imitation.replay_actions(actions, backspace_id=0, where=jnp.ones(3, bool))
  with pytest.raises(ValueError, match="discount must be in"):
    imitation.sequence_match_terms(logits, actions, discount=0.0)
  with pytest.raises(AssertionError, match="actions"):
    imitation.sequence_match_terms(logits, actions[:1])
  with pytest.raises(AssertionError, match="floats"):
    imitation.sequence_match_terms(jnp.zeros((2, 3), int), actions)
  with pytest.raises(AssertionError, match="where"):
    imitation.sequence_match_terms(logits, actions, where=jnp.ones(1, bool))
  with pytest.raises(ValueError, match="alpha must be above 0"):
    imitation.sequence_match_loss(terms, terms, alpha=0.0)
  with pytest.raises(ValueError, match="data, mixture"):
    imitation.sequence_match_loss(terms, terms, alpha=1.0, penalty="model")
  assert set(imitation.SEQUENCE_MATCH_PENALTIES) == {"data", "mixture"}
  with pytest.raises(AssertionError, match="drops"):
    imitation.sequence_match_loss(
      terms, terms._replace(drops=jnp.ones(3)), alpha=1.0
    )

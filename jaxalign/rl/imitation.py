# SPDX-License-Identifier: Apache-2.0
"""Sequence generation as imitation: logits as soft action values.

A state is a prefix, an action the next token or a backspace, which removes the
last token. Logits `l(s, .)` are soft Q-values, `V(s) = log sum_a e^l(s, a)` the
state's value, and `l(s, a) - g V(s')` the reward that they imply. The end of a
sequence is worth 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "SEQUENCE_MATCH_PENALTIES",
  "ActionReplay",
  "SequenceMatchLosses",
  "SoftTerms",
  "replay_actions",
  "sequence_match_loss",
  "sequence_match_terms",
)

SEQUENCE_MATCH_PENALTIES = ("data", "mixture")


class ActionReplay(NamedTuple):
  """Which tokens stand before each action, and after the last.

  Attributes:
    visible: bool `[..., T + 1, T]`: row t has the earlier actions whose token
      is part of the state before action t; row T is what remains at the end.
    lengths: int32 `[..., T + 1]`, tokens of each state.
  """

  visible: jax.Array
  lengths: jax.Array


def replay_actions(
  actions: jax.Array, *, backspace_id: int, where: jax.Array | None = None
) -> ActionReplay:
  """Follows the prefix through a sequence of tokens and backspaces.

  A token is appended, a backspace removes the last token; at the empty prefix
  it does nothing. Row t of `visible` is the attention mask under which a model
  predicts action t, and the token of action j has position `lengths[j]`.

  Args:
    actions: `[..., T]`, integers.
    backspace_id: the action that removes.
    where: bool `[..., T]`, actions that took place; the others change nothing.
      All by default.

  Returns:
    `ActionReplay`.

  Raises:
    AssertionError: the mask's shape is not that of the actions.
    ValueError: actions are a scalar.

  >>> replay = replay_actions(jnp.array([5, 6, 0, 7]), backspace_id=0)
  >>> print(replay.visible[-1], replay.lengths)  # 5 and 7 remain
  [ True False False  True] [0 1 2 1 2]

  Reference:
    SequenceMatch (2306.05426), for the backspace and its mask.
  """
  if jnp.ndim(actions) < 1:
    raise ValueError("actions must be [..., T], were a scalar")
  if where is None:
    where = jnp.ones(actions.shape, bool)
  checks.check_same_shape(actions=actions, where=where)
  index = jnp.arange(actions.shape[-1])

  def act(alive, now):
    t, action, keep = now
    last = jnp.max(jnp.where(alive, index, -1), -1, keepdims=True)
    removed = alive & (index != last)
    erase = (action == backspace_id)[..., None]
    after = jnp.where(erase, removed, alive | (index == t))
    return jnp.where(keep[..., None], after, alive), alive

  now = index, jnp.moveaxis(actions, -1, 0), jnp.moveaxis(where, -1, 0)
  end, before = jax.lax.scan(act, jnp.zeros(actions.shape, bool), now)
  states = jnp.concatenate([before, end[None]])
  visible = jnp.moveaxis(states, 0, -2)
  return ActionReplay(visible, jnp.sum(visible, -1, dtype=jnp.int32))


class SoftTerms(NamedTuple):
  """What the objective sees of a sequence.

  Attributes:
    rewards: `[..., T]`, `l(s, a) - g V(s')`; 0 where masked.
    drops: `[..., T]`, `V(s) - g V(s')`; 0 where masked.
    weights: `[..., T]`, `g^t`; 0 where masked.
  """

  rewards: jax.Array
  drops: jax.Array
  weights: jax.Array


def sequence_match_terms(
  logits: jax.Array,
  actions: jax.Array,
  *,
  discount: float = 1.0,
  where: jax.Array | None = None,
) -> SoftTerms:
  """Implied rewards and falls of the value along sequences.

  `r_t = l(s_t, a_t) - g V(s_{t+1})`, `V(s_t) - g V(s_{t+1})`, weight `g^t`,
  where V is 0 after the last action. `r_t` less the fall is `log pi(a_t | s_t)`
  whatever g, and the weighted falls of a sequence sum to `V(s_0)`.

  Args:
    logits: `[..., T, V]`, before each action; -inf is never chosen.
    actions: `[..., T]`, integers below V, backspaces among them.
    discount: g, in (0, 1].
    where: bool `[..., T]`, true up to a sequence's last action (its end), false
      behind; all by default.

  Returns:
    `SoftTerms`.

  Raises:
    AssertionError: shapes do not fit, or logits are not floating point.
    ValueError: discount outside (0, 1].

  >>> terms = sequence_match_terms(jnp.zeros((2, 4)), jnp.array([1, 3]))
  >>> print(terms.rewards.round(3), terms.drops.round(3))
  [-1.386  0.   ] [0.    1.386]

  Reference:
    SequenceMatch (2306.05426); IQ-Learn (2106.12142), for the
    change of variables from rewards to soft values.
  """
  if not 0 < discount <= 1:
    raise ValueError(f"discount must be in (0, 1], was {discount}")
  checks.check_float(logits=logits)
  checks.check_same_shape(**{"logits[..., 0]": logits[..., 0]}, actions=actions)
  if where is None:
    where = jnp.ones(actions.shape, bool)
  checks.check_same_shape(actions=actions, where=where)
  logits = jnp.where(where[..., None], numerics.as_float(logits), 0)
  chosen = jnp.where(where, actions, 0)
  values = jnp.where(where, jax.nn.logsumexp(logits, -1), 0)
  after = jnp.concatenate(
    [values[..., 1:], jnp.zeros_like(values[..., :1])], -1
  )
  picked = jnp.take_along_axis(logits, chosen[..., None], -1)[..., 0]
  times = jnp.arange(actions.shape[-1], dtype=logits.dtype)
  return SoftTerms(
    jnp.where(where, picked - discount * after, 0),
    jnp.where(where, values - discount * after, 0),
    jnp.where(where, discount**times, 0),
  )


class SequenceMatchLosses(NamedTuple):
  """The two sides of the loss, whose means add up to it.

  Attributes:
    data: `[...]`, of the sequences of the data.
    states: `[...]`, of the sequences whose states the last term visits.
  """

  data: jax.Array
  states: jax.Array


def sequence_match_loss(
  data: SoftTerms,
  states: SoftTerms,
  *,
  alpha: float,
  penalty: str = "data",
) -> SequenceMatchLosses:
  """Matches the occupancy of the data, from logits alone.

  Minus `E_data[phi(r)] - E_rho[V(s) - g V(s')]`, `phi(x) = x - x^2/(4 alpha)`,
  weighted by `g^t` and summed over a sequence. For every rho that starts where
  the data starts the last term is `E V(s_0)`, if its sequences end: rho may be
  the data, sequences of the model, or a mixture of both, as in the paper, where
  it says how much of each; the exact form is not confirmed. Pass the terms of
  those sequences as `states`; the data's own need no sampling, and with
  `alpha = inf` the two sides then add up to minus the log-likelihood.

  `penalty="data"` is the line above, whose maximum over rewards at alpha = 1 is
  `sum (q - p)^2/p` for the data's occupancy p and the model's q, infinite where
  the data never is. `penalty="mixture"` takes the square under half data and
  half rho, `E_data[r] - E_rho[V - g V'] - E_(p+q)/2[r^2]/(4 alpha)`, with rho
  the model's sequences: `alpha sum (p - q)^2/((p + q)/2)`, always finite.

  Args:
    data: `[..., T]` each, of the data.
    states: `[..., T]` each, of rho; of any number of sequences and length.
    alpha: above 0; infinite for no penalty.
    penalty: `"data"` or `"mixture"`.

  Returns:
    `SequenceMatchLosses`: minimise `mean(data) + mean(states)`.

  Raises:
    AssertionError: the terms of a side differ in shape.
    ValueError: alpha is not positive, or an unknown penalty.

  >>> terms = sequence_match_terms(jnp.zeros((2, 4)), jnp.array([1, 3]))
  >>> sides = sequence_match_loss(terms, terms, alpha=float("inf"))
  >>> print(f"{sides.data + sides.states:.4f}")  # 2 log 4
  2.7726

  Reference:
    SequenceMatch (2306.05426).
  """
  checks.check_positive(alpha=alpha)
  checks.check_choice("penalty", penalty, SEQUENCE_MATCH_PENALTIES)
  for side in (data, states):
    checks.check_same_shape(**side._asdict())
  share = 1.0 if penalty == "data" else 0.5

  def squares(side):
    return jnp.sum(side.weights * side.rewards**2, -1) / (4 * alpha)

  gain = jnp.sum(data.weights * data.rewards, -1)
  fall = jnp.sum(states.weights * states.drops, -1)
  return SequenceMatchLosses(
    share * squares(data) - gain, fall + (1 - share) * squares(states)
  )

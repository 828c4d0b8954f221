# SPDX-License-Identifier: Apache-2.0
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.diffusion import remasking, samplers
from jaxalign.exact import masked, sequences
from tests import helpers

V, L = 3, 3
X = np.asarray(sequences.enumerate_sequences(V, L))
STATES = np.asarray(sequences.enumerate_sequences(V + 1, L))
PLACE = (V + 1) ** np.arange(L)[::-1]
START = int(V * PLACE.sum())  # all masks
FINAL = X @ PLACE  # the states without masks
EVERYWHERE = jnp.ones(L, bool)
SAMPLES = 20000


def table(seed=0, scale=2.0, vocab_size=V, length=L):
  shape = ((vocab_size + 1) ** length, length, vocab_size)
  return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape))


def log_probs_of(logits):
  return masked.subset_log_probs(
    masked.table_denoiser(logits), jnp.asarray(X), mask_id=V
  )


@jax.jit
def transitions(logits, where, reveal, remask=0.0):
  """The matrix of one step, from each partly masked sequence to each."""
  shape = (len(STATES), len(STATES), L)
  z = jnp.broadcast_to(STATES[:, None], shape)
  predicted = masked.table_denoiser(logits)(z)
  return jnp.exp(
    remasking.step_log_prob(
      predicted,
      z,
      jnp.broadcast_to(STATES, shape),
      jnp.broadcast_to(where, shape),
      reveal,
      remask,
      mask_id=V,
    )
  )


def state_law(index=START):
  return jnp.zeros(len(STATES)).at[index].set(1)


def assert_sampled(tokens, law):
  """Frequencies of the sequences are within five standard errors."""
  counts = np.bincount(np.asarray(tokens) @ PLACE, minlength=len(STATES))
  frequencies = counts[FINAL] / len(tokens)
  assert counts.sum() == counts[FINAL].sum()
  error = np.sqrt(law * (1 - law) / len(tokens))
  assert np.all(np.abs(frequencies - law) <= 5 * error + 1e-12)


def blank(count=SAMPLES, length=L):
  return jnp.zeros((count, length), jnp.int32), jnp.ones((count, length), bool)


def alphas_of(steps, power=1.0):
  return jnp.asarray(1 - (np.arange(steps + 1) / steps) ** power)


# --- laws --------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_ancestral_law(power):
  logits, alphas = table(1), alphas_of(4, power)
  law = state_law()
  for reveal in samplers.ancestral_probs(alphas)[::-1]:
    step = transitions(logits, EVERYWHERE, reveal)
    helpers.assert_close(step.sum(-1), np.ones(len(STATES)))
    law = law @ step
  expected = jnp.exp(masked.t_step_log_prob(log_probs_of(logits), alphas))
  helpers.assert_close(law[FINAL], expected)
  helpers.assert_close(law.sum(), 1.0)


def test_ancestral_samples(key):
  logits, alphas = table(1), alphas_of(4)
  found = samplers.ancestral_sample(
    key, masked.table_denoiser(logits), *blank(), alphas, mask_id=V
  )
  law = jnp.exp(masked.t_step_log_prob(log_probs_of(logits), alphas))
  assert_sampled(found.tokens, law)
  helpers.assert_close(found.num_revealed.sum(-1), np.full(SAMPLES, L))
  # A fourth is revealed at each step.
  error = np.sqrt(L * 0.25 * 0.75 / SAMPLES)
  mean = np.mean(found.num_revealed, 0)
  assert np.max(np.abs(mean - L / 4)) < 5 * error


def order_step(logits, law, count, scores, weights, predicted=None):
  """Pushes a law through a step that reveals what scores highest.

  Args:
    logits: the table of the denoiser.
    law: over states.
    count: how many tokens the step reveals.
    scores: `[states, cases, L]`.
    weights: `[states, cases]`, chances of the cases.
    predicted: `[cases, L]`, the tokens of each case; drawn where absent.
  """
  after = jnp.zeros_like(law)
  for i in np.flatnonzero(law):
    z = STATES[i]
    hidden = jnp.broadcast_to(z == V, scores[i].shape)
    counts = jnp.full(len(hidden), count)
    chosen = np.asarray(samplers.top_positions(scores[i], hidden, counts))
    for case, reveal in enumerate(chosen):
      if predicted is None:
        rows = transitions(logits, jnp.asarray(reveal), 1.0)[i]
      else:
        index = int(np.where(reveal, predicted[case], z) @ PLACE)
        rows = state_law(index)
      after += law[i] * weights[i, case] * rows
  return after


def test_random_order_law():
  logits = table(2)
  orders = np.array(list(itertools.permutations(range(L)))) * 1.0
  scores = jnp.broadcast_to(orders, (len(STATES), *orders.shape))
  weights = np.full((len(STATES), len(orders)), 1 / len(orders))
  law = state_law()
  for count in (1, 1, 1):
    law = order_step(logits, law, count, scores, weights)
  log_pi = masked.any_order_log_prob(log_probs_of(logits))
  helpers.assert_close(law[FINAL], jnp.exp(log_pi))


def test_random_order_samples(key):
  logits = table(2)
  found = samplers.random_order_sample(
    key, masked.table_denoiser(logits), *blank(), mask_id=V
  )
  log_pi = masked.any_order_log_prob(log_probs_of(logits))
  assert_sampled(found.tokens, jnp.exp(log_pi))
  assert found.num_forwards == L and np.all(found.num_revealed == 1)


def confidence_law(logits, temperature):
  """Of low-confidence remasking, one token at a time."""
  log_p = jax.nn.log_softmax(logits[STATES @ (V + 1) ** np.arange(L)])
  sharp = jax.nn.log_softmax(log_p / temperature)
  place = np.arange(L)
  scores = log_p[:, place, X]  # [states, drawn sequences, L]
  weights = np.exp(np.sum(sharp[:, place, X], -1))
  law = state_law()
  for _ in range(L):
    law = order_step(logits, law, 1, scores, weights, X)
  return law[FINAL]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_confidence_is_biased(key, temperature):
  """Perfect conditionals, one token at a time: still another law."""
  perfect = masked.self_distill(table(3))
  law = jnp.exp(masked.any_order_log_prob(log_probs_of(perfect)))
  biased = confidence_law(perfect, temperature)
  helpers.assert_close(jnp.sum(biased), 1.0)
  assert jnp.sum(jnp.abs(biased - law)) / 2 > 0.1
  found = samplers.confidence_sample(
    key,
    masked.table_denoiser(perfect),
    *blank(),
    mask_id=V,
    temperature=temperature,
  )
  assert_sampled(found.tokens, biased)


def entropy(p, axes):
  """Of the coordinates `axes` under the joint `p [V, ..., V]`."""
  rest = tuple(i for i in range(p.ndim) if i not in axes)
  q = p.sum(rest)
  return -np.sum(q * np.log(q))


@pytest.mark.parametrize(
  "rounds", [((0, 1, 2),), ((0, 2), (1,)), ((1,), (0, 2)), ((0,), (1,), (2,))]
)
def test_parallel_reveals_cost_their_total_correlation(rounds):
  perfect = masked.self_distill(table(4))
  p = np.exp(masked.any_order_log_prob(log_probs_of(perfect)))
  joint = p.reshape(V, V, V)
  law, past, cost = state_law(), (), 0.0
  for now in rounds:
    where = jnp.zeros(L, bool).at[jnp.array(now)].set(True)
    law = law @ transitions(perfect, where, 1.0)
    known = entropy(joint, past) if past else 0.0
    cost += sum(entropy(joint, (*past, i)) - known for i in now)
    cost -= entropy(joint, past + now) - known
    past += now
  divergence = np.sum(p * (np.log(p) - np.log(law[FINAL])))
  helpers.assert_close(divergence, cost, atol=1e-12)
  assert cost > 0.01 or all(len(now) == 1 for now in rounds)


# --- steps and blocks --------------------------------------------------------


def test_reveal_counts():
  counts = samplers.reveal_counts(jnp.arange(8), num_steps=3)
  helpers.assert_close(counts.sum(-1), np.arange(8))
  assert np.all(np.diff(counts) <= 0) and np.max(np.ptp(counts, -1)) == 1
  assert counts[5].tolist() == [2, 2, 1]


def test_top_positions():
  scores = jnp.array([[0.0, -jnp.inf, jnp.nan, 2.0], [1.0, 1.0, 1.0, 5.0]])
  where = jnp.array([[True, True, False, False], [True, True, True, False]])
  found = samplers.top_positions(scores, where, jnp.array([2, 2]))
  assert found.tolist() == [[True, True, False, False]] * 2
  none = samplers.top_positions(scores, where, jnp.array([0, 9]))
  assert none.tolist() == [[False] * 4, where[1].tolist()]


def clock(z, vocab_size=9):
  """Says how many tokens are visible, and more surely to the right."""
  visible = jnp.sum(z != vocab_size, -1, keepdims=True)
  says = jax.nn.one_hot(visible, vocab_size)
  return says * (5.0 + jnp.arange(z.shape[-1]))[:, None]


def test_blocks_fill_from_left_to_right(key):
  tokens, where = blank(1, 6)

  def run(where=where, **options):
    return samplers.confidence_sample(
      key, clock, tokens, where, mask_id=9, **options
    )

  assert run().tokens.tolist() == [[5, 4, 3, 2, 1, 0]]
  assert run(num_blocks=2).tokens.tolist() == [[2, 1, 0, 5, 4, 3]]
  assert run(num_blocks=6).tokens.tolist() == [[0, 1, 2, 3, 4, 5]]
  found = run(num_blocks=2, num_steps=4)
  assert found.tokens.tolist() == [[2, 0, 0, 5, 3, 3]]
  assert found.num_revealed.tolist() == [[2, 1, 2, 1]]
  assert found.num_forwards == 4
  # Blocks are of the tokens to generate; a prompt stays and costs no step.
  prompt = jnp.array([[False, True, True, False, True, True]])
  found = run(prompt, num_blocks=2)
  assert found.tokens.tolist() == [[0, 3, 2, 0, 5, 4]]
  assert found.num_revealed.tolist() == [[1, 1, 0, 1, 1, 0]]
  assert found.num_forwards == 4


def test_random_order_in_blocks(key):
  tokens, where = blank(400, 6)
  found = samplers.random_order_sample(
    key,
    lambda z: clock(z) * 100,
    tokens,
    where,
    mask_id=9,
    num_blocks=2,
    num_steps=4,
  )
  # Two of a block at once, then the third; in all orders.
  first, second = np.sort(found.tokens[:, :3]), np.sort(found.tokens[:, 3:])
  assert np.all(first == [0, 0, 2]) and np.all(second == [3, 3, 5])
  lone = np.argmax(found.tokens[:, :3], -1)
  error = np.sqrt(400 / 3 * 2 / 3)
  assert np.all(np.abs(np.bincount(lone) - 400 / 3) < 5 * error)


# --- the number of forwards --------------------------------------------------


def expected_forwards(steps, length):
  return steps * (1 - (1 - 1 / steps) ** length)


def test_expected_forwards_exactly():
  """Chances that a step changes z, from the law over states."""
  alphas, law, total = alphas_of(5), state_law(), 0.0
  for reveal in samplers.ancestral_probs(alphas)[::-1]:
    step = transitions(table(5), EVERYWHERE, reveal)
    total += 1 - jnp.sum(law * jnp.diag(step))
    law = law @ step
  helpers.assert_close(total, expected_forwards(5, L))


@pytest.mark.parametrize(
  ("steps", "length", "runs", "sheet"),
  [(8, 16, 2000, 7.06), (64, 16, 1000, 14.26), (512, 1024, 16, 442.8)],
)
def test_counted_forwards(steps, length, runs, sheet):
  theory = expected_forwards(steps, length)
  assert abs(theory - sheet) < 0.05  # its last digit
  fair = lambda z: jnp.zeros((*z.shape, 2), jnp.float32)
  alphas = alphas_of(steps)

  @jax.jit
  @jax.vmap
  def count(seed):
    found = samplers.ancestral_sample(
      jax.random.key(seed),
      fair,
      jnp.zeros(length, jnp.int32),
      jnp.ones(length, bool),
      alphas,
      mask_id=2,
    )
    return found.num_forwards, jnp.sum(found.num_revealed > 0)

  counted, changed = count(jnp.arange(runs))
  helpers.assert_close(counted, changed)
  error = np.std(counted, ddof=1) / np.sqrt(runs)
  assert abs(np.mean(counted) - theory) < 5 * error


def test_skipped_forwards_do_not_run(key):
  ran = []

  def watched(z):
    jax.debug.callback(lambda: ran.append(1))
    return jnp.zeros((*z.shape, 2))

  tokens, where = jnp.zeros(4, int), jnp.ones(4, bool)
  run = jax.jit(
    lambda: samplers.ancestral_sample(
      key, watched, tokens, where, alphas_of(64), mask_id=2
    )
  )
  found = run()
  jax.effects_barrier()
  assert len(ran) == found.num_forwards <= 4
  assert found.num_forwards == np.sum(found.num_revealed > 0)


# --- every sampler -----------------------------------------------------------

SAMPLERS = {
  "ancestral": lambda *a, **k: samplers.ancestral_sample(*a, alphas_of(3), **k),
  "random_order": samplers.random_order_sample,
  "confidence": samplers.confidence_sample,
  "remdm": lambda *a, **k: remasking.remdm_sample(
    *a, alphas_of(3), jnp.array([0.0, 0.2, 0.3]), **k
  ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_transforms(name):
  denoiser = masked.table_denoiser(table(6))

  def run(seed, tokens, where):
    return SAMPLERS[name](
      jax.random.key(seed), denoiser, tokens, where, mask_id=V, temperature=0.7
    )

  seeds, tokens = jnp.arange(2), jnp.array([[0, 1, 2], [2, 1, 0]])
  where = jnp.array([[True, True, False], [True, True, True]])
  helpers.assert_transforms(run, seeds, tokens, where)
  found = run(0, tokens, where)
  assert found.tokens[0, 2] == 2 and np.max(found.tokens) < V
  assert found.tokens.dtype == tokens.dtype


@pytest.mark.parametrize("name", SAMPLERS)
def test_zeros_and_what_is_not_read(key, name):
  """Impossible tokens, NaN for what is visible, and nothing to generate."""

  def denoiser(z):
    logits = jnp.broadcast_to(jnp.array([-jnp.inf, 0.0, 0.0]), (*z.shape, V))
    return jnp.where((z == V)[..., None], logits, jnp.nan)

  run = functools.partial(SAMPLERS[name], key, denoiser, mask_id=V)
  tokens, where = blank(50)
  found = run(tokens, where.at[:, 0].set(False))
  assert np.all(found.tokens[:, 0] == 0) and np.all(found.tokens[:, 1:] > 0)
  assert np.max(found.tokens) < V
  nothing = run(tokens, ~where)
  assert np.all(nothing.tokens == tokens) and nothing.num_forwards == 0
  clean = lambda z: jnp.broadcast_to(jnp.log(jnp.arange(3.0)), (*z.shape, V))
  with jax.debug_nans(True):
    found = SAMPLERS[name](key, clean, tokens, where, mask_id=V)
  assert np.min(found.tokens) > 0


def test_reveal_tokens(key):
  logits = table(7)[:5]
  denoiser = lambda z: logits
  z = jnp.full((5, L), V)
  draw = functools.partial(samplers.reveal_tokens, key, denoiser, z, mask_id=V)
  for temperature in (0.3, 1.0):
    found = draw(jnp.array(True), temperature=temperature)
    drawn = jax.random.categorical(key, logits / temperature)
    helpers.assert_close(found.tokens, drawn)
    log_p = np.log(np.asarray(jax.nn.softmax(logits)))
    picked = np.take_along_axis(log_p, np.asarray(drawn)[..., None], -1)
    helpers.assert_close(found.log_probs, picked[..., 0])
    assert found.num_forwards == 1
  best = draw(jnp.array(True), temperature=0)
  helpers.assert_close(best.tokens, np.argmax(logits, -1))
  skipped = draw(jnp.array(False))
  assert skipped.num_forwards == 0 and not np.any(skipped.tokens)


def test_bad_arguments(key):
  denoiser = masked.table_denoiser(table())
  tokens, where = blank(2)
  for sample in (samplers.random_order_sample, samplers.confidence_sample):
    with pytest.raises(ValueError, match="multiple of num_blocks, was 3 steps"):
      sample(key, denoiser, tokens, where, mask_id=V, num_blocks=2)
    with pytest.raises(ValueError, match="0 steps for 1 blocks"):
      sample(key, denoiser, tokens, where, mask_id=V, num_steps=0)
  for sample in SAMPLERS.values():
    with pytest.raises(ValueError, match="mask_id must be outside the voc"):
      sample(key, denoiser, tokens, where, mask_id=V - 1)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
      sample(key, denoiser, tokens, where, mask_id=V, temperature=-1.0)
    with pytest.raises(AssertionError, match="need one shape: tokens"):
      sample(key, denoiser, tokens, where[0], mask_id=V)
    with pytest.raises(AssertionError):
      sample(key, lambda z: jnp.zeros(3), tokens, where, mask_id=V)
    with pytest.raises(AssertionError):
      sample(key, denoiser, tokens * 1.0, where, mask_id=V)
  with pytest.raises(ValueError, match="alphas must have two entries"):
    samplers.ancestral_probs(jnp.ones(1))
  for alphas in ([0.9, 0.0], [1.0, 0.1], [1.0, 0.3, 0.4, 0.0]):
    with pytest.raises(ValueError, match="alphas must go down from 1 to 0"):
      samplers.ancestral_probs(jnp.array(alphas))
  with pytest.raises(ValueError, match="num_steps must be at least 1, was 0"):
    samplers.reveal_counts(jnp.array(3), num_steps=0)


def test_probs_of_schedules_with_flat_ends():
  alphas = jnp.array([1.0, 1.0, 0.5, 0.5, 0.0])
  helpers.assert_close(samplers.ancestral_probs(alphas), [1.0, 1.0, 0.0, 0.5])
  cosine = jnp.cos(jnp.linspace(0, jnp.pi / 2, 9))
  assert np.all(samplers.ancestral_probs(cosine)[1:] < 1)
  helpers.assert_transforms(
    samplers.ancestral_probs, jnp.stack([cosine, cosine**2])
  )

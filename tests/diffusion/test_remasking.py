# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.diffusion import remasking, revision
from jaxalign.exact import masked, sequences
from tests import helpers
from tests.diffusion.test_samplers import (
  EVERYWHERE,
  FINAL,
  STATES,
  L,
  V,
  alphas_of,
  assert_sampled,
  blank,
  log_probs_of,
  state_law,
  table,
  transitions,
)

SCHEDULES = {
  "none": lambda a: 0 * remasking.sigma_max(a),
  "cap": lambda a: remasking.sigma_cap(a, eta=0.2),
  "rescale": lambda a: remasking.sigma_rescale(a, eta=0.7),
  "forward_backward": remasking.sigma_forward_backward,
  "max": remasking.sigma_max,
}


def remdm_laws(logits, alphas, sigmas):
  """The law over states at times 1, ..., 1/T, 0."""
  laws = [state_law()]
  probs = remasking.remasking_probs(alphas, sigmas)
  for reveal, remask in zip(*(p[::-1] for p in probs), strict=True):
    laws.append(laws[-1] @ transitions(logits, EVERYWHERE, reveal, remask))
  return jnp.array(laws)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_shares_are_kept(name, power):
  alphas = alphas_of(5, power)
  laws = remdm_laws(table(1), alphas, SCHEDULES[name](alphas))
  share = laws @ jnp.asarray(STATES != V, float)  # [T + 1, L]
  helpers.assert_close(share, np.broadcast_to(alphas[::-1, None], (6, L)))
  helpers.assert_close(laws[-1][FINAL].sum(), 1.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_forward_law_is_kept(name):
  """With a denoiser that knows x, z has the law of the noising q(z | x)."""
  x, alphas = np.array([2, 0, 1]), alphas_of(5)
  knows = jnp.where(jnp.arange(V) == x[:, None], 0.0, -jnp.inf)
  laws = remdm_laws(
    jnp.broadcast_to(knows, (len(STATES), L, V)),
    alphas,
    SCHEDULES[name](alphas),
  )
  a = np.asarray(alphas)[::-1, None, None]
  factors = np.where(STATES == V, 1 - a, np.where(STATES == x, a, 0))
  helpers.assert_close(laws, factors.prod(-1))


def test_no_remasking_is_ancestral():
  logits, alphas = table(2), alphas_of(4)
  law = remdm_laws(logits, alphas, jnp.zeros(4))[-1]
  log_pi = masked.t_step_log_prob(log_probs_of(logits), alphas)
  helpers.assert_close(law[FINAL], jnp.exp(log_pi))
  other = remdm_laws(logits, alphas, SCHEDULES["max"](alphas))[-1]
  assert np.max(np.abs(other - law)) > 0.01


def test_remdm_samples(key):
  logits, alphas = table(2), alphas_of(4)
  sigmas = remasking.sigma_rescale(alphas, eta=0.7)
  found = remasking.remdm_sample(
    key, masked.table_denoiser(logits), *blank(), alphas, sigmas, mask_id=V
  )
  assert_sampled(found.tokens, remdm_laws(logits, alphas, sigmas)[-1][FINAL])
  # Masks revealed per step: their share times the chance.
  reveal = remasking.remasking_probs(alphas, sigmas).reveal
  expected = np.asarray(L * (1 - alphas[1:]) * reveal)[::-1]
  error = np.sqrt(L / 4 / len(found.tokens))
  assert np.all(np.abs(np.mean(found.num_revealed, 0) - expected) < 5 * error)


def test_schedules():
  alphas = alphas_of(4)  # 1, 3/4, 1/2, 1/4, 0
  most = [0.0, 0.5, 1.0, 1.0]
  helpers.assert_close(remasking.sigma_max(alphas), most)
  helpers.assert_close(
    remasking.sigma_cap(alphas, eta=0.3), np.minimum(most, 0.3)
  )
  helpers.assert_close(
    remasking.sigma_rescale(alphas, eta=0.3), 0.3 * np.array(most)
  )
  fine = alphas_of(64)
  found = remasking.sigma_forward_backward(fine)
  revealed = (fine[:-1] - fine[1:])[1:-1] / fine[2:-1]
  # All but the last step, where sigma_max is 0, and the first, where nothing
  # is visible.
  helpers.assert_close(found[1:-1], revealed)
  assert found[0] == 0
  cosine = jnp.cos(jnp.linspace(0, jnp.pi / 2, 9, dtype=jnp.float32))
  assert remasking.sigma_max(cosine)[-1] == 1
  probs = remasking.remasking_probs(cosine, remasking.sigma_max(cosine))
  assert np.all(np.isfinite(probs.reveal)) and probs.reveal[0] == 1


def test_loop_schedule():
  schedule = remasking.loop_schedule(
    num_steps=20, t_on=0.55, t_off=0.05, alpha_on=0.9, eta=0.02
  )
  alphas, sigmas = schedule
  assert np.sum(sigmas > 0) == 10 and sigmas[0] == 0 == sigmas[11]
  helpers.assert_close(alphas[1:12], np.full(11, 0.9))
  probs = remasking.remasking_probs(*schedule)
  helpers.assert_close(probs.reveal[1:11], np.full(10, 0.02 * 0.9 / 0.1))
  laws = remdm_laws(table(3), *schedule)
  share = laws @ jnp.asarray(STATES != V, float)
  helpers.assert_close(share[:, 0], alphas[::-1])
  good = dict(num_steps=4, t_on=0.75, t_off=0.25, alpha_on=0.8, eta=0.25)
  remasking.loop_schedule(**good)
  for bad, message in (
    (dict(num_steps=0), "num_steps must be at least 1"),
    (dict(t_off=0.8), "need 0 < t_off <= t_on < 1"),
    (dict(alpha_on=1.0), r"alpha_on must be in \(0, 1\)"),
    (dict(eta=0.26), r"eta must be in \[0, 0.25\], was 0.26"),
  ):
    with pytest.raises(ValueError, match=message):
      remasking.loop_schedule(**{**good, **bad})


# --- confidence --------------------------------------------------------------


def test_sigma_confidence():
  log_p = jnp.log(jnp.array([0.9, 0.2, 0.5])).at[2].set(jnp.nan)
  where = jnp.array([True, True, False])
  weights = np.exp([-0.9, -0.2])
  expected = [*(0.4 * weights / weights.sum()), 0.0]
  found = remasking.sigma_confidence(jnp.array(0.4), log_p, where)
  helpers.assert_close(found, expected)
  with jax.debug_nans(True):
    none = remasking.sigma_confidence(
      jnp.array(0.4), jnp.zeros(3), ~where & where
    )
  assert not np.any(none)
  helpers.assert_gradient(
    lambda x: remasking.sigma_confidence(jnp.array(0.4), x, where)[0],
    jnp.array([-0.1, -1.6, -0.7]),
  )
  helpers.assert_transforms(
    remasking.sigma_confidence,
    jnp.array([0.4, 0.1]),
    jnp.array([[-0.1, -1.6, -0.7], [-1.0, -2.0, -3.0]]),
    jnp.array([where, ~where]),
  )


def test_confidence_samples(key):
  """Two tokens, three steps, by hand: visible, remasked, revealed."""
  p = np.array([[0.9, 0.1], [0.6, 0.4]])
  denoiser = lambda z: jnp.broadcast_to(jnp.log(p), (*z.shape, 2))
  alphas = alphas_of(3)  # sigma_max: 0, 1, 1
  found = remasking.remdm_sample(
    key,
    denoiser,
    *blank(length=2),
    alphas,
    remasking.sigma_max(alphas),
    mask_id=2,
    confidence=True,
  )
  # Tokens alone: whatever is remasked, the product of their laws remains.
  joint = p[0][:, None] * p[1]
  cells = np.bincount(np.asarray(found.tokens) @ [2, 1], minlength=4)
  n = len(found.tokens)
  error = np.sqrt(joint * (1 - joint) / n)
  assert np.all(np.abs(cells.reshape(2, 2) / n - joint) < 5 * error)
  # Step 1 reveals each of two with chance 1/3; step 2 masks one of those that
  # are visible (sigma 1, spread) and reveals each mask with chance 1/2. So of
  # E = 2/3 visible, P(some) = 5/9 go, and (2 - 2/3) / 2 come: 7/9, where the
  # schedule says 4/3. The last step reveals the other 11/9.
  mean = np.mean(found.num_revealed, 0)
  theory = np.array([2 / 3, 2 / 3, 11 / 9])
  error = np.std(found.num_revealed, 0) / np.sqrt(n)
  assert np.all(np.abs(mean - theory) < 5 * error)


def test_sigma_above_its_maximum(key):
  alphas, denoiser = alphas_of(4), masked.table_denoiser(table())
  tokens, where = blank(2)

  def run(sigmas, tokens=tokens):
    return remasking.remdm_sample(
      key, denoiser, tokens, where, alphas, sigmas, mask_id=V
    ).tokens

  most = remasking.sigma_max(alphas)
  assert np.max(run(most)) < V
  with pytest.raises(ValueError, match=r"in \[0, 0.5\] in step 1, was 0.51"):
    run(most.at[1].add(0.01))
  with pytest.raises(ValueError, match=r"in \[0, 0\] in step 0, was -0.1"):
    run(most.at[0].set(-0.1))
  with pytest.raises(AssertionError, match="need one shape: sigmas"):
    run(most[1:])
  for eta in (-0.1, 1.1):
    for schedule in (remasking.sigma_cap, remasking.sigma_rescale):
      with pytest.raises(ValueError, match=r"eta must be in \[0, 1\]"):
        schedule(alphas, eta=eta)
  # A traced sigma cannot be looked at.
  probs = jax.jit(remasking.remasking_probs)(alphas, most.at[0].set(0.5))
  assert np.isnan(probs.remask[0]) and np.isfinite(probs.remask[1])
  assert np.all(jax.jit(run)(most.at[0].set(0.5))[0] <= V)


# --- the law of a step -------------------------------------------------------


def test_step_log_prob():
  step = transitions(table(4), EVERYWHERE, 0.3, 0.2)
  helpers.assert_close(step.sum(-1), np.ones(len(STATES)))
  only = transitions(table(4), EVERYWHERE.at[1].set(False), 0.3, 0.2)
  moved = STATES[:, None, 1] != STATES[:, 1]
  assert not np.any(only[moved])
  z, after = jnp.array([V, 0, 2]), jnp.array([1, V, 2])

  def score(logits, reveal, remask):
    return remasking.step_log_prob(
      logits, z, after, EVERYWHERE, reveal, remask, mask_id=V
    )

  logits = table(4)[0]
  value = np.log(0.3 * 0.2 * 0.8) + jax.nn.log_softmax(logits)[0, 1]
  helpers.assert_close(score(logits, 0.3, 0.2), value)
  helpers.assert_gradient(score, logits, jnp.array(0.3), jnp.array(0.2))
  spoilt = logits.at[1:].set(jnp.nan)
  gradient = jax.grad(score)(spoilt, 0.3, 0.2)
  assert np.all(np.isfinite(gradient)) and not np.any(gradient[1:])
  helpers.assert_transforms(
    lambda x: score(x, 0.3, 0.2), jnp.stack([logits, -logits])
  )
  with jax.debug_nans(True):
    hard = logits.at[0, 1].set(-jnp.inf)
    assert score(hard, 0.3, 0.2) == -jnp.inf
    assert score(logits, 0.3, 0.0) == -jnp.inf
    stays = jax.grad(lambda p: score(logits, 0.3, p))(0.0)
  assert np.isfinite(stays)
  with pytest.raises(AssertionError, match="need one shape: z"):
    remasking.step_log_prob(logits, z, after[:2], EVERYWHERE, 0.3, mask_id=V)


# --- revision and parity -----------------------------------------------------


def bits(n):
  return jnp.asarray(sequences.enumerate_sequences(2, n))


@pytest.mark.parametrize("n", [3, 5, 8])
def test_parity_in_two_rounds(n):
  x = bits(n)
  blanks, where = jnp.full_like(x, 2), jnp.ones(x.shape, bool)
  first = revision.revision_log_prob(
    revision.parity_denoiser(blanks), blanks, x, where
  )
  shape = (len(x), *x.shape)
  before = jnp.broadcast_to(x[:, None], shape)
  second = revision.revision_log_prob(
    revision.parity_denoiser(before),
    before,
    jnp.broadcast_to(x, shape),
    jnp.ones(shape, bool),
  )
  law = jnp.exp(first) @ jnp.exp(second)
  even = np.sum(x, -1) % 2 == 0
  helpers.assert_close(law, np.where(even, 0.5 ** (n - 1), 0), rtol=1e-6)
  # Two to one, and each bit from two.
  assert np.all(np.sum(np.exp(second), 0)[even] == 2)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_limited_fan_in_misses_parity_by_half(n):
  """The last bit, from any n - 2 of the others: by every subset."""
  x, rng = bits(n), np.random.default_rng(n)
  even = np.sum(x, -1) % 2 == 0
  target = np.where(even, 0.5 ** (n - 1), 0)
  for seen in itertools.combinations(range(n - 1), n - 2):
    for sharp in (0.0, 1.0, 50.0):
      rule = sharp * rng.normal(size=(2 ** (n - 2), 2))
      row = np.asarray(x)[:, list(seen)] @ 2 ** np.arange(n - 2)
      last = jax.nn.softmax(jnp.asarray(rule)[row])
      law = 0.5 ** (n - 1) * np.asarray(last)[np.arange(len(x)), x[:, -1]]
      helpers.assert_close(np.abs(law - target).sum() / 2, 0.5)
  # Seeing them all is enough.
  xor = np.sum(x[:, :-1], -1) % 2
  helpers.assert_close(0.5 ** (n - 1) * (xor == x[:, -1]), target)


def test_parity_samples(key):
  found = jax.jit(lambda key: revision.parity_sample(key, (8000, 5)))(key)
  assert not np.any(np.sum(found.tokens, -1) % 2) and found.num_forwards == 2
  counts = np.bincount(found.tokens @ (2 ** np.arange(5)), minlength=32)
  error = np.sqrt(8000 / 16 * 15 / 16)
  assert np.max(np.abs(counts[counts > 0] - 500)) < 5 * error
  assert np.sum(counts > 0) == 16
  with pytest.raises(ValueError, match="shape must end in a number of bits"):
    revision.parity_sample(key, ())


def test_revision_steps(key):
  logits = table(5)[:2]
  tokens, where = jnp.array([[0, 1, 2], [2, 2, 2]]), jnp.array([[True] * 3] * 2)
  where = where.at[0, 1].set(False)
  spoilt = jnp.where(where[..., None], logits, jnp.nan)

  def run(seed, tokens, where):
    return revision.revision_step(
      jax.random.key(seed), lambda z: logits[0], tokens, where, mask_id=V
    )

  helpers.assert_transforms(run, jnp.arange(2), tokens, where)
  after = revision.revision_step(
    key, lambda z: spoilt, tokens, where, mask_id=V
  )
  assert after[0, 1] == 1 and np.max(after) < V
  log_p = np.asarray(jax.nn.log_softmax(logits))
  picked = np.take_along_axis(log_p, np.asarray(after)[..., None], -1)[..., 0]
  expected = np.where(where, picked, 0).sum(-1)

  def score(logits):
    return revision.revision_log_prob(logits, tokens, after, where)

  helpers.assert_close(score(spoilt), expected)
  helpers.assert_gradient(lambda x: jnp.sum(score(x)), logits)
  gradient = jax.grad(lambda x: jnp.sum(score(x)))(spoilt)
  assert np.all(np.isfinite(gradient))
  changed = revision.revision_log_prob(
    logits, tokens, after.at[0, 1].set(2), where
  )
  assert changed[0] == -jnp.inf and np.isfinite(changed[1])
  with pytest.raises(AssertionError, match="need one shape: tokens"):
    revision.revision_log_prob(logits, tokens, after[0], where)
  with pytest.raises(ValueError, match="mask_id must be outside the voc"):
    revision.revision_step(key, lambda z: logits, tokens, where, mask_id=2)


def test_remasking_costs_no_forward_by_itself(key):
  """Only reveals ask the denoiser, one sequence at a time."""
  alphas = alphas_of(16)
  sigmas = remasking.sigma_cap(alphas, eta=0.3)
  fair = lambda z: jnp.zeros((*z.shape, 2))

  @jax.jit
  @jax.vmap
  def run(seed):
    return remasking.remdm_sample(
      jax.random.key(seed),
      fair,
      jnp.zeros(2, int),
      jnp.ones(2, bool),
      alphas,
      sigmas,
      mask_id=2,
    )

  found = run(jnp.arange(500))
  helpers.assert_close(found.num_forwards, np.sum(found.num_revealed > 0, -1))
  # Positions move alone: a step reveals none with the square of one's chance.
  reveal = remasking.remasking_probs(alphas, sigmas).reveal
  comes = np.asarray((1 - alphas[1:]) * reveal)
  theory = np.sum(1 - (1 - comes) ** 2)
  error = np.std(found.num_forwards, ddof=1) / np.sqrt(500)
  assert abs(np.mean(found.num_forwards) - theory) < 5 * error

# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import diffusion
from jaxalign.exact import gaussian_chain, masked, sequences
from tests import helpers

V = L = 3
X = sequences.enumerate_sequences(V, L)
SUM = {"normalize": "sequence"}


def bounds(table):
  """Exact log-likelihoods, lower and upper bounds of all 27 sequences."""
  scores = masked.subset_log_probs(masked.table_denoiser(table), X, mask_id=V)
  return (
    masked.any_order_log_prob(scores),
    masked.any_order_elbo(scores),
    masked.masked_eubo(scores, power=1.5),
    scores,
  )


@pytest.fixture(scope="module")
def world():
  """A table, its law, centred rewards, and the Jacobians of the bounds."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.standard_normal((64, V, V)))
    rewards = jnp.asarray(rng.uniform(size=27))
    log_pi, elbo, upper, _ = jax.jit(bounds)(table)
    law = jnp.exp(log_pi)
    slopes = jax.jit(jax.jacrev(lambda t: bounds(t)[:3]))(table)
    return {
      "table": table,
      "law": law,
      "advantages": rewards - law @ rewards,
      "elbo": elbo,
      "upper": upper,
      "log_pi": log_pi,
      "slopes": [s.reshape(27, -1) for s in slopes],
    }


def pull(loss, elbo, slopes):
  """The gradient in the table of a loss of bounds."""
  return jax.grad(loss)(elbo) @ slopes


# --- exact -------------------------------------------------------------------


def test_at_the_old_parameters_gradients_are_those_of_the_bound(world):
  law, A, elbo = (world[k] for k in ("law", "advantages", "elbo"))
  _, of_elbo, of_upper = world["slopes"]
  expected = -(law * A) @ of_elbo
  for loss in (
    lambda e: law @ diffusion.fpo_loss(e, elbo, A, **SUM).loss,
    lambda e: law @ diffusion.spg_loss(e, e, A, omega=0.0, **SUM).loss,
    lambda e: 3 * law @ diffusion.espo_loss(e, elbo, A, length=3).loss,
    lambda e: (
      law
      @ diffusion.fpo_plus_plus_loss(e[:, None], elbo[:, None], A, **SUM).loss
    ),
  ):
    np.testing.assert_allclose(pull(loss, elbo, of_elbo), expected, atol=1e-14)
  found = jax.grad(
    lambda e, u: law @ diffusion.spg_loss(e, u, A, omega=0.5, **SUM).loss,
    (0, 1),
  )(elbo, world["upper"])
  low, high = -law * A, jnp.where(A < 0, -law * A / 2, 0)
  np.testing.assert_allclose(found[0], low - high, atol=1e-15)
  np.testing.assert_allclose(found[1], high, atol=1e-15)
  np.testing.assert_allclose(
    found[0] @ of_elbo + found[1] @ of_upper,
    (low - high) @ of_elbo + high @ of_upper,
  )


def test_the_regulariser_shifts_advantages(world):
  """A constant in the advantages is neutral for a likelihood, not a bound."""
  law, A, elbo = (world[k] for k in ("law", "advantages", "elbo"))
  of_log_pi, of_elbo, _ = world["slopes"]

  def loss(e, A, beta):
    start = diffusion.fpo_loss(e, elbo, A, **SUM)
    return law @ diffusion.with_dipod(start, e, beta=beta, **SUM).loss

  for beta in (0.05, 1.0):
    regularised = pull(lambda e, b=beta: loss(e, A, b), elbo, of_elbo)
    shifted = pull(lambda e, b=beta: loss(e, A + b, 0.0), elbo, of_elbo)
    np.testing.assert_allclose(regularised, shifted, atol=1e-15)
  assert np.abs(law @ of_elbo).max() > 0.01
  np.testing.assert_allclose(law @ of_log_pi, 0, atol=1e-15)
  # On its own samples it closes the gap and does nothing else.
  alone = pull(
    lambda e: law @ diffusion.dipod_regularizer(e, beta=1.0, **SUM),
    elbo,
    of_elbo,
  )
  np.testing.assert_allclose(alone, law @ (of_log_pi - of_elbo), atol=1e-15)


def test_reference_penalties(world):
  """For a likelihood k2 has the gradient of the KL, k1 none; for a bound..."""
  law, log_pi, elbo = (world[k] for k in ("law", "log_pi", "elbo"))
  of_log_pi, of_elbo, _ = world["slopes"]
  reference = jax.nn.log_softmax(jnp.arange(27) % 5 / 3)
  zero = diffusion.Surrogate(*jnp.zeros((3, 27)))

  def penalty(x, kind, **options):
    return diffusion.with_reference(
      zero,
      x,
      reference,
      reference_penalty=kind,
      coefficient=0.5,
      **(SUM | options),
    ).loss

  def gradient(x, slopes, kind):
    return pull(lambda y: law @ penalty(y, kind), x, slopes)

  of_kl = 0.5 * (law * (log_pi - reference)) @ of_log_pi
  np.testing.assert_allclose(
    gradient(log_pi, of_log_pi, "k2"), of_kl, atol=1e-15
  )
  np.testing.assert_allclose(gradient(log_pi, of_log_pi, "k1"), 0, atol=1e-15)
  opens = gradient(elbo, of_elbo, "k1")
  np.testing.assert_allclose(opens, 0.5 * law @ of_elbo, atol=1e-15)
  assert np.abs(opens).max() > 0.01
  helpers.assert_close(penalty(elbo, "none"), zero.loss)
  halved = penalty(elbo, "k2", normalize="token", length=jnp.full(27, 2))
  helpers.assert_close(2 * halved, penalty(elbo, "k2"))


def test_ratios_of_means_and_means_of_ratios():
  """Unit noise, four draws: E exp of the mean 1.13, mean of exp 1.65."""
  nodes, weights = np.polynomial.hermite_e.hermegauss(12)
  weights /= weights.sum()
  draws = np.array(list(itertools.product(nodes, repeat=4)))
  weight = np.prod(list(itertools.product(weights, repeat=4)), -1)
  ones = jnp.ones(len(draws))
  wide = {"clip": 1e6} | SUM
  together = diffusion.fpo_loss(
    jnp.asarray(draws.mean(-1)), 0 * ones, ones, **wide
  )
  alone = diffusion.fpo_plus_plus_loss(
    jnp.asarray(draws), jnp.zeros_like(draws), ones, **wide
  )
  np.testing.assert_allclose(-weight @ together.loss, math.exp(1 / 8))
  np.testing.assert_allclose(-weight @ alone.loss, math.exp(1 / 2))


def test_ratios_are_clipped_where_that_is_pessimistic():
  A, change = np.array([2.0, -2.0]), np.log([0.7, 0.9, 1.0, 1.1, 1.4])
  A, change = (np.ravel(x) for x in np.meshgrid(A, change, indexing="ij"))
  ratio = np.exp(change)
  expected = -np.minimum(ratio * A, np.clip(ratio, 0.8, 1.2) * A)
  loss, weight, clipped = diffusion.fpo_loss(
    change, np.zeros(10), A, clip=0.2, **SUM
  )
  helpers.assert_close(loss, expected)
  helpers.assert_close(weight, np.ones(10))
  assert clipped.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
  slope = jax.grad(
    lambda x: jnp.sum(diffusion.fpo_loss(x, 0 * x, A, clip=0.2, **SUM).loss)
  )(jnp.asarray(change))
  helpers.assert_close(slope, np.where(clipped, 0, -A * ratio))


def test_fpo_plus_plus_has_its_minimum_inside_the_trust_region():
  def loss(change, A, **options):
    draws = jnp.reshape(change, (1,))
    old, A = jnp.zeros(1), jnp.asarray(A)
    return diffusion.fpo_plus_plus_loss(draws, old, A, **(SUM | options)).loss

  slope = jax.grad(loss)
  helpers.assert_close(slope(jnp.log(0.95), -1.0), 0.0, atol=1e-14)
  helpers.assert_close(slope(0.0, -1.0), 1.0)
  assert slope(jnp.log(0.9), -1.0) < 0 < slope(jnp.log(1.01), -1.0)
  # Cut with its gradient: the value is that at the limit, the slope goes on.
  cut = jax.value_and_grad(loss)(jnp.array(4.0), -1.0, max_log_ratio=3.0)
  helpers.assert_close(
    cut, jax.value_and_grad(loss)(jnp.array(3.0), -1.0), rtol=1e-14
  )
  # What is worse than the limit is left alone by a negative advantage only.
  assert slope(jnp.array(-30.0), -1.0) == 0
  assert slope(jnp.array(-30.0), 1.0) < 0


def test_weighted_regressions_and_groups():
  elbo, r = np.array([-3.0, -2.0, -4.0]), np.array([0.1, -0.3, 0.9])
  loss, weight, _ = diffusion.rwr_loss(elbo, r, **SUM)
  helpers.assert_close(loss, -np.minimum(np.exp(10 * r), 100) * elbo)
  helpers.assert_close(weight, np.ones(3))
  helpers.assert_close(diffusion.awr_loss(elbo, r, **SUM).loss, loss)
  equal = diffusion.rwr_loss(elbo, np.zeros(3), **SUM).loss
  helpers.assert_close(equal, -elbo)  # plain training of the bound
  up, down = (np.exp(s * r) / np.exp(s * r).sum() for s in (1, -1))
  group = diffusion.wd1_loss(elbo, r, **SUM)
  helpers.assert_close(diffusion.batch_loss(group), (down - up) @ elbo)
  none = diffusion.wd1_loss(elbo - np.inf, np.full(3, 0.2), **SUM)
  helpers.assert_close(none.loss, np.zeros(3))


def test_normalisation_and_weights():
  elbo, old = np.array([-6.0, -8.0, -1.0]), np.array([-6.5, -7.0, -1.0])
  A, length = np.array([1.0, -1.0, 2.0]), np.array([2, 4, 0])
  token = {"normalize": "token", "length": length}
  parts = np.array([2.0, 4.0])
  spg = diffusion.spg_loss(elbo, old, A, omega=1.0, **token)
  helpers.assert_close(spg.loss, [3.0, -1.75, 0.0])
  helpers.assert_close(spg.weight, [2.0, 4.0, 0.0])
  helpers.assert_close(diffusion.batch_loss(spg), (3.0 * 2 - 1.75 * 4) / 6)
  fpo = diffusion.fpo_loss(elbo, old, A, clip=9.0, **token)
  ratio = np.exp((elbo - old)[:2] / parts)
  helpers.assert_close(fpo.loss, [-ratio[0], ratio[1], 0.0])
  helpers.assert_close(fpo.weight, [1.0, 1.0, 0.0])
  helpers.assert_close(
    diffusion.espo_loss(elbo, old, A, length=length, clip=9.0), fpo
  )
  steps = np.stack([elbo, old], -1)
  summed = diffusion.ddpo_loss(steps, 0 * steps, A, clip=9.0, **SUM)
  means = diffusion.ddpo_loss(
    steps * 2, 0 * steps, A, clip=9.0, normalize="token", length=2
  )
  helpers.assert_close(summed, means)
  empty = diffusion.batch_loss(diffusion.Surrogate(*np.zeros((3, 2))))
  assert empty == 0


# --- tokens ------------------------------------------------------------------


def test_one_step_scores_are_the_bound_in_one_step(world):
  table = world["table"]
  denoiser = masked.table_denoiser(table)
  where = jnp.ones(X.shape, bool)
  scores = diffusion.one_step_log_probs(denoiser, X, mask_id=V, where=where)
  subsets = bounds(table)[3]
  expected = masked.t_step_elbo(subsets, jnp.array([1.0, 0.0]))
  helpers.assert_close(jnp.sum(scores, -1), expected)
  # A prompt is not scored, and seen unless the denoiser hides it.
  where = where.at[:, 0].set(False)
  shown = diffusion.one_step_log_probs(denoiser, X, mask_id=V, where=where)
  hidden = diffusion.one_step_log_probs(
    lambda z: denoiser(z.at[:, 0].set(V)), X, mask_id=V, where=where
  )
  assert not np.any(shown[:, 0])
  helpers.assert_close(hidden[:, 1:], scores[:, 1:])
  assert np.abs(shown[:, 1:] - scores[:, 1:]).max() > 0.1


def test_coupled_scores_mix_the_one_step_bound_with_the_true_one():
  """At a fixed t their mean is (full + E m + E c) / 2, over all 8 masks."""
  rng = np.random.default_rng(0)
  t, full = 0.3, rng.standard_normal(L)
  of_mask = rng.standard_normal((2**L, L))  # score of l under each mask
  masks = np.array(list(itertools.product([False, True], repeat=L)))
  prob = np.prod(np.where(masks, t, 1 - t), -1)
  complement = (~masks) @ 2 ** np.arange(L)[::-1]
  coupled = np.where(masks, of_mask, of_mask[complement])
  scores = diffusion.coupled_log_probs(
    np.broadcast_to(full, masks.shape), coupled, masks, np.full(8, t)
  )
  seen = np.where(masks, of_mask, 0)
  of_m = prob @ seen / t
  of_c = (prob @ np.where(~masks, of_mask[complement], 0)) / (1 - t)
  helpers.assert_close(prob @ scores, (full + of_m + of_c) / 2)


def test_token_ratios():
  rng = np.random.default_rng(0)
  new, old, ref = rng.standard_normal((3, 2, 4)) / 4
  A, where = np.array([1.0, -2.0]), np.array([[1, 1, 1, 0], [1, 0, 0, 0]]) > 0
  ratio = np.exp(new - old)
  a = A[:, None]
  r = ref - new
  each = -np.minimum(ratio * a, np.clip(ratio, 0.9, 1.1) * a)
  each += 0.04 * (np.exp(r) - 1 - r)
  sums = np.where(where, each, 0).sum(-1)
  options = {"where": where, "clip": 0.1, "reference": ref}
  padded = [np.where(where, x, np.nan) for x in (new, old)]
  found = diffusion.diffu_grpo_loss(*padded, A, normalize="token", **options)
  helpers.assert_close(found.loss, sums / [3, 1])
  helpers.assert_close(found.weight, [3.0, 1.0])
  helpers.assert_close(diffusion.batch_loss(found), sums.sum() / 4)
  whole = diffusion.coupled_grpo_loss(*padded, A, **SUM, **options)
  helpers.assert_close(whole.loss, sums)
  slope = jax.grad(
    lambda x: jnp.sum(
      diffusion.diffu_grpo_loss(x, padded[1], A, **SUM, **options).loss
    )
  )(jnp.asarray(padded[0]))
  assert np.all(np.isfinite(slope)) and not np.any(slope[~where])
  nothing = diffusion.diffu_grpo_loss(
    new, old, A, where=where & False, normalize="token"
  )
  helpers.assert_close(nothing.loss, np.zeros(2))
  helpers.assert_close(nothing.weight, np.zeros(2))


# --- steps -------------------------------------------------------------------


def test_steps_give_the_reward_gradient_where_the_bound_does_not():
  """A loose chain of two steps, by quadrature over all three variables."""
  chain = gaussian_chain.GaussianChain(
    jnp.array([0.3, 0.8]), jnp.array([0.5, -0.4]), jnp.array([0.6, 0.7])
  )
  nodes, weights = np.polynomial.hermite_e.hermegauss(40)
  weights = weights / weights.sum()
  noise = jnp.asarray(np.stack(np.meshgrid(*[nodes] * 3, indexing="ij"), -1))
  weight = jnp.einsum("i,j,k->ijk", *[weights] * 3)
  a, b, s = chain
  x2 = noise[..., 0]
  x1 = a[1] * x2 + b[1] + s[1] * noise[..., 1]
  x0 = a[0] * x1 + b[0] + s[0] * noise[..., 2]

  def reward(x):
    return jnp.exp(-(((x - 2) / 0.5) ** 2) / 2)

  def steps(chain):
    a, b, s = chain
    return jnp.stack(
      [
        jax.scipy.stats.norm.logpdf(y, a[i] * x + b[i], s[i])
        for i, x, y in ((1, x2, x1), (0, x1, x0))
      ],
      -1,
    )

  A = reward(x0) - jnp.sum(weight * reward(x0))
  old = steps(chain)

  def expected(chain):
    # The reward is a Gaussian's kernel: its expectation is closed.
    mean, var = gaussian_chain.chain_marginal(chain)
    spread = 0.25 + var
    return 0.5 / jnp.sqrt(spread) * jnp.exp(-((mean - 2) ** 2) / (2 * spread))

  true = jax.grad(expected)(chain)
  for loss in (
    lambda new: diffusion.ddpo_loss(new, old, A, **SUM).loss,
    lambda new: (
      diffusion.dppo_loss(
        new, old, A, clip=np.full(2, 0.1), discount=1.0, **SUM
      ).loss
    ),
  ):
    found = jax.jit(jax.grad(lambda c, f=loss: -jnp.sum(weight * f(steps(c)))))
    helpers.assert_close(found(chain), true, rtol=1e-7, atol=1e-9)
  bar = gaussian_chain.cosine_alpha_bar(2)
  proxy = jax.grad(
    lambda c: jnp.sum(
      weight
      * A
      * gaussian_chain.chain_elbo(c, x0.ravel(), bar).reshape(A.shape)
    )
  )(chain)
  assert diffusion.gradient_cosine(proxy, true) < 0.95


def test_dppo_weighs_and_widens_late_steps():
  clip = diffusion.dppo_clip_range(4, least=0.01, most=0.1)
  assert clip[0] == 0.01 and math.isclose(clip[-1], 0.1)
  assert np.all(np.diff(np.diff(clip)) > 0)
  assert diffusion.dppo_clip_range(1, least=0.01, most=0.1).tolist() == [0.01]
  new = np.full((1, 4), 0.5)
  loss, _, clipped = diffusion.dppo_loss(
    new, 0 * new, np.ones(1), clip=clip, discount=0.5, **SUM
  )
  helpers.assert_close(loss, [-(1 + clip) @ [1 / 8, 1 / 4, 1 / 2, 1]])
  assert clipped == 1
  cut = diffusion.dppo_loss(
    new + 9, new + 7, np.ones(1), clip=clip, log_prob_range=(-5, 2), **SUM
  )
  helpers.assert_close(cut.loss, [-(0.99 ** np.arange(4)).sum()])


def test_ddpo_clips_advantages():
  steps = np.zeros((2, 3))
  found = diffusion.ddpo_loss(steps, steps, np.array([9.0, -7.0]), **SUM)
  helpers.assert_close(found.loss, [-15.0, 15.0])


# --- every surrogate ---------------------------------------------------------


def every_surrogate(bound, old, tokens, old_tokens, advantages):
  """All of them on a batch `[4]` of bounds and `[4, 3]` of tokens."""
  where = jnp.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]], bool)
  length = jnp.sum(where, -1)
  clip = diffusion.dppo_clip_range(3, least=0.1, most=0.3)
  found = []
  for how in ("sequence", "token"):
    how = {"normalize": how, "length": length}
    fpo = diffusion.fpo_loss(bound, old, advantages, clip=0.3, **how)
    ref = diffusion.with_reference(
      fpo, bound, old, reference_penalty="k2", coefficient=0.1, **how
    )
    whole = (bound, old, advantages)
    parts = (tokens, old_tokens, advantages)
    steps = how | {"clip": clip}
    where_too = {"where": where, "normalize": how["normalize"]}
    found += [
      diffusion.with_dipod(ref, bound, beta=0.05, **how),
      diffusion.espo_loss(*whole, **how),
      diffusion.fpo_plus_plus_loss(*parts, **how),
      diffusion.spg_loss(*whole, **how),
      diffusion.wd1_loss(bound, advantages, **how),
      diffusion.rwr_loss(bound, advantages, **how),
      diffusion.awr_loss(old, advantages, inverse_temperature=1.0, **how),
      diffusion.diffu_grpo_loss(*parts, reference=old_tokens, **where_too),
      diffusion.coupled_grpo_loss(*parts, **where_too),
      diffusion.ddpo_loss(*parts, clip=0.2, **how),
      diffusion.dppo_loss(*parts, log_prob_range=(-5.0, 2.0), **steps),
    ]
  return found


@pytest.fixture
def batch():
  rng = np.random.default_rng(1)
  shapes = [(4,), (4,), (4, 3), (4, 3), (4,)]
  return [jnp.asarray(rng.standard_normal((2, *s)) / 3) for s in shapes]


def test_transforms(batch):
  helpers.assert_transforms(every_surrogate, *batch)


def test_gradients(batch):
  bound, old, tokens, old_tokens, advantages = (x[0] for x in batch)

  @jax.jit
  def loss(bound, tokens):
    found = every_surrogate(bound, old, tokens, old_tokens, advantages)
    return sum((i + 1) * jnp.sum(s.loss) for i, s in enumerate(found))

  helpers.assert_gradient(loss, bound, tokens)


def test_old_values_and_advantages_are_constants(batch):
  bound, old, tokens, old_tokens, advantages = (x[0] for x in batch)

  def loss(old, old_tokens, advantages):
    found = every_surrogate(bound, old, tokens, old_tokens, advantages)
    # But for spg_loss and awr_loss, to which `old` is a bound.
    kept = [s for i, s in enumerate(found) if i % 11 not in (3, 6)]
    return sum(jnp.sum(s.loss) for s in kept)

  slopes = jax.grad(loss, (0, 1, 2))(old, old_tokens, advantages)
  assert not any(np.any(s) for s in slopes)


def test_what_counts_nothing_is_exactly_0(batch):
  """No advantage, no tokens: neither value nor gradient, even from -inf."""
  with jax.debug_nans(True):
    zero, low = jnp.zeros(2), jnp.array([-jnp.inf, -jnp.inf])

    def loss(e):
      fpo = diffusion.fpo_loss(e, zero, zero, **SUM)
      spg = diffusion.spg_loss(e, e, zero, **SUM)
      return jnp.sum(fpo.loss + spg.loss)

    assert loss(low) == 0
    assert not np.any(jax.grad(loss)(low))
    kept = diffusion.with_dipod(
      diffusion.fpo_loss(low, zero, zero, **SUM), low, beta=0.0, **SUM
    )
    assert not np.any(kept.loss)


def test_bad_input():
  e, A = jnp.zeros(3), jnp.ones(3)
  parts = jnp.zeros((3, 2))
  with pytest.raises(ValueError, match="unknown normalize 'mean': choose one"):
    diffusion.fpo_loss(e, e, A, normalize="mean")
  with pytest.raises(ValueError, match="'token' needs length"):
    diffusion.fpo_loss(e, e, A, normalize="token")
  with pytest.raises(TypeError, match="normalize"):
    diffusion.fpo_loss(e, e, A)
  with pytest.raises(ValueError, match="advantages must be"):
    diffusion.fpo_loss(e, e, jnp.ones(2), **SUM)
  with pytest.raises(AssertionError, match="elbo .*old_elbo"):
    diffusion.fpo_loss(e, jnp.zeros(2), A, **SUM)
  with pytest.raises(AssertionError, match="need floats"):
    diffusion.fpo_loss(e.astype(int), e, A, **SUM)
  with pytest.raises(ValueError, match="clip must be above 0"):
    diffusion.fpo_loss(e, e, A, clip=0.0, **SUM)
  with pytest.raises(ValueError, match="omega must be in"):
    diffusion.spg_loss(e, e, A, omega=1.5, **SUM)
  with pytest.raises(ValueError, match="were a scalar"):
    diffusion.wd1_loss(jnp.zeros(()), jnp.zeros(()), **SUM)
  with pytest.raises(ValueError, match="max_weight must be above 0"):
    diffusion.rwr_loss(e, A, max_weight=0.0, **SUM)
  with pytest.raises(ValueError, match="advantages must be"):
    diffusion.ddpo_loss(parts, parts, jnp.ones((3, 2)), **SUM)
  with pytest.raises(ValueError, match=r"clip must be \(2,\)"):
    diffusion.dppo_loss(parts, parts, A, clip=np.ones(3), **SUM)
  with pytest.raises(ValueError, match="discount must be in"):
    diffusion.dppo_loss(parts, parts, A, clip=np.ones(2), discount=0.0, **SUM)
  with pytest.raises(ValueError, match="most must be at least"):
    diffusion.dppo_clip_range(2, least=0.1, most=0.01)
  with pytest.raises(ValueError, match="unknown reference_penalty 'k3'"):
    diffusion.with_reference(
      diffusion.fpo_loss(e, e, A, **SUM),
      e,
      e,
      reference_penalty="k3",
      coefficient=0.1,
      **SUM,
    )
  with pytest.raises(ValueError, match="coefficient must be above 0"):
    diffusion.diffu_grpo_loss(
      parts, parts, A, where=parts == 0, coefficient=-1.0, **SUM
    )
  with pytest.raises(ValueError, match="times must be"):
    diffusion.coupled_log_probs(parts, parts, parts == 0, jnp.ones(2))
  with pytest.raises(ValueError, match="must not emit the mask"):
    diffusion.one_step_log_probs(
      lambda z: jnp.zeros((*z.shape, 4)),
      jnp.zeros(3, int),
      mask_id=3,
      where=jnp.ones(3, bool),
    )
  assert set(diffusion.REFERENCE_PENALTIES) == {"none", "k1", "k2"}

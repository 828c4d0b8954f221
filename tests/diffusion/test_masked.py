# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import checks
from jaxalign.diffusion import mask_draws, masked, schedules
from jaxalign.exact import masked as exact
from tests import helpers

V = 2


def table(seed=0, length=3, vocab_size=V):
  shape = ((vocab_size + 1) ** length, length, vocab_size)
  return jnp.asarray(2 * np.random.default_rng(seed).normal(size=shape))


@jax.jit
def exact_log_probs(logits, x):
  return exact.subset_log_probs(
    exact.table_denoiser(logits), x, mask_id=logits.shape[-1]
  )


def all_draws(estimator, length):
  """Every draw of one estimator through its uniforms, with its probability.

  For counts, all times that give another count and all orders of the noise. For
  independent masks, the nodes of a rule that is exact for polynomials in t (1/t
  times the probability of a mask is one), and all sets.
  """
  if estimator in ("fixed_count", "coupled"):
    counts = length + (estimator == "coupled")
    orders = np.array(list(itertools.permutations(range(length)))) / length
    times = np.repeat((np.arange(counts) + 0.5) / counts, len(orders))
    noise = np.tile(orders, (counts, 1))
    return times, noise, np.full(len(times), 1 / len(times))
  nodes, weights = np.polynomial.legendre.leggauss(length + 1)
  sets = exact.visible_sets(length)
  times = np.repeat((nodes + 1) / 2, len(sets))
  noise = np.where(np.tile(sets, (len(nodes), 1)), 0.0, 1 - 1e-9)
  size = np.tile(sets.sum(-1), len(nodes))
  chance = times**size * (1 - times) ** (length - size)
  return times, noise, np.repeat(weights / 2, len(sets)) * chance


def value_of_each(logits, x, draws, normalize="sequence"):
  log_probs = masked.masked_log_probs(
    exact.table_denoiser(logits), x, draws, mask_id=logits.shape[-1]
  )
  return masked.elbo_from_log_probs(log_probs, draws, normalize=normalize).draws


@pytest.mark.parametrize("blocks", [((0, 1), (2, 3)), ((0,), (1,), (2,), (3,))])
def test_blocks_are_filled_from_the_left(blocks):
  """The mean over all draws is that over orders that respect the blocks."""
  length, num = 4, len(blocks)
  orders = list(itertools.permutations(range(length)))
  times = np.repeat((np.arange(length) + 0.5) / length, len(orders))
  noise = np.tile(np.array(orders) / length, (length, 1))
  where, x = jnp.ones(length, bool), jnp.array([1, 0, 0, 1])
  draws = mask_draws.block_masks_from_noise(
    jnp.asarray(times), jnp.asarray(noise), where, num_blocks=num
  )
  block = np.repeat(range(num), length // num)
  valid = [np.all(np.diff(block[list(order)]) >= 0) for order in orders]
  logits = table(length=length)
  expected = exact.order_log_probs(exact_log_probs(logits, x))[np.array(valid)]
  found = value_of_each(logits, x, draws)
  helpers.assert_close(found.mean(), expected.mean(), rtol=1e-12)
  # Tokens that are not to be generated belong to no block, and one block is
  # a fixed count.
  part = where.at[0].set(False)
  few = mask_draws.block_masks_from_noise(
    jnp.asarray(times), jnp.asarray(noise), part, num_blocks=1
  )
  count = mask_draws.masks_from_noise(
    jnp.asarray(times), jnp.asarray(noise), part, estimator="fixed_count"
  )
  helpers.assert_close(few[:3], count[:3])
  np.testing.assert_array_equal(few.hidden, count.masked)


def test_block_masks_transform_and_refuse(key):
  where = jnp.array([[1, 1, 1, 0, 1], [1, 0, 0, 1, 1]]) > 0
  times, noise = jnp.full((2, 3), 0.6), jax.random.uniform(key, (2, 3, 5))
  helpers.assert_transforms(
    lambda t, n, w: mask_draws.block_masks_from_noise(t, n, w, num_blocks=2)[1],
    times,
    noise,
    where,
  )
  drawn = mask_draws.draw_block_masks(key, where, num_samples=3, num_blocks=9)
  assert not np.any(drawn.hidden & ~where[:, None, None])
  with pytest.raises(ValueError, match="num_blocks must be at least 1, was 0"):
    mask_draws.draw_block_masks(key, where, num_samples=3, num_blocks=0)


@pytest.mark.parametrize("length", [3, 4])
@pytest.mark.parametrize("estimator", mask_draws.ESTIMATORS)
def test_estimators_are_unbiased_with_their_gradients(estimator, length):
  times, noise, chance = all_draws(estimator, length)
  helpers.assert_close(chance.sum(), 1.0)
  x = jnp.asarray([1, 0, 0, 1][:length])
  draws = mask_draws.masks_from_noise(
    jnp.asarray(times),
    jnp.asarray(noise),
    jnp.ones(length, bool),
    estimator=estimator,
  )

  def mean(logits):
    return jnp.sum(chance * value_of_each(logits, x, draws))

  def bound(logits):
    return exact.any_order_elbo(exact_log_probs(logits, x))

  logits = table(length=length)
  found = jax.jit(jax.value_and_grad(mean))(logits)
  expected = jax.jit(jax.value_and_grad(bound))(logits)
  helpers.assert_close(found, expected, rtol=1e-11)


def alphas_of(steps, alpha=schedules.linear_alpha):
  return schedules.alpha_grid(alpha, num_steps=steps)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_t_steps_are_unbiased_with_their_gradients(steps):
  length, x = 3, jnp.asarray([1, 0, 1])
  alphas = alphas_of(steps, schedules.polynomial_alpha)
  sets = exact.visible_sets(length)
  step = np.repeat(np.arange(steps), len(sets))
  share = 1 - np.asarray(alphas)[1:][step]
  size = np.tile(sets.sum(-1), steps)
  chance = share**size * (1 - share) ** (length - size) / steps
  noise = np.where(np.tile(sets, (steps, 1)), 0.0, 1 - 1e-9)
  possible = chance > 0  # with all masked, no noise is above the share
  draws = mask_draws.t_step_masks_from_noise(
    jnp.asarray((step + 0.5) / steps)[possible],
    jnp.asarray(noise)[possible],
    jnp.ones(length, bool),
    alphas,
  )

  def mean(logits):
    return jnp.sum(chance[possible] * value_of_each(logits, x, draws))

  def bound(logits):
    return exact.t_step_elbo(exact_log_probs(logits, x), alphas)

  found = jax.jit(jax.value_and_grad(mean))(table())
  expected = jax.jit(jax.value_and_grad(bound))(table())
  helpers.assert_close(found, expected, rtol=1e-11)


def test_variance_at_eight_tokens():
  """Exact second moments, by sets: what counts masks has less variance."""
  length = 8
  rng = np.random.default_rng(0)
  visible = exact.visible_sets(length)
  logits = jnp.asarray(2 * rng.normal(size=(len(visible), length, 3)))
  hidden = np.where(visible, 0, jax.nn.log_softmax(logits)[..., 0])
  bound = float(exact.any_order_elbo(jnp.asarray(hidden)))
  sums, size = hidden.sum(-1), length - visible.sum(-1)
  by_count = np.array([math.comb(length, k) for k in range(length + 1)])[size]

  def std(value, chance):
    helpers.assert_close(np.sum(chance * value), bound)
    return np.sqrt(np.sum(chance * value**2) - bound**2)

  fixed = length / np.maximum(size, 1) * sums
  fixed_std = std(fixed, np.where(size, 1 / (length * by_count), 0))
  term = (length + 1) / np.maximum(size, 1) * sums
  coupled = (term + term[::-1]) / 2  # the complement's number counts down
  coupled_std = std(coupled, 1 / ((length + 1) * by_count))
  # The same numbers through the library, from draws.
  where = jnp.ones(length, bool)
  for estimator, expected in (("fixed_count", fixed), ("coupled", coupled)):
    draws = mask_draws.draw_masks(
      jax.random.key(1), where, num_samples=64, estimator=estimator
    )
    row = np.sum(~np.asarray(draws.masked) << np.arange(length), -1)
    log_probs = jnp.asarray(hidden)[row]
    found = masked.elbo_from_log_probs(log_probs, draws)
    helpers.assert_close(found.draws, expected[row[:, 0]])
    helpers.assert_close(found.std_err, np.std(expected[row[:, 0]], ddof=1) / 8)

  def bernoulli_var(smallest):
    # Over t in (e, 1], by s = log t: (1/t^2) dt = (1/t) ds.
    nodes, weights = np.polynomial.legendre.leggauss(200)
    s = (nodes + 1) / 2 * -math.log(smallest) + math.log(smallest)
    t = np.exp(s)[:, None]
    chance = t**size * (1 - t) ** (length - size)
    moment = np.sum(chance * (sums / t) ** 2, -1) * t[:, 0]
    return weights @ moment / 2 * -math.log(smallest) - bound**2

  # Bernoulli has no variance: it grows with log 1/e for ever, at the rate of
  # single masks. Any table of its deviations is of a sample.
  rate = np.sum(sums[size == 1] ** 2)
  growth = bernoulli_var(1e-9) - bernoulli_var(1e-6)
  helpers.assert_close(growth / math.log(1e3), rate, rtol=1e-4)
  assert fixed_std**2 < bernoulli_var(1e-3)
  assert coupled_std**2 < bernoulli_var(1e-3)


@pytest.mark.parametrize("method", mask_draws.TIME_METHODS)
def test_sample_times(key, method):
  t = np.asarray(mask_draws.sample_times(key, 4096, method))
  assert np.all((t > 0) & (t <= 1))
  # Five standard errors of independent draws.
  assert abs(t.mean() - 0.5) < 5 / math.sqrt(12 * 4096)
  assert mask_draws.sample_times(key, 1, method).shape == (1,)
  if method != "iid":
    # One draw in each part: each count of masks comes up once.
    assert sorted(np.ceil(t * 4096)) == list(range(1, 4097))


def test_even_times_have_less_variance():
  """With as many times as tokens each count has one draw."""
  length, x = 4, jnp.asarray([1, 0, 0, 1])
  times, noise, _ = all_draws("fixed_count", length)
  draws = mask_draws.masks_from_noise(
    jnp.asarray(times),
    jnp.asarray(noise),
    jnp.ones(length, bool),
    estimator="fixed_count",
  )
  values = np.asarray(value_of_each(table(length=length), x, draws))
  by_count = values.reshape(length, -1)
  even, iid = by_count.var(-1).mean(), values.var()
  helpers.assert_close(iid - even, by_count.mean(-1).var())
  assert even <= iid


def test_eubo_tends_to_its_limit_and_is_biased():
  length, x, power = 3, jnp.asarray([1, 0, 1]), 1.5
  logits = table()
  limit = exact.masked_eubo(exact_log_probs(logits, x), power=power)
  denoiser = exact.table_denoiser(logits)
  where = jnp.ones(length, bool)
  for estimator in ("fixed_count", "coupled"):
    # All draws once: the mean inside the logarithm is the expectation.
    times, noise, _ = all_draws(estimator, length)
    draws = mask_draws.masks_from_noise(
      jnp.asarray(times), jnp.asarray(noise), where, estimator=estimator
    )
    log_probs = masked.masked_log_probs(denoiser, x, draws, mask_id=V)
    found = masked.eubo_from_log_probs(log_probs, draws, power=power)
    helpers.assert_close(found, limit)
    token = masked.eubo_from_log_probs(
      log_probs, draws, power=power, normalize="token"
    )
    helpers.assert_close(token, limit / length)
  # The mean of estimates from one draw each is something else.
  times, noise, chance = all_draws("fixed_count", length)
  draws = jax.vmap(
    lambda t, u: mask_draws.masks_from_noise(
      t, u, where, estimator="fixed_count"
    )
  )(jnp.asarray(times)[:, None], jnp.asarray(noise)[:, None])
  log_probs = jax.vmap(
    lambda d: masked.masked_log_probs(denoiser, x, d, mask_id=V)
  )(draws)
  single = masked.eubo_from_log_probs(log_probs, draws, power=power)
  assert abs(jnp.sum(chance * single) - limit) > 0.05


def estimates(key, logits, tokens, where, normalize="sequence"):
  options = {"mask_id": V, "where": where, "num_samples": 4}
  options["normalize"] = normalize
  denoiser = exact.table_denoiser(logits)
  each = [
    masked.masked_elbo(key, denoiser, tokens, estimator=e, **options)
    for e in mask_draws.ESTIMATORS
  ]
  alphas = jnp.asarray([1.0, 0.5, 0.0])
  each.append(
    masked.masked_elbo_t_step(key, denoiser, tokens, alphas, **options)
  )
  eubo = masked.masked_eubo_biased(key, denoiser, tokens, power=1.5, **options)
  return jnp.stack([*(e.value for e in each), eubo])


compiled_estimates = jax.jit(estimates, static_argnames="normalize")

X = jnp.asarray([[1, 0, 1], [0, 0, 1], [1, 1, 1]])
WHERE = jnp.asarray([[True] * 3, [False, True, True], [False] * 3])


def test_masks_depend_on_the_key_only(key):
  draws = mask_draws.draw_masks(key, WHERE, num_samples=5)
  for logits in (table(0), table(1)):
    denoiser = exact.table_denoiser(logits)
    log_probs = masked.masked_log_probs(denoiser, X, draws, mask_id=V)
    helpers.assert_close(
      masked.elbo_from_log_probs(log_probs, draws),
      masked.masked_elbo(
        key, denoiser, X, mask_id=V, where=WHERE, num_samples=5
      ),
    )
  # So an update that changes nothing has a ratio of exactly 1.
  args = key, table(), X, WHERE
  assert np.all(compiled_estimates(*args) - compiled_estimates(*args) == 0)


def test_prompts_are_seen_and_not_scored(key):
  draws = mask_draws.draw_masks(key, WHERE, num_samples=64, estimator="coupled")
  assert not np.any(draws.masked & ~WHERE[:, None, None])
  helpers.assert_close(draws.length, [3, 2, 0])
  sums = compiled_estimates(key, table(), X, WHERE)
  means = compiled_estimates(key, table(), X, WHERE, "token")
  assert np.all(sums[:, 2] == 0) and np.all(means[:, 2] == 0)
  helpers.assert_close(sums[:, :2], means[:, :2] * np.array([3, 2]))
  # Counts are of the tokens that may be masked, each equally likely.
  draws = mask_draws.draw_masks(key, WHERE[1], num_samples=20000)
  masks = np.asarray(draws.masked)[:, 0, 1:] @ [1, 2]
  shares = np.bincount(masks, minlength=4) / 20000
  # Five standard errors of a frequency of one half.
  helpers.assert_close(shares, [0, 0.25, 0.25, 0.5], atol=5 / 2 / 20000**0.5)


def test_transforms_and_gradients(key):
  where, logits = WHERE[1], jnp.stack([table(0), table(1)])

  def total(logits):
    return jnp.sum(estimates(key, logits, X[1], where))

  helpers.assert_gradient(
    jax.jit(lambda top: total(logits[0].at[-3:].set(top))), logits[0][-3:]
  )
  helpers.assert_transforms(lambda a: estimates(key, a, X[1], where), logits)


def test_zeros_and_nan_stay_where_they_are(key):
  hard = table().at[:, :, 0].set(-jnp.inf)
  where = WHERE[0]

  def value(logits, x):
    return jnp.sum(estimates(key, logits, x, where))

  with jax.debug_nans(True):
    possible = jax.jit(jax.value_and_grad(value))(hard, jnp.array([1, 1, 1]))
    impossible = jax.jit(value)(hard, jnp.array([0, 0, 0]))
  assert np.isfinite(possible[0]) and impossible == -np.inf
  assert np.all(np.isfinite(possible[1]))

  def spoilt(bias, fill):
    def denoiser(z):
      logits = exact.table_denoiser(table())(z) + bias * jnp.arange(V)
      return jnp.where((z == V)[..., None], logits, logits + fill)

    # Padding may hold any number.
    x, keep = jnp.array([7, 0, 1]), WHERE[1]
    return masked.masked_elbo(
      key, lambda z: denoiser(jnp.minimum(z, V)), x, mask_id=V, where=keep,
      num_samples=4,
    ).value  # fmt: skip

  slope = jax.jit(jax.value_and_grad(spoilt))
  helpers.assert_close(slope(0.5, jnp.nan), slope(0.5, 0.0))
  assert np.isinf(
    masked.masked_elbo(
      key, exact.table_denoiser(table()), X, mask_id=V, where=WHERE,
      num_samples=1,
    ).std_err[0]
  )  # fmt: skip


def test_expected_nfe():
  for length, steps, expected in (
    (16, 8, 7.06),
    (16, 64, 14.26),
    (1024, 512, 442.8),
  ):
    found = masked.expected_nfe(alphas_of(steps), length)
    helpers.assert_close(found, steps * (1 - (1 - 1 / steps) ** length))
    assert abs(found - expected) < 10 ** -(2 if steps < 512 else 1)
  ends = masked.expected_nfe(alphas_of(8), jnp.array([0, 1, 10**6]))
  helpers.assert_close(ends, [0.0, 1.0, 8.0])
  helpers.assert_close(masked.expected_nfe(alphas_of(1), 5), 1.0)
  uneven = alphas_of(3, schedules.polynomial_alpha)
  r = -np.diff(uneven)
  helpers.assert_close(masked.expected_nfe(uneven, 4), np.sum(1 - (1 - r) ** 4))


def test_check_denoiser():
  good = exact.table_denoiser(table())
  x, where = X[:2], WHERE[:2]
  masked.check_denoiser(good, x, mask_id=V, where=where)

  def refuses(match, denoiser=good, tokens=x, keep=where):
    with pytest.raises(checks.InputError, match=match):
      masked.check_denoiser(denoiser, tokens, mask_id=V, where=keep)

  refuses("where selects no token", keep=where & False)
  refuses("emits the mask: mask_id 2 is in its vocabulary of 3",
          lambda z: jax.nn.one_hot(z, V + 1))  # fmt: skip
  refuses("changes nothing", lambda z: jnp.zeros((*z.shape, V)))
  refuses(r"must map \(2, 3\) to \(2, 3, V\), gave \(2, 3\)", lambda z: z)
  refuses("gives NaN", lambda z: jnp.full((*z.shape, V), jnp.nan))
  refuses(r"tokens must be in \[0, 2\), are in \[0, 2\]", tokens=2 * x)
  refuses(r"where \(3,\), tokens \(2, 3\)", keep=where[0])


def test_bad_arguments(key):
  good = exact.table_denoiser(table())
  options = {"mask_id": V, "where": WHERE, "num_samples": 2}

  def refuses(match, error=ValueError, denoiser=good, tokens=X, **changed):
    with pytest.raises(error, match=match):
      masked.masked_elbo(key, denoiser, tokens, **{**options, **changed})

  refuses("unknown estimator 'k'", estimator="k")
  refuses("unknown normalize 'mean'", normalize="mean")
  refuses("num_samples must be at least 1, was 0", num_samples=0)
  refuses("mask_id must be outside the vocabulary of 2 tok.* was 1", mask_id=1)
  refuses("the denoiser must map", denoiser=lambda z: 1.0 * z)
  refuses("need one shape", AssertionError, where=WHERE[:2])
  refuses("bool", AssertionError, where=WHERE * 1.0)
  refuses("int", AssertionError, tokens=X * 1.0)
  where, noise = jnp.ones(3, bool), jnp.zeros((2, 3))
  assert masked.NORMALIZE == ("sequence", "token")
  for t in (0.0, 1.1):
    with pytest.raises(ValueError, match=rf"t must be in \(0, 1\], was {t}"):
      mask_draws.masks_from_noise(
        jnp.array([0.5, t]), noise, where, estimator="bernoulli"
      )
  with pytest.raises(ValueError, match="times must be"):
    mask_draws.masks_from_noise(jnp.ones(3), noise, where, estimator="coupled")
  with pytest.raises(ValueError, match="unknown method 'sobol'"):
    mask_draws.sample_times(key, 2, "sobol")
  with pytest.raises(ValueError, match="power must be at least 1, was 0.5"):
    masked.masked_eubo_biased(key, good, X, power=0.5, **options)
  with pytest.raises(ValueError, match="alphas must go down from 1 to 0"):
    masked.masked_elbo_t_step(key, good, X, jnp.array([1.0, 0.5]), **options)

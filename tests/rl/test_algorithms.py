# SPDX-License-Identifier: Apache-2.0
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.rl import advantages, algorithms, surrogates
from tests import helpers
from tests.rl import bed

LENGTHS = np.array([4, 2, 3, 0])
WHERE = np.arange(5) < LENGTHS[:, None]
NAMES = tuple(algorithms.ALGORITHMS)


def config(name, **changes):
  if algorithms.ALGORITHMS[name].get("aggregation") == "constant":
    changes = {"max_length": 8, **changes}
  return algorithms.algorithm(name, **changes)


def batch(key, dtype=jnp.float64):
  """Off-policy by half a nat a token, advantages of both signs."""
  keys = jax.random.split(key, 4)
  logp = -jnp.abs(jax.random.normal(keys[0], WHERE.shape, dtype)) - 0.1
  old, ref, drawn = (
    logp + 0.5 * jax.random.normal(k, WHERE.shape, dtype) for k in keys[1:]
  )
  return algorithms.PolicyBatch(
    logp,
    old,
    jnp.array([1.0, -0.7, 0.4, 2.0], dtype),
    jnp.asarray(WHERE),
    ref_logp=ref,
    sampler_logp=drawn,
    key=jax.random.key(7),
  )


@functools.partial(jax.jit, static_argnums=0)
def loss_and_slope(names, given):
  """Every loss of a tuple of algorithms, in one program."""

  def loss(logp, name):
    output = algorithms.policy_loss(config(name), given._replace(logp=logp))
    return output.loss, output

  return {
    name: jax.value_and_grad(loss, has_aux=True)(given.logp, name)
    for name in names
  }


def by_hand(name, given):
  """The published formula, completion by completion."""
  clip = lambda x, low, high: min(max(x, 1 - low), 1 + high)
  sums, tokens, count = [], 0.0, 0
  for i in range(4):
    m = WHERE[i]
    if not m.any():
      continue
    lr = (np.asarray(given.logp) - np.asarray(given.old_logp))[i][m]
    logp, a = np.asarray(given.logp)[i][m], float(given.advantages[i])
    r, s, w = np.exp(lr), np.exp(lr.mean()), np.exp(lr.sum())
    ppo = lambda low, high, r=r, a=a: np.array(
      [-min(x * a, clip(x, low, high) * a) for x in r]
    )
    whole = lambda x, low, high, a=a: -min(x * a, clip(x, low, high) * a)
    k, lam = (2, 3) if a >= 0 else (3, 2)
    tau = 1.0 if a > 0 else 1.05
    kept = [min(x, 0.4) if a > 0 else max(x, -0.4) for x in lr]
    each = {
      "reinforce": -a * logp,
      "rloo": np.full(len(r), whole(w, 0.2, 0.2)),
      "dapo": ppo(0.2, 0.28),
      "dual_clip": [min(x, -3 * a) if a < 0 else x for x in ppo(0.2, 0.2)],
      "two_sided": [-min(min(x, 4) * a, clip(x, 0.2, 0.2) * a) for x in r],
      "cispo": -np.minimum(r, 5) * a * logp,
      "gspo": np.full(len(r), whole(s, 3e-4, 4e-4)),
      "gspo_token": np.full(len(r), whole(s, 3e-4, 4e-4)),
      "gmpo": np.full(len(r), -np.exp(np.mean(kept)) * a),
      "luspo": np.full(len(r), whole(s, 2e-3, 2.5e-3)),
      "sapo": -4 / tau / (1 + np.exp(-tau * (r - 1))) * a,
      "vespo": -np.exp(lam + k * np.log(w) - lam * w) * a * logp,
    }.get(name, ppo(0.2, 0.2))
    tokens, count = tokens + np.sum(each), count + len(r)
    sums.append((np.sum(each), len(r)))
  if name == "dr_grpo":
    return tokens / (4 * 8)
  if name in ("reinforce", "luspo"):
    return np.mean([total for total, _ in sums])
  if name in ("grpo", "rloo", "gspo", "gspo_token", "gmpo", "sapo"):
    return np.mean([total / length for total, length in sums])
  return tokens / count


def test_every_algorithm_is_its_formula(key):
  given = batch(key)
  outputs = loss_and_slope(NAMES, given)
  for name in NAMES:
    if not name.endswith("_cov"):  # random or ranked: tested by themselves
      (loss, _), _ = outputs[name]
      helpers.assert_close(loss, by_hand(name, given)), name


def test_padding_may_hold_anything(key):
  given = batch(key)
  clean = loss_and_slope(NAMES, given)
  dirty = loss_and_slope(
    NAMES,
    given._replace(
      logp=jnp.where(WHERE, given.logp, jnp.nan),
      old_logp=jnp.where(WHERE, given.old_logp, -jnp.inf),
      advantages=jnp.where(
        WHERE, jnp.broadcast_to(given.advantages[:, None], WHERE.shape), jnp.nan
      ),
    ),
  )
  for name in NAMES:
    (value, output), slope = clean[name]
    (other, after), other_slope = dirty[name]
    assert jnp.isfinite(value), name
    helpers.assert_close(other, value)
    helpers.assert_close(other_slope, slope)
    assert not np.any(np.where(WHERE, 0, slope)), name
    helpers.assert_close(after.metrics, output.metrics)
    assert output.metrics["empty"] == 1


def test_padding_may_be_cut_and_completions_reordered(key):
  chosen = tuple(name for name in NAMES if not name.endswith("_cov"))
  given = batch(key)
  expected = loss_and_slope(chosen, given)
  order = jnp.array([2, 0, 3, 1])
  moved = jax.tree.map(lambda x: x[order], given._replace(key=None))
  moved = loss_and_slope(chosen, moved)
  cut = jax.tree.map(
    lambda x: x[:, :4] if x.ndim == 2 else x, given._replace(key=None)
  )
  cut = loss_and_slope(chosen, cut)
  for one in chosen:
    helpers.assert_close(moved[one][0], expected[one][0])
    helpers.assert_close(cut[one][0], expected[one][0])
    helpers.assert_close(cut[one][1], expected[one][1][:, :4])


def test_gradients_are_those_of_the_value(key):
  """Of every algorithm that has a value: not of weighted scores."""
  given = batch(key)
  for name in ("rloo", "gspo", "gmpo", "sapo", "two_sided"):
    # Far from the kinks of clips, which central differences see as well.
    helpers.assert_gradient(
      lambda x, n=name: (
        algorithms.policy_loss(config(n), given._replace(logp=x)).loss
      ),
      given.logp,
    )


def test_parts_compose(key):
  """Correction times surrogate where selected, plus the divergence."""
  given = batch(key)
  selected = jax.random.bernoulli(key, 0.5, WHERE.shape)
  chosen = algorithms.algorithm(
    "dapo",
    kl="k2",
    kl_coefficient=0.3,
    correction="truncate",
    correction_options=(("max_weight", 1.1),),
  )
  output = algorithms.policy_loss(chosen, given._replace(selected=selected))
  m, a = WHERE, np.asarray(given.advantages)[:, None]
  r = np.exp(given.logp - given.old_logp)
  ppo = -np.minimum(r * a, np.clip(r, 0.8, 1.28) * a)
  w = np.minimum(np.exp(given.old_logp - given.sampler_logp), 1.1)
  k2 = np.asarray(given.logp - given.ref_logp) ** 2 / 2
  total = np.where(selected, ppo * w, 0) + 0.3 * k2
  helpers.assert_close(output.loss, total[m].mean())
  helpers.assert_close(output.weight, m.sum())
  metrics = output.metrics
  helpers.assert_close(metrics["correction"], w[m].mean())
  helpers.assert_close(metrics["kl"], k2[m].mean())
  helpers.assert_close(metrics["log_ratio"], np.log(r)[m].mean())
  assert set(metrics) == {
    "clipped", "overflow", "log_ratio", "correction", "kl", "empty",
  }  # fmt: skip


def test_overflow_is_reported(key):
  given = batch(key)
  logp = given.logp.at[0, 1].add(500.0)
  given = given._replace(logp=logp, advantages=-jnp.ones(4))
  held = algorithms.policy_loss(config("grpo"), given)
  assert jnp.isfinite(held.loss)
  helpers.assert_close(held.metrics["overflow"], 1 / 9)
  free = algorithms.policy_loss(
    config("grpo", max_log_ratio=None),
    jax.tree.map(
      lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, given
    ),
  )
  assert jnp.isposinf(free.loss) and free.metrics["overflow"] == 0


def test_losses_of_microbatches_join(key):
  given = batch(key)._replace(key=None)
  for name in ("grpo", "dapo", "dr_grpo"):
    whole = algorithms.policy_loss(config(name), given)
    parts = [
      algorithms.policy_loss(
        config(name), jax.tree.map(lambda x, r=rows: x[r], given)
      )
      for rows in (slice(0, 1), slice(1, 4))
    ]
    joined = sum(p.loss * p.weight for p in parts)
    helpers.assert_close(joined / sum(p.weight for p in parts), whole.loss)


def test_expected_gradient_of_a_corrected_loss():
  """RLOO, k2 of sequences in the loss: grad E r - beta KL, by enumeration."""
  table, rewards = bed.logits(), bed.rewards()
  old, where = bed.token_logp(table), bed.WHERE
  exact = jax.grad(lambda x: bed.value(x, rewards))(table)

  def loss(logp, group):
    given = algorithms.PolicyBatch(
      logp,
      old[group],
      advantages.group_advantages(
        rewards[group], num_generations=bed.G, baseline="loo", scale="none"
      ),
      where[group],
    )
    return -algorithms.policy_loss(config("rloo"), given).loss

  helpers.assert_close(bed.expected_gradient(loss, table), exact, atol=1e-15)


def test_configs_are_static_and_equal_ones_share_a_program(key):
  given = batch(key)
  count = 0

  @functools.partial(jax.jit, static_argnums=0)
  def run(chosen, data):
    nonlocal count
    count += 1
    return algorithms.policy_loss(chosen, data).loss

  run(config("dapo", dual_clip=3.0, eps_low=0.1), given)
  run(config("dapo", eps_low=0.1, dual_clip=3.0), given)
  assert count == 1
  assert config("gspo").options == (("eps_high", 4e-4), ("eps_low", 3e-4))


def test_transforms(key):
  pair = [batch(k) for k in jax.random.split(key)]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *pair)

  def several(logp, old, ref, drawn):
    given = pair[0]._replace(
      logp=logp, old_logp=old, ref_logp=ref, sampler_logp=drawn,
      advantages=pair[0].advantages.astype(logp.dtype),
    )  # fmt: skip
    parts = dict(kl="ratio_k3", kl_coefficient=0.1, correction="mask")
    return tuple(
      algorithms.policy_loss(config(name, **parts), given)
      for name in ("gspo", "kl_cov")
    )

  helpers.assert_transforms(
    several,
    stacked.logp,
    stacked.old_logp,
    stacked.ref_logp,
    stacked.sampler_logp,
  )


def test_bad_input(key):
  given = batch(key)
  with pytest.raises(ValueError, match="unknown algorithm 'grop': choose one"):
    algorithms.algorithm("grop")
  with pytest.raises(ValueError, match="'sapo' takes no option 'eps_high'"):
    algorithms.algorithm("sapo", eps_high=0.3)
  with pytest.raises(ValueError, match="'clip' takes no option 'cap'"):
    algorithms.PolicyLossConfig(options=(("cap", 5.0),))
  with pytest.raises(ValueError, match="'dr_grpo' needs max_length"):
    algorithms.algorithm("dr_grpo")
  with pytest.raises(ValueError, match="'truncate' takes no option 'min_weigh"):
    algorithms.algorithm(
      "grpo", correction="truncate", correction_options=(("min_weight", 1.0),)
    )
  with pytest.raises(ValueError, match="correction_options were given"):
    algorithms.algorithm("grpo", correction_options=(("max_weight", 1.0),))
  with pytest.raises(ValueError, match="kl and kl_coefficient belong together"):
    algorithms.algorithm("grpo", kl="k2")
  with pytest.raises(ValueError, match="unknown kl 'k4'"):
    algorithms.algorithm("grpo", kl="k4", kl_coefficient=1.0)
  with pytest.raises(ValueError, match="'k2' needs ref_logp"):
    algorithms.policy_loss(
      config("grpo", kl="k2", kl_coefficient=0.1),
      given._replace(ref_logp=None),
    )
  with pytest.raises(ValueError, match="'clip_cov' needs key"):
    algorithms.policy_loss(config("clip_cov"), given._replace(key=None))
  with pytest.raises(AssertionError, match="need one shape: advantages"):
    algorithms.policy_loss(
      config("grpo"), given._replace(advantages=jnp.zeros(3))
    )
  with pytest.raises(AssertionError, match="need one shape: .*old_logp"):
    algorithms.policy_loss(
      config("grpo"), given._replace(old_logp=given.old_logp[:, :2])
    )
  clip = inspect.unwrap(surrogates.clip_loss)
  assert algorithms.SURROGATES["clip"] is clip
  assert set(algorithms.CORRECTIONS) == {"truncate", "mask"}

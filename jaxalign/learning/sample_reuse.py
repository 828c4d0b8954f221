# SPDX-License-Identifier: Apache-2.0
"""Deterministic predictions from samples: how many a run of patches needs.

Audit and patch adapts to its sample: the test that fails most is looked for in
predictions that were made from the same data. Three schemes bound what that
costs. With eps the error wanted, some 1/eps^2 patches and B tests, they need

- `"fresh"`, a sample of its own for every audit: log(B)/eps^4;
- `"counted"`, one sample for all, told apart by the number of runs there can
  be: log(B)/eps^4 too, with a smaller constant;
- `"noisy"`, one sample for all, audits with noise: log(B)/eps^3.

The last is the rate that the paper has for deterministic predictions. Its
algorithm could not be seen; this one and its proof are ours. Audit j chooses a
test by the exponential mechanism and measures it with Gaussian noise, so that k
audits are rho-zCDP with `rho = k (2/(n s)^2 + 2/(n sigma)^2)`, s and sigma
being the two scales and 2/n what one sample can change. The run then knows at
most `I = rho n` nats of its n samples, and, as for any algorithm that knows I,

  `E max |E[g c (y - p)] - mean of g c (y - p)| <= sqrt(2 (I + ln(2B)) / n)`.

Noise of scale eps leaves a sample of 1/eps^3 with `rho` of order eps^2.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.learning import step_calibration

__all__ = (
  "PatchingPlan",
  "SamplePatches",
  "patch_on_samples",
  "patching_plan",
)

_SCHEMES = ("fresh", "counted", "noisy")
# Shares of eps: a step of the grid (and of a patch) at most a half, and what
# is left for selection, measurement (twice), failure and generalisation.
_PATCH, _SELECTION, _VALUE, _FAILURE, _SPREAD = (
  1 / 2,
  1 / 8,
  1 / 16,
  1 / 20,
  0.2,
)


class PatchingPlan(NamedTuple):
  """How to patch for an expected step calibration error of at most eps.

  Attributes:
    num_samples: in all, over all audits.
    num_batches: 1, or one for each audit.
    m: intervals of the grid of predictions; a patch moves by 1/m.
    max_patches: m^2/4, which suffices unless noise is exceptional.
    threshold: the violation measured above which is patched.
    selection_scale: s, of the Gumbel noise in choosing a test.
    value_scale: sigma, of the Gaussian noise in measuring it.
  """

  num_samples: int
  num_batches: int
  m: int
  max_patches: int
  threshold: float
  selection_scale: float
  value_scale: float


class SamplePatches(NamedTuple):
  """Predictions made from samples.

  Attributes:
    predictions: `[N]`, on the grid.
    steps: int32 scalar, patches made; one more than the plan's most where the
      last audit, too, was above the threshold.
    converged: bool scalar, whether an audit found nothing above it.
  """

  predictions: jax.Array
  steps: jax.Array
  converged: jax.Array


def _noisy_samples(
  log_tests: float, audits: int, s: float, sigma: float, spread: float
) -> float:
  """N with `2 rho + 2 ln(2B)/n = spread^2`."""
  leak = 4 * audits * (1 / s**2 + 1 / sigma**2)
  root = math.sqrt(log_tests**2 + leak * spread**2)
  return (log_tests + root) / spread**2


def patching_plan(
  eps: float, num_groups: int, num_fixed_tests: int, *, scheme: str = "noisy"
) -> PatchingPlan:
  """The samples and scales with which `patch_on_samples` reaches eps.

  Args:
    eps: the expected error wanted, in (0, 1).
    num_groups: K.
    num_fixed_tests: J A, steps of hypotheses; may be 0.
    scheme: "fresh", "counted" or "noisy", as in the module's description.

  Returns:
    `PatchingPlan`.

  Raises:
    ValueError: eps is not in (0, 1), no groups, unknown scheme.

  >>> small, smaller = (patching_plan(e, 4, 16) for e in (.02, .01))
  >>> print(f"{math.log2(smaller.num_samples / small.num_samples):.1f}")
  3.2

  Reference:
    Panprediction (2510.27638), for the rate; algorithm and proof are ours,
    from Bun and Steinke, Concentrated differential privacy (1605.02065), with
    eps^2/8 for the exponential mechanism (Cesar and Rogers, 2004.07223), and
    Russo and Zou, Controlling bias (1511.05219).
  """
  checks.check_choice("scheme", scheme, _SCHEMES)
  checks.check_positive(num_groups=num_groups)
  if not 0 < eps < 1:
    raise ValueError(f"eps must be between 0 and 1, was {eps}")
  m = 2 * math.ceil(1 / (2 * _PATCH * eps))
  patches, audits = m * m // 4, m * m // 4 + 1
  num_tests = num_groups * (m + 1 + num_fixed_tests)
  log_tests = math.log(2 * num_tests)
  failure = _FAILURE * eps
  s = sigma = 0.0
  if scheme == "noisy":
    # Either kind of noise stays within its share with probability 1 - fail/2.
    s = _SELECTION * eps / math.log(2 * num_tests * audits / failure)
    sigma = _VALUE * eps / math.sqrt(2 * math.log(4 * audits / failure))
    threshold = 1 / m + _VALUE * eps
    samples = _noisy_samples(log_tests, audits, s, sigma, _SPREAD * eps)
  elif scheme == "counted":
    # An audit answers with one of 2B signed tests or with the end: what a run
    # knows of its sample is at most the logarithm of the number of runs.
    threshold = 1 / m
    known = audits * math.log(2 * num_tests + 1)
    samples = 2 * (known + log_tests) / (eps - threshold) ** 2
  else:
    # Each audit is right to `spread`, twice: before a patch and at the end.
    spread = (eps - 1 / m - failure) / 2
    threshold = 1 / m + spread
    each = 2 * (log_tests + math.log(audits / failure)) / spread**2
    samples = audits * math.ceil(each)
  batches = audits if scheme == "fresh" else 1
  return PatchingPlan(
    math.ceil(samples), batches, m, patches, threshold, s, sigma
  )


def patch_on_samples(
  key: jax.Array,
  f: jax.Array,
  w: jax.Array,
  G: jax.Array,
  H: jax.Array,
  actions: jax.Array,
  plan: PatchingPlan,
) -> SamplePatches:
  """Audits and patches from 1/2, on one sample or on one for each audit.

  Predictions stay on the grid i/m. An audit takes the test with the largest
  `|viol| + Gumbel(s)`, measures `viol + N(0, sigma^2)` and, where that is above
  the threshold, moves the test's points by 1/m in its direction.

  Args:
    key: a typed key, of the noise.
    f: `[S, N]`, mean outcome of each point in each batch (anything in [0, 1]
      where a batch has no such point). Audit j sees batch j mod S.
    w: `[S, N]`, share of each point in each batch.
    G: `[K, N]`, groups as sets, 0 or 1.
    H: `[J, N]`, values of hypotheses; J may be 0.
    actions: `[A]`, the thresholds of hypotheses.
    plan: as `patching_plan` gives it.

  Returns:
    `SamplePatches`. No gradient passes.

  Raises:
    AssertionError: rank, shape or type.
    ValueError: columns of G or H are not N.
    InputError: w is no distribution, f leaves [0, 1], G is not of 0 and 1.

  >>> plan = patching_plan(.25, 2, 0, scheme="counted")
  >>> found = patch_on_samples(
  ...   jax.random.key(0), jnp.array([[0., 1.]]), jnp.array([[.5, .5]]),
  ...   jnp.eye(2), jnp.zeros((0, 2)), jnp.zeros(0), plan)
  >>> print(found.predictions, found.steps)
  [0.25 0.75] 4

  Reference:
    Ours; see the module's description.
  """
  checks.check_rank(2, f=f, w=w)
  checks.check_same_shape(f=f, w=w)
  f, w = (jax.lax.stop_gradient(numerics.as_float(x)) for x in (f, w))
  step_calibration.check_world(f[0], f[0], w[0], G, H, actions)
  step_calibration.check_unit("f", f)
  if not isinstance(w, jax.core.Tracer):
    checks.check_distribution("w", np.asarray(w))
  _check_sets(G)
  grid = jnp.arange(plan.m + 1, dtype=f.dtype) / plan.m

  def unfinished(carry):
    _, steps, done = carry
    return ~done & (steps <= plan.max_patches)

  def audit_and_patch(carry):
    level, steps, _ = carry
    batch = steps % f.shape[0]
    p, tests = grid[level], (G, H, actions)
    violations = step_calibration.step_violations(
      p, f[batch], w[batch], *tests, thresholds=grid
    )
    each = jax.random.fold_in(key, steps)
    index, measured = _choose(each, violations, plan)
    test = step_calibration.step_test(index, p, *tests, grid)
    done = jnp.abs(measured) <= plan.threshold
    move = jnp.sign(measured).astype(level.dtype) * (test > 0)
    level = jnp.where(done, level, jnp.clip(level + move, 0, plan.m))
    return level, steps + ~done, done

  level = jnp.full(f.shape[1:], plan.m // 2, jnp.int32)
  level, steps, done = jax.lax.while_loop(
    unfinished, audit_and_patch, (level, jnp.int32(0), jnp.array(False))
  )
  return SamplePatches(grid[level], steps, done)


def _choose(
  key: jax.Array, violations: jax.Array, plan: PatchingPlan
) -> tuple[jax.Array, jax.Array]:
  """Index of a test, chosen with noise, and its violation, measured with it."""
  choice_key, value_key = jax.random.split(key)
  noise = jax.random.gumbel(choice_key, violations.shape, violations.dtype)
  index = jnp.argmax(jnp.abs(violations) + plan.selection_scale * noise)
  error = jax.random.normal(value_key, (), violations.dtype)
  return index, violations.ravel()[index] + plan.value_scale * error


def _check_sets(G: jax.Array) -> None:
  if isinstance(G, jax.core.Tracer):
    return
  values = np.asarray(G)
  other = values[(values != 0) & (values != 1)]
  if other.size:
    raise checks.InputError(
      f"G must be of 0 and 1 (groups as sets), had {other[0]:.6g}"
    )

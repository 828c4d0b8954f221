# SPDX-License-Identifier: Apache-2.0
"""Step calibration: errors that thresholds of predictions and groups see.

A world is N points of probability `w[x]` with outcome `y` in {0, 1} of mean
`f[x]`, K groups `G[k, x]` in [0, 1] and J hypotheses `H[j, x]`, whose values
are among A actions. A sample is a world too: its points have weight 1/N each
and `f` is the outcomes. Predictions `p[x]` are audited by the tests

  `viol(g, c) = E[g(x) c(x) (y - p(x))]`,

c being a step in the prediction, `1[p(x) <= v]`, or in a hypothesis,
`1[h(x) <= a]`. The paper's definition could not be seen in detail: these are
the tests that the reduction in `panpredictions` needs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "PatchedPredictions",
  "StepAudit",
  "patch_step_calibration",
  "step_calibration_audit",
  "step_calibration_error",
  "step_violations",
)


class StepAudit(NamedTuple):
  """The test that predictions fail by the most.

  Attributes:
    violation: scalar, `E[g c (y - p)]` of that test, with its sign.
    test: `[N]`, `g(x) c(x)` of that test.
  """

  violation: jax.Array
  test: jax.Array


class PatchedPredictions(NamedTuple):
  """What audit and patch ends with.

  Attributes:
    predictions: `[N]`, in [0, 1].
    error: scalar, the step calibration error that is left.
    steps: int32 scalar, patches made.
    converged: bool scalar, whether the error is at most eps.
  """

  predictions: jax.Array
  error: jax.Array
  steps: jax.Array
  converged: jax.Array


def check_world(
  p: jax.Array,
  f: jax.Array,
  w: jax.Array,
  G: jax.Array,
  H: jax.Array,
  actions: jax.Array,
) -> None:
  """Raises unless shapes fit and, where values are known, these are allowed."""
  checks.check_rank(1, p=p, f=f, w=w, actions=actions)
  checks.check_rank(2, G=G, H=H)
  checks.check_same_shape(p=p, f=f, w=w)
  checks.check_float(p=p, f=f, w=w)
  for name, rows in (("G", G), ("H", H)):
    if rows.shape[1] != p.shape[0]:
      raise ValueError(
        f"{name} must have a column for each of {p.shape[0]} points, was"
        f" {rows.shape}"
      )
  for name, values in (("p", p), ("f", f), ("G", G)):
    check_unit(name, values)
  if not isinstance(w, jax.core.Tracer):
    checks.check_distribution("w", np.asarray(w))


def check_unit(name: str, values: jax.Array) -> None:
  """Raises unless values are within [0, 1]; traced ones pass."""
  if isinstance(values, jax.core.Tracer):
    return
  known = np.asarray(values)
  bad = ~((known >= 0) & (known <= 1))
  if bad.any():
    raise checks.InputError(
      f"{name} must be within [0, 1], was {known[bad][0]:.6g}"
    )


def step_violations(
  p: jax.Array,
  f: jax.Array,
  w: jax.Array,
  G: jax.Array,
  H: jax.Array,
  actions: jax.Array,
  *,
  thresholds: jax.Array | None = None,
) -> jax.Array:
  """`E[g c (y - p)]` of every group and every step test.

  Args:
    p: `[N]`, predictions in [0, 1].
    f: `[N]`, `E[y|x]`, or outcomes.
    w: `[N]`, probabilities of the points.
    G: `[K, N]`, weights of groups in [0, 1].
    H: `[J, N]`, values of hypotheses; J may be 0.
    actions: `[A]`, the thresholds a of hypotheses.
    thresholds: `[V]`, the thresholds v of predictions; the values of p by
      default (V = N), and then no other threshold gives another test.

  Returns:
    `[K, V + J A]`: steps of the prediction first, then of the first hypothesis,
    action by action.

  Raises:
    AssertionError: rank, shape or type.
    ValueError: columns of G or H are not N.
    InputError: w is no distribution, or p, f or G leave [0, 1].

  >>> p, f, w = jnp.array([.2, .6]), jnp.array([.4, .6]), jnp.array([.5, .5])
  >>> found = step_violations(
  ...   p, f, w, jnp.ones((1, 2)), jnp.zeros((0, 2)), jnp.zeros(0))
  >>> print(f"{found[0, 0]:.4f} {found[0, 1]:.4f}")
  0.1000 0.1000

  Reference:
    Panprediction (2510.27638), step calibration; the form is ours.
  """
  check_world(p, f, w, G, H, actions)
  p, f, w = (numerics.as_float(x) for x in (p, f, w))
  G, H = jnp.asarray(G), jnp.asarray(H)
  residual = G * (w * (f - p))
  order = jnp.argsort(p)
  # Sums over the predictions up to each place, and 0 before the first.
  sums = jnp.cumsum(residual[:, order], 1)
  sums = jnp.pad(sums, ((0, 0), (1, 0)))
  thresholds = p[order] if thresholds is None else thresholds
  place = jnp.searchsorted(p[order], thresholds, side="right")
  below = (H[:, None] <= actions[:, None]).astype(residual.dtype)
  below = below.reshape(-1, p.shape[0])
  return jnp.concatenate([sums[:, place], residual @ below.T], 1)


def step_test(
  index: jax.Array,
  p: jax.Array,
  G: jax.Array,
  H: jax.Array,
  actions: jax.Array,
  thresholds: jax.Array,
) -> jax.Array:
  """`g(x) c(x)` `[N]` of an entry of the flattened violations."""
  G, H, actions = (jnp.asarray(x) for x in (G, H, actions))
  num_tests = thresholds.shape[0] + H.shape[0] * actions.shape[0]
  group, test = index // num_tests, index % num_tests
  step = p <= thresholds[jnp.minimum(test, thresholds.shape[0] - 1)]
  if H.size and actions.size:
    rest = jnp.maximum(test - thresholds.shape[0], 0)
    hypothesis, action = rest // actions.shape[0], rest % actions.shape[0]
    below = H[hypothesis] <= actions[action]
    step = jnp.where(test < thresholds.shape[0], step, below)
  return jnp.where(step, G[group], 0)


def step_calibration_audit(
  p: jax.Array,
  f: jax.Array,
  w: jax.Array,
  G: jax.Array,
  H: jax.Array,
  actions: jax.Array,
  *,
  thresholds: jax.Array | None = None,
) -> StepAudit:
  """Finds the test that predictions fail by the most.

  Args:
    p: `[N]`, predictions in [0, 1].
    f: `[N]`, `E[y|x]`, or outcomes.
    w: `[N]`, probabilities of the points.
    G: `[K, N]`, weights of groups in [0, 1].
    H: `[J, N]`, values of hypotheses; J may be 0.
    actions: `[A]`, the thresholds of hypotheses.
    thresholds: `[V]`, those of predictions; by default the values of p.

  Returns:
    `StepAudit`; of equal violations the first.

  Raises:
    AssertionError: rank, shape or type.
    ValueError: columns of G or H are not N.
    InputError: w is no distribution, or p, f or G leave [0, 1].

  >>> p, f, w = jnp.array([.2, .6]), jnp.array([.4, .6]), jnp.array([.5, .5])
  >>> found = step_calibration_audit(
  ...   p, f, w, jnp.ones((1, 2)), jnp.zeros((0, 2)), jnp.zeros(0))
  >>> print(f"{found.violation:.4f} {found.test}")
  0.1000 [1. 0.]

  Reference:
    Panprediction (2510.27638), step calibration; the form is ours.
  """
  thresholds = jnp.sort(p) if thresholds is None else thresholds
  violations = step_violations(p, f, w, G, H, actions, thresholds=thresholds)
  index = jnp.argmax(jnp.abs(violations))
  return StepAudit(
    violation=violations.ravel()[index],
    test=step_test(index, p, G, H, actions, thresholds),
  )


def step_calibration_error(
  p: jax.Array,
  f: jax.Array,
  w: jax.Array,
  G: jax.Array,
  H: jax.Array,
  actions: jax.Array,
) -> jax.Array:
  """The largest error that a group and a step test see.

  `SCE(p) = max over g, c of |E[g(x) c(x) (y - p(x))]|`.

  Args:
    p: `[N]`, predictions in [0, 1].
    f: `[N]`, `E[y|x]`, or outcomes.
    w: `[N]`, probabilities of the points.
    G: `[K, N]`, weights of groups in [0, 1]; a row of ones is everybody.
    H: `[J, N]`, values of hypotheses; J may be 0.
    actions: `[A]`, the thresholds of hypotheses.

  Returns:
    Scalar in [0, 1].

  Raises:
    AssertionError: rank, shape or type.
    ValueError: columns of G or H are not N.
    InputError: w is no distribution, or p, f or G leave [0, 1].

  >>> p, f, w = jnp.array([.5, .5]), jnp.array([0., 1.]), jnp.array([.5, .5])
  >>> none = jnp.zeros((0, 2)), jnp.zeros(0)
  >>> everybody, first = jnp.ones((1, 2)), jnp.array([[1., 0.]])
  >>> print(step_calibration_error(p, f, w, everybody, *none))
  0.0
  >>> print(step_calibration_error(p, f, w, first, *none))
  0.25

  Reference:
    Panprediction (2510.27638), step calibration; the form is ours.
  """
  return jnp.max(jnp.abs(step_violations(p, f, w, G, H, actions)))


def patch_step_calibration(
  p: jax.Array,
  f: jax.Array,
  w: jax.Array,
  G: jax.Array,
  H: jax.Array,
  actions: jax.Array,
  *,
  eps: float | jax.Array,
) -> PatchedPredictions:
  """Audits and patches until no test is failed by more than eps.

  While some test has `|viol| > eps`: `p <- clip(p + eps sign(viol) g c, 0, 1)`
  for the worst one; thresholds follow the new p. A patch lowers
  `E(p - f)^2` by at least eps^2, so there are at most `E(p - f)^2 / eps^2`,
  which is `1/(4 eps^2)` from p = 1/2.

  A baseline, not the paper's algorithm: with a fresh sample of some 1/eps^2
  for each of the 1/eps^2 patches it takes 1/eps^4, not the 1/eps^3 that the
  paper has for deterministic predictions. `patch_on_samples` with a noisy plan
  reaches that.

  Args:
    p: `[N]`, predictions to start from, in [0, 1].
    f: `[N]`, `E[y|x]`, or outcomes.
    w: `[N]`, probabilities of the points.
    G: `[K, N]`, weights of groups in [0, 1].
    H: `[J, N]`, values of hypotheses; J may be 0.
    actions: `[A]`, the thresholds of hypotheses.
    eps: above 0, the error allowed. Below the rounding of sums over the points
      it may stay out of reach; then `converged` is false.

  Returns:
    `PatchedPredictions`. No gradient passes.

  Raises:
    AssertionError: rank, shape or type.
    ValueError: eps is not above 0, columns of G or H are not N.
    InputError: w is no distribution, or p, f or G leave [0, 1].

  >>> p, f, w = jnp.array([.5, .5]), jnp.array([0., 1.]), jnp.array([.5, .5])
  >>> found = patch_step_calibration(
  ...   p, f, w, jnp.eye(2), jnp.zeros((0, 2)), jnp.zeros(0), eps=.05)
  >>> print(found.steps, found.converged)
  16 True

  Reference:
    Panprediction (2510.27638), for step calibration; the algorithm is that of
    Hebert-Johnson et al., Multicalibration (1711.08513), with its tests.
  """
  checks.check_positive(eps=eps)
  check_world(p, f, w, G, H, actions)
  p, f, w = (jax.lax.stop_gradient(numerics.as_float(x)) for x in (p, f, w))
  world = (f, w, G, H, actions)
  # The potential E(p - f)^2 pays eps^2 a patch.
  most = jnp.sum(w * (p - f) ** 2) / eps**2

  def unfinished(carry):
    _, error, steps = carry
    return (error > eps) & (steps <= most)

  def audit_and_patch(carry):
    p, _, steps = carry
    audit = step_calibration_audit(p, *world)
    error = jnp.abs(audit.violation)
    shift = eps * jnp.sign(audit.violation) * audit.test
    moved = jnp.clip(p + shift.astype(p.dtype), 0, 1)
    done = error <= eps
    return jnp.where(done, p, moved), error, steps + ~done

  start = p, jnp.array(jnp.inf, p.dtype), jnp.int32(0)
  p, error, steps = jax.lax.while_loop(unfinished, audit_and_patch, start)
  return PatchedPredictions(p, error, steps, error <= eps)

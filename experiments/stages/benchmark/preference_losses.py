# SPDX-License-Identifier: Apache-2.0
"""Preference losses against plain DPO, against NumPy, and against reading.

Of pairs: every named loss with its gradient beside a DPO loss written in one
line, the time that its program takes to compile, and its value beside the same
formula in NumPy. Of tokens: every loss of full logits with its gradient beside
the log-softmax of the same logits, which is the least that reads them.

What bounds these ratios on a machine stands in the same tables: a call that
subtracts two arrays, two sorts with their gradient, and a KL written out
without any care.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.benchmark import timing
from jaxalign import divergences, preference

PAIRS = 4096
# Completions, tokens, vocabulary: 16 MiB an array of logits.
LOGITS = (8, 64, 8192)
SORTING = ("aot",)
SLOWER, COMPILE, READING, AGREE = 2.0, 0.5, 1.3, 1e-6
BETA, SHAPE = 0.1, 0.25
OPTIONS = {
  "alphapo": {"alpha": SHAPE},
  "f_dpo": {"div": divergences.f_divergence("jensen_shannon")},
  "hdpo": {"alpha": 0.9},
}


def batch(seed: int) -> preference.PairLogps:
  """Log-probabilities of pairs, a policy some updates from its reference."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(5, 40, (2, PAIRS))
  ref = -lengths * rng.uniform(0.5, 2, (2, PAIRS))
  policy = np.minimum(ref + rng.normal(0, 3, (2, PAIRS)), -0.1)
  return preference.PairLogps(
    *(jnp.asarray(x, jnp.float32) for x in (*policy, *ref, *lengths))
  )


# --- the same formulas in NumPy -----------------------------------------------


def _ls(x):
  return -np.logaddexp(0, -x)


def _s(x):
  return np.exp(_ls(x))


def _log_odds(a):
  return a - np.log(-np.expm1(a))


def numpy_losses(x: preference.PairLogps) -> dict[str, Callable]:
  """Each loss as its paper writes it, of float64 arrays, without gradient."""
  pw, pl, rw, rl, nw, nl = x
  b = BETA

  def both():
    return pw - rw, pl - rl

  def d():
    hw, hl = both()
    return hw - hl

  def mean():
    return pw / nw, pl / nl

  def gap():
    aw, al = mean()
    return aw - al

  def points(f):
    hw, hl = both()
    return f(b * hw, b * hl)

  def odds():
    aw, al = mean()
    return _log_odds(aw) - _log_odds(al)

  def exo(y, eps=1e-3):
    return _s(y) * (_ls(y) - np.log1p(-eps)) + _s(-y) * (_ls(-y) - np.log(eps))

  def discopop(y):
    m = _s(y / 0.05)
    return -(1 - m) * _ls(y) + m * np.exp(-y)

  def boxcox(a, alpha=SHAPE):
    return -np.expm1(-alpha * a) / alpha

  return {
    "dpo": lambda: -_ls(b * d()),
    "f_dpo": lambda: -_ls(b / 2 * (lambda h: _ls(h[0]) - _ls(h[1]))(both())),
    "hdpo": lambda: -_ls(0.9 * b * (pw - pl) - b * (rw - rl)),
    "ipo": lambda: (d() - 1 / (2 * b)) ** 2,
    "robust": lambda: (-0.9 * _ls(b * d()) + 0.1 * _ls(-b * d())) / 0.8,
    "hinge": lambda: np.maximum(0, 1 - b * d()),
    "exo_pair": lambda: exo(b * d()),
    "discopop": lambda: discopop(b * d()),
    "sigmoid_norm": lambda: -_ls(b * ((pw - rw) / nw - (pl - rl) / nl)),
    "nca_pair": lambda: points(
      lambda w, r: -_ls(w) - _ls(-w) / 2 - _ls(-r) / 2
    ),
    "bco_pair": lambda: points(lambda w, r: -_ls(w) - _ls(-r)),
    "sppo_hard": lambda: (pw - rw - 0.5 / b) ** 2 + (pl - rl + 0.5 / b) ** 2,
    "apo_zero": lambda: points(lambda w, r: 1 - _s(w) + _s(r)),
    "apo_down": lambda: points(lambda w, r: _s(w) + 1 - _s(w - r)),
    "aot": lambda: -_ls(b * (np.sort(pw - pl) - np.sort(rw - rl))),
    "dpop": lambda: -_ls(b * (d() - 50 * np.maximum(0, rw - pw))),
    "rpo": lambda: -_ls(b * d()) - 0.005 * b * pw,
    "orpo": lambda: -pw / nw - 0.1 * _ls(odds()),
    "cpo": lambda: -_ls(b * (pw - pl)) - pw / nw,
    "simpo": lambda: -_ls(b * gap() - 0.5),
    "alphapo": lambda: -_ls(b * (boxcox(mean()[0]) - boxcox(mean()[1])) - 0.5),
  }


# --- pairs -------------------------------------------------------------------


def _with_gradient(loss: Callable) -> Callable:
  """Mean loss, and its gradient in the policy's log-probabilities."""

  def total(policy, rest):
    return jnp.mean(loss(rest._replace(**policy)))

  def both(x):
    names = ("policy_chosen", "policy_rejected")
    return jax.value_and_grad(total)({n: getattr(x, n) for n in names}, x)

  return jax.jit(both)


def _plain(x: preference.PairLogps) -> jax.Array:
  d = (x.policy_chosen - x.ref_chosen) - (x.policy_rejected - x.ref_rejected)
  return -jax.nn.log_sigmoid(BETA * d)


@jax.jit
def _subtraction(x: preference.PairLogps) -> jax.Array:
  """The least that a call with these arguments can do."""
  return x.policy_chosen - x.policy_rejected


@jax.jit
@jax.grad
def _sorts(x: preference.PairLogps) -> jax.Array:
  """Two sorts with their gradient, as `aot` needs them at least."""
  policy = jnp.sort(x.policy_chosen - x.policy_rejected)
  ref = jnp.sort(x.ref_chosen - x.ref_rejected)
  return jnp.sum(policy * ref)


def _seconds_to_compile(program: Callable, x) -> float:
  """Tracing, lowering and compiling, with nothing kept from other runs."""
  kept = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    start = time.perf_counter()
    program.lower(x).compile()
    return time.perf_counter() - start
  finally:
    jax.config.update("jax_enable_compilation_cache", kept)


def _pair_row(name: str, x, formula: Callable, turns: int) -> dict:
  loss = preference.pair_loss(name, **OPTIONS.get(name, {}))

  def value(x):
    return loss(x).loss

  program, in_one = _with_gradient(value), jax.jit(value)
  compile_seconds = _seconds_to_compile(_with_gradient(value), x)
  time_ours, ratio = timing.paired_ratio(
    program, _with_gradient(_plain), (x,), turns
  )
  of_numpy, of_call = (
    timing.paired_ratio(fn, lambda _: formula(), (x,), turns)[1]
    for fn in (in_one, _subtraction)
  )
  error = np.abs(np.asarray(in_one(x), np.float64) - formula())
  return {
    "loss": name,
    "compile, s": compile_seconds,
    "with gradient, us": 1e6 * time_ours,
    "over plain DPO": ratio,
    "value over NumPy": of_numpy,
    "a subtraction over NumPy": of_call,
    "error": float(np.max(error / (1 + np.abs(formula())))),
  }


def _at_most(name, statement, bound, measured) -> harness.Claim:
  return harness.Claim(name, statement, bound, measured, 0.0, relation="<=")


def _all_over_numpy(x, formulas: dict[str, Callable], turns: int) -> float:
  """Every loss but those that sort, in one call, over NumPy's formulas."""
  names = [name for name in formulas if name not in SORTING]
  losses = [
    preference.pair_loss(name, **OPTIONS.get(name, {})) for name in names
  ]
  ours = jax.jit(lambda x: [loss(x).loss for loss in losses])

  def theirs(_):
    return [formulas[name]() for name in names]

  return timing.paired_ratio(ours, theirs, (x,), turns)[1]


def pair_part(*, turns: int) -> harness.Part:
  """Claims on the slowest loss of pairs, and the table of all.

  Args:
    turns: paired timings.
  """
  x = batch(0)
  formulas = numpy_losses(
    preference.PairLogps(*(np.asarray(v, np.float64) for v in x))
  )
  rows = [
    _pair_row(name, x, formulas[name], turns) for name in preference.PAIR_LOSSES
  ]

  def worst(column):
    return harness.largest(row[column] for row in rows)

  claims = [
    _at_most(
      "pairs, compile",
      f"slowest loss of {PAIRS} pairs with its gradient to compile, s",
      COMPILE,
      worst("compile, s"),
    ),
    _at_most(
      "pairs, time",
      f"slowest loss of {PAIRS} pairs with its gradient over plain DPO",
      SLOWER,
      worst("over plain DPO"),
    ),
    _at_most(
      "pairs, NumPy",
      "slowest value over NumPy's, a call for each loss",
      1.0,
      worst("value over NumPy"),
    ),
    _at_most(
      "pairs in one call, NumPy",
      "values of all losses but aot, which sorts, in one call over NumPy's",
      1.0,
      _all_over_numpy(x, formulas, turns),
    ),
    _at_most(
      "pairs, value",
      "difference from NumPy in float64, over 1 + its size",
      AGREE,
      worst("error"),
    ),
  ]
  time_sorts, ratio = timing.paired_ratio(
    _sorts, _with_gradient(_plain), (x,), turns
  )
  bare = {
    "program": "two sorts with their gradient",
    "us": 1e6 * time_sorts,
    "over plain DPO": ratio,
  }
  return harness.Part(
    claims, {}, {"losses of pairs": rows, "what losses of pairs need": [bare]}
  )


# --- tokens ------------------------------------------------------------------


def _reading(policy, *others):
  """What reads logits once: log-probabilities of tokens."""
  logps = [
    jnp.sum(x[..., 0] - jax.nn.logsumexp(x, -1)) for x in (policy, *others)
  ]
  return sum(logps)


def _bare_kl(policy, ref):
  """The sum of `KL(ref || policy)` over tokens, without masks or care."""
  log_policy, log_ref = (jax.nn.log_softmax(x) for x in (policy, ref))
  return jnp.sum(jnp.exp(log_ref) * (log_ref - log_policy))


def _token_row(name: str, total: Callable, arrays: tuple, turns: int) -> dict:
  """A sum over tokens with its gradient in the policy, over reading."""
  time_ours, ratio = timing.paired_ratio(
    jax.jit(jax.value_and_grad(total)),
    jax.jit(jax.value_and_grad(_reading)),
    arrays,
    turns,
  )
  return {"loss": name, "ms": 1e3 * time_ours, "over reading": ratio}


def token_part(*, turns: int) -> harness.Part:
  """A claim on each loss of full logits, and their table.

  Args:
    turns: paired timings.
  """
  rng = np.random.default_rng(0)
  policy, ref, other = (
    jnp.asarray(rng.normal(0, 2, LOGITS), jnp.float32) for _ in range(3)
  )
  where = jnp.ones(LOGITS[:2], bool)
  losses = {
    "sequential_kl": (preference.sequential_kl, (policy, ref), {}),
    "sequential_entropic_risk": (
      preference.sequential_entropic_risk,
      (policy, ref),
      {"lam": 1.0},
    ),
    "sequential_cvar": (
      preference.sequential_cvar,
      (policy, ref),
      {"mass": 0.95},
    ),
    "aligndistil": (preference.aligndistil_loss, (policy, ref, other), {}),
  }
  summed = {
    name: (
      lambda *x, loss=loss, options=options: jnp.sum(
        loss(*x, where=where, **options)
      ),
      arrays,
    )
    for name, (loss, arrays, options) in losses.items()
  }
  rows = [_token_row(name, *given, turns) for name, given in summed.items()]
  claims = [
    _at_most(
      f"tokens, {row['loss']}",
      f"{row['loss']} with its gradient over log-probabilities of tokens of"
      " the same logits with theirs",
      READING,
      row["over reading"],
    )
    for row in rows
  ]
  rows.append(_token_row("bare KL", _bare_kl, (policy, ref), turns))
  return harness.Part(claims, {}, {"losses of full logits": rows})

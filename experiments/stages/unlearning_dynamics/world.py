# SPDX-License-Identifier: Apache-2.0
"""What is forgotten beside: prompts that share parameters.

A policy `softmax(W x)` over five answers, x the prompt's features, learns one
answer to each of 16 prompts, though not by heart; four are to be forgotten.
Features overlap, so that what is forgotten pulls at what is to be kept, and at
what else is to be forgotten: gradient ascent, which never stops pushing at what
is gone, in some worlds learns one of the four better instead. Exact gradients
of all prompts at once; nothing is sampled.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from jaxalign import divergences, preference

FORGET, RETAIN, FEATURES, ANSWERS = 4, 12, 16, 5  # the last: "I don't know"
LEARNING = (150, 1.0)  # steps and rate of maximum likelihood
STEPS = 3000
LEVELS = (0.5, 0.1)  # of the mean probability of what is forgotten
MATCHED = 0.1  # the level of the claims
NPO_BETA, SIMNPO_BETA = 0.5, 2.5
EVERY = 10
# Rates at which each loss would take some hundred updates.
RATES = {
  "GA": 0.1,
  "GradDiff": 0.1,
  "NPO": 0.3,
  "SimNPO": 1.0,
  "FLAT (TV)": 1.0,
  "FLAT (Pearson)": 0.5,
}


def worlds(seeds: range) -> tuple[np.ndarray, np.ndarray]:
  """Features `[S, prompts, features]` and right answers `[S, prompts]`."""
  draws = [np.random.default_rng(seed) for seed in seeds]
  prompts = FORGET + RETAIN
  features = [draw.standard_normal((prompts, FEATURES)) for draw in draws]
  answers = [draw.integers(0, ANSWERS - 1, prompts) for draw in draws]
  return np.stack(features) / FEATURES**0.5, np.stack(answers)


def _log_probs(weights, features):
  return jax.nn.log_softmax(features @ weights, -1)


def _losses(log_probs, right, ref):
  """Mean losses `[losses]` of the prompts, in the order of `RATES`."""
  forget, retain = right[:FORGET], right[FORGET:]
  dont_know = jnp.exp(log_probs[:FORGET, -1])
  flat = [
    preference.flat_loss(
      divergences.f_divergence(name), dont_know, jnp.exp(forget)
    )
    for name in ("total_variation", "pearson_chi2")
  ]
  # As many prompts to keep as there are to forget, each of them a mean.
  kept = jnp.mean(retain.reshape(FORGET, -1), -1)
  return jnp.stack(
    [
      jnp.mean(loss)
      for loss in (
        preference.ga_loss(forget),
        preference.grad_diff_loss(forget, kept),
        preference.npo_loss(forget, ref[:FORGET], beta=NPO_BETA),
        preference.simnpo_loss(forget, jnp.ones(FORGET), beta=SIMNPO_BETA),
        *flat,
      )
    ]
  )


@jax.jit
def forget(features, answers):
  """Mean probabilities of what is forgotten and kept, `[S, losses, steps]`.

  The third is that of the answer "I don't know" where one is to forget.
  """

  def right_of(weights, x, right):
    log_probs = _log_probs(weights, x)
    return log_probs, jnp.take_along_axis(log_probs, right[:, None], 1)[:, 0]

  def one(x, right):
    def likelihood(weights):
      return -jnp.mean(right_of(weights, x, right)[1])

    def learn(weights, _):
      return weights - LEARNING[1] * jax.grad(likelihood)(weights), None

    start, _ = jax.lax.scan(
      learn, jnp.zeros((FEATURES, ANSWERS)), length=LEARNING[0]
    )
    _, ref = right_of(start, x, right)

    def loss(weights, which):
      log_probs, logps = right_of(weights, x, right)
      return which @ _losses(log_probs, logps, ref)

    def run(which, rate):
      def step(weights, _):
        log_probs, logps = right_of(weights, x, right)
        probs = jnp.exp(logps)
        seen = (
          jnp.mean(probs[:FORGET]),
          jnp.mean(probs[FORGET:]),
          jnp.mean(jnp.exp(log_probs[:FORGET, -1])),
        )
        slope = jax.grad(loss)(weights, which)
        return weights - rate * slope, jnp.stack(seen)

      return jax.lax.scan(step, start, length=STEPS)[1]

    return jax.vmap(run)(jnp.eye(len(RATES)), jnp.array(list(RATES.values())))

  return jnp.moveaxis(jax.vmap(one)(features, answers), -1, 0)


def matched(forgotten, kept, level: float) -> np.ndarray:
  """What is kept `[S, losses]` at a level; NaN where it is never reached."""
  below = forgotten <= level
  first = np.argmax(below, -1)
  found = np.take_along_axis(kept, first[..., None], -1)[..., 0]
  return np.where(below.any(-1), found, np.nan)


def _more(name, statement, better, worse) -> harness.Claim:
  """Claims a paired difference over the worlds that have both."""
  difference = better - worse
  difference = difference[np.isfinite(difference)]
  error = difference.std(ddof=1) / np.sqrt(len(difference))
  return harness.Claim(
    name=name,
    statement=f"{statement}: mean difference over worlds, less"
    f" {harness.STANDARD_ERRORS:g} standard errors",
    theory=0.0,
    measured=difference.mean() - harness.STANDARD_ERRORS * error,
    tolerance=0.0,
    relation=">=",
    interval=harness.confidence_interval(difference),
  )


def _half(samples) -> float:
  """Half of a 95 % interval."""
  low, high = harness.confidence_interval(samples)
  return (high - low) / 2


def _row(name, at, kept, forgotten, dont_know) -> dict:
  """What one loss has done, means over worlds."""
  there = at[MATCHED][np.isfinite(at[MATCHED])]
  row = {"worlds at .1": len(there) / len(kept)}
  row |= {f"kept at {level:g}": np.nanmean(at[level]) for level in LEVELS}
  row |= {
    "+- at .1": _half(there),
    "kept, end": kept[:, -1].mean(),
    "+- end": _half(kept[:, -1]),
    "left, end": forgotten[:, -1].mean(),
    "don't know": dont_know[:, -1].mean(),
  }
  return {"loss": name} | {k: round(float(x), 4) for k, x in row.items()}


def _claims(at_level, last) -> list[harness.Claim]:
  at_level, last = (
    dict(zip(RATES, x.T, strict=True)) for x in (at_level, last)
  )
  matched_forgetting = _more(
    "grad_diff_keeps",
    "kept probability when a tenth is left of what is to be forgotten, GradDiff"
    " over gradient ascent",
    at_level["GradDiff"],
    at_level["GA"],
  )
  long_after = (
    _more(
      f"{key}_does_not_collapse",
      f"kept probability after 3000 updates, {name} over gradient ascent",
      last[name],
      last["GA"],
    )
    for key, name in (("npo", "NPO"), ("simnpo", "SimNPO"))
  )
  return [matched_forgetting, *long_after]


def world(*, seeds: range) -> harness.Part:
  """Claims on what is kept, the table and the paths.

  Args:
    seeds: of features and answers.
  """
  forgotten, kept, dont_know = np.asarray(forget(*worlds(seeds)))
  at = {level: matched(forgotten, kept, level) for level in LEVELS}
  rows = [
    _row(
      name,
      {level: x[:, i] for level, x in at.items()},
      kept[:, i],
      forgotten[:, i],
      dont_know[:, i],
    )
    for i, name in enumerate(RATES)
  ]
  shown = slice(0, None, EVERY)
  curves = {
    "world/losses": np.array(list(RATES)),
    "world/forgotten": forgotten[..., shown],
    "world/kept": kept[..., shown],
  }
  title = "probability of what is kept, by what is left of the forgotten"
  claims = _claims(at[MATCHED], kept[..., -1])
  return harness.Part(claims, curves, {title: rows})


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """What is kept against what is left, and along the updates."""
  figure, (left, right) = plotting.figure(1, 2)
  for i, name in enumerate(curves["world/losses"]):
    forgotten = curves["world/forgotten"][:, i]
    kept = curves["world/kept"][:, i]
    style = plotting.line_style(i)
    left.plot(forgotten.mean(0), kept.mean(0), label=name, **style)
    steps = EVERY * np.arange(kept.shape[-1])
    plotting.band(right, steps, kept, name, **style)
  left.set(
    xlabel="probability of what is forgotten",
    ylabel="probability of what is kept",
    title="16 prompts, 4 to be forgotten",
    xscale="log",
    xlim=(1, 1e-3),
  )
  right.set(
    xlabel="update",
    ylabel="probability of what is kept",
    title="Long after",
    ylim=(0, 1),
  )
  left.legend()
  return figure

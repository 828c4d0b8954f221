# SPDX-License-Identifier: Apache-2.0
"""How noisy sampled gradients are: f-DPG's baseline, BRAIn's normaliser.

The policy has 50 outcomes; the target is its tilt `pi e^(s r)/Z` by normal
scores r. Samples are drawn from the policy.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.distribution_matching import exact
from jaxalign import divergences, preference

N, GROUP, DRAWS = 50, 8, 10_000
TILTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)  # s
BASELINES = ("no baseline", "mean slope")
ESTIMATORS = ("with B", "without B", "plain DPG")


def problem(seed: int):
  """Log-policy `[50]`, log-targets `[tilts, 50]`, scores, draws `[10^4, 8]`."""
  rng = np.random.default_rng(seed)
  logits, scores = rng.standard_normal((2, N))
  log_pi = logits - np.log(np.sum(np.exp(logits)))
  targets = log_pi + np.array(TILTS)[:, None] * scores
  targets[1:] -= np.log(np.sum(np.exp(targets[1:]), -1, keepdims=True))
  drawn = rng.choice(N, (DRAWS, GROUP), p=np.exp(log_pi))
  return log_pi, targets, scores, drawn


@jax.jit
def slopes(log_pi, targets):
  """`f'(t) - f'(1)` of all outcomes `[4 divergences, tilts, 50]`."""
  log_pi = jnp.broadcast_to(log_pi, targets.shape)
  found = [
    preference.fdpg_surrogate(
      divergences.f_divergence(name), log_pi, targets, log_pi
    )
    for name in exact.PAPER
  ]
  return jnp.stack([x.slope for x in found])


def of_one_sample(log_pi, targets) -> np.ndarray:
  """Exact traces `[tilts, 4, baselines]` of f-DPG's gradient of one sample.

  Without a baseline stands the paper's f' itself, `slope + f'(1)`.
  """
  probs, found = np.exp(log_pi), np.asarray(slopes(log_pi, targets))
  at_one = [divergences.f_divergence(x).f_prime_one for x in exact.PAPER]
  scale = np.array([scale for _, scale in exact.PAPER.values()])
  pulls = np.stack(
    [
      found + np.array(at_one)[:, None, None],
      found - (found @ probs)[..., None],
    ],
    -1,
  ) * scale[:, None, None, None]  # fmt: skip
  scores = np.eye(N) - probs  # gradients of log pi in the logits
  sizes = np.sum(scores**2, -1)
  second = np.einsum("x,dtxb,x->tdb", probs, pulls**2, sizes)
  mean = np.einsum("x,dtxb,xy->tdby", probs, pulls, scores)
  return second - np.sum(mean**2, -1)


@jax.jit
def brain_weights(target, proposal):
  """`B - A` of groups `[..., 8]`: BRAIn's gradient in their log-policies."""
  proposal = jnp.broadcast_to(proposal, target.shape)
  return jax.grad(
    lambda x: jnp.sum(preference.brain_loss(x, target, proposal))
  )(proposal)


def of_groups(log_pi, targets, drawn):
  """Traces and relative biases `[tilts, estimators]`, of groups of 8.

  The bias is that of the mean against the gradient of KL(p||pi), in norm.
  """
  target, proposal = targets[:, drawn], log_pi[drawn]
  ratios = np.exp(target - proposal)
  share = ratios / ratios.sum(-1, keepdims=True)
  each = (brain_weights(target, proposal), -share, -ratios / GROUP)
  cells = N * np.arange(DRAWS)[:, None] + drawn
  traces, biases = np.zeros((2, len(TILTS), len(ESTIMATORS)))
  for i, j in np.ndindex(*traces.shape):
    weights = np.asarray(each[j][i])
    placed = np.bincount(cells.ravel(), weights.ravel(), DRAWS * N)
    total = weights.sum(-1, keepdims=True)
    gradients = placed.reshape(DRAWS, N) - total * np.exp(log_pi)
    mean = gradients.mean(0)
    traces[i, j] = np.sum((gradients - mean) ** 2) / DRAWS
    slope = np.exp(log_pi) - np.exp(targets[i])
    size = max(np.linalg.norm(slope), 1e-30)
    biases[i, j] = np.linalg.norm(mean - slope) / size
  return traces, biases


def small_tilt(log_pi, scores) -> float:
  """What with B goes to at small tilts, over s^2: exact to that order.

  There `A - B = s (r - mean r)/8`: the gradient is s times the covariance of
  score and outcome in a sample of 8, whose variance is known.
  """
  probs, n = np.exp(log_pi), GROUP
  score, outcome = scores - probs @ scores, np.eye(N) - probs
  both = probs @ (score[:, None] ** 2 * outcome**2)
  cross = probs @ (score[:, None] * outcome)
  apart = (probs @ score**2) * (probs @ outcome**2)
  unbiased = both / n - ((n - 2) * cross**2 - apart) / (n * (n - 1))
  return ((n - 1) / n) ** 2 * np.sum(unbiased)


def _claims(single, groups, probs, theory) -> list[harness.Claim]:
  spread = 1 - np.sum(probs**2, -1)  # trace of the covariance of grad log pi
  at_one = [divergences.f_divergence(x).f_prime_one for x in exact.PAPER]
  known = np.square(at_one) * spread[:, None]
  ratio = groups[:, 1:, 1] / groups[:, 1:, 0]
  first = spread / GROUP / (TILTS[1] ** 2 * theory)
  kls = single[:, 1:, :2]
  return [
    harness.all_agree(
      "baseline_at_target",
      "f-DPG with the mean slope as baseline, at the target: trace of the"
      " covariance of a sample's gradient, largest over divergences",
      single[:, 0, :, 1],
      tolerance=1e-25,
    ),
    harness.all_agree(
      "no_baseline_at_target",
      "f-DPG without a baseline, at the target: trace less f'(1)^2 (1 - sum"
      " p^2), largest over divergences",
      single[:, 0, :, 0] - known,
      tolerance=1e-13,
    ),
    harness.Claim(
      name="baseline_helps",
      statement="f-DPG of either KL: trace without a baseline over that with"
      " it, smallest over tilts up to 2",
      theory=1.0,
      measured=(kls[..., 0] / kls[..., 1]).min(),
      tolerance=exact.STRICTLY,
      relation=">=",
    ),
    harness.all_agree(
      "brain_at_target",
      "BRAIn at the target: trace of the covariance of the gradient of 8"
      " samples",
      groups[:, 0, 0],
      tolerance=1e-25,
    ),
    harness.Claim(
      name="brain_ratio",
      statement="BRAIn: trace without the self-normalised baseline over that"
      " with it, at tilt .1, over the limit of small tilts; mean over problems",
      theory=1.0,
      measured=np.mean(ratio[:, 0] / first),
      # Of order s, and 10^4 draws.
      tolerance=0.1,
    ),
    harness.Claim(
      name="brain_order",
      statement="BRAIn: trace without the self-normalised baseline over that"
      " with it, smallest over tilts up to 1",
      theory=1.0,
      measured=ratio[:, :-1].min(),
      tolerance=exact.STRICTLY,
      relation=">=",
    ),
  ]


def variance(*, seeds: range) -> harness.Part:
  """Claims on traces at the target and near it, and their tables.

  Args:
    seeds: of policies, scores and draws.
  """
  single, groups, biases, kl, probs, theory = [], [], [], [], [], []
  for seed in seeds:
    log_pi, targets, scores, drawn = problem(seed)
    single.append(of_one_sample(log_pi, targets))
    traces, bias = of_groups(log_pi, targets, drawn)
    groups.append(traces)
    biases.append(bias)
    kl.append(np.sum(np.exp(targets) * (targets - log_pi), -1))
    probs.append(np.exp(log_pi))
    theory.append(small_tilt(log_pi, scores))
  single, groups, kl = map(np.stack, (single, groups, kl))
  title = "f-DPG, trace of the covariance of a sample's gradient"
  tables = {
    f"{title}, {how}": harness.rows(
      tilt=TILTS,
      KL=kl.mean(0),
      **{x: single[:, :, i, j].mean(0) for i, x in enumerate(exact.LABELS)},
    )
    for j, how in enumerate(BASELINES)
  } | {
    "BRAIn, trace of the covariance of the gradient of 8 samples": harness.rows(
      tilt=TILTS,
      KL=kl.mean(0),
      **{name: groups[..., i].mean(0) for i, name in enumerate(ESTIMATORS)},
      **{"bias with B": np.mean(biases, 0)[:, 0]},
    ),
  }
  curves = {"variance/single": single, "variance/groups": groups}
  return harness.Part(
    _claims(single, groups, np.stack(probs), np.array(theory)),
    curves | {"variance/kl": kl},
    tables,
  )


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Traces by the distance of the target."""
  figure, (left, right) = plotting.figure(1, 2)
  kl = curves["variance/kl"].mean(0)[1:]
  for i, label in enumerate(exact.LABELS):
    for j, how in enumerate(BASELINES):
      style = plotting.line_style(i) | {"linestyle": ("--", "-")[j]}
      trace = curves["variance/single"].mean(0)[1:, i, j]
      left.plot(kl, trace, label=f"{label}, {how}", **style)
  for i, name in enumerate(ESTIMATORS):
    trace = curves["variance/groups"].mean(0)[1:, i]
    right.plot(kl, trace, label=name, **plotting.line_style(i))
  for axes, title in ((left, "f-DPG, one sample"), (right, "BRAIn, 8 samples")):
    axes.set(xlabel="KL(target||policy), nats", title=title)
    axes.set(xscale="log", yscale="log", ylabel="trace of the covariance")
  handles, labels = left.get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4)
  right.legend()
  return figure

# SPDX-License-Identifier: Apache-2.0
"""Estimates of KL(policy||ref) from samples: bias, variance, gradients.

Paper: Schulman, Approximating KL Divergence (2020); A Comedy of Estimators
(2512.21852), for the gradients.
Claims: (1) on unit Gaussians d apart, standard deviations and biases over the
KL. Expected at d = .1: sd 20, 1.418, 1.417 of k1, k2, k3 and bias .0025 of k2;
at d = 1: 2, 1.732, 1.695 and .25; each within five standard errors of the
simulation. k1 and k3 have no bias; from d = 1.12 on k3 is the worse of the two.
(2) By enumeration on categoricals, what each estimator's expected gradient is
in each use. Expected: k1 as a loss 0, k2 that of KL(policy||ref), k3 that of
KL(ref||policy); in the reward only k1 is right, weighted by the ratio k1 and k3
are; to 1e-12, as are all claims by enumeration. (3) By enumeration on random
autoregressive tables: estimates of the sequence KL are unbiased; in the median
their variance grows from Rao-Blackwell over k3 and k1 by tokens to k3 of the
sequence's ratio; three surrogates have the exact gradient, and four that
differentiate token by token lack the score of the prefix. Expected with 3
tokens and 3 steps: relative error .35 in the median.
Command: `python -m experiments.kl_estimators`
About 20 seconds on 2 cores.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from experiments import harness, plotting
from jaxalign.divergences import categorical
from jaxalign.divergences import kl_estimators as estimators
from jaxalign.exact import sequences

KINDS = estimators.KINDS
TABLE_SHIFTS = (0.1, 1.0)  # those of Schulman's table
SHIFTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5)
# Sums of up to a few thousand terms of order 1 in float64, over gradients that
# may be a thousand times smaller.
EXACT = 1e-12
_TINY = 1e-12  # gives a gradient that is 0 but for rounding the cosine 0


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Sizes of the simulation and of the enumerated worlds."""

  draws: int = harness.field(
    1_000_000, smoke=250_000, full=4_000_000, help="Gaussian samples per seed"
  )
  categoricals: int = harness.field(
    200, smoke=20, full=5000, help="random pairs for the gradients by use"
  )
  outcomes: int = harness.field(8, help="outcomes of each categorical")
  tables: int = harness.field(
    1000, smoke=100, full=10_000, help="random pairs of autoregressive tables"
  )
  vocab: int = harness.field(3, help="tokens of the vocabulary")
  length: int = harness.field(3, help="tokens of a sequence")

  def __post_init__(self):
    super().__post_init__()
    least = {
      "draws": 1000,
      "categoricals": 1,
      "outcomes": 2,
      # Fewer have no 95 % interval of the median.
      "tables": 6,
      "vocab": 2,
      "length": 2,
    }
    for name, bound in least.items():
      if getattr(self, name) < bound:
        raise ValueError(
          f"{name} must be at least {bound}, was {getattr(self, name)}"
        )
    if self.vocab**self.length > 1024:
      raise ValueError(
        "vocab ** length must be at most 1024 to be enumerated for every"
        f" table, was {self.vocab}**{self.length}"
      )


def estimates(log_ratio: jax.Array) -> jax.Array:
  """All three estimates `[3, ...]` of log-ratios `[...]`."""
  return jnp.stack(
    [estimators.kl_estimate(log_ratio, kind=kind) for kind in KINDS]
  )


# --- two Gaussians -----------------------------------------------------------


def closed_forms(d: float) -> dict[str, float]:
  """What theory gives for N(0, 1) against N(d, 1), over its KL `d^2/2`."""
  kl = d**2 / 2
  return {
    "sd k1": 2 / d,
    "sd k2": np.sqrt(d**4 / 2 + d**6 / 4) / kl,
    "sd k3": np.sqrt(np.expm1(d**2) - d**2) / kl,
    "bias k1": 0.0,
    "bias k2": d**2 / 4,
    "bias k3": 0.0,
  }


@jax.jit
def samples(d, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Estimates over the KL at samples x `[n]`, and what has their bias as mean.

  The bias of k2 is the mean of k2 - k3: k3 has none, and on the same samples
  the errors of the two all but cancel.
  """
  kl = d**2 / 2
  k1, k2, k3 = k = estimates(d**2 / 2 - x * d) / kl
  return k, jnp.stack([k1 - 1, k2 - k3, k3 - 1])


def standard_errors(d: float, count: int) -> dict[str, float]:
  """Of the same numbers when simulated; fourth moments by quadrature."""
  x, weight = np.polynomial.hermite_e.hermegauss(120)
  weight = weight / weight.sum()

  def moment(sample, power):
    centred = sample - (sample @ weight)[:, None]
    return centred**power @ weight

  k, excess = map(np.asarray, samples(d, jnp.asarray(x)))
  of_variance = np.sqrt((moment(k, 4) - moment(k, 2) ** 2) / count)
  errors = {
    "sd": of_variance / (2 * np.sqrt(moment(k, 2))),
    "bias": np.sqrt(moment(excess, 2) / count),
  }
  return {
    f"{what} {kind}": error
    for what, row in errors.items()
    for kind, error in zip(KINDS, row, strict=True)
  }


@jax.jit(static_argnames="draws")
def simulate(keys: jax.Array, shifts: jax.Array, *, draws: int) -> jax.Array:
  """Standard deviations and biases over the KL `[S, D, 2, 3]`, per seed."""

  def one_seed(key):
    x = jax.random.normal(key, (draws,))

    def one_shift(d):
      k, excess = samples(d, x)
      return jnp.stack([k.std(-1, ddof=1), excess.mean(-1)])

    return jax.lax.map(one_shift, shifts)

  return jax.lax.map(one_seed, keys)


STATISTICS = tuple((what, kind) for what in ("sd", "bias") for kind in KINDS)


def _table_claim(d: float, what: str, kind: str, values, theory, error):
  full = {"sd": "standard deviation", "bias": "bias"}[what]
  return harness.Claim(
    name=f"{what}_{kind}_at_d{d:g}",
    statement=f"{full} of {kind} over the KL, unit Gaussians {d:g} apart",
    theory=theory,
    measured=values.mean(),
    # Exceeded twice in a million by a normal error of the pooled seeds.
    tolerance=5 * error,
    interval=harness.confidence_interval(values),
  )


def _gaussians(config: Config, key: jax.Array):
  keys = jax.random.split(key, config.num_seeds)
  found = np.asarray(simulate(keys, jnp.array(SHIFTS), draws=config.draws))
  found = found.reshape(config.num_seeds, len(SHIFTS), len(STATISTICS))
  claims, rows, standardised = [], [], []
  for i, d in enumerate(SHIFTS):
    theory = closed_forms(d)
    errors = standard_errors(d, config.num_seeds * config.draws)
    columns = [f"{what} {kind}" for what, kind in STATISTICS]
    means = dict(zip(columns, found[:, i].mean(0), strict=True))
    rows.append({"d": d, "": "theory"} | {c: theory[c] for c in columns})
    rows.append({"d": d, "": "simulated"} | means)
    standardised += [means[c] / errors[c] for c in ("bias k1", "bias k3")]
    if d in TABLE_SHIFTS:
      for j, (what, kind) in enumerate(STATISTICS):
        if (name := columns[j]) not in ("bias k1", "bias k3"):
          claims.append(
            _table_claim(
              d, what, kind, found[:, i, j], theory[name], errors[name]
            )
          )
  claims.append(
    harness.Claim(
      name="k1_k3_unbiased",
      statement="largest bias of k1 and k3 over all distances, in standard"
      " errors",
      theory=0.0,
      measured=np.max(np.abs(standardised)),
      tolerance=5.0,
    )
  )
  last = SHIFTS[-1]
  ratios = found[:, -1, 2] / found[:, -1, 0]
  claims.append(
    harness.Claim(
      name="k3_is_worse_far_away",
      statement=f"standard deviation of k3 over that of k1 at {last:g} apart,"
      " above 1",
      theory=1.0,
      measured=ratios.mean(),
      tolerance=0.0,
      relation=">=",
      interval=harness.confidence_interval(ratios),
    )
  )
  curves = {"shifts": np.array(SHIFTS), "gaussians": found}
  return claims, curves, rows


# --- gradients by use, on a categorical --------------------------------------

USES = ("loss", "reward", "ratio")
PENALTIES = ("penalty, on-policy", "penalty, off-policy")
REVERSE, FORWARD = "KL(pi||ref)", "KL(ref||pi)"
# The quantity whose gradient each surrogate has in expectation.
MEANING = {
  ("loss", "k1"): "0",
  ("loss", "k2"): REVERSE,
  ("loss", "k3"): FORWARD,
  ("reward", "k1"): REVERSE,
  ("reward", "k2"): f"E[k2] - {REVERSE}",
  ("reward", "k3"): f"{REVERSE} - {FORWARD}",
  ("ratio", "k1"): REVERSE,
  ("ratio", "k2"): "E[k2]",
  ("ratio", "k3"): REVERSE,
  **{(use, kind): REVERSE for use in PENALTIES for kind in KINDS},
}


def used(use: str, kind: str, logp, ref_logp, old_logp) -> jax.Array:
  """A surrogate's value at every outcome; the samples do not move with it."""
  fixed = jax.lax.stop_gradient
  if use in PENALTIES:
    old_logp = fixed(logp) if use == "penalty, on-policy" else old_logp
    return estimators.kl_penalty_loss(logp, ref_logp, old_logp, estimator=kind)
  k = estimators.kl_estimate(logp - ref_logp, kind=kind)
  if use == "loss":
    return k
  if use == "reward":
    return fixed(k) * logp
  return jnp.exp(logp - fixed(logp)) * k


def _relative_error(gradient, expected, scale):
  difference = jnp.linalg.norm(jnp.ravel(gradient - expected))
  return difference / jnp.linalg.norm(jnp.ravel(scale))


def _cosine(a, b):
  a, b = jnp.ravel(a), jnp.ravel(b)
  return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b) + _TINY)


@jax.jit(static_argnames="outcomes")
def gradients_by_use(
  keys: jax.Array, *, outcomes: int
) -> tuple[jax.Array, jax.Array]:
  """Errors and cosines of the expected gradients, per pair of categoricals.

  Returns:
    `[C, 15]` errors against `MEANING`, in its order, and `[C, 15]` cosines with
    the gradient of KL(pi||ref).
  """

  def one(key):
    policy, ref, old = jax.random.normal(key, (3, outcomes))
    log_pi, log_ref, log_old = jax.nn.log_softmax(jnp.stack([policy, ref, old]))

    def expected_values(x):
      """Means under fixed samplers, and the means that do move with pi."""
      logp = jax.nn.log_softmax(x)
      means = [
        jnp.exp(log_old if use == "penalty, off-policy" else log_pi)
        @ used(use, kind, logp, log_ref, log_old)
        for use, kind in MEANING
      ]
      square = jnp.exp(logp) @ (logp - log_ref) ** 2 / 2
      reverse, forward = categorical.kl(x, ref), categorical.kl(ref, x)
      return jnp.stack(means), jnp.stack([square, reverse, forward])

    gradients, (square, reverse, forward) = jax.jacrev(expected_values)(policy)
    theory = {
      "0": jnp.zeros_like(reverse),
      REVERSE: reverse,
      FORWARD: forward,
      f"{REVERSE} - {FORWARD}": reverse - forward,
      "E[k2]": square,
      f"E[k2] - {REVERSE}": square - reverse,
    }
    theory = jnp.stack([theory[meaning] for meaning in MEANING.values()])
    errors = jax.vmap(lambda g, e: _relative_error(g, e, reverse))
    return errors(gradients, theory), jax.vmap(lambda g: _cosine(g, reverse))(
      gradients
    )

  return jax.vmap(one)(keys)


def _exact_claim(name: str, statement: str, errors) -> harness.Claim:
  return harness.Claim(
    name=name,
    statement=f"{statement}: largest relative error",
    theory=0.0,
    measured=np.max([np.max(np.abs(e)) for e in errors]),
    tolerance=EXACT,
  )


def _categoricals(config: Config, key: jax.Array):
  keys = jax.random.split(key, config.categoricals)
  errors, cosines = map(
    np.asarray, gradients_by_use(keys, outcomes=config.outcomes)
  )
  error = dict(zip(MEANING, errors.T, strict=True))
  cosine = dict(zip(MEANING, np.median(cosines, 0), strict=True))
  claims = [
    _exact_claim(name, statement, [error[cell] for cell in cells])
    for name, statement, cells in (
      (
        "k1_as_loss",
        "k1 as a loss has expected gradient 0",
        [("loss", "k1")],
      ),
      (
        "k2_as_loss",
        "k2 as a loss has the gradient of KL(policy||ref)",
        [("loss", "k2")],
      ),
      (
        "k3_as_loss",
        "k3 as a loss has the gradient of KL(ref||policy)",
        [("loss", "k3")],
      ),
      (
        "k1_in_reward",
        "k1 in the reward has the gradient of KL(policy||ref)",
        [("reward", "k1")],
      ),
      (
        "k3_in_reward",
        "k3 in the reward has the gradient of KL(policy||ref) less"
        " KL(ref||policy)",
        [("reward", "k3")],
      ),
      (
        "ratio_weighted",
        "k1 and k3 times the differentiated ratio have the gradient of"
        " KL(policy||ref)",
        [("ratio", "k1"), ("ratio", "k3")],
      ),
      (
        "k2_elsewhere",
        "k2 times the ratio has the gradient of E[k2], in the reward that less"
        " KL(policy||ref)",
        [("ratio", "k2"), ("reward", "k2")],
      ),
      (
        "penalty_losses",
        "kl_penalty_loss, every estimator, on- and off-policy, has the gradient"
        " of KL(policy||ref)",
        [cell for cell in MEANING if cell[0] in PENALTIES],
      ),
    )
  ]
  rows = [
    {
      "use": use,
      "estimator": kind,
      "gradient of": meaning,
      "largest error": error[use, kind].max(),
      "median cosine": cosine[use, kind],
    }
    for (use, kind), meaning in MEANING.items()
  ]
  by_use = np.array([[cosine[use, kind] for kind in KINDS] for use in USES])
  curves = {"use_errors": errors, "use_cosines": by_use}
  return claims, curves, rows


# --- sequences ---------------------------------------------------------------

VALUES = ("k1", "k3", "Rao-Blackwell", "k3, sequence ratio")
UNBIASED = ("k2 of the sequence", "reward to go", "Rao-Blackwell")
TRUNCATED = ("sum of KL_t", "sum of k2_t", "sum of sg(lr_t) log pi_t", "w k3_t")
SURROGATES = (*UNBIASED, *TRUNCATED, "sum of k3_t")


def estimates_of_sequences(
  table: jax.Array, ref: jax.Array, ids: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Surrogates `[8, N]` and values `[4, N]` for every sequence, as named."""
  logp = sequences.token_log_probs(table, ids)
  ref_logp = sequences.token_log_probs(ref, ids)
  policy_rows = sequences.conditional_log_probs(table, ids)
  ref_rows = sequences.conditional_log_probs(ref, ids)
  rao_blackwell = estimators.rao_blackwell_kl(policy_rows, ref_rows, ids)
  ratio = logp - ref_logp
  k1, k2, k3 = (k.sum(-1) for k in estimates(ratio))
  surrogates = (
    estimators.sequence_kl_k2_surrogate(logp, ref_logp),
    estimators.sequence_kl_to_go_surrogate(logp, ref_logp),
    rao_blackwell.surrogate,
    categorical.kl(policy_rows, ref_rows).sum(-1),
    k2,
    jnp.sum(jax.lax.stop_gradient(ratio) * logp, -1),
    estimators.kl_penalty_loss(logp, ref_logp).sum(-1),
    k3,
  )
  of_sequence = estimators.kl_estimate(ratio.sum(-1), kind="k3")
  values = (k1, k3, rao_blackwell.value, of_sequence)
  return jnp.stack(surrogates), jnp.stack(values)


def sequence_kl(table: jax.Array, ref: jax.Array, ids: jax.Array) -> jax.Array:
  """KL between the laws of whole sequences, by enumeration."""
  return categorical.kl(
    sequences.sequence_log_probs(table, ids),
    sequences.sequence_log_probs(ref, ids),
  )


def prefix_score(table: jax.Array, ref: jax.Array, ids: jax.Array) -> jax.Array:
  """Gradient through the law of the prefixes alone, every `KL_t` held fixed."""
  token_kl = categorical.kl(
    sequences.conditional_log_probs(table, ids),
    sequences.conditional_log_probs(ref, ids),
  ).sum(-1)
  fixed = jax.lax.stop_gradient(token_kl)
  return jax.grad(lambda x: sequences.expectation(x, fixed))(table)


@jax.jit(static_argnames=("vocab", "length"))
def enumerate_tables(keys: jax.Array, *, vocab: int, length: int) -> dict:
  """Everything about estimators on random tables, leading axis `len(keys)`."""
  ids = sequences.enumerate_sequences(vocab, length)

  def one(key):
    policy_key, ref_key = jax.random.split(key)
    policy = sequences.random_table(policy_key, vocab, length)
    ref = sequences.random_table(ref_key, vocab, length)

    def mean(x):
      return sequences.expectation(policy, x.T).T

    kl, exact = jax.value_and_grad(sequence_kl)(policy, ref, ids)
    per_sample, value = jax.jacrev(estimates_of_sequences, has_aux=True)(
      policy, ref, ids
    )
    bias = (mean(value) - kl) / kl
    variance = mean((value - mean(value)[:, None]) ** 2)
    per_sample = per_sample.reshape(*per_sample.shape[:2], -1)
    gradient = jax.vmap(lambda x: sequences.expectation(policy, x))(per_sample)
    spread = jnp.sum((per_sample - gradient[:, None]) ** 2, -1)
    truncated = gradient[len(UNBIASED) : -1]
    return {
      "kl": kl,
      "bias": bias,
      "variance": variance,
      "error": jax.vmap(lambda g: _relative_error(g, jnp.ravel(exact), exact))(
        gradient
      ),
      "cosine": jax.vmap(lambda g: _cosine(g, exact))(gradient),
      "noise": mean(spread),
      "disagreement": jax.vmap(
        lambda g: _relative_error(g, truncated[0], exact)
      )(truncated),
      "left_out": _relative_error(prefix_score(policy, ref, ids), 0, exact),
    }

  return jax.lax.map(one, keys, batch_size=50)


def median_interval(x: np.ndarray) -> tuple[float, float]:
  """95 % interval of the median by order statistics (normal approximation)."""
  x, half = np.sort(x), 0.98 * np.sqrt(x.size)
  low = max(int(np.floor(x.size / 2 - half)), 0)
  high = min(int(np.ceil(x.size / 2 + half)), x.size - 1)
  return float(x[low]), float(x[high])


def _below_one(name: str, statement: str, ratio: np.ndarray) -> harness.Claim:
  return harness.Claim(
    name=name,
    statement=f"{statement}: median ratio over tables",
    theory=1.0,
    measured=np.median(ratio),
    tolerance=0.0,
    relation="<=",
    interval=median_interval(ratio),
  )


def _sequences(config: Config, key: jax.Array):
  keys = jax.random.split(key, config.tables)
  found = {
    name: np.asarray(x)
    for name, x in enumerate_tables(
      keys, vocab=config.vocab, length=config.length
    ).items()
  }
  k1, k3, rao_blackwell, k3_sequence = found["variance"].T
  noise = dict(zip(SURROGATES, found["noise"].T, strict=True))
  unbiased = found["error"][:, : len(UNBIASED)]
  truncated = found["error"][:, len(UNBIASED)]
  claims = [
    _exact_claim(
      "sequence_values_unbiased",
      "all four estimates of the sequence KL have its mean",
      [found["bias"]],
    ),
    _below_one(
      "rao_blackwell_below_k3",
      "variance of the Rao-Blackwell estimate below that of k3",
      rao_blackwell / k3,
    ),
    _below_one(
      "k3_below_k1", "variance of k3 by tokens below that of k1", k3 / k1
    ),
    _below_one(
      "k1_below_sequence_k3",
      "variance of k1 below that of k3 on the sequence's ratio",
      k1 / k3_sequence,
    ),
    _exact_claim(
      "exact_surrogates",
      "k2 of the sequence, reward to go and Rao-Blackwell surrogates have the"
      " gradient of the sequence KL",
      [unbiased],
    ),
    _exact_claim(
      "truncated_surrogates_agree",
      "sum of KL_t, of k2_t, of sg(lr_t) log pi_t and token penalties have one"
      " expected gradient",
      [found["disagreement"]],
    ),
    harness.Claim(
      name="truncated_error",
      statement="relative gradient error of the token by token surrogates is"
      " the score of the prefix left out: median over tables",
      theory=np.median(found["left_out"]),
      measured=np.median(truncated),
      tolerance=EXACT,
      interval=median_interval(truncated),
    ),
    _below_one(
      "rao_blackwell_gradient_noise",
      "variance of the Rao-Blackwell gradient below that of reward to go",
      noise["Rao-Blackwell"] / noise["reward to go"],
    ),
    _below_one(
      "to_go_gradient_noise",
      "variance of the reward to go gradient below that of k2 of the sequence",
      noise["reward to go"] / noise["k2 of the sequence"],
    ),
  ]
  value_rows = [
    {
      "estimate": name,
      "largest bias": np.abs(found["bias"][:, i]).max(),
      "median variance": np.median(found["variance"][:, i]),
      "below k1, share": np.mean(found["variance"][:, i] < k1),
    }
    for i, name in enumerate(VALUES)
  ]
  gradient_rows = [
    {
      "surrogate": name,
      "median error": np.median(found["error"][:, i]),
      "largest error": found["error"][:, i].max(),
      "median cosine": np.median(found["cosine"][:, i]),
      "median variance": np.median(found["noise"][:, i]),
    }
    for i, name in enumerate(SURROGATES)
  ]
  curves = {
    "value_variances": found["variance"],
    "gradient_errors": found["error"],
    "gradient_noise": found["noise"],
    "sequence_kls": found["kl"],
  }
  return claims, curves, value_rows, gradient_rows


# --- the experiment ----------------------------------------------------------


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Simulates the Gaussians and enumerates the rest."""
  stages: dict[str, Callable] = {
    "gaussians": _gaussians,
    "categoricals": _categoricals,
    "sequences": _sequences,
  }
  keys = jax.random.split(config.key(), len(stages))
  claims, curves, tables = [], {}, []
  for name, key in harness.track(
    list(zip(stages, keys, strict=True)), "estimators", progress=progress
  ):
    found, arrays, *rows = stages[name](config, key)
    claims += found
    curves |= arrays
    tables += rows
  titles = (
    "unit Gaussians d apart",
    "expected gradient by use",
    "estimates of the sequence KL",
    "surrogates of the sequence KL",
  )
  return harness.Results(
    experiment="kl_estimators",
    paper="Approximating KL Divergence (Schulman 2020);"
    " A Comedy of Estimators (2512.21852)",
    claims=tuple(claims),
    curves=curves,
    tables=dict(zip(titles, tables, strict=True)),
  )


# --- plots -------------------------------------------------------------------


def _plot_gaussians(results: harness.Results):
  figure, (spread, bias) = plotting.figure(1, 2)
  shifts = results.curves["shifts"]
  found = results.curves["gaussians"].mean(0)
  fine = np.linspace(shifts.min(), shifts.max(), 200)
  theory = [closed_forms(d) for d in fine]
  for i, kind in enumerate(KINDS):
    for axes, what, column in ((spread, "sd", i), (bias, "bias", 3 + i)):
      (line,) = axes.plot(
        fine, [t[f"{what} {kind}"] for t in theory], label=kind
      )
      axes.plot(shifts, found[:, column], "o", color=line.get_color())
  spread.set(
    xscale="log",
    yscale="log",
    title="standard deviation / KL",
    ylabel="standard deviation of one sample / KL",
  )
  bias.set(title="bias / KL", ylabel="bias / KL")
  for axes in (spread, bias):
    axes.set(xlabel="distance d of the unit Gaussians")
    axes.legend(title="line: theory, dots: simulation")
  return figure


def _plot_gradients(results: harness.Results):
  figure, (by_use, by_surrogate) = plotting.figure(1, 2, width=5.2)
  cosines = results.curves["use_cosines"]
  for i, kind in enumerate(KINDS):
    by_use.bar(
      np.arange(len(USES)) + 0.27 * (i - 1), cosines[:, i], 0.25, label=kind
    )
  by_use.axhline(1, color="black", linewidth=0.8)
  by_use.set_xticks(
    range(len(USES)), ["as a loss", "in the reward", "ratio-weighted"]
  )
  by_use.set(
    ylabel="cosine with grad KL(pi||ref)",
    title="one categorical: direction of the expected gradient",
    ylim=(min(0, cosines.min()) - 0.05, 1.35),
  )
  by_use.legend(ncols=3, loc="upper left")
  errors = results.curves["gradient_errors"]
  positions = np.arange(len(SURROGATES))
  low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95], 0)
  colors = ["C2"] * len(UNBIASED) + ["C3"] * (len(SURROGATES) - len(UNBIASED))
  by_surrogate.barh(
    positions,
    middle,
    xerr=[middle - low, high - middle],
    color=colors,
    error_kw={"elinewidth": 0.8},
  )
  by_surrogate.set_yticks(positions, SURROGATES)
  by_surrogate.invert_yaxis()
  by_use.set_axisbelow(True)
  by_surrogate.set_axisbelow(True)
  by_surrogate.set(
    xscale="log",
    xlabel="relative error (median, 5 to 95 % of tables)",
    title="sequences: error of the expected gradient",
  )
  return figure


def _plot_variances(results: harness.Results):
  figure, (by_value, by_gradient) = plotting.figure(1, 2, width=5.2)
  for axes, samples, names, title in (
    (
      by_value,
      results.curves["value_variances"],
      VALUES,
      "values of the sequence KL",
    ),
    (
      by_gradient,
      results.curves["gradient_noise"][:, : len(UNBIASED)],
      UNBIASED,
      "gradients of the exact surrogates",
    ),
  ):
    for i, name in enumerate(names):
      x = np.sort(samples[:, i])
      axes.plot(x, (np.arange(x.size) + 0.5) / x.size, label=name)
    axes.set(
      xscale="log",
      xlabel="variance of one sequence's estimate",
      ylabel="share of random tables below",
      title=title,
    )
    axes.legend()
  return figure


def plot(results: harness.Results) -> dict:
  """Bias and spread against distance, gradients, variances over tables."""
  return {
    "gaussians": _plot_gaussians(results),
    "gradients": _plot_gradients(results),
    "variances": _plot_variances(results),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)

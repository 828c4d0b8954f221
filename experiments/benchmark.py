# SPDX-License-Identifier: Apache-2.0
"""Speed, as ratios against a peer that runs in turn in the same process.

Paper: none; these are the project's own promises.
Claims: a ratio and the bound that it must keep, one for each comparison.
Command: `python -m experiments.benchmark`
Expected: every categorical divergence at most 1.3 times its unsafe form, value
and gradient; ten thousands of Nash solves at least 50 times a NumPy loop;
a masked ELBO of 8 draws at most 1.15 times 8 forwards; exact any-order
likelihoods of 12 tokens at least 50 times a NumPy loop; a cached sample at most
1.2 times its forwards, whose number is the formula's; policy-gradient losses of
64 completions of 512 tokens at most 2 times a copy of what they read;
preference losses of 4096 pairs compiled within .5 s, at most 2 times plain DPO,
faster than NumPy and equal to it; those of full logits at most 1.3 times
reading them; `token_logprobs` at most a fifth of the memory and 1.05 times the
time of dense logits; `import jaxalign` adds at most 0.3 s.
About 300 seconds on 2 cores. What does not hold: the bounds of policy losses,
of losses of full logits, of `aot` (which sorts) and of single cheap losses
against NumPy. Their tables show why beside them: the bare formula of a policy
loss and of a KL, two sorts, and a call that subtracts two arrays take as long.

A ratio is the median over turns of (time of ours / time of the peer), so that
a machine whose speed drifts cancels. Peers: XLA without care for zeros, scipy,
distrax, NumPy; the test extra installs them.
"""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from absl import app

from experiments import harness, plotting
from experiments.stages.benchmark import (
  diffusion,
  policy_gradients,
  preference_losses,
  timing,
  token_logprobs,
)
from jaxalign import divergences
from jaxalign import social_choice as sc


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Sizes of the comparisons."""

  rows: int = harness.field(512, smoke=64, help="rows of logits")
  vocab: int = harness.field(32768, smoke=4096, help="outcomes of each row")
  turns: int = harness.field(11, smoke=3, help="paired timings a comparison")
  instances: int = harness.field(100_000, smoke=1000, help="Nash games solved")
  loop: int = harness.field(40, smoke=5, help="games that the peer solves")
  sequences: int = harness.field(
    1000, smoke=20, help="exact any-order likelihoods"
  )
  samples: int = harness.field(
    1000, smoke=50, least=2, help="samples whose forwards are counted"
  )


# --- divergences -------------------------------------------------------------


def _unsafe(share: Callable) -> Callable:
  """A divergence without care for zeros: `share` of `(log p, log q, p, q)`."""

  def value(p_logits, q_logits):
    a, b = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
    return jnp.sum(share(a, b, jnp.exp(a), jnp.exp(b)), -1)

  return value


def _unsafe_jensen_shannon(a, b, p, q):
  m = jnp.log((p + q) / 2)
  return (p * (a - m) + q * (b - m)) / 2


UNSAFE = {
  "kl": lambda a, b, p, q: p * (a - b),
  "reverse_kl": lambda a, b, p, q: q * (b - a),
  "jensen_shannon": _unsafe_jensen_shannon,
  "jeffreys": lambda a, b, p, q: (p - q) * (a - b),
  "total_variation": lambda a, b, p, q: jnp.abs(p - q) / 2,
  "pearson_chi2": lambda a, b, p, q: (p - q) ** 2 / q,
  "neyman_chi2": lambda a, b, p, q: (p - q) ** 2 / p,
  "squared_hellinger": lambda a, b, p, q: (jnp.sqrt(p) - jnp.sqrt(q)) ** 2 / 2,
  "le_cam": lambda a, b, p, q: (p - q) ** 2 / (p + q) / 2,
  "alpha": lambda a, b, p, q: (jnp.exp(1.5 * a - 0.5 * b) - p) / 0.75,
  "hockey_stick": lambda a, b, p, q: jnp.maximum(p - 1.5 * q, 0),
}
PARAMETERS = {"alpha": {"alpha": 1.5}, "hockey_stick": {"gamma": 1.5}}


def _with_gradient(value: Callable) -> Callable:
  return jax.jit(
    jax.value_and_grad(lambda p, q: jnp.sum(value(p, q)), argnums=(0, 1))
  )


def _divergence_ratios(config: Config, key: jax.Array, progress: bool):
  p_key, q_key = jax.random.split(key)
  shape = (config.rows, config.vocab)
  p = 2 * jax.random.normal(p_key, shape, jnp.float32)
  q = p + jax.random.normal(q_key, shape, jnp.float32)
  rows = []
  for name in harness.track(UNSAFE, "divergences", progress=progress):
    div = divergences.f_divergence(name, **PARAMETERS.get(name, {}))

    def ours(p, q, div=div):
      return divergences.categorical_f_divergence(div, p, q)

    peer = _unsafe(UNSAFE[name])
    time_value, value = timing.paired_ratio(
      jax.jit(ours), jax.jit(peer), (p, q), config.turns
    )
    time_grad, gradient = timing.paired_ratio(
      _with_gradient(ours), _with_gradient(peer), (p, q), config.turns
    )
    rows.append(
      {
        "divergence": name,
        "value, ms": 1e3 * time_value,
        "value, ratio": value,
        "with gradient, ms": 1e3 * time_grad,
        "with gradient, ratio": gradient,
      }
    )
  return rows, (p, q)


def _distrax_kl(p_logits, q_logits):
  return distrax.Categorical(logits=p_logits).kl_divergence(
    distrax.Categorical(logits=q_logits)
  )


def _library_ratios(config: Config, logits) -> dict[str, float]:
  kl = jax.jit(divergences.kl)
  probabilities = [np.asarray(jax.nn.softmax(x)) for x in logits]

  def scipy_kl(*_):  # given the probabilities for nothing
    return scipy.special.rel_entr(*probabilities).sum(-1)

  turns = config.turns
  return {
    "scipy": timing.paired_ratio(kl, scipy_kl, logits, turns)[1],
    "distrax": timing.paired_ratio(kl, jax.jit(_distrax_kl), logits, turns)[1],
    "distrax, gradient": timing.paired_ratio(
      _with_gradient(divergences.kl), _with_gradient(_distrax_kl), logits, turns
    )[1],
  }


# --- Nash equilibria ---------------------------------------------------------


def _numpy_nash(log_ref, margins, inv_lam):
  """The regularised equilibrium by the same method, one game at a time."""
  values = margins @ np.exp(log_ref)

  def error(values, strength):
    weights = np.exp(log_ref + strength * values)
    policy = weights / weights.sum()
    return values - margins @ policy, policy

  path = [*np.geomspace(0.1, inv_lam, 60), *[inv_lam] * 5]  # then polished
  for strength in path:
    for _ in range(3):
      residual, policy = error(values, strength)
      covariance = np.diag(policy) - np.outer(policy, policy)
      jacobian = np.eye(len(values)) - strength * margins @ covariance
      direction = np.linalg.solve(jacobian, residual)
      length = 1.0
      while (
        length > 1 / 64
        and np.abs(error(values - length * direction, strength)[0]).max()
        > np.abs(residual).max()
      ):
        length /= 2
      values = values - length * direction
  return error(values, inv_lam)[1]


def _scipy_nash(log_ref, margins, inv_lam):
  """The regularised equilibrium by MINPACK along the same path."""

  def error(values, strength):
    return values - margins @ scipy.special.softmax(log_ref + strength * values)

  values = margins @ np.exp(log_ref)
  for strength in np.geomspace(0.1, inv_lam, 60):
    values = scipy.optimize.root(error, values, (strength,)).x
  return scipy.special.softmax(log_ref + inv_lam * values)


@harness.double_precision
def _nash_ratios(config: Config, key: jax.Array) -> list[dict]:
  games, refs = jax.random.split(key)
  size = (config.instances, 3)
  wins = jax.random.uniform(games, (*size, 3))
  margins = (wins - jnp.swapaxes(wins, -1, -2)) / 2
  log_ref = jax.nn.log_softmax(jax.random.normal(refs, size))
  inv_lam = 100.0
  solve = jax.jit(
    lambda log_ref, margins: jax.lax.map(
      lambda game: jnp.exp(sc.regularized_nash(*game, inv_lam).log_policy),
      (log_ref, margins),
      batch_size=min(10_000, config.instances),
    )
  )
  policies = np.asarray(solve(log_ref, margins))
  ours = timing.seconds(solve, log_ref, margins) / config.instances
  rows = []
  for name, peer in (("NumPy", _numpy_nash), ("scipy", _scipy_nash)):
    start = time.perf_counter()
    found = [
      peer(np.asarray(log_ref[i]), np.asarray(margins[i]), inv_lam)
      for i in range(config.loop)
    ]
    theirs = (time.perf_counter() - start) / config.loop
    rows.append(
      {
        "peer": name,
        "ours, us a game": 1e6 * ours,
        "peer, us a game": 1e6 * theirs,
        "ratio": theirs / ours,
        "largest difference": np.abs(policies[: config.loop] - found).max(),
      }
    )
  return rows


# --- import ------------------------------------------------------------------


def _import_seconds(turns: int) -> float:
  """Median seconds that `import jaxalign` adds to its dependencies' import."""
  code = (
    "import time, jax, flax.linen, optax; start = time.perf_counter();"
    "import jaxalign; print(time.perf_counter() - start)"
  )
  command = [sys.executable, "-c", code]
  return float(
    np.median(
      [
        float(subprocess.run(command, capture_output=True, check=True).stdout)
        for _ in range(min(turns, 5))
      ]
    )
  )


def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Times everything; ratios that must be small come first."""
  logits_key, games_key, masks_key, batch_key = jax.random.split(
    config.key(), 4
  )
  rows, logits = _divergence_ratios(config, logits_key, progress)
  libraries = _library_ratios(config, logits)
  nash = _nash_ratios(config, games_key)
  masks = diffusion.diffusion_part(
    masks_key,
    turns=config.turns,
    num_sequences=config.sequences,
    loop=min(config.loop, config.sequences, 4),
    samples=config.samples,
  )
  # Calls of microseconds need more turns.
  losses = (
    policy_gradients.policy_gradient_part(batch_key, turns=20 * config.turns),
    preference_losses.pair_part(turns=20 * config.turns),
    preference_losses.token_part(turns=config.turns),
    token_logprobs.token_logprobs_part(turns=config.turns),
  )
  claims = (
    harness.Claim(
      name="divergence values",
      statement="slowest safe categorical divergence over its unsafe form",
      theory=1.3,
      measured=harness.largest(row["value, ratio"] for row in rows),
      tolerance=0,
      relation="<=",
    ),
    harness.Claim(
      name="divergence gradients",
      statement="the same with the gradient of both arguments",
      theory=1.3,
      measured=harness.largest(row["with gradient, ratio"] for row in rows),
      tolerance=0,
      relation="<=",
    ),
    *(
      harness.Claim(
        name=f"KL against {name}",
        statement=f"time of our KL over that of {name}",
        theory=1.0,
        measured=ratio,
        tolerance=0,
        relation="<=",
      )
      for name, ratio in libraries.items()
    ),
    *(
      harness.Claim(
        name=f"Nash against {row['peer']}",
        statement=f"time of a {row['peer']} loop over that of one program",
        theory=50.0,
        measured=row["ratio"],
        tolerance=0,
        relation=">=",
      )
      for row in nash
    ),
    harness.Claim(
      name="Nash agreement",
      statement="largest difference between our equilibria and the peers'",
      theory=0.0,
      measured=harness.largest(row["largest difference"] for row in nash),
      # Both stop at roundings of the payoffs, which 1/lam = 100 multiplies.
      tolerance=1e-10,
    ),
    *masks.claims,
    *(claim for part in losses for claim in part.claims),
    harness.Claim(
      name="import",
      statement="seconds that `import jaxalign` adds",
      theory=0.3,
      measured=_import_seconds(config.turns),
      tolerance=0,
      relation="<=",
    ),
  )
  return harness.Results(
    experiment="benchmark",
    paper="none: the project's own promises",
    claims=claims,
    tables={
      "divergences against their unsafe forms": rows,
      "Nash": nash,
      **{title: rows for part in losses for title, rows in part.tables.items()},
    },
  )


def plot(results: harness.Results) -> dict:
  """Ratios of every divergence, against the bound."""
  rows = results.tables["divergences against their unsafe forms"]
  fig, (axes,) = plotting.figure(width=7)
  x = np.arange(len(rows))
  for shift, column in ((-0.2, "value, ratio"), (0.2, "with gradient, ratio")):
    axes.bar(x + shift, [row[column] for row in rows], 0.4, label=column)
  axes.axhline(1.3, color="black", linestyle="--", linewidth=1, label="bound")
  axes.set_xticks(x, [row["divergence"] for row in rows], rotation=30)
  axes.set_ylabel("time over unsafe XLA")
  axes.legend()
  return {"divergences": fig}


def main(argv):
  """Runs the comparisons from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)

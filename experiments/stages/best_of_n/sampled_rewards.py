# SPDX-License-Identifier: Apache-2.0
"""Best-of-n from rewards of samples of a base policy.

Measures KL and expected reward, with bootstrap intervals, on samples of known
laws or of a file; against the bound, and on known laws the exact reward.
"""

import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.best_of_n import bounds, known_laws
from experiments.stages.best_of_n.bounds import EXACT
from jaxalign import checks, data
from jaxalign.divergences import categorical
from jaxalign.inference import best_of_n as bon

SHOWN_PROMPTS = 20
PLOTTED_PROMPTS = 6


def _write(path: str, rewards: data.Rewards) -> data.Rewards:
  """Writes a new file and reads it back."""
  folder = pathlib.Path(path).parent
  if not folder.is_dir():
    raise checks.InputError(f"{path}: there is no directory {folder}")
  data.write_rewards(path, rewards)
  return data.read_rewards(path)


@jax.jit(static_argnames="ties")
def on_samples(times, rewards, n, *, ties: str) -> dict[str, jax.Array]:
  """Best-of-n where each of M samples counts so many times.

  Args:
    times: `[C, B, M]`, C chunks of B resamples that are worked on at once.
    rewards: `[M]`.
    n: `[N]`.
    ties: as in `best_of_n.log_pmf`.

  Returns:
    `kl`, `estimate` and `reward`, `[C, B, N]`.
  """

  def at(times, n):
    log_p = jnp.where(times > 0, jnp.log(jnp.maximum(times, 1)), -jnp.inf)
    log_p -= jnp.log(jnp.sum(times))
    log_pi = bon.log_pmf(log_p, rewards, n, ties=ties)
    estimates = bon.kl_estimator(log_p, n)
    return {
      "kl": categorical.kl(log_pi, log_p),
      "estimate": jnp.sum(jnp.exp(log_pi) * estimates),
      "reward": jnp.sum(jnp.exp(log_pi) * rewards),
    }

  of_chunk = jax.vmap(jax.vmap(at, (None, 0)), (0, None))
  return jax.lax.map(lambda times: of_chunk(times, n), times)


def resample(key, count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """How often each sample is drawn `[C, B, M]`; the first row is once each."""
  bits = np.asarray(jax.random.bits(key, shape, jnp.uint32), np.uint64)
  drawn = (bits[..., :count] * np.uint64(count)) >> np.uint64(32)
  size = shape[-1]
  rows = np.arange(shape[0] * shape[1]).reshape(*shape[:2], 1) * size
  cells = np.ravel(rows + drawn.astype(np.int64))
  times = np.bincount(cells, minlength=math.prod(shape)).reshape(shape)
  times[0, 0] = np.arange(size) < count
  return times


def _summarise(
  key: jax.Array,
  found: data.Rewards,
  n: np.ndarray,
  *,
  ties: str,
  bootstrap: int,
  progress: bool,
) -> dict[str, np.ndarray]:
  """Numbers `[P, 1 + B, N]`: of each prompt's samples, and of B resamples."""
  size = max(len(x) for x in found.rewards)
  count = 1 + bootstrap
  # As many at once as fill about 10 MB an array.
  batch = max(1, min(count, 1_000_000 // (size * n.size)))
  shape = (-(-count // batch), batch, size)
  rows = []
  for i, x in harness.track(
    list(enumerate(found.rewards)), "prompts", progress=progress
  ):
    times = resample(jax.random.fold_in(key, i), len(x), shape)
    padded = np.pad(x, (0, size - len(x)))
    rows.append(on_samples(times, padded, n, ties=ties))
  return {
    k: np.stack([np.reshape(row[k], (-1, n.size))[:count] for row in rows])
    for k in rows[0]
  }


def _with_interval(estimates: np.ndarray) -> np.ndarray:
  """Value and percentile interval `[3, ..., N]` of `[..., 1 + B, N]`."""
  low, high = np.quantile(estimates[..., 1:, :], [0.025, 0.975], -2)
  return np.stack([estimates[..., 0, :], low, high])


def _on_known_laws(
  reward: np.ndarray, n: np.ndarray, asked: np.ndarray, samples: int
) -> tuple[harness.Claim, list[dict], np.ndarray]:
  """Rewards `[3, P, N]` on the known laws against the exact ones."""
  deviations, rows, exact = [], [], []
  few = n <= samples / 10
  for i, (name, law) in enumerate(known_laws.known_laws().items()):
    mean, variance = law.best_of(n)
    # A mean over all n-subsets of N samples has at most n/N of the variance of
    # one of them (Hoeffding); what is added is for rounding.
    error = np.sqrt(n * np.maximum(variance, 0) / samples) + 1e-9
    deviations.append(((reward[0, i] - mean) / error)[few])
    exact.append(mean)
    rows += harness.rows(
      law=name,
      n=n[asked].astype(int),
      exact=mean[asked],
      from_samples=reward[0, i, asked],
      low=reward[1, i, asked],
      high=reward[2, i, asked],
    )
  claim = harness.all_agree(
    "reward_of_known_laws",
    "expected reward of best-of-n from samples of known laws against the exact"
    " one, in standard errors, n up to a tenth of the samples: largest"
    " difference",
    deviations,
    tolerance=harness.STANDARD_ERRORS,
  )
  return claim, rows, np.stack(exact)


def _claims_on_samples(
  found: data.Rewards, n: np.ndarray, kl: np.ndarray, reward: np.ndarray
) -> list[harness.Claim]:
  """What holds of any samples: of KLs and rewards `[P, N]`."""
  scale = np.array([np.max(np.abs(x)) for x in found.rewards])[:, None]
  fall = -np.diff(reward, axis=1) / np.where(scale > 0, scale, 1)
  return [
    harness.none_exceeds(
      "samples_kl_below_bound",
      "KL of best-of-n from the empirical base of each prompt at most log n -"
      " (n-1)/n: largest excess",
      [kl - bounds.kl_bound(n)],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "samples_reward_grows",
      "expected reward of best-of-n on samples does not fall with n: largest"
      " fall over the largest reward",
      [fall],
      tolerance=EXACT,
    ),
  ]


def _table(
  found: data.Rewards,
  n: np.ndarray,
  asked: np.ndarray,
  *,
  kl: np.ndarray,
  estimate: np.ndarray,
  reward: np.ndarray,
  mean: np.ndarray,
) -> dict[str, list[dict]]:
  """The table of the first prompts and of the mean of all.

  Args:
    found: samples of P prompts.
    n: all n, `[N]`.
    asked: which of them are shown, `[N]`.
    kl: `[P, N]`.
    estimate: `[P, N]`.
    reward: with interval, `[3, P, N]`.
    mean: of the reward over prompts, with interval, `[3, N]`.
  """
  shown = found.prompts[:SHOWN_PROMPTS]
  sizes = [len(x) for x in found.rewards]
  numbers = [
    (prompt, sizes[i], kl[i], estimate[i], reward[:, i])
    for i, prompt in enumerate(shown)
  ]
  numbers.append(
    ("mean of all", sum(sizes), kl.mean(0), estimate.mean(0), mean)
  )
  rows = []
  for prompt, size, its_kl, its_estimate, its_reward in numbers:
    rows += harness.rows(
      prompt=prompt,
      samples=size,
      n=n[asked].astype(int),
      KL=its_kl[asked],
      estimator=its_estimate[asked],
      bound=bounds.kl_bound(n[asked]),
      reward=its_reward[0, asked],
      low=its_reward[1, asked],
      high=its_reward[2, asked],
    )
  title = "rewards of samples, with 95 % bootstrap intervals"
  if len(shown) < len(found.prompts):
    title += f" (first {len(shown)} of {len(found.prompts)} prompts)"
  return {title: rows}


def sampled_rewards(
  key: jax.Array,
  *,
  n: Sequence[int],
  ties: str,
  samples: int,
  bootstrap: int,
  read_from: str = "",
  write_to: str = "",
  progress: bool = True,
) -> harness.Part:
  """Best-of-n on samples of known laws, and on those of a file where given.

  Args:
    key: of samples and resamples.
    n: numbers of draws of which the best is kept.
    ties: as in `best_of_n.log_pmf`.
    samples: of each known law.
    bootstrap: resamples for intervals.
    read_from: a CSV file of prompts and rewards.
    write_to: a new file for the samples of known laws, which are read back.
    progress: whether to show it on a terminal.

  Raises:
    InputError: a file cannot be read or written.
  """
  n, asked = bounds.counts(n)
  known = known_laws.known_rewards(key, samples)
  # Files come first: what is wrong with them is said before anything is done.
  if write_to:
    known = _write(write_to, known)
  found = data.read_rewards(read_from) if read_from else known
  # Of keys that differ from each other and from the one above.
  known_key, found_key = (jax.random.fold_in(key, i) for i in range(2))
  options = {"ties": ties, "bootstrap": bootstrap, "progress": progress}
  summary = known_summary = _summarise(known_key, known, n, **options)
  if read_from:
    summary = _summarise(found_key, found, n, **options)
  kl, estimate = summary["kl"][:, 0], summary["estimate"][:, 0]
  reward = _with_interval(summary["reward"])
  mean = _with_interval(summary["reward"].mean(0))
  known_reward = _with_interval(known_summary["reward"])
  claim, known_rows, exact = _on_known_laws(known_reward, n, asked, samples)
  curves = {
    "samples_n": n,
    "samples_kl": kl,
    "samples_estimate": estimate,
    "samples_reward": reward,
    "samples_mean": mean,
    "known_reward": known_reward,
    "known_exact": exact,
    "prompts": np.array(found.prompts[:SHOWN_PROMPTS]),
  }
  table = _table(
    found, n, asked, kl=kl, estimate=estimate, reward=reward, mean=mean
  )
  return harness.Part(
    [claim, *_claims_on_samples(found, n, kl, reward[0])],
    curves,
    {"rewards of known laws, with 95 % intervals": known_rows} | table,
  )


def _error_bars(axes, n, reward, **style) -> None:
  """Values with their intervals, `[3, N]`."""
  middle, low, high = reward
  axes.errorbar(
    n,
    middle,
    yerr=np.maximum([middle - low, high - middle], 0),
    capsize=2,
    ms=3,
    **style,
  )


def plot(curves: dict[str, np.ndarray]):
  """Rewards on known laws and on the samples, and the KL of the latter."""
  figure, (known, found, kls) = plotting.figure(1, 3, height=3.8)
  n = curves["samples_n"]
  for i, name in enumerate(known_laws.known_laws()):
    style = {"fmt": "o", "color": f"C{i}", "label": name}
    known.plot(n, curves["known_exact"][i], color=f"C{i}")
    _error_bars(known, n, curves["known_reward"][:, i], **style)
  known.set(title="known laws (lines: exact)", ylabel="expected reward")
  few = curves["prompts"][:PLOTTED_PROMPTS]
  for i, prompt in enumerate(few):
    label = str(prompt)
    label = label if len(label) <= 24 else label[:23] + "…"
    reward = curves["samples_reward"][:, i]
    _error_bars(found, n, reward, fmt="o-", label=label)
    kls.plot(n, curves["samples_kl"][i], "o-", ms=3, label=label)
  total = len(curves["samples_kl"])
  more = f", first {len(few)} of {total} prompts" if len(few) < total else ""
  found.set(title=f"rewards of samples{more}", ylabel="expected reward")
  kls.plot(n, bounds.kl_bound(n), "k--", label="log n - (n-1)/n")
  kls.set(title="KL from the empirical base", ylabel="KL, nats")
  for axes in (known, found, kls):
    axes.set_xscale("log", base=2)
    axes.set_xlabel("n")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
  return figure

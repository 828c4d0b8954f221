# SPDX-License-Identifier: Apache-2.0
"""Reproduces every claim: one table on the console, one page of HTML.

Command: `python -m experiments.reproduce --preset=quick`
Writes `OUTPUT_DIR/EXPERIMENT/` for each experiment and `OUTPUT_DIR/index.html`.
Exit code: 0 where every claim holds, 1 where one fails, 2 for unusable input.
"""

import dataclasses
import importlib
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Sequence

from absl import app, flags

from experiments import harness, report
from jaxalign import checks

EXPERIMENTS = (
  "distortion",
  "nash",
  "best_of_n",
  "curation",
  "kl_estimators",
  "divergence_bounds",
  "double_drift",
  "elbo_identities",
  "parallel_sampling",
  "remasking",
  "diffusion_control",
  "surrogate_gradients",
  "kl_placement",
  "rank_bias",
  "diversity",
  "token_shifts",
  "curriculum",
  "self_explanation",
  "risk",
  "mirror_descent",
  "gflownet",
  "flow_critics",
  "value_mapping",
  "tabular_optima",
  "alignment_as_divergence",
  "reward_divergence_frontier",
  "overoptimisation",
  "length_bias",
  "token_kl",
  "distribution_matching",
  "unlearning_dynamics",
  "hidden_subtext",
  "select_subset",
  "knowledge_injection",
  "spectrum_tuning",
  "in_context_uncertainty",
  "domain_sampling",
  "retrain_equivalence",
  "adaptive_holdout",
  "disparate_impact",
  "marginal_matching",
  "few_rounds",
  "failure_modes",
  "strategic_features",
  "panprediction",
  "clusterable_calibration",
  "content_selection",
  "surjectivity",
  "elicit",
)


def _parse(argv: Sequence[str]) -> tuple[str, list[str], int, str]:
  values = flags.FlagValues()
  options = dict(flag_values=values)
  flags.DEFINE_enum(
    "preset", "quick", harness.PRESETS, "size of the runs", **options
  )
  flags.DEFINE_list("only", list(EXPERIMENTS), "which experiments", **options)
  flags.DEFINE_integer("seed", 0, "seed of every experiment", **options)
  flags.DEFINE_string(
    "output_dir", None, "where to write; results/PRESET by default", **options
  )
  flags.DEFINE_bool("help", False, "show this", **options)
  try:
    rest = values(list(argv))
  except flags.Error as error:
    raise ValueError(" ".join(str(error).split())) from None
  if values.help:
    harness.print_out(f"{__doc__}\n{values.get_help()}")
    raise SystemExit(0)
  if len(rest) > 1:
    raise ValueError(f"unexpected argument {rest[1]!r}: flags are --name=value")
  for name in values.only:
    checks.check_choice("experiment", name, EXPERIMENTS)
  output_dir = values.output_dir or os.path.join("results", values.preset)
  return values.preset, values.only, values.seed, output_dir


def main(argv: Sequence[str]) -> int:
  """Runs the experiments one after the other; a crash of one stops no other."""
  try:
    preset, names, seed, output_dir = _parse(argv)
    root = pathlib.Path(output_dir)
    modules = [importlib.import_module(f"experiments.{n}") for n in names]
    configs = [m.Config.from_preset(preset, seed=seed) for m in modules]
    for name, config in zip(names, configs, strict=True):
      harness.check_output_dir(root / name, config)
  except ValueError as error:
    return harness.fail(error)
  harness.set_up(preset)
  start = time.perf_counter()
  records, crashed = [], []
  runs = list(zip(names, modules, configs, strict=True))
  for name, module, config in harness.track(runs, "experiments"):
    try:
      record = harness.execute(module, config, preset, root / name)
    except Exception:
      # Reported below with exit code 1; the other experiments still count.
      crashed.append(name)
      sys.stderr.write(f"{name} crashed:\n{traceback.format_exc()}")
      continue
    records.append((record, root / name))
    held = sum(claim["holds"] for claim in record["claims"])
    sys.stderr.write(
      f"{name}: {held} of {len(record['claims'])} claims hold,"
      f" {record['seconds']:.1f} s\n"
    )
  root.mkdir(parents=True, exist_ok=True)
  index = root / "index.html"
  index.write_text(report.html_report(records), encoding="utf-8")
  harness.print_out(harness.claims_table([record for record, _ in records]))
  claims = [claim for record, _ in records for claim in record["claims"]]
  held = sum(claim["holds"] for claim in claims)
  failures = "".join(f", {name} crashed" for name in crashed)
  harness.print_out(
    f"{held} of {len(claims)} claims hold{failures};"
    f" {time.perf_counter() - start:.0f} s; report: {index}"
  )
  return 0 if held == len(claims) and not crashed else 1


def flags_of(name: str, preset: str) -> dict:
  """The flags with which a preset runs an experiment, as they are recorded."""
  module = importlib.import_module(f"experiments.{name}")
  return harness.to_json(dataclasses.asdict(module.Config.from_preset(preset)))


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)

# SPDX-License-Identifier: Apache-2.0
"""What every experiment shares: configuration, claims, results, a main.

An experiment is a module with a `Config`, a `run(config, *, progress=True)`
that returns `Results`, and a `plot(results)` that returns figures by name. The
console table, the JSON, the plots and the HTML report all come from `Results`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import sys
import time
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.console
import rich.progress
import rich.table
from absl import flags, logging

import jaxalign
from jaxalign import checks

PRESETS = ("smoke", "quick", "full")
SCHEMA_VERSION = 1
# A normal error exceeds as many less than once in a million times.
STANDARD_ERRORS = 5.0
_RELATIONS = {
  "=": lambda measured, theory, tolerance: abs(measured - theory) <= tolerance,
  "<=": lambda measured, theory, tolerance: measured <= theory + tolerance,
  ">=": lambda measured, theory, tolerance: measured >= theory - tolerance,
}


# --- claims and results ------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Claim:
  """One statement of a paper with its number, its measurement and a verdict.

  Attributes:
    name: short identifier, unique in its experiment and equal in every preset.
    statement: one line of prose, equal in every preset.
    theory: the number that the theory gives, computed from the theory.
    measured: the number found.
    tolerance: how far `measured` may be on the wrong side of `relation`.
    relation: "=", "<=" or ">=": measured against theory.
    interval: 95 % confidence interval of `measured`, where it is random.
  """

  name: str
  statement: str
  theory: float
  measured: float
  tolerance: float
  relation: str = "="
  interval: tuple[float, float] | None = None

  def __post_init__(self):
    checks.check_choice("relation", self.relation, _RELATIONS)
    for name in ("theory", "measured", "tolerance"):
      object.__setattr__(self, name, float(getattr(self, name)))

  @property
  def holds(self) -> bool:
    """Whether the measurement agrees; NaN agrees with nothing."""
    if self.measured == self.theory:  # also both infinite
      return True
    compare = _RELATIONS[self.relation]
    return bool(compare(self.measured, self.theory, self.tolerance))


def largest(values: Iterable[Any]) -> float:
  """The maximum of all entries; NaN if one is, where Python's `max` skips it.

  >>> largest([1., np.array([float("nan"), 2.])]), largest([[3.], [1., 2.]])
  (nan, 3.0)
  """
  return float(np.max([np.max(np.asarray(value)) for value in values]))


def all_agree(
  name: str, statement: str, errors: Iterable[Any], *, tolerance: float
) -> Claim:
  """Claims that differences are 0, by the largest absolute one of arrays."""
  return Claim(
    name=name,
    statement=statement,
    theory=0.0,
    measured=largest(np.abs(error) for error in errors),
    tolerance=tolerance,
  )


def none_exceeds(
  name: str, statement: str, excesses: Iterable[Any], *, tolerance: float
) -> Claim:
  """Claims that nothing exceeds its bound, by the largest excess of arrays."""
  return Claim(
    name=name,
    statement=statement,
    theory=0.0,
    measured=largest(excesses),
    tolerance=tolerance,
    relation="<=",
  )


@dataclasses.dataclass(frozen=True)
class Results:
  """What a run found.

  Attributes:
    experiment: name of the binary.
    paper: title and arXiv identifier.
    claims: what is claimed and measured.
    curves: arrays by name, for the plots and for `curves.npz`.
    tables: rows by title; a row maps column names to numbers or text.
  """

  experiment: str
  paper: str
  claims: tuple[Claim, ...]
  curves: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  tables: dict[str, list[dict[str, Any]]] = dataclasses.field(
    default_factory=dict
  )

  @property
  def holds(self) -> bool:
    """Whether every claim holds."""
    return all(claim.holds for claim in self.claims)


class Part(NamedTuple):
  """What one part of an experiment found; the fields are those of `Results`."""

  claims: Sequence[Claim]
  curves: dict[str, np.ndarray]
  tables: dict[str, list[dict[str, Any]]]


def collect(experiment: str, paper: str, parts: Iterable[Part]) -> Results:
  """The results of an experiment in parts, in their order."""
  claims, curves, tables = [], {}, {}
  for part in parts:
    claims += part.claims
    curves |= part.curves
    tables |= part.tables
  return Results(experiment, paper, tuple(claims), curves, tables)


def rows(**columns: Any) -> list[dict[str, Any]]:
  """Rows of a table from its columns; a single entry stands in every row.

  >>> rows(base="coin", n=[1, 2])
  [{'base': 'coin', 'n': 1}, {'base': 'coin', 'n': 2}]
  """
  arrays = {k.replace("_", " "): np.ravel(x) for k, x in columns.items()}
  size = max(x.size for x in arrays.values())
  full = [np.broadcast_to(x, size).tolist() for x in arrays.values()]
  return [
    dict(zip(arrays, row, strict=True)) for row in zip(*full, strict=True)
  ]


def confidence_interval(samples: np.ndarray) -> tuple[float, float]:
  """Normal 95 % interval `mean -+ 1.96 s/sqrt(n)` of the mean of `[n]` values.

  >>> confidence_interval(np.array([1., 1., 1.]))
  (1.0, 1.0)
  """
  samples = np.asarray(samples, np.float64)
  mean = samples.mean()
  half = 1.96 * samples.std(ddof=1) / np.sqrt(samples.size)
  return float(mean - half), float(mean + half)


def bounded_mean(
  name: str, statement: str, values: np.ndarray, bound: float, relation: str
) -> Claim:
  """Claims a bound on the mean of `values` `[n]`, and gives its interval."""
  return Claim(
    name=name,
    statement=statement,
    theory=bound,
    measured=values.mean(),
    tolerance=0.0,
    relation=relation,
    interval=confidence_interval(values),
  )


# --- configuration -----------------------------------------------------------


def field(
  quick: Any,
  *,
  help: str,
  smoke: Any = None,
  full: Any = None,
  least: float | None = None,
  most: float | None = None,
  choices: Sequence[str] | None = None,
) -> Any:
  """A field of a `Config`: its value in each preset and its help text.

  Args:
    quick: the default.
    help: what the flag does, in one line.
    smoke: the value in the smoke preset; `quick`'s where not given.
    full: the value in the full preset; `quick`'s where not given.
    least: the smallest value allowed, of each entry in a tuple.
    most: the largest.
    choices: the values allowed, for text.
  """
  presets = {
    "smoke": quick if smoke is None else smoke,
    "quick": quick,
    "full": quick if full is None else full,
  }
  metadata = {
    "help": help,
    "presets": presets,
    "least": least,
    "most": most,
    "choices": choices,
  }
  return dataclasses.field(default=quick, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
  """Flags that every experiment has; experiments inherit and add theirs."""

  seed: int = field(0, help="seed of every random draw")
  num_seeds: int = field(
    8, smoke=2, full=32, help="independent repetitions for intervals"
  )

  def __post_init__(self):
    if self.num_seeds < 2:
      raise ValueError(
        f"num_seeds must be at least 2 to give intervals, was {self.num_seeds}"
      )
    for f in dataclasses.fields(self):
      value = getattr(self, f.name)
      if value == ():
        raise ValueError(f"{f.name} needs at least one number")
      least, most = f.metadata["least"], f.metadata["most"]
      if least is not None and not np.min(value) >= least:
        raise ValueError(
          f"{f.name} must be at least {least}, was {np.min(value)}"
        )
      if most is not None and not np.max(value) <= most:
        raise ValueError(
          f"{f.name} must be at most {most}, was {np.max(value)}"
        )
      if f.metadata["choices"]:
        checks.check_choice(f.name, value, f.metadata["choices"])

  @classmethod
  def from_preset(cls, preset: str, **overrides: Any) -> typing.Self:
    """The configuration of a preset; explicit values win."""
    checks.check_choice("preset", preset, PRESETS)
    fields = dataclasses.fields(cls)
    values = {f.name: f.metadata["presets"][preset] for f in fields}
    unknown = sorted(set(overrides) - set(values))
    if unknown:
      raise ValueError(
        f"unknown option {unknown[0]!r}: choose from {', '.join(values)}"
      )
    return cls(**values | overrides)

  def key(self) -> jax.Array:
    """The key from which every random draw of a run descends."""
    return jax.random.key(self.seed)


def _flag_text(value: Any) -> str:
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _define_flag(f: dataclasses.Field, values: flags.FlagValues) -> None:
  presets = {k: _flag_text(v) for k, v in f.metadata["presets"].items()}
  if len(set(presets.values())) > 1:
    shown = ", ".join(f"{name}: {value}" for name, value in presets.items())
  else:
    shown = f"default: {presets['quick']}"
  text = f"{f.metadata['help']} ({shown})"
  options = dict(default=None, help=text, flag_values=values)
  kind = typing.get_origin(f.type) or f.type
  if kind is tuple:
    flags.DEFINE_list(f.name, **options)
  elif f.metadata["choices"]:
    flags.DEFINE_enum(f.name, enum_values=f.metadata["choices"], **options)
  else:
    define = {
      bool: flags.DEFINE_bool,
      int: flags.DEFINE_integer,
      float: flags.DEFINE_float,
      str: flags.DEFINE_string,
    }[kind]
    define(f.name, **options)


def _convert(f: dataclasses.Field, value: Any) -> Any:
  """Entries of a list flag, in the type that the field declares."""
  if (typing.get_origin(f.type) or f.type) is not tuple:
    return value
  entry = typing.get_args(f.type)[0]
  try:
    return tuple(entry(x) for x in value)
  except ValueError:
    raise ValueError(
      f"--{f.name} takes {entry.__name__}s separated by commas, was"
      f" {','.join(value)!r}"
    ) from None


def parse_flags(
  config_type: type[Config], argv: Sequence[str]
) -> tuple[Config, str, str]:
  """Reads the command line.

  Args:
    config_type: whose fields are the flags.
    argv: program name and arguments.

  Returns:
    The configuration, the preset's name and the output directory.

  Raises:
    ValueError: an unknown flag, a value of the wrong type, stray arguments.
  """
  values = flags.FlagValues()
  flags.DEFINE_enum(
    "preset", "quick", PRESETS, "defaults of all flags", flag_values=values
  )
  flags.DEFINE_string(
    "output_dir",
    None,
    "where to write; by default results/EXPERIMENT/PRESET[-DIGEST]",
    flag_values=values,
  )
  flags.DEFINE_bool("help", False, "show this", flag_values=values)
  fields = dataclasses.fields(config_type)
  for f in fields:
    _define_flag(f, values)
  try:
    rest = values(argv)
  except flags.Error as error:
    raise ValueError(" ".join(str(error).split())) from None
  if values.help:
    print_out(sys.modules[config_type.__module__].__doc__)
    print_out(values.get_help())
    raise SystemExit(0)
  if len(rest) > 1:
    raise ValueError(f"unexpected argument {rest[1]!r}: flags are --name=value")
  given = {f.name: values[f.name].value for f in fields}
  overrides = {
    f.name: _convert(f, given[f.name])
    for f in fields
    if given[f.name] is not None
  }
  config = config_type.from_preset(values.preset, **overrides)
  output_dir = values.output_dir
  if output_dir is None:
    name = experiment_name(config_type)
    suffix = f"-{_digest(config)}" if overrides else ""
    output_dir = os.path.join("results", name, values.preset + suffix)
  return config, values.preset, output_dir


def experiment_name(config_type: type[Config]) -> str:
  """The name of the binary that defines a `Config`."""
  module = sys.modules[config_type.__module__]
  return pathlib.Path(module.__file__ or module.__name__).stem


def _digest(config: Config) -> str:
  text = json.dumps(to_json(dataclasses.asdict(config)), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


# --- precision, progress, console --------------------------------------------


def double_precision(run: Callable) -> Callable:
  """Runs a function in float64, whatever the caller's setting."""

  @functools.wraps(run)
  def wrapped(*args, **kwargs):
    with jax.enable_x64(True):
      return run(*args, **kwargs)

  return wrapped


def track(
  items: Iterable, description: str, *, progress: bool = True
) -> Iterator:
  """Iterates with a progress bar, which is silent where no terminal is."""
  console = rich.console.Console(stderr=True)
  return iter(
    rich.progress.track(
      items,
      description,
      console=console,
      disable=not (progress and console.is_terminal),
    )
  )


def print_out(text: Any) -> None:
  """Prints text or a rich table to standard output."""
  rich.console.Console(width=None if sys.stdout.isatty() else 120).print(
    text, markup=False, highlight=False
  )


def format_number(x: Any) -> str:
  """A number with the digits that a reader wants.

  >>> format_number(2.533918), format_number(1e-9), format_number(3)
  ('2.53392', '1e-09', '3')
  """
  if isinstance(x, (bool, np.bool_)) or not isinstance(
    x, (int, float, np.number)
  ):
    return str(x)
  return f"{x:.6g}"


def claims_table(results: Sequence[dict]) -> rich.table.Table:
  """The table of all claims, from the records of one or more experiments."""
  table = rich.table.Table(show_lines=False)
  for column in ("experiment", "claim"):
    table.add_column(column, no_wrap=True)
  for column in ("theory", "", "measured", "tolerance"):
    table.add_column(column, justify="right", no_wrap=True)
  table.add_column("verdict", no_wrap=True)
  for record in results:
    for claim in record["claims"]:
      table.add_row(
        record["experiment"],
        claim["name"],
        format_number(claim["theory"]),
        {"=": "=", "<=": "≥", ">=": "≤"}[claim["relation"]],
        format_number(claim["measured"]),
        format_number(claim["tolerance"]),
        "holds" if claim["holds"] else "FAILED",
      )
  return table


def rows_table(title: str, rows: Sequence[dict]) -> rich.table.Table:
  """One of a run's tables for the console."""
  table = rich.table.Table(title=title, title_justify="left")
  for column in rows[0]:
    table.add_column(column, justify="right", no_wrap=True)
  for row in rows:
    table.add_row(*(format_number(x) for x in row.values()))
  return table


# --- writing -----------------------------------------------------------------


def to_json(x: Any) -> Any:
  """Plain JSON values; what is not finite becomes "inf", "-inf" or "nan"."""
  if isinstance(x, dict):
    return {str(k): to_json(v) for k, v in x.items()}
  if isinstance(x, (list, tuple)):
    return [to_json(v) for v in x]
  if isinstance(x, np.ndarray | jax.Array):
    return to_json(x.tolist())
  if isinstance(x, (bool, np.bool_)):
    return bool(x)
  if isinstance(x, np.integer):
    return int(x)
  if isinstance(x, (float, np.floating)):
    return float(x) if np.isfinite(x) else str(float(x))
  return x


def record_of(
  results: Results, config: Config, preset: str, seconds: float
) -> dict[str, Any]:
  """The contents of `results.json`."""
  claims = [
    dataclasses.asdict(claim) | {"holds": claim.holds}
    for claim in results.claims
  ]
  record = {
    "schema_version": SCHEMA_VERSION,
    "experiment": results.experiment,
    "paper": results.paper,
    "preset": preset,
    "flags": dataclasses.asdict(config),
    "versions": {
      "python": platform.python_version(),
      "jax": jax.__version__,
      "numpy": np.__version__,
      "jaxalign": jaxalign.__version__,
    },
    "device": jax.devices()[0].device_kind,
    "seconds": round(seconds, 2),
    "claims": claims,
    "tables": results.tables,
  }
  return to_json(record)


def read_record(directory: str | os.PathLike) -> dict[str, Any] | None:
  """The record in a directory, or `None` where there is none.

  Numbers that were not finite are floats again.
  """
  path = pathlib.Path(directory) / "results.json"
  if not path.exists():
    return None
  record = json.loads(path.read_text())
  for claim in record["claims"]:
    for name in ("theory", "measured", "tolerance"):
      claim[name] = float(claim[name])
  return record


def check_output_dir(output_dir: str | os.PathLike, config: Config) -> None:
  """Refuses a directory that holds anything but a run of this configuration.

  Raises:
    InputError: it is a file, or holds something else.
  """
  path = pathlib.Path(output_dir)
  if path.exists() and not path.is_dir():
    raise checks.InputError(
      f"output directory {path} is a file: choose another"
    )
  if not path.exists() or not any(path.iterdir()):
    return
  try:
    record = read_record(path)
  except (ValueError, KeyError, TypeError):
    record = None
  same = (
    record is not None
    and record["experiment"] == experiment_name(type(config))
    and record["flags"] == to_json(dataclasses.asdict(config))
  )
  if not same:
    raise checks.InputError(
      f"output directory {path} is in use by another run: choose another"
      " --output_dir or remove it"
    )


def _write(path: pathlib.Path, write: Callable[[typing.BinaryIO], Any]) -> None:
  """Writes beside the target and renames: a file is whole or absent."""
  partial = path.with_name(path.name + ".partial")
  with partial.open("wb") as stream:
    write(stream)
  partial.replace(path)


def save(
  results: Results,
  record: dict[str, Any],
  figures: dict[str, Any],
  output_dir: str | os.PathLike,
) -> None:
  """Writes plots, `curves.npz` and, last of all, `results.json`."""
  path = pathlib.Path(output_dir)
  path.mkdir(parents=True, exist_ok=True)
  for name, figure in figures.items():
    _write(
      path / f"{name}.png",
      lambda stream, figure=figure: figure.savefig(
        stream, format="png", dpi=120, bbox_inches="tight"
      ),
    )
  curves = {k: np.asarray(v) for k, v in results.curves.items()}
  _write(path / "curves.npz", lambda stream: np.savez(stream, **curves))
  text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
  _write(path / "results.json", lambda stream: stream.write(text.encode()))


# --- running -----------------------------------------------------------------


def compile_fast() -> None:
  """For programs that run once: compiling them takes longer than running.

  Without optimisation, with XLA's older emitters of loops and one module of
  code for each program, it takes half the time or less. To be called before the
  first computation. A flag that XLA does not know aborts, hence the version.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  if jax.__version_info__ < (0, 11):
    flags = (
      os.environ.get("XLA_FLAGS", ""),
      "--xla_cpu_use_fusion_emitters=false",
      "--xla_cpu_parallel_codegen_split_count=1",
    )
    os.environ["XLA_FLAGS"] = " ".join(flags)


def set_up(preset: str) -> None:
  """Compiles as befits the preset, keeps programs, silences absent backends."""
  if preset == "smoke":
    compile_fast()
  logging.set_verbosity(logging.WARNING)
  cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
  jax.config.update(
    "jax_compilation_cache_dir", os.path.join(cache, "jaxalign", "xla")
  )
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def execute(
  experiment: types.ModuleType,
  config: Config,
  preset: str,
  output_dir: str | os.PathLike,
  *,
  progress: bool = True,
) -> dict[str, Any]:
  """Runs one experiment, writes what it found and returns its record.

  Args:
    experiment: a module with `run` and `plot`.
    config: its configuration.
    preset: the preset's name, for the record.
    output_dir: where to write; refused where it holds another run.
    progress: whether to show progress on a terminal.

  Raises:
    InputError: the output directory is in use, or an input file is unusable.
  """
  check_output_dir(output_dir, config)
  start = time.perf_counter()
  results = experiment.run(config, progress=progress)
  record = record_of(results, config, preset, time.perf_counter() - start)
  save(results, record, experiment.plot(results), output_dir)
  # The more programs live, the longer the next one takes to compile.
  jax.clear_caches()
  return record


def skip_flags(argv: list[str]) -> list[str]:
  """A parser for `app.run` that leaves the command line to `main`."""
  flags.FLAGS.mark_as_parsed()
  return argv


def main(argv: Sequence[str], config_type: type[Config]) -> int:
  """The `main` of every experiment.

  Args:
    argv: program name and arguments.
    config_type: the `Config` of the module that also holds `run` and `plot`.

  Returns:
    0 where every claim holds, 1 where one failed, 2 for unusable input.
  """
  experiment = sys.modules[config_type.__module__]
  try:
    config, preset, output_dir = parse_flags(config_type, argv)
  except ValueError as error:
    return fail(error)
  set_up(preset)
  try:
    record = execute(experiment, config, preset, output_dir)
  except checks.InputError as error:
    return fail(error)
  for title, rows in record["tables"].items():
    print_out(rows_table(title, rows))
  print_out(claims_table([record]))
  held = sum(claim["holds"] for claim in record["claims"])
  print_out(
    f"{held} of {len(record['claims'])} claims hold,"
    f" {record['seconds']:.1f} s, written to {output_dir}"
  )
  return 0 if held == len(record["claims"]) else 1


def fail(error: Exception) -> int:
  """Prints one line that says what is wrong; returns the exit code 2."""
  sys.stderr.write(f"error: {error}\n")
  return 2

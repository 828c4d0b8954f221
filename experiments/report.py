# SPDX-License-Identifier: Apache-2.0
"""The HTML report and the README's table, both made of records alone."""

import base64
import html
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import harness

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;
padding:0 1rem;color:#1b1f24}
h1{font-size:1.6rem}h2{margin-top:2.5rem;border-bottom:1px solid #d0d7de}
table{border-collapse:collapse;margin:1rem 0;font-size:.85rem;display:block;
overflow-x:auto}
th,td{border-bottom:1px solid #d8dee4;padding:.3rem .6rem;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.holds{color:#116329;font-weight:600}.FAILED{color:#b3261e;font-weight:700}
img{max-width:100%;margin:.5rem 0}
.meta{color:#57606a;font-size:.8rem}
"""
_RELATION = {"=": "=", "<=": "≤", ">=": "≥"}


def _row(cells: Sequence[Any], tag: str = "td") -> str:
  out = []
  for cell in cells:
    number = not isinstance(cell, str)
    text = html.escape(harness.format_number(cell))
    kind = ' class="n"' if number else ""
    if text in ("holds", "FAILED"):
      kind = f' class="{text}"'
    out.append(f"<{tag}{kind}>{text}</{tag}>")
  return f"<tr>{''.join(out)}</tr>"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  body = "\n".join(_row(row) for row in rows)
  return f"<table>\n{_row(header, 'th')}\n{body}\n</table>"


def _claim_rows(record: dict[str, Any]) -> list[list[Any]]:
  return [
    [
      claim["name"],
      claim["statement"],
      claim["measured"],
      _RELATION[claim["relation"]],
      claim["theory"],
      claim["tolerance"],
      _interval(claim["interval"]),
      "holds" if claim["holds"] else "FAILED",
    ]
    for claim in record["claims"]
  ]


def _interval(interval: Sequence[float] | None) -> str:
  if interval is None:
    return ""
  return "[{}, {}]".format(*(harness.format_number(x) for x in interval))


def _section(record: dict[str, Any], directory: pathlib.Path) -> str:
  name = record["experiment"]
  parts = [
    f'<h2 id="{name}">{name}</h2>',
    f"<p>{html.escape(record['paper'])}</p>",
    _table(
      (
        "claim",
        "statement",
        "measured",
        "",
        "theory",
        "tolerance",
        "95 % interval",
        "verdict",
      ),
      _claim_rows(record),
    ),
  ]
  for picture in sorted(directory.glob("*.png")):
    data = base64.b64encode(picture.read_bytes()).decode()
    parts.append(
      f'<img alt="{name}: {picture.stem}" src="data:image/png;base64,{data}">'
    )
  for title, rows in record["tables"].items():
    parts.append(f"<h3>{html.escape(title)}</h3>")
    parts.append(_table(list(rows[0]), [list(row.values()) for row in rows]))
  flags = " ".join(f"--{k}={_flag(v)}" for k, v in record["flags"].items())
  versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
  parts.append(
    f'<p class="meta"><code>python -m experiments.{name}'
    f" {html.escape(flags)}</code><br>{versions}, {record['device']},"
    f" {record['seconds']} s</p>"
  )
  return "\n".join(parts)


def _flag(value: Any) -> str:
  return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def html_report(records: Sequence[tuple[dict[str, Any], pathlib.Path]]) -> str:
  """One self-contained page with every claim, plot and table.

  Args:
    records: pairs of a record and the directory that holds its plots.
  """
  claims = [claim for record, _ in records for claim in record["claims"]]
  held = sum(claim["holds"] for claim in claims)
  overview = [
    [
      record["experiment"],
      record["paper"],
      f"{sum(c['holds'] for c in record['claims'])} of {len(record['claims'])}",
      "holds" if all(c["holds"] for c in record["claims"]) else "FAILED",
    ]
    for record, _ in records
  ]
  sections = "\n".join(_section(*pair) for pair in records)
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>jaxalign: claims</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>jaxalign: {held} of {len(claims)} claims hold</h1>
{_table(("experiment", "paper", "claims that hold", "verdict"), overview)}
{sections}
</body></html>
"""


def markdown_table(records: Sequence[dict[str, Any]]) -> str:
  """The README's claims: a table for each experiment, folded."""
  parts = []
  for record in records:
    claims = record["claims"]
    held = sum(claim["holds"] for claim in claims)
    parts += [
      f"<details><summary><code>{record['experiment']}</code>:"
      f" {held} of {len(claims)} claims hold</summary>",
      "",
      "| claim | measured | | theory | tolerance | verdict |",
      "|---|---:|:-:|---:|---:|---|",
    ]
    for claim in claims:
      cells = [
        claim["statement"].replace("|", "\\|"),
        harness.format_number(claim["measured"]),
        _RELATION[claim["relation"]],
        harness.format_number(claim["theory"]),
        harness.format_number(claim["tolerance"]),
        "holds" if claim["holds"] else "**FAILED**",
      ]
      parts.append(f"| {' | '.join(cells)} |")
    parts += ["", "</details>", ""]
  return "\n".join(parts).rstrip()

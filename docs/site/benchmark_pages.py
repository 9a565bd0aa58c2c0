"""Pages of runs of `benchmarks/run.py`: tables and drawings of the JSON files in docs/benchmarks.

Every table and drawing names the machine that it was measured on, as figures mean nothing without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Final

_OURS: Final = "pocketnet_fast"
_NAMES, _BARS, _ROW = 210, 430, 26


def run_pages(folder: Path) -> Iterator[tuple[str, str]]:
    """The address below the documentation and the content of each page and drawing.

    Args:
        folder: With records as `benchmarks/run.py --out` writes them, `*.json`.
    """
    for path in sorted(folder.glob("*.json")):
        yield from _run(path.stem, json.loads(path.read_text(encoding="utf-8")))


def runs_list(folder: Path) -> str:
    """Links to the pages of runs, from a page in the same folder."""
    lines = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        machines = "; ".join(dict.fromkeys(machine["cpu"] for machine in record["machines"]))
        lines.append(f"- [{record['model']} on {machines}](runs/{path.stem}.md)")
    return "\n".join(lines) or "There is none at the moment."


def _run(stem: str, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    parts = [f"# {record['model']}: {stem}\n"]
    load = record["load_average"]
    parts.append(f"Milliseconds per image of `python benchmarks/run.py`; load average before: {load:.1f}.\n")
    machines = {machine["threads"]: machine for machine in record["machines"]}
    for (threads, batch), rows in groupby(sorted(record["results"], key=_place), key=_place):
        found = list(rows)
        timed = sorted((row for row in found if "median_ms" in row), key=lambda row: row["median_ms"])
        place = f"{_threads(threads)}, batch {batch}"
        machine = _machine(machines[threads])
        parts.append(f"## {place[0].upper()}{place[1:]}\n")
        if timed:
            drawing = f"{stem}_{threads}_{batch}.svg"
            yield f"benchmarks/runs/{drawing}", _drawing(timed, f"{record['model']}, {place}", machine)
            parts.append(f"![Bars of the table below, on {machine}]({drawing})\n")
            parts.append(_table(timed))
        parts += [f"{row['subject']}: {_reason(row)}.\n" for row in found if "median_ms" not in row]
        parts.append(f"Measured on {machine}.\n")
    yield f"benchmarks/runs/{stem}.md", "\n".join(parts)


def _place(result: dict[str, Any]) -> tuple[int, int]:
    return result["threads"], result["batch"]


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def _machine(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {_threads(machine['threads'])}: {machine['gflops']:.0f} GFLOP/s, "
        f"memory {machine['memory_gbs']:.0f} GB/s"
    )


def _reason(row: dict[str, Any]) -> str:
    return f"not timed, {row['skipped']}" if "skipped" in row else f"refused, {row['refused']}"


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| subject | precision | median | quartiles | best | times ours | cosine to eager |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = f"**{row['subject']}**" if row["subject"] == _OURS else row["subject"]
        times = f"{row['times_ours']:.2f}" if "times_ours" in row else ""
        lines.append(
            f"| {name}, {row['version']} | {row['precision']} | {row['median_ms']:.2f} | "
            f"{row['lower_ms']:.2f} to {row['upper_ms']:.2f} | {row['best_ms']:.2f} | {times} | "
            f"{row['cosine']:.6f} |"
        )
    return "\n".join(lines) + "\n"


def _drawing(rows: list[dict[str, Any]], title: str, machine: str) -> str:
    """Bars of the medians, with the quartiles as a line."""
    longest = max(row["upper_ms"] for row in rows)
    height = 48 + _ROW * len(rows) + 24
    width = _NAMES + _BARS + 80
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<text x="0" y="18" font-weight="bold">{escape(title)}: milliseconds per image</text>',
    ]
    for number, row in enumerate(rows):
        y = 34 + _ROW * number
        low, middle, high = (_BARS * row[name] / longest for name in ("lower_ms", "median_ms", "upper_ms"))
        color = "#3f51b5" if row["subject"] == _OURS else "#9fa8da"
        line = y + _ROW / 2 - 2
        parts += [
            f'<text x="{_NAMES - 8}" y="{y + 15}" text-anchor="end">{escape(row["subject"])}</text>',
            f'<rect x="{_NAMES}" y="{y}" width="{middle:.1f}" height="{_ROW - 6}" fill="{color}"/>',
            f'<path d="M{_NAMES + low:.1f} {line}H{_NAMES + high:.1f}" stroke="#222"/>',
            f'<text x="{_NAMES + high + 6:.1f}" y="{y + 15}">{row["median_ms"]:.2f}</text>',
        ]
    parts += [f'<text x="0" y="{height - 10}" fill="#666" font-size="11">{escape(machine)}</text>', "</svg>"]
    return "\n".join(parts) + "\n"

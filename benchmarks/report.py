"""The record of a benchmark as tables and as a picture with a roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from subjects import OURS

import pocketnet_fast
from pocketnet_fast.models.counting import count_model
from pocketnet_fast.pictures import COLORS, FAINT, picture


def network_size(model: str) -> tuple[int, int]:
    """Floating-point operations of one image, two per multiply-accumulate, and bytes moved layer by layer.

    The bytes are what a runtime reads and writes that keeps nothing between two layers, weights included.
    """
    with torch.device("meta"):
        network = pocketnet_fast.create_model(model).eval()
        pixels = torch.empty(1, 3, *network.input_spec.size)
    flops = 2 * count_model(network).total.macs
    moved = 0

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal moved
        values = sum(t.numel() for t in inputs) + output.numel() + sum(p.numel() for p in module.parameters())
        moved += 4 * values

    for module in network.modules():
        # A folded BatchNorm and a skip connection move nothing.
        if not any(module.children()) and not isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Identity)):
            module.register_forward_hook(record)
    network(pixels)
    return flops, moved


def show(record: dict[str, Any], console: Console) -> None:
    """Print one table per number of threads and batch size, then versions and reasons for absent times."""
    flops, _ = network_size(record["model"])
    remarks: dict[str, str] = {}
    for machine in record["machines"]:
        threads = machine["threads"]
        console.print(
            f"{machine['cpu']}, {threads} thread{'s' if threads > 1 else ''}: "
            f"{machine['gflops']:.0f} GFLOP/s ({machine['gflops_source']}), memory "
            f"{machine['memory_gbs']:.0f} GB/s ({machine['bandwidth_source']})"
        )
        results = [r for r in record["results"] if r["threads"] == threads]
        for batch in sorted({r["batch"] for r in results}):
            rows = [r for r in results if r["batch"] == batch]
            console.print(_table(record["model"], rows, flops, machine["gflops"]))
        for row in results:
            reason = row.get("version") or row.get("skipped") or f"refused: {row['refused']}"
            remarks[row["subject"]] = f"{reason} ({row['precision']} precision)"
    for subject, remark in remarks.items():
        console.print(f"{subject}: {remark}", highlight=False)


def _table(model: str, rows: list[dict[str, Any]], flops: int, peak: float) -> Table:
    first = rows[0]
    table = Table(title=f"{model}, batch {first['batch']}, {first['threads']} threads", title_justify="left")
    table.add_column("subject")
    for column in (
        "ms per image",
        "quartiles",
        "best",
        "times ours",
        "GFLOP/s",
        "of peak",
        "cosine",
        "error",
    ):
        table.add_column(column, justify="right")
    for row in sorted(rows, key=lambda r: r.get("median_ms", float("inf"))):
        name = f"[bold]{row['subject']}[/bold]" if row["subject"] == OURS else row["subject"]
        if "median_ms" not in row:
            table.add_row(name, "not timed")
            continue
        rate = flops / row["median_ms"] / 1e6
        table.add_row(
            name,
            f"{row['median_ms']:.2f}",
            f"{row['lower_ms']:.2f} to {row['upper_ms']:.2f}",
            f"{row['best_ms']:.2f}",
            f"{row['times_ours']:.2f}" if "times_ours" in row else "",
            f"{rate:.0f}",
            f"{rate / peak:.0%}",
            f"{row['cosine']:.6f}",
            f"{row['error']:.1e}",
        )
    return table


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw milliseconds per image, and each subject's rate under the machine's roofline.

    All subjects stand at the intensity of the layer-by-layer network, so that one that keeps data in the
    caches or fuses layers rises above the roof of memory.

    Raises:
        PocketNetError: Without matplotlib.
    """
    flops, moved = network_size(record["model"])
    machines = record["machines"]
    with path.open("wb") as stream, picture(stream, "png", (14, 5 * len(machines))) as figure:
        axes = figure.subplots(len(machines), 2, squeeze=False)
        for (left, right), machine in zip(axes, machines, strict=True):
            timed = [r for r in record["results"] if r["threads"] == machine["threads"] and "median_ms" in r]
            threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
            _draw_times(left, timed)
            left.set_title(f"{record['model']}, {threads}")
            first = [r for r in timed if r["batch"] == timed[0]["batch"]]
            _draw_roofline(right, machine, first, flops, moved)
            right.set_title(f"{machine['cpu']}, {threads}: roofline, batch {timed[0]['batch']}")


def _draw_times(axis: Any, timed: list[dict[str, Any]]) -> None:
    batches = sorted({r["batch"] for r in timed})
    names = sorted(
        {r["subject"] for r in timed}, key=lambda n: -min(r["median_ms"] for r in timed if r["subject"] == n)
    )
    height = 0.8 / max(len(batches), 1)
    for index, batch in enumerate(batches):
        rows = [r for r in timed if r["batch"] == batch]
        medians = [r["median_ms"] for r in rows]
        low = [r["median_ms"] - r["lower_ms"] for r in rows]
        high = [r["upper_ms"] - r["median_ms"] for r in rows]
        # The bars of a subject lie around its name's place.
        offset = (index - (len(batches) - 1) / 2) * height
        positions = [names.index(r["subject"]) + offset for r in rows]
        axis.barh(positions, medians, height, xerr=(low, high), label=f"batch {batch}")
        for position, row in zip(positions, rows, strict=True):
            axis.annotate(f" {row['median_ms']:.1f}", (row["upper_ms"], position), va="center", fontsize=7)
    axis.set_yticks(range(len(names)), names)
    axis.grid(visible=True, axis="x")
    axis.set_xlabel("ms per image (median, quartiles)")
    # Subjects are sorted, so that the short bars leave the upper right corner free.
    axis.legend(loc="upper right")


def _draw_roofline(
    axis: Any, machine: dict[str, Any], rows: list[dict[str, Any]], flops: int, moved: int
) -> None:
    bandwidths = [("memory", machine["memory_gbs"])]
    if machine["l2_gbs"] is not None:
        bandwidths.append(("second-level cache", machine["l2_gbs"]))
    peaks = {"fp32": machine["gflops"]}
    if machine.get("gflops_bf16") and any(row["precision"] != "fp32" for row in rows):
        peaks["bf16"] = machine["gflops_bf16"]
    highest = max(peaks.values())
    for name, bandwidth in bandwidths:
        line = [bandwidth / 8, highest]
        axis.plot([1 / 8, highest / bandwidth], line, label=f"{name}, {bandwidth:.0f} GB/s")
    lowest_ridge = min(machine["gflops"] / bandwidth for _, bandwidth in bandwidths)
    for (precision, peak), style in zip(peaks.items(), ("-", "--"), strict=False):
        label = f"{precision}, {peak:.0f} GFLOP/s"
        axis.plot([lowest_ridge, 64], [peak, peak], style, color="black", linewidth=1, label=label)
    intensity = flops / moved
    axis.axvline(intensity, linestyle=":", color="grey")
    place = 0.0
    for row in sorted(rows, key=lambda r: -r["median_ms"]):
        rate = flops / row["median_ms"] / 1e6
        # Filled: fp32; hollow: half the bits, for which the fp32 roof is none.
        fill = "full" if row["precision"] == "fp32" else "none"
        axis.plot([intensity], [rate], "o", markersize=5, fillstyle=fill, color=COLORS[0])
        # Labels keep their distance where rates are close.
        place = max(rate, 1.18 * place)
        axis.annotate(
            f"{row['subject']} {rate:.0f}",
            (intensity, rate),
            (1.3 * intensity, place),
            fontsize=7,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.5},
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("operations per byte (dotted: the network, layer by layer)")
    axis.set_ylabel("GFLOP/s; hollow: half precision")
    axis.grid(visible=True)
    axis.legend(loc="upper left")

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
        ImportError: Without matplotlib.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    flops, moved = network_size(record["model"])
    machines = record["machines"]
    figure, axes = plt.subplots(len(machines), 2, figsize=(14, 5 * len(machines)), squeeze=False)
    for (left, right), machine in zip(axes, machines, strict=True):
        timed = [r for r in record["results"] if r["threads"] == machine["threads"] and "median_ms" in r]
        _draw_times(left, timed)
        left.set_title(f"{record['model']}, {machine['threads']} thread(s)")
        _draw_roofline(right, machine, [r for r in timed if r["batch"] == timed[0]["batch"]], flops, moved)
        right.set_title(f"{machine['cpu']}: roofline")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_times(axis: Any, timed: list[dict[str, Any]]) -> None:
    batches = sorted({r["batch"] for r in timed})
    names = sorted(
        {r["subject"] for r in timed}, key=lambda n: -min(r["median_ms"] for r in timed if r["subject"] == n)
    )
    height = 0.8 / max(len(batches), 1)
    for index, batch in enumerate(batches):
        rows = {r["subject"]: r for r in timed if r["batch"] == batch}
        medians = [rows[name]["median_ms"] for name in names]
        low = [rows[name]["median_ms"] - rows[name]["lower_ms"] for name in names]
        high = [rows[name]["upper_ms"] - rows[name]["median_ms"] for name in names]
        positions = [i + index * height for i in range(len(names))]
        axis.barh(positions, medians, height, xerr=(low, high), label=f"batch {batch}")
        for position, name in zip(positions, names, strict=True):
            row = rows[name]
            axis.annotate(f" {row['median_ms']:.1f}", (row["upper_ms"], position), va="center", fontsize=7)
    axis.set_yticks([i + height for i in range(len(names))], names)
    axis.set_xlabel("ms per image (median, quartiles)")
    axis.legend()


def _draw_roofline(
    axis: Any, machine: dict[str, Any], rows: list[dict[str, Any]], flops: int, moved: int
) -> None:
    roofs = [("memory", machine["memory_gbs"])]
    if machine["l2_gbs"] is not None:
        roofs.append(("second-level cache", machine["l2_gbs"]))
    for name, bandwidth in roofs:
        ridge = machine["gflops"] / bandwidth
        roof = [bandwidth / 8, machine["gflops"], machine["gflops"]]
        axis.plot([1 / 8, ridge, 64], roof, label=f"{name}, {bandwidth:.0f} GB/s")
    intensity = flops / moved
    axis.axvline(intensity, linestyle=":", color="grey")
    for row in rows:
        rate = flops / row["median_ms"] / 1e6
        axis.plot([intensity], [rate], "o", markersize=5)
        axis.annotate(f"  {row['subject']} {rate:.0f}", (intensity, rate), fontsize=7, va="center")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("operations per byte (dotted: the network, layer by layer)")
    axis.set_ylabel(f"GFLOP/s (peak {machine['gflops']:.0f})")
    axis.legend(fontsize=8)

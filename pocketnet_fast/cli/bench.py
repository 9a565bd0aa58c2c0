"""``pocketnet bench``: how fast a network runs here, and where the time goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.loading import DEFAULT_MODEL, load_model
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import JsonOption, ModelOption, WeightsOption
from pocketnet_fast.cli.output import print_json, wide_console, write_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.lowering.plan import Plan
    from pocketnet_fast.lowering.profile import Roofline
    from pocketnet_fast.lowering.timing import EngineTimes
    from pocketnet_fast.models.base import EmbeddingModel


@dataclass(frozen=True)
class _How:
    """How it is timed."""

    batch: Annotated[int, typer.Option(min=1, help="Images in one call.")] = 1
    threads: Annotated[int, typer.Option(min=1, help="Threads of a call.")] = 1
    repeat: Annotated[int, typer.Option(min=1, help="Timed calls of each engine.")] = 30
    device: Annotated[str, typer.Option(help="cpu, or cuda for the Triton kernels.")] = "cpu"
    precision: Annotated[str, typer.Option(help="fp32 or bf16; on CUDA tf32 and fp16 too.")] = "fp32"
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="On CUDA: first measure the kernels' tiles for this batch, and keep them."
        ),
    ] = False


@grouped
def bench(
    *,
    model: ModelOption = None,
    weights: WeightsOption = None,
    how: _How,
    steps: Annotated[bool, typer.Option("--profile", help="Time each step of the plan, one thread.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the steps under the roofline here: .png, .svg or .pdf.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Instead, time every operation of the search space and write the table here."),
    ] = None,
    channels: Annotated[int, typer.Option(min=1, help="With --table: width of the first cells.")] = 16,
    layers: Annotated[int, typer.Option(min=4, help="With --table: number of cells.")] = 18,
    as_json: JsonOption = False,
) -> None:
    """Time the fused kernels against eager PyTorch, in turns; medians.

    Speed does not depend on the weights: --weights only says which network it is.

    With --table, the times of all candidate operations at all shapes of a network, for a search that weighs
    latency (pocketnet search --latency-table).

    Example: [bold]pocketnet bench --model pocketnet_s128 --profile[/bold]
    """
    if table is not None:
        _table(table, channels, layers, how.repeat, as_json)
        return
    if how.device != "cpu":
        content = _on_cuda(_network(model, weights), how)
        print_json(content) if as_json else _print_cuda(content)
        return
    if how.tune:
        raise PocketNetError("--tune concerns CUDA: --device cuda")
    content = _on_cpu(_network(model, weights), how, steps, picture)
    print_json(content) if as_json else _print(content)


def _on_cpu(network: EmbeddingModel, how: _How, steps: bool, picture: Path | None) -> dict[str, Any]:
    from pocketnet_fast.lowering import lower
    from pocketnet_fast.lowering.profile import measure_roofline
    from pocketnet_fast.lowering.timing import time_on_cpu

    plan = lower(network, precision=how.precision)
    times = time_on_cpu(network, plan, batch=how.batch, threads=how.threads, repeats=how.repeat)
    roofline = measure_roofline(how.precision)
    content = _figures(network.model_name, plan, how, times, roofline)
    if steps or picture is not None:
        content["steps"] = _steps(plan, roofline, content, picture)
    return content


def _figures(model: str, plan: Plan, how: _How, times: EngineTimes, roofline: Roofline) -> dict[str, Any]:
    from pocketnet_fast.ops.native import compiled_isa

    milliseconds = {name: value / how.batch for name, value in times.milliseconds.items()}
    return {
        "model": model,
        "precision": how.precision,
        "isa": compiled_isa(how.precision),
        "batch": how.batch,
        "threads": how.threads,
        "milliseconds_per_image": milliseconds,
        "waited_for_processors": times.waits.share,
        "busy": times.waits.busy,
        "gflops": 2e-6 * plan.macs / milliseconds["fused"],
        "peak_gflops_per_thread": roofline.gflops,
        "cache_gbs_per_thread": roofline.gbs,
        "floor_milliseconds_one_thread": 2e-6 * plan.macs / roofline.gflops,
    }


def _steps(
    plan: Plan, roofline: Roofline, content: dict[str, Any], picture: Path | None
) -> list[dict[str, Any]]:
    """The times of the plan's steps, drawn where that is asked for."""
    from pocketnet_fast.lowering.profile import profile
    from pocketnet_fast.lowering.roofline_picture import draw_roofline

    measured = profile(plan)
    if picture is not None:
        title = f"{content['model']}, {content['precision']}, {content['isa']}, one thread"
        draw_roofline(picture, measured, roofline, title)
    return [
        {**vars(step), "of_roofline": roofline.microseconds(step) / step.microseconds} for step in measured
    ]


def _network(name: str | None, weights: Path | None) -> EmbeddingModel:
    """With the weights of a file or, as speed does not depend on them, random ones."""
    if weights is not None:
        return load_model(name, weights, untrained=False).eval()
    from pocketnet_fast.models.registry import create_model

    return create_model(name or DEFAULT_MODEL).eval()


def _on_cuda(network: EmbeddingModel, how: _How) -> dict[str, Any]:
    import torch

    from pocketnet_fast.lowering import lower
    from pocketnet_fast.lowering.compiled_cuda import compile_cuda
    from pocketnet_fast.lowering.timing import time_on_cuda

    plan = lower(network, bands=False)
    fused = compile_cuda(plan, how.device, how.precision, flip=False)
    if how.tune:
        note(f"measured the tiles of {fused.tune([how.batch])} shapes; they are kept for later runs")
    images = (torch.rand(how.batch, 3, plan.height, plan.width) * 2 - 1).to(how.device)
    milliseconds = time_on_cuda(network, fused, images, how.precision, how.repeat)
    return {
        "model": network.model_name,
        "device": torch.cuda.get_device_name(torch.device(how.device)),
        "precision": how.precision,
        "batch": how.batch,
        "milliseconds": milliseconds,
        "images_per_second": 1e3 * how.batch / milliseconds["fused"],
    }


def _print_cuda(content: dict[str, Any]) -> None:
    from rich.console import Console

    ours, eager = content["milliseconds"]["fused"], content["milliseconds"]["eager"]
    Console().print(
        f"{content['model']}, {content['device']}, {content['precision']}, batch {content['batch']}: fused "
        f"{ours:.3f} ms a batch, eager {eager:.3f} ms ({eager / ours:.1f} times as long)"
    )


def _table(path: Path, channels: int, layers: int, repeat: int, as_json: bool) -> None:
    from pocketnet_fast.files import atomic_write
    from pocketnet_fast.lowering.latency_table import measure_latency_table
    from pocketnet_fast.models.genotypes import OPERATIONS

    with atomic_write(path) as stream:
        with progress(len(OPERATIONS), "timing operations") as advance:
            content = measure_latency_table(channels, layers, repeats=repeat, advance=advance)
        write_json(stream, content, indent=1)
    if as_json:
        print_json(content)
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("operation", no_wrap=True)
    shapes = [e for e in content["entries"] if e["operation"] == OPERATIONS[0]]
    for e in shapes:
        stride = f"\nstride {e['stride']}" if e["stride"] > 1 else ""
        shown.add_column(f"{e['channels']}\n{e['height']}x{e['width']}{stride}", justify="right")
    for operation in OPERATIONS:
        own = [e["ms"] for e in content["entries"] if e["operation"] == operation]
        shown.add_row(operation, *(f"{1e3 * ms:.1f}" for ms in own))
    console = Console()
    console.print("microseconds per image; by channels, and height x width of what is read")
    console.print(shown)
    console.print(
        f"{content['machine']}, {content['isa']}, one thread; the rest of the network takes "
        f"{content['fixed_ms']:.3f} ms; written to {path}"
    )


def _print(content: dict[str, Any]) -> None:
    from rich.table import Table

    milliseconds = content["milliseconds_per_image"]
    peak = content["peak_gflops_per_thread"]
    console = wide_console()
    if "steps" in content:
        table = Table("step", "operations", "output", box=None, pad_edge=False)
        for head in ("MACs", "bytes", "microseconds", "GFLOP/s", "of roofline"):
            table.add_column(head, justify="right")
        for step in content["steps"]:
            table.add_row(
                step["name"],
                step["operations"],
                step["output"],
                f"{step['macs']:,}",
                f"{step['bytes']:,}",
                f"{step['microseconds']:.1f}",
                f"{step['gflops']:.1f}",
                f"{step['of_roofline']:.0%}",
            )
        console.print(table)
        total = sum(step["microseconds"] for step in content["steps"])
        console.print(f"sum of the steps: {total / 1e3:.3f} ms")
    console.print(
        f"{content['model']}, {content['precision']}, {content['isa']}, batch {content['batch']}, "
        f"threads {content['threads']}: "
        f"fused {milliseconds['fused']:.3f} ms per image, eager {milliseconds['eager']:.3f} ms "
        f"({milliseconds['eager'] / milliseconds['fused']:.1f} times as long)"
    )
    console.print(
        f"{content['gflops']:.0f} GFLOP/s; one thread here does at most {peak:.0f} in "
        f"{content['precision']}, which would take {content['floor_milliseconds_one_thread']:.2f} ms"
    )
    if content["busy"]:
        console.print(
            f"The machine was busy: threads waited {content['waited_for_processors']:.0%} of their time for "
            "processors. Times are too long, and the ratio to eager, which waits more often, is too high."
        )


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("bench")(bench)

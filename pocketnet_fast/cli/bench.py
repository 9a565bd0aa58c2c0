"""``pocketnet bench``: how fast a network runs here, and where the time goes."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.loading import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    WeightsOption,
    load_model,
    note,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.strict_json import to_json

if TYPE_CHECKING:
    from pocketnet_fast.models.base import EmbeddingModel


def bench(
    *,
    model: ModelOption = None,
    weights: WeightsOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in one call.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a call.")] = 1,
    repeat: Annotated[int, typer.Option(min=1, help="Timed calls of each engine.")] = 30,
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
    device: Annotated[str, typer.Option(help="cpu, or cuda for the Triton kernels.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16; on CUDA tf32 and fp16 too.")] = "fp32",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="On CUDA: first measure the kernels' tiles for this batch, and keep them."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Time the fused kernels against eager PyTorch, in turns; medians.

    Speed does not depend on the weights: --weights only says which network it is.

    With --table, the times of all candidate operations at all shapes of a network, for a search that weighs
    latency (pocketnet search --latency-table).

    Example: [bold]pocketnet bench --model pocketnet_s128 --profile[/bold]
    """
    if table is not None:
        _table(table, channels, layers, repeat, as_json)
        return
    if device != "cpu":
        _cuda(_network(model, weights), batch, device, precision, repeat, tune, as_json)
        return
    if tune:
        raise PocketNetError("--tune concerns CUDA: --device cuda")
    import torch

    from pocketnet_fast.lowering import lower
    from pocketnet_fast.lowering.compiled import CompiledModel
    from pocketnet_fast.lowering.profile import measure_roofline, profile
    from pocketnet_fast.ops.native import compiled_isa
    from pocketnet_fast.waiting import ProcessorWaits

    network = _network(model, weights)
    plan = lower(network, precision=precision)
    fused = CompiledModel(plan, threads, flip=False)
    torch.set_num_threads(threads)
    images = torch.rand(batch, 3, plan.height, plan.width) * 2 - 1
    times: dict[str, list[float]] = {"fused": [], "eager": []}
    with torch.inference_mode(), ProcessorWaits() as waits:
        for index in range(repeat + 2):
            for name, engine in (("fused", fused), ("eager", network)):
                start = time.perf_counter()
                engine(images)
                if index >= 2:
                    times[name].append(1e3 * (time.perf_counter() - start) / batch)
    milliseconds = {name: statistics.median(values) for name, values in times.items()}
    roofline = measure_roofline(precision)
    content: dict[str, Any] = {
        "model": network.model_name,
        "precision": precision,
        "isa": compiled_isa(precision),
        "batch": batch,
        "threads": threads,
        "milliseconds_per_image": milliseconds,
        "waited_for_processors": waits.share,
        "busy": waits.busy,
        "gflops": 2e-6 * plan.macs / milliseconds["fused"],
        "peak_gflops_per_thread": roofline.gflops,
        "cache_gbs_per_thread": roofline.gbs,
        "floor_milliseconds_one_thread": 2e-6 * plan.macs / roofline.gflops,
    }
    if steps or picture is not None:
        measured = profile(plan)
        content["steps"] = [
            {**vars(step), "of_roofline": roofline.microseconds(step) / step.microseconds}
            for step in measured
        ]
        if picture is not None:
            from pocketnet_fast.cli.roofline_picture import draw_roofline

            title = f"{network.model_name}, {precision}, {content['isa']}, one thread"
            draw_roofline(picture, measured, roofline, title)
    if as_json:
        print_json(content)
    else:
        _show(content)


def _network(name: str | None, weights: Path | None) -> EmbeddingModel:
    """With the weights of a file or, as speed does not depend on them, random ones."""
    if weights is not None:
        return load_model(name, weights, untrained=False).eval()
    from pocketnet_fast.models.registry import create_model

    return create_model(name or DEFAULT_MODEL).eval()


def _cuda(
    network: EmbeddingModel, batch: int, device: str, precision: str, repeat: int, tune: bool, as_json: bool
) -> None:
    """Replayed graphs against eager in the same precision, channels last."""
    import torch

    from pocketnet_fast.lowering import lower
    from pocketnet_fast.lowering.compiled_cuda import compile_cuda

    plan = lower(network, bands=False)
    fused = compile_cuda(plan, device, precision, flip=False)
    if tune:
        note(f"measured the tiles of {fused.tune([batch])} shapes; they are kept for later runs")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    network.to(torch.device(device), dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    images = (torch.rand(batch, 3, plan.height, plan.width) * 2 - 1).to(device)
    given = {"fused": images, "eager": images.to(dtype, memory_format=torch.channels_last)}
    times: dict[str, list[float]] = {"fused": [], "eager": []}
    with torch.inference_mode():
        for index in range(repeat + 3):
            for name, engine in (("fused", fused), ("eager", network)):
                torch.cuda.synchronize(device)
                start = time.perf_counter()
                engine(given[name])
                torch.cuda.synchronize(device)
                if index >= 3:
                    times[name].append(1e3 * (time.perf_counter() - start))
    milliseconds = {name: statistics.median(values) for name, values in times.items()}
    content = {
        "model": network.model_name,
        "device": torch.cuda.get_device_name(torch.device(device)),
        "precision": precision,
        "batch": batch,
        "milliseconds": milliseconds,
        "images_per_second": 1e3 * batch / milliseconds["fused"],
    }
    if as_json:
        print_json(content)
        return
    from rich.console import Console

    ours, eager = milliseconds["fused"], milliseconds["eager"]
    Console().print(
        f"{content['model']}, {content['device']}, {precision}, batch {batch}: fused {ours:.3f} ms a batch, "
        f"eager {eager:.3f} ms ({eager / ours:.1f} times as long)"
    )


def _table(path: Path, channels: int, layers: int, repeat: int, as_json: bool) -> None:
    from pocketnet_fast.files import atomic_write
    from pocketnet_fast.lowering.latency_table import measure_latency_table
    from pocketnet_fast.models.genotypes import OPERATIONS

    with atomic_write(path) as stream:
        with progress(len(OPERATIONS), "timing operations") as advance:
            content = measure_latency_table(channels, layers, repeats=repeat, advance=advance)
        stream.write((to_json(content, indent=1) + "\n").encode())
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


def _show(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    milliseconds = content["milliseconds_per_image"]
    peak = content["peak_gflops_per_thread"]
    console = Console(width=None if sys.stdout.isatty() else 160)
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

r"""Everything that is measured on a GPU, in one run of at most ten minutes: inference, training step, head.

python benchmarks/gpu/run.py --output out
python benchmarks/gpu/run.py --part inference --batch 1 --batch 256 --profile
python benchmarks/gpu/run.py --device cpu --tiny        # whether the script itself works, without a GPU
python benchmarks/gpu/run.py --floors                   # the floors alone, by an H200's data sheet

Before ours is timed in inference at batch 256 and in training at 512, fp32 and bf16, its tiles are measured,
for at most ``--tune`` seconds each, and kept in the user's cache. Subjects of a row take turns; figures are
medians of CUDA events. Errors are against the eager network in float64: the largest difference over the
largest value, and that over eager's in the same precision. Floors are the time of the multiply-adds at the
measured peak of a large matrix product, and of the bytes that each step reads and writes at the measured
bandwidth of a copy, whichever is longer (``cell_work.py`` has those of training). A subject that fails, is
not installed, or for which no time is left says so in its row.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from cell_work import floors, recorded_calls
from measuring import Call, Row, Run, graphed, once, peak_of, reason, synchronize, take_turns
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import pocketnet_fast
from pocketnet_fast.losses import margin_cross_entropy
from pocketnet_fast.lowering import lower
from pocketnet_fast.lowering.plan import LinearStep, NodeStep, Plan, StemStep
from pocketnet_fast.models.fused_training import tune as tune_training

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# NVIDIA's data sheet of the H200, dense products; what the floors that are printed without a device rest on.
H200 = {
    "fp32_tflops": 67.0,
    "tf32_tflops": 494.7,
    "bf16_tflops": 989.4,
    "fp16_tflops": 989.4,
    "copy_gbs": 4800.0,
}


def peaks(device: torch.device) -> dict[str, float]:
    """Measured TFLOP/s of a large product by type, and GB/s of a copy."""
    found = {}
    size = 4096 if device.type == "cuda" else 256
    for name, dtype in DTYPES.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = min(once(lambda a=a, b=b: a @ b, device) for _ in range(10))
        found[f"{name}_tflops"] = 2 * size**3 / best / 1e9
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.empty(2**28 if device.type == "cuda" else 2**22, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best = min(once(lambda: target.copy_(source), device) for _ in range(10))
    found["copy_gbs"] = 2 * source.numel() * 4 / best / 1e6
    return found


def traffic(plan: Plan, bytes_per_value: int) -> int:
    """Bytes of the states that an image's steps read and write, each once a step."""
    total = plan.height * plan.width * 3
    for step in plan.steps():
        if not isinstance(step, LinearStep):
            buffer = plan.buffers[step.output]
            total += buffer.blocks * 16 * buffer.height * buffer.width * bytes_per_value
        if isinstance(step, NodeStep):
            sources = {term.source for term in step.terms}
        else:
            sources = set() if isinstance(step, StemStep) else {step.source}
        for source in sources:
            buffer = plan.buffers[source]
            total += buffer.blocks * 16 * buffer.height * buffer.width * bytes_per_value
    return total


def inference_floor(plan: Plan, batch: int, precision: str, limits: dict[str, float]) -> float:
    """Milliseconds of the multiply-adds, or of the states' bytes, whichever is longer."""
    return 1e3 * max(
        2 * plan.macs * batch / (limits[f"{precision}_tflops"] * 1e12),
        traffic(plan, DTYPES[precision].itemsize) * batch / (limits["copy_gbs"] * 1e9),
    )


def pretrained_or_random(name: str) -> Any:
    from pocketnet_fast.models.registry import PRETRAINED

    if name in PRETRAINED:
        return pocketnet_fast.create_model(name, pretrained=True).eval()
    torch.manual_seed(0)
    model: Any = pocketnet_fast.create_model(name)
    with torch.no_grad():
        model.train()(torch.randn(16, 3, 112, 112))
    return model.eval()


class Eager:
    """The plain network in a precision, channels last."""

    def __init__(self, model: nn.Module, precision: str, device: torch.device) -> None:
        self.spec = model.input_spec  # type: ignore[union-attr]
        self.precision, self.dtype = precision, DTYPES[precision]
        self.network = copy.deepcopy(model).to(device, self.dtype, memory_format=torch.channels_last)

    def images(self, pixels: Tensor) -> Tensor:
        x = self.spec.normalize(pixels).to(self.dtype)
        return x.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor) -> Tensor:
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        out: Tensor = self.network(x)
        return out


def measure_inference(run: Run, name: str, batches: list[int], limits: dict[str, float]) -> None:
    """Ours against eager, CUDA graphs of eager, and torch.compile, by batch and precision."""
    model = pretrained_or_random(name)
    plan = lower(model, bands=False)
    generator = torch.Generator().manual_seed(0)
    largest = torch.randint(0, 256, (max(batches), 112, 112, 3), dtype=torch.uint8, generator=generator)
    judged = largest[: min(16, len(largest))]
    exact_model = copy.deepcopy(model).double().to(run.device)
    with torch.inference_mode():
        exact = exact_model(model.input_spec.normalize(judged).double().to(run.device)).cpu()
    precisions = ["fp32", "bf16"] if run.tiny else [*DTYPES]
    own: dict[str, float] = {}
    for precision in precisions:
        eager = Eager(model, precision, run.device)
        with torch.inference_mode():
            own[precision] = error_of(eager(eager.images(judged.to(run.device))), exact)
    for batch in batches:
        pixels = largest[:batch].to(run.device)
        for precision in precisions:
            subjects: dict[str, Call] = {}
            notes: dict[str, str] = {}
            errors: dict[str, float] = {}
            for label, build in inference_subjects(run, model, precision, pixels).items():
                if run.left < 20:
                    notes[label] = "no time left"
                    continue
                try:
                    call, embed = build()
                    with torch.inference_mode():
                        subjects[label] = inference(call)
                        subjects[label]()
                        errors[label] = error_of(embed(judged.to(run.device)), exact)
                except Exception as error:  # a peer that fails is a row, not the end
                    subjects.pop(label, None)
                    notes[label] = reason(error)
            floor = inference_floor(plan, batch, precision, limits)
            medians = take_turns(run, subjects) if subjects else {}
            for label in [*subjects, *notes]:
                row = Row("inference", label, precision, f"batch {batch}", note=notes.get(label, ""))
                if label in medians:
                    row.milliseconds = medians[label]
                    row.images_per_second = 1e3 * batch / medians[label]
                    row.peak_mib = peak_of(subjects[label], run.device)
                    row.error = errors[label]
                    row.over_eager = errors[label] / own[precision]
                    row.floor_milliseconds = floor
                run.rows.append(row)
            run.console.print(f"inference, batch {batch}, {precision}: {len(medians)} subjects")


def inference(call: Call) -> Call:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def error_of(embedding: Tensor, exact: Tensor) -> float:
    return float((embedding.double().cpu() - exact).abs().max() / exact.abs().max())


def inference_subjects(
    run: Run, model: nn.Module, precision: str, pixels: Tensor
) -> dict[str, Callable[[], tuple[Call, Callable[[Tensor], Tensor]]]]:
    """By name: what builds a call on ``pixels``, and a function from any pixels to embeddings."""

    def ours(graphs: bool) -> tuple[Call, Callable[[Tensor], Tensor]]:
        compiled: Any = pocketnet_fast.compile(model, device=str(run.device), precision=precision)
        if run.device.type == "cuda":
            compiled.graphs = graphs
            if run.tunes("inference", len(pixels), precision):
                shapes = compiled.tune([len(pixels)], run.tune)
                run.console.print(f"measured the tiles of {shapes} shapes, {precision}")
        return lambda: compiled(pixels), compiled

    def eager(graphs: bool) -> tuple[Call, Callable[[Tensor], Tensor]]:
        network = Eager(model, precision, run.device)
        x = network.images(pixels)
        call: Call = lambda: network(x)  # noqa: E731
        return (graphed(inference(call)) if graphs else call), lambda p: network(network.images(p))

    def compiled(mode: str | None) -> tuple[Call, Callable[[Tensor], Tensor]]:
        network = Eager(model, precision, run.device)
        fast = torch.compile(network.network, mode=mode, dynamic=False)
        x = network.images(pixels)
        return lambda: fast(x), lambda p: network(network.images(p))

    cuda = run.device.type == "cuda"
    found: dict[str, Callable[[], tuple[Call, Callable[[Tensor], Tensor]]]] = {}
    if cuda or precision == "fp32":
        found["ours, graph" if cuda else "ours"] = lambda: ours(True)
    if cuda:
        found["ours, launched"] = lambda: ours(False)
        found["eager, graph"] = lambda: eager(True)
    found["eager, channels last"] = lambda: eager(False)
    if not run.tiny:
        found["torch.compile"] = lambda: compiled(None)
        found["torch.compile, max-autotune"] = lambda: compiled("max-autotune")
    return found


def measure_training(run: Run, name: str, batches: list[int], limits: dict[str, float]) -> None:
    """A step, forward and backward, of the network alone."""
    calls = recorded_calls(pocketnet_fast.create_model(name))
    for batch in batches:
        for precision in ("fp32", "bf16"):
            subjects: dict[str, Call] = {}
            notes: dict[str, str] = {}
            labels = ["ours", "eager, channels last", "torch.compile"]
            for label in ["ours, graph", *labels, "eager, graph"] if run.device.type == "cuda" else labels:
                if run.left < 30 or (run.tiny and "compile" in label):
                    notes[label] = "no time left" if not run.tiny else "left out"
                    continue
                try:
                    subjects[label] = training_step(run, name, batch, precision, label)
                    subjects[label]()
                except Exception as error:
                    subjects.pop(label, None)
                    notes[label] = reason(error)
            medians = take_turns(run, subjects) if subjects else {}
            floor = sum(floors(calls, batch, precision, limits).values())
            for label in [*subjects, *notes]:
                row = Row("training step", label, precision, f"batch {batch}", note=notes.get(label, ""))
                if label in medians:
                    row.milliseconds = medians[label]
                    row.images_per_second = 1e3 * batch / medians[label]
                    # A graph holds its memory before it is called.
                    row.peak_mib = None if "graph" in label else peak_of(subjects[label], run.device)
                    row.floor_milliseconds = floor if "ours" in label else None
                run.rows.append(row)
            run.console.print(f"training, batch {batch}, {precision}: {len(medians)} subjects")


def training_step(run: Run, name: str, batch: int, precision: str, label: str) -> Call:
    torch.manual_seed(0)
    model: Any = pocketnet_fast.create_model(name).to(run.device, memory_format=torch.channels_last)
    model.fused = "ours" in label
    network = torch.compile(model, dynamic=False) if label == "torch.compile" else model
    x = torch.randn(batch, 3, 112, 112, device=run.device).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(batch, model.embedding_dim, device=run.device)

    def amp() -> torch.autocast:
        # A cast that is kept would be one of the graph's before this one.
        return torch.autocast(
            run.device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled="graph" not in label
        )

    if "ours" in label and run.tunes("training", batch, precision):
        with amp():
            shapes = tune_training(model, x, run.tune)
        run.console.print(f"measured the tiles of {shapes} shapes, training, batch {batch}, {precision}")

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with amp():
            embedding = network(x)
        (embedding.float() * weight).sum().backward()

    return graphed(step) if "graph" in label else step


def show_floors(console: Console, name: str, limits: dict[str, float]) -> None:
    """Milliseconds of each kernel of a training step, and of inference, that its work takes at the least."""
    calls = recorded_calls(pocketnet_fast.create_model(name))
    columns = [(batch, precision) for batch in (128, 512) for precision in ("fp32", "bf16")]
    found = [floors(calls, batch, precision, limits) for batch, precision in columns]
    heads = [f"{batch}, {precision}" for batch, precision in columns]
    table = Table("training kernel", *heads, title=f"floors, ms; {limits}", title_justify="left")
    for kernel in found[0]:
        table.add_row(kernel, *(f"{own[kernel]:.2f}" for own in found))
    table.add_row("together", *(f"{sum(own.values()):.2f}" for own in found))
    console.print(table)
    plan = lower(pretrained_or_random(name), bands=False)
    table = Table("inference, batch", *DTYPES)
    for batch in (1, 32, 256, 1024):
        values = (inference_floor(plan, batch, precision, limits) for precision in DTYPES)
        table.add_row(str(batch), *(f"{value:.4f}" for value in values))
    console.print(table)


def measure_head(run: Run, samples: int, sizes: list[tuple[int, int]]) -> None:
    """Margin softmax, forward and backward."""
    for dims, classes in sizes:
        for precision in ("fp32", "bf16"):
            dtype = DTYPES[precision]
            torch.manual_seed(0)
            embedding = torch.randn(samples, dims, device=run.device).to(dtype).requires_grad_()
            kernel = torch.randn(dims, classes, device=run.device).mul_(0.01).to(dtype).requires_grad_()
            label = torch.randint(0, classes, (samples,), device=run.device)
            subjects: dict[str, Call] = {}
            notes: dict[str, str] = {}
            reference: Call = lambda e=embedding, k=kernel, y=label: margin_cross_entropy(  # noqa: E731
                e, k, y, implementation="reference"
            )
            choices: dict[str, Call] = {
                "ours": lambda e=embedding, k=kernel, y=label: margin_cross_entropy(e, k, y),
                "eager": reference,
            }
            if not run.tiny:
                choices["torch.compile"] = torch.compile(reference, dynamic=False)
            for label_name, loss in choices.items():

                def step(loss: Call = loss, e: Tensor = embedding, k: Tensor = kernel) -> None:
                    torch.autograd.grad(loss(), (e, k))

                if run.left < 15:
                    notes[label_name] = "no time left"
                    continue
                try:
                    step()
                    subjects[label_name] = step
                except Exception as error:
                    notes[label_name] = reason(error)
            medians = take_turns(run, subjects) if subjects else {}
            for label_name in [*subjects, *notes]:
                size = f"{samples} x {dims} x {classes:,}"
                row = Row("head", label_name, precision, size, note=notes.get(label_name, ""))
                if label_name in medians:
                    row.milliseconds = medians[label_name]
                    row.peak_mib = peak_of(subjects[label_name], run.device)
                run.rows.append(row)
            run.console.print(f"head, {classes:,} classes, {precision}: {len(medians)} subjects")
    for package in ("liger_kernel", "cut_cross_entropy"):
        if importlib.util.find_spec(package) is None:
            run.rows.append(Row("head", package, "-", "-", note="not installed"))


def profile(run: Run, name: str, batch: int, precision: str) -> str:
    """Time of each kernel of ours at a batch."""
    compiled: Any = pocketnet_fast.compile(
        pretrained_or_random(name), device=str(run.device), precision=precision
    )
    compiled.graphs = False
    pixels = torch.zeros(batch, 112, 112, 3, dtype=torch.uint8, device=run.device)
    with torch.inference_mode():
        for _ in range(3):
            compiled(pixels)
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as seen:
            compiled(pixels)
            synchronize(run.device)
    table: str = seen.key_averages().table(sort_by="cuda_time_total", row_limit=30)
    return table


def show(run: Run) -> None:
    for part in dict.fromkeys(row.part for row in run.rows):
        table = Table(
            "size", "precision", "subject", "ms", "images/s", "floor, ms", "peak MiB", "error", "over eager",
            "note", title=part, title_justify="left",
        )  # fmt: skip
        for row in run.rows:
            if row.part != part:
                continue
            numbers = (
                (row.milliseconds, ".3f"),
                (row.images_per_second, ",.0f"),
                (row.floor_milliseconds, ".3f"),
                (row.peak_mib, ",.0f"),
                (row.error, ".1e"),
                (row.over_eager, ".2f"),
            )
            values = ["-" if value is None else format(value, style) for value, style in numbers]
            table.add_row(row.size, row.precision, row.subject, *values, row.note)
        run.console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", action="append", choices=["inference", "training", "head"])
    parser.add_argument("--model", default="pocketnet_s128")
    parser.add_argument("--batch", type=int, action="append", help="of inference; default 1, 32, 256, 1024")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--seconds", type=float, default=0.5, help="of timing a subject in a row")
    parser.add_argument(
        "--profile", action="store_true", help="also the time of each kernel at batch 256, bf16"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, nothing compiled")
    parser.add_argument(
        "--tune", type=float, default=25, help="most seconds of measuring tiles before a row; 0 for none"
    )
    parser.add_argument("--floors", action="store_true", help="print the floors of an H200 and stop")
    parser.add_argument("--output", type=Path, help="folder for results.json and profile.txt")
    arguments = parser.parse_args()
    if arguments.floors:
        show_floors(Console(width=170), arguments.model, H200)
        return
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --tiny tries the script out")
    end = time.monotonic() + arguments.budget
    console = Console(width=170)
    run = Run(
        device, arguments.tiny, end, 0.05 if arguments.tiny else arguments.seconds, console, arguments.tune
    )
    limits = peaks(device)
    cuda = device.type == "cuda"
    machine = {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor(),
        "torch": torch.__version__,
        **{name: round(value, 1) for name, value in limits.items()},
    }
    console.print(machine)
    parts = arguments.part or ["inference", "head", "training"]
    batches = arguments.batch or ([1, 2] if arguments.tiny else [256, 1, 32, 1024])
    try:
        if "inference" in parts:
            measure_inference(run, arguments.model, batches, limits)
        if "head" in parts:
            sizes = [(16, 500)] if arguments.tiny else [(128, 85_742), (512, 1_000_000)]
            measure_head(run, 8 if arguments.tiny else 512, sizes)
        if "training" in parts:
            measure_training(run, arguments.model, [4] if arguments.tiny else [512, 128], limits)
    finally:
        show(run)
        if arguments.output is not None:
            arguments.output.mkdir(parents=True, exist_ok=True)
            content = {"machine": machine, "rows": [asdict(row) for row in run.rows]}
            (arguments.output / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    if arguments.profile and cuda:
        table = profile(run, arguments.model, 256, "bf16")
        console.print(table)
        if arguments.output is not None:
            (arguments.output / "profile.txt").write_text(table)


if __name__ == "__main__":
    main()

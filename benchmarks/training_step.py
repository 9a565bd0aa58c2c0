r"""A training step of a network: time in turns, peak memory, and the gradients' precision.

python benchmarks/training_step.py
python benchmarks/training_step.py --network pocketnet_m128 --threads 2 --subject eager
python benchmarks/training_step.py --precision --half

Ours in both precisions and one peer at a time have a process each and take turns in a new order every round;
one thread is pinned to one processor. The step is forward and backward, the loss the embeddings' mean square.
Peak memory is the rise of the resident peak over three steps: torch itself and weights are left out.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import torch
from step_turns import keep, limit_threads, serve, take_turns
from torch import Tensor, nn

from pocketnet_fast import create_model

# glibc's allocator returns large blocks to the system at once; kept, they need not be cleared again.
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


@dataclass(frozen=True)
class Subject:
    """What makes a step: torch's settings, and under autocast to bfloat16 or not."""

    environment: dict[str, str] = field(default_factory=dict)
    memory_format: torch.memory_format = torch.contiguous_format
    compiled: bool = False
    half: bool = False


OURS = ("fused", "fused, bf16")
SUBJECTS: dict[str, Subject] = {
    "fused": Subject(),
    "fused, bf16": Subject(half=True),
    "eager": Subject(),
    "eager, tuned malloc": Subject(TUNED),
    "channels_last": Subject(memory_format=torch.channels_last),
    "channels_last, tuned malloc": Subject(TUNED, torch.channels_last),
    "channels_last, tuned malloc, bf16": Subject(TUNED, torch.channels_last, half=True),
    "torch.compile": Subject(compiled=True),
}


def build(subject: str, network: str, batch: int) -> tuple[nn.Module, Tensor]:
    settings = SUBJECTS[subject]
    torch.manual_seed(0)
    model: nn.Module = create_model(network).train()
    model.fused = subject in OURS  # type: ignore[assignment]
    model = model.to(memory_format=settings.memory_format)
    images = torch.randn(batch, 3, 112, 112).to(memory_format=settings.memory_format)
    return (torch.compile(model) if settings.compiled else model), images


def step(model: nn.Module, images: Tensor, half: bool) -> None:
    model.zero_grad(set_to_none=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        embedding = model(images)
    embedding.float().square().mean().backward()


def work(subject: str, network: str, batch: int, threads: int) -> None:
    """Serve steps of one subject."""
    limit_threads(threads)
    model, images = build(subject, network, batch)
    settings = SUBJECTS[subject]
    if settings.compiled:
        step(model, images, settings.half)  # compilation would raise the peak
    serve(lambda: step(model, images, settings.half))


def compare(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Ours in both precisions against each peer, which all at once would need tens of gigabytes."""
    results: dict[str, dict[str, float]] = {}
    print(
        "| peer | median ms per image | best | peak memory | ours, in turns with it | faster by "
        "| ours in bf16 | faster by | than ours in fp32 |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for peer in arguments.subject:
        found = take_turns(
            __file__,
            {name: SUBJECTS[name].environment for name in (*OURS, peer)},
            [
                *("--network", arguments.network),
                *("--batch", str(arguments.batch)),
                *("--threads", str(arguments.threads)),
            ],
            rounds=arguments.rounds,
            scale=1e3 / arguments.batch,
        )
        theirs = found[peer]
        row = (
            f"| {peer} | {theirs['median_ms']:.1f} | {theirs['best_ms']:.1f} | {theirs['peak_mib']:,.0f} MiB "
        )
        for name in OURS:
            ours = found[name]
            row += (
                f"| {ours['median_ms']:.1f}, best {ours['best_ms']:.1f}, {ours['peak_mib']:,.0f} MiB "
                f"| {theirs['median_ms'] / ours['median_ms']:.2f} "
            )
        ratio = found["fused, bf16"]["median_ms"] / found["fused"]["median_ms"]
        print(f"{row}| {ratio:.2f} of its time |", flush=True)
        results[peer] = theirs | {
            f"{name} {key}": value for name in OURS for key, value in found[name].items()
        }
    return results


def _gradients(
    network: str, images: Tensor, weights: Tensor, fused: bool, dtype: torch.dtype
) -> list[Tensor]:
    """Of a network in ``dtype``; bfloat16 is autocast to it."""
    torch.manual_seed(0)
    half = dtype == torch.bfloat16
    weight = torch.float32 if half else dtype
    model = create_model(network).train().to(weight)
    model.fused = fused  # type: ignore[assignment]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        embedding = model(images.to(weight))
    (embedding.to(weight) * weights.to(weight)).sum().backward()
    return [p.grad.double() for p in model.parameters() if p.grad is not None]


def precision(network: str, batch: int, seeds: int, dtype: torch.dtype) -> None:
    """Each parameter's error against float64, ours over eager's.

    Rounding decides which of two nearly equal pixels is a maximum, and on which side of zero a value is; a
    decision that falls the other way than in float64 changes a gradient by far more than rounding does, ours
    or eager's. So single ratios scatter widely, and their middle is what says something.
    """
    print("| seed | median of ours / eager's | 10 % | 90 % | ours, median relative error | eager's |")
    print("|---:|---:|---:|---:|---:|---:|")
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(batch, 3, 112, 112, generator=generator)
        weights = torch.randn(batch, create_model(network).embedding_dim, generator=generator)
        exact = _gradients(network, images, weights, False, torch.float64)
        ours, eagers = (
            [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
            for found in (
                _gradients(network, images, weights, True, dtype),
                _gradients(network, images, weights, False, dtype),
            )
        )
        ratios = sorted(a / max(b, 1e-12) for a, b in zip(ours, eagers, strict=True))
        tenth = len(ratios) // 10
        print(
            f"| {seed} | {statistics.median(ratios):.2f} | {ratios[tenth]:.2f} | {ratios[-tenth - 1]:.2f} "
            f"| {statistics.median(ours):.1e} | {statistics.median(eagers):.1e} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="pocketnet_s128")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    peers = [name for name in SUBJECTS if name not in OURS]
    parser.add_argument(
        "--subject", action="append", choices=peers, help="a peer; may be given several times"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--precision", action="store_true", help="compare gradients with float64 instead")
    parser.add_argument("--seeds", type=int, default=5, help="with --precision")
    parser.add_argument("--half", action="store_true", help="with --precision: under autocast to bfloat16")
    parser.add_argument("--work", choices=list(SUBJECTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.subject = arguments.subject or peers
    if arguments.work is not None:
        work(arguments.work, arguments.network, arguments.batch, arguments.threads)
    elif arguments.precision:
        dtype = torch.bfloat16 if arguments.half else torch.float32
        precision(arguments.network, arguments.batch, arguments.seeds, dtype)
    else:
        results = compare(arguments)
        keep(arguments, results)


if __name__ == "__main__":
    main()

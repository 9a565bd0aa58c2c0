r"""A training step of a network: time in turns, peak memory, and the gradients' precision.

python benchmarks/training_step.py
python benchmarks/training_step.py --network pocketnet_m128 --threads 2 --subject eager
python benchmarks/training_step.py --precision

Ours and one peer at a time have a process each and take turns in a new order every round; one thread is
pinned to one processor. The step is forward and backward, the loss the embeddings' mean square. Peak memory
is the rise of the resident peak over the first step: torch itself and weights are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from step_turns import limit_threads, serve, take_turns
from torch import Tensor, nn

from pocketnet_fast import create_model

# glibc's allocator returns large blocks to the system at once; kept, they need not be cleared again.
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}

# name -> environment, memory format, whether torch.compile runs it
SUBJECTS: dict[str, tuple[dict[str, str], torch.memory_format, bool]] = {
    "fused": ({}, torch.contiguous_format, False),
    "eager": ({}, torch.contiguous_format, False),
    "eager, tuned malloc": (TUNED, torch.contiguous_format, False),
    "channels_last": ({}, torch.channels_last, False),
    "channels_last, tuned malloc": (TUNED, torch.channels_last, False),
    "torch.compile": ({}, torch.contiguous_format, True),
}


def build(subject: str, network: str, batch: int) -> tuple[nn.Module, Tensor]:
    _, memory_format, compiled = SUBJECTS[subject]
    torch.manual_seed(0)
    model: nn.Module = create_model(network).train()
    model.fused = subject == "fused"  # type: ignore[assignment]
    model = model.to(memory_format=memory_format)
    images = torch.randn(batch, 3, 112, 112).to(memory_format=memory_format)
    return (torch.compile(model) if compiled else model), images


def step(model: nn.Module, images: Tensor) -> None:
    model.zero_grad(set_to_none=False)
    model(images).square().mean().backward()


def work(subject: str, network: str, batch: int, threads: int) -> None:
    """Serve steps of one subject."""
    limit_threads(threads)
    model, images = build(subject, network, batch)
    if SUBJECTS[subject][2]:
        step(model, images)  # compilation would raise the peak
    serve(lambda: step(model, images))


def compare(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Ours against each peer, two at a time: all at once would need tens of gigabytes."""
    results: dict[str, dict[str, float]] = {}
    print("| peer | median ms per image | best | peak memory | ours, in turns with it | ours is faster by |")
    print("|---|---:|---:|---:|---:|---:|")
    for peer in arguments.subject:
        pair = take_turns(
            __file__,
            {name: SUBJECTS[name][0] for name in ("fused", peer)},
            [
                *("--network", arguments.network),
                *("--batch", str(arguments.batch)),
                *("--threads", str(arguments.threads)),
            ],
            rounds=arguments.rounds,
            scale=1e3 / arguments.batch,
        )
        ours, theirs = pair["fused"], pair[peer]
        ratio = theirs["median_ms"] / ours["median_ms"]
        print(
            f"| {peer} | {theirs['median_ms']:.1f} | {theirs['best_ms']:.1f} "
            f"| {theirs['peak_mib']:,.0f} MiB | {ours['median_ms']:.1f}, best {ours['best_ms']:.1f}, "
            f"{ours['peak_mib']:,.0f} MiB | {ratio:.2f} |",
            flush=True,
        )
        results[peer] = theirs | {f"fused_{key}": value for key, value in ours.items()}
    return results


def _gradients(
    network: str, images: Tensor, weights: Tensor, fused: bool, dtype: torch.dtype
) -> list[Tensor]:
    torch.manual_seed(0)
    model = create_model(network).train().to(dtype)
    model.fused = fused  # type: ignore[assignment]
    (model(images.to(dtype)) * weights.to(dtype)).sum().backward()
    return [p.grad.double() for p in model.parameters() if p.grad is not None]


def precision(network: str, batch: int, seeds: int) -> None:
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
                _gradients(network, images, weights, True, torch.float32),
                _gradients(network, images, weights, False, torch.float32),
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
    peers = [name for name in SUBJECTS if name != "fused"]
    parser.add_argument(
        "--subject", action="append", choices=peers, help="a peer; may be given several times"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--precision", action="store_true", help="compare gradients with float64 instead")
    parser.add_argument("--seeds", type=int, default=5, help="with --precision")
    parser.add_argument("--work", choices=list(SUBJECTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.subject = arguments.subject or peers
    if arguments.work is not None:
        work(arguments.work, arguments.network, arguments.batch, arguments.threads)
    elif arguments.precision:
        precision(arguments.network, arguments.batch, arguments.seeds)
    else:
        results = compare(arguments)
        if arguments.json is not None:
            arguments.json.write_text(
                json.dumps({"arguments": vars(arguments) | {"json": None}, **results}, default=str)
            )


if __name__ == "__main__":
    main()

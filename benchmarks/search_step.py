r"""A step of the search on the fused cells against plain PyTorch: time in turns, and peak memory.

python benchmarks/search_step.py
python benchmarks/search_step.py --order 2 --rounds 3

A step trains the weights on one batch (forward, backward, SGD) and computes the gradient of the alphas on
another, by first or second order. Ours and one peer at a time have a process each and take turns; one thread
is pinned to one processor.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from step_turns import keep, limit_threads, serve, take_turns
from torch.nn.functional import cross_entropy
from training_step import TUNED

from pocketnet_fast.search import SearchNetwork, architecture_gradient

SUBJECTS: dict[str, tuple[dict[str, str], torch.memory_format]] = {
    "fused": ({}, torch.contiguous_format),
    "plain": ({}, torch.contiguous_format),
    "plain, tuned malloc": (TUNED, torch.contiguous_format),
    "plain, channels_last": ({}, torch.channels_last),
    "plain, channels_last, tuned malloc": (TUNED, torch.channels_last),
}
CLASSES = 100


def build(subject: str, *, channels: int, layers: int, batch: int, order: int) -> Callable[[], None]:
    """A subject's step."""
    torch.manual_seed(0)
    network = SearchNetwork(channels, layers, CLASSES).train()
    network.fused = subject == "fused"
    memory_format = SUBJECTS[subject][1]
    network = network.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(network.weights().values(), 0.1, momentum=0.9, weight_decay=3e-4)
    batches = [
        (
            torch.randn(batch, 3, 112, 112).to(memory_format=memory_format),
            torch.randint(CLASSES, (batch,)),
        )
        for _ in range(2)
    ]

    def step() -> None:
        architecture_gradient(
            network, *batches, xi=0.1, optimizer=optimizer, order=order, hessian="published"
        )
        optimizer.zero_grad(set_to_none=True)
        images, label = batches[0]
        cross_entropy(network(images), label).backward()
        optimizer.step()

    return step


def work(subject: str, a: argparse.Namespace) -> None:
    """Serve steps of one subject."""
    limit_threads(a.threads)
    serve(build(subject, channels=a.channels, layers=a.layers, batch=a.batch, order=a.order))


def compare(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Ours against each peer, two at a time: all at once would need tens of gigabytes."""
    results: dict[str, dict[str, float]] = {}
    print("| peer | median ms a step | best | peak memory | ours, in turns with it | faster by | memory |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for peer in arguments.subject:
        given = [
            f"--{name}={vars(arguments)[name]}"
            for name in ("channels", "layers", "batch", "threads", "order")
        ]
        pair = take_turns(
            __file__,
            {name: SUBJECTS[name][0] for name in ("fused", peer)},
            given,
            rounds=arguments.rounds,
            scale=1e3,
        )
        ours, theirs = pair["fused"], pair[peer]
        print(
            f"| {peer} | {theirs['median_ms']:,.0f} | {theirs['best_ms']:,.0f} "
            f"| {theirs['peak_mib']:,.0f} MiB | {ours['median_ms']:,.0f}, best {ours['best_ms']:,.0f}, "
            f"{ours['peak_mib']:,.0f} MiB | {theirs['median_ms'] / ours['median_ms']:.2f} "
            f"| {ours['peak_mib'] / theirs['peak_mib']:.1%} |",
            flush=True,
        )
        results[peer] = theirs | {f"fused_{key}": value for key, value in ours.items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--order", type=int, default=1, choices=(1, 2))
    parser.add_argument("--rounds", type=int, default=5)
    peers = [name for name in SUBJECTS if name != "fused"]
    parser.add_argument(
        "--subject", action="append", choices=peers, help="a peer; may be given several times"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--work", choices=list(SUBJECTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.subject = arguments.subject or peers
    if arguments.work is not None:
        work(arguments.work, arguments)
        return
    results = compare(arguments)
    keep(arguments, results)


if __name__ == "__main__":
    main()

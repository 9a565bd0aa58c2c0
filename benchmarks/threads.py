r"""What threads are worth: alone, after torch's operators, among callers, after a fork, on a busy machine.

    python benchmarks/threads.py
    python benchmarks/threads.py --part calls --precision bf16 --rounds 100

Calls on one thread and on ``--threads`` take turns in one process, where torch has ``--threads`` as well. The
ratios are those of medians, to one thread. ``loaded`` puts a busy loop of another process on each processor;
there the means say what medians hide, that a call now and then waits for a time slice. torch's threads
wait as the environment says, by default longer than in the commands; those have GOMP_SPINCOUNT=10000.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import pocketnet_fast
from pocketnet_fast.machine import processor_name
from pocketnet_fast.waiting import ProcessorWaits

Call = Callable[..., Any]
Times = dict[str, list[float]]
NETWORK = "pocketnet_s128"
POLICIES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def milliseconds(call: Call, *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return 1e3 * (time.perf_counter() - start)


class Networks:
    """The network on one thread and on several, and images for it."""

    def __init__(self, precision: str, threads: int, training_batch: int) -> None:
        model = pocketnet_fast.create_model(NETWORK, pretrained=True)
        self.training_batch = training_batch
        self.counts = {"one": 1, "several": threads}
        self.compiled = {
            name: pocketnet_fast.compile(model, precision=precision, threads=count)
            for name, count in self.counts.items()
        }
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (32, 112, 112, 3), dtype=torch.uint8, generator=generator)
        self.large = torch.rand(1 << 20, generator=generator)
        self.result = torch.empty_like(self.large)
        for network in self.compiled.values():
            network(self.images[:3])

    def parallel_operator(self) -> None:
        """Leaves torch's threads spinning."""
        torch.tanh(self.large, out=self.result)


def calls(networks: Networks, rounds: int) -> Times:
    """One image in a row of calls, from sleep and right after a parallel operator; a batch."""
    times: Times = {}
    one_image = networks.images[:1]
    for turn in range(rounds):
        for name, network in networks.compiled.items():
            time.sleep(0.02)
            times.setdefault(f"from sleep, {name}", []).append(milliseconds(network, one_image))
            for _ in range(20):
                times.setdefault(f"image, {name}", []).append(milliseconds(network, one_image))
            for _ in range(5):
                networks.parallel_operator()
                times.setdefault(f"after an operator, {name}", []).append(milliseconds(network, one_image))
        if turn % 5 == 0:
            for name, network in networks.compiled.items():
                time.sleep(0.02)
                times.setdefault(f"batch of 32, {name}", []).append(milliseconds(network, networks.images))
    return times


def pipeline(networks: Networks, rounds: int) -> Times:
    """A photo scaled and normalised by torch, then embedded: each part in a row of its own, and both."""
    photo = torch.randint(0, 256, (1, 720, 960, 3), dtype=torch.uint8)

    def preprocess() -> Tensor:
        planes = photo.permute(0, 3, 1, 2).float()
        small = torch.nn.functional.interpolate(planes, (112, 112), mode="bilinear", antialias=True)
        return small.div_(255).sub_(0.5).div_(0.5)

    crop = preprocess()
    times: Times = {}
    for _ in range(rounds):
        for name, network in networks.compiled.items():

            def both(network: Call = network) -> Tensor:
                result: Tensor = network(preprocess())
                return result

            parts: dict[str, tuple[Call, list[Tensor]]] = {
                "torch": (preprocess, []),
                "network": (network, [crop]),
                "both": (both, []),
            }
            for part, (call, arguments) in parts.items():
                time.sleep(0.01)
                for _ in range(3):
                    call(*arguments)
                for _ in range(7):
                    times.setdefault(f"{part}, {name}", []).append(milliseconds(call, *arguments))
    return times


def callers(networks: Networks, rounds: int) -> Times:
    """Milliseconds an image where four threads call at once."""
    times: Times = {}
    calls_each, count = 10, 4
    for _ in range(max(1, rounds // 5)):
        for name, network in networks.compiled.items():

            def work(network: Any = network) -> None:
                for _ in range(calls_each):
                    network(networks.images[:1])

            def at_once(work: Call = work) -> None:
                threads = [threading.Thread(target=work) for _ in range(count)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            times.setdefault(f"four callers, {name}", []).append(milliseconds(at_once) / calls_each / count)
    return times


def forked(networks: Networks, rounds: int) -> Times:
    """Calls of a child that was forked after the parent's calls and parallel operators."""
    networks.parallel_operator()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            times: Times = {}
            for _ in range(rounds):
                for name, network in networks.compiled.items():
                    for _ in range(5):
                        times.setdefault(f"forked, {name}", []).append(
                            milliseconds(network, networks.images[:1])
                        )
            with os.fdopen(writer, "w") as stream:
                json.dump(times, stream)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit("the forked child failed")
    result: Times = json.loads(text)
    return result


@contextlib.contextmanager
def busy_loops() -> Iterator[None]:
    """A busy loop of another process on each processor."""
    code = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    loops = [
        subprocess.Popen([sys.executable, "-c", code, str(processor)])
        for processor in sorted(os.sched_getaffinity(0))
    ]
    time.sleep(0.5)
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def loaded(networks: Networks, rounds: int) -> Times:
    """The same beside busy loops."""
    times: Times = {}
    with busy_loops():
        for turn in range(rounds):
            for name, network in networks.compiled.items():
                for _ in range(10):
                    times.setdefault(f"loaded, {name}", []).append(milliseconds(network, networks.images[:1]))
                if turn % 5 == 0:
                    times.setdefault(f"loaded, batch of 32, {name}", []).append(
                        milliseconds(network, networks.images)
                    )
    return times


def training(networks: Networks, rounds: int) -> Times:
    """Milliseconds an image of a training step, quiet and beside busy loops."""
    batch = networks.training_batch
    model = pocketnet_fast.create_model(NETWORK).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.randn(batch, 3, 112, 112)

    def step() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    times: Times = {}
    before = torch.get_num_threads()
    for title, load in (("training", contextlib.nullcontext()), ("training, loaded", busy_loops())):
        with load:
            for _ in range(max(1, rounds // 10)):
                for name, count in networks.counts.items():
                    torch.set_num_threads(count)
                    step()
                    for _ in range(2):
                        times.setdefault(f"{title}, {name}", []).append(milliseconds(step) / batch)
    torch.set_num_threads(before)
    return times


PARTS: dict[str, Callable[[Networks, int], Times]] = {
    "calls": calls,
    "pipeline": pipeline,
    "callers": callers,
    "forked": forked,
    "loaded": loaded,
    "training": training,
}


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)

    def quantile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {
        "best": ordered[0],
        "lower": quantile(0.25),
        "median": statistics.median(ordered),
        "upper": quantile(0.75),
        "p99": quantile(0.99),
        "mean": statistics.fmean(ordered),
        "calls": len(ordered),
    }


def show(found: dict[str, dict[str, dict[str, float]]]) -> None:
    for precision, rows in found.items():
        table = Table(title=f"{NETWORK}, {precision}", title_justify="left")
        table.add_column("milliseconds", no_wrap=True)
        for column in ("best", "lower", "median", "upper", "p99", "mean", "to one thread"):
            table.add_column(column, justify="right")
        for name, row in rows.items():
            alone = rows.get(name.removesuffix("several") + "one", row)
            cells = [f"{row[key]:.3f}" for key in ("best", "lower", "median", "upper", "p99", "mean")]
            table.add_row(name, *cells, f"{row['median'] / alone['median']:.2f}")
        Console().print(table)
        for name in ("one", "several"):
            if f"both, {name}" in rows:
                whole = rows[f"both, {name}"]["median"]
                parts = rows[f"torch, {name}"]["median"] + rows[f"network, {name}"]["median"]
                Console().print(f"pipeline, {name}: {whole / parts:.2f} of the sum of its parts")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    processors = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=min(2, processors), help="beside one (default: 2)")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--batch", type=int, default=16, help="images of a training step")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy = next((f"{n}={os.environ[n]}" for n in POLICIES if n in os.environ), "torch's default")
    print(f"{processor_name()}, {processors} processors, {arguments.threads} threads; they wait by {policy}")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for precision in arguments.precision:
        networks = Networks(precision, arguments.threads, arguments.batch)
        found[precision] = {}
        for part in arguments.part:
            if part == "training" and precision != "fp32":
                continue
            with ProcessorWaits() as waits:
                times = PARTS[part](networks, arguments.rounds)
            found[precision] |= {name: summary(values) for name, values in times.items()}
            if waits.share is not None:
                print(f"{precision}, {part}: threads waited {waits.share:.1%} of their time for processors")
    show(found)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

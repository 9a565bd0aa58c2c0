"""Time every subject end to end in interleaved rounds; print a table, write JSON and a picture.

Each subject lives in a process of its own, so that no thread pool disturbs another and each can have its own
environment. All are built and checked against eager first; then they take turns, in a new order every round,
so that a slow spell of the machine meets them all.

    python benchmarks/run.py --batch 1 --threads 1 --subject pocketnet_fast --subject ncnn
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import Machine, measure, processors
from report import draw, show
from rich.console import Console
from rich.progress import Progress
from subjects import OURS, SUBJECTS, Subject, by_name

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.waiting import waiting_policy

_WORKER = Path(__file__).with_name("worker.py")
_QUIET_LOAD = 0.5


class Worker:
    """The process that runs one subject."""

    def __init__(self, subject: Subject, model: str, threads: int, batches: list[int]) -> None:
        self.subject = subject
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **waiting_policy(), "OMP_NUM_THREADS": str(threads), **subject.environment},
        )
        request = {"subject": subject.name, "model": model, "threads": threads, "batches": batches}
        try:
            self.answer: dict[str, Any] = self._ask(request)
        except RuntimeError as error:
            self.answer = {"refused": str(error)}

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process ended with code {self._process.wait()}")
        return json.loads(answer)

    def round(self, batch: int, seconds: float) -> list[float]:
        """Time calls of one batch size for about ``seconds``; returns the seconds of each call."""
        times: list[float] = self._ask({"batch": batch, "seconds": seconds})
        return times

    def close(self) -> None:
        self._process.communicate()


def _statistics(times: list[float], batch: int) -> dict[str, float]:
    per_image = [1e3 * seconds / batch for seconds in times]
    # Of a single call, the quartiles are that call.
    lower, median, upper = statistics.quantiles(per_image * (1 + (len(times) == 1)), n=4)
    return {
        "median_ms": median,
        "lower_ms": lower,
        "upper_ms": upper,
        "best_ms": min(per_image),
        "calls": len(times),
    }


def time_all(
    subjects: list[Subject], model: str, threads: int, batches: list[int], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Build, check and time the subjects for one number of threads; one result per subject and batch."""
    order = random.Random(0)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{threads} threads: build", total=len(subjects))
        workers = []
        for subject in subjects:
            progress.update(task, description=f"{threads} threads: build {subject.name}")
            workers.append(Worker(subject, model, threads, batches))
            progress.advance(task)
        able = [worker for worker in workers if "checks" in worker.answer]
        times: dict[tuple[str, int], list[float]] = {(w.subject.name, b): [] for w in able for b in batches}
        task = progress.add_task(f"{threads} threads: time", total=rounds * len(batches) * len(able))
        for _ in range(rounds):
            for batch in batches:
                for worker in order.sample(able, len(able)):
                    times[worker.subject.name, batch] += worker.round(batch, seconds)
                    progress.advance(task)
        for worker in workers:
            worker.close()
    results = []
    for worker in workers:
        common = {"subject": worker.subject.name, "precision": worker.subject.precision, "threads": threads}
        for batch in batches:
            result = {**common, "batch": batch}
            if worker in able:
                result |= {"version": worker.answer["version"], **worker.answer["checks"][str(batch)]}
                result |= _statistics(times[worker.subject.name, batch], batch)
            else:
                result |= worker.answer
            results.append(result)
    _add_ratios(results)
    return results


def _add_ratios(results: list[dict[str, Any]]) -> None:
    ours = {r["batch"]: r["median_ms"] for r in results if r["subject"] == OURS and "median_ms" in r}
    for result in results:
        if "median_ms" in result and result["batch"] in ours:
            result["times_ours"] = result["median_ms"] / ours[result["batch"]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pocketnet_s128")
    parser.add_argument("--batch", type=int, action="append", help="repeatable; default 1, 8 and 32")
    parser.add_argument("--threads", type=int, action="append", help="repeatable; default 1 and all")
    parser.add_argument("--subject", action="append", help="repeatable; default all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each subject's turn in a round")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    try:
        arguments.subject = (
            [by_name(name) for name in arguments.subject] if arguments.subject else [*SUBJECTS]
        )
    except KeyError as error:
        parser.error(error.args[0])
    if any(threads > processors() for threads in arguments.threads or []):
        parser.error(f"this process may use {processors()} processors only")
    return arguments


def main() -> None:
    """Run the benchmark from the command line."""
    arguments = _arguments()
    batches = arguments.batch or [1, 8, 32]
    load = os.getloadavg()[0]
    if load > _QUIET_LOAD:
        print(f"warning: the machine is busy (load average {load:.1f}); figures will be off", file=sys.stderr)
    machines: list[Machine] = []
    results: list[dict[str, Any]] = []
    for threads in arguments.threads or sorted({1, processors()}):
        machines.append(measure(threads))
        results += time_all(
            arguments.subject, arguments.model, threads, batches, arguments.rounds, arguments.seconds
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / f"inference_{arguments.model}"
    record = {
        "model": arguments.model,
        "load_average": load,
        "machines": [asdict(m) for m in machines],
        "results": results,
    }
    stem.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    show(record, Console() if sys.stdout.isatty() else Console(width=120))
    try:
        draw(record, stem.with_suffix(".png"))
    except PocketNetError as error:
        print(f"no picture: {error}", file=sys.stderr)
    print(f"written: {stem}.json, {stem}.png")


if __name__ == "__main__":
    main()

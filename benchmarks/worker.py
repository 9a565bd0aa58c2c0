"""One subject in one process: build and check it, then time it in rounds whenever the parent asks.

Reads one JSON request per line from stdin and answers each with one JSON line. The first request describes
the subject; every later one, ``{"batch": n, "seconds": s}``, is a round.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any, TextIO


def _build(request: dict[str, Any]) -> tuple[dict[str, Any], dict[int, Any]]:
    import torch
    from subjects import UnavailableError, agreement, batch_of, by_name, limit_threads, network

    subject = by_name(request["subject"])
    runners: dict[int, Any] = {}
    checks: dict[int, Any] = {}
    try:
        subject.require()
        limit_threads(request["threads"])
        for batch in request["batches"]:
            example = batch_of(batch)
            expected = network(request["model"])(example)
            run = subject.build(network(request["model"]), example, request["threads"])
            found = agreement(run(example).clone(), expected)
            checks[batch] = {"cosine": found.cosine, "error": found.error}
            if not found.within(subject):
                return {"refused": f"other embeddings than eager's: {found}"}, {}
            runners[batch] = (run, example)
    except UnavailableError as error:
        return {"skipped": str(error)}, {}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}, {}
    return {"version": subject.version(), "checks": checks, "torch": torch.__version__}, runners


def _round(run: Any, x: Any, seconds: float) -> list[float]:
    # The caches hold another subject's weights when a round starts.
    run(x)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run(x)
        stop = time.perf_counter()
        times.append(stop - start)
        if stop >= end:
            return times


def main() -> None:
    warnings.simplefilter("ignore")
    # Some runtimes print to stdout; answers go to a descriptor of their own.
    answers: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())

    import torch

    with torch.no_grad():
        answer, runners = _build(request)
        print(json.dumps(answer), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            run, x = runners[request["batch"]]
            print(json.dumps(_round(run, x, request["seconds"])), file=answers, flush=True)


if __name__ == "__main__":
    main()

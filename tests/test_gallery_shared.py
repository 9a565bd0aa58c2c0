"""Twenty writers and fifty readers of one gallery: no error, no lost update, bounded waiting."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import SPACE, rows

from pocketnet_fast.gallery import vectors
from pocketnet_fast.gallery.gallery import Gallery

SECONDS = float(os.environ.get("POCKETNET_SOAK", "4"))
WRITERS, READERS = 20, 50
SHARES = 10
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "pocketnet_fast.gallery.gallery", "galleries"])


def write(path: Path, number: int, until: float) -> dict[str, Any]:
    gallery = Gallery(path)
    done, slowest, rng = 0, 0.0, np.random.default_rng(number)
    mine = f"writer {number}"
    while not done or time.monotonic() < until:
        start = time.monotonic()
        gallery.add([mine, mine], rng.standard_normal((2, 8)))
        # What many change at once: nobody's change may be lost.
        with gallery.writing() as connection:
            (notes,) = connection.execute("SELECT notes FROM person WHERE name = 'everybody'").fetchone()
            connection.execute("UPDATE person SET notes = ? WHERE name = 'everybody'", (str(int(notes) + 1),))
        if done % 8 == 7:
            gallery.merge(mine, "all")
        slowest = max(slowest, time.monotonic() - start)
        done += 1
        time.sleep(rng.uniform(0, 0.05))
    return {"done": done, "slowest": slowest}


def read(path: Path, number: int, until: float) -> dict[str, Any]:
    gallery = Gallery(path)
    done, slowest = 0, 0.0
    while not done or time.monotonic() < until:
        start = time.monotonic()
        with gallery.snapshot():
            people = gallery.people()
            assert all(person.faces % 2 == 0 for person in people), people
            assert len(gallery) == sum(person.faces for person in people)
            (found,) = gallery.search(rows(1, number), top=99, threads=1)
            assert {match.person for match in found} == {person.id for person in people if person.faces}
        slowest = max(slowest, time.monotonic() - start)
        done += 1
        time.sleep(0.01)
    return {"done": done, "slowest": slowest}


def work(path: Path, number: int, to: Connection) -> None:
    """Two writers and five readers, each with a gallery of its own."""
    vectors._WITHOUT_FILE = 64  # type: ignore[misc]
    to.send("ready")
    until = to.recv()
    results: list[tuple[str, dict[str, Any]]] = []

    def run(role: str, act: Callable[[Path, int, float], dict[str, Any]], which: int) -> None:
        try:
            results.append((role, act(path, which, until)))
        except BaseException as error:
            results.append((role, {"error": f"{role} {which}: {type(error).__name__} {error}"}))

    roles = [("write", write, number * 2 + i) for i in range(WRITERS // SHARES)]
    roles += [("read", read, number * 5 + i) for i in range(READERS // SHARES)]
    threads = [threading.Thread(target=run, args=role) for role in roles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    to.send(results)


@pytest.mark.slow(seconds=15)
def test_twenty_writers_and_fifty_readers(tmp_path: Path) -> None:
    path = tmp_path / "g"
    gallery = Gallery.create(path, SPACE)
    gallery.add(["all", "all"], rows(2))
    with gallery.writing() as connection:
        connection.execute("INSERT INTO person (name, notes) VALUES ('everybody', '0')")
    workers = []
    for number in range(SHARES):
        here, there = PROCESSES.Pipe()
        worker = PROCESSES.Process(target=work, args=(path, number, there))
        worker.start()
        workers.append((worker, here))
    for _, here in workers:
        assert here.recv() == "ready"
    until = time.monotonic() + SECONDS
    for _, here in workers:
        here.send(until)
    results: dict[str, list[dict[str, Any]]] = {"write": [], "read": []}
    for worker, here in workers:
        for role, result in here.recv():
            results[role].append(result)
        worker.join()
    assert (len(results["write"]), len(results["read"])) == (WRITERS, READERS)
    errors = [result["error"] for of_role in results.values() for result in of_role if "error" in result]
    assert errors == []
    done = sum(result["done"] for result in results["write"])
    assert min(result["done"] for result in results["write"]) > 0
    assert min(result["done"] for result in results["read"]) > 0
    assert int(gallery.person("everybody").notes) == done
    assert len(gallery) == 2 + 2 * done
    gallery.check()
    slowest = {role: max(result["slowest"] for result in of_role) for role, of_role in results.items()}
    journal = path.with_name("g-wal").stat().st_size
    answers = sum(result["done"] for result in results["read"])
    print(f"{done} updates, {answers} answers, slowest {slowest}, journal {journal:,} bytes")
    # Writers refuse after 30 seconds; on a busy machine a turn takes a few.
    assert max(slowest.values()) < 20

"""Writers that are killed anywhere: the gallery opens as before or after, and is whole."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from galleries import SPACE, old_gallery, rows, unit

from pocketnet_fast.gallery import vectors
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.migration import migrate

ACTS = ("add", "delete", "rename", "compact", "migrate")

# Forked from a process that has loaded everything and opened nothing, so that a kill costs little.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "pocketnet_fast.gallery.migration", "galleries"])


def steps(act: str, path: Path) -> Iterator[None]:
    """Do one act after another for ever; the first is done at the second ``next``."""
    if act == "migrate":
        while True:
            yield
            migrate(path.parent / "old", path, overwrite=True)
    gallery = Gallery(path)
    for number in itertools.count():
        yield
        if act == "add":
            gallery.add([f"new {number}"] * 50, rows(50, number + 5))
            gallery.search(rows(1))
        elif act == "delete":
            gallery.delete_person(gallery.people(limit=1)[0].id)
            gallery.search(rows(1))
        elif act == "rename":
            gallery.rename(number % 300 + 1, f"renamed {number}")
        else:
            gallery.compact()
            gallery.search(rows(1))


def work(act: str, path: Path, ready: Connection) -> None:
    vectors._WITHOUT_FILE = 64  # type: ignore[misc]
    acts = steps(act, path)
    next(acts)
    ready.send(None)
    for _ in acts:
        pass


def template(folder: Path) -> Path:
    path = folder / "template"
    made = Gallery.create(path, SPACE)
    made.add([f"p{number}" for number in range(300)], rows(300))
    made.close()
    return path


def kill_at_random(folder: Path, act: str, seed: int) -> None:
    """Kill a writer at a random moment of its work, then compare what it left with what may be there."""
    path = folder / "g"
    for left in folder.glob("g*"):
        left.unlink()
    if act != "migrate":
        shutil.copy(folder / "template", path)
    here, there = PROCESSES.Pipe()
    worker = PROCESSES.Process(target=work, args=(act, path, there))
    worker.start()
    here.recv()
    time.sleep(random.Random(seed).uniform(0, 0.06))
    worker.kill()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    if act == "migrate" and not is_made(path):
        return
    gallery = Gallery(path)
    checked = gallery.check()
    assert checked.cache in ("whole", "absent")
    people = gallery.people()
    if act == "add":
        new = [person for person in people if person.name.startswith("new ")]
        assert [person.name for person in new] == [f"new {number}" for number in range(len(new))]
        assert {person.faces for person in new} <= {50}
        assert checked.faces == 300 + 50 * len(new)
    elif act == "delete":
        assert [person.name for person in people] == [
            f"p{number}" for number in range(300 - len(people), 300)
        ]
        assert checked.faces == checked.people
    elif act == "rename":
        changed = [person for person in people if person.name != f"p{person.id - 1}"]
        assert all(person.name.startswith("renamed ") for person in changed)
        assert checked.faces == checked.people == 300
    elif act == "migrate":
        assert (checked.people, checked.faces) == (20, 300)
    else:
        assert checked.faces == checked.people == 300
    # It can be used on, by whoever comes next.
    gallery.add(["next"], rows(1, 99))
    assert gallery.search(rows(1, 99), top=1)[0][0].name == "next"
    gallery.compact()
    assert [left.name for left in folder.glob("g*.tmp")] == []
    gallery.close()


def is_made(path: Path) -> bool:
    """Whether a gallery is there; none, or an unfinished one, is what was there before."""
    try:
        Gallery(path).close()
    except Exception as error:
        assert "no such gallery" in str(error) or "unfinished" in str(error)
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("killed")
    template(made)
    old_gallery(made / "old", [f"p{number // 15}" for number in range(300)], ["x"] * 300, unit(rows(300)))
    yield made


@pytest.mark.slow(seconds=12)
@pytest.mark.parametrize("act", ACTS)
def test_killed_at_random_points(folder: Path, act: str) -> None:
    for number in range(int(os.environ.get("POCKETNET_KILLS", "8"))):
        kill_at_random(folder, act, number)

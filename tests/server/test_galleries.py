"""Galleries behind the service: the same files as those of the Python package, changed by both at once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forms import multipart
from gallery_files import empty_gallery
from running import Service, program, running

from pocketnet_fast import FaceAnalyzer
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.data.synthetic import render_identity
from pocketnet_fast.gallery import EmbeddingSpace, Gallery

pytestmark = pytest.mark.slow(seconds=25)


def portrait(identity: int) -> bytes:
    """A PNG file of one rendered person."""
    scene = np.full((260, 260, 3), 128, np.uint8)
    scene[70:182, 70:182] = render_identity(0, identity, 0)
    return encode_image(scene, ".png")


@pytest.fixture(scope="module")
def portraits(analyzer: FaceAnalyzer) -> list[bytes]:
    """Photos of people whose faces are found, one each."""
    photos = [portrait(identity) for identity in range(12)]
    found = [photo for photo in photos if [face.doubt for face in analyzer.analyze(photo)] == [None]]
    assert len(found) >= 4
    return found


@pytest.fixture
def folder(tmp_path: Path, faces_pt: Path) -> Path:
    empty_gallery(tmp_path / "galleries", "people", faces_pt)
    return tmp_path / "galleries"


@pytest.fixture
def service(faces_pt: Path, folder: Path) -> Iterator[Service]:
    with running(faces_pt, "--galleries", folder) as service:
        yield service


def answer(service: Service, path: str, parts: dict[str, bytes] | None = None) -> tuple[int, Any]:
    if parts is None:
        status, _, body = service.ask(path)
    else:
        form, kind = multipart(parts)
        status, _, body = service.ask(path, form, {"Content-Type": kind})
    return status, json.loads(body) if body else None


def enrol(service: Service, name: str, photo: bytes) -> dict[str, int]:
    status, ids = answer(service, "/v1/galleries/people/people", {"name": name.encode(), "photo": photo})
    assert status == 201, ids
    return ids  # type: ignore[no-any-return]


def deleted(service: Service, path: str) -> int:
    """Status of a DELETE."""
    done = subprocess.run(
        ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}", "-X", "DELETE", service.url + path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_a_person_comes_and_goes(service: Service, folder: Path, portraits: list[bytes]) -> None:
    names = ["Ada", "Grace\nHopper", "名前 🙂", 'quote"d']
    ids = [enrol(service, name, photo) for name, photo in zip(names, portraits, strict=False)]
    assert answer(service, "/v1/galleries") == (
        200,
        {"galleries": [{"name": "people", "people": len(names), "faces": len(names)}]},
    )
    status, found = answer(service, "/v1/galleries/people:search?top=2&far=1e-3", {"photo": portraits[1]})
    assert status == 200 and found["far"] == 1e-3
    best, second = found["matches"]
    assert best["name"] == names[1] and best["person"] == ids[1]["person"] and best["same"]
    assert best["cosine"] == pytest.approx(1, abs=1e-5) and second["cosine"] < best["cosine"]
    more = answer(
        service,
        "/v1/galleries/people/people",
        {"person": str(ids[1]["person"]).encode(), "photo": portraits[1]},
    )
    assert more[0] == 201
    shown = answer(service, f"/v1/galleries/people/people/{ids[1]['person']}")[1]
    assert shown["name"] == names[1] and [face["id"] for face in shown["faces"]] == [
        ids[1]["face"],
        more[1]["face"],
    ]
    assert deleted(service, f"/v1/galleries/people/people/{ids[1]['person']}") == 204
    assert deleted(service, f"/v1/galleries/people/people/{ids[1]['person']}") == 404
    found = answer(service, "/v1/galleries/people:search", {"photo": portraits[1]})[1]
    assert names[1] not in [match["name"] for match in found["matches"]]
    with Gallery(folder / "people.gallery") as gallery:
        assert sorted(person.name for person in gallery.people()) == sorted(set(names) - {names[1]})


def test_pages_of_people(service: Service, portraits: list[bytes]) -> None:
    ids = [enrol(service, f"person {i}", portraits[i % len(portraits)])["person"] for i in range(5)]
    seen, after = [], ""
    for _ in range(3):
        page = answer(service, f"/v1/galleries/people/people?limit=2{after}")[1]
        seen += [person["id"] for person in page["people"]]
        after = f"&after={page['next']}"
    assert seen == ids and page["next"] is None


def test_what_others_write_is_seen(service: Service, folder: Path, portraits: list[bytes]) -> None:
    """The next search knows what the Python package has added, renamed, moved and deleted meanwhile."""
    enrol(service, "Ada", portraits[0])
    unit = np.eye(2, 128, dtype=np.float32)

    def best(vector: np.ndarray) -> dict[str, Any]:
        body = json.dumps({"embedding": vector.tolist()}).encode()
        status, _, content = service.ask(
            "/v1/galleries/people:search?top=1", body, {"Content-Type": "application/json"}
        )
        assert status == 200, content
        return json.loads(content)["matches"][0]  # type: ignore[no-any-return]

    with Gallery(folder / "people.gallery") as gallery:
        gallery.add(["Grace"], unit[:1])
        assert best(unit[0])["name"] == "Grace"
        gallery.rename("Grace", "Grace Hopper")
        assert best(unit[0])["name"] == "Grace Hopper"
        gallery.delete_person("Grace Hopper")
        assert best(unit[0])["name"] == "Ada"
        gallery.add(["Grace"], unit[1:])
        gallery.compact()
        assert best(unit[1])["name"] == "Grace"


def test_many_at_once(service: Service, folder: Path, portraits: list[bytes]) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda i: enrol(service, f"person {i % 6}", portraits[i % 4]), range(24)))
    assert len({each["face"] for each in ids}) == 24 and len({each["person"] for each in ids}) == 6
    with Gallery(folder / "people.gallery") as gallery:
        checked = gallery.check()
    assert (checked.people, checked.faces) == (6, 24)


@pytest.mark.parametrize(
    ("path", "parts", "status"),
    [
        ("/v1/galleries/nobody/people", {"name": b"x", "photo": b"x"}, 404),
        ("/v1/galleries/..%2F..%2Fpeople/people", {"name": b"x", "photo": b"x"}, 404),
        ("/v1/galleries/people/people", {"photo": b"x"}, 400),
        ("/v1/galleries/people/people", {"name": b"x", "person": b"1", "photo": b"x"}, 400),
        ("/v1/galleries/people/people", {"name": b"", "photo": b"x"}, 400),
        ("/v1/galleries/people/people", {"name": b"\xff\xfe", "photo": b"x"}, 400),
        ("/v1/galleries/people/people", {"name": b"a\0b", "photo": b"x"}, 400),
        ("/v1/galleries/people/people", {"name": b"x" * 10_001, "photo": b"x"}, 400),
        ("/v1/galleries/people/people", {"person": b"77", "photo": b"x"}, 404),
        ("/v1/galleries/people/people", {"person": b"one", "photo": b"x"}, 400),
        ("/v1/galleries/people/people", {"name": b"x", "photo": b"no image"}, 415),
        ("/v1/galleries/people:search?far=0.5", {"photo": b"x"}, 400),
        ("/v1/galleries/people:search?top=0", {"photo": b"x"}, 400),
    ],
)
def test_what_is_refused(service: Service, path: str, parts: dict[str, bytes], status: int) -> None:
    assert answer(service, path, parts)[0] == status
    assert answer(service, "/v1/galleries/people")[1]["faces"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"embedding": [1]}',
        b'{"embedding": "x"}',
        b'{"embedding": [%s]}' % b",".join([b"0"] * 128),
        b'{"embedding": [%s]}' % b",".join([b"1e39"] * 128),
    ],
)
def test_embeddings_that_are_none(service: Service, body: bytes) -> None:
    status, _, _ = service.ask("/v1/galleries/people:search", body, {"Content-Type": "application/json"})
    assert status == 400


def test_a_body_longer_than_an_embedding(service: Service) -> None:
    """It is not parsed: lists of lists take a hundred times their text."""
    body = b'{"embedding": [%s]}' % b",".join([b"[]"] * 10_000)
    status, _, answer = service.ask("/v1/galleries/people:search", body, {"Content-Type": "application/json"})
    assert status == 413
    assert "an embedding of 128 numbers" in json.loads(answer)["detail"]


def test_an_embedding_that_is_not_finite(service: Service, folder: Path, portraits: list[bytes]) -> None:
    """Cosines that are NaN could not be sorted."""
    enrol(service, "Ada", portraits[0])
    with contextlib.closing(sqlite3.connect(folder / "people.gallery")) as connection:
        values = np.full(128, np.nan, "<f4").tobytes()
        connection.execute("INSERT INTO face (person, embedding) SELECT id, ? FROM person", (values,))
        connection.commit()
    assert answer(service, "/v1/galleries/people:search", {"photo": portraits[0]})[0] == 500
    with contextlib.closing(sqlite3.connect(folder / "people.gallery")) as connection:
        connection.execute("DELETE FROM face WHERE id = (SELECT max(id) FROM face)")
        connection.commit()
    assert answer(service, "/v1/galleries/people:search", {"photo": portraits[0]})[0] == 200


def test_galleries_that_are_only_read(faces_pt: Path, folder: Path, portraits: list[bytes]) -> None:
    with running(faces_pt, "--galleries", folder) as service:
        person = enrol(service, "Ada", portraits[0])["person"]
    for path in folder.iterdir():
        path.chmod(0o444)
    with running(faces_pt, "--galleries", folder, "--galleries-read-only") as service:
        form = {"name": b"Grace", "photo": portraits[1]}
        assert answer(service, "/v1/galleries/people/people", form)[0] == 409
        assert deleted(service, f"/v1/galleries/people/people/{person}") == 409
        found = answer(service, "/v1/galleries/people:search", {"photo": portraits[0]})[1]
        assert found["matches"][0]["name"] == "Ada"


def test_another_space(faces_pt: Path, crops_pt: Path, tmp_path: Path, portraits: list[bytes]) -> None:
    """A gallery of other embeddings answers nothing, and keeps a model of another space from being loaded."""
    galleries = tmp_path / "galleries"
    galleries.mkdir()
    Gallery.create(galleries / "other.gallery", EmbeddingSpace("pocketnet_s128", "0" * 64, True, 128)).close()
    model = Path(shutil.copy(faces_pt, tmp_path / "model.pt"))
    with running(model, "--galleries", galleries) as service:
        assert answer(service, "/v1/galleries/other:search", {"photo": portraits[0]})[0] == 409
        status, _, body = service.ask("/v1/model:reload", b"")
        assert status == 409 and "'other'" in json.loads(body)["detail"]
        assert service.ask("/v1/faces", portraits[0])[0] == 200


def test_files_that_are_no_galleries(faces_pt: Path, folder: Path) -> None:
    def refused(make: Any) -> str:
        path = folder / "broken.gallery"
        make(path)
        command = [program(), "--model", faces_pt, "--port", "0", "--galleries", folder]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
        for beside in folder.glob("broken.gallery*"):
            beside.unlink()
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    def with_trigger(path: Path) -> None:
        shutil.copy(folder / "people.gallery", path)
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TRIGGER more AFTER INSERT ON person BEGIN DELETE FROM face; END")

    def with_trigger_of_sqlite(path: Path) -> None:
        """Which SQLite itself would not make."""
        shutil.copy(folder / "people.gallery", path)
        made = "CREATE TRIGGER sqlite_x AFTER INSERT ON person BEGIN DELETE FROM face; END"
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "INSERT INTO sqlite_schema VALUES ('trigger', 'sqlite_x', 'person', 0, ?)", (made,)
            )

    def of_a_later_version(path: Path) -> None:
        shutil.copy(folder / "people.gallery", path)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 2")

    def of_no_dimensions(path: Path) -> None:
        shutil.copy(folder / "people.gallery", path)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA ignore_check_constraints = 1")
            connection.execute(f"UPDATE gallery SET dimensions = {(1 << 32) + 4}")

    assert "no gallery" in refused(lambda path: path.write_bytes(b"no database" * 100))
    assert "no gallery" in refused(lambda path: sqlite3.connect(path).execute("CREATE TABLE x (y)"))
    assert "triggers" in refused(with_trigger)
    assert "triggers" in refused(with_trigger_of_sqlite)
    assert "version 2" in refused(of_a_later_version)
    assert "damaged: it states 4294967300 dimensions" in refused(of_no_dimensions)

"""A gallery of people: what is added is found, changed and deleted, by whoever has it open."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import SPACE, assert_holds_four_faces, rows, small, unit
from helpers import at_once
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery import vectors
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.space import EmbeddingSpace


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return small(tmp_path / "people.gallery")


def test_what_is_added_is_found(gallery: Gallery) -> None:
    faces = gallery.add(["Zoë Ω"], rows(1, 1) * 1e6, boxes=[(1, 2, 3, 4.5)], qualities=[0.25])
    again = Gallery(gallery.path)
    assert (len(again), again.space, again.name_by) == (4, SPACE, "")
    assert [(person.id, person.name, person.faces) for person in again.people()] == [
        (1, "ann", 2),
        (2, "bob", 1),
        (3, "Zoë Ω", 1),
    ]
    assert [face.photo for face in again.faces("ann")] == ["a.jpg", ""]
    face = again.face(faces[0])
    assert (face.person, face.box, face.quality) == (3, (1, 2, 3, 4.5), 0.25)
    assert again.embeddings()[0].tolist() == [1, 2, 3, 4]
    assert_holds_four_faces(again)
    assert again.people(after=1, limit=1)[0].name == "bob"


def test_a_persons_score_is_that_of_the_best_face(gallery: Gallery) -> None:
    queries = rows(5, 2)
    held = unit(rows(3))
    for query, matches in zip(queries, gallery.search(queries, top=5), strict=True):
        cosines = held @ query / np.linalg.norm(query)
        best = {"ann": max(cosines[[0, 2]]), "bob": cosines[1]}
        expected = sorted(best, key=lambda name: -best[name])
        assert [match.name for match in matches] == expected
        assert [match.score for match in matches] == pytest.approx([best[n] for n in expected], abs=1e-6)
        assert matches[0].margin == pytest.approx(matches[0].score - matches[1].score)
        assert matches[1].margin is None
    (first,) = gallery.search(queries[:1], top=1)
    assert first[0].margin is not None
    (faces,) = gallery.search(queries[:1], by="face")
    assert sorted(match.face for match in faces) == [1, 2, 3]
    assert {match.margin for match in faces} == {None}


def test_threshold_and_margin(gallery: Gallery) -> None:
    (matches,) = gallery.search(rows(3)[1:2], threshold=0.999)
    assert [match.name for match in matches] == ["bob"]
    assert gallery.search(-rows(3)[1:2], threshold=0.999) == [[]]
    gallery.add(["twin"], rows(3)[1:2])
    (matches,) = gallery.search(rows(3)[1:2], top=2)
    assert [(match.name, match.face) for match in matches] == [("bob", 2), ("twin", 4)]
    assert matches[0].margin == 0
    assert gallery.search(rows(3)[1:2], margin=0.01) == [[]]
    assert gallery.search(rows(3)[:1], margin=0.01)[0][0].name == "ann"


def test_claim(gallery: Gallery) -> None:
    yes = gallery.claim(rows(3)[2], "ann", threshold=0.9)
    assert (yes.person, yes.name, yes.face, yes.accepted) == (1, "ann", 3, True)
    assert yes.score == pytest.approx(1)
    assert not gallery.claim(rows(3)[1], 1, threshold=0.9).accepted
    gallery.delete_face(2)
    empty = gallery.claim(rows(3)[1], "bob", threshold=-1)
    assert (empty.face, empty.score, empty.accepted) == (None, None, False)


def test_people_are_renamed_merged_and_moved(gallery: Gallery) -> None:
    gallery.change("ann", name="Ann\nLee", notes="second floor")
    gallery.change(2, notes="deskless")
    assert gallery.person(1).notes == "second floor"
    with pytest.raises(PocketNetError, match=r"somebody is named 'bob' already; merge the two"):
        gallery.rename("Ann\nLee", "bob")
    gallery.rename("bob", "bob")
    merged = gallery.merge("bob", 1)
    assert (merged.id, merged.faces, merged.notes) == (1, 3, "second floor\ndeskless")
    with pytest.raises(PocketNetError, match="nobody is named 'bob'"):
        gallery.person("bob")
    gallery.move(2, "Carl")
    assert (gallery.person("Carl").id, gallery.face(2).person) == (3, 3)
    assert gallery.search(rows(3)[1:2], top=1)[0][0].name == "Carl"
    gallery.check()


def test_deleted_people_are_not_found(gallery: Gallery) -> None:
    reader = Gallery(gallery.path)
    assert reader.search(rows(3)[:1], top=1)[0][0].name == "ann"
    assert gallery.delete_person("ann").faces == 2
    assert [match.name for match in reader.search(rows(3)[:1])[0]] == ["bob"]
    gallery.delete_face(2)
    assert reader.search(rows(3)) == [[], [], []]
    assert [person.name for person in reader.people()] == ["bob"]
    gallery.add(["ann"], rows(1))
    # Ids are never given again.
    assert (gallery.person("ann").id, gallery.faces("ann")[0].id) == (3, 4)


@pytest.mark.parametrize(
    "name",
    [
        "a\nb\r\n",
        "x" * 10_000,
        "Zoë",
        "Zoe\u0308",
        "\u202eמשה",
        "👩‍🚀",
        " ",
        "\x1b[31m",
        "id:7",
        "'; --",
        "%s",
    ],
)
def test_names_are_any_text(gallery: Gallery, name: str) -> None:
    gallery.add([name], rows(1, 3))
    assert Gallery(gallery.path).person(name).name == name
    assert gallery.search(rows(1, 3), top=1)[0][0].name == name


@pytest.mark.parametrize(
    ("names", "embeddings", "more", "message"),
    [
        (["a"], np.ones((2, 8)), {}, "1 people do not belong to 2 embeddings"),
        (["a"], np.ones((1, 8)), {"photos": []}, "0 photos do not belong to 1 embeddings"),
        (["a"], np.ones((1, 8)), {"boxes": [(1, 2, 3, np.nan)]}, "no box"),
        (["a"], np.ones((1, 8)), {"qualities": [1.5]}, "a quality is 1.5; expected 0 to 1"),
        (["a"], np.ones((1, 9)), {}, r"expected embeddings N x 8, got \(1, 9\)"),
        (["a"], np.ones(8), {}, r"expected embeddings N x 8, got \(8,\)"),
        (["a", "b"], [[1.0] * 8, [0.0] * 8], {}, "the embedding of b is not finite, or zero"),
        (["a"], [[np.inf] * 8], {}, "the embedding of a is not finite"),
        (["a\0b"], np.ones((1, 8)), {}, r"has the character U\+0000"),
        (["a\udcff"], np.ones((1, 8)), {}, "is no Unicode text"),
        ([""], np.ones((1, 8)), {}, "a name is empty"),
        ([77], np.ones((1, 8)), {}, "nobody is with the id 77"),
    ],
)
def test_refused_faces(gallery: Gallery, names: Any, embeddings: Any, more: Any, message: str) -> None:
    with pytest.raises(PocketNetError, match=message):
        gallery.add(names, embeddings, **more)
    assert len(Gallery(gallery.path)) == 3


def test_refusals(gallery: Gallery) -> None:
    for wrong, message in [
        ({"top": 0}, "must be positive"),
        ({"by": "hair"}, "unknown by='hair'; expected one of 'person', 'face'"),
        ({"precision": "int4"}, "unknown precision 'int4'; expected one of fp32, int8"),
        ({"by": "face", "margin": 0.1}, "a margin is one between two persons"),
    ]:
        with pytest.raises(PocketNetError, match=message):
            gallery.search(rows(1), **wrong)  # type: ignore[arg-type]
    with pytest.raises(PocketNetError, match="the embedding of row 1 is not finite, or zero"):
        gallery.search([[1.0] * 8, [0.0] * 8])
    with pytest.raises(PocketNetError, match="cannot be merged with the same person"):
        gallery.merge("ann", 1)
    for act in (lambda: gallery.face(9), lambda: gallery.move(9, "x"), lambda: gallery.delete_face(9)):
        with pytest.raises(PocketNetError, match="no face with the id 9"):
            act()
    with gallery.snapshot(), pytest.raises(PocketNetError, match="while one state of it is being read"):
        gallery.rename("ann", "x")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(SPACE, model="mobilefacenet"), "of pocketnet_s128, not of mobilefacenet"),
        (replace(SPACE, dimensions=9), "of 8 dimensions, not 9"),
        (replace(SPACE, weights_sha256="cd" * 32), "with the weights abababababab, not cdcdcdcdcdcd"),
        (replace(SPACE, flip=False), "made with the mirror image .*, not without"),
    ],
)
def test_other_embeddings_are_refused(other: EmbeddingSpace, message: str) -> None:
    SPACE.require_same(SPACE, "g")
    with pytest.raises(PocketNetError, match=f"g: its embeddings are .*{message}"):
        SPACE.require_same(other, "g")


def test_creation(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="already holds a gallery; add to it, or overwrite it"):
        Gallery.create(gallery.path, SPACE)
    with pytest.raises(PocketNetError, match="unknown name_by 'hair'"):
        Gallery.create(tmp_path / "x", SPACE, name_by="hair")
    with pytest.raises(PocketNetError, match="cannot write"):
        Gallery.create(tmp_path / "none" / "x", SPACE)
    with pytest.raises(ZeroDivisionError):
        Gallery.create(tmp_path / "x", SPACE, fill=lambda writer: 1 // 0)
    assert {path.name.removeprefix("people.gallery") for path in tmp_path.iterdir()} <= {
        "",
        "-wal",
        "-shm",
        "-lock",
    }
    (tmp_path / "empty").touch()
    with pytest.raises(PocketNetError, match="unfinished, or no gallery"):
        Gallery(tmp_path / "empty")
    assert len(Gallery.create(tmp_path / "empty", SPACE)) == 0
    assert Gallery(tmp_path / "empty").search(rows(2)) == [[], []]


def test_overwriting_replaces_under_those_who_read(gallery: Gallery) -> None:
    reader, other = Gallery(gallery.path), Gallery(gallery.path)
    assert len(reader) == len(other) == 3
    with pytest.raises(ZeroDivisionError):
        Gallery.create(gallery.path, SPACE, overwrite=True, fill=lambda writer: 1 // 0)
    assert len(reader) == 3
    made = Gallery.create(gallery.path, SPACE, overwrite=True, name_by="file")
    made.add(["new"], rows(1, 7))
    assert reader.search(rows(1, 7))[0][0].name == "new"
    reader.check()
    Gallery.create(gallery.path, replace(SPACE, flip=False), overwrite=True)
    with pytest.raises(PocketNetError, match=r"was replaced since it was opened.*cannot be compared"):
        other.search(rows(1))
    with pytest.raises(PocketNetError, match="was replaced"):
        other.add(["x"], rows(1))


def test_a_gallery_that_is_moved_or_removed_stays_open(gallery: Gallery, tmp_path: Path) -> None:
    moved = tmp_path / "moved.gallery"
    gallery.path.rename(moved)
    assert gallery.replaced
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(gallery.search(rows(3)[1:2])[0][0].name))
    thread.start()
    thread.join()
    assert found == ["bob"]
    with pytest.raises(PocketNetError, match="was moved or replaced since it was opened; open it again"):
        gallery.rename("ann", "x")
    # Everything that was committed lies in the file itself.
    assert len(Gallery(moved)) == 3
    moved.unlink()
    assert gallery.person("ann").faces == 2


def test_answers_of_one_state(gallery: Gallery) -> None:
    writer = Gallery(gallery.path)
    before = gallery.refresh()
    with gallery.snapshot():
        writer.delete_person("ann")
        assert len(gallery) == 3
        assert gallery.search(rows(3)[:1])[0][0].name == "ann"
        assert [person.name for person in gallery.people()] == ["ann", "bob"]
    assert len(gallery) == 1
    assert gallery.refresh() == before + 3


def test_threads_share_a_gallery(gallery: Gallery) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(5):
                gallery.add([f"{number}"], rows(1, 100 + 10 * number + step))
                assert gallery.search(rows(1, 100 + 10 * number + step), top=1)[0][0].name == str(number)
        except BaseException as error:
            errors.append(error)

    at_once(work, 12)
    assert errors == []
    assert len(gallery) == 63
    gallery.check()


def test_closed(gallery: Gallery) -> None:
    with gallery:
        pass
    with pytest.raises(PocketNetError, match="this gallery was closed"):
        gallery.people()


def test_a_forked_child_is_told(gallery: Gallery) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for act in (gallery.people, lambda: Gallery(gallery.path)):
            try:
                act()
            except PocketNetError as error:
                said.append(str(error))
        os.write(write, "|".join(said).encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(read, 10_000).decode().split("|")
    os.close(read)
    os.close(write)
    assert len(said) == 2
    assert all("was open when this process was forked" in text for text in said)
    gallery.check()


def test_a_read_only_gallery(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery.close()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    reader = Gallery(gallery.path)
    assert reader.search(rows(3)[1:2])[0][0].name == "bob"
    with pytest.raises(PocketNetError, match="is read-only"):
        reader.rename("ann", "x")
    reader.check()


class TestOtherFiles:
    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(PocketNetError, match="no such gallery; `pocketnet gallery build` makes one"):
            Gallery(tmp_path / "none")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(PocketNetError, match="a folder; a gallery is one file"):
            Gallery(tmp_path)
        (tmp_path / "manifest.json").touch()
        with pytest.raises(PocketNetError, match="earlier versions; `pocketnet gallery migrate "):
            Gallery(tmp_path)

    def test_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"GIF89a" * 300)
        with pytest.raises(PocketNetError, match="no gallery: it is no SQLite database"):
            Gallery(tmp_path / "x")
        with pytest.raises(PocketNetError, match="no SQLite database"):
            Gallery.create(tmp_path / "x", SPACE, overwrite=True)
        assert (tmp_path / "x").read_bytes() == b"GIF89a" * 300

    def test_another_database(self, tmp_path: Path) -> None:
        other = sqlite3.connect(tmp_path / "x")
        other.execute("CREATE TABLE t (a)")
        other.close()
        with pytest.raises(PocketNetError, match="a database, but no gallery"):
            Gallery(tmp_path / "x")
        with pytest.raises(PocketNetError, match="a database, but no gallery"):
            Gallery.create(tmp_path / "x", SPACE, overwrite=True)

    @pytest.mark.parametrize(
        ("statement", "message"),
        [
            ("PRAGMA user_version = 2", "a gallery of version 2; this program knows version 1"),
            ("CREATE TRIGGER t AFTER INSERT ON face BEGIN DELETE FROM person; END", "its schema differs in"),
            ("DROP TRIGGER face_added", "its schema differs in"),
        ],
    )
    def test_another_schema(self, gallery: Gallery, statement: str, message: str) -> None:
        gallery.close()
        other = sqlite3.connect(gallery.path)
        other.execute(statement)
        other.close()
        with pytest.raises(PocketNetError, match=message):
            Gallery(gallery.path)

    @pytest.mark.parametrize("name", ["sqlite_x", "sqlite_sequence", "sqlite_autoindex_person_1"])
    def test_a_trigger_by_a_name_of_sqlite(self, gallery: Gallery, name: str) -> None:
        """SQLite makes none of such a name, and runs it where a file has one."""
        gallery.close()
        other = sqlite3.connect(gallery.path)
        other.execute("PRAGMA writable_schema = ON")
        made = f"CREATE TRIGGER {name} AFTER INSERT ON person BEGIN DELETE FROM face; END"
        other.execute("INSERT INTO sqlite_schema VALUES ('trigger', ?, 'person', 0, ?)", (name, made))
        other.commit()
        other.close()
        with pytest.raises(PocketNetError, match="its schema differs in 'CREATE TRIGGER sqlite_"):
            Gallery(gallery.path)

    def test_what_sqlite_keeps_for_itself_is_taken(self, gallery: Gallery) -> None:
        gallery.close()
        other = sqlite3.connect(gallery.path)
        other.execute("ANALYZE")
        other.close()
        with Gallery(gallery.path) as again:
            again.check()

    def test_damage_is_told(self, gallery: Gallery, tmp_path: Path) -> None:
        gallery.close()
        for statement, message in [
            (
                "UPDATE face SET embedding = zeroblob(32) WHERE id = 2",
                "the embedding of face 2 has no length of 1",
            ),
            ("UPDATE face SET embedding = x'00' WHERE id = 2", "the embedding of face 2 has 1 bytes"),
            ("DELETE FROM change WHERE face = 1", "no change tells of face 1"),
            ("UPDATE face SET person = 9 WHERE id = 1", "face 1 is of a person who is not there"),
            ("UPDATE person SET name = CAST(x'ff' AS TEXT)  WHERE id = 1", "damaged: a name of a person"),
        ]:
            copy = tmp_path / "copy.gallery"
            shutil.copy(gallery.path, copy)
            other = sqlite3.connect(copy)
            triggers = other.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
            for name, _ in triggers:
                other.execute(f"DROP TRIGGER {name}")
            other.execute(statement)
            for _, sql in triggers:
                other.execute(sql)
            other.commit()
            other.close()
            with pytest.raises(PocketNetError, match=message):
                Gallery(copy).check()
        content = bytearray(gallery.path.read_bytes())
        content[4096:8192] = bytes(4096)
        (tmp_path / "bad.gallery").write_bytes(content)
        with pytest.raises(PocketNetError, match="damaged"):
            Gallery(tmp_path / "bad.gallery").check()


KINDS = ["add", "add", "delete face", "delete person", "merge", "move", "compact", "restart"]
ACTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["add", "add", "delete face", "delete person", "merge", "move", "compact", "restart"][:]
        ),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(ACTS)
def test_any_history_is_searched_rightly(tmp_path_factory: pytest.TempPathFactory, acts: list[Any]) -> None:
    """Against a dictionary; by readers that begin early, late, and with and without a cache."""
    path = tmp_path_factory.mktemp("h") / "g"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "_WITHOUT_FILE", 2)
        gallery = Gallery.create(path, SPACE)
        early = Gallery(path)
        held: dict[int, tuple[str, Any]] = {}
        for kind, one, two in acts:
            faces, people = list(held), sorted({name for name, _ in held.values()})
            if kind == "add" or not held:
                # Whole numbers, so that scores tie.
                new = np.random.default_rng(one).integers(-1, 2, (1 + two % 3, 8)).astype(np.float32) + 0.5
                names = [f"p{(one + i) % 5}" for i in range(len(new))]
                held |= dict(zip(gallery.add(names, new), zip(names, unit(new), strict=True), strict=True))
            elif kind == "delete face":
                gallery.delete_face(faces[one % len(faces)])
                del held[faces[one % len(faces)]]
            elif kind == "delete person":
                gallery.delete_person(people[one % len(people)])
                held = {face: value for face, value in held.items() if value[0] != people[one % len(people)]}
            elif kind == "merge" and len(people) > 1:
                source, into = people[one % len(people)], people[(one + 1) % len(people)]
                gallery.merge(source, into)
                held = {face: (into if name == source else name, row) for face, (name, row) in held.items()}
            elif kind == "move":
                face = faces[one % len(faces)]
                gallery.move(face, f"p{two % 6}")
                held[face] = (f"p{two % 6}", held[face][1])
            elif kind == "compact":
                gallery.compact()
            elif kind == "restart":
                gallery = Gallery(path)
            query = rows(1, two)[0]
            best: dict[str, float] = {}
            for name, row in held.values():
                best[name] = max(best.get(name, -2), float(row @ query / np.linalg.norm(query)))
            expected = sorted(best.values(), reverse=True)[:3]
            for reader in (gallery, early, Gallery(path)):
                (found,) = reader.search([query], top=3)
                assert [match.score for match in found] == pytest.approx(expected, abs=1e-6)
                assert all(best[match.name] == pytest.approx(match.score, abs=1e-6) for match in found)
                if find_spec("numkong") is not None:
                    (found,) = reader.search([query], top=3, precision="int8")
                    assert [match.score for match in found] == pytest.approx(expected, abs=1e-6)
                (faces_found,) = reader.search([query], top=99, by="face")
                assert {match.face: match.name for match in faces_found} == {f: v[0] for f, v in held.items()}
        gallery.check()

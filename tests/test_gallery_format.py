"""The database as programs in any language use it: its schema, its counter of changes, and what is erased."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from galleries import SPACE, files_of, rows, small, unit

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery import vectors
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.schema import APPLICATION_ID, VERSION, schema_text

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "gallery_format.md"


def by_hand(path: Path) -> sqlite3.Connection:
    """A connection as the document describes it."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in re.findall(r"^PRAGMA (\w+ = \w+);", DOCUMENT.read_text(), re.M):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def test_the_document_shows_the_schema() -> None:
    text = DOCUMENT.read_text()
    assert schema_text() in text
    assert f"0x{APPLICATION_ID:X}" in text
    assert str(APPLICATION_ID) in text
    assert f"user_version;              -- {VERSION}," in text


def test_a_gallery_made_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "hand.gallery"
    connection = by_hand(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript("BEGIN IMMEDIATE;" + schema_text())
    connection.execute("INSERT INTO gallery VALUES (1, 'u', 'm', 'ab', 0, 8, '')")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("COMMIT")
    connection.execute("INSERT INTO person (name) VALUES ('ann')")
    row = unit(rows(1)).astype("<f4")
    connection.execute("INSERT INTO face (person, embedding) VALUES (1, ?)", (row.tobytes(),))
    gallery = Gallery(path)
    assert (gallery.space.model, gallery.space.dimensions) == ("m", 8)
    assert gallery.search(rows(1))[0][0].name == "ann"
    gallery.check()


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    small(tmp_path / "g").close()
    head = (tmp_path / "g").read_bytes()[:100]
    assert head[68:72] == b"PNFG"
    assert int.from_bytes(head[60:64], "big") == 1
    # Write-ahead logging.
    assert head[18:20] == b"\x02\x02"


def test_changes_are_told_whoever_makes_them(tmp_path: Path) -> None:
    gallery = small(tmp_path / "g")
    connection = by_hand(gallery.path)

    def since(number: int) -> list[tuple[int | None, int | None]]:
        return connection.execute("SELECT face, person FROM change WHERE number > ?", (number,)).fetchall()

    assert sorted(since(0), key=str) == sorted(
        [(None, 1), (None, 2), (1, None), (2, None), (3, None)], key=str
    )
    known = gallery.refresh()
    assert known == 5
    connection.execute("UPDATE person SET name = 'Bob' WHERE id = 2")
    connection.execute("UPDATE face SET person = 2 WHERE id = 1")
    connection.execute("DELETE FROM person WHERE id = 1")
    assert since(known) == [(None, 2), (1, None), (3, None), (None, 1)]
    assert [(match.name, match.face) for match in gallery.search(rows(1))[0]] == [("Bob", 1)]
    gallery.compact()
    assert len(since(0)) == gallery.refresh() == 9
    with pytest.raises(sqlite3.IntegrityError, match="are never changed"):
        connection.execute("UPDATE face SET embedding = zeroblob(32)")
    with pytest.raises(sqlite3.IntegrityError, match="is never changed"):
        connection.execute("UPDATE person SET id = 9")
    with pytest.raises(sqlite3.IntegrityError, match="never used again"):
        connection.execute("INSERT INTO face (id, person, embedding) VALUES (3, 2, zeroblob(32))")
    with pytest.raises(sqlite3.IntegrityError, match="another number of bytes"):
        connection.execute("INSERT INTO face (person, embedding) VALUES (2, zeroblob(33))")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        connection.execute("INSERT INTO face (person, embedding) VALUES (7, zeroblob(32))")
    assert gallery.refresh() == 9


def test_writers_wait_with_a_limit(tmp_path: Path) -> None:
    gallery = small(tmp_path / "g")
    other = by_hand(gallery.path)
    other.execute("BEGIN IMMEDIATE")
    hasty = Gallery(gallery.path, timeout=0.2)
    with pytest.raises(PocketNetError, match=r"another process has been writing to it for 0\.2 seconds"):
        hasty.rename("ann", "x")
    with pytest.raises(PocketNetError, match=r"another process has been writing to it for 0\.2 seconds"):
        hasty.compact()
    assert hasty.person("ann").faces == 2
    other.execute("COMMIT")
    hasty.rename("ann", "x")
    other.execute("BEGIN")
    other.execute("SELECT * FROM person").fetchone()
    hasty.rename("x", "y")
    with pytest.raises(PocketNetError, match="others have been reading it"):
        hasty.compact()
    other.execute("COMMIT")
    hasty.compact()


@pytest.mark.parametrize("cached", [False, True])
def test_what_was_deleted_is_nowhere_after_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    if cached:
        monkeypatch.setattr(vectors, "_WITHOUT_FILE", 2)
    path = tmp_path / "people.gallery"
    gallery = Gallery.create(path, SPACE)
    names = [f"somebody called {number:05}" for number in range(500)]
    faces = gallery.add(names, rows(500), photos=[f"/photos/{name}.jpg" for name in names])
    gallery.search(rows(1))
    open_reader = Gallery(path)
    open_reader.search(rows(1))
    held = gallery.embeddings()[1]
    # What a writer of a cache leaves that is killed.
    (tmp_path / "people.gallery-vectors.012345.tmp").write_bytes(held.tobytes())
    assert (tmp_path / "people.gallery-vectors").exists() == cached
    gone, kept = list(range(0, 500, 7)), [i for i in range(500) if i % 7]
    for number in gone[::2]:
        gallery.delete_person(names[number])
    for number in gone[1::2]:
        gallery.rename(names[number], f"other {number}")
        gallery.delete_face(faces[number])
    with_names = b"".join(files_of(path).values())
    assert held[kept[0]].tobytes() in with_names
    gallery.compact()
    content = files_of(path)
    assert content["people.gallery-wal"] == b""
    everything = b"".join(content.values())
    for number in gone:
        assert held[number].tobytes() not in everything
        # Nor a part of it, as an index or a cell that was moved could have.
        assert held[number].tobytes()[4:20] not in everything
        assert names[number].encode() not in everything
    assert held[kept[0]].tobytes() in everything
    assert names[kept[0]].encode() in everything
    assert open_reader.search(held[kept[:1]])[0][0].name == names[kept[0]]
    gallery.check()
    np.testing.assert_array_equal(gallery.embeddings()[1], held[kept])

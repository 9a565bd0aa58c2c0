"""Galleries on Milvus, held against those in files; on Milvus Lite, the same client in one process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import Run, refused, runner
from faces import crop
from galleries import SPACE, assert_holds_four_faces, old_gallery, rows, small, unit

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.milvus.address import TOKEN, parse_address
from pocketnet_fast.gallery.milvus.collections import name_key, person_row
from pocketnet_fast.gallery.milvus.connection import Connection
from pocketnet_fast.gallery.transfer import export_gallery, import_into, import_table

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

MODEL = ("--aligned", "--untrained", "--threads", "1")


@pytest.fixture(scope="module", autouse=True)
def _impatient() -> Iterator[None]:
    """The client sleeps half a second before it looks whether an index has been made."""
    hurried = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(min(seconds, 0.01)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pymilvus.client.grpc_handler.time", hurried)
        yield


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    place = f"milvus:{tmp_path_factory.mktemp('milvus')}/people.db#people"
    with Gallery.create(place, SPACE, name_by="folder") as made:
        yield made


@pytest.fixture(scope="module")
def database(one: Gallery) -> str:
    """The address of Milvus Lite, without a gallery's name."""
    return str(one.path).removesuffix("#people")


@pytest.fixture
def gallery(one: Gallery) -> Gallery:
    """Ann with two faces, Bob with one."""
    for person in one.people():
        one.delete_person(person.id)
    one.add(["ann", "bob", "ann"], rows(3), photos=["a.jpg", "b.jpg", ""])
    return one


def connection_of(gallery: Gallery) -> tuple[Connection, Any]:
    return gallery._store._connection, gallery._store._head


def said(gallery: Gallery) -> list[tuple[str, str, list[str]]]:
    """Who is there, with notes and photos."""
    return [(p.name, p.notes, [face.photo for face in gallery.faces(p.id)]) for p in gallery.people()]


def test_what_is_added_is_found(gallery: Gallery) -> None:
    (face,) = gallery.add(["Zoë Ω"], rows(1, 1) * 1e6, boxes=[(1, 2, 3, 4.5)], qualities=[0.25])
    again = Gallery(gallery.path)
    assert (len(again), again.space, again.name_by) == (4, SPACE, "folder")
    assert said(again) == [("ann", "", ["a.jpg", ""]), ("bob", "", ["b.jpg"]), ("Zoë Ω", "", [""])]
    entry = again.face(face)
    assert (entry.person, entry.box, entry.quality) == (again.person("Zoë Ω").id, (1, 2, 3, 4.5), 0.25)
    ids = again.embeddings()[0].tolist()
    assert ids == sorted(set(ids))
    assert_holds_four_faces(again)
    stats = again.stats()
    assert (stats.people_without_faces, stats.bytes, stats.changes) == (0, None, None)
    assert [person.name for person in again.people(after=again.person("ann").id, limit=1)] == ["bob"]
    assert again.people(limit=1)[0].faces == 2
    assert (again.cache_problem, again.replaced) == (None, False)


def test_people_are_changed_merged_and_moved(gallery: Gallery) -> None:
    ann, bob = gallery.person("ann").id, gallery.person("bob").id
    gallery.change("ann", name="Ann\nLee", notes="tall")
    gallery.change(bob, notes="taller")
    with pytest.raises(PocketNetError, match=r"somebody is named 'bob' already; merge the two"):
        gallery.rename("Ann\nLee", "bob")
    gallery.rename("bob", "bob")
    (face,) = (face.id for face in gallery.faces("bob"))
    with pytest.raises(PocketNetError, match="cannot be merged with the same person"):
        gallery.merge(bob, "bob")
    merged = gallery.merge("bob", ann)
    assert (merged.id, merged.faces, merged.notes) == (ann, 3, "tall\ntaller")
    with pytest.raises(PocketNetError, match="nobody is named 'bob'"):
        gallery.person("bob")
    gallery.move(face, "Carl")
    assert gallery.face(face).person == gallery.person("Carl").id
    assert gallery.search(rows(3)[1:2], top=1)[0][0].name == "Carl"
    gallery.check()
    gallery.delete_face(face)
    assert (gallery.person("Carl").faces, gallery.stats().people_without_faces) == (0, 1)
    assert gallery.claim(rows(1)[0], "Carl", threshold=-1).face is None
    assert gallery.delete_person(ann).faces == 2
    assert gallery.search(rows(3)) == [[], [], []]
    new = gallery.add(["ann"], rows(1))
    # Ids are never given again, though all that had them are gone.
    assert gallery.person("ann").id > max(ann, bob, face)
    assert new[0] > face


def test_claim(gallery: Gallery) -> None:
    yes = gallery.claim(rows(3)[2], "ann", threshold=0.9)
    assert (yes.name, yes.face, yes.accepted) == ("ann", gallery.faces("ann")[1].id, True)
    assert yes.score == pytest.approx(1)
    assert not gallery.claim(rows(3)[1], gallery.person("ann").id, threshold=0.9).accepted


@pytest.mark.parametrize(
    "name",
    ["a\nb\r\n", "x" * 10_000, "\u202eמשה", "👩‍🚀", " ", "\x1b[31m", "id:7", "'; --", '" or "" == "', "\\"],
)
def test_names_are_any_text(gallery: Gallery, name: str) -> None:
    gallery.add([name, "Zoe\u0308", "Zoë"], rows(3, 3), photos=[name, "", ""])
    assert gallery.person(name).name == name
    assert gallery.search(rows(3, 3), top=1)[0][0].photo == name
    assert len({gallery.person(key).id for key in (name, "Zoe\u0308", "Zoë")}) == 3


@pytest.mark.parametrize(
    ("names", "embeddings", "more", "message"),
    [
        (["a"], np.ones((1, 8)), {"qualities": [1.5]}, "a quality is 1.5; expected 0 to 1"),
        (["a"], np.ones((1, 9)), {}, r"expected embeddings N x 8, got \(1, 9\)"),
        (["a", "b"], [[1.0] * 8, [0.0] * 8], {}, "the embedding of b is not finite, or zero"),
        (["a\0b"], np.ones((1, 8)), {}, r"has the character U\+0000"),
        (["a\udcff"], np.ones((1, 8)), {}, "is no Unicode text"),
        ([""], np.ones((1, 8)), {}, "a name is empty"),
        (["new", 77_777_777], np.ones((2, 8)), {}, "nobody is with the id 77777777"),
        (["é" * 40_000], np.ones((1, 8)), {}, "has 80,000 bytes; a gallery on Milvus takes 65,535"),
        (["new"], np.ones((1, 8)), {"photos": ["p" * 70_000]}, "the photo 'ppp.* has 70,000 bytes"),
    ],
)
def test_refused_faces(gallery: Gallery, names: Any, embeddings: Any, more: Any, message: str) -> None:
    with pytest.raises(PocketNetError, match=message):
        gallery.add(names, embeddings, **more)
    assert [person.name for person in gallery.people()] == ["ann", "bob"]
    assert len(gallery) == 3


def test_what_files_alone_have(gallery: Gallery) -> None:
    for act, message in [
        (gallery.compact, "is no file, and has nothing to compact; Milvus erases what was deleted when it"),
        (gallery.refresh, "is no file, and has no number of changes"),
        (lambda: gallery.reading().__enter__(), "is no file, and has no connection to SQLite"),
        (lambda: gallery.writing().__enter__(), "is no file, and has no connection to SQLite"),
        (lambda: gallery.search(rows(1), precision="int8"), "precision int8 is of galleries in files"),
    ]:
        with pytest.raises(PocketNetError, match=message):
            act()
    with gallery.snapshot() as same:
        assert len(same) == 3


def test_answers_are_those_of_a_file(gallery: Gallery, tmp_path: Path) -> None:
    """People with one face and with hundreds, ties between and within them, and any number of answers."""
    generator = np.random.default_rng(5)
    embeddings = generator.standard_normal((600, 8)).astype(np.float32)
    names = [f"p{number}" for number in generator.integers(0, 60, 600)]
    names[:250] = ["crowd"] * 250
    embeddings[:250] = embeddings[0] + 0.03 * generator.standard_normal((250, 8))
    embeddings[300:340] = embeddings[300]
    embeddings[340:345] = embeddings[0]
    photos = [f"{number}.jpg" for number in range(600)]
    file = Gallery.create(tmp_path / "people.gallery", SPACE)
    gallery.delete_person("ann")
    gallery.delete_person("bob")
    for kind in (file, gallery):
        kind.add(names, embeddings, photos=photos)
        kind.merge("p1", "p2")
        kind.move(kind.faces("crowd")[0].id, "p3")
        kind.delete_face(kind.faces("crowd")[0].id)
        kind.delete_person("p4")
    queries = np.concatenate([embeddings[[0, 300, 599]], generator.standard_normal((4, 8))])
    for options in (
        {"top": 1},
        {"top": 5},
        {"top": 70},
        {"top": 3, "threshold": 0.6},
        {"top": 3, "margin": 0.05},
        {"top": 40, "by": "face"},
        {"top": 1000, "by": "face", "threshold": 0.0},
    ):
        # One by one, so that rounding orders no scores otherwise that differ by as little.
        expected = [file.search(query[None], **options)[0] for query in queries]
        found = gallery.search(queries, **options)
        for one, other in zip(expected, found, strict=True):
            assert [(m.name, m.photo) for m in other] == [(m.name, m.photo) for m in one]
            assert [m.score for m in other] == pytest.approx([m.score for m in one], abs=1e-6)
            assert [m.margin is None for m in other] == [m.margin is None for m in one]
    one, other = (kind.claim(queries[0], "crowd", threshold=0.5) for kind in (file, gallery))
    assert (one.accepted, other.score) == (other.accepted, pytest.approx(one.score, abs=1e-6))
    assert said(gallery) == said(file)


def test_more_ties_than_milvus_names(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketnet_fast.gallery.milvus.ranking.MOST", 40)
    gallery.add(["crowd"] * 100 + ["other"], np.ones((101, 8)))
    (found,) = gallery.search(np.ones((1, 8)), top=4)
    assert {match.name for match in found} == {"crowd", "other", "ann", "bob"}
    assert len(gallery.search(np.ones((1, 8)), top=60, by="face")[0]) == 40


def test_threads_make_one_person_of_a_new_name(gallery: Gallery) -> None:
    with ThreadPoolExecutor(4) as pool:
        added = pool.map(lambda number: Gallery(gallery.path).add(["new"], rows(1, number)), range(8))
        faces = [face for (face,) in added]
    assert sorted(faces) == [face.id for face in gallery.faces("new")]
    gallery.check()


def test_exported_and_imported(gallery: Gallery, tmp_path: Path) -> None:
    gallery.add(["x" * 10_000], rows(1, 4), boxes=[(0.1, -2, 3, 1e9)], qualities=[1 / 3], photos=['a"b,\n;'])
    gallery.change("ann", notes="one\r\ntwo")
    gallery.add(["gone"], rows(1, 5))
    gallery.delete_face(gallery.faces("gone")[0].id)
    before = said(gallery)
    assert export_gallery(gallery, tmp_path / "out.npz") == 4
    table = import_table(tmp_path / "out.npz")
    file = Gallery.create(tmp_path / "g", SPACE, fill=lambda writer: import_into(writer, table))
    assert said(file) == before
    np.testing.assert_array_equal(file.embeddings()[1], gallery.embeddings()[1])
    gallery.change("ann", notes="newer")
    gallery.change("bob", name="rob")
    with gallery.adding() as writer:
        assert import_into(writer, table) == 4
    assert [person.name for person in gallery.people()] == ["ann", "rob", "x" * 10_000, "gone", "bob"]
    assert (gallery.person("ann").faces, gallery.person("ann").notes) == (4, "newer")
    boxes = [face.box for face in gallery.faces("x" * 10_000)]
    assert boxes == [(0.1, -2, 3, 1e9)] * 2


class TestWhatIsBrokenOff:
    def test_an_addition_that_fails_is_taken_back(
        self, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Connection.insert

        def insert(self: Connection, collection: str, entities: Any) -> Any:
            if "_faces_" in collection:
                real(self, collection, entities[:1])
                raise PocketNetError("the server went away")
            return real(self, collection, entities)

        monkeypatch.setattr(Connection, "insert", insert)
        with pytest.raises(PocketNetError, match="the server went away"):
            gallery.add(["ann", "new", "new"], rows(3, 7))
        with pytest.raises(PocketNetError, match="the server went away"), gallery.adding() as writer:
            writer.insert_people([("ann", "noted"), ("other", "")])
            writer.insert_faces(_new(["ann", "other"]))
        assert said(gallery) == [("ann", "", ["a.jpg", ""]), ("bob", "", ["b.jpg"])]
        gallery.check()

    def test_merging_and_deleting_can_be_repeated(
        self, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gallery.change("ann", notes="tall")
        gallery.change("bob", notes="thin")
        real = Connection.delete

        def delete(self: Connection, collection: str, ids: Any) -> None:
            if "_people_" in collection:
                raise PocketNetError("the server went away")
            real(self, collection, ids)

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "delete", delete)
            with pytest.raises(PocketNetError, match="went away"):
                gallery.merge("ann", "bob")
        gallery.check()
        assert said(gallery) == [("ann", "tall", []), ("bob", "thin\ntall", ["a.jpg", "b.jpg", ""])]
        assert gallery.merge("ann", "bob").notes == "thin\ntall"
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "delete", delete)
            with pytest.raises(PocketNetError, match="went away"):
                gallery.delete_person("bob")
        assert said(gallery) == [("bob", "thin\ntall", [])]
        assert gallery.delete_person("bob").faces == 0

    def test_a_new_gallery_is_whole_or_not_there(self, database: str) -> None:
        with pytest.raises(ZeroDivisionError):
            Gallery.create(f"{database}#broken", SPACE, fill=lambda writer: 1 // 0)
        assert not Gallery.exists(f"{database}#broken")
        client = pymilvus.MilvusClient(parse_address(f"{database}#broken").uri)
        assert not [name for name in client.list_collections() if name.startswith("broken")]


class TestCheck:
    def test_two_of_one_name(self, gallery: Gallery) -> None:
        connection, head = connection_of(gallery)
        first = gallery.person("ann").id
        connection.insert(head.people, [person_row(first + 10**6, "ann", "")])
        with pytest.raises(PocketNetError, match=f"merge` of id:{first + 10**6} into id:{first} mends it"):
            gallery.check()
        assert gallery.person("ann").id == first
        gallery.merge(first + 10**6, first)
        gallery.check()

    def test_faces_of_nobody(self, gallery: Gallery) -> None:
        connection, head = connection_of(gallery)
        faces = [face.id for face in gallery.faces("ann")]
        connection.delete(head.people, [gallery.person("ann").id])
        with pytest.raises(PocketNetError, match=f"1 persons are not there of whom .*, as of {faces[0]}; no"):
            gallery.check()
        assert [match.name for match in gallery.search(rows(1), top=9)[0]] == ["bob"]
        assert len(gallery.contents().faces) == 1
        for face in faces:
            gallery.delete_face(face)
        gallery.check()

    def test_damage(self, gallery: Gallery) -> None:
        connection, head = connection_of(gallery)
        bob, face = gallery.person("bob").id, gallery.faces("bob")[0].id
        (entity,) = connection.get(head.faces, [face], ["*"])
        connection.upsert(head.faces, [entity | {"embedding": [2.0] * 8}])
        with pytest.raises(PocketNetError, match=f"the embedding of face {face} has no length of 1"):
            gallery.check()
        gallery.delete_face(face)
        connection.upsert(head.people, [person_row(bob, "bob", "") | {"name_sha256": name_key("rob")}])
        with pytest.raises(PocketNetError, match=f"person {bob} is not found by the name 'bob'"):
            gallery.check()

    def test_what_a_killed_build_left(self, gallery: Gallery) -> None:
        connection, _ = connection_of(gallery)
        left = f"{connection.address.name}_ids_00000000"
        schema = connection.make_schema(
            [("id", "INT64", {"is_primary": True}), ("nothing", "FLOAT_VECTOR", {"dim": 2})], auto_id=True
        )
        connection.create(left, schema, "nothing")
        with pytest.raises(PocketNetError, match=f"the collections {left} are of no gallery"):
            gallery.check()
        connection.drop(left)
        gallery.check()


class TestOtherPlaces:
    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("milvus:people.db", "no address of a gallery on Milvus; expected milvus:http://HOST:PORT/NAME"),
            ("milvus:people#x", "no address of a gallery"),
            ("milvus:http://localhost:19530", "'' is no name on Milvus"),
            ("milvus:http://localhost:19530/a/b/c", "no address of a gallery"),
            ("milvus:http://localhost:99999/a", "no address of a gallery"),
            ("milvus:http:/localhost/a", "no address of a gallery"),
            ("milvus:https://localhost/a?b=c", "no address of a gallery"),
            ("milvus:p.db#7up", "'7up' is no name on Milvus; expected a letter or underscore"),
            ("milvus:p.db#" + "x" * 201, "is no name on Milvus"),
            ("milvus:none/p.db#x", "no such gallery; `pocketnet gallery build` makes one"),
        ],
    )
    def test_addresses(self, place: str, message: str) -> None:
        with pytest.raises(PocketNetError, match=message):
            Gallery(place)

    def test_parts_of_an_address(self) -> None:
        server = parse_address("milvus:https://h.example:443/team/people")
        assert (server.uri, server.database, server.name) == ("https://h.example:443", "team", "people")
        assert parse_address("milvus:http://h/people").database == ""
        assert parse_address("milvus:/d/p.db#people").file == Path("/d/p.db")

    def test_no_word_of_a_token(self, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
        with pytest.raises(PocketNetError, match=f"into the environment as {TOKEN}") as told:
            Gallery("milvus:http://root:sesame@localhost:1/people")
        assert "sesame" not in str(told.value)
        monkeypatch.setenv(TOKEN, "root:sesame")
        with pytest.raises(
            PocketNetError, match=r"no Milvus server can be reached there: .*127\.0\.0\.1:1"
        ) as told:
            Gallery("milvus:http://127.0.0.1:1/people", timeout=2)
        assert "sesame" not in str(told.value) + "".join(capfd.readouterr())
        assert "\n" not in str(told.value)
        given: list[dict[str, Any]] = []

        def client(**options: Any) -> None:
            given.append(options)
            raise pymilvus.MilvusException(1, "root:sesame is wrong")

        monkeypatch.setattr(pymilvus, "MilvusClient", client)
        with pytest.raises(PocketNetError, match=r"reached there: \.\.\. is wrong"):
            Gallery("milvus:http://127.0.0.1:1/team/people", timeout=2)
        assert (given[0]["token"], given[0]["db_name"]) == ("root:sesame", "team")
        assert "sesame" not in given[0]["uri"]

    def test_without_the_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pymilvus", None)
        with pytest.raises(PocketNetError, match=r'pip install "pocketnet_fast\[milvus\]"'):
            Gallery("milvus:http://127.0.0.1:1/people")

    def test_a_server(self, gallery: Gallery) -> None:
        """Milvus Lite listens on a port as a server does, so the same gallery has such an address, too."""
        from milvus_lite.server_manager import server_manager_instance

        uri = server_manager_instance.start_and_get_uri(parse_address(gallery.path).uri)
        with Gallery(f"milvus:{uri}/people") as other:
            other.add(["carl"], rows(1, 9))
            assert gallery.search(rows(1, 9), top=1)[0][0].name == "carl"
        with pytest.raises(PocketNetError, match="this gallery was closed"):
            len(other)

    def test_other_collections(self, database: str, gallery: Gallery) -> None:
        client = pymilvus.MilvusClient(parse_address(f"{database}#x").uri)
        client.create_collection("other", dimension=8)
        for act in (Gallery, lambda place: Gallery.create(place, SPACE, overwrite=True)):
            with pytest.raises(PocketNetError, match="a collection, but no gallery; it was not made by"):
                act(f"{database}#other")
        client.drop_collection("other")
        with pytest.raises(PocketNetError, match="no such gallery; `pocketnet gallery build` makes one"):
            Gallery(f"{database}#none")
        with pytest.raises(PocketNetError, match="unknown name_by 'hair'"):
            Gallery.create(f"{database}#none", SPACE, name_by="hair")
        with pytest.raises(PocketNetError, match="already holds a gallery; add to it, or overwrite it"):
            Gallery.create(gallery.path, SPACE)
        connection, _ = connection_of(gallery)
        (head,) = connection.get("people", ["gallery"], ["*"])
        about = json.loads(head["about"])
        for changed, message in [
            ({"version": 2}, "a gallery of version 2; this program knows version 1"),
            ({"format": "x"}, "a collection, but no gallery"),
            ({"dimensions": 9}, "of its collection people_faces_.* have 8 dimensions, not 9"),
            ({"ids": "people_gone"}, "damaged: its collection people_gone is missing"),
            ({"flip": None, "dimensions": "x"}, "damaged: ValueError"),
        ]:
            connection.upsert("people", [head | {"about": json.dumps(about | changed)}])
            with pytest.raises(PocketNetError, match=message):
                Gallery(gallery.path)
        connection.delete("people", ["gallery"])
        with pytest.raises(PocketNetError, match="unfinished, or no gallery"):
            Gallery(gallery.path)
        connection.upsert("people", [head])
        assert len(Gallery(gallery.path)) == 3

    def test_overwriting_replaces(self, database: str) -> None:
        place = f"{database}#replaced"
        reader = Gallery.create(place, SPACE)
        reader.add(["old"], rows(1))
        with pytest.raises(ZeroDivisionError):
            Gallery.create(place, SPACE, overwrite=True, fill=lambda writer: 1 // 0)
        assert [person.name for person in reader.people()] == ["old"]
        other = replace(SPACE, dimensions=9)
        made = Gallery.create(
            place, other, overwrite=True, fill=lambda writer: writer.insert_people([("new", "")])
        )
        assert [person.name for person in made.people()] == ["new"]
        assert reader.replaced
        with pytest.raises(
            PocketNetError, match="was replaced or dropped since it was opened; open it again"
        ):
            reader.people()
        made.check()

    @pytest.mark.slow
    def test_a_file_of_another_process(self, database: str, gallery: Gallery) -> None:
        code = f"from pocketnet_fast.gallery.gallery import Gallery; Gallery({gallery.path!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "Milvus Lite cannot open its file: another process has it open" in done.stderr.splitlines()[-1]


def _new(names: list[str]) -> Any:
    from pocketnet_fast.gallery.people import new_faces

    return new_faces(names, unit(rows(len(names))).astype(np.float32), None, None, None)


@pytest.mark.slow(seconds=8)
def test_the_command_line(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Run = runner(monkeypatch, capsys, "gallery")
    people = tmp_path / "people"
    for number, name in enumerate(["ann/one.png", "ann/two.png", "bob/one.png"]):
        (people / name).parent.mkdir(parents=True, exist_ok=True)
        (people / name).write_bytes(encode_image(crop(number), ".png"))
    where, query = f"{database}#cli", people / "bob" / "one.png"
    built = run("build", people, "--name-by", "folder", "-o", where, *MODEL)
    assert built.out == f"{where}: added 3 faces; it holds 3\n"
    assert refused(run("build", people, "-o", where, *MODEL), "already holds a gallery")
    found = run("search", where, query, *MODEL, "--json").json
    assert (found["gallery"], found["faces"]) == (where, 3)
    assert [match["name"] for match in found["results"][0]["matches"]] == ["bob", "ann"]
    assert found["results"][0]["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert refused(run("search", where, query, *MODEL, "--no-flip"), "made with the mirror image")
    assert refused(run("search", where, query, *MODEL, "--precision", "int8"), "is of galleries in files")
    said_of = run("claim", where, "bob", query, *MODEL, "--threshold", 0.9)
    assert said_of.out.startswith(f"accepted: {query} as bob")
    copy = people / "bob" / "copy.png"
    copy.write_bytes((people / "ann" / "one.png").read_bytes())
    added = run("add", where, copy, query, *MODEL)
    assert added.out == f"{where}: added 1 faces; it holds 4\n"
    assert f"{copy} is named bob, and the same photo is ann" in added.err
    assert f"left out {query}: the gallery holds it as bob" in added.err
    shown = run("show", where, "bob", "--json").json
    face = shown["faces"][1]["id"]
    assert run("move", where, face, "carl").out == f"{where}: face {face} is of carl now\n"
    assert run("rename", where, "carl", "Carl", "--notes", "new", "--json").json["notes"] == "new"
    assert run("merge", where, "Carl", "ann", "--json").json["faces"] == 3
    listed = run("list", where).out.split()
    assert (listed[1:3], listed[4:6]) == (["3", "ann"], ["1", "bob"])
    deleted = run("delete", where, "--face", face)
    assert "pocketnet: Milvus erases what was deleted when it compacts its segments" in deleted.err
    text = run("stats", where).out
    assert f"{where}: 2 people, 3 faces, at most 2 of one" in text
    assert "files:" not in text
    assert run("stats", where, "--json").json["bytes"] is None
    assert run("check", where).out == f"{where}: 2 people and 3 faces are whole\n"
    assert refused(run("compact", where), "is no file, and has nothing to compact")
    assert run("export", where, tmp_path / "out.csv").out == f"{tmp_path}/out.csv: 3 faces\n"
    imported = f"{database}#imported"
    assert run("import", imported, tmp_path / "out.csv", "--json").json["faces"] == 3
    assert run("import", imported, tmp_path / "out.csv").out.endswith("added 3 faces; it holds 6\n")
    old = old_gallery(tmp_path / "old", ["a", "b"], ["1.jpg", ""], unit(rows(2)).astype(np.float32))
    migrated = run("migrate", old, f"{database}#cli", "--overwrite")
    assert migrated.out == f"{where}: 2 people with 2 faces, equal to {old}\n"
    assert refused(run("list", f"{database}#none"), "no such gallery; `pocketnet gallery build` makes one")


def test_a_path_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert small(Path("./milvusian:people")).path.is_file()
    assert small(tmp_path / "milvus:people.gallery").path.is_file()

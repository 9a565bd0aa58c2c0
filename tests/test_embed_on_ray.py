"""``pocketnet embed --ray``: two workers on this machine, and the files that they write."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, refused, runner
from faces import crop, write_records

from pocketnet_fast.cli.options import ManyFacesOptions
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.faces import embedding_on_ray
from pocketnet_fast.faces.embedding_parts import Job

pq = pytest.importorskip("pyarrow.parquet")
MODEL = ("--aligned", "--untrained", "--threads", "1")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray as the command starts it, once for all tests."""
    pytest.importorskip("ray.data", reason="Ray Data is not installed (extra ray)")
    module = embedding_on_ray._ray()
    # Paths of sockets are short, so no folder of pytest's will do.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setattr(builtins, "print", builtins.print)  # Ray's progress bars replace it for good
        with embedding_on_ray._running(module, 2, 1) as workers:
            assert workers == 2
            yield module


@pytest.fixture
def run(ray: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.delenv("POCKETNET_DETECTOR", raising=False)
    return runner(monkeypatch, capsys, "embed")


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    folder = tmp_path / "crops"
    folder.mkdir()
    for number in range(18):
        (folder / f"{number:02}.png").write_bytes(encode_image(crop(number), ".png"))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.mark.slow(seconds=15)
def test_parts_are_those_of_shards(run: Run, crops: Path, tmp_path: Path) -> None:
    out, shards = tmp_path / "out", tmp_path / "shards"
    result = run(crops, *MODEL, "--ray", "--workers", 2, "--parts", 4, "-o", out)
    assert result.code == 0
    assert f"wrote 18 embeddings of 128 dimensions to {out}, in 4 parts" in result.err
    for number in range(1, 5):
        assert run(crops, *MODEL, "--shard", f"{number}/4", "-o", shards).code == 0
    assert sorted(contents(out)) == [f"{number:05}-of-00004.parquet" for number in range(1, 5)]
    # Whoever computed a part: the bytes are the same, so processes and Ray may share the work.
    assert contents(out) == contents(shards)
    # Pandas, DuckDB and the plain command see the same rows.
    whole = run(crops, *MODEL, "--json").json["embeddings"]
    expected = {row["file"]: row["embedding"] for row in whole}
    pandas = pytest.importorskip("pandas")
    read = pandas.read_parquet(out)
    assert dict(zip(read["file"], map(list, read["embedding"]), strict=True)) == pytest.approx(expected)
    duckdb = pytest.importorskip("duckdb")
    ((count, length, face),) = duckdb.sql(
        f"SELECT count(*), min(list_dot_product(embedding, embedding)), max(face) FROM '{out}/*.parquet'"
    ).fetchall()
    assert (count, length, face) == (18, pytest.approx(1, abs=1e-5), 0)


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on(run: Run, crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (crops, *MODEL, "--ray", "--workers", 2, "-o", out)
    # Four parts of each worker, if nothing else is said.
    assert run(*command, "--json").json["parts"] == 8
    before = contents(out)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    for number in (3, 7):
        (out / f"{number:05}-of-00008.parquet").unlink()
    result = run(*command, "--json")
    assert (result.json["computed"], result.json["parts"], result.json["faces"]) == (2, 8, 18)
    assert "6 of 8 parts are finished" in result.err
    assert contents(out) == before
    kept = {path.name for path in out.iterdir() if path.stat().st_mtime_ns == times[path.name]}
    assert len(kept) == 6
    result = run(*command, "--json")
    assert (result.json["computed"], result.json["faces"]) == (0, 18)
    for other, message in [
        ((crops, *MODEL, "--ray", "-o", out, "--parts", 4), "are parts of 4, 8; expected one number"),
        ((crops, *MODEL, "--ray", "-o", out, "--no-flip"), "was made with flip True, not False; remove it"),
        ((crops / "00.png", crops, *MODEL, "--ray", "-o", out), "is of other images than are given"),
    ]:
        assert refused(run(*other), message)
    (out / "00002-of-00008.parquet").write_bytes(b"PAR1")
    assert refused(run(*command), "no embeddings that `pocketnet embed` wrote, or damaged; remove it")


@pytest.mark.slow(seconds=7)
def test_a_lost_worker_loses_nothing(run: Run, crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed: list[int] = []
    over = threading.Event()

    def kill_a_writer() -> None:
        while not killed and not over.wait(0.01):
            for process in writers_in(out):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                return

    killer = threading.Thread(target=kill_a_writer)
    killer.start()
    # Another engine than other tests have, so that a worker has its model to build while it holds the file.
    command = (crops, *MODEL, "--engine", "eager", "--parts", 3)
    result = run(*command, "--ray", "--workers", 2, "-o", out, "--json")
    over.set()
    killer.join()
    assert len(killed) == 1
    assert (result.json["computed"], result.json["faces"]) == (3, 18)
    rows = [pq.read_table(out / name)["file"].to_pylist() for name in sorted(contents(out))]
    assert rows == [[f"{crops}/{number:02}.png" for number in range(part, 18, 3)] for part in range(3)]


def test_a_part_that_ends_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job(ManyFacesOptions(untrained=True, aligned=True, threads=1), every_face=False, skip=False)
    file = tmp_path / "00001-of-00002.parquet"
    task = embedding_on_ray._Task(job, {}, ["a.png"], 1, 2, file, tmp_path, {})
    task.begun.write_bytes(b"...")
    (result,) = embedding_on_ray._embed_part({"task": [pickle.dumps(task)]})["result"]
    assert "3 workers were lost that embedded this part; one of its 1 images" in str(pickle.loads(result))


def writers_in(folder: Path) -> list[int]:
    """The processes that have a temporary file in a folder open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith(f"{folder}/.pocketnet-"):
            found.append(int(link.parts[2]))
    return found


@pytest.mark.slow
def test_what_cannot_be_used(run: Run, crops: Path, tmp_path: Path) -> None:
    (crops / "05.png").write_bytes((crops / "05.png").read_bytes()[:300])
    out = tmp_path / "out"
    command = (crops, *MODEL, "--ray", "--workers", 2, "--parts", 3, "-o", out)
    assert refused(run(*command), "05.png is damaged")
    assert "00003-of-00003.parquet" not in contents(out)
    begun = out / ".pocketnet-00003-of-00003.begun"
    assert begun.exists()
    skipped = run(*command, "--skip", "--json")
    plain = run(crops, *MODEL, "--skip", "--json")
    told = [line for line in plain.err.splitlines() if "left out" in line]
    assert len(told) == 1
    assert told[0] in skipped.err.splitlines()
    assert [f"pocketnet: left out: {reason}" for reason in skipped.json["left_out"]] == told
    assert skipped.json["faces"] == len(plain.json["embeddings"]) == 17
    assert not begun.exists()
    # A later run knows what an earlier one left out.
    assert run(*command, "--skip", "--json").json["left_out"] == skipped.json["left_out"]
    only = ("--skip", "--ray", "-o", tmp_path / "none")
    assert refused(run(crops / "05.png", *MODEL, *only), "none of the images could be used; the parts in")


@pytest.mark.slow
def test_records_and_tables(run: Run, crops: Path, tmp_path: Path) -> None:
    import pyarrow

    records = write_records(tmp_path / "a.rec", [[0.0]] * 6)
    cells = [path.read_bytes() for path in sorted(crops.iterdir())[6:12]]
    pq.write_table(
        pyarrow.table({"image": cells, "file": [f"n{i}" for i in range(6)]}), tmp_path / "t.parquet"
    )
    inputs = (tmp_path / "t.parquet", records, *MODEL)
    assert run(*inputs, "--ray", "--parts", 2, "-o", tmp_path / "out").code == 0
    names = [
        pq.read_table(tmp_path / "out" / name)["file"].to_pylist()
        for name in sorted(contents(tmp_path / "out"))
    ]
    assert names == [
        [*(f"{records}#{key}" for key in (0, 2, 4)), "n0", "n1", "n2"],
        [*(f"{records}#{key}" for key in (1, 3, 5)), "n3", "n4", "n5"],
    ]
    plain = run(*inputs, "--json").json["embeddings"]
    files = run(*sorted(crops.iterdir())[:12], *MODEL, "--json").json["embeddings"]
    np.testing.assert_allclose(
        [row["embedding"] for row in plain], [row["embedding"] for row in files], atol=1e-6
    )


@pytest.mark.slow
def test_nobody_is_told(ray: Any) -> None:
    usage = pytest.importorskip("ray._common.usage.usage_lib", reason="Ray keeps it elsewhere")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not usage.usage_stats_enabled()


@pytest.mark.slow
def test_refusals(run: Run, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in [
        (("--ray",), "nowhere to put the embeddings: pass -o FOLDER"),
        (("--ray", "-o", tmp_path / "x.npz"), "--ray writes a folder of .parquet files"),
        (("--ray", "-o", crops / "00.png"), "is no folder; the parts of --ray are files in one"),
        (("--ray", "-o", tmp_path / "none" / "x"), "cannot write"),
        (("--ray", "--shard", "1/2", "-o", tmp_path), "--ray and --shard exclude each other"),
        (("--workers", 2, "--json"), "--workers and --parts are of --ray"),
    ]:
        assert refused(run(crops, *MODEL, *options), message)
    monkeypatch.setitem(sys.modules, "ray", None)
    told = run(crops, *MODEL, "--ray", "-o", tmp_path / "x")
    assert refused(told, 'Ray Data is not installed, which --ray needs: pip install "pocketnet_fast[ray]"')


def test_the_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    photo = Path(pytest.importorskip("skimage").__file__).parent / "data" / "astronaut.png"
    run = runner(monkeypatch, capsys, "embed")
    file = tmp_path / "out.parquet"
    (row,) = run(photo, "--untrained", "-o", file, "--json").json["embeddings"]
    table = pq.read_table(file)
    assert {field.name: str(field.type) for field in table.schema} == {
        "file": "string",
        "face": "int32",
        "faces": "int32",
        **dict.fromkeys(("left", "top", "width", "height"), "double"),
        "landmarks": "list<element: float>",
        "score": "float",
        "quality": "float",
        "norm": "float",
        "embedding": "list<element: float>",
    }
    (found,) = table.to_pylist()
    assert (found["file"], found["face"], found["faces"]) == (str(photo), 0, 1)
    assert [found[side] for side in ("left", "top", "width", "height")] == row["box"]
    np.testing.assert_allclose(np.reshape(found["landmarks"], (5, 2)), row["landmarks"], rtol=1e-6)
    np.testing.assert_array_equal(
        np.array(found["embedding"], np.float32), np.array(row["embedding"], np.float32)
    )
    assert (found["score"], found["quality"]) == pytest.approx((row["score"], row["quality"]))
    about = json.loads(table.schema.metadata[b"pocketnet_fast"])
    assert (about["model"], about["part"], about["images"], about["left_out"]) == (
        "pocketnet_s128",
        [1, 1],
        1,
        [],
    )


def test_milvus_imports_the_columns(tmp_path: Path) -> None:
    """Every column has the type that Milvus' own writer of import files gives it."""
    bulk_writer = pytest.importorskip(
        "pymilvus.bulk_writer", reason="its packages are missing (pymilvus[bulk_writer])"
    )
    from pymilvus import DataType, MilvusClient

    from pocketnet_fast.faces.parquet_part import write_faces
    from pocketnet_fast.faces.sources import EmbeddedFace

    schema = MilvusClient.create_schema(auto_id=True)
    schema.add_field("id", DataType.INT64, is_primary=True, auto_id=True)
    schema.add_field("file", DataType.VARCHAR, max_length=4096)
    for name in ("face", "faces"):
        schema.add_field(name, DataType.INT32)
    for name in ("left", "top", "width", "height"):
        schema.add_field(name, DataType.DOUBLE, nullable=True)
    schema.add_field("landmarks", DataType.ARRAY, element_type=DataType.FLOAT, max_capacity=10, nullable=True)
    for name in ("score", "quality"):
        schema.add_field(name, DataType.FLOAT, nullable=True)
    schema.add_field("norm", DataType.FLOAT)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=8)
    writer = bulk_writer.LocalBulkWriter(
        schema=schema, local_path=str(tmp_path), file_type=bulk_writer.BulkFileType.PARQUET
    )
    entity = {"file": "a", "face": 0, "faces": 0, "norm": 1.0, "embedding": np.ones(8, np.float32)}
    empty = dict.fromkeys(("left", "top", "width", "height", "landmarks", "score", "quality"))
    writer.append_row(entity | empty)
    writer.commit()
    theirs = pq.read_table(writer.batch_files[0][0])
    face = EmbeddedFace("a", np.zeros((112, 112, 3), np.uint8), np.ones(8, np.float32), 1.0, [])
    with (tmp_path / "ours.parquet").open("wb") as stream:
        write_faces(stream, [face], {})
    ours = pq.read_table(tmp_path / "ours.parquet")
    assert {field.name: field.type for field in ours.schema} == {f.name: f.type for f in theirs.schema}
    assert ours.to_pylist() == theirs.select(ours.column_names).to_pylist()

"""Every kind of image file that users bring: Python and the C++ host read it alike, or both refuse it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_images import bodies, code_of
from image_files import Readable, readable
from native import cpp_host, read_images

import pocketnet_fast
from pocketnet_fast.data.images import decode_image, read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.torchscript import export_torchscript
from pocketnet_fast.ops.native import library_path

READABLE = readable()
REFUSED = list(bodies())


@dataclass(frozen=True)
class Table:
    """Files of a folder, and what the C++ host says of each."""

    folder: Path
    read: list[Path]
    refused: list[Path]
    said: list[str]

    def of(self, path: Path) -> str:
        return self.said[[*self.read, *self.refused].index(path)]


def listed(program: Path, folder: Path, paths: list[Path], **environment: str) -> list[str]:
    done = subprocess.run(
        [program, folder, *paths], capture_output=True, text=True, check=False, env=environment or None
    )
    assert done.returncode == 0, done.stderr
    # No library's own lines.
    assert done.stderr == ""
    return [line.split("\t", 2)[2] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("kinds")
    read = [folder / f"{number} {case.name}".replace("/", "-") for number, case in enumerate(READABLE)]
    bad = [folder / f"refused {body.name}" for body in REFUSED]
    for path, data in zip(
        [*read, *bad], [*(c.data for c in READABLE), *(body.data for body in REFUSED)], strict=True
    ):
        path.write_bytes(data)
    return Table(folder, read, bad, listed(read_images(), folder, [*read, *bad]))


@pytest.mark.parametrize("number", range(len(READABLE)), ids=[case.name for case in READABLE])
def test_what_is_read(table: Table, number: int, capfd: pytest.CaptureFixture[str]) -> None:
    case: Readable = READABLE[number]
    pixels = decode_image(case.data, case.name)
    assert capfd.readouterr().err == ""
    assert pixels.shape == (112, 112, 3)
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - case.picture).mean() <= case.tolerance
    said = table.said[number]
    if "built without a decoder" in said:
        pytest.skip(said)
    assert said == "ok"
    theirs = read_image(table.folder / f"{number}.ppm")
    # Two versions of a decoder may round differently.
    assert np.abs(pixels.astype(int) - theirs.astype(int)).max() <= (4 if "avif" in case.name else 1)


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[body.name for body in REFUSED])
def test_what_is_refused(table: Table, number: int, capfd: pytest.CaptureFixture[str]) -> None:
    body = REFUSED[number]
    with pytest.raises(PocketNetError) as error:
        decode_image(body.data, body.name)
    assert capfd.readouterr().err == ""
    for said in (str(error.value), table.of(table.refused[number])):
        assert "\n" not in said
        if "built without a decoder" not in said:
            assert body.words in said
            assert code_of(said) == body.code


@pytest.mark.slow
def test_embeddings(table: Table, tmp_path: Path) -> None:
    model = pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    exported = export_torchscript(model, tmp_path / "m.pt", input="uint8").path
    paths = [path for path in table.read if table.of(path) == "ok"]
    command = [cpp_host(), exported, *paths, "--repeat", 1, "--ops", library_path()]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = torch.tensor([entry["embedding"] for entry in json.loads(done.stdout)["embeddings"]])
    ours = pocketnet_fast.compile(model)(torch.from_numpy(np.stack([read_image(path) for path in paths])))
    cosines = torch.nn.functional.cosine_similarity(theirs, ours)
    assert len(paths) >= 80
    assert cosines.min() >= 0.9999, paths[int(cosines.argmin())].name


@pytest.mark.slow
def test_under_sanitizers(table: Table, tmp_path: Path) -> None:
    program = read_images(sanitized=True)
    assert listed(program, tmp_path, [*table.read, *table.refused]) == table.said

"""Lists of MegaFace and FaceScrub in their published forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.face_list import is_noise, read_face_list, read_noise_list, without_noise


def test_json_of_the_kit(tmp_path: Path) -> None:
    path = tmp_path / "megaface_features_list.json_10_1"
    path.write_text(json.dumps({"path": ["Al Bo/Al Bo_1.png", "Cy/Cy_2.jpg"], "id": ["Al_Bo", 7]}))
    faces = read_face_list(path)
    assert faces.paths == ["Al Bo/Al Bo_1.png", "Cy/Cy_2.jpg"]
    assert faces.ids == ["Al_Bo", "7"]
    assert len(faces) == 2
    path.write_text(json.dumps({"path": ["363/36395167@N06/4308735396_1.jpg"]}))
    assert read_face_list(path).ids == ["36395167@N06"]


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "facescrub_lst"
    path.write_text("facescrub_images/Al_Bo/Al_Bo_1.png\n\nfacescrub_images/Cy/Cy_2.png\n")
    faces = read_face_list(path)
    assert faces.paths == ["facescrub_images/Al_Bo/Al_Bo_1.png", "facescrub_images/Cy/Cy_2.png"]
    assert faces.ids == ["Al_Bo", "Cy"]


def test_noise(tmp_path: Path) -> None:
    path = tmp_path / "noises.txt"
    path.write_text(
        "#Please cite\nAaron_Eckhart_136.png\nRobert_Downey_Jr._49395.png\n"
        "375/37531198@N00/4174611825_0.jpg\n17\t925/92596048@N00/3910487430_2.jpg\n"
    )
    noise = read_noise_list(path)
    assert len(noise) == 4
    for name in (
        "Aaron_Eckhart_136.png",
        "facescrub/Aaron Eckhart/Aaron Eckhart_136.jpg",
        "Robert Downey Jr./Robert_Downey_Jr._49395.png",
        "FlickrFinal2/375/37531198@N00/4174611825_0.jpg",
        "925/92596048@N00/3910487430_2.jpg",
    ):
        assert is_noise(name, noise), name
    for name in (
        "Aaron_Eckhart_137.png",
        "x_Aaron_Eckhart_136.png",
        "Robert_Downey_Jr._49396.png",
        "376/37531198@N00/4174611825_0.jpg",
        "4174611825_0.jpg",
    ):
        assert not is_noise(name, noise), name
    lists = tmp_path / "list"
    lists.write_text("a/Aaron_Eckhart_135.png\na/Aaron_Eckhart_136.png\na/Aaron_Eckhart_137.png\n")
    assert without_noise(read_face_list(lists), noise) == [0, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no paths"),
        (b"{", "damaged"),
        (b'{"id": []}', "expected an object with a list of paths"),
        (b'{"path": [1]}', "expected an object with a list of paths"),
        (b'{"path": []}', "holds no paths"),
        (b'{"path": ["a/b"], "id": []}', "an identity, 'id', for each of the 1 paths"),
        (b'{"path": ["a/b", "../b"]}', "entry 1: '../b' is no path inside a folder"),
        (b"/etc/passwd\n", "entry 0: '/etc/passwd'"),
        (b"a/\xff\n", "no text in UTF-8 at byte 2"),
    ],
)
def test_damage(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    with pytest.raises(PocketNetError, match=f"{path}.*{message}"):
        read_face_list(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="no such list"):
        read_face_list(tmp_path / "none")
    with pytest.raises(PocketNetError, match="cannot be read"):
        read_face_list(tmp_path)
    (tmp_path / "noise").write_text("# nothing\n\n")
    with pytest.raises(PocketNetError, match="names no images"):
        read_noise_list(tmp_path / "noise")

"""The C library and its files, against the operators and ``FaceAnalyzer``; what programs in C see of it."""

from __future__ import annotations

import ctypes
import json
import platform
import re
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from native import ROOT, cmake_build, release_build, run, tool
from torch.nn import functional
from typer.testing import CliRunner

from pocketnet_fast import FaceAnalyzer, compile, create_model
from pocketnet_fast.cli.main import app
from pocketnet_fast.cmake import prefix_path
from pocketnet_fast.data.images import ImageArray, read_image
from pocketnet_fast.data.synthetic import render_identity
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.libpocketnet import LibraryModel, installed_library
from pocketnet_fast.export.library_file import SECTIONS, export_library_file, file_content
from pocketnet_fast.export.photos import check_scene
from pocketnet_fast.ops.native import available_isas, forced_isa

ABI = Path(__file__).with_name("recordings") / "libpocketnet_abi.json"
STRUCTURES = {
    "pocketnet_open_options": "size isa unverified max_file_bytes max_working_bytes max_side max_steps",
    "pocketnet_info": "size file_version embedding_dim crop_side takes_photos half_precision thresholds "
    "default_threshold isa metadata metadata_bytes space",
    "pocketnet_context_options": "size memory memory_bytes crops_only max_photo_side",
    "pocketnet_image": "pixels chroma stride chroma_stride width height format",
    "pocketnet_face": "box landmarks score quality turn reserved",
}


@pytest.fixture(scope="module")
def model_file(analyzer: FaceAnalyzer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_library_file(analyzer, tmp_path_factory.mktemp("pnf") / "faces.pnf").path


@pytest.fixture(scope="module")
def crops() -> ImageArray:
    return np.stack([render_identity(0, identity, 0) for identity in range(2)])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("flip", [True, False], ids=["flip", "no flip"])
def test_embeddings_are_the_operators(precision: str, flip: bool, crops: ImageArray, tmp_path: Path) -> None:
    """On every instruction set; of length 1, which is rounded once."""
    model = create_model("pocketnet_s128", pretrained=True)
    path = tmp_path / "model.pnf"
    report = export_library_file(model, path, precision=precision, flip=flip)
    compiled = compile(model, precision=precision, flip=flip)
    for isa in available_isas(precision):
        images = crops if flip else crops[:1]
        with forced_isa(isa):
            rows = compiled(torch.from_numpy(images)).double()
        expected = functional.normalize(rows).float().numpy()
        with LibraryModel(path, isa=isa, crops_only=True) as library:
            assert library.facts.isa.decode() in (isa, "avx512") and library.facts.half_precision == (
                precision == "bf16"
            )
            assert json.loads(library.metadata) == report.metadata
            np.testing.assert_array_max_ulp(library.embed(images), expected, maxulp=1)


def test_thresholds_and_space(analyzer: FaceAnalyzer, model_file: Path) -> None:
    calibration = analyzer.calibration
    assert calibration is not None
    with LibraryModel(model_file) as library:
        assert library.thresholds == [(point.threshold, point.far) for point in calibration.points]
        assert library.thresholds[library.facts.default_threshold][1] == calibration.default_far
        assert bytes(library.facts.space).hex() == calibration.weights_sha256


@pytest.mark.parametrize("isa", available_isas())
def test_faces_are_the_analyzers(isa: str, analyzer: FaceAnalyzer, model_file: Path) -> None:
    scene = check_scene()
    pictures = {
        "two": scene,
        "lying": np.ascontiguousarray(np.rot90(scene)),
        "tilted": cv2.warpAffine(scene, cv2.getRotationMatrix2D((240, 150), 40, 1), (480, 300)),
        "large": np.asarray(cv2.resize(scene, None, fx=2.5, fy=2.5, interpolation=cv2.INTER_CUBIC)),
        "one pixel": scene[:1, :1].copy(),
        "no face": np.full((90, 120, 3), 7, np.uint8),
        "strided": scene[3:-2, 5:-9],
    }
    if isa == "scalar":
        pictures = {name: pictures[name] for name in ("two", "strided")}
    with forced_isa(isa), LibraryModel(model_file, isa=isa) as library:
        for name, picture in pictures.items():
            expected = [face for face in analyzer.analyze(picture) if face.doubt is None]
            faces, embeddings, found = library.analyze(picture)
            assert found == len(faces) == len(expected), name
            mirrored, others, _ = library.analyze(np.ascontiguousarray(picture[..., ::-1]), "bgr")
            assert np.array_equal(mirrored, faces) and np.array_equal(others, embeddings), name
            for face, embedding, other in zip(faces, embeddings, expected, strict=True):
                assert face["box"].tolist() == np.float32(other.box).tolist(), name
                assert np.array_equal(face["landmarks"], other.landmarks.astype(np.float32)), name
                assert face["score"] == np.float32(other.score) and face["turn"] == other.turn, name
                assert abs(face["quality"] - other.quality) < 1e-6, name
                assert np.abs(embedding - other.embedding).max() < 1e-6, name


def test_real_photos(analyzer: FaceAnalyzer, model_file: Path, shared_dir: Path) -> None:
    photos = sorted((shared_dir / "data" / "photos").glob("*.jpg"))[:12]
    if not photos:
        pytest.skip("no photos")
    with LibraryModel(model_file, max_photo_side=256) as library:
        for path in photos:
            photo = read_image(path)
            expected = [face for face in analyzer.analyze(photo) if face.doubt is None]
            faces, embeddings, _ = library.analyze(photo)
            assert [face["box"].tolist() for face in faces] == [
                np.float32(face.box).tolist() for face in expected
            ]
            for embedding, face in zip(embeddings, expected, strict=True):
                assert face.embedding is not None and np.abs(embedding - face.embedding).max() < 1e-6


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1), (2, 5)], ids=str)
def test_formats(size: tuple[int, int], model_file: Path, crops: ImageArray) -> None:
    """Grey and planes of luma and chroma are what OpenCV makes of them, within rounding of its own."""
    random = np.random.default_rng(0)
    with LibraryModel(model_file, crops_only=True) as library:
        grey = np.ascontiguousarray(crops[..., 1])
        same = library.embed(np.repeat(grey[..., None], 3, axis=3))
        assert np.array_equal(library.embed(grey, "grey"), same)
        for name, code in (("nv12", cv2.COLOR_YUV2RGB_NV12), ("nv21", cv2.COLOR_YUV2RGB_NV21)):
            planes = random.integers(0, 256, (168, 112), dtype=np.uint8)
            planes[:112] = grey[0]
            planes[112:] = planes[112:] // 8 + 112
            pixels = cv2.cvtColor(planes, code)
            found = library.embed(planes[None], name)[0]
            assert found @ library.embed(pixels[None])[0] > 0.9999
    height, width = size
    with LibraryModel(model_file, max_photo_side=64) as library:
        planes = random.integers(0, 256, (height + (height + 1) // 2, width + width % 2), dtype=np.uint8)
        library.analyze(planes[:height, :width], "grey")


def test_capacity(model_file: Path) -> None:
    with LibraryModel(model_file) as library:
        faces, embeddings, found = library.analyze(check_scene(), capacity=1)
        assert (len(faces), len(embeddings), found) == (1, 1, 2)


def test_what_is_refused(model_file: Path, tmp_path: Path, crops: ImageArray) -> None:
    with pytest.raises(PocketNetError, match=r"instruction set 'mmx' is not available here; .*scalar"):
        LibraryModel(model_file, isa="mmx")
    with pytest.raises(PocketNetError, match=f"{tmp_path}/none.pnf: No such file"):
        LibraryModel(tmp_path / "none.pnf")
    script = tmp_path / "model.pnf"
    script.write_bytes(b"PK\x03\x04 a TorchScript file")
    with pytest.raises(PocketNetError, match=r"not a \.pnf file"):
        LibraryModel(script)
    whole = model_file.read_bytes()
    for damage, words in (
        (whole[:-1], "it has .* bytes and states"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "another SHA-256 than it states"),
        (whole[:8] + b"\x09" + whole[9:], "version 9; this library reads version 1"),
    ):
        with pytest.raises(PocketNetError, match=words):
            LibraryModel(damage)
    with pytest.raises(PocketNetError, match="its network is missing"):
        LibraryModel(file_content({SECTIONS["facts"]: _facts(whole)}))
    with (
        LibraryModel(model_file, max_photo_side=100) as library,
        pytest.raises(PocketNetError, match=r"480 x 300 pixels; the largest side is 100"),
    ):
        library.analyze(check_scene())
    with (
        LibraryModel(model_file, crops_only=True) as library,
        pytest.raises(PocketNetError, match="made for crops only"),
    ):
        library.analyze(check_scene())
    with (
        LibraryModel(model_file) as library,
        pytest.raises(PocketNetError, match="a crop: 100 x 112 pixels; expected 112 x 112"),
    ):
        library.embed(np.ascontiguousarray(crops[:, :, :100]))


def _facts(content: bytes) -> bytes:
    """The first section of a file."""
    offset, size = (int.from_bytes(content[at : at + 8], "little") for at in (72, 80))
    return content[offset : offset + size]


class TestCommand:
    def test_photos(self, tmp_path: Path) -> None:
        path = tmp_path / "faces.pnf"
        arguments = ["export", "--photos", "--max-faces", "1", "--far", "1e-3", "--json", "-o", str(path)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert report["metadata"]["format"] == "pocketnet_fast.pnf" and report["bytes"] == path.stat().st_size
        with LibraryModel(path) as library:
            assert library.thresholds[library.facts.default_threshold][1] == 1e-3
            assert library.analyze(check_scene())[2] == 1
        assert str(ROOT).encode() not in path.read_bytes()

    def test_crops(self, tmp_path: Path) -> None:
        path = tmp_path / "m.bin"
        options = ["--format", "pnf", "--precision", "bf16", "--no-flip", "-o", str(path)]
        result = CliRunner().invoke(app, ["export", *options])
        assert result.exit_code == 0, result.output
        with LibraryModel(path, crops_only=True) as library:
            assert library.facts.takes_photos == 0 and not json.loads(library.metadata)["adds_mirror_image"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--kernels", "aten"], "a .pnf file is for the fused kernels"),
            (["--input", "uint8"], "--input and --color are for the other formats"),
            (["--model", "iresnet18", "--untrained"], "no fused form|has no fused"),
            (["--device", "cuda"], "--device belongs to"),
        ],
    )
    def test_refused(self, options: list[str], words: str, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["export", *options, "-o", str(tmp_path / "m.pnf")])
        assert result.exit_code == 2 or result.exception is not None
        text = result.output + str(result.exception)
        assert any(word in text for word in words.split("|")), text
        assert list(tmp_path.iterdir()) == []


def test_native(model_file: Path, tmp_path: Path) -> None:
    """The whole path of a photo takes no memory, and is survived where there is none."""
    pixels = check_scene()[60:240, 40:220].copy()
    pixels.tofile(tmp_path / "pixels")
    program = release_build() / "csrc" / "tests" / "library_test"
    run(program, model_file, tmp_path / "pixels", *map(str, pixels.shape[:2]))


@pytest.fixture(scope="module")
def programs() -> Path:
    return cmake_build(
        "c-library-examples", ROOT / "examples" / "c_library", f"-DCMAKE_PREFIX_PATH={prefix_path()}"
    )


class TestExamples:
    def test_verify(self, programs: Path, model_file: Path, tmp_path: Path) -> None:
        scene = check_scene()
        for name, picture in (("one", scene[:, :230]), ("same", scene[5:, 8:230]), ("other", scene[:, 250:])):
            cv2.imwrite(str(tmp_path / f"{name}.ppm"), picture[..., ::-1])
        (tmp_path / "none.ppm").write_bytes(b"P6 2 2 255\n" + bytes(11))

        def verify(*names: str) -> tuple[int, str]:
            paths = [tmp_path / f"{name}.ppm" for name in names]
            done = subprocess.run(
                [programs / "verify", model_file, *paths], capture_output=True, text=True, check=False
            )
            return done.returncode, done.stdout + done.stderr

        assert verify("one", "same")[0] == 0
        code, text = verify("one", "other")
        assert code == 1 and "different people at" in text
        assert verify("one", "none") == (2, verify("one", "none")[1])
        assert "not a binary PPM file" in verify("one", "none")[1]

    def test_embed(self, programs: Path, model_file: Path, crops: ImageArray, tmp_path: Path) -> None:
        crops[0].tofile(tmp_path / "crop.rgb")
        done = subprocess.run(
            [programs / "embed", model_file, tmp_path / "crop.rgb"],
            capture_output=True,
            text=True,
            check=True,
        )
        with LibraryModel(model_file, crops_only=True) as library:
            np.testing.assert_allclose(
                np.fromstring(done.stdout, sep=" "), library.embed(crops[:1])[0], atol=1e-6
            )


def current_abi(folder: Path) -> dict[str, object]:
    """What programs that are built already rely on: names, values, and where members lie."""
    lines = [
        f'printf("{name}.{member} %zu\\n", offsetof({name}, {member}));'
        for name, members in STRUCTURES.items()
        for member in members.split()
    ]
    lines += [f'printf("{name} %zu\\n", sizeof({name}));' for name in STRUCTURES]
    header = (installed_library().parents[1] / "include" / "pocketnet.h").read_text()
    values = sorted(set(re.findall(r"\bPOCKETNET_[A-Z0-9_]+\b", header)) - {"POCKETNET_H", "POCKETNET_API"})
    lines += [f'printf("{name} %d\\n", (int){name});' for name in values]
    source = folder / "layout.c"
    source.write_text(
        "#include <pocketnet.h>\n#include <stdio.h>\nint main(void) {\n"
        + "\n".join(lines)
        + "\nreturn 0;\n}\n"
    )
    include = installed_library().parents[1] / "include"
    program = folder / "layout"
    run(
        tool("cc"),
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-pedantic",
        "-Werror",
        f"-I{include}",
        source,
        "-o",
        program,
    )
    layout = dict(line.rsplit(maxsplit=1) for line in run(program).splitlines())
    symbols = run(tool("nm"), "-D", "--defined-only", installed_library()).splitlines()
    names = sorted(line.split()[-1].split("@")[0] for line in symbols if " T " in line or " D " in line)
    return {"symbols": names, "layout": {name: int(value) for name, value in layout.items()}}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sizes are recorded for 64-bit machines")
def test_abi(tmp_path: Path) -> None:
    """``python tests/test_library.py`` records a change that adds; one that breaks is another version."""
    content = current_abi(tmp_path)
    assert content == json.loads(ABI.read_text()), json.dumps(content, indent=1)


def test_loads_alone() -> None:
    """Without torch, and with the C++ library as its only company."""
    needed = run(tool("readelf"), "-d", installed_library())
    libraries = {line.split("[")[1].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line}
    assert libraries <= {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2"}
    code = f"import ctypes; print(ctypes.CDLL({str(installed_library())!r}).pocketnet_version())"
    done = subprocess.run(["python3", "-I", "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == ctypes.CDLL(str(installed_library())).pocketnet_version()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        ABI.write_text(json.dumps(current_abi(Path(made)), indent=1) + "\n")

"""The browser's package: its results against Python's, its errors, its page and its example."""

from __future__ import annotations

import base64
import functools
import gzip
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from chromium import choose, chromium, wait_for, watched
from native import ROOT, run, tool, wasm_build

from pocketnet_fast import FaceAnalyzer, __version__
from pocketnet_fast.data.images import ImageArray, encode_image, read_image
from pocketnet_fast.data.synthetic import render_identity
from pocketnet_fast.export.libpocketnet import LibraryModel
from pocketnet_fast.export.library_file import export_library_file
from pocketnet_fast.export.photos import check_scene
from pocketnet_fast.ops.native import available_isas

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow(seconds=60)

WEB = ROOT / "web"
MODULES = {"wasm128": "pocketnet.wasm", "wasm128_relaxed": "pocketnet_relaxed.wasm"}
MOST_COMPRESSED = 250_000


@dataclass(frozen=True)
class Package:
    folder: Path
    file: Path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The package as it is published, and the page's network beside it."""
    folder = tmp_path_factory.mktemp("web") / "pocketnet-fast"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("wasm", "node_modules", "faces.pnf"))
    shutil.copytree(wasm_build(), folder / "wasm")
    return Package(folder, export_library_file(FaceAnalyzer(), folder / "faces.pnf").path)


@pytest.fixture(scope="module")
def photos(request: pytest.FixtureRequest) -> list[ImageArray]:
    """Rendered faces, upright and not, and where there are any, real ones."""
    scene = check_scene()
    shared: Path = request.getfixturevalue("shared_dir")
    real = sorted((shared / "data" / "photos").glob("*.jpg"))[:8]
    return [scene, np.ascontiguousarray(np.rot90(scene)), *map(read_image, real)]


@pytest.fixture(scope="module")
def crops() -> ImageArray:
    return np.stack([render_identity(0, identity, 0) for identity in range(3)])


def written(images: list[ImageArray], folder: Path) -> list[tuple[str, int, int]]:
    """Files of the images' pixels, with their sizes."""
    folder.mkdir()
    for i, image in enumerate(images):
        image.tofile(folder / str(i))
    return [(str(folder / str(i)), image.shape[1], image.shape[0]) for i, image in enumerate(images)]


def check_against_python(
    answer: dict[str, Any], isa: str, package: Package, crops: ImageArray, photos: list[ImageArray]
) -> None:
    """Within 1e-5 of kernels that round as these do, each product or not.

    Where others round otherwise, a pixel of a crop may become the next value, and bounds would hide more.
    """
    with LibraryModel(package.file, isa=isa) as library:
        assert answer["thresholds"] == [
            {"cosine": cosine, "falseAcceptRate": rate} for cosine, rate in library.thresholds
        ]
        assert answer["info"]["metadata"] == json.loads(library.metadata)
        assert answer["info"]["space"] == bytes(library.facts.space).hex()
        np.testing.assert_allclose(answer["crops"], library.embed(crops), rtol=0, atol=1e-5)
        assert len(answer["photos"]) == len(photos)
        for photo, found in zip(photos, answer["photos"], strict=True):
            faces, embeddings, count = library.analyze(photo)
            assert count == len(found) == len(faces)
            for face, embedding, other in zip(faces, embeddings, found, strict=True):
                for name in ("box", "landmarks"):
                    np.testing.assert_allclose(other[name], face[name], rtol=1e-5, atol=1e-5)
                for name in ("score", "quality"):
                    assert abs(other[name] - face[name]) < 1e-5
                assert other["turn"] == face["turn"]
                np.testing.assert_allclose(other["embedding"], embedding, rtol=0, atol=1e-5)
    assert sum(map(len, answer["photos"])) >= 4


def rounding_as(module: str) -> str:
    """The instruction set of this machine that rounds as a module does here."""
    fused = [isa for isa in ("avx2", "neon") if isa in available_isas()]
    return "scalar" if module == "wasm128" or not fused else fused[0]


def test_in_node(package: Package, crops: ImageArray, photos: list[ImageArray], tmp_path: Path) -> None:
    requests = tmp_path / "requests.json"
    given = {
        "crops": written(list(crops), tmp_path / "crops"),
        "photos": written(photos, tmp_path / "photos"),
    }
    requests.write_text(json.dumps(given))
    program = ROOT / "tests" / "web" / "run.mjs"
    answer = json.loads(run(tool("node"), program, package.folder, package.file, requests))
    assert answer["info"]["isa"] in MODULES
    check_against_python(answer, rounding_as(answer["info"]["isa"]), package, crops, photos)


@pytest.mark.parametrize("module", MODULES.values())
def test_size(package: Package, module: str) -> None:
    content = (package.folder / "wasm" / module).read_bytes()
    assert len(gzip.compress(content, 9)) < MOST_COMPRESSED
    assert str(ROOT).encode() not in content


class Requests(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012 - as the base class has it
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(package: Package) -> Iterator[str]:
    handler = functools.partial(Requests, directory=str(package.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def opened(page: Page, address: str) -> None:
    """Goes to the page and waits for its network."""
    page.goto(f"{address}/index.html")
    wait_for(page, "#verdict", "Choose two photos")


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page; fails its test where it logs an error, breaks its policy or asks anyone else."""
    with watched(browser, timeout=60_000) as watch:
        opened(watch.page, address)
        yield watch.page
    assert watch.wrong == []
    assert watch.hosts <= {address, "data:"}


# Opens the package's model as `options` say, does `body` with it, and answers what that returns or the error.
OPENED = """async ([options, given]) => {
  const { PocketNet, PocketNetError, compare } = await import("/src/pocketnet.js");
  const image = ([data, width, height]) =>
    ({ data: Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), width, height });
  const plain = (face) => ({ ...face, embedding: Array.from(face.embedding) });
  try {
    const model = await PocketNet.open(options.content ?? "/faces.pnf", options);
    BODY
  } catch (error) {
    if (!(error instanceof PocketNetError)) throw error;
    return { status: error.status, message: error.message };
  }
}"""


def evaluate(page: Page, body: str, options: dict[str, Any], given: object = None) -> Any:
    return page.evaluate(OPENED.replace("BODY", body), [options, given])


def sent(image: ImageArray) -> tuple[str, int, int]:
    return base64.b64encode(np.ascontiguousarray(image)).decode(), image.shape[1], image.shape[0]


@pytest.mark.parametrize("worker", [False, True], ids=["page", "worker"])
@pytest.mark.parametrize("module", MODULES)
def test_in_chromium(
    module: str, worker: bool, page: Page, package: Package, crops: ImageArray, photos: list[ImageArray]
) -> None:
    body = """
    const answer = { info: model.info, thresholds: model.thresholds, photos: [] };
    answer.crops = (await model.embed(given.crops.map(image))).map((row) => Array.from(row));
    for (const photo of given.photos) answer.photos.push((await model.analyze(image(photo))).map(plain));
    model.close();
    return answer;"""
    options = {"relaxed": module.endswith("relaxed"), "worker": worker}
    given = {"crops": [*map(sent, crops)], "photos": [*map(sent, photos)]}
    answer = evaluate(page, body, options, given)
    assert answer["info"]["isa"] == module
    check_against_python(answer, rounding_as(module), package, crops, photos)


def test_relaxed_is_chosen_where_it_is(page: Page) -> None:
    assert evaluate(page, "return model.info.isa;", {"cropsOnly": True}) == "wasm128_relaxed"


def test_an_engine_without_vectors_is_refused(page: Page) -> None:
    page.evaluate("() => { WebAssembly.validate = () => false; }")
    assert evaluate(page, "return null;", {}) == {
        "status": "UNSUPPORTED",
        "message": "this WebAssembly engine has no 128-bit SIMD",
    }


def test_pixels_of_a_canvas(page: Page, crops: ImageArray) -> None:
    """Four bytes a pixel give what three do, whatever the alpha."""
    body = "const [one, other] = await model.embed(given.map(image)); return compare(one, other);"
    alpha = np.arange(112 * 112, dtype=np.uint8).reshape(112, 112, 1)
    given = [sent(crops[0]), sent(np.concatenate([crops[0], alpha], axis=2))]
    assert evaluate(page, body, {"cropsOnly": True}, given) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("worker", [False, True], ids=["page", "worker"])
@pytest.mark.parametrize(
    ("options", "body", "status", "words"),
    [
        ({"maxPhotoSide": 100000}, "", "INVALID_ARGUMENT", "max_photo_side is 100000; the most is 16384"),
        ({"maxPhotoSide": 100}, "await model.analyze(given);", "LIMIT", "the largest side is 100"),
        ({"cropsOnly": True}, "await model.analyze(given);", "UNSUPPORTED", "made for crops only"),
        ({"maxPhotoSide": 0.5}, "", "INVALID_ARGUMENT", "maxPhotoSide is 0.5; expected a whole number"),
        ({}, "await model.embed(given);", "LIMIT", "a crop: 120 x 2 pixels; the largest side is 112"),
        ({}, "await model.embed({...given, width: 7});", "INVALID_ARGUMENT", "7 x 2 pixels has 960 bytes"),
        ({}, "await model.embed(null);", "INVALID_ARGUMENT", "an image is {data, width, height}"),
        ({}, "await model.analyze(given, {maxFaces: 0});", "INVALID_ARGUMENT", "maxFaces is 0"),
        ({}, "model.close(); await model.embed(given);", "INVALID_ARGUMENT", "the model is closed"),
        ({}, "compare([1], [1, 2]);", "INVALID_ARGUMENT", "embeddings of 1 and of 2 numbers"),
        ({}, "compare([0], [1]);", "INVALID_ARGUMENT", "an embedding of no length"),
        ({"content": "/index.html"}, "", "BAD_FILE", r"not a \.pnf file"),
    ],
)
def test_what_is_refused(
    options: dict[str, Any], body: str, status: str, words: str, worker: bool, page: Page
) -> None:
    strip = "given = { data: new Uint8Array(960), width: 120, height: 2 };"
    answer = evaluate(page, strip + body, {**options, "worker": worker})
    assert answer is not None and answer["status"] == status
    assert re.search(words, answer["message"])


def test_damage(page: Page, package: Package) -> None:
    whole = package.file.read_bytes()
    body = "return null;"
    code = OPENED.replace("options.content", "image(given).data").replace("BODY", body)
    for damaged, words in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "another SHA-256"),
        (whole[:100], "bytes and states"),
        (b"", r"not a \.pnf file"),
    ):
        answer = page.evaluate(code, [{}, [base64.b64encode(damaged).decode(), 0, 0]])
        assert answer["status"] == "BAD_FILE" and re.search(words, answer["message"])


def test_closing_refuses_what_waits(page: Page) -> None:
    body = """
    const photo = { data: new Uint8Array(3 * 640 * 480), width: 640, height: 480 };
    const waiting = model.analyze(photo);
    model.close();
    await waiting;"""
    answer = evaluate(page, body, {"worker": True})
    assert answer == {"status": "INTERNAL", "message": "the model is closed"}


def file_of(photo: ImageArray) -> dict[str, Any]:
    """A picture as a file chooser gives it."""
    return {"name": "photo.png", "mimeType": "image/png", "buffer": encode_image(photo, ".png")}


class TestPage:
    def test_decision(self, page: Page, package: Package, shared_dir: Path) -> None:
        """Of every pair of real photos where there are some, else of rendered ones."""
        folder = shared_dir / "data" / "photos"
        pairs = [("00a.jpg", "00b.jpg"), ("00a.jpg", "01b.jpg")]
        scene = check_scene()
        pictures = (
            [(read_image(folder / one), read_image(folder / other)) for one, other in pairs]
            if folder.is_dir()
            else [(scene[:, :230], scene[5:, 8:230]), (scene[:, :230], scene[:, 250:])]
        )
        verdicts = []
        with LibraryModel(package.file) as library:
            threshold = library.thresholds[library.facts.default_threshold][0]
            for pair in pictures:
                one, other = (library.analyze(np.ascontiguousarray(photo))[1][0] for photo in pair)
                cosine = float(one @ other)
                page.reload()
                for which, photo in enumerate(pair):
                    choose(page, which, file_of(photo))
                wait_for(page, "#figures", f"Cosine {cosine:.3f}")
                wait_for(page, "#figures", f"rate of 1 in 10,000 is {threshold:.3f}")
                verdicts.append(page.locator("#verdict").text_content())
                expected = "The same person" if cosine >= threshold else "Two different people"
                assert verdicts[-1] == expected
        assert set(verdicts) == {"The same person", "Two different people"}

    def test_rate(self, page: Page) -> None:
        choose(page, 0, file_of(check_scene()))
        choose(page, 1, file_of(check_scene()))
        wait_for(page, "#verdict", "The same person")
        page.get_by_label("take for one person at most").select_option("1 in 1,000")
        wait_for(page, "#figures", "rate of 1 in 1,000 is")

    def test_faces_are_drawn(self, page: Page, package: Package) -> None:
        scene = check_scene()
        choose(page, 0, file_of(scene))
        wait_for(page, ".note", "2 faces found; the most prominent is compared")
        picture = page.locator("section canvas").first.evaluate("(canvas) => canvas.toDataURL()")
        data = np.frombuffer(base64.b64decode(picture.split(",")[1]), np.uint8)
        drawn = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)
        with LibraryModel(package.file) as library:
            faces, _, _ = library.analyze(scene)
        for face, colour in zip(faces, ((0x36, 0xE0, 0xCF), (0xFF, 0xD1, 0x66)), strict=True):
            for x, y in face["landmarks"]:
                assert np.abs(drawn[round(float(y)), round(float(x))] - colour).max() < 40
        assert page.get_by_role("img", name="First photo: 2 faces found").count() == 1

    def test_no_face_means_no_comparison(self, page: Page) -> None:
        choose(page, 0, file_of(np.zeros((60, 80, 3), np.uint8)))
        wait_for(page, ".note", "No faces found")
        choose(page, 1, file_of(check_scene()))
        wait_for(page, "section:nth-of-type(2) .note", "2 faces found")
        assert page.locator("#verdict").text_content() == "Choose another photo"

    def test_what_is_no_picture(self, page: Page) -> None:
        files = [{"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}]
        page.locator("input[type=file]").first.set_input_files(files)
        wait_for(page, "[role=alert]", "This browser cannot read the file as a picture.")

    def test_camera(self, page: Page) -> None:
        page.get_by_role("button", name="Use the camera (first photo)").click()
        page.wait_for_function("() => document.querySelector('video').videoWidth > 0")
        page.get_by_role("button", name="Take the picture").click()
        wait_for(page, ".note", "found")
        assert page.evaluate("document.querySelector('video').srcObject") is None, "the camera is still on"

    def test_policy(self, browser: Browser, address: str) -> None:
        text = (WEB / "index.html").read_text()
        assert "unsafe-inline" not in text and "'unsafe-eval'" not in text
        assert not re.search(r"\s(on[a-z]+|style)=", text), "attributes that the policy forbids"
        context = browser.new_context()
        page = context.new_page()
        opened(page, address)
        blocked = page.evaluate(
            """new Promise((resolve) => {
              addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
              fetch("http://127.0.0.2:9/").catch(() => {});
            })"""
        )
        context.close()
        assert blocked == "connect-src"


@pytest.fixture(scope="module")
def example(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with the package installed beside it."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(ROOT / "examples" / "javascript", folder, dirs_exist_ok=True)
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "pocketnet-fast").symlink_to(package.folder)
    return folder / "verify.js"


def test_example(example: Path, package: Package, tmp_path: Path) -> None:
    scene = check_scene()
    for name, picture in (("one", scene[:, :230]), ("same", scene[5:, 8:230]), ("other", scene[:, 250:])):
        cv2.imwrite(str(tmp_path / f"{name}.ppm"), picture[..., ::-1])
    (tmp_path / "none.ppm").write_bytes(b"P6 2 2 255\n" + bytes(12))
    (tmp_path / "short.ppm").write_bytes(b"P6 2 2 255\n" + bytes(11))

    def verify(*names: str) -> tuple[int, str]:
        paths = [tmp_path / f"{name}.ppm" for name in names]
        done = subprocess.run(
            [tool("node"), example, package.file, *paths], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, text = verify("one", "same")
    assert code == 0 and "the same person at" in text
    code, text = verify("one", "other")
    assert code == 1 and "different people at" in text
    for name, words in (("none", "no face"), ("short", "has 11 bytes; expected 4 or 3 a pixel")):
        code, text = verify("one", name)
        assert code == 2 and words in text


class TestPackage:
    def test_versions_agree(self) -> None:
        assert json.loads((WEB / "package.json").read_text())["version"] == __version__

    def test_what_is_published(self, package: Package) -> None:
        (packed,) = json.loads(run(tool("npm"), "pack", "--dry-run", "--json", "--silent", package.folder))
        files = {entry["path"] for entry in packed["files"]}
        assert {f"wasm/{name}" for name in MODULES.values()} <= files
        assert {"package.json", "README.md", "NOTICE"} <= files
        assert {f"src/{name}" for name in ("pocketnet.js", "index.d.ts", "worker.js")} <= files
        assert not any(path.endswith((".pnf", ".html")) for path in files)

    def test_types(self, package: Package) -> None:
        """What is declared is what the sources are, and these are right by their own types."""
        npm = tool("npm")
        folder = Path(tempfile.gettempdir()) / "pocketnet_fast-typescript"
        compiler = folder / "node_modules" / ".bin" / "tsc"
        if not compiler.exists():
            installed = subprocess.run(
                [npm, "install", "--silent", "--prefix", folder, "typescript", "@types/node"],
                capture_output=True,
                text=True,
                check=False,
            )
            if installed.returncode != 0:
                pytest.skip(f"npm cannot install typescript: {(installed.stdout + installed.stderr)[-200:]}")
        run(compiler, "--project", WEB, "--typeRoots", folder / "node_modules" / "@types")


def test_benchmark_says_what_it_takes() -> None:
    assert "usage: " in run(tool("node"), ROOT / "benchmarks" / "web.mjs", "--help")

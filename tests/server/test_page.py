"""The service's page in a browser: what it draws, decides, sends and keeps to itself."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from chromium import choose, chromium, wait_for, watched
from fake_service import FakeService, faces_of
from forms import multipart
from running import Service, running

from pocketnet_fast.data.images import decode_image, encode_image
from pocketnet_fast.export.photos import check_scene

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow(seconds=25)

WEB = Path(__file__).resolve().parents[2] / "server" / "web"
COMPARED = np.array([0x36, 0xE0, 0xCF])
PROBLEM = "the body is no image of a kind that is read: jpeg, png, webp"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def fake() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


@pytest.fixture(scope="module")
def service(faces_pt: Path) -> Iterator[Service]:
    with running(faces_pt) as service:
        yield service


@pytest.fixture(params=["stand-in", "service"])
def server_url(request: pytest.FixtureRequest, fake: FakeService) -> str:
    """Where the page and what it asks for are; no test that takes this knows who answers."""
    return fake.url if request.param == "stand-in" else request.getfixturevalue("service").url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails its test where it logs an error, breaks its policy or asks anyone else."""
    with watched(browser, timeout=10_000) as watch:
        yield watch.page
        here = re.sub(r"/$", "", watch.page.evaluate("location.origin"))
    # A status that says no is logged by the browser, too; those the tests look at themselves.
    assert [line for line in watch.wrong if "the server responded with a status of" not in line] == []
    assert watch.hosts <= {here, "data:", "blob:"}


def photo(name: str = "a.png", width: int = 480) -> dict[str, Any]:
    """A picture of two rendered faces, as a file chooser gives it."""
    scene = check_scene()
    size = (width, scene.shape[0] * width // scene.shape[1])
    data = encode_image(np.asarray(cv2.resize(scene, size)), Path(name).suffix)
    return {"name": name, "mimeType": f"image/{Path(name).suffix[1:]}", "buffer": data}


def canvas_pixels(page: Page, which: int) -> np.ndarray:
    """H x W x 3."""
    address = page.locator("section canvas").nth(which).evaluate("(canvas) => canvas.toDataURL()")
    return decode_image(base64.b64decode(address.split(",")[1]))


def asked_directly(url: str, file: dict[str, Any], far: str) -> dict[str, Any]:
    """What the service says of a photo and itself."""
    body, kind = multipart({"a": file["buffer"], "b": file["buffer"]})
    request = urllib.request.Request(f"{url}/v1/verify?far={far}", body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_policy_allows_what_the_page_has() -> None:
    spec = importlib.util.spec_from_file_location("hashes", WEB / "hashes.py")
    assert spec is not None and spec.loader is not None
    hashes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hashes)
    text = (WEB / "index.html").read_text()
    assert hashes.with_hashes(text) == text, "run python server/web/hashes.py"
    assert "unsafe" not in text
    assert not re.search(r"\son[a-z]+=|\sstyle=", text), "attributes that the policy forbids"


def test_two_photos_give_a_decision(page: Page, server_url: str) -> None:
    page.goto(server_url)
    choose(page, 0, photo())
    wait_for(page, "#verdict", "another photo")
    choose(page, 1, photo("b.png"))
    for far, words in (("0.0001", "1 in 10,000"), ("0.001", "1 in 1,000")):
        page.get_by_label("take for one person at most").select_option(far)
        wait_for(page, "#figures", words)
        expected = asked_directly(server_url, photo(), far)
        figures = page.locator("#figures").text_content()
        assert f"Cosine {expected['cosine']:.3f}" in figures
        assert f"is {expected['threshold']:.3f}." in figures
        verdict = "The same person" if expected["same"] else "Two different people"
        assert page.locator("#verdict").text_content() == verdict


def test_rate_changes_the_decision(page: Page, fake: FakeService) -> None:
    page.goto(fake.url)
    choose(page, 0, photo())
    choose(page, 1, photo())
    wait_for(page, "#verdict", "The same person")
    page.get_by_label("take for one person at most").select_option("0.00001")
    wait_for(page, "#verdict", "Two different people")
    wait_for(page, "#figures", "1 in 100,000 is 0.490")
    places = page.evaluate(
        "['.mark', 'circle'].map((s) => document.querySelector('#scale ' + s).getBoundingClientRect().x)"
    )
    assert places[1] < places[0], "the cosine lies left of the threshold"


def test_boxes_and_landmarks_are_drawn(page: Page, fake: FakeService) -> None:
    page.goto(fake.url)
    choose(page, 1, photo())
    wait_for(page, "section:nth-of-type(2) .note", "2 faces found; the most prominent is compared")
    pixels = canvas_pixels(page, 1).astype(int)
    height, width = pixels.shape[:2]
    compared, other = faces_of(width, height)
    left, top, side, _ = compared["box"]

    def is_marked(x: float, y: float) -> bool:
        return bool(np.abs(pixels[round(y), round(x)] - COMPARED).max() < 40)

    assert is_marked(left, top + 10) and is_marked(left + side, top + 10)
    assert all(is_marked(x, y) for x, y in compared["landmarks"])
    assert not any(is_marked(x, y) for x, y in other["landmarks"])
    assert not is_marked(left - 8, top + 10)
    named = page.get_by_role("img", name="Second photo: 2 faces found")
    assert named.count() == 1


def test_large_photos_are_sent_smaller(page: Page, fake: FakeService) -> None:
    page.goto(fake.url)
    choose(page, 0, photo("large.jpeg", width=4000))
    wait_for(page, ".note", "2 faces")
    sent = fake.asked_for("/v1/faces")[0]
    assert sent.headers["Content-Type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(sent.body, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (1000, 1600)


def test_small_photos_are_sent_as_they_are(page: Page, fake: FakeService) -> None:
    page.goto(fake.url)
    choose(page, 0, photo())
    wait_for(page, ".note", "2 faces")
    assert fake.asked_for("/v1/faces")[0].body == photo()["buffer"]


def test_no_face_means_no_comparison(page: Page, fake: FakeService) -> None:
    page.goto(fake.url)
    black = encode_image(np.zeros((60, 80, 3), np.uint8), ".png")
    choose(page, 0, photo() | {"buffer": black})
    wait_for(page, ".note", "No faces found")
    choose(page, 1, photo())
    wait_for(page, "section:nth-of-type(2) .note", "2 faces")
    assert page.locator("#verdict").text_content() == "Choose another photo"
    assert fake.asked_for("/v1/verify") == []


def test_what_is_wrong_is_shown(page: Page, fake: FakeService) -> None:
    page.goto(fake.url)
    choose(page, 0, photo() | {"buffer": b"no picture"})
    wait_for(page, "[role=alert]", "This browser cannot read the file as a picture.")
    page.route("**/v1/faces", lambda route: route.fulfill(**refusal()))
    choose(page, 0, photo())
    wait_for(page, "[role=alert]", PROBLEM)
    page.unroute("**/v1/faces")
    choose(page, 0, photo())
    wait_for(page, ".note", "2 faces")
    assert page.locator("[role=alert]").is_hidden()


def refusal() -> dict[str, Any]:
    return {
        "status": 415,
        "content_type": "application/problem+json",
        "body": json.dumps({"status": 415, "detail": PROBLEM}),
    }


def test_the_token_stays_in_memory(page: Page, browser: Browser) -> None:
    with FakeService(token="kept-in-memory") as service:
        page.goto(service.url)
        wait_for(page, "[role=alert]", "the token is missing")
        field = page.get_by_label("Token of this server")
        assert field.is_visible()
        choose(page, 0, photo())
        wait_for(page, ".note", "Not compared")
        field.fill("kept-in-memory")
        field.press("Tab")
        wait_for(page, ".note", "2 faces")
        assert service.asked_for("/v1/faces")[-1].headers["Authorization"] == "Bearer kept-in-memory"
        kept = page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        )
        assert "kept-in-memory" not in kept
        page.reload()
        wait_for(page, "[role=alert]", "the token is missing")
        assert field.input_value() == ""


def test_camera(page: Page, server_url: str) -> None:
    page.goto(server_url)
    page.get_by_role("button", name="Use the camera (first photo)").click()
    page.wait_for_function("() => document.querySelector('video').videoWidth > 0")
    with page.expect_response("**/v1/faces") as answered:
        page.get_by_role("button", name="Take the picture").click()
    assert answered.value.status == 200
    wait_for(page, ".note", "found")
    assert page.locator("section canvas").first.is_visible()
    assert page.evaluate("document.querySelector('video').srcObject") is None, "the camera is still on"


def test_drag_and_drop(page: Page, fake: FakeService) -> None:
    page.goto(fake.url)
    data = page.evaluate_handle(
        "(bytes) => { const data = new DataTransfer();"
        "data.items.add(new File([new Uint8Array(bytes)], 'a.png', {type: 'image/png'})); return data; }",
        list(photo()["buffer"]),
    )
    page.dispatch_event("section .stage", "drop", {"dataTransfer": data})
    wait_for(page, ".note", "2 faces")


def test_keyboard_reaches_everything(page: Page, server_url: str) -> None:
    page.goto(server_url)
    page.wait_for_selector("#far option", state="attached")
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("(({tagName, type, id}) => id || `${tagName} ${type}`)(document.activeElement)")
        )
        ring = page.evaluate(
            "(() => { const e = document.activeElement; const seen = e.closest('.button') ?? e;"
            "return getComputedStyle(seen).outlineStyle; })()"
        )
        assert reached[-1] == "BODY undefined" or ring == "solid", reached
    assert reached[:6] == [
        "INPUT file",
        "BUTTON button",
        "INPUT file",
        "BUTTON button",
        "far",
        "SUMMARY undefined",
    ]


def test_every_control_has_a_name(page: Page, server_url: str) -> None:
    page.goto(server_url)
    page.wait_for_selector("#far option", state="attached")
    tree = page.locator("body").aria_snapshot()
    for name in ("Choose a photo (first photo)", "Choose a photo (second photo)"):
        assert f'button "{name}"' in tree
    assert 'combobox "Of pairs of strangers, take for one person at most"' in tree
    assert not re.search(r"- (button|textbox|combobox)(:|$)", tree, re.MULTILINE), tree


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(page: Page, server_url: str, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(server_url)

    def brightness(selector: str, style: str) -> float:
        colour = page.locator(selector).first.evaluate(f"(e) => getComputedStyle(e).{style}")
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    ground = brightness("body", "backgroundColor")
    assert (ground > 0.5) == (scheme == "light")
    # The contrast that WCAG asks for, of 4.5.
    for text, behind in (("h1", "body"), (".quiet", "body"), ("#verdict", ".card"), (".note", ".card")):
        shades = sorted([brightness(text, "color"), brightness(behind, "backgroundColor")])
        assert (shades[1] + 0.05) / (shades[0] + 0.05) >= 4.5, text
    button = sorted([brightness(".button", "color"), brightness(".button", "backgroundColor")])
    assert (button[1] + 0.05) / (button[0] + 0.05) >= 4.5

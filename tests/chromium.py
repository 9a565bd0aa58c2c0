"""Debian's Chromium for tests of pages: started, given files, and waited for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from native import tool

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# It asks nobody but the pages that tests open, and its camera is a moving picture that needs no consent.
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser while it runs; skips the test where it or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = tool("chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Watched:
    """A page, what it logged as errors and warnings, and the origins that it asked."""

    page: Page
    wrong: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


@contextmanager
def watched(browser: Browser, *, timeout: float) -> Iterator[Watched]:
    """A page of a browser that has nothing stored; ``timeout`` is in milliseconds."""
    context = browser.new_context(viewport={"width": 1100, "height": 1000})
    watch = Watched(context.new_page())
    page, wrong, hosts = watch.page, watch.wrong, watch.hosts
    page.set_default_timeout(timeout)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
    page.on("request", lambda request: hosts.add(re.sub(r"^([a-z]+:(//[^/]*)?).*", r"\1", request.url)))
    yield watch
    context.close()


def choose(page: Page, which: int, file: dict[str, Any]) -> None:
    """Give the page's ``which``-th file chooser a file: ``name``, ``mimeType`` and ``buffer``."""
    page.locator("input[type=file]").nth(which).set_input_files([file])


def wait_for(page: Page, selector: str, text: str) -> None:
    """Wait until the first element of a selector holds a text."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).textContent.includes(text)",
        arg=[selector, text],
    )

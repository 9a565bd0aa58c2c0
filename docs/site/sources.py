"""Pages for what the documentation links to outside of its folder: sources, and folders of them.

Pages link to `../include/pocketnet.h` as GitHub follows it. In the site the same link leads to
`sources/include/pocketnet.h.md`, a page of that file, so that the site needs no other host.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# A code block or span, which is left alone, or the target of a link.
_LINKS: Final = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)\s*$|(?P<tick>`+)[^\n]*?(?P=tick))|"
    r"\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES: Final = {
    ".c": "c", ".cpp": "cpp", ".h": "cpp", ".hpp": "cpp", ".inl": "cpp", ".py": "python", ".js": "js",
    ".ts": "ts", ".json": "json", ".toml": "toml", ".cmake": "cmake", ".conf": "nginx", ".service": "ini",
    ".html": "html", ".css": "css", ".sql": "sql", ".sh": "sh",
}  # fmt: skip
_TEXTS: Final = {"", ".txt", ".md", *_LANGUAGES}
# Built or installed there, not part of the sources.
_LEFT_OUT: Final = {"__pycache__", "node_modules", "wasm", "build"}
_FOLDER: Final = "sources"


class SourcePages:
    """The files and folders outside of the documentation that its pages lead to, directly or by others."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._docs = ""
        self._paths: set[str] = set()

    def collect(self, docs: Path) -> None:
        """Find every link that leaves the folder of the documentation."""
        self._docs = docs.relative_to(self._root).as_posix()
        self._paths = {"CONTRIBUTING.md"}
        waiting = [page for page in docs.rglob("*.md") if "site" not in page.relative_to(docs).parts[:1]]
        waiting.append(self._root / "CONTRIBUTING.md")
        while waiting:
            page = waiting.pop()
            for target in _targets(page.read_text(encoding="utf-8")):
                path = self._outside(page.parent.relative_to(self._root).as_posix(), target)
                if path is not None and path not in self._paths:
                    self._paths.add(path)
                    if path.endswith(".md"):
                        waiting.append(self._root / path)

    def pages(self) -> Iterator[tuple[str, str]]:
        """The address and the text of each page."""
        for path in sorted(self._with_content()):
            yield _address(path), self._text(path)

    def redirected(self, markdown: str, address: str) -> str:
        """A page's text with the links that leave the documentation led to the pages of sources.

        Args:
            markdown: The text.
            address: The page's, in the documentation's folder.
        """
        own = address.startswith(f"{_FOLDER}/")
        origin = address.removeprefix(f"{_FOLDER}/") if own else f"{self._docs}/{address}"
        folder = posixpath.dirname(origin)
        if own and not (self._root / origin).is_file():
            return markdown  # a page made below, whose links are right

        def led(found: re.Match[str]) -> str:
            if found["target"] is None:
                return found[0]
            target, hash_, anchor = found["target"].partition("#")
            path = self._outside(folder, target)
            if path is not None:
                leads_to = _address(path)
            elif own and target and ":" not in target:
                # A page of sources that links into the documentation.
                leads_to = posixpath.relpath(posixpath.normpath(posixpath.join(folder, target)), self._docs)
            else:
                return found[0]
            return f"]({posixpath.relpath(leads_to, posixpath.dirname(address) or '.')}{hash_}{anchor})"

        return _LINKS.sub(led, markdown)

    def _outside(self, folder: str, target: str) -> str | None:
        """The path from the root that a link leads to if that is no part of the documentation."""
        target = target.partition("#")[0]
        if not target or ":" in target or target.startswith("/"):
            return None
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = path == self._docs or path.startswith((f"{self._docs}/", ".."))
        return None if inside or not (self._root / path).exists() else path

    def _with_content(self) -> set[str]:
        """The linked paths, and what lies in the folders among them."""
        found = set(self._paths)
        for path in self._paths:
            if (self._root / path).is_dir():
                found |= {f"{path}/{entry}" for entry in _entries(self._root / path)}
        return found

    def _text(self, path: str) -> str:
        file = self._root / path
        head = "---\nsearch:\n  exclude: true\n---\n\n"
        if file.is_dir():
            beside = posixpath.dirname(_address(path))
            pages = {
                entry: posixpath.relpath(_address(f"{path}/{entry}"), beside) for entry in _entries(file)
            }
            lines = [f"- [{entry}]({page})" for entry, page in pages.items()]
            return f"{head}# {path}/\n\n" + "\n".join(lines) + "\n"
        text = file.read_text(encoding="utf-8")
        if path.endswith(".md"):
            return text
        # Longer than any run of the same in the text.
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", text))])
        language = _LANGUAGES.get(file.suffix, "text")
        return f"{head}# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _targets(markdown: str) -> Iterator[str]:
    for found in _LINKS.finditer(markdown):
        if found["target"] is not None:
            yield found["target"]


def _entries(folder: Path) -> list[str]:
    """The texts in a folder and those below it, by their paths from there."""
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        relative = Path(here).relative_to(folder)
        found += [(relative / name).as_posix() for name in sorted(names) if Path(name).suffix in _TEXTS]
    return found


def _address(path: str) -> str:
    """Where the page of a file or folder lies."""
    return f"{_FOLDER}/{path}" if path.endswith(".md") else f"{_FOLDER}/{path}.md"

"""Fenced blocks of the documentation's pages, and what comments before them say of running them.

A comment of one of these kinds stands right before the block that it is about:

    <!-- not run: REASON -->
    <!-- not run, lines with "TEXT": REASON -->
    <!-- run by: tests/test_that_runs_it.py -->
    <!-- given:
    what the block needs and a reader has: code in the block's language, run before it
    -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PIECES = re.compile(
    r"^[ ]{0,3}(?P<fence>```+)(?P<info>[^\n]*)\n(?P<code>.*?)^[ ]{0,3}(?P=fence)[ ]*$|"
    r"<!--(?P<comment>.*?)-->",
    re.MULTILINE | re.DOTALL,
)
_LINES = re.compile(r'not run, lines with "([^"]+)": (.+)', re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Its file, from the project's root.
        line: Where its code begins, from 1.
        language: The first word behind the fence; "" if there is none.
        title: The name of the file that it is, if it is one.
        given: What runs before it.
        not_run: Why it does not run; "" if it does.
        left_out: Parts of lines that do not run, and why.
        run_by: The test that runs it instead; "" if it is run here.
    """

    page: str
    line: int
    language: str
    title: str
    code: str
    given: str
    not_run: str
    left_out: tuple[tuple[str, str], ...]
    run_by: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kept(self) -> str:
        """The code without the lines that do not run."""
        lines = self.code.splitlines(keepends=True)
        for text, _ in self.left_out:
            assert any(text in line for line in lines), f"{self.where}: no line has {text!r}"
            lines = [line for line in lines if text not in line]
        return "".join(lines)


def blocks_of(path: Path, page: str) -> list[Block]:
    """The blocks of a page in their order."""
    return list(_blocks(path.read_text(encoding="utf-8"), page))


def _blocks(text: str, page: str) -> Iterator[Block]:
    comments: list[str] = []
    end = 0
    for piece in _PIECES.finditer(text):
        if text[end : piece.start()].strip():
            assert not any(map(_is_of_a_block, comments)), f"{page}: a comment without its block: {comments}"
            comments = []
        end = piece.end()
        if piece["comment"] is not None:
            comments.append(piece["comment"].strip())
            continue
        line = text.count("\n", 0, piece.start("code")) + 1
        yield _block(page, line, piece["info"].strip(), piece["code"], comments)
        comments = []


def _is_of_a_block(comment: str) -> bool:
    return comment.startswith(("not run", "run by", "given"))


def _block(page: str, line: int, info: str, code: str, comments: list[str]) -> Block:
    given = not_run = run_by = ""
    left_out = []
    for comment in comments:
        lines = _LINES.fullmatch(comment)
        if lines is not None:
            left_out.append((lines[1], " ".join(lines[2].split())))
        elif comment.startswith("not run: "):
            not_run = " ".join(comment.removeprefix("not run: ").split())
        elif comment.startswith("run by: "):
            run_by = comment.removeprefix("run by: ")
        elif comment.startswith("given:"):
            given = comment.removeprefix("given:").strip() + "\n"
        else:
            raise AssertionError(f"{page}:{line}: what does the comment {comment!r} say of the block?")
    language, _, rest = info.partition(" ")
    title = re.fullmatch(r'title="([^"]+)"', rest.strip()) if rest else None
    assert title is not None or not rest, f"{page}:{line}: what is {rest!r} behind the fence?"
    return Block(
        page, line, language, title[1] if title else "", code, given, not_run, tuple(left_out), run_by
    )

"""The documents of the native rooms: prose, whole, and of the files that are there."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from native import ROOT, tool

CSRC = ROOT / "csrc"
ROOMS = sorted({path.parent for path in CSRC.rglob("README.md")})


def paragraphs(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if not part.startswith((" ", "#", "```"))]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(CSRC)))
def test_a_document_is_prose(room: Path) -> None:
    text = (room / "README.md").read_text(encoding="utf-8")
    assert re.match(r"# [A-Z][^\n]+\n\n\S", text), "a document begins with its title"
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    for part in paragraphs(text):
        assert part.count("`") % 2 == 0, f"a backtick is missing: {part}"
        for line, following in pairwise(part.splitlines()):
            ragged = len(line) + 1 + len(following.split()[0]) < 90
            assert not ragged or following.startswith("- "), f"a line ends early: {line}"


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(CSRC)))
def test_a_document_names_files_that_are_there(room: Path) -> None:
    """``program.*`` and ``rolling.h`` are files of the room, or lie where their path says."""
    text = (room / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w./]+\.(?:\*|h|cpp|inl|py|sql|in))`", text):
        found = [path for base in (room, room.parent, CSRC, ROOT) for path in base.glob(name)]
        assert found, f"{room.name}/README.md names {name}"


def test_every_room_of_native_code_is_described() -> None:
    sources = {path.parent for path in CSRC.rglob("*.h") if "emulated" not in str(path)}
    described = {room for room in sources if any(up in ROOMS for up in (room, *room.parents))}
    assert {room.relative_to(CSRC) for room in sources - described} == set()


def test_clang_format_leaves_prose_alone(tmp_path: Path) -> None:
    (tmp_path / ".clang-format").write_text((ROOT / ".clang-format").read_text())
    (tmp_path / ".clang-format-ignore").write_text((ROOT / ".clang-format-ignore").read_text())
    room = tmp_path / "csrc" / "kernels" / "simd"
    room.mkdir(parents=True)
    documents = [room / "README.md", room.parent / "README.md", room.parent.parent / "README.md"]
    source = room / "source.cpp"
    for path in (*documents, source):
        path.write_text("int  main( ){\nreturn 0; }\n")
    command = [tool("clang-format"), "-i", "--style=file", *map(str, documents), str(source)]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert source.read_text() == "int main() { return 0; }\n"
    for document in documents:
        assert document.read_text() == "int  main( ){\nreturn 0; }\n"

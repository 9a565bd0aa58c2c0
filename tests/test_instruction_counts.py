"""How many instructions a network takes on one image: a guard against slower code, on any machine.

Counts are of callgrind, the same whatever else runs, for instruction sets that valgrind knows; AVX-512 is not
among them. They depend on the compiler, so the record names it. After a change that is meant to cost or save
instructions: ``python tests/test_instruction_counts.py --record``.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import randomize_
from native import network_command, release_build, run, tool

from pocketnet_fast import create_model

RECORD = Path(__file__).with_name("instruction_counts.json")

# Of the recorded count: what layout and padding of code may move.
MARGIN = 0.02

SETS = ("scalar", "avx2")
PRECISIONS = ("fp32", "bf16")
NETWORK = "pocketnet_s128"


def compiler() -> str:
    """The compiler of the kernels, as far as its code is likely to be the same."""
    cache = (release_build() / "CMakeCache.txt").read_text()
    path = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache, re.MULTILINE)
    assert path is not None
    version = subprocess.run([path[1], "--version"], capture_output=True, text=True, check=True).stdout
    name = re.search(r"\b(g\+\+|clang)|\(GCC\)", version)
    number = re.search(r"\b(\d+)\.\d+\.\d+\b", version)
    assert number is not None, version
    return f"{'clang' if name and name[1] == 'clang' else 'gcc'} {number[1]}"


def count(isa: str, precision: str, folder: Path) -> int:
    """Instructions of one embedding on one thread."""
    network = randomize_(create_model(NETWORK), 0)
    pixels = np.full((1, 112, 112, 3), 100, np.uint8)
    output = run(
        tool("valgrind"),
        "--tool=callgrind",
        "--toggle-collect=pnf::execute(*",
        f"--callgrind-out-file={folder / 'callgrind.out'}",
        *network_command("run_network", network, precision, isa, pixels, folder),
    )
    collected = re.search(r"Collected : (\d+)", output)
    assert collected is not None, output
    return int(collected[1])


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="recorded on x86-64")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("isa", SETS)
def test_no_more_instructions_than_recorded(isa: str, precision: str, tmp_path: Path) -> None:
    tool("valgrind")
    record = json.loads(RECORD.read_text())
    if record["compiler"] != compiler():
        pytest.skip(f"recorded with {record['compiler']}, built with {compiler()}")
    expected = record["instructions"][f"{isa} {precision}"]
    found = count(isa, precision, tmp_path)
    assert found <= (1 + MARGIN) * expected, f"{found:,} instructions; {expected:,} are recorded"
    assert found >= (1 - MARGIN) * expected, f"{found:,} instead of {expected:,}: record the improvement"


def record() -> None:
    """Write what is counted now."""
    import tempfile

    counts = {}
    for isa in SETS:
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                counts[f"{isa} {precision}"] = count(isa, precision, Path(folder))
    content = {"network": NETWORK, "compiler": compiler(), "instructions": counts}
    RECORD.write_text(json.dumps(content, indent=1) + "\n")
    print(RECORD.read_text())


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        raise SystemExit(__doc__)
    record()

"""How many instructions a network takes on one image: a guard against slower code, on any machine.

Counts are of callgrind for x86-64, where valgrind does not know AVX-512, and of qemu-user for ARM
(``count_instructions.c``): the same whatever else runs. They depend on the compiler, so the record names it.
After a change that is meant to cost or save instructions:
``python tests/test_instruction_counts.py --record``.
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
from native import arm_build, network_command, release_build, run, tool

from pocketnet_fast import create_model

RECORD = Path(__file__).with_name("instruction_counts.json")

# Of the recorded count: what layout and padding of code may move.
MARGIN = 0.02

X86 = tuple((isa, precision) for isa in ("scalar", "avx2") for precision in ("fp32", "bf16"))
ARM = (("neon", "fp32"), ("neon", "bf16"), ("neon_bf16", "bf16"))
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


def count_on_arm(isa: str, precision: str, folder: Path) -> int:
    """The same on a 64-bit ARM processor: what a second image adds."""
    plugin = folder / "count_instructions.so"
    run(tool("cc"), "-shared", "-fPIC", "-o", plugin, Path(__file__).with_name("count_instructions.c"))
    network = randomize_(create_model(NETWORK), 0)
    emulator = [tool("qemu-aarch64"), "-L", "/usr/aarch64-linux-gnu", "-plugin", plugin]

    def instructions(images: int) -> int:
        pixels = np.full((images, 112, 112, 3), 100, np.uint8)
        command = network_command("run_network", network, precision, isa, pixels, folder, arm_build())
        finished = subprocess.run([*emulator, *command], capture_output=True, check=True, timeout=600)
        counted = re.search(rb"instructions: (\d+)", finished.stderr)
        assert counted is not None, finished.stderr
        return int(counted[1])

    return instructions(2) - instructions(1)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="recorded on x86-64")
@pytest.mark.parametrize(("isa", "precision"), X86)
def test_no_more_instructions_than_recorded(isa: str, precision: str, tmp_path: Path) -> None:
    tool("valgrind")
    record = json.loads(RECORD.read_text())
    if record["compiler"] != compiler():
        pytest.skip(f"recorded with {record['compiler']}, built with {compiler()}")
    check(record["instructions"][f"{isa} {precision}"], count(isa, precision, tmp_path))


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(("isa", "precision"), ARM)
def test_no_more_instructions_on_arm_than_recorded(isa: str, precision: str, tmp_path: Path) -> None:
    tool("qemu-aarch64")
    record = json.loads(RECORD.read_text())
    version = run(tool("aarch64-linux-gnu-g++"), "-dumpversion").strip()
    if record["compiler"] != f"gcc {version}":
        pytest.skip(f"recorded with {record['compiler']}, built with gcc {version}")
    check(record["instructions"][f"{isa} {precision}"], count_on_arm(isa, precision, tmp_path))


def check(expected: int, found: int) -> None:
    assert found <= (1 + MARGIN) * expected, f"{found:,} instructions; {expected:,} are recorded"
    assert found >= (1 - MARGIN) * expected, f"{found:,} instead of {expected:,}: record the improvement"


def record() -> None:
    """Write what is counted now."""
    import tempfile

    counts = {}
    for isa, precision in X86 + ARM:
        counted = count_on_arm if (isa, precision) in ARM else count
        with tempfile.TemporaryDirectory() as folder:
            counts[f"{isa} {precision}"] = counted(isa, precision, Path(folder))
    content = {"network": NETWORK, "compiler": compiler(), "instructions": counts}
    RECORD.write_text(json.dumps(content, indent=1) + "\n")
    print(RECORD.read_text())


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        raise SystemExit(__doc__)
    record()

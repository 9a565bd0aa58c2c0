"""No instruction set reaches code that runs without it.

The linker keeps one copy of an inline function, whichever object it comes from. Were that an object
compiled for AVX-512, the program would end on every other CPU; so the objects of an instruction set may
define nothing that another object could share, and all other objects may contain none of its instructions.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
from native import ROOT, build, run, tool

KERNELS = ROOT / "csrc" / "kernels"
ENTRY_POINTS = {
    "node": {"node_rows"},
    "stem": {"stem_rows"},
    "tail": {"global_depthwise", "linear"},
    "probe": {"probe_fma"},
}
ISAS = ("scalar", "avx2", "avx512", "neon")
X86_ISAS = ("scalar", "avx2", "avx512")
ISA_SOURCE = re.compile(rf"_({'|'.join(ISAS)})\.cpp")
HEADERS_WITHOUT_CODE = {"cstddef", "cstdint", "immintrin.h", "arm_neon.h"}

x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 object files")


@pytest.fixture(scope="module")
def objects() -> Path:
    """Folder of the object files of the kernels and the plan."""
    return build("release") / "CMakeFiles" / "pnf_kernels.dir" / "csrc"


def instructions(obj: Path) -> list[str]:
    listing = run(tool("objdump"), "-d", "--no-show-raw-insn", obj)
    found = re.findall(r"^\s*[0-9a-f]+:\t(.+)$", listing, re.MULTILINE)
    assert found, f"no instructions in {obj}"
    return found


@x86_only
@pytest.mark.parametrize("isa", X86_ISAS)
@pytest.mark.parametrize("op", ENTRY_POINTS)
def test_an_object_defines_its_entry_points_only(objects: Path, op: str, isa: str):
    symbols = run(tool("nm"), "--demangle", "--defined-only", objects / "kernels" / op / f"{op}_{isa}.cpp.o")
    shared = [line.split(maxsplit=2)[1:] for line in symbols.splitlines()]
    shared = [(kind, name.partition("(")[0]) for kind, name in shared if kind.isupper() or kind in "uvw"]
    assert sorted(shared) == sorted(("T", f"pnf::{isa}::{name}") for name in ENTRY_POINTS[op])


@x86_only
def test_baseline_objects_hold_baseline_instructions(objects: Path):
    baseline = [obj for obj in objects.rglob("*.o") if not re.search(r"_avx(2|512)\.cpp\.o$", obj.name)]
    names = {obj.name for obj in baseline}
    assert {"dispatch.cpp.o", "program.cpp.o", "executor.cpp.o", "node.cpp.o", "node_scalar.cpp.o"} <= names
    for obj in baseline:
        # Every AVX mnemonic starts with a v, whatever registers it names.
        newer = [line for line in instructions(obj) if re.search(r"^v|%[yz]mm", line)]
        assert not newer, f"{obj.name}: {newer[:5]}"


@x86_only
@pytest.mark.parametrize("op", ENTRY_POINTS)
def test_avx2_objects_hold_no_avx512(objects: Path, op: str):
    lines = instructions(objects / "kernels" / op / f"{op}_avx2.cpp.o")
    assert any("%ymm" in line for line in lines)
    newer = [line for line in lines if re.search(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]", line)]
    assert not newer, newer[:5]


@x86_only
@pytest.mark.parametrize("op", ENTRY_POINTS)
def test_avx512_objects_use_its_registers(objects: Path, op: str):
    assert any("%zmm" in line for line in instructions(objects / "kernels" / op / f"{op}_avx512.cpp.o"))


def included_headers(source: Path, seen: set[Path]) -> set[str]:
    """Standard and compiler headers that `source` includes, by itself or through the project's own."""
    if source in seen:
        return set()
    seen.add(source)
    text = source.read_text()
    headers = set(re.findall(r"^\s*#\s*include\s*<([^>]+)>", text, re.MULTILINE))
    for own in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE):
        headers |= included_headers(ROOT / "csrc" / own, seen)
    return headers


def test_isa_sources_include_no_header_with_code():
    sources = [source for source in KERNELS.rglob("*.cpp") if ISA_SOURCE.search(source.name)]
    assert len(sources) == len(ISAS) * len(ENTRY_POINTS)
    for source in sources:
        assert included_headers(source, set()) <= HEADERS_WITHOUT_CODE, source.name

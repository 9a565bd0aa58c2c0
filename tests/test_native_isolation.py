"""No instruction set reaches code that runs without it.

The linker keeps one copy of an inline function, whichever object it comes from. Were that an object
compiled for AVX-512, the program would end on every other CPU; so the objects of an instruction set may
define nothing that another object could share, and all other objects may contain none of its instructions.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

import pytest
from native import ROOT, build, packaged_build, run, tool

KERNELS = ROOT / "csrc" / "kernels"
ISA_SOURCE = re.compile(r"_(scalar|avx2|avx512|avx512_bf16|amx_bf16|neon|neon_bf16)\.cpp")
HEADERS_WITHOUT_CODE = {"cstddef", "cstdint", "immintrin.h", "arm_neon.h"}

x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 object files")


@pytest.fixture(scope="module")
def objects() -> Path:
    """Folder of the object files of the kernels and the plan."""
    return (packaged_build() or build("release", "-DPNF_KERNELS_ARCHIVE=")) / "CMakeFiles"


def objects_of(objects: Path, isa: str) -> list[Path]:
    """The object of every operation that is compiled for an instruction set."""
    found = sorted(objects.glob(f"pnf_*.dir/csrc/kernels/*/*_{isa}.cpp.o"))
    assert {"node", "stem", "tail", "probe"} <= {obj.parent.name for obj in found}
    return found


def entry_points(op: str, isa: str) -> list[str]:
    """The functions that an operation declares for an instruction set, once for each type of states."""
    header = (KERNELS / op / f"{op}.h").read_text()
    declaration = re.search(r"#define PNF_DECLARE\(isa(?:, State)?\)((?:.*\\\n)+)", header)
    assert declaration is not None, op
    names = re.findall(r"^ *[a-z]\w* (\w+)\(", declaration[1], re.MULTILINE)
    listed = re.findall(rf"^PNF_DECLARE\({isa}[,)]", header, re.MULTILINE)
    return names * len(listed or re.findall(r"^PNF_EACH_\w*ISA\(PNF_DECLARE\)", header, re.MULTILINE))


def shared_symbols(obj: Path) -> list[tuple[str, str]]:
    """Kind and name of what other objects see of one."""
    symbols = run(tool("nm"), "--demangle", "--defined-only", obj)
    defined = [line.split(maxsplit=2)[1:] for line in symbols.splitlines()]
    return [(kind, name.partition("(")[0]) for kind, name in defined if kind.isupper() or kind in "uvw"]


def instructions(obj: Path) -> list[str]:
    listing = run(tool("objdump"), "-d", "--no-show-raw-insn", obj)
    found = re.findall(r"^\s*[0-9a-f]+:\t(.+)$", listing, re.MULTILINE)
    assert found, f"no instructions in {obj}"
    return found


@x86_only
@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_an_object_defines_its_entry_points_only(objects: Path, isa: str):
    for obj in objects_of(objects, isa):
        expected = entry_points(obj.parent.name, isa)
        assert expected
        names = sorted(("T", f"pnf::{isa}::{name}") for name in expected)
        assert sorted(shared_symbols(obj)) == names, obj.name


@x86_only
def test_training_in_half_precision_has_an_object_of_its_own(objects: Path):
    (obj,) = objects.glob("pnf_*.dir/csrc/kernels/cell/cell_avx512_bf16.cpp.o")
    expected = entry_points("cell", "avx512_bf16")
    assert sorted(shared_symbols(obj)) == sorted(("T", f"pnf::avx512_bf16::{name}") for name in expected)
    assert any("vdpbf16ps" in line for line in instructions(obj))


@x86_only
@pytest.mark.parametrize(("isa", "product"), [("avx512_bf16", "vdpbf16ps"), ("amx_bf16", "tdpbf16ps")])
def test_half_precision_has_objects_of_its_own(objects: Path, isa: str, product: str):
    entries = {
        "node": "node_rows(pnf::NodeOf<pnf::Bf16> const&",
        "stem": "stem_rows(pnf::StemOf<pnf::Bf16> const&",
        "probe": "probe_fma(long",
    }
    for op, entry in entries.items():
        (obj,) = objects.glob(f"pnf_*.dir/csrc/kernels/{op}/{op}_{isa}.cpp.o")
        symbols = run(tool("nm"), "--demangle", "--defined-only", obj)
        shared = [line for line in symbols.splitlines() if re.search(r" [A-Zuvw] ", line)]
        assert len(shared) == 1, obj.name
        assert f"pnf::{isa}::{entry}" in shared[0]
        assert any(product in line for line in instructions(obj))


@x86_only
def test_baseline_objects_hold_baseline_instructions(objects: Path):
    baseline = [
        obj
        for obj in objects.glob("pnf_*.dir/**/*.o")
        if not re.search(r"_(avx2|avx512|avx512_bf16|amx_bf16)\.cpp\.o$", obj.name)
    ]
    names = {obj.name for obj in baseline}
    assert {"dispatch.cpp.o", "program.cpp.o", "executor.cpp.o", "node.cpp.o", "node_scalar.cpp.o"} <= names
    for obj in baseline:
        # Every AVX mnemonic starts with a v, whatever registers it names.
        newer = [line for line in instructions(obj) if re.search(r"^v|%[yzt]mm|^tile", line)]
        assert not newer, f"{obj.name}: {newer[:5]}"


@x86_only
@pytest.mark.parametrize(
    ("isa", "register", "newer"),
    [
        ("avx2", "%ymm", r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]"),
        ("avx512", "%zmm", r"bf16|%tmm"),
    ],
    ids=["avx2", "avx512"],
)
def test_objects_hold_their_instructions_and_no_newer_ones(
    objects: Path, isa: str, register: str, newer: str
):
    for obj in objects_of(objects, isa):
        lines = instructions(obj)
        assert any(register in line for line in lines), obj.name
        beyond = [line for line in lines if re.search(newer, line)]
        assert not beyond, f"{obj.name}: {beyond[:5]}"


def test_a_library_never_ends_its_process(objects: Path):
    """The assertions are for the tests' builds."""
    for obj in objects.glob("pnf_*.dir/**/*.o"):
        assert "assertion_failed" not in run(tool("nm"), "--demangle", obj), obj.name


def test_no_library_holds_a_path_of_the_machine_that_built_it():
    """``__FILE__`` stands in messages: of our sources, and of what torch's headers add to them."""
    import torch

    from pocketnet_fast.ops.native import extension, library_path

    built = {str(ROOT), str(Path(torch.__file__).parent), str(Path.home()), str(Path(sys.prefix))}
    for library in (library_path(), Path(str(extension().__file__))):
        text = library.read_bytes()
        found = {path for path in built if len(path) > 1 and path.encode() in text}
        assert not found, library.name


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
    assert {"node_avx512.cpp", "stem_avx2.cpp", "tail_neon.cpp"} <= {source.name for source in sources}
    for source in sources:
        assert included_headers(source, set()) <= HEADERS_WITHOUT_CODE, source.name

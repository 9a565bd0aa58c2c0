"""The documentation: every code block runs, or says why it does not; the site builds without a warning."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_blocks import Block, blocks_of
from doc_samples import write_samples
from native import ROOT, run, tool

from pocketnet_fast.cmake import prefix_path

DOCS = ROOT / "docs"
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"))
)
# Text that is shown, not run: output, trees, equations.
SHOWN = {"", "text"}
RUN = {"python", "sh", "console"}
CHECKED = {"c", "cpp", "js", "json", "toml", "cmake", "diff"}
# The files of its worked example belong together.
EXAMPLE = "CONTRIBUTING.md"

# How many blocks of each page do not run. Who adds one says so here, too.
NOT_RUN: dict[str, int] = {
    "CONTRIBUTING.md": 5,
    "README.md": 9,
    "docs/benchmarks/gpu.md": 1,
    "docs/benchmarks/training_step.md": 1,
    "docs/benchmarks/arm.md": 1,
    "docs/benchmarks/c_library.md": 1,
    "docs/benchmarks/web.md": 1,
    "docs/embedding.md": 4,
    "docs/embedding_photos.md": 1,
    "docs/first_hour/crops.md": 1,
    "docs/first_hour/searching.md": 3,
    "docs/first_hour/service.md": 2,
    "docs/first_hour/training.md": 3,
    "docs/gallery_format.md": 1,
    "docs/how_to/embed_many.md": 1,
    "docs/how_to/export.md": 2,
    "docs/how_to/programs.md": 1,
    "docs/index.md": 1,
    "docs/models/pocketnet_m128.md": 1,
    "docs/models/pocketnet_s128.md": 1,
    "docs/models/quality.md": 1,
    "docs/search.md": 2,
    "docs/server.md": 3,
}


def every_block() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(ROOT / page, page)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH whose `pocketnet` runs in children of a process that has imported torch already."""
    folder = tmp_path_factory.mktemp("bin")
    address = folder / "server"
    program = ROOT / "tests" / "command_server.py"
    for name, command in (
        ("pocketnet", "pocketnet"),
        ("page", "page"),
        ("python", "python"),
        ("python3", "python"),
    ):
        shim = folder / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{program}" "{address}" {command} "$@"\n')
        shim.chmod(0o755)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, program, address],
        cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield folder
    finally:
        process.stdin.close()
        process.wait(20)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


def steps_of(page: str) -> list[dict[str, str]]:
    """What runs of a page; files that it shows are written to the folder."""
    steps = []
    for block in blocks_of(ROOT / page, page):
        code = block.kept
        if block.title:
            steps.append({"language": "python", "where": block.where, "code": _writing(block.title, code)})
        elif block.language in RUN and not block.not_run and not block.run_by:
            if block.given:
                given = "python" if block.language == "python" else "sh"
                steps.append({"language": given, "where": block.where, "code": block.given})
            steps.append({"language": block.language, "where": block.where, "code": code})
    return steps


def _writing(name: str, code: str) -> str:
    return f"__import__('pathlib').Path({name!r}).write_text({code!r})"


RUN_PAGES = [
    page
    for page in PAGES
    if page != EXAMPLE
    and any(
        block.language in RUN and not block.not_run and not block.run_by
        for block in blocks_of(ROOT / page, page)
    )
]


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("page", RUN_PAGES)
def test_blocks_run(page: str, server: Path, samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(samples, folder)
    for name in ("examples", "include"):
        (folder / name).symlink_to(ROOT / name)
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps(steps_of(page)))
    binaries = f"{server}:{Path(sys.executable).parent}"
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}", "HOME": str(tmp_path), "COLUMNS": "100",
        "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "MPLCONFIGDIR": str(server),
    }  # fmt: skip
    done = subprocess.run(
        [server / "page", steps],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]


def _checked(language: str) -> list[Block]:
    return [
        block
        for block in every_block()
        if block.language == language and not block.not_run and block.page != EXAMPLE
    ]


def test_c_and_cpp_compile(tmp_path: Path) -> None:
    include = prefix_path().parents[1] / "include"
    for language, standard in (("c", "c11"), ("cpp", "c++20")):
        for number, block in enumerate(_checked(language)):
            source = tmp_path / f"{number}.{language}"
            source.write_text(block.given + block.code)
            options = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{include}"]
            run(tool("cc" if language == "c" else "c++"), *options, source)


@pytest.mark.slow(seconds=8)
def test_the_worked_example_of_an_operator(tmp_path: Path) -> None:
    """Its changes apply to the sources of today, and what then is there compiles."""
    import torch

    sources = tmp_path / "sources"
    patch = tool("patch")
    written: list[Path] = []
    for block in blocks_of(ROOT / EXAMPLE, EXAMPLE):
        if block.language == "diff":
            (name,) = re.findall(r"^\+\+\+ b/(.+)$", block.code, re.MULTILINE)
            changed = sources / name
            changed.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, changed)
            change = tmp_path / "change.diff"
            change.write_text(block.code)
            run(patch, "-p1", "--fuzz=0", "-d", sources, "-i", change)
            written.append(changed)
        elif block.title:
            path = sources / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)
            written.append(path)
    include = Path(torch.__file__).parent / "include"
    places = (sources / "csrc", ROOT / "csrc", ROOT / "csrc" / "tests")
    options = ["-std=c++20", "-fsyntax-only", *(f"-I{place}" for place in places)]
    compiled = 0
    for path in written:
        if path.suffix == ".py":
            compile(path.read_text(), str(path), "exec")
        if path.suffix != ".cpp" or (path.stem.endswith("_neon") and os.uname().machine != "aarch64"):
            continue
        if path.stem.endswith(("_avx2", "_avx512")):
            if os.uname().machine != "x86_64":
                continue
            options_here = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"]
        elif path.parent.name == "ops":
            options_here = ["-isystem", str(include), "-DTORCH_TARGET_VERSION=0x020a000000000000"]
        else:
            options_here = ["-Wall", "-Wextra", "-Werror"]
        run(tool("c++"), *options, *options_here, path)
        compiled += 1
    assert compiled >= 5


def test_javascript_parses(tmp_path: Path) -> None:
    node = tool("node")
    for number, block in enumerate(_checked("js")):
        source = tmp_path / f"{number}.mjs"
        source.write_text(block.given + block.code)
        run(node, "--check", source)


def test_data_parse() -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    for block in _checked("toml"):
        tomllib.loads(block.code)
    for block in _checked("json"):
        json.loads(block.code)


def test_every_block_is_accounted_for() -> None:
    counts: Counter[str] = Counter()
    for block in every_block():
        if block.not_run:
            counts[block.page] += 1
            print(f"{block.where}: {block.not_run}")
        for text, reason in block.left_out:
            counts[block.page] += 1
            print(f'{block.where}: lines with "{text}": {reason}')
        if block.run_by:
            test = ROOT / block.run_by
            assert Path(block.page).name in test.read_text(), (
                f"{block.where}: {block.run_by} names no such page"
            )
        known = RUN | CHECKED | SHOWN | ({block.language} if block.run_by else set())
        assert block.language in known, f"{block.where}: nothing runs {block.language!r}"
        assert block.language != "cmake" or block.title or block.not_run, f"{block.where}: nothing uses this"
    print(f"{sum(counts.values())} blocks or lines do not run")
    assert dict(counts) == NOT_RUN


def _slugs(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found: Counter[str] = Counter()
    slugs = set()
    for heading in re.findall(r"^#+ (.+?)\s*$", outside, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(
            " ", "-"
        )
        slugs.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return slugs


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_on_github(page: str) -> None:
    path = ROOT / page
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if ":" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in _slugs(linked.read_text()), f"{page}: {target}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="pip install '.[docs]' for the site")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder]
    # Beside the sources, so that the package which is installed is the one that is described.
    environment = os.environ | {"PYTHONSAFEPATH": "1", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.mark.slow(seconds=15)
def test_the_site_needs_no_other_host(site: Path) -> None:
    """Pages may link elsewhere; they load nothing from there."""
    pages = [*site.rglob("*.html")]
    assert len(pages) > 60
    loads = re.compile(
        r"<(?:script|img|iframe|source|embed|object)[^>]*\s(?:src|data)=[\"']?(?:https?:)?//[^\"'>]*|"
        r"<link[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon|manifest)[^>]*href=[\"']?(?:https?:)?//[^>]*|"
        r"class=[\"']?mermaid"
    )
    for page in pages:
        assert loads.findall(page.read_text()) == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text()), sheet


@pytest.mark.slow(seconds=15)
def test_the_site_has_what_is_made_of_the_code(site: Path) -> None:
    from typer.main import get_command

    from pocketnet_fast.cli.main import app

    commands = (site / "reference" / "command_line.html").read_text()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for words in [f"{name}-{inner}" for inner in getattr(command, "commands", {})] or [name]:
            assert f'id="pocketnet-{words}"' in commands
    recipes = (site / "reference" / "recipes.html").read_text()
    assert "Images of one process in one forward pass." in recipes
    assert "made here" not in commands + recipes


def test_the_reference_has_every_public_name() -> None:
    import importlib

    described = set()
    for page in (DOCS / "reference" / "python").glob("*.md"):
        described |= set(re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE))
    for package in ("", ".export", ".faces", ".gallery", ".losses", ".lowering", ".search", ".training"):
        name = f"pocketnet_fast{package}"
        module = importlib.import_module(name)
        listed = getattr(module, "__all__", None) or [
            found
            for found, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "").startswith(name)
        ]
        missing = {
            one
            for one in listed
            if not one.startswith("_")
            and f"{name}.{one}" not in described
            and f"pocketnet_fast.{one}" not in described
        }
        assert not missing, f"{name}: {missing}"

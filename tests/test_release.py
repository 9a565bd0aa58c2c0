"""What is published: its versions, its bill of materials, its record, and the scripts that make it."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from native import ROOT

import pocketnet_fast

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    sys.path.insert(0, str(ROOT / "release"))
    try:
        return {name: importlib.import_module(name) for name in ("wheel", "sbom", "build", "try_wheel")}
    finally:
        sys.path.pop(0)


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("no clone of the repository")
    return listed.stdout.splitlines()


def package_files() -> dict[str, bytes]:
    """A wheel's files: those of the sources, stand-ins for what is compiled, and its facts."""
    files = {path: (ROOT / path).read_bytes() for path in tracked("pocketnet_fast")}
    for name in (
        "_C.cpython-311-x86_64-linux-gnu.so",
        "lib/libpnf_ops.so",
        "lib/libpocketnet.so.1",
        "include/pocketnet.h",
    ):
        files[f"pocketnet_fast/{name}"] = name.encode()
    requirements = "".join(f"Requires-Dist: {text}\n" for text in PROJECT["dependencies"])
    facts = (
        f"Metadata-Version: 2.4\nName: pocketnet_fast\nVersion: {PROJECT['version']}\n"
        f"Summary: {PROJECT['description']}\nLicense-Expression: {PROJECT['license']}\n{requirements}"
        "Requires-Dist: onnx>=1.16; extra == 'onnx'\n\n"
    )
    info = f"pocketnet_fast-{PROJECT['version']}.dist-info"
    return {**files, f"{info}/METADATA": facts.encode(), f"{info}/RECORD": b""}


def write_wheel(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_every_file_states_the_same_version() -> None:
    def found(path: str, pattern: str) -> str:
        match = re.search(pattern, (ROOT / path).read_text())
        assert match is not None, path
        return match[1]

    stated = {
        "pyproject.toml": PROJECT["version"],
        "server/CMakeLists.txt": found("server/CMakeLists.txt", r"project\(pocketnet_server VERSION (\S+)"),
        "server/openapi.json": found("server/openapi.json", r'"pocketnet_server", "version": "([^"]+)"'),
        "cmake": found("cmake/pocketnet_fast-config-version.cmake", r'PACKAGE_VERSION "([^"]+)"'),
        "web/package.json": json.loads((ROOT / "web" / "package.json").read_text())["version"],
        "examples/javascript": found("examples/javascript/package.json", r'"pocketnet-fast": "\^([^"]+)"'),
        "CITATION.cff": found("CITATION.cff", r"(?m)^version: (\S+)$"),
        "CHANGELOG.md": found("CHANGELOG.md", r"(?m)^## \[(\d[^\]]+)\]"),
    }
    assert set(stated.values()) == {pocketnet_fast.__version__}, stated


def test_the_changelog_is_in_order() -> None:
    """Keep a Changelog: versions from the newest, dated, with the six kinds of changes alone."""
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})", head) for head in heads]
    assert all(versions), heads
    dates = [match[2] for match in versions if match]
    assert dates == sorted(dates, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_file_of_the_package_has_an_owner(scripts: dict[str, ModuleType]) -> None:
    sbom = scripts["sbom"]
    bill = sbom.bill(package_files())
    parts = {part["name"]: part for part in bill["components"]}
    assert parts["yunet-weights"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert {"name": "torch", "purl": "pkg:pypi/torch"}.items() <= parts["torch"].items()
    assert "onnx" not in parts
    listed = {file["name"] for part in (*bill["components"], bill["metadata"]["component"])
              for file in part.get("components", [])}  # fmt: skip
    assert listed == {path for path in package_files() if not path.endswith("/RECORD")}
    # A reference leads to a part.
    refs = {part["bom-ref"] for part in (*bill["components"], bill["metadata"]["component"])}
    assert {ref for entry in bill["dependencies"] for ref in (entry["ref"], *entry["dependsOn"])} <= refs


def test_a_bill_is_the_same_for_the_same_wheel_and_follows_its_schema(scripts: dict[str, ModuleType]) -> None:
    first, second = (scripts["sbom"].bill(package_files()) for _ in range(2))
    assert first == second
    changed = package_files() | {"pocketnet_fast/__init__.py": b""}
    assert scripts["sbom"].bill(changed)["serialNumber"] != first["serialNumber"]
    validation = pytest.importorskip("cyclonedx.validation.json", reason="pip install cyclonedx-python-lib")
    from cyclonedx.schema import SchemaVersion

    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(first)) is None


def test_what_nobody_declared_is_refused(scripts: dict[str, ModuleType]) -> None:
    files = package_files() | {"pocketnet_fast.libs/libgomp.so.1": b"grafted"}
    with pytest.raises(ValueError, match=r"no known part.*pocketnet_fast\.libs/libgomp\.so\.1"):
        scripts["sbom"].bill(files)
    del files["pocketnet_fast.libs/libgomp.so.1"], files["pocketnet_fast/models/pretrained/yunet.safetensors"]
    del files["pocketnet_fast/models/pretrained/yunet_LICENSE.txt"]
    with pytest.raises(ValueError, match="no file of yunet-weights"):
        scripts["sbom"].bill(files)


def test_the_notice_names_what_is_not_ours(scripts: dict[str, ModuleType]) -> None:
    notice = " ".join((ROOT / "NOTICE").read_text().split())
    sbom = scripts["sbom"]
    for part in (*sbom.PARTS, *sbom.INGREDIENTS):
        if part.licence not in ("Apache-2.0", "LicenseRef-unstated"):
            assert part.licence.partition("-")[0] in notice, part.name
        if part.files and "*" not in part.files and part.kind == "machine-learning-model":
            assert part.files.partition("(")[0].replace("\\", "") in notice, part.name
    assert "NOTICE" in PROJECT["license-files"]


def test_weights_that_ship_are_parts_of_their_own(scripts: dict[str, ModuleType]) -> None:
    for path in tracked("pocketnet_fast/models/pretrained/*.safetensors"):
        assert scripts["sbom"].owner_of(path).name != "pocketnet_fast", path


def test_a_bill_is_put_into_a_wheel_whose_record_stays_true(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    wheel = write_wheel(package_files(), tmp_path / "a-0-cp311-cp311-any.whl")
    place = scripts["sbom"].embed(wheel)
    files = scripts["wheel"].contents(wheel)
    assert place == f"pocketnet_fast-{PROJECT['version']}.dist-info/sboms/pocketnet_fast.cdx.json"
    assert json.loads(files[place])["bomFormat"] == "CycloneDX"
    assert scripts["wheel"].wrong_in_record(files) == []
    once = wheel.read_bytes()
    scripts["sbom"].embed(wheel)
    assert wheel.read_bytes() == once
    assert scripts["wheel"].wrong_in_record(files | {"pocketnet_fast/__init__.py": b"x"}) == [
        "pocketnet_fast/__init__.py"
    ]
    assert scripts["wheel"].wrong_in_record(files | {"new.py": b"x"}) == ["new.py"]


def test_archives_are_the_same_whenever_they_are_made(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    packed = []
    for name in ("one", "other"):
        folder = tmp_path / name
        (folder / "lib").mkdir(parents=True)
        (folder / "lib" / "libpocketnet.so.1").write_bytes(b"library")
        (folder / "lib" / "libpocketnet.so").symlink_to("libpocketnet.so.1")
        packed.append(scripts["build"].archive(folder, "libpocketnet"))
    assert packed[0] == packed[1]
    (tmp_path / "a.tar.gz").write_bytes(packed[0])
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        link = tar.getmember("libpocketnet/lib/libpocketnet.so")
        assert link.issym() and link.linkname == "libpocketnet.so.1"
        assert {member.uid for member in tar.getmembers()} == {0}
    assert re.fullmatch(r"\d+\.\d+\.\d+", scripts["build"].library_version())


def test_the_source_distribution_leaves_nothing_out() -> None:
    """What scikit-build-core leaves out of it are the files that git ignores, and the folders of work."""
    excluded = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]["sdist"][
        "exclude"
    ]
    for name in tracked():
        assert not any(Path(name).match(pattern) or name.startswith(f"{pattern}/") for pattern in excluded), (
            name
        )


def test_an_environment_with_a_compiler_is_none_of_users(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    scripts["try_wheel"].Environment(tmp_path / "venv", tmp_path)
    (folder / "cc").write_text("#!/bin/sh\n")
    (folder / "cc").chmod(0o755)
    with pytest.raises(AssertionError, match="the environment has cc"):
        scripts["try_wheel"].Environment(tmp_path / "venv", tmp_path)
    (folder / "cc").unlink()
    (folder / "pocketnet").write_text("#!/bin/sh\necho no; exit 3\n")
    (folder / "pocketnet").chmod(0o755)
    environment = scripts["try_wheel"].Environment(tmp_path / "venv", tmp_path)
    with pytest.raises(RuntimeError, match=r"pocketnet verify returned 3:\nno"):
        environment.run("pocketnet", "verify")


def test_make_lists_what_it_makes() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    described = dict(re.findall(r"^([a-z-]+):.*## (.+)$", text, re.MULTILINE))
    assert set(phony[1].split()) == set(described)

"""The workflows of public CI: well-formed, of least rights, and made of what this repository's make does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from native import ROOT

yaml = pytest.importorskip("yaml", reason="reads the workflows")

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
IDS = [path.stem for path in FILES]
# What the publishing job is granted, and no other.
RIGHTS = {"contents": "write", "id-token": "write", "attestations": "write"}
KEYS = {
    *("name", "runs-on", "container", "needs", "if", "strategy", "timeout-minutes", "env", "environment"),
    *("outputs", "permissions", "steps"),
}


def read(path: Path) -> dict[Any, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_jobs_are_bounded_and_may_read_alone(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow) <= {"name", True, "permissions", "concurrency", "jobs"}  # YAML reads "on" as true
    for name, job in workflow["jobs"].items():
        assert set(job) <= KEYS, name
        assert 0 < job["timeout-minutes"] <= 90, name
        needed = job.get("needs", [])
        assert set([needed] if isinstance(needed, str) else needed) <= set(workflow["jobs"]), name
        if "permissions" in job:
            assert (path.stem, name) == ("release", "publish")
            assert job["permissions"] == RIGHTS
            assert job["if"] == "github.ref_type == 'tag'"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_steps_are_whole(path: Path) -> None:
    for step in steps(path):
        assert ("uses" in step) != ("run" in step), step
        assert set(step) <= {"uses", "run", "name", "with", "env", "if", "id"}, step
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@(v\d+|release/v\d+)", step["uses"]), step
        else:
            # What others can write, as names of branches, is no part of a script.
            assert not re.search(r"\$\{\{\s*(github\.(event|head_ref|ref_name)|inputs)", step["run"]), step


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_what_is_made_is_in_the_makefile(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))
    made = [
        re.findall(r"(?m:^|&& )make ([a-z-]+)((?: [A-Z_]+=\S+)*)", step["run"])
        for step in steps(path)
        if "run" in step
    ]
    found = [(target, options) for commands in made for target, options in commands]
    assert found
    for target, options in found:
        assert target in targets
        assert set(re.findall(r"([A-Z_]+)=", options)) <= variables
    scripts = re.findall(r"python\S* (\S+\.py)", path.read_text())
    assert all((ROOT / script).is_file() for script in scripts)


def test_every_fuzzer_runs_at_night() -> None:
    native = sorted(path.name.removesuffix("_fuzzer.cpp") for path in (ROOT / "fuzz").glob("*_fuzzer.cpp"))
    jobs = read(FOLDER / "fuzz.yml")["jobs"]
    assert sorted(jobs["native"]["strategy"]["matrix"]["target"]) == native
    default = re.search(r"^NATIVE_FUZZERS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert default is not None and sorted(default[1].split()) == native
    expression = re.search(r"sed -n '([^']+)'", jobs["list-python"]["steps"][-1]["run"])
    assert expression is not None
    files = sorted((ROOT / "fuzz" / "python" / "readers").glob("*.py"))
    listed = subprocess.run(
        ["sed", "-n", expression[1], *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    readers = (ROOT / "docs" / "security.md").read_text().partition("### Readers in Python")[2]
    assert set(listed) == set(
        re.findall(r"`([a-z_]+)`", readers.partition("| target |")[2].partition("\n\n")[0])
    )


def test_every_python_that_is_named_is_tried() -> None:
    for name, job in (("test", "test"), ("release", "try")):
        versions = read(FOLDER / f"{name}.yml")["jobs"][job]["strategy"]["matrix"]["python"]
        assert versions == ["3.10", "3.11", "3.12", "3.13", "3.14"]


def test_actionlint() -> None:
    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("actionlint is not installed")
    subprocess.run([program, *map(str, FILES)], check=True, cwd=ROOT)


def test_forms_and_the_container_are_well_formed() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = read(path)
        assert path.name == "config.yml" or {"name", "description", "body"} <= set(form)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).is_file()
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
    assert citation["authors"] == [{"name": "The pocketnet_fast authors"}]


def test_owners_are_of_folders_that_are_there() -> None:
    for line in (ROOT / ".github" / "CODEOWNERS").read_text().splitlines():
        if line.startswith("/"):
            assert (ROOT / line.split()[0].strip("/")).exists(), line


def test_the_container_has_what_ci_installs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    packages = re.search(r"for package in ((?:.*\\\n)*.*); do", ci)
    assert packages is not None
    containerfile = (ROOT / ".devcontainer" / "Containerfile").read_text().split()
    assert set(packages[1].replace("\\\n", " ").split()) <= set(containerfile)

"""The comparison of two commits: what it refuses, what it copies, and its figures. Nothing is built here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, in a repository of its own with one commit."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compare as module

    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "a.txt").write_text("first")
    (repository / ".gitignore").write_text("ignored.txt\n")
    author = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "-m", "first"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    monkeypatch.setattr(module, "ROOT", repository)
    return module


def test_commits_are_resolved(compare: ModuleType) -> None:
    head = compare.resolve("HEAD")
    assert len(head) == 40
    assert compare.resolve(head[:10]) == head
    assert compare.resolve(".") == "."
    for name in ("HEAD~5", "--all", "no such branch"):
        with pytest.raises(compare.ComparisonError, match=r"there is no commit '.*'; expected a commit"):
            compare.resolve(name)


def test_uncommitted_changes(compare: ModuleType, tmp_path: Path) -> None:
    commits = {"base": "HEAD", "head": compare.resolve("HEAD")}
    assert compare.uncommitted(commits) is None
    (compare.ROOT / "a.txt").write_text("second")
    (compare.ROOT / "new").mkdir()
    (compare.ROOT / "new" / "b.txt").write_text("new")
    (compare.ROOT / "ignored.txt").write_text("ignored")
    assert compare.uncommitted(commits).startswith("2 uncommitted changes take no part")
    assert compare.uncommitted(commits | {"head": "."}) is None
    compare.copy_sources(commits["head"], tmp_path / "commit")
    assert (tmp_path / "commit" / "a.txt").read_text() == "first"
    assert not (tmp_path / "commit" / "new").exists()
    compare.copy_sources(".", tmp_path / "tree")
    assert (tmp_path / "tree" / "a.txt").read_text() == "second"
    assert (tmp_path / "tree" / "new" / "b.txt").read_text() == "new"
    assert not (tmp_path / "tree" / "ignored.txt").exists()


def test_a_failed_build_shows_its_end(compare: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(compare.ComparisonError, match=r"(?s)base \(.*cannot be built:.*not installable"):
        compare.build("base", compare.resolve("HEAD"), tmp_path / "base")


def test_figures(compare: ModuleType) -> None:
    rounds = [{"base": [0.002, 0.004], "head": [0.0015]}, {"base": [0.004], "head": [0.001, 0.003]}]
    found = compare.compared(rounds)
    assert (found.base.median, found.base.best, found.base.calls) == (4.0, 2.0, 3)
    assert (found.head.median, found.head.best, found.head.calls) == (1.5, 1.0, 3)
    assert found.ratio == pytest.approx(0.5)
    assert found.ratio_lower_quartile == found.ratio_upper_quartile == found.ratio
    assert compare.quartiles([3.0]) == (3.0, 3.0, 3.0)


def test_processes_take_turns(compare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    python = Path(sys.executable)
    found, packages = compare.measure({"base": python, "head": python}, "optimizer muon", 2, 1, seconds=0.0)
    assert found.rounds == 2
    assert found.base.calls == found.head.calls == 2
    assert set(packages) == {"base", "head"}
    with pytest.raises(compare.ComparisonError, match=r"base cannot run it: .*invalid choice"):
        compare.measure({"base": python, "head": python}, "no such subject", 1, 1)


def test_the_command_line(compare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["compare.py", "HEAD", "nowhere"])
    with pytest.raises(SystemExit, match=r"compare\.py: there is no commit 'nowhere'"):
        compare.main()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "build", stop)
    monkeypatch.setattr("sys.argv", ["compare.py", "HEAD", "."])
    with pytest.raises(SystemExit, match=r"compare\.py: stopped"):
        compare.main()

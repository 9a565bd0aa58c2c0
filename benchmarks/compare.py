r"""Two commits on this machine: built beside each other, timed in turns, and by how much one is faster.

    python benchmarks/compare.py HEAD~1 HEAD
    python benchmarks/compare.py main . --subject "training step" --subject head --json turns.json

``.`` stands for the working tree with its uncommitted changes. Each commit is built as ``pip install`` would,
with this environment's torch and compiler, in a temporary folder that goes when the script ends; that takes
some minutes. Each subject then runs in one process a commit. They take turns, in a new order every round;
with one thread all on one processor.
``ratio`` is HEAD's time over BASE's, round by round: its median, and its quartiles.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker_processes import ended_at_last

ROOT = Path(__file__).resolve().parent.parent
WORKING_TREE = "."
# A turn is as many calls as fit into this, so that the turn's first call, which does not count, costs little.
SECONDS_OF_A_TURN = 0.2

Call = Callable[[], Any]


class ComparisonError(Exception):
    """What the user can mend."""


def _inference(precision: str, batch: int) -> Call:
    import torch

    import pocketnet_fast

    torch.manual_seed(0)
    network = pocketnet_fast.compile(
        pocketnet_fast.create_model("pocketnet_s128").eval(), precision=precision
    )
    images = torch.randn(batch, 3, 112, 112)
    return lambda: network(images)


def _training_step(bf16: bool) -> Call:
    import torch

    import pocketnet_fast

    torch.manual_seed(0)
    model = pocketnet_fast.create_model("pocketnet_s128").train()
    images = torch.randn(8, 3, 112, 112)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            embedding = model(images)
        embedding.float().square().mean().backward()

    return step


def _head(**options: str) -> Call:
    import margin_cross_entropy as benchmark
    import torch

    from pocketnet_fast.losses import margin_cross_entropy

    embedding, kernel, label = benchmark.inputs(256, 128, 85_742)

    def step() -> None:
        loss = margin_cross_entropy(embedding, kernel, label, **options)  # type: ignore[arg-type]
        torch.autograd.grad(loss, (embedding, kernel))

    return step


def _optimizer(kind: str) -> Call:
    import torch

    import pocketnet_fast
    from pocketnet_fast.training.optimizer import make_optimizer
    from pocketnet_fast.training.recipe import OptimizerRecipe

    torch.manual_seed(0)
    parameters = dict(pocketnet_fast.create_model("pocketnet_s128").named_parameters())
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    return make_optimizer(OptimizerRecipe(kind), parameters).step  # type: ignore[arg-type]


def _detector() -> Call:
    import numpy as np

    from pocketnet_fast.data.synthetic import render_identity
    from pocketnet_fast.faces.detector import FaceDetector

    image = np.full((320, 320, 3), 128, np.uint8)
    for number, corner in enumerate(np.ndindex(2, 2)):
        top, left = (128 * place for place in corner)
        image[top : top + 112, left : left + 112] = render_identity(0, number, 0)
    detector = FaceDetector()
    return lambda: detector.detect(image)


SUBJECTS: dict[str, Callable[[], Call]] = {
    "inference fp32, batch 1": lambda: _inference("fp32", 1),
    "inference fp32, batch 32": lambda: _inference("fp32", 32),
    "inference bf16, batch 1": lambda: _inference("bf16", 1),
    "inference bf16, batch 32": lambda: _inference("bf16", 32),
    "training step": lambda: _training_step(False),
    "training step bf16": lambda: _training_step(True),
    "head": _head,
    "head bf16": lambda: _head(precision="bf16"),
    "optimizer muon": lambda: _optimizer("muon"),
    "detector": _detector,
}


def work(subject: str, threads: int) -> None:
    """Build a subject; then answer each line of input, a number of seconds, with those of the calls in it."""
    from step_turns import limit_threads

    import pocketnet_fast

    limit_threads(threads)
    call = SUBJECTS[subject]()
    call()
    print(json.dumps({"package": pocketnet_fast.__file__}), flush=True)
    for line in sys.stdin:
        call()
        times: list[float] = []
        while not times or sum(times) < float(line):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ComparisonError(done.stderr.strip().removeprefix("fatal: ") or f"git {arguments[0]} failed")
    return done.stdout


def resolve(name: str) -> str:
    """The commit of a name, or ``.``.

    Raises:
        ComparisonError: There is none.
    """
    if name == WORKING_TREE:
        return name
    try:
        return _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except ComparisonError:
        raise ComparisonError(
            f"there is no commit {name!r}; expected a commit, a branch, a tag or '.'"
        ) from None


def uncommitted(commits: Mapping[str, str]) -> str | None:
    """What to say where changes of the working tree take no part in the comparison."""
    changed = _git("status", "--porcelain").splitlines()
    if not changed or WORKING_TREE in commits.values():
        return None
    return f"{len(changed)} uncommitted changes take no part; '.' stands for the working tree with them"


def copy_sources(commit: str, folder: Path) -> None:
    """Put the files of a commit, or those of the working tree that git does not ignore, into a folder."""
    folder.mkdir(parents=True)
    if commit != WORKING_TREE:
        archive = folder.with_suffix(".tar")
        _git("archive", "--format=tar", f"--output={archive}", commit)
        shutil.unpack_archive(archive, folder)
        return
    for name in _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)


def _shared_packages() -> list[str]:
    """Where this interpreter finds installed packages."""
    return [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]


def build(name: str, commit: str, folder: Path) -> Path:
    """Build a version in an environment of its own that shares this one's packages; returns its interpreter.

    Raises:
        ComparisonError: With the end of the build's output.
    """
    copy_sources(commit, folder / "source")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text("".join(f"{entry}\n" for entry in _shared_packages()))
    # Compilers' front ends that pip installed lie beside the interpreter of their environment.
    programs = [
        Path(sys.executable).parent,
        *(Path(entry).parents[2] / "bin" for entry in _shared_packages()),
    ]
    path = os.pathsep.join([*map(str, programs), os.environ.get("PATH", "")])
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    done = subprocess.run(
        [*install, "--no-build-isolation", "--no-deps", "--force-reinstall", str(folder / "source")],
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        end = "\n".join(done.stdout.strip().splitlines()[-30:])
        raise ComparisonError(f"{name} ({commit[:12]}) cannot be built:\n{end}")
    return python


@dataclass(frozen=True)
class Times:
    """Milliseconds of the calls of one version, and how many there were."""

    median: float
    lower_quartile: float
    upper_quartile: float
    best: float
    calls: int


@dataclass(frozen=True)
class Comparison:
    """A subject's times by version, and the ratio of HEAD's to BASE's medians of a round."""

    base: Times
    head: Times
    ratio: float
    ratio_lower_quartile: float
    ratio_upper_quartile: float
    rounds: int


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of one value, itself."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def compared(rounds: list[dict[str, list[float]]]) -> Comparison:
    """The comparison of rounds of seconds by version, "base" and "head"."""

    def times(version: str) -> Times:
        all_ = [1e3 * value for turn in rounds for value in turn[version]]
        lower, median, upper = quartiles(all_)
        return Times(median, lower, upper, min(all_), len(all_))

    ratios = [statistics.median(turn["head"]) / statistics.median(turn["base"]) for turn in rounds]
    lower, median, upper = quartiles(ratios)
    return Comparison(times("base"), times("head"), median, lower, upper, len(rounds))


@contextlib.contextmanager
def _workers(
    pythons: Mapping[str, Path], subject: str, threads: int
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    # An installed package, whatever the caller's environment would put before it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with ended_at_last() as started:
        for version, python in pythons.items():
            command = [str(python), __file__, "--work", subject, "--threads", str(threads)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            started[version] = subprocess.Popen(command, text=True, env=environment, cwd="/", **pipes)
        yield started


def _answer(version: str, process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    if not line:
        last = process.stderr.read().strip().rpartition("\n")[2]
        raise ComparisonError(f"{version} cannot run it: {last or 'it ended without a word'}")
    return json.loads(line)


def measure(
    pythons: Mapping[str, Path], subject: str, rounds: int, threads: int, seconds: float = SECONDS_OF_A_TURN
) -> tuple[Comparison, dict[str, str]]:
    """Let a subject's two processes take turns; returns the comparison, and where each found the package.

    Raises:
        ComparisonError: One of them cannot run the subject.
    """
    with _workers(pythons, subject, threads) as workers:
        packages = {version: _answer(version, process)["package"] for version, process in workers.items()}
        order = random.Random(0)
        turns: list[dict[str, list[float]]] = []
        for _ in range(rounds):
            turn = {}
            for version in order.sample(list(workers), len(workers)):
                stdin = workers[version].stdin
                assert stdin is not None
                stdin.write(f"{seconds}\n")
                stdin.flush()
                turn[version] = _answer(version, workers[version])
            turns.append(turn)
    return compared(turns), packages


def _print(subject: str, found: Comparison) -> None:
    def cell(times: Times) -> str:
        quarters = f"{times.lower_quartile:.3f} to {times.upper_quartile:.3f}"
        return f"{times.median:8.3f} ({quarters}; {times.best:.3f})"

    print(
        f"{subject:26} {cell(found.base):>38} {cell(found.head):>38}   {found.ratio:.3f} "
        f"({found.ratio_lower_quartile:.3f} to {found.ratio_upper_quartile:.3f})",
        flush=True,
    )


def compare(a: argparse.Namespace) -> dict[str, Any]:
    """Carry out what the options say; returns what ``--json`` writes."""
    from pocketnet_fast.machine import processor_name

    commits = {"base": resolve(a.base), "head": resolve(a.head)}
    remark = uncommitted(commits)
    if remark is not None:
        print(remark, file=sys.stderr)
    if commits["base"] == commits["head"]:
        print("BASE and HEAD are the same: the ratios are the noise of this machine", file=sys.stderr)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        pythons = {}
        for version, commit in commits.items():
            print(f"building {version}, {commit[:12]} ...", file=sys.stderr, flush=True)
            pythons[version] = build(version, commit, Path(folder) / version)
        print(f"{processor_name()}, {a.threads} thread(s); milliseconds: median (quartiles; best)")
        print(f"{'':26} {'BASE ' + commits['base'][:12]:>38} {'HEAD ' + commits['head'][:12]:>38}   ratio")
        for subject in a.subject or SUBJECTS:
            try:
                result, packages = measure(pythons, subject, a.rounds, a.threads)
            except ComparisonError as error:
                print(f"{subject:26} {error}", flush=True)
                found[subject] = {"error": str(error)}
                continue
            strange = [where for where in packages.values() if not where.startswith(folder)]
            if strange:
                raise ComparisonError(f"{strange[0]} was timed instead of what was built in {folder}")
            _print(subject, result)
            found[subject] = asdict(result)
    return {"machine": processor_name(), "threads": a.threads, "commits": commits, "subjects": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", nargs="?", help="a commit")
    parser.add_argument("head", nargs="?", default="HEAD", help="a commit, or . (default: HEAD)")
    parser.add_argument("--subject", action="append", choices=[*SUBJECTS], help="may be given several times")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--work", choices=[*SUBJECTS], help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.work:
        work(a.work, a.threads)
        return
    if a.base is None:
        parser.error("expected BASE, and HEAD")
    if a.rounds < 1 or a.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    try:
        found = compare(a)
    except ComparisonError as error:
        sys.exit(f"compare.py: {error}")
    except KeyboardInterrupt:
        sys.exit("compare.py: stopped")
    if a.json is not None:
        a.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

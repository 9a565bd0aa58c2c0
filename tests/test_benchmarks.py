"""The benchmarks' scripts: each says what it takes, and runs at its smallest. No figure is judged."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from faces import crop
from helpers import random_genotype
from pair_files import drawn_pairs
from training_runs import write_faces

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.evaluation.pair_files import write_pairs
from pocketnet_fast.export.onnx import export_onnx
from pocketnet_fast.faces.detector import Face, FaceDetector
from pocketnet_fast.models.pocketnet import PocketNet

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(
    str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py") if "ArgumentParser" in path.read_text()
)

Start = Callable[..., int]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Run a script in this process, as the command line would; returns its exit code."""
    threads, processors = torch.get_num_threads(), os.sched_getaffinity(0)

    def run(script: str, *arguments: object) -> int:
        path = FOLDER / script
        monkeypatch.setattr("sys.argv", [str(path), *map(str, arguments)])
        monkeypatch.syspath_prepend(str(path.parent))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        return 0

    yield run
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, processors)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(start: Start, script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(script, "--help") == 0
    assert "usage: " in capsys.readouterr().out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_faces(folder / "train.rec", identities=8)
    write_pairs(folder / "pairs.bin", drawn_pairs(20))
    photos = folder / "photos"
    photos.mkdir()
    for number, name in enumerate("abcd"):
        (photos / f"{name}.png").write_bytes(encode_image(crop(number), ".png"))
    (photos / "pairs.csv").write_text("left,right,same\na.png,b.png,1\nc.png,d.png,1\n")
    return folder


SMALLEST = {
    "c_library.py": "--rounds 1 --calls 1 --out {out}/a.json",
    "data_loading.py": "--records {data}/train.rec --images 12 --batch 6 --rounds 2 --json {out}/a.json",
    "detection.py": "--side 128 --rounds 1 --json {out}/a.json",
    "error_groups.py": "{data}/pairs.bin --side 28 --json {out}/a.json",
    "half_precision.py": "{data} --images 4",
    "identification.py": "--rows 600 --dims 16 --probes 160 --scale 0.0005 --threads 1 --rounds 2",
    "int8_fidelity.py": "{data} --images 4 --calibration 4",
    "margin_cross_entropy.py": "--samples 8 --dims 16 --classes 64 --rounds 1 --subject fused",
    "photos.py": "{data}/photos --rounds 1 --many 4 --threads 1 --json {out}/a.json",
    "quality.py": "{data}/pairs.bin --folds 2 --side 28 --photos {data}/photos --width 40 "
    "--json {out}/a.json",
    "run.py": "--batch 1 --threads 1 --subject pocketnet_fast --rounds 1 --seconds 0 --out {out}",
    "search_step.py": "--channels 2 --layers 4 --batch 2 --rounds 1 --subject plain --json {out}/a.json",
    "search_study.py": "--data {data}/train.rec --people 4 --pairs 20 --channels 2 --epochs 1 --seeds 1 "
    "--train-epochs 1 --latency-weights 0 --rounds 1 --out {out}/study",
    "shapes.py": "--check",
    "steps.py": "--network pocketnet_s128 --match stem --rounds 1 --json {out}/a.json",
    "threads.py": "--precision fp32 --part calls pipeline callers forked training --rounds 1 --batch 2 "
    "--json {out}/a.json",
    "turned_photos.py": "{data}/photos",
    "training_step.py": "--batch 2 --rounds 1 --subject channels_last --json {out}/a.json",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALLEST)
def test_smallest_run(
    start: Start,
    script: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The groups are of pose and light, which a detector's landmarks tell; any will do.
    face = Face((0.0, 0.0, 112.0, 112.0), TEMPLATE, 0.9)
    monkeypatch.setattr(FaceDetector, "__init__", lambda self, model=None, **options: None)
    monkeypatch.setattr(FaceDetector, "detect", lambda self, image: [face])
    arguments = SMALLEST[script].format(data=data, out=tmp_path).split()
    assert start(script, *arguments) == 0, capsys.readouterr().err
    written = tmp_path / "a.json"
    if str(written) in arguments:
        assert json.loads(written.read_text())
    assert capsys.readouterr().out or script == "shapes.py"


# compare.py builds two commits (tests/test_compare.py), those of the service start it (tests/server), and
# embedding_photos.py starts Ray and six commands (tests/test_embed_on_ray.py runs what it measures).
# web_graph.py has a test below.
NOT_HERE = {"compare.py", "embedding_photos.py", "server.py", "server_soak.py", "web_graph.py"}


@pytest.mark.slow
def test_a_graph_for_the_browser(start: Start, tmp_path: Path) -> None:
    """Every operation reads what is there, and the last gives the network's result."""
    pytest.importorskip("onnx")
    network = PocketNet(random_genotype(3), 4, 4, 16).eval()
    export_onnx(network, tmp_path / "m.onnx")
    assert start("web_graph.py", tmp_path / "m.onnx", tmp_path / "graph") == 0
    graph = json.loads((tmp_path / "graph" / "graph.json").read_text())
    known = {graph["input"]}
    for operation in graph["operations"]:
        assert known.issuperset(operation["inputs"]), operation
        known.add(operation["output"])
    assert graph["output"] in known
    floats = (tmp_path / "graph" / "weights.bin").stat().st_size // 4
    assert floats == sum(math.prod(constant["shape"]) for constant in graph["constants"])


def test_no_script_is_forgotten() -> None:
    assert {name for name in SCRIPTS if not name.startswith("gpu/")} == set(SMALLEST) | NOT_HERE


def test_what_needs_a_gpu_says_so(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert start("gpu/run.py", "--out", tmp_path) != 0


@pytest.mark.slow
def test_the_suite_under_pytest_times_by_default(tmp_path: Path) -> None:
    """`pytest benchmarks` measures; what it writes can be grouped by any parameter."""
    written = tmp_path / "a.json"
    chosen = "test_inference and eager-1 or test_loss and chunked or test_training_step and fused"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        "-q",
        "-k",
        chosen,
        f"--benchmark-json={written}",
    ]
    # Beside workers of pytest-xdist, pytest-benchmark does not measure, and writes nothing.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads(written.read_text())["benchmarks"]
    assert sorted((e["name"].partition("[")[0], e["params"]["subject"]) for e in entries) == [
        ("test_inference", "eager"),
        ("test_loss", "chunked"),
        ("test_training_step", "fused"),
        ("test_training_step", "fused, bf16"),
    ]
    later = tmp_path / "b.json"
    later.write_text(written.read_text())
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(written), str(later)]
    table = subprocess.run(command, env=alone, capture_output=True, text=True, check=True).stdout
    assert table.count("test_loss[chunked-10000]") == 2


@pytest.mark.slow
def test_the_suite_holds_every_kind() -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--collect-only"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in ("test_inference", "test_step", "test_loss", "test_training_step", "test_search_step"):
        assert f"::{name}[" in listed


@pytest.mark.parametrize("batches", [[1], [1, 8], [1, 8, 32]])
def test_names_stand_beside_their_bars(monkeypatch: pytest.MonkeyPatch, batches: list[int]) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    monkeypatch.syspath_prepend(str(FOLDER))
    import report

    timed = [
        {"subject": s, "batch": b, "median_ms": m + b / 100, "lower_ms": m, "upper_ms": m + 1.0}
        for s, m in (("quick", 1.0), ("slow", 9.0))
        for b in batches
        if s == "quick" or b != 8  # one that was not timed at a batch
    ]
    axis = Figure().add_subplot()
    report._draw_times(axis, timed)
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["slow", "quick"]
    for place, name in zip(axis.get_yticks(), names, strict=True):
        expected = {row["median_ms"] for row in timed if row["subject"] == name}
        near = [bar for bar in axis.patches if abs(bar.get_y() + bar.get_height() / 2 - place) < 0.5]
        assert {bar.get_width() for bar in near} == expected

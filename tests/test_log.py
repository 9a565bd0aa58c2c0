"""The log of a run: its lines, what a resumed run drops, and TensorBoard."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.resumable.log import RunLog, read_log, truncate_log


def write(folder: Path) -> None:
    log = RunLog(folder, False, 0)
    for step in range(1, 6):
        log.write("step", step, loss=1 / step)
        if step == 3:
            log.write("verification", step, accuracy=0.5)
    log.close()


def test_lines(tmp_path: Path) -> None:
    write(tmp_path)
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4, 5]
    assert lines[2]["loss"] == 1 / 3
    assert all(set(line) >= {"event", "step", "time"} for line in lines)
    assert read_log(tmp_path, "verification") == [lines[3]]
    log = RunLog(tmp_path, False, 0)
    log.write("step", 6, loss=float("nan"))
    log.close()
    assert read_log(tmp_path)[-1]["loss"] is None
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_truncation(tmp_path: Path) -> None:
    truncate_log(tmp_path, 3, 3)
    assert not list(tmp_path.iterdir())
    write(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    truncate_log(tmp_path, 4, 3)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 3, 4]
    truncate_log(tmp_path, 3, 3)
    assert [line["event"] for line in read_log(tmp_path)][2:] == ["step", "verification"]
    truncate_log(tmp_path, 3, -1)
    assert [line["event"] for line in read_log(tmp_path)][2:] == ["step"]
    (tmp_path / "log.jsonl").write_text("something else\n")
    with pytest.raises(PocketNetError, match=r"'something else.n' is no line of a run's log"):
        truncate_log(tmp_path, 3, 3)
    assert (tmp_path / "log.jsonl").read_text() == "something else\n"


def test_tensorboard(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path, True, 0)
    log.write("step", 1, loss=0.5, note="text")
    log.write("step", 2, loss=0.25)
    log.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(s.step, s.value) for s in events.Scalars("step/loss")] == [(1, 0.5), (2, 0.25)]
    # A run that goes on after step 1 hides what came later.
    again = RunLog(tmp_path, True, 1)
    again.write("step", 2, loss=0.125)
    again.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(s.step, s.value) for s in events.Scalars("step/loss")] == [(1, 0.5), (2, 0.125)]


def test_each_verification_set_has_curves_of_its_own(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path, True, 0)
    log.write("start", 0, images=36, classes=6, device="cpu")
    for step in (10, 20):
        for dataset, accuracy in (("lfw", 0.5 + step / 100), ("cfp_fp", 0.25 + step / 100)):
            log.write("verification", step, epoch=step // 10, dataset=dataset, accuracy=accuracy)
    log.write("resume", 20, images=36)
    log.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["verification/cfp_fp/accuracy", "verification/lfw/accuracy"]
    values = [point.value for point in events.Scalars("verification/lfw/accuracy")]
    assert values == pytest.approx([0.6, 0.7])
    assert sorted(events.Tags()["tensors"]) == ["resume/text_summary", "start/text_summary"]
    (text,) = events.Tensors("start/text_summary")
    assert b"| classes | 6 |" in text.tensor_proto.string_val[0]


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = RunLog(tmp_path, "auto", 0)
    assert log.remark is not None
    assert "TensorBoard is not installed" in log.remark
    log.write("start", 0)
    log.close()
    assert json.loads((tmp_path / "log.jsonl").read_text())["event"] == "start"
    with pytest.raises(PocketNetError, match="pip install 'pocketnet_fast"):
        RunLog(tmp_path, True, 0)
    assert RunLog(tmp_path, False, 0).remark is None

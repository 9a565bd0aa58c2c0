"""The loop of a search: its folder, resuming bit for bit, early ends, several processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from search_runs import tiny_search
from training_runs import lines, same_bits, write_faces

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import OPERATIONS, format_genotype, parse_genotype, read_genotype
from pocketnet_fast.resumable.loop import DivergedError
from pocketnet_fast.search.checkpoint import SearchFolder
from pocketnet_fast.search.failure_signs import skip_shares
from pocketnet_fast.search.searcher import SearchOutcome, search
from pocketnet_fast.search.step import SearchStepper

STEPS = 3  # of an epoch: 36 images, of which each half has 18, in batches of 6


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "train.rec")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> SearchOutcome:
    """A search with everything on, not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return search(tiny_search(faces, watch__eigenvalue_epochs=1, watch__eigenvalue_steps=1), folder)


def state(folder: Path) -> dict[str, torch.Tensor]:
    newest = max(folder.glob("*state.safetensors"), key=lambda p: int(p.name.split("state")[0]))
    return load_file(newest)


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a signal come during a step."""
    plain, left = SearchStepper.__call__, [steps]

    def counted(self: SearchStepper, *arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        return plain(self, *arguments)

    monkeypatch.setattr(SearchStepper, "__call__", counted)


@pytest.mark.slow
def test_a_search_ends_with_a_genotype(whole: SearchOutcome) -> None:
    assert whole.finished
    assert (whole.epoch, whole.step, whole.signal, whole.ended) == (2, 2 * STEPS, 0, "")
    assert whole.genotype_file is not None
    assert read_genotype(whole.genotype_file) == whole.genotype
    assert parse_genotype((whole.folder / "genotype.txt").read_text()) == whole.genotype
    validations = lines(whole.folder, "validation")
    assert [line["epoch"] for line in validations] == [1, 2]
    best = validations[whole.best_epoch - 1]
    assert best["accuracy"] == whole.best_accuracy == max(line["accuracy"] for line in validations)
    assert best["genotype"] == format_genotype(whole.genotype)
    for line in validations:
        path = whole.folder / "epochs" / str(line["epoch"])
        assert read_genotype(path.with_suffix(".json")) == parse_genotype(line["genotype"])
        assert read_genotype(path.with_suffix(".txt")) == parse_genotype(line["genotype"])
        assert [len(node) for node in line["operation_weights"]["normal"]] == [2, 3]
        assert line["eigenvalue"] != 0
        assert 0 <= line["skip_share_normal"] <= 1


def test_weights_and_alphas_follow_their_gradients(whole: SearchOutcome) -> None:
    losses = [line["loss"] for line in lines(whole.folder, "epoch")]
    assert losses[1] < losses[0]
    rates = [line["lr"] for line in lines(whole.folder, "step")]
    assert rates[0] == pytest.approx(0.05)
    assert rates == sorted(rates, reverse=True)
    first, last = (line["operation_weights"]["normal"][0][0] for line in lines(whole.folder, "validation"))
    assert max(abs(a - b) for a, b in zip(first, last, strict=True)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, STEPS, STEPS + 1])
def test_resuming_is_bit_for_bit(
    whole: SearchOutcome, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    folder = tmp_path / "run"
    recipe = tiny_search(faces, watch__eigenvalue_epochs=1, watch__eigenvalue_steps=1)
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        stopped = search(recipe, folder)
    assert (stopped.signal, stopped.step, stopped.finished) == (signal.SIGINT, steps, False)
    outcome = search(None, folder, resume=True)
    assert outcome.finished
    assert same_bits(state(whole.folder), state(folder))
    assert same_bits(load_file(whole.folder / "best.safetensors"), load_file(folder / "best.safetensors"))
    events = ("step", "epoch", "validation")
    assert lines(whole.folder, *events) == lines(folder, *events)
    assert outcome.genotype == whole.genotype


def test_a_damaged_checkpoint_is_passed_over(whole: SearchOutcome, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole.folder, tmp_path / "run"))
    newest = folder / f"{2 * STEPS}state.safetensors"
    data = bytearray(newest.read_bytes())
    data[-100] ^= 1
    newest.write_bytes(data)
    progress, problems = SearchFolder(folder).latest()
    assert progress is not None
    assert progress.step == STEPS
    assert "does not match its SHA-256" in problems[0]
    search(None, folder, resume=True)
    assert same_bits(state(whole.folder), state(folder))


@pytest.mark.slow
def test_second_order_and_late_alphas(faces: Path, tmp_path: Path) -> None:
    late = {"architecture__begin_epoch": 2, "architecture__order": 2, "weights__epochs": 2}
    search(tiny_search(faces, **late), tmp_path / "run")
    first, last = (line["operation_weights"]["reduce"] for line in lines(tmp_path / "run", "validation"))
    assert abs(first[0][0][0] - 1 / 8) < 2e-3
    assert max(abs(a - b) for a, b in zip(first[0][0], last[0][0], strict=True)) > 1e-3


@pytest.mark.slow
def test_latency_counts_in_gradient_and_choice(faces: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    # Skip connections are free and everything else takes a millisecond, wherever it stands.
    entries = [
        {"operation": operation, "channels": 2 * w, "stride": stride, "height": size, "width": size}
        | {"ms": float(operation != "skip_connect")}
        for operation in OPERATIONS
        for w in (1, 2, 4, 8)
        for stride in (1, 2)
        for size in (56, 28, 14, 7)
    ]
    table.write_text(json.dumps({"machine": "none", "entries": entries}))
    found = {}
    for weight in (0.0, 1000.0):
        values = {"architecture__latency_table": table, "architecture__latency_weight": weight}
        found[weight] = search(tiny_search(faces, weights__epochs=3, **values), tmp_path / f"run{weight:g}")
    light, heavy = (lines(found[weight].folder, "validation") for weight in found)
    assert heavy[-1]["latency"] < min(light[-1]["latency"], heavy[0]["latency"])
    shares = skip_shares(found[1000.0].genotype)
    assert shares == {"normal": 1.0, "reduce": 1.0}
    # The objective is nearly the latency alone, which falls from epoch to epoch.
    assert found[1000.0].best_epoch == 3
    assert lines(found[1000.0].folder, "step")[0]["latency"] > 0


def test_skip_connections_end_a_search(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SearchStepper.__call__

    def skipping(self: SearchStepper, *arguments: Any) -> Any:
        with torch.no_grad():
            for alpha in self.network.alphas().values():
                alpha[:, 2] += 5
        return plain(self, *arguments)

    monkeypatch.setattr(SearchStepper, "__call__", skipping)
    outcome = search(tiny_search(faces, watch__stop_skip_share=0.5), tmp_path / "run")
    assert outcome.finished
    assert outcome.epoch == 1
    assert "100% of the normal cell are skip connections" in outcome.ended
    assert lines(tmp_path / "run", "ended")[0]["reason"] == outcome.ended
    assert search(None, tmp_path / "run", resume=True).step == outcome.step


def test_a_sharper_loss_ends_a_search(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([1.0, -1.1, 1.5])
    monkeypatch.setattr("pocketnet_fast.search.searcher.dominant_eigenvalue", lambda *a, **k: next(found))
    watch = {"watch__eigenvalue_epochs": 1, "watch__stop_eigenvalue_ratio": 1.3, "watch__eigenvalue_gap": 1}
    outcome = search(tiny_search(faces, weights__epochs=5, **watch), tmp_path / "run")
    assert outcome.epoch == 3
    assert outcome.ended == "the dominant eigenvalue has grown from 1.1 to 1.5"


def test_steps_that_are_not_finite_are_skipped(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls, kept = SearchStepper._differentiate, [0], []

    def poisoned(self: SearchStepper, train: Any) -> Any:
        calls[0] += 1
        loss, accuracy, norm = plain(self, train)
        if calls[0] == 2:
            kept.append({name: value.clone() for name, value in self.network.state_dict().items()})
            return loss * float("nan"), accuracy, norm
        if calls[0] == 3:
            # At the start of step 3 everything is as before step 2, but for step 3's alphas and statistics.
            kept.append({name: value.clone() for name, value in self.network.state_dict().items()})
        return loss, accuracy, norm

    monkeypatch.setattr(SearchStepper, "_differentiate", poisoned)
    search(tiny_search(faces, weights__epochs=1), tmp_path / "run")
    assert [line["reason"] for line in lines(tmp_path / "run", "skipped")] == ["the loss is not finite"]
    for name, value in kept[0].items():
        if name.startswith("net.") and "running" not in name and "tracked" not in name:
            assert torch.equal(value, kept[1][name]), name
    assert kept[0]["net.stem.1.num_batches_tracked"] == kept[1]["net.stem.1.num_batches_tracked"]

    monkeypatch.setattr(
        SearchStepper, "_differentiate", lambda self, train: (torch.tensor(torch.nan), torch.tensor(0.0), 1.0)
    )
    with pytest.raises(DivergedError, match="the search has diverged: the loss is not finite"):
        search(tiny_search(faces, weights__epochs=9, run__max_skipped=2), tmp_path / "diverged")


def test_folders_and_recipes_are_checked(whole: SearchOutcome, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="holds a run already"):
        search(tiny_search(faces), whole.folder)
    with pytest.raises(PocketNetError, match="holds no search"):
        search(None, tmp_path, resume=True)
    with pytest.raises(PocketNetError, match=r"another recipe: .*weights.lr 0.05 -> 0.1"):
        search(tiny_search(faces, weights__lr=0.1), whole.folder, resume=True)
    with pytest.raises(PocketNetError, match="no data: pass --data"):
        search(tiny_search(faces, data__source="none"), tmp_path / "run")


AGREE = """
import sys, torch
from pocketnet_fast.search import searcher
plain = searcher._Search._save
def save(self):
    import torch.distributed as dist
    mine = torch.cat([p.detach().flatten() for p in self.parts.network.parameters()])
    theirs = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(theirs, mine)
    assert torch.equal(*theirs), "ranks differ"
    assert self.parts.train_loader.sampler.rank == dist.get_rank()
    plain(self)
searcher._Search._save = save
from pathlib import Path
from pocketnet_fast.search.recipe import load_search_recipe
searcher.search(load_search_recipe(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_two_processes_agree(faces: Path, tmp_path: Path, order: int) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tiny_search(faces, data__batch_size=3, architecture__order=order).to_toml())
    script = tmp_path / "agree.py"
    script.write_text(AGREE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(recipe), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(tmp_path / "two", "start")[0]["processes"] == 2
    assert len(lines(tmp_path / "two", "step")) == 2 * STEPS
    assert read_genotype(tmp_path / "two" / "genotype.json").normal

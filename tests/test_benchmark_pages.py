"""Runs of benchmarks/run.py as pages of the documentation: every figure stands with its machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from native import ROOT


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    import benchmark_pages

    return benchmark_pages


def machine(threads: int) -> dict[str, Any]:
    return {
        "cpu": f"Test CPU <{threads}>",
        "threads": threads,
        "gflops": 118.4,
        "gflops_source": "measured",
        "memory_gbs": 20.6,
        "l2_gbs": None,
        "bandwidth_source": "measured",
    }


def result(subject: str, threads: int, batch: int, median: float) -> dict[str, Any]:
    return {
        "subject": subject,
        "precision": "fp32",
        "threads": threads,
        "batch": batch,
        "version": f"{subject} 1.0",
        "cosine": 1.0,
        "error": 1e-6,
        "median_ms": median,
        "lower_ms": 0.9 * median,
        "upper_ms": 1.5 * median,
        "best_ms": 0.8 * median,
        "calls": 3,
        "times_ours": median / 2,
    }


def test_a_record_becomes_tables_and_drawings(tmp_path: Path, pages: ModuleType) -> None:
    refused = {"subject": "broken", "precision": "fp32", "threads": 1, "batch": 1, "refused": "it ended"}
    absent = {
        "subject": "absent",
        "precision": "fp32",
        "threads": 2,
        "batch": 8,
        "skipped": "not installed: x",
    }
    record = {
        "model": "pocketnet_s128",
        "load_average": 0.1,
        "machines": [machine(1), machine(2)],
        "results": [
            result("a & b", 1, 1, 8.0), result("pocketnet_fast", 1, 1, 2.0), refused,
            result("pocketnet_fast", 2, 8, 1.0), absent,
        ],
    }  # fmt: skip
    (tmp_path / "zen.json").write_text(json.dumps(record))
    made = dict(pages.run_pages(tmp_path))
    assert sorted(made) == [
        "benchmarks/runs/zen.md",
        "benchmarks/runs/zen_1_1.svg",
        "benchmarks/runs/zen_2_8.svg",
    ]
    text = made["benchmarks/runs/zen.md"]
    for threads, part in zip((1, 2), text.split("## ")[1:], strict=True):
        # The machine stands at the drawing and below the table.
        assert part.count(f"Test CPU <{threads}>") == 2
    assert "broken: refused, it ended." in text
    assert "absent: not timed, not installed: x." in text
    lines = [line for line in text.splitlines() if line.startswith("| **pocketnet_fast**")]
    assert lines[0] == (
        "| **pocketnet_fast**, pocketnet_fast 1.0 | fp32 | 2.00 | 1.80 to 3.00 | 1.60 | 1.00 | 1.000000 |"
    )
    drawing = ElementTree.fromstring(made["benchmarks/runs/zen_1_1.svg"])
    texts = ["".join(element.itertext()) for element in drawing.iter() if element.tag.endswith("text")]
    assert texts[1:5] == ["pocketnet_fast", "2.00", "a & b", "8.00"]
    assert "Test CPU <1>" in texts[-1]
    bars = [float(element.attrib["width"]) for element in drawing.iter() if element.tag.endswith("rect")]
    assert bars[1] == pytest.approx(4 * bars[0], abs=0.5)
    assert pages.runs_list(tmp_path) == "- [pocketnet_s128 on Test CPU <1>; Test CPU <2>](runs/zen.md)"


def test_without_records(tmp_path: Path, pages: ModuleType) -> None:
    assert [*pages.run_pages(tmp_path)] == []
    assert pages.runs_list(tmp_path) == "There is none at the moment."


@pytest.mark.slow(seconds=6)
def test_what_the_benchmark_writes_can_be_drawn(tmp_path: Path, pages: ModuleType) -> None:
    options = "--batch 1 --threads 1 --subject pocketnet_fast --rounds 1 --seconds 0 --out"
    command = [sys.executable, ROOT / "benchmarks" / "run.py", *options.split(), tmp_path]
    subprocess.run(command, capture_output=True, check=True)
    made = dict(pages.run_pages(tmp_path))
    assert list(made) == [
        "benchmarks/runs/inference_pocketnet_s128_1_1.svg",
        "benchmarks/runs/inference_pocketnet_s128.md",
    ]
    assert "**pocketnet_fast**" in made["benchmarks/runs/inference_pocketnet_s128.md"]

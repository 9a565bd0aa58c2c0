"""Fixtures that several tests share."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pocketnet_fast import FaceAnalyzer
    from pocketnet_fast.faces.detector import FaceDetector


def _is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


# Beside other workers, a test has a core of its own; threads that wait for work would take it from them.
if _is_worker():
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Packages are compiled for what they compute, not for their speed: Inductor need not try out the vectors of
# this processor, which packages do not use, nor optimise the code around its kernels.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")

# Shells let what they start in the background ignore interruptions, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ROOT = Path(__file__).resolve().parent.parent

import installed_package  # noqa: E402, F401 - before what imports it
from recordings import Golden, load_repository, load_shared, present, shared_folder  # noqa: E402 - needs both


def pytest_sessionstart(session: pytest.Session) -> None:
    # Workers of pytest-xdist start where the process that directs them is, and find their files from there.
    directs_workers = getattr(session.config.option, "dist", "no") != "no" and not _is_worker()
    if not directs_workers:
        os.chdir(_ROOT / "tests")


@pytest.fixture(autouse=True, scope="session")
def nan_in_empty_tensors() -> Iterator[None]:
    """Tensors that are made empty hold NaN, those of operators in C++ too: what is read unwritten shows.

    It comes with torch's deterministic algorithms, which are the CPU's as a rule; others are allowed.
    """
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of recorded data that is no part of the project."""
    return shared_folder()


@pytest.fixture(scope="session")
def yunet(shared_dir: Path) -> Path:
    """The detector's file as it is published, which is no part of the project."""
    return present(shared_dir / "models" / "yunet.onnx")


@pytest.fixture(scope="session")
def trained_mobilefacenet(shared_dir: Path) -> Path:
    """Weights that learned from photos, which are no part of the project."""
    return present(shared_dir / "models" / "mobilefacenet_ms1m.safetensors")


@pytest.fixture(scope="session")
def detector() -> FaceDetector:
    """The detector as every command makes it."""
    from pocketnet_fast.faces.detector import FaceDetector

    return FaceDetector()


@pytest.fixture(scope="session")
def analyzer() -> FaceAnalyzer:
    """The detector and the network that come with the package."""
    from pocketnet_fast import FaceAnalyzer

    return FaceAnalyzer()


@pytest.fixture(scope="session", params=["repository", "shared"])
def golden(request: pytest.FixtureRequest) -> Callable[[str], Golden]:
    """Load a recording by its name: that of the repository, and that of the published code beside it."""
    return load_repository if request.param == "repository" else load_shared


def _isas(precision: str) -> list[str]:
    from pocketnet_fast.ops.native import available_isas

    return available_isas(precision)


@pytest.fixture(autouse=True)
def isa_is_given_back() -> Iterator[None]:
    """Fail a test that leaves its instruction set forced, as the next one would run on it unseen."""
    from pocketnet_fast.ops.native import compiled_isa

    before = [compiled_isa(precision) for precision in ("fp32", "bf16")]
    yield
    assert [compiled_isa(precision) for precision in ("fp32", "bf16")] == before


@pytest.fixture(params=_isas("fp32"))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once per instruction set that this machine has."""
    from pocketnet_fast.ops.native import compiled_isa, forced_isa

    with forced_isa(request.param):
        assert compiled_isa() == request.param
        yield request.param


@pytest.fixture(params=_isas("bf16"))
def bf16_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once per instruction set that half precision has on this machine."""
    from pocketnet_fast.ops.native import compiled_isa, forced_isa

    with forced_isa(request.param):
        assert compiled_isa("bf16") == request.param
        yield request.param


def _seconds(item: pytest.Item) -> float:
    """What a test takes, about: what its marker says, or a few seconds, or nothing to speak of."""
    marker = item.get_closest_marker("slow")
    return 0 if marker is None else float(marker.kwargs.get("seconds", 3))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest begin first, so that no worker is left with one at the end."""
    files: Counter[Path] = Counter()
    for item in items:
        files[item.path] += _seconds(item)
    items.sort(key=lambda item: -files[item.path])

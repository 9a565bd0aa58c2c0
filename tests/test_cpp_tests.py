"""The native test suite: plain, under sanitizers, and emulated on another processor and on older CPUs."""

from __future__ import annotations

import platform

import pytest
from native import ROOT, build, ctest, run, sanitized_build, thread_sanitized_build, tool


def test_plain():
    output = ctest(build("release"))
    assert "100% tests passed" in output


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers():
    """With the kernels' assertions on, those of AVX-512 and of tile registers in plain C++ included."""
    ctest(sanitized_build())


@pytest.mark.slow
def test_thread_sanitizer():
    ctest(thread_sanitized_build("threads_tests"), "--label-regex", "threads")


@pytest.mark.slow
def test_neon():
    tool("aarch64-linux-gnu-g++")
    tool("qemu-aarch64")
    toolchain = ROOT / "cmake" / "aarch64-linux-gnu.cmake"
    folder = build("aarch64", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", target="kernels_tests")
    ctest(folder, "--label-regex", "kernels")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates older x86-64 CPUs")
@pytest.mark.parametrize("cpu", ["Nehalem", "Haswell"])
@pytest.mark.parametrize("test", ["dispatch_test", "margin_cross_entropy_test", "stem_test", "tail_test"])
def test_older_cpu(cpu: str, test: str):
    """Nehalem has no AVX at all, Haswell AVX2 and no AVX-512: an instruction too new ends the process."""
    emulator = tool("qemu-x86_64")
    output = run(emulator, "-cpu", cpu, build("release") / "csrc" / "tests" / test)
    assert ", 0 failed" in output

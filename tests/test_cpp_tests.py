"""The native test suite: plain, and emulated on another processor and on older CPUs."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import random_genotype, randomize_, relative_error
from native import (
    ROOT,
    arm_build,
    build,
    ctest,
    embeddings_of,
    network_command,
    release_build,
    run,
    tool,
)

from pocketnet_fast.models.pocketnet import PocketNet


@pytest.mark.slow(seconds=120)
def test_plain():
    output = ctest(release_build())
    assert "100% tests passed" in output


class EmulatedNetwork:
    """A network on two images, run by an emulated processor."""

    def __init__(self, emulator: list[str], build: Path, folder: Path) -> None:
        self.emulator, self.build, self.folder = emulator, build, folder
        self.network = randomize_(PocketNet(random_genotype(5), 4, 4, 16), 5)
        generator = torch.Generator().manual_seed(6)
        self.pixels = torch.randint(0, 256, (2, 112, 112, 3), generator=generator).byte()
        with torch.no_grad():
            self.expected = self.network(self.network.input_spec.normalize(self.pixels))

    def embed(self, isa: str, precision: str, cpu: str) -> subprocess.CompletedProcess[bytes]:
        command = network_command(
            "run_network", self.network, precision, isa, self.pixels.numpy(), self.folder, self.build
        )
        return subprocess.run(
            [*self.emulator, "-cpu", cpu, *command], capture_output=True, check=False, timeout=300
        )

    def error(self, isa: str, precision: str, cpu: str) -> float:
        """Relative to the expected embeddings."""
        return relative_error(embeddings_of(self.embed(isa, precision, cpu), 2), self.expected)


@pytest.mark.slow(seconds=100)
def test_neon(tmp_path: Path):
    emulator = [tool("qemu-aarch64"), "-L", "/usr/aarch64-linux-gnu"]
    folder = arm_build()
    ctest(folder, "--label-regex", "kernels", isa="neon")
    for test in ("node_test", "stem_test"):
        command = ("env", "PNF_TEST_ISA=neon_bf16", *emulator, folder / "csrc" / "tests" / test)
        assert ", 0 failed" in run(*command), test

    network = EmulatedNetwork(emulator, folder, tmp_path)
    assert network.error("neon", "fp32", "cortex-a53") < 1e-5
    floats = network.error("neon", "bf16", "cortex-a53")
    pairs = network.error("neon_bf16", "bf16", "max")
    assert pairs < 1.5 * floats, (pairs, floats)
    refused = network.embed("neon_bf16", "bf16", "cortex-a53")
    assert refused.returncode != 0 and b"'neon_bf16' is not available" in refused.stderr


@pytest.mark.slow(seconds=90)
def test_neon_of_32_bits(tmp_path: Path):
    """Where a pointer has 32 bits; a Cortex-A8 has NEON without a fused multiply-add, which is not enough."""
    tool("arm-linux-gnueabihf-g++")
    emulator = [tool("qemu-arm"), "-L", "/usr/arm-linux-gnueabihf"]
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / 'arm-linux-gnueabihf.cmake'}"
    folder = build("armhf", toolchain, target="run_network library_test node_test dispatch_test")
    for test in ("library_test", "node_test", "dispatch_test"):
        command = ("env", "PNF_TEST_ISA=neon", *emulator, folder / "csrc" / "tests" / test)
        assert ", 0 failed" in run(*command), test
    network = EmulatedNetwork(emulator, folder, tmp_path)
    for isa, cpu in (("neon", "cortex-a15"), ("scalar", "cortex-a8")):
        assert network.error(isa, "fp32", cpu) < 1e-5, isa
    refused = network.embed("neon", "fp32", "cortex-a8")
    assert refused.returncode != 0 and b"'neon' is not available" in refused.stderr


# Nehalem has no AVX at all, Haswell AVX2 and no AVX-512: an instruction too new ends the process.
OLDER = {"Nehalem": ("scalar",), "Haswell": ("scalar", "avx2")}
older_cpus = pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates older x86-64 CPUs")


@pytest.mark.slow
@older_cpus
@pytest.mark.parametrize("cpu", OLDER)
@pytest.mark.parametrize("test", ["dispatch_test", "margin_cross_entropy_test"])
def test_older_cpu(cpu: str, test: str):
    emulator = tool("qemu-x86_64")
    # Of the sets that the CPU has, the best: the others are tested where they are.
    only = f"PNF_TEST_ISA={OLDER[cpu][-1]}"
    output = run("env", only, emulator, "-cpu", cpu, release_build() / "csrc" / "tests" / test)
    assert ", 0 failed" in output


@pytest.mark.slow
@older_cpus
@pytest.mark.parametrize(("cpu", "isa"), [(cpu, isa) for cpu, isas in OLDER.items() for isa in isas])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_on_an_older_cpu(cpu: str, isa: str, precision: str, tmp_path: Path):
    """Every kernel of a program, on images of noise; what it computes is compared as well."""
    network = randomize_(PocketNet(random_genotype(5), 4, 4, 16), 5)
    pixels = torch.randint(0, 256, (2, 112, 112, 3), generator=torch.Generator().manual_seed(6)).byte()
    command = network_command("run_network", network, precision, isa, pixels.numpy(), tmp_path)
    done = subprocess.run(
        [tool("qemu-x86_64"), "-cpu", cpu, *command], capture_output=True, check=False, timeout=300
    )
    found = embeddings_of(done, 2)
    with torch.no_grad():
        expected = network(network.input_spec.normalize(pixels))
    assert relative_error(found, expected) < (1e-5 if precision == "fp32" else 3e-2)

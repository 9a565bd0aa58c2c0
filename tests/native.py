"""Builds of the native code, kept in ``build/`` so that a second run compiles only changes."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pocketnet_fast.models.pocketnet import PocketNet

ROOT = Path(__file__).resolve().parent.parent


def tool(name: str) -> str:
    """Path of a program on PATH or beside this Python; skips the test if there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path, timeout: float = 1800) -> str:
    """Output of a command, both streams; fails the test with it if the command fails.

    Beside another worker, builds and tests under sanitizers take minutes.
    """
    result = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if result.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))} returned {result.returncode}:\n{result.stdout[-20000:]}")
    return result.stdout


@functools.cache
def cmake_build(name: str, source: Path, *options: str, target: str = "all") -> Path:
    """Configure and build ``source`` in the folder ``name`` under ``build/``; returns that folder.

    Once in a process: looking for changes takes seconds, and tests ask for a program whenever they start it.
    """
    cmake, ninja = tool("cmake"), tool("ninja")
    folder = ROOT / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    configure = [cmake, "-S", source, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(*configure, *options)
        run(cmake, "--build", folder, "--target", *target.split(), "--parallel", str(os.cpu_count() or 1))
    return folder


def packaged_build() -> Path | None:
    """The folder where pip built the installed package's kernels, unless a source is newer than they are."""
    folders = [archive.parent for archive in (ROOT / "build").glob("cp*/libpnf_kernels.a")]
    if not folders:
        return None
    newest = max(folders, key=lambda folder: _modified(folder / "libpnf_kernels.a"))
    sources = [path for part in ("faces", "kernels", "plan") for path in (ROOT / "csrc" / part).rglob("*.*")]
    current = max(map(_modified, sources)) < _modified(newest / "libpnf_kernels.a")
    return newest if current else None


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def release_build() -> Path:
    """The native tests of the package's own kernels, or of the same sources where pip built elsewhere."""
    packaged = packaged_build()
    archive = "" if packaged is None else packaged / "libpnf_kernels.a"
    return build("release", f"-DPNF_KERNELS_ARCHIVE={archive}")


def build(name: str, *options: str, target: str = "all") -> Path:
    """Build the native library and its tests without torch; returns the build folder."""
    return cmake_build(f"native-{name}", ROOT, "-DPNF_TORCH=OFF", "-DPNF_TESTS=ON", *options, target=target)


def arm_build() -> Path:
    """The native tests and ``run_network`` for 64-bit ARM, by Debian's cross-compiler."""
    tool("aarch64-linux-gnu-g++")
    toolchain = ROOT / "cmake" / "aarch64-linux-gnu.cmake"
    return build("aarch64", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", target="kernels_tests run_network")


def wasm_build() -> Path:
    """The C library as WebAssembly; returns the folder that has ``web/wasm`` as it is installed."""
    for program in ("em++", "wasm-dis"):
        tool(program)
    options = (
        f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / 'wasm32.cmake'}",
        "-DPNF_TORCH=OFF",
        "-DPNF_TRAINING=OFF",
    )
    folder = cmake_build("wasm", ROOT, *options)
    run(tool("cmake"), "--install", folder, "--component", "web", "--prefix", folder / "web")
    return folder / "web" / "wasm"


def sanitized_build() -> Path:
    """Build under AddressSanitizer and UndefinedBehaviorSanitizer, the kernels' own assertions on.

    With the fuzzers, which replay what has been found.
    """
    return build("asan", "-DPNF_SANITIZE=address,undefined", "-DPNF_ASSERTIONS=ON", "-DPNF_FUZZ=ON")


def thread_sanitized_build(target: str) -> Path:
    """Build under ThreadSanitizer: the operators against torch, or the native tests, of the same kernels."""
    pybind11 = pytest.importorskip("pybind11", reason="the build of the operators needs pybind11")
    options = (
        "-DPNF_SANITIZE=thread",
        "-DPNF_TESTS=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    )
    return cmake_build("tsan", ROOT, *options, target=target)


def thread_sanitizer_launcher() -> list[str]:
    """What to put before a program so that ThreadSanitizer runs here; skips the test where it does not."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "probe"
        command = [tool("c++"), "-fsanitize=thread", "-x", "c++", "-", "-o", str(program)]
        built = subprocess.run(command, input="int main() {}", capture_output=True, text=True, check=False)
        if built.returncode != 0:
            pytest.skip(f"no ThreadSanitizer: {built.stderr.strip()}")
        # Kernels that place memory at more random addresses than ThreadSanitizer knows need them fixed.
        reason = ""
        for prefix in ([], ["setarch", "-R"]):
            try:
                done = subprocess.run([*prefix, str(program)], capture_output=True, text=True, check=False)
            except FileNotFoundError as error:
                reason += f"; {error}"
                continue
            if done.returncode == 0:
                return prefix
            reason += f"; {done.stderr.strip()}"
    pytest.skip(f"ThreadSanitizer does not run here{reason}")


def needs_header(header: str, package: str) -> None:
    """Skip the test if the compiler does not find a header of a Debian package."""
    probe = f"#if !__has_include(<{header}>)\n#error\n#endif\n"
    command = [tool("c++"), "-std=c++20", "-E", "-x", "c++", "-"]
    if subprocess.run(command, input=probe, capture_output=True, text=True, check=False).returncode != 0:
        pytest.skip(f"no <{header}>: apt install {package}")


# What the service is built from besides torch: modules of pkg-config, and Debian's packages of them.
SERVER_PACKAGES = {
    "CLI11": "libcli11-dev",
    "cpp-httplib": "libcpp-httplib-dev",
    "nlohmann_json": "nlohmann-json3-dev",
    "openssl": "libssl-dev",
    "prometheus-cpp-core": "prometheus-cpp-dev",
    "sqlite3": "libsqlite3-dev",
}


@functools.cache
def missing_for_the_server() -> tuple[str, ...]:
    """Debian's packages without which the service is not built."""
    pkg_config = shutil.which("pkg-config")
    if pkg_config is None:
        return ("pkg-config",)
    return tuple(
        package
        for module, package in SERVER_PACKAGES.items()
        if subprocess.run([pkg_config, "--exists", module], check=False).returncode != 0
    )


def _programs_build(target: str) -> Path:
    """Build programs against the installed package and torch, of which all share what they can."""
    # As `make server` asks it, in a clone, where the sources must not come before what is installed.
    asked = [Path(sys.executable).with_name("pocketnet"), "cmake", "--torch"]
    prefixes = subprocess.run(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    # CMake remembers what it found, so another installation gets another folder.
    name = f"programs-{hashlib.sha256(prefixes.encode()).hexdigest()[:8]}"
    options = (
        f"-DCMAKE_PREFIX_PATH={prefixes}",
        # What takes time when they run are the libraries.
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",
        "-DPNF_HOSTING_TESTS=ON",
        f"-DPROGRAMS_SERVER={'OFF' if missing_for_the_server() else 'ON'}",
    )
    return cmake_build(name, ROOT / "tests" / "programs", *options, target=target)


@functools.cache
def server() -> Path:
    """The service, built."""
    if missing := missing_for_the_server():
        pytest.skip(f"apt install {' '.join(missing)}")
    return _programs_build("pocketnet_server") / "server" / "pocketnet_server"


@functools.cache
def host_build() -> Path:
    """Build the example host, and programs that test its parts; returns the folder of all."""
    needs_header("nlohmann/json.hpp", "nlohmann-json3-dev")
    needs_header("CLI/CLI.hpp", "libcli11-dev")
    return _programs_build("cpp_host read_images decode_images run_exported")


def cpp_host() -> Path:
    """The example host, built."""
    return host_build() / "cpp_host" / "cpp_host"


def read_images(*, sanitized: bool = False) -> Path:
    """The program that reads image files without torch, built.

    Args:
        sanitized: Under AddressSanitizer and UndefinedBehaviorSanitizer.
    """
    return _sanitized_images() / "read_images" if sanitized else host_build() / "cpp_host" / "read_images"


def decode_images(*, sanitized: bool = False) -> Path:
    """``csrc/tests/decode_images.cpp``, built; ``sanitized``: as in ``read_images``."""
    return (_sanitized_images() if sanitized else host_build()) / "images" / "decode_images"


def _sanitized_images() -> Path:
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -g1 -O1"
    options = ["-DCPP_HOST_TORCH=OFF", "-DPNF_HOSTING_TESTS=ON"]
    options += [f"-DCMAKE_CXX_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=Debug"]
    return cmake_build("cpp-host-images-asan", ROOT / "examples" / "cpp_host", *options)


def network_command(
    program: str,
    network: PocketNet,
    precision: str,
    isa: str,
    pixels: np.ndarray,
    folder: Path,
    built: Path | None = None,
) -> list[str]:
    """The command that runs a network on uint8 images without torch (``csrc/tests/run_network.cpp``).

    Args:
        program: ``run_network``, or one of its variants on emulated instructions.
        network: A PocketNet.
        precision: Of its program.
        isa: The kernels to force.
        pixels: N,112,112,3.
        folder: Takes the files that the command reads.
        built: Folder of the build; None for the release.
    """
    from pocketnet_fast.lowering import lower

    words, weights = (tensor.numpy() for tensor in lower(network, precision=precision).encode())
    for name, array in (("program", words), ("weights", weights), ("pixels", pixels)):
        array.tofile(folder / name)
    host = (built or release_build()) / "csrc" / "tests" / program
    return [str(part) for part in (host, folder / "program", folder / "weights", isa, folder / "pixels")]


def embeddings_of(done: subprocess.CompletedProcess[bytes], images: int) -> Tensor:
    """What a ``network_command`` that ended well has written: float32 ``images``,D."""
    import numpy as np
    import torch

    assert done.returncode == 0, done.stderr.decode()
    return torch.from_numpy(np.frombuffer(done.stdout, np.float32).reshape(images, -1).copy())


def ctest(folder: Path, *options: str, isa: str = "") -> str:
    """Run the tests of a build, the larger ones for one instruction set only if it is named.

    Fails the test with what they print.
    """
    jobs = str(os.cpu_count() or 1)
    chosen = ("env", f"PNF_TEST_ISA={isa}") if isa else ()
    command = (
        *chosen,
        tool("ctest"),
        "--test-dir",
        folder,
        "--output-on-failure",
        "--parallel",
        jobs,
        *options,
    )
    return run(*command)


def run_triton_suite(suite: Path, *, interpreted: bool) -> None:
    """Run tests in a process of their own: Triton chooses its interpreter once, when it is imported."""
    interpret = f"TRITON_INTERPRET={int(interpreted)}"
    output = run("env", interpret, sys.executable, "-m", "pytest", "-q", suite)
    assert " passed" in output
    assert " failed" not in output

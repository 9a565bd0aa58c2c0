"""Build what is published: ``python release/build.py [OUT]`` writes to dist/.

The source distribution; a wheel from it for each CPython of ``pythons.txt`` that is at hand, tagged by
auditwheel for the oldest glibc that it runs on, with its bill of materials; and libpocketnet without Python,
an archive for each processor whose compiler is there. Needs the packages of the extra ``release``, and torch,
in the environment that runs this.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent))
import sbom
import wheel as wheels

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD_REQUIRES: Final = ("scikit-build-core>=0.11", "pybind11>=2.13", "cmake>=3.24", "ninja>=1.11")
# Torch's libraries, which the process has loaded from where torch lies.
NOT_GRAFTED: Final = ("libtorch*.so*", "libc10*.so*")
# By processor: the toolchain for others, and the compiler that it needs.
TOOLCHAINS: Final = {"aarch64": ("cmake/aarch64-linux-gnu.cmake", "aarch64-linux-gnu-g++")}
NOTICES: Final = ("LICENSE", "NOTICE", "docs/embedding.md", "docs/model_file.md")


def run(*command: str | Path) -> None:
    """Run a command whose output is for who waits; its failure ends this."""
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, env=environment)


def pythons() -> dict[str, str]:
    """The CPythons that wheels are for and that are at hand, by version."""
    found = {}
    for version in (ROOT / "release" / "pythons.txt").read_text(encoding="utf-8").split():
        own = f"{sys.version_info.major}.{sys.version_info.minor}" == version
        python = sys.executable if own else shutil.which(f"python{version}")
        # A version manager's stand-in may be there without the Python.
        if python and subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0:
            found[version] = python
    return found


def torch_folder() -> Path:
    """Torch as it lies in this environment; its headers and libraries are the same for every Python."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("torch is not installed")
    return Path(spec.origin).parent


def build_source(out: Path) -> Path:
    """The source distribution."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ROOT)
        (source,) = Path(folder).glob("*.tar.gz")
        return Path(shutil.copy(source, out))


def build_wheel(python: str, source: Path, out: Path) -> Path:
    """The wheel of a source distribution for one CPython."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run(python, "-m", "venv", folder / "venv")
        pip = (folder / "venv" / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
        run(*pip, "install", *BUILD_REQUIRES)
        torch = f"cmake.define.PNF_TORCH_DIR={torch_folder()}"
        isolation = ("--no-build-isolation", "--no-deps", "--config-settings", torch)
        run(*pip, "wheel", *isolation, "--wheel-dir", folder / "built", source)
        (built,) = (folder / "built").glob("*.whl")
        excluded = [part for name in NOT_GRAFTED for part in ("--exclude", name)]
        run(sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", folder / "tagged", built)
        (tagged,) = (folder / "tagged").glob("*.whl")
        sbom.embed(tagged)
        wrong = wheels.wrong_in_record(wheels.contents(tagged))
        if wrong:
            raise SystemExit(f"{tagged.name}: its record is wrong about {', '.join(wrong)}")
        return Path(shutil.copy(tagged, out))


def library_options(processor: str) -> list[str]:
    """CMake's options for libpocketnet alone."""
    options = [
        "-DPNF_TORCH=OFF",
        "-DPNF_TRAINING=OFF",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_INSTALL_LIBDIR=lib",
    ]
    if processor != platform.machine():
        options.append(f"-DCMAKE_TOOLCHAIN_FILE={ROOT / TOOLCHAINS[processor][0]}")
    return options


def processors() -> list[str]:
    """Those that libpocketnet can be built for here: this one, and those whose compiler is there."""
    others = [name for name, (_, compiler) in TOOLCHAINS.items() if shutil.which(compiler)]
    return list(dict.fromkeys([platform.machine(), *others]))


def build_library(processor: str, version: str, out: Path) -> Path:
    """An archive of libpocketnet for a processor: libraries, headers, CMake's and pkg-config's files."""
    build = ROOT / "build" / f"library-{processor}"
    run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *library_options(processor))
    run("cmake", "--build", build, "--target", "pocketnet", "pocketnet_static")
    with tempfile.TemporaryDirectory() as folder:
        name = f"libpocketnet-{version}-linux-{processor}"
        prefix = Path(folder) / name
        run("cmake", "--install", build, "--component", "library", "--prefix", prefix, "--strip")
        documents = prefix / "share" / "doc" / "libpocketnet"
        documents.mkdir(parents=True)
        for notice in NOTICES:
            shutil.copy(ROOT / notice, documents)
        target = out / f"{name}.tar.gz"
        target.write_bytes(archive(prefix, name))
    return target


def archive(folder: Path, name: str) -> bytes:
    """A folder as .tar.gz: the same bytes for the same files, whoever packs them and when."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in [folder, *sorted(folder.rglob("*"))]:
            place = Path(name) / path.relative_to(folder)
            member = tar.gettarinfo(path, str(place))
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
            member.mode = 0o755 if path.is_dir() or member.mode & 0o100 else 0o644
            if member.isfile():
                with path.open("rb") as file:
                    tar.addfile(member, file)
            else:
                tar.addfile(member)
    return gzip.compress(packed.getvalue(), mtime=0)


def library_version() -> str:
    """Of the C library, which has its own."""
    text = (ROOT / "csrc" / "library" / "CMakeLists.txt").read_text(encoding="utf-8")
    return text.partition("set(PNF_LIBRARY_VERSION ")[2].partition(")")[0]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("--only", choices=["python", "library"], help="a part of it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    built: list[Path] = []
    if options.only != "library":
        built.append(build_source(options.out))
        built += [build_wheel(python, built[0], options.out) for python in pythons().values()]
        run(sys.executable, "-m", "twine", "check", "--strict", *built)
    if options.only != "python":
        built += [build_library(name, library_version(), options.out) for name in processors()]
    for path in built:
        print(f"{path.stat().st_size:>12,}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

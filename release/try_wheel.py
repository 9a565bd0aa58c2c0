"""Install a wheel as its users do, and decide about photos: ``python release/try_wheel.py WHEEL``.

A virtual environment of its own, no compiler on PATH, a folder that is no source tree. The photos are
portraits that scikit-image and matplotlib carry, found beside the Python that runs this; nothing of them is
imported. ``--venv`` takes an environment that has torch and the other requirements already, and changes
nothing of it but the package.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import cv2

_PORTRAITS: Final = {
    "skimage": ("data/astronaut.png", "images/astronaut.png"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}
# What builds a C++ extension; an environment of users has none of it.
_TOOLS: Final = ("cc", "gcc", "g++", "c++", "clang", "clang++", "ld", "ninja", "cmake", "make")
_LIBRARY: Final = """
import ctypes, json, pathlib, sys
import pocketnet_fast, torch
from pocketnet_fast.ops import native
folder = native.library_path().parent
library = ctypes.CDLL(str(folder / "libpocketnet.so.1"))
print(json.dumps({
    "version": pocketnet_fast.__version__, "torch": torch.__version__, "python": sys.version.split()[0],
    "isa": native.compiled_isa(), "libpocketnet": library.pocketnet_version(),
    "header": (folder.parent / "include" / "pocketnet.h").is_file(), "where": str(folder),
}))
"""


def portraits() -> list[Path]:
    """The two photos.

    Raises:
        FileNotFoundError: A package is not installed beside this Python, or has no such photo.
    """
    found = []
    for package, places in _PORTRAITS.items():
        spec = importlib.util.find_spec(package)
        folder = Path(spec.origin).parent if spec is not None and spec.origin else Path()
        place = next(
            (folder / name for name in places if spec is not None and (folder / name).is_file()), None
        )
        if place is None:
            raise FileNotFoundError(f"no portrait of {package}: pip install matplotlib scikit-image")
        found.append(place)
    return found


def altered(photo: Path, target: Path) -> None:
    """Write another photo of the same person: smaller, compressed, darker."""
    image = cv2.imread(str(photo))
    assert image is not None, photo
    smaller = cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(target), cv2.convertScaleAbs(smaller, alpha=0.8), [cv2.IMWRITE_JPEG_QUALITY, 60])


class Environment:
    """A virtual environment, and a folder in which it works."""

    def __init__(self, venv: Path, work: Path) -> None:
        self.bin, self.work = venv / "bin", work
        self.variables = {
            "PATH": str(self.bin),
            "HOME": str(work),
            "LANG": "C.UTF-8",
            **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "PNF_"))},
        }
        left = [tool for tool in _TOOLS if shutil.which(tool, path=self.variables["PATH"])]
        assert not left, f"the environment has {', '.join(left)}"

    def run(self, *command: str, codes: tuple[int, ...] = (0,)) -> str:
        """Output of a command of the environment.

        Raises:
            RuntimeError: It ended with another code.
        """
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.work,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in codes:
            raise RuntimeError(f"{' '.join(command)} returned {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


def tried(wheel: Path, venv: Path, work: Path) -> dict[str, object]:
    """What an installed wheel says of itself, once it has decided rightly about the photos.

    Raises:
        RuntimeError: Something failed; the message says what.
    """
    environment = Environment(venv, work)
    known: dict[str, object] = json.loads(environment.run("python", "-c", _LIBRARY))
    if not str(known["where"]).startswith(str(venv.resolve())) or not known["header"]:
        raise RuntimeError(f"{wheel} was not what was imported: {known}")
    one, other = portraits()
    copy = work / "copy.jpg"
    altered(other, copy)
    for left, right, same in ((other, copy, True), (one, other, False)):
        result = json.loads(environment.run("pocketnet", "verify", str(left), str(right), "--json"))
        known[f"cosine of {'one person' if same else 'two people'}"] = round(result["cosine"], 4)
        if result["same"] is not same:
            raise RuntimeError(f"wrong decision about {left.name} and {right.name}: {result}")
    environment.run("pocketnet", "doctor")
    return known


def wheel_for(python: str, place: Path) -> Path:
    """A wheel, or that of a folder for a Python.

    Raises:
        FileNotFoundError: The folder has none.
    """
    if not place.is_dir():
        return place
    ask = "import sys; print('cp%d%d' % sys.version_info[:2])"
    tag = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    for wheel in sorted(place.glob("*.whl")):
        if wheel.name.split("-")[2] == tag:
            return wheel
    raise FileNotFoundError(f"no wheel for {tag} in {place.name}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path, help="the file, or a folder with one for the Python")
    parser.add_argument("--python", default=sys.executable, help="the Python of the new environment")
    parser.add_argument("--torch", help="what pip is to install first, such as torch==2.10.0")
    parser.add_argument("--venv", type=Path, help="an environment that has the requirements already")
    options = parser.parse_args()
    wheel = wheel_for(options.python, options.wheel.resolve())
    with tempfile.TemporaryDirectory() as folder:
        venv = options.venv or Path(folder) / "venv"
        if options.venv is None:
            subprocess.run([options.python, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if options.torch:
            subprocess.run([*pip, options.torch], check=True)
        kept = [] if options.venv is None else ["--no-deps", "--force-reinstall"]
        subprocess.run([*pip, "--only-binary", ":all:", *kept, str(wheel)], check=True)
        work = Path(folder) / "work"
        work.mkdir()
        try:
            print(
                json.dumps({"wheel": wheel.name, "glibc": platform.libc_ver()[1], **tried(wheel, venv, work)})
            )
        except (RuntimeError, FileNotFoundError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

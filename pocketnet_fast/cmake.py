"""``python -m pocketnet_fast.cmake`` prints the folder to put on ``CMAKE_PREFIX_PATH`` of a C++ program."""

from __future__ import annotations

from pathlib import Path


def prefix_path() -> Path:
    """Folder in which ``find_package(pocketnet_fast)`` finds the package's CMake configuration.

    Raises:
        NotBuiltError: The package was not built.
    """
    from pocketnet_fast.ops.native import library_path

    return library_path().parent / "cmake"


if __name__ == "__main__":
    print(prefix_path())

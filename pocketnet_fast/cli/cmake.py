"""``pocketnet cmake``: where CMake finds the libraries."""

from __future__ import annotations

from typing import Annotated

import typer

from pocketnet_fast.cmake import prefix_path


def cmake(
    *,
    torch: Annotated[
        bool, typer.Option("--torch", help="LibTorch's folder as well, that of the installed torch.")
    ] = False,
) -> None:
    """Print the folder in which CMake finds this package's libraries, for CMAKE_PREFIX_PATH.

    There find_package(pocketnet) finds the C library, and find_package(pocketnet_fast) the operators, which
    programs with LibTorch load.

    Example: [bold]cmake -S . -B build -DCMAKE_PREFIX_PATH="$(pocketnet cmake --torch)"[/bold]
    """
    folders = [str(prefix_path())]
    if torch:
        from torch.utils import cmake_prefix_path

        folders.append(cmake_prefix_path)
    typer.echo(";".join(folders))


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("cmake")(cmake)

"""What exported files must not hold."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def traces(path: Path) -> list[tuple[str, str]]:
    """Members of an exported file that name a folder of this machine, and which one."""
    folders = {str(ROOT), str(Path(torch.__file__).parent), f"{Path.home()}{os.sep}", "site-packages"}
    folders |= {f"torchinductor_{Path.home().name}"}
    contents = {path.name: path.read_bytes()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
    return [
        (name, folder)
        for name, content in contents.items()
        for folder in sorted(folders)
        if os.fsencode(folder) in content
    ]

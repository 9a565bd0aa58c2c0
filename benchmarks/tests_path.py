"""Importing this makes the modules that the tests share importable, and the package the installed one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import installed_package  # noqa: F401 - it lies there

"""Importing this lets the installed package be found, which is what is tested and timed.

From the project's root, `python -m pytest` and the `python -c` of some tests would find the sources instead,
which lack the compiled parts.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]

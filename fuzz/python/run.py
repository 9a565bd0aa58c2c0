"""Fuzz one of Python's readers: ``run.py TARGET SECONDS FOLDER``, or ``run.py --list``.

Begins with what was found before (``corpora``) and with files as they should be; keeps what reaches new
code in FOLDER, and an input that is a finding as ``FOLDER-...``. Needs the package atheris. Options after
FOLDER go to libFuzzer.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
if any(type(finder).__name__.startswith("ScikitBuild") for finder in sys.meta_path):
    # An editable install shows no files to what instruments them: the sources come first, and what finds them
    # last, for what lies elsewhere, as the native library does.
    sys.path.insert(0, str(HERE.parents[1]))
    sys.meta_path.sort(key=lambda finder: type(finder).__name__.startswith("ScikitBuild"))

USAGE = "usage: run.py TARGET SECONDS FOLDER [LIBFUZZER OPTION...] or run.py --list"


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> int:
    """Run a target; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["pocketnet_fast", "readers"]):
        import readers

        if sys.argv[1:] == ["--list"]:
            print(*readers.TARGETS)
            return 0
        if len(sys.argv) < 4 or sys.argv[1] not in readers.TARGETS or not sys.argv[2].isdigit():
            print(USAGE, f"targets: {' '.join(readers.TARGETS)}", sep="\n", file=sys.stderr)
            return 2
        name, seconds, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
        target = readers.TARGETS[name]
        # Reading a seed imports what the reader does.
        seeds = folder.with_name(f"{folder.name}-seeds")
        for path in (folder, seeds):
            path.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.seeds()):
            (seeds / str(number)).write_bytes(seed)
            with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(ValueError):
                target.read(seed, Path(scratch))
    words = folder.with_name(f"{folder.name}-words")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))

    def one(data: bytes) -> None:
        readers.try_reader(name, data)

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.longest}",
        "-timeout=20",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}-",
        *([f"-dict={words}"] if target.words else []),
        *sys.argv[4:],
    ]
    corpora = [str(path) for path in (folder, readers.CORPORA / name, seeds) if path.is_dir()]
    os.environ.setdefault("POCKETNET_MAX_BYTES", str(1 << 20))
    atheris.Setup([sys.argv[0], *options, *corpora], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())

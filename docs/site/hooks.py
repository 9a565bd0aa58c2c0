"""MkDocs' events: pages that are made of the code, and links that leave the folder of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmark_pages import run_pages, runs_list
from command_line import command_line_page
from mkdocs.structure.files import File, Files
from recipes import recipes_page
from sources import SourcePages

_ROOT: Final = Path(__file__).resolve().parents[2]
_RUNS: Final = _ROOT / "docs" / "benchmarks"

# What a page's comment `<!-- made here: NAME -->` is replaced with.
_MAKERS: Final[dict[str, Callable[[], str]]] = {
    "command_line": command_line_page,
    "recipes": recipes_page,
    "runs": lambda: runs_list(_RUNS),
}
_MADE_HERE: Final = re.compile(r"^<!-- made here: (\w+) -->$", re.MULTILINE)

_sources = SourcePages(_ROOT)


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each run, and for each file and folder outside of the documentation that it links to."""
    _sources.collect(Path(config.docs_dir))
    for address, text in (*_sources.pages(), *run_pages(_RUNS)):
        files.append(File.generated(config, address, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in what is made of the code, and lead links out of the documentation to the pages of sources."""

    def made(found: re.Match[str]) -> str:
        return _MAKERS[found[1]]()

    return _sources.redirected(_MADE_HERE.sub(made, markdown), page.file.src_uri)

"""Write the hashes of the page's style and script into its Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("index.html")


def with_hashes(page: str) -> str:
    """The page, allowing the one style and the one script that it has."""
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        page, count = re.subn(rf"{directive} '[^']*'", f"{directive} 'sha256-{digest}'", page)
        if count != 1:
            raise SystemExit(f"{PAGE}: its policy states {directive} {count} times, not once")
    return page


if __name__ == "__main__":
    PAGE.write_text(with_hashes(PAGE.read_text()))

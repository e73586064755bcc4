"""Our style sheet, scripts and icon as they stand within a page, and the policy that lets exactly these in.

A page is one answer: a browser that has seen nothing needs no second connection, and waits for no file before it paints. Each text is
named in the policy by its SHA-256, so what anybody else managed to write into a page is neither run nor drawn.

Source: Content Security Policy Level 3, section 6.7.2.3 (hash of an inline element); RFC 2397 (data).
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from markupsafe import Markup

__all__ = ["POLICY", "SCRIPTS", "STYLES", "icon", "inline"]

ASSETS: Final = Path(__file__).parent / "assets"

STYLES: Final = ("fedge.css",)
SCRIPTS: Final = ("fedge.js", "charts.js")


@cache
def inline(name: str) -> Markup:
    """The text of a file of ours, for between the tags of its element: to the letter, or its hash is another."""
    return Markup((ASSETS / name).read_text("utf-8"))  # noqa: S704 - ours, and no text of anybody's


@cache
def icon() -> str:
    """The icon as an address that has it in itself."""
    return "data:image/svg+xml," + quote((ASSETS / "fedge.svg").read_text("utf-8"))


def _hashes(names: tuple[str, ...]) -> str:
    digests = (hashlib.sha256(inline(name).encode()).digest() for name in names)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


POLICY: Final = (
    f"default-src 'none'; script-src {_hashes(SCRIPTS)}; style-src {_hashes(STYLES)}; img-src data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

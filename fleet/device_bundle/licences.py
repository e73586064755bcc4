"""What a package says of its own licence, in one line."""

from __future__ import annotations

from email.message import Message
from typing import Final

__all__ = ["licence_of"]

SPDX: Final = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "3-Clause BSD": "BSD-3-Clause",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "GNU Library or Lesser General Public License (LGPL)": "LGPL",
}
"""Other ways to name a licence."""


def licence_of(metadata: Message) -> str:
    """Of a package's METADATA: an SPDX expression, else its classifiers, else the first line of its licence field."""
    if expression := metadata["License-Expression"]:
        return str(expression)
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    named = [SPDX.get(name, name) for name in classifiers if name != "OSI Approved"]
    free = (metadata["License"] or "").strip().splitlines()
    if named and not (named == ["BSD"] and free and free[0].startswith("BSD-")):
        return " or ".join(sorted(set(named)))
    said = free[0].removesuffix(" License").strip() if free else "not said"
    return SPDX.get(said, said)

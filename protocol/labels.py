"""One line of text that a device or a person chose, as it is shown to people and kept in databases: labels, sites, hardware.

Refused are signs that nobody sees or that change how others are read (controls, line ends, directions of writing, zero
width), NUL, which PostgreSQL cannot keep in JSON, and the brackets of markup.

Source: Unicode Standard Annex 9 (bidirectional controls); Unicode Technical Report 36, section 2.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

__all__ = ["MAX_LABELS", "MAX_LABEL_CHARS", "Label", "Labels", "OneLine"]

MAX_LABEL_CHARS: Final = 200
MAX_LABELS: Final = 32

_UNSEEN: Final = r"\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\uffff"
# "$" alone would let one line end pass
_PATTERN: Final = rf"^[^<>{_UNSEEN}]*$(?!\n)"

Label = Annotated[str, Meta(max_length=MAX_LABEL_CHARS, pattern=_PATTERN)]
OneLine = Annotated[str, Meta(min_length=1, max_length=MAX_LABEL_CHARS, pattern=_PATTERN)]
Labels = Annotated[dict[OneLine, Label], Meta(max_length=MAX_LABELS)]

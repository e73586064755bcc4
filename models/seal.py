"""A checksum inside a ``.tflite``'s description, so that damaged bytes are refused before C++ reads them.

LiteRT follows offsets it finds in a file; one flipped bit can make it read past the end and take the process down.
The seal finds damage. It does not find malice, which is the work of the bundle's signature: whoever writes a model
can seal it.

    description = "fedge training <layout hash> seal:<64 hex digits>"    digits = SHA-256 of the file with 64 zeros there
"""

from __future__ import annotations

import hashlib
from typing import Final

from models.errors import ModelFormatError

__all__ = ["check_seal", "seal_model", "sealed_description"]

_MARK: Final = b" seal:"
_DIGITS: Final = 64
_BLANK: Final = b"0" * _DIGITS


def sealed_description(role: str, layout_sha256: str) -> str:
    """The description of a model that `seal_model` will close; the layout hash stays legible in it."""
    return f"fedge {role} {layout_sha256}{_MARK.decode()}{_BLANK.decode()}"


def seal_model(content: bytes) -> bytes:
    """The model with its seal closed; raises ModelFormatError where its description has no open seal."""
    at = content.find(_MARK + _BLANK)
    if at < 0:
        raise ModelFormatError("a model is sealed through its description, and this one's has no room for it")
    at += len(_MARK)
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:at] + digest + content[at + _DIGITS :]


def check_seal(content: bytes, what: str) -> None:
    """Refuse a model whose bytes are not those that were sealed.

    A model without a seal passes: compilers for accelerators write their own description.

    Raises:
        ModelFormatError: the file is damaged; fetch the bundle again.
    """
    at = content.find(_MARK)
    if at < 0:
        return
    at += len(_MARK)
    blanked = content[:at] + _BLANK + content[at + _DIGITS :]
    if hashlib.sha256(blanked).hexdigest().encode() != content[at : at + _DIGITS]:
        raise ModelFormatError(
            f"the {what} of {len(content)} bytes is damaged: it does not have the SHA-256 it was sealed with"
        )

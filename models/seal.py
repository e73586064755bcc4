"""A checksum at the end of every ``.tflite``, so that damaged bytes are refused before C++ reads them.

LiteRT follows the offsets it finds in a file; one flipped bit or a missing end can take the process down. The seal
finds damage. It does not find malice, which is the work of the bundle's signature: whoever writes a model can seal it.

    flatbuffer | "FEDGESEAL" | SHA-256 of the flatbuffer (32 B)

A flatbuffer is read from its front, so a sealed model is a valid ``.tflite`` for every other tool. What such a tool
writes (the Edge TPU compiler, say) carries no seal and is accepted without: then the bundle's hashes and LiteRT's own
checks stand alone, until `seal_model` seals it again. Under tflite-runtime, which checks nothing, a seal is required.
"""

from __future__ import annotations

import hashlib
from typing import Final

from models.errors import ModelFormatError

__all__ = ["SEAL_BYTES", "check_seal", "seal_model"]

_MARK: Final = b"FEDGESEAL"
SEAL_BYTES: Final = len(_MARK) + hashlib.sha256().digest_size


def seal_model(flatbuffer: bytes) -> bytes:
    """The model with its seal behind it."""
    return flatbuffer + _MARK + hashlib.sha256(flatbuffer).digest()


def check_seal(content: bytes, what: str, *, is_required: bool = False) -> None:
    """Refuse a sealed model whose bytes are not those that were sealed; `what` names it in the message.

    Raises:
        ModelFormatError: the file is damaged, fetch the bundle again; or it has no seal and one is required.
    """
    flatbuffer, seal = content[:-SEAL_BYTES], content[-SEAL_BYTES:]
    if is_required and not seal.startswith(_MARK):
        raise ModelFormatError(
            f"the {what} of {len(content)} bytes ends without a seal, and this runtime would not notice damage: "
            "fetch the bundle again, or seal what another tool wrote (models.seal.seal_model)"
        )
    if seal.startswith(_MARK) and seal != _MARK + hashlib.sha256(flatbuffer).digest():
        raise ModelFormatError(
            f"the {what} of {len(content)} bytes is damaged: it does not have the SHA-256 it was sealed with"
        )

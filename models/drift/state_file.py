"""The bytes in which a drift monitor survives a restart.

MessagePack of named arrays with a CRC; bound to the reference and settings by a fingerprint. It is not an exchange
format: only the same build on the same device reads it, and anything doubtful is refused rather than interpreted.
Formats 1 and 2, of builds with other charts and bins, are refused like any other: their sums mean nothing here, and the
device fits a new reference on its newest windows.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from models.errors import DriftStateError

__all__ = ["decode_state", "encode_state"]


class _Array(Struct, frozen=True, array_like=True):
    dtype: Literal["<f4", "<f8", "<i2"]
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    content: bytes


class _State(Struct, frozen=True, kw_only=True):
    format: Literal[3] = 3
    fingerprint: str
    counters: dict[str, Annotated[int, Meta(ge=0)]]
    arrays: dict[str, _Array]


_CRC_BYTES = 4


def encode_state(
    fingerprint: str, counters: Mapping[str, int], arrays: Mapping[str, NDArray[np.generic]]
) -> bytes:
    """Counters and arrays (float32, float64 or int16) → bytes."""
    packed = {
        name: _Array(array.dtype.newbyteorder("<").str, array.shape, np.ascontiguousarray(array).tobytes())  # type: ignore[arg-type]  # the decoder checks the Literal
        for name, array in arrays.items()
    }
    body = msgspec.msgpack.encode(_State(fingerprint=fingerprint, counters=dict(counters), arrays=packed))
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def decode_state(
    content: bytes, fingerprint: str, *, like: bytes, most_pending: int
) -> tuple[dict[str, int], dict[str, NDArray[np.floating]]]:
    """Bytes → counters and arrays, of the names, types and shapes of `like`.

    Only ``pending`` may be longer or shorter, up to `most_pending` rows.

    Raises:
        DriftStateError: damaged, of another reference or settings, or of another layout; start with a fresh monitor.
    """
    saved, wanted = _read(content), _read(like)
    if saved.fingerprint != fingerprint:
        raise DriftStateError(
            "the saved drift state belongs to another reference or other settings; start afresh"
        )
    if saved.arrays.keys() != wanted.arrays.keys() or saved.counters.keys() != wanted.counters.keys():
        raise DriftStateError(
            f"the saved drift state holds {sorted(saved.arrays)}, want {sorted(wanted.arrays)}"
        )
    arrays = {}
    for name, packed in saved.arrays.items():
        template = wanted.arrays[name]
        skip = 1 if name == "pending" else 0
        is_too_long = bool(skip) and packed.shape[0] > most_pending
        if packed.dtype != template.dtype or packed.shape[skip:] != template.shape[skip:] or is_too_long:
            raise DriftStateError(
                f"{name} of the saved drift state is {packed.dtype}{packed.shape}, want {template.dtype}{template.shape}"
            )
        try:
            arrays[name] = np.frombuffer(packed.content, packed.dtype).reshape(packed.shape)
        except ValueError as error:
            raise DriftStateError(f"{name} of the saved drift state is cut short: {error}") from None
    return saved.counters, arrays


def _read(content: bytes) -> _State:
    body, crc = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
    if zlib.crc32(body).to_bytes(_CRC_BYTES, "little") != crc:
        raise DriftStateError(
            f"the saved drift state is damaged: {len(content)} bytes whose checksum is wrong"
        )
    try:
        return msgspec.msgpack.decode(body, type=_State)
    except msgspec.DecodeError as error:
        raise DriftStateError(f"the saved drift state is not one this build knows: {error}") from None

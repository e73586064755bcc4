"""The context of this device's windows on disk: part of the detector's file, and what drift's reference names itself by."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.detection.context import Context
from models.detection.profile import MOST_BINS, Profile
from models.detection.regimes import Regimes
from models.errors import InputError

__all__ = ["ContextFile", "fingerprint_of_context", "pack_context", "unpack_context"]


class ContextFile(Struct, frozen=True, kw_only=True):
    """Arrays as little-endian float32; `table` (B · F) is empty without a profile, the others (k · F, q · F, k · q) without regimes."""

    spread: bytes
    period_s: float = 0.0
    until_s: float = 0.0
    table: bytes = b""
    centres: bytes = b""
    projection: bytes = b""
    places: bytes = b""


def pack_context(context: Context | None) -> ContextFile | None:
    """As it goes to disk."""
    if context is None:
        return None
    profile, regimes = context.profile, context.regimes
    return ContextFile(
        spread=_packed(context.spread),
        period_s=profile.period_s if profile is not None else 0.0,
        until_s=profile.until_s if profile is not None else 0.0,
        table=_packed(profile.table) if profile is not None else b"",
        centres=_packed(regimes.centres) if regimes is not None else b"",
        projection=_packed(regimes.projection) if regimes is not None else b"",
        places=_packed(regimes.places) if regimes is not None else b"",
    )


def unpack_context(file: ContextFile | None, features: int) -> Context | None:
    """Read what `pack_context` gave, for rows of so many features; raises InputError for anything else."""
    if file is None:
        return None
    spread = _unpacked(file.spread, features)
    if spread.shape != (1, features) or not (spread > 0).all():
        raise InputError("a context without a positive spread for each feature")
    profile = regimes = None
    if file.table:
        table = _unpacked(file.table, features)
        if not (0 < file.period_s < np.inf and np.isfinite(file.until_s)) or len(table) > MOST_BINS:
            raise InputError("a profile of no period")
        profile = Profile(period_s=file.period_s, table=table, until_s=file.until_s)
    if file.centres:
        centres, projection = _unpacked(file.centres, features), _unpacked(file.projection, features)
        places = _unpacked(file.places, max(len(projection), 1))
        if len(places) != len(centres):
            raise InputError(f"{len(centres)} regimes at {len(places)} places")
        regimes = Regimes(centres=centres, projection=projection, places=places)
    return Context(spread=spread[0], profile=profile, regimes=regimes)


def fingerprint_of_context(context: Context | None) -> str:
    """By which a drift reference says in which context its rows were seen; empty for none."""
    if context is None:
        return ""
    return hashlib.sha256(msgspec.msgpack.encode(pack_context(context))).hexdigest()


def _packed(array: NDArray[np.float32]) -> bytes:
    return array.astype("<f4").tobytes()


def _unpacked(content: bytes, columns: int) -> NDArray[np.float32]:
    """(n, columns), finite; raises InputError."""
    try:
        array = np.frombuffer(content, "<f4").reshape(-1, columns)
    except ValueError as error:
        raise InputError(f"not the arrays of a context: {error}") from None
    if not np.isfinite(array).all():
        raise InputError("a context whose values are not finite")
    return array.astype(np.float32)

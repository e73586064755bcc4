"""This device's control variate: what it knows of its own gradient beside the fleet's, kept over a restart of the learner.

Bound to one training run, one layout and one set of columns. The server's variate is the mean of the devices', and only as long as that holds do the
corrections of a fleet add up to nothing; a run begins with all of them at zero, so a variate of another run would push every later
round by a constant. Whatever cannot be used (none there, damaged, of another run) is therefore zeros, never an error: the device
trains its next round uncorrected and has a variate again after it.

The file is private (mode 0600): a mean gradient says something about the rows it was taken on.

Source: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", arXiv:1910.06378v4, Algorithm 1.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Final, Protocol

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from runtime.durable_files import private_directory, read_bytes, write_durably

__all__ = ["ControlVariates", "VariateFile", "VariateInMemory"]

Float = NDArray[np.float32]

_log: Final = logging.getLogger(__name__)


class ControlVariates(Protocol):
    """Where the variate lies between two rounds."""

    def load(self, run_id: str, layout_sha256: str, size: int) -> Float:
        """The variate (size,) of this run and layout, in units of a gradient; zeros where there is none to be used."""
        ...

    def keep(self, run_id: str, layout_sha256: str, variate: Float) -> None:
        """Replace it; once this returns it survives a power cut."""
        ...


class _Held(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: `values` is little-endian float32, `digest` its SHA-256."""

    run_id: str
    layout_sha256: str
    values: bytes
    digest: bytes
    columns: str = ""


_decoder: Final = msgspec.msgpack.Decoder(_Held)


class VariateFile:
    """Implements `ControlVariates` on one file; the last run's variate makes room for the next one's.

    Args:
        path: its folder is made when something is kept.
        columns: fingerprint of what the rows behind the variate are; one of other columns is no use.
    """

    def __init__(self, path: Path, *, columns: str = "") -> None:
        self._path = path
        self._columns = columns

    def load(self, run_id: str, layout_sha256: str, size: int) -> Float:
        """See `ControlVariates.load`; raises StorageError where the disk cannot be read at all."""
        zeros = np.zeros(size, np.float32)
        content = read_bytes(self._path)
        if content is None:
            return zeros
        try:
            held = _decoder.decode(content)
        except msgspec.DecodeError as error:
            _log.warning("control_variate_damaged %s", error)
            return zeros
        if hashlib.sha256(held.values).digest() != held.digest:
            _log.warning("control_variate_damaged digest")
            return zeros
        belongs = (held.run_id, held.layout_sha256, held.columns) == (run_id, layout_sha256, self._columns)
        if not belongs or len(held.values) != 4 * size:
            return zeros
        return np.frombuffer(held.values, "<f4").astype(np.float32)

    def keep(self, run_id: str, layout_sha256: str, variate: Float) -> None:
        """See `ControlVariates.keep`; raises StorageError where the disk is full or read-only."""
        values = np.asarray(variate, "<f4").tobytes()
        held = _Held(
            run_id=run_id,
            layout_sha256=layout_sha256,
            values=values,
            digest=hashlib.sha256(values).digest(),
            columns=self._columns,
        )
        private_directory(self._path.parent)
        write_durably(self._path, msgspec.msgpack.encode(held), mode=0o600)


class VariateInMemory:
    """Implements `ControlVariates` for a learner that needs none after its end: simulations, tests."""

    def __init__(self) -> None:
        self._held: tuple[str, str, Float] | None = None

    def load(self, run_id: str, layout_sha256: str, size: int) -> Float:
        """See `ControlVariates.load`."""
        if self._held is None or self._held[:2] != (run_id, layout_sha256) or self._held[2].size != size:
            return np.zeros(size, np.float32)
        return self._held[2].copy()

    def keep(self, run_id: str, layout_sha256: str, variate: Float) -> None:
        """See `ControlVariates.keep`."""
        self._held = (run_id, layout_sha256, np.array(variate, np.float32))

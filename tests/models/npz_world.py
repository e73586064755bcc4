"""Archives as numpy.savez writes them, as a stranger crafts them, and what both doors say of one."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from models.errors import RecordingError
from models.recordings.npz import read_table, read_tables

ROWS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
NAMES = np.array(["speed", "load", "heat"])


def saved(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "x.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub wants named keywords
    return folder / "x.npz"


def zipped(folder: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(folder / "x.npz", "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "x.npz"


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_claiming(descr: str, shape: object, content: bytes = b"", *, version: int = 1) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


def refusal(path: Path, key: str = "a") -> str:
    """What both doors say of the file, in one line."""
    said = []
    for read in (lambda: read_table(path, key=key), lambda: read_tables(path)):
        with pytest.raises(RecordingError) as refused:
            read()
        said.append(str(refused.value))
    assert "\n" not in said[0] + said[1]
    assert said[0] == said[1]
    return said[0]

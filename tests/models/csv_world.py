"""A CSV file of a few bytes: what is read of it, or the one line in which it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.errors import RecordingError
from models.recordings.csv import read_csv
from models.recordings.recording import Recording


def read(folder: Path, content: str | bytes, **how: object) -> Recording:
    path = folder / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv(path, **how)  # type: ignore[arg-type]  # settings come from parameters


def refusal(folder: Path, content: str | bytes, **how: object) -> str:
    with pytest.raises(RecordingError) as refused:
        read(folder, content, **how)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)

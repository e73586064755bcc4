"""A folder of recordings that nobody here has seen: one ``<device>.npz`` a device, read through the product's own door.

Arrays of a file: ``healthy`` (rows, features) to learn from, ``later`` healthy rows that follow on them (empty or absent where there
are none), ``test`` (rows, features), ``labels`` 0 or 1 for each test row, ``feature_names``, and ``period_rows``, a number, where the
machine's clock says that it has a cycle. All devices of a folder have the same features, in any order; clocks are left out, as on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detection_tables.devices import Device
from models.errors import RecordingError
from models.recordings.npz import read_table

__all__ = ["load_folder"]

LONGEST_PERIOD_ROWS: Final = 10_000_000


def load_folder(folder: Path, *, note: Callable[[str], None] = lambda _: None) -> list[Device]:
    """Every device of a folder, by name; `note` is told what the door has to say of a file.

    Raises:
        RecordingError: no folder, no file in it, or a file that does not hold what is expected; names file and array.
    """
    if not folder.is_dir():
        raise RecordingError(f"{folder} is no folder; expected one that holds a <device>.npz for each device")
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise RecordingError(f"{folder} holds no .npz file; expected one for each device")
    devices = [_load_device(paths[0], None, note)]
    devices += [_load_device(path, devices[0].feature_names, note) for path in paths[1:]]
    return devices


def _load_device(path: Path, names: tuple[str, ...] | None, note: Callable[[str], None]) -> Device:
    first = read_table(path, key="healthy", columns=names or ())
    notes = [f"{path}: healthy: {text}" for text in first.notes]
    tables = {"healthy": first.rows}
    if len(first.rows) < 2:
        raise RecordingError(
            f"{path}: 'healthy' has {len(first.rows)} row; at least 2 are needed for a scale"
        )
    # The door has read this archive already; what is left are small arrays of one axis or none.
    with np.load(path, allow_pickle=False) as arrays:
        later = _optional(arrays, "later", path)
        period = _optional(arrays, "period_rows", path)
        labels = _optional(arrays, "labels", path)
    for key in ("later", "test") if later is not None and later.size else ("test",):
        table = read_table(path, key=key, columns=first.names)
        notes += [f"{path}: {key}: {text}" for text in table.notes]
        tables[key] = table.rows
    for text in notes:
        note(text)
    return Device(
        name=path.stem,
        healthy=tables["healthy"],
        later=tables.get("later", first.rows[:0]),
        test=tables["test"],
        labels=_labels(labels, len(tables["test"]), path),
        feature_names=first.names,
        period_rows=_period(period, path),
    )


def _optional(arrays: Mapping[str, NDArray[np.generic]], key: str, path: Path) -> NDArray[np.generic] | None:
    if key not in arrays:
        return None
    try:
        return np.asarray(arrays[key])
    except Exception as error:  # noqa: BLE001 - zip, zlib and NumPy have half a dozen errors for damaged bytes
        raise RecordingError(f"{path}: {key!r} cannot be read: {error}") from None


def _labels(labels: NDArray[np.generic] | None, rows: int, path: Path) -> NDArray[np.bool_]:
    if labels is None:
        raise RecordingError(f"{path}: no array named 'labels'; expected 0 or 1 for each of {rows} test rows")
    flat = labels.reshape(-1) if labels.size == rows else labels
    if flat.shape != (rows,):
        raise RecordingError(
            f"{path}: 'labels' has shape {labels.shape}; expected one for each of {rows} test rows"
        )
    if flat.dtype.kind not in "fiub" or not np.isin(flat, (0, 1)).all():
        wrong = flat[~np.isin(flat, (0, 1))][:1] if flat.dtype.kind in "fiub" else flat[:1]
        raise RecordingError(f"{path}: 'labels' holds {wrong[0]!r}; expected 0 or 1")
    return flat.astype(np.bool_)


def _period(period: NDArray[np.generic] | None, path: Path) -> int | None:
    if period is None or not period.size:
        return None
    value = period.reshape(-1)[0]
    is_count = period.size == 1 and period.dtype.kind in "fiu" and float(value) == int(value)
    if not is_count or not 2 <= int(value) <= LONGEST_PERIOD_ROWS:
        raise RecordingError(
            f"{path}: 'period_rows' is {period.tolist()!r}; expected one whole number of rows, 2 to {LONGEST_PERIOD_ROWS:,}"
        )
    return int(value)

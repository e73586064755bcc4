"""Files that hold arrays: NPZ by our own door, WAV by the standard library's rules, Parquet where pyarrow is installed."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.contents import FileContent, Part
from models.recordings.files import open_recording
from models.recordings.machines import Column, ColumnKind
from models.recordings.npz import read_tables
from models.recordings.parts import content_of
from models.recordings.raw_columns import RawColumn, Table
from models.recordings.recording import check_size, listed, shown
from models.recordings.spacing import hides_in_float32, may_hide
from models.recordings.units import unit_of_name
from models.recordings.words import is_label_name, is_time_name, words_of

__all__ = ["read_npz", "read_parquet", "read_wav"]

_RATES: Final = frozenset(
    [
        "fs",
        "rate",
        "sample_rate",
        "sampling_rate",
        "samplerate",
        "sr",
        "sample_rate_hz",
        "rate_hz",
        "sampling_frequency",
        "freq",
        "frequency",
    ]
)
_INTERVALS: Final = frozenset(["dt", "step", "period", "interval"])
_LEAST_STEP_S: Final = 1e-12
_LARGE: Final = 1e7
_HALVES: Final = frozenset(["train", "test", "val", "valid", "validation"])


def read_npz(path: Path, answers: Mapping[str, str]) -> FileContent:
    """Each array (rows, columns) a machine, with labels from an array NAME_label; vectors of one length the columns of one.

    ``NAME_train`` and ``NAME_test`` are one machine.
    """
    found = read_tables(path, with_vectors=True)
    result = FileContent(path=path, notes=list(found.notes))
    vectors = dict(found.vectors)
    _take_rate(vectors, result)
    tables = dict(found.tables)
    labels = {name: vectors.pop(name) for name in list(vectors) if _names_labels(name) and tables}
    for name in [
        n for n, t in tables.items() if _names_labels(n) and t.rows.shape[1:] == (1,) and len(tables) > 1
    ]:
        labels[name] = tables.pop(name).rows[:, 0].astype(np.float64)
    sizes = {n: (len(t.rows), int(np.prod(t.rows.shape[:-1]))) for n, t in tables.items()}
    times: set[str] = set()
    for name, recording in tables.items():
        rows = recording.rows
        pieces = None
        if rows.ndim == 3:
            pieces = tuple(slice(k * rows.shape[1], (k + 1) * rows.shape[1]) for k in range(len(rows)))
            rows = rows.reshape(-1, rows.shape[-1])
        own = _labels_of(name, sizes, labels, path)
        columns = [
            RawColumn(name=n, unit=unit_of_name(n), place=c, sort="number", values=rows[:, c])
            for c, n in enumerate(recording.names)
        ]
        # Float32 tells the seconds of today only 128 apart, and thousandths of a pascal not at all.
        lossy = [
            column
            for column in columns
            if is_time_name(column.name)
            or float(np.nanmin(column.values, initial=np.inf)) > _LARGE
            or may_hide(column.values)
        ]
        for column, values in zip(lossy, _exact(path, name, lossy, len(rows)), strict=True):
            column.values = values
        for of_time, values in vectors.items():
            if is_time_name(of_time) and len(values) == len(rows) and _owner(of_time, sizes) in {None, name}:
                times.add(of_time)
                unit, place = unit_of_name(of_time), len(columns)
                columns.append(RawColumn(name=of_time, unit=unit, place=place, sort="number", values=values))
        if own is not None:
            columns.append(RawColumn(name="label", unit="", place=len(columns), sort="number", values=own))
        _add(result, columns, len(rows), name, answers, pieces)
    if tables:
        result.notes += [
            f"{path}: array {name!r} is no column of a table and was left out"
            for name in vectors
            if name not in times
        ]
    if vectors and not tables:
        count = max(map(len, vectors.values()))
        _add(
            result,
            [
                RawColumn(name=n, unit=unit_of_name(n), place=c, sort="number", values=v)
                for c, (n, v) in enumerate((n, v) for n, v in vectors.items() if len(v) == count)
            ],
            count,
            path.stem,
            answers,
            None,
        )
    result.notes += [f"{path}: array {name!r} fits no table and was left out" for name in labels]
    _join_halves(result)
    if len(result.parts) == 1 and result.parts[0].machine in {path.stem, *tables}:
        result.parts[0].machine = None
    return result


def _take_rate(vectors: dict[str, NDArray[np.float64]], result: FileContent) -> None:
    """Arrays of one number, out of `vectors`: the rate, or the step."""
    for name in list(vectors):
        if vectors[name].size == 1:
            value = float(vectors.pop(name)[0])
            if name.casefold() in _RATES and 0 < value < np.inf:
                result.rate_hz = value
            elif name.casefold() in _INTERVALS and _LEAST_STEP_S < value < np.inf:
                result.rate_hz = 1.0 / value
            else:
                result.notes.append(f"{result.path}: array {name!r} is one number and was left out")


def _names_labels(name: str) -> bool:
    """Is an array one of labels by its name: ``x_label``, ``y``, ``y_train``?"""
    words = words_of(name)
    return is_label_name(name) or is_label_name(" ".join(word for word in words if word not in _HALVES))


def _owner(name: str, tables: Collection[str]) -> str | None:
    """The table that an array is named after: ``pump10`` of ``pump10_label``, also where there is a ``pump1``."""
    named = [
        table
        for table in tables
        if name.startswith(table)
        and (rest := name[len(table) :])
        and (not rest[0].isalnum() or _names_labels(rest))
    ]
    return max(named, key=len, default=None)


def _labels_of(
    name: str, sizes: Mapping[str, tuple[int, int]], labels: dict[str, NDArray[np.float64]], path: Path
) -> NDArray[np.float64] | None:
    """The labels of table `name`, taken out of `labels`: of as many rows, or one for each window; `sizes` are both of each table.

    Raises:
        RecordingError: several fit, or what fits is named after no table and fits another one, too.
    """
    fitting = [key for key, values in labels.items() if len(values) in sizes[name]]
    own = [key for key in fitting if _owner(key, sizes) == name]
    free = [key for key in fitting if _owner(key, sizes) is None and _halves_of(key) == _halves_of(name)]
    if len(own or free) > 1:
        raise RecordingError(
            f"{path}: arrays {listed(own or free)} may each label {shown(name)}; call the one that does {name}_label, and leave the others out"
        )
    if not (own or free):
        return None
    key = (own or free)[0]
    others = [n for n in sizes if _halves_of(n) == _halves_of(name) and len(labels[key]) in sizes[n]]
    if not own and len(others) > 1:
        raise RecordingError(
            f"{path}: array {shown(key)} may label each of {listed(others)}; call it after the one that it labels, such as {name}_label"
        )
    found = labels.pop(key)
    count, rows = sizes[name]
    return found if len(found) == rows else np.repeat(found, rows // count)


def _halves_of(name: str) -> frozenset[str]:
    return _HALVES & set(words_of(name))


def _exact(path: Path, name: str, columns: Sequence[RawColumn], count: int) -> list[NDArray[np.float64]]:
    """The values of some columns of an array as the file has them, float64 (count,) each."""
    if not columns:
        return []
    with np.load(path, allow_pickle=False) as archive:
        table = archive[name]
    return [np.asarray(table[..., column.place], np.float64).reshape(count) for column in columns]


def _add(
    result: FileContent,
    columns: list[RawColumn],
    count: int,
    name: str,
    answers: Mapping[str, str],
    pieces: tuple[slice, ...] | None,
) -> None:
    content = content_of(Table(path=result.path, columns=columns, count=count), answers)
    for part in content.parts:
        part.machine = part.machine or name
        part.pieces = pieces or part.pieces
    result.parts += content.parts
    result.columns = result.columns or content.columns
    result.notes += [note for note in content.notes if note not in result.notes]
    result.settled |= content.settled
    before = result.everywhere if len(result.parts) > len(content.parts) else content.everywhere
    result.everywhere = {key: question for key, question in content.everywhere.items() if key in before}
    result.has_clock |= content.has_clock
    result.is_counted |= content.is_counted


def _join_halves(result: FileContent) -> None:
    """NAME_train before NAME_test: the same machine, its later half perhaps labelled."""
    by_name = {part.machine or "": part for part in result.parts}
    for name, part in by_name.items():
        stem = name.removesuffix("_train").removesuffix("-train")
        other = next((by_name[o] for o in (f"{stem}_test", f"{stem}-test") if o in by_name), None)
        if stem == name or other is None or other.names != part.names:
            continue
        first, last = len(part.rows), len(other.rows)
        part.labels = _joined_labels(part, other)
        part.rows = np.concatenate([part.rows, other.rows])
        both = part.times_s is not None and other.times_s is not None
        part.times_s = np.concatenate([part.times_s, other.times_s]) if both else None
        part.pieces = (slice(0, first), slice(first, first + last))
        part.machine = stem
        result.parts.remove(other)
        result.notes.append(
            f"{name} and {other.machine} are one machine, {stem}: first {first} rows, then {last}"
        )


def _joined_labels(first: Part, last: Part) -> NDArray[np.int8] | None:
    if first.labels is None and last.labels is None:
        return None
    return np.concatenate(
        [np.full(len(p.rows), -1, np.int8) if p.labels is None else p.labels for p in (first, last)]
    )


def read_wav(path: Path) -> FileContent:
    """A WAV file: a column for each channel, -1 to 1 of full scale, with the rate that its header says.

    Raises:
        RecordingError: it is cut off, or holds compressed sound.
    """
    with open_recording(path) as (file, size):
        head = file.read(12)
        if not (head.startswith(b"RIFF") and head[8:12] == b"WAVE"):
            raise RecordingError(f"{path}: is no WAV file: it begins with {head[:4]!r}")
        form, data_at, data_bytes = b"", 0, 0
        while len(chunk := file.read(8)) == 8:
            name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"fmt ":
                form = file.read(min(length, 64))
                file.seek(max(0, length - len(form)), 1)
            elif name == b"data":
                data_at, data_bytes = file.tell(), min(length, size - file.tell())
                break
            else:
                file.seek(length + length % 2, 1)
        if len(form) < 16 or not data_at:
            raise RecordingError(
                f"{path}: is a WAV file without samples or without their form; record it again"
            )
        code, channels, rate, _, block, bits = struct.unpack("<HHIIHH", form[:16])
        if code == 0xFFFE and len(form) >= 26:
            code = struct.unpack("<H", form[24:26])[0]
        dtype = {
            (1, 8): "u1",
            (1, 16): "<i2",
            (1, 24): "i3",
            (1, 32): "<i4",
            (3, 32): "<f4",
            (3, 64): "<f8",
        }.get((code, bits))
        if dtype is None or not channels or not rate or block != channels * bits // 8:
            raise RecordingError(
                f"{path}: holds sound of form {code} with {bits} bits; convert it: ffmpeg -i '{path.name}' -c:a pcm_s16le '{path.stem}-16.wav'"
            )
        count = data_bytes // block
        check_size((count, channels), str(path))
        file.seek(data_at)
        rows = np.empty((count, channels), np.float32)
        for first in range(0, count, 1 << 16):
            content = file.read(min(1 << 16, count - first) * block)
            rows[first : first + len(content) // block] = _samples(content, dtype).reshape(-1, channels)
    names = ("vibration",) if channels == 1 else tuple(f"channel {c + 1}" for c in range(channels))
    return FileContent(
        path=path,
        parts=[
            Part(
                machine=None,
                names=names,
                rows=rows,
                times_s=None,
                labels=None,
                path=path,
                rate_hz=float(rate),
            )
        ],
        columns=[Column(name=name, kind=ColumnKind.SENSOR, unit="of full scale") for name in names],
        notes=[] if data_bytes % block == 0 else ["its last sample is cut off and was left out"],
        rate_hz=float(rate),
    )


def _samples(content: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "i3":
        three = np.frombuffer(content, np.uint8).reshape(-1, 3).astype(np.int32)
        values = (three[:, 0] << 8 | three[:, 1] << 16 | three[:, 2] << 24) >> 8
        return np.asarray(values / np.float32(1 << 23), np.float32)
    values = np.frombuffer(content, dtype)
    if dtype == "u1":
        return np.asarray((values.astype(np.float32) - 128) / 128, np.float32)
    scale = {"<i2": 1 << 15, "<i4": 1 << 31}.get(dtype, 1)
    return np.asarray(values.astype(np.float64) / scale, np.float32)


def read_parquet(path: Path, answers: Mapping[str, str]) -> FileContent:
    """The columns of a Parquet file; needs pyarrow, of the extra ``export``.

    Raises:
        RecordingError: pyarrow is not installed, or cannot read the file.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise RecordingError(
            f"{path}: is a Parquet file; pip install 'fedge[export]', or convert it: python -c \"import pandas as pd; "
            f"pd.read_parquet('{path.name}').to_csv('{path.stem}.csv', index=False)\""
        ) from None
    try:
        table = pq.read_table(path)
    except Exception as error:  # noqa: BLE001 - a library's many errors for damaged bytes
        raise RecordingError(
            f"{path}: is no Parquet file that can be read: {str(error).splitlines()[0]}"
        ) from None
    check_size((max(1, table.num_rows), max(1, table.num_columns)), str(path))
    columns = []
    for place, name in enumerate(table.column_names):
        columns.append(_arrow_column(table.column(name), name, place, path))
    return content_of(Table(path=path, columns=columns, count=table.num_rows), answers)


def _arrow_column(found: object, name: str, place: int, path: Path) -> RawColumn:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = found.type  # type: ignore[attr-defined]  # an arrow's column
    column = RawColumn(name=name, unit=unit_of_name(name), place=place, sort="number")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        nanos = pc.cast(
            pc.cast(found, pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False), pa.int64()
        )
        column.sort = "stamp"
        column.stamps = {"": np.asarray(nanos.to_numpy(zero_copy_only=False), np.float64) * 1e-6}
        column.zoned = nanos.length() if getattr(kind, "tz", None) else 0
        column.zoned -= nanos.null_count if column.zoned else 0
    elif (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        values = pc.cast(found, pa.float64()).to_numpy(zero_copy_only=False)
        is_wide = (
            is_time_name(name)
            or float(np.nanmax(np.abs(values), initial=0.0)) > _LARGE
            or hides_in_float32(values)
        )
        column.values = np.array(values, np.float64 if is_wide else np.float32)
        column.values[np.isinf(column.values)] = np.nan
        if pa.types.is_boolean(kind):
            column.flags = {"true": 1}
    else:
        try:
            words = [None if word is None else str(word) for word in pc.cast(found, pa.string()).to_pylist()]
        except pa.ArrowException:
            raise RecordingError(
                f"{path}: column {name!r} holds {kind}; keep numbers, times and words"
            ) from None
        column.sort = "word"
        vocabulary: dict[str, int] = {}
        codes: Sequence[int] = [
            -1 if not word else vocabulary.setdefault(word, len(vocabulary)) for word in words
        ]
        column.codes, column.vocabulary = np.array(codes, np.int32), vocabulary
    return column

"""NPZ by strangers: what numpy.savez wrote is read, and arrays that are no table are refused by name."""

from __future__ import annotations

import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from npz_world import NAMES, ROWS, npy, npy_claiming, refusal, saved, zipped

from models.errors import RecordingError
from models.recordings.npz import read_table, read_tables

pytestmark = pytest.mark.edge


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "table",
    [
        ROWS,
        ROWS.astype(np.float64),
        ROWS.astype(np.float16),
        ROWS.astype(">f8"),
        ROWS.astype(">i2"),
        ROWS.astype(np.uint64),
        ROWS.astype(np.int8),
        np.asfortranarray(ROWS),
        np.asfortranarray(ROWS.astype(">f4")),
        ROWS.astype(np.longdouble),
    ],
    ids=lambda table: f"{table.dtype} {'F' if np.isfortran(table) else 'C'}",
)
def test_a_table_of_any_numbers_in_any_order_is_the_same_float32(
    tmp_path: Path, table: np.ndarray, save: object
) -> None:
    save(tmp_path / "x.npz", a=table, feature_names=NAMES)  # type: ignore[operator]  # one of NumPy's two
    found = read_table(tmp_path / "x.npz", key="a")
    assert found.names == ("speed", "load", "heat")
    assert found.rows.dtype == np.float32
    assert found.rows.flags.c_contiguous
    np.testing.assert_array_equal(found.rows, ROWS)


def test_flags_are_one_and_zero(tmp_path: Path) -> None:
    found = read_table(saved(tmp_path, a=np.array([[True, False], [False, True]])), key="a")
    np.testing.assert_array_equal(found.rows, [[1, 0], [0, 1]])


def test_long_tables_of_either_order_are_read_piece_by_piece(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(50_000, 7))
    for order in "CF":
        tracemalloc.start()
        found = read_table(saved(tmp_path, a=np.asarray(table, order=order)), key="a")
        tracemalloc.stop()
        np.testing.assert_array_equal(found.rows, table.astype(np.float32))
    path = saved(tmp_path, a=table)
    tracemalloc.start()
    read_table(path, key="a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * table.size * 4


def test_columns_are_picked_and_ordered_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, a=ROWS, feature_names=NAMES)
    found = read_table(path, key="a", columns=("heat", "speed"))
    assert found.names == ("heat", "speed")
    np.testing.assert_array_equal(found.rows, [[3, 1], [6, 4]])
    with pytest.raises(RecordingError, match=r"'a': no column 'noise'; there are speed, load, heat"):
        read_table(path, key="a", columns=("noise",))


def test_without_names_columns_are_numbered(tmp_path: Path) -> None:
    found = read_table(saved(tmp_path, a=ROWS), key="a")
    assert (found.names, found.is_named) == (("f0", "f1", "f2"), False)


def test_a_clock_among_the_columns_is_left_out_and_told(tmp_path: Path) -> None:
    table = np.column_stack([1.7e9 + np.arange(5), np.ones(5)])
    found = read_table(saved(tmp_path, a=table, feature_names=np.array(["when", "x"])), key="a")
    assert found.names == ("x",)
    assert "column 'when' is a clock or a row number" in found.notes[0]


def test_a_value_that_is_missing_is_told_and_stays_missing(tmp_path: Path) -> None:
    table = ROWS.copy()
    table[1, 2] = np.nan
    found = read_table(saved(tmp_path, a=table, feature_names=NAMES), key="a")
    assert np.isnan(found.rows[1, 2])
    assert found.notes == ("column 'heat' misses 1 of 2 values",)


@pytest.mark.parametrize(("value", "order"), [(np.inf, "C"), (-1e39, "C"), (1e300, "F")])
def test_what_float32_cannot_hold_is_refused_with_its_place(tmp_path: Path, value: float, order: str) -> None:
    table = np.ones((4, 3), order=order)  # type: ignore[call-overload]  # numpy's stub wants a literal
    table[2, 1] = value
    assert f"array 'a' row 2, column 1: {value} is not a finite number" in refusal(saved(tmp_path, a=table))


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (ROWS.astype(complex), "complex numbers (complex128)"),
        (ROWS.astype("M8[s]"), "dates (datetime64[s])"),
        (ROWS.astype("m8[ms]"), "time spans (timedelta64[ms])"),
        (ROWS.astype(str), "text ("),
        (ROWS.astype(bytes), "text ("),
        (np.zeros((2, 2), [("x", "f4")]), "records"),
        (ROWS.astype(object), "Python objects"),
        (np.array([print], object), "Python objects"),
    ],
)
def test_arrays_of_anything_else_are_refused_by_name(tmp_path: Path, array: np.ndarray, what: str) -> None:
    said = refusal(zipped(tmp_path, {"a.npy": npy(array.astype(array.dtype))}))
    assert f"array 'a' holds {what}" in said
    assert "pickle" not in said


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((0, 3)), "is empty: its shape is (0, 3)"),
        (np.ones((3, 0)), "is empty: its shape is (3, 0)"),
        (np.ones((2, 2, 2, 2)), "has shape (2, 2, 2, 2)"),
        (np.ones((1, 20_000)), "has 20000 columns; at most 16384 are read"),
    ],
)
def test_a_shape_that_is_no_table_is_refused(tmp_path: Path, array: np.ndarray, said: str) -> None:
    path = saved(tmp_path, a=array)
    with pytest.raises(RecordingError, match=r"a recording|at most"):
        read_table(path, key="a")
    with pytest.raises(RecordingError, match=re.escape(said)):
        read_tables(path)


def test_arrays_of_one_axis_are_told_and_not_taken_for_machines(tmp_path: Path) -> None:
    found = read_tables(
        saved(tmp_path, a=ROWS, b=np.ones((2, 4, 3)), labels=np.ones(2), n=3, feature_names=NAMES)
    )
    assert list(found.tables) == ["a", "b"]
    assert found.tables["b"].rows.shape == (2, 4, 3)
    assert [note.split("array ")[1] for note in found.notes] == [
        "'labels' has shape (2,) and was left out: a recording is (rows, columns)",
        "'n' has shape () and was left out: a recording is (rows, columns)",
    ]
    with pytest.raises(RecordingError, match=r"holds no recording: .*'labels' has shape"):
        read_tables(saved(tmp_path, labels=np.ones(2)))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (np.array(["u", "v"]), "has shape (2,) of <U1, but 'a' has 3 columns: give it one name"),
        (np.array([["u", "v", "w"]]), "has shape (1, 3)"),
        (np.array([1, 2, 3]), "has shape (3,) of int64"),
        (np.array(["u", "v", "u"]), "columns 1 and 3 are both named 'u'"),
        (np.array(["u", "", "w"]), "column 2 is named ''"),
        (np.array(["u", "v\n", "w\nx"]), "column 3 is named 'w\\nx'"),
        (np.array([b"\xff", b"u", b"v"]), "bytes that are no text"),
        (np.array(["u", "v", "w"], object), "Python objects"),
        (np.array(["u" * 300, "v", "w"]), "1 to 200 printable characters"),
    ],
)
def test_names_that_do_not_name_the_columns_are_refused(tmp_path: Path, names: np.ndarray, said: str) -> None:
    refused = refusal(saved(tmp_path, a=ROWS, feature_names=names))
    assert "array 'feature_names'" in refused
    assert said in refused


def test_names_in_bytes_are_names(tmp_path: Path) -> None:
    path = saved(tmp_path, a=ROWS, feature_names=np.array([b"u", "°C".encode(), b"w"]))
    assert read_table(path, key="a").names == ("u", "°C", "w")


@pytest.mark.parametrize("key", [None, "b", "feature_names"])
def test_a_key_that_leads_to_no_table_is_named_with_those_that_do(tmp_path: Path, key: str | None) -> None:
    with pytest.raises(RecordingError, match=r"key must be one of a"):
        read_table(saved(tmp_path, a=ROWS, feature_names=NAMES), key=key)


def test_other_files_in_the_archive_are_none_of_ours(tmp_path: Path) -> None:
    path = zipped(tmp_path, {"README.txt": b"how it was recorded", "a.npy": npy(ROWS)}, zipfile.ZIP_DEFLATED)
    assert list(read_tables(path).tables) == ["a"]


def test_headers_of_all_three_versions_are_read(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        path = zipped(tmp_path, {"a.npy": npy_claiming("'<f4'", "(2, 3)", ROWS.tobytes(), version=version)})
        np.testing.assert_array_equal(read_table(path, key="a").rows, ROWS)


def test_tables_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, a=ROWS, b=ROWS)
    monkeypatch.setattr("models.recordings.recording.MAXIMUM_BYTES", 2 * ROWS.nbytes)
    assert list(read_tables(path).tables) == ["a", "b"]
    monkeypatch.setattr("models.recordings.recording.MAXIMUM_BYTES", 2 * ROWS.nbytes - 1)
    with pytest.raises(RecordingError, match=r"x\.npz up to 'b' has shape"):
        read_tables(path)

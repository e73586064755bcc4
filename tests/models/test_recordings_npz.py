"""NPZ by strangers: what numpy.savez wrote is read, and everything else is refused in one sentence about the file."""

from __future__ import annotations

import io
import os
import re
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import RecordingError
from models.recordings.npz import read_table, read_tables
from models.recordings.recording import Recording

pytestmark = pytest.mark.edge

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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: it has 0 bytes"),
        (b"speed,load\n1,2\n", "is no NPZ archive, as numpy.savez makes one; a table in CSV has a name"),
        (npy(ROWS), "but a single NumPy array (.npy)"),
        (b"PK\x03\x04 and no more", "its end is missing, as if it had been cut off"),
        (b"PK\x05\x06" + bytes(18), "but an empty zip archive"),
        (b"PK\x03\x04" + b"PK\x05\x06" + bytes(18), "it holds no array, but none"),
        (b"\x80\x04K\x01.", "but a Python pickle"),
        (b"\x89HDF\r\n\x1a\n", "but an HDF5 file"),
    ],
)
def test_a_file_that_is_no_archive_is_named_with_what_it_is(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    assert said in refusal(tmp_path / "x.npz")


def test_a_workbook_is_no_archive_of_arrays(tmp_path: Path) -> None:
    assert "holds no array, but [Content_Types].xml" in refusal(
        zipped(tmp_path, {"[Content_Types].xml": b"<x/>"})
    )


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (b"", "is no array, as numpy.savez writes one"),
        (b"1,2\n3,4\n", "is no array, as numpy.savez writes one"),
        (b"\x93NUMPY\x09\x00" + bytes(40), "is no array, as numpy.savez writes one"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr'", "its header of 16 bytes is cut off or too long"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "its header of 4294967295 bytes is cut off or too long"),
        (npy_claiming("'<f4'", "(2, 3", ROWS.tobytes()), "its header cannot be understood"),
        (npy_claiming("'<f4'", "(" * 400, ROWS.tobytes()), "its header cannot be understood"),
        (npy_claiming("'<f4'", "-" * 4000 + "1", ROWS.tobytes()), "its header cannot be understood"),
        (npy_claiming("'<f4'", "[2, 3]", ROWS.tobytes()), "its header names no shape"),
        (npy_claiming("'<f4'", "(-2, -3)", ROWS.tobytes()), "its header names no shape"),
        (npy_claiming("'<f4'", "(True, 6)", ROWS.tobytes()), "its header names no shape"),
        (npy_claiming("'<f4'", "(2, 4)", ROWS.tobytes()), "(2, 4) of float32 is not what its 94 bytes hold"),
        (npy_claiming("'<f4'", "(1, 3)", ROWS.tobytes()), "(1, 3) of float32 is not what its 94 bytes hold"),
        (npy_claiming("'<f4'", f"({2**62}, 4)", ROWS.tobytes()), "is not what its"),
        (npy_claiming("'<f99'", "(2, 3)", ROWS.tobytes()), "which this build of NumPy does not know"),
        (npy_claiming("'__import__'", "(2, 3)", ROWS.tobytes()), "which this build of NumPy does not know"),
        (npy_claiming("7", "(2, 3)", ROWS.tobytes()), "which this build of NumPy does not know"),
        (npy_claiming("'O'", "(2, 3)", b"\x80\x04."), "Python objects"),
        (npy_claiming("'<U0'", f"({2**60}, 3)"), "holds text"),
    ],
)
def test_a_member_that_is_no_array_is_refused(tmp_path: Path, member: bytes, said: str) -> None:
    refused = refusal(zipped(tmp_path, {"a.npy": member}))
    assert "array 'a'" in refused
    assert said in refused


def test_headers_of_all_three_versions_are_read(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        path = zipped(tmp_path, {"a.npy": npy_claiming("'<f4'", "(2, 3)", ROWS.tobytes(), version=version)})
        np.testing.assert_array_equal(read_table(path, key="a").rows, ROWS)


def test_three_hundred_bytes_that_claim_87_tebibytes_allocate_nothing(tmp_path: Path) -> None:
    path = zipped(tmp_path, {"a.npy": npy_claiming("'<f8'", "(3000000000000, 4)")}, zipfile.ZIP_DEFLATED)
    # The zip's own directory joins in the lie.
    content = bytearray(path.read_bytes())
    member = content.index(b"PK\x01\x02")
    content[member + 24 : member + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(content)
    tracemalloc.start()
    assert "is damaged: it claims 4,294,967,280 bytes in" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_zip_bomb_is_refused_by_what_it_would_become(tmp_path: Path) -> None:
    header = npy_claiming("'|i1'", f"({1 << 20}, 300)")
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as member,
    ):
        member.write(header)
        for _ in range(300):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    assert "bytes as float32, and at most 1,073,741,824 are read" in refusal(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_directory_that_python_would_make_too_much_of_is_refused_before_it_is_read(tmp_path: Path) -> None:
    content = saved(tmp_path, a=ROWS).read_bytes()
    end = content.rindex(b"PK\x05\x06")
    long = content[: end + 12] + struct.pack("<I", 5 << 20) + content[end + 16 :]
    for crafted, said in (
        (long, "has a directory of more than 4,194,304 bytes"),
        (content[:end] + b"PK\x06\x07" + bytes(16) + content[end:], "more than 4 GiB or 65,535 arrays"),
    ):
        (tmp_path / "x.npz").write_bytes(crafted)
        assert said in refusal(tmp_path / "x.npz")


def test_a_header_is_read_only_as_far_as_headers_go(tmp_path: Path) -> None:
    length = 20 << 20
    member = b"\x93NUMPY\x02\x00" + struct.pack("<I", length) + b" " * length
    path = zipped(tmp_path, {"a.npy": member}, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    assert "its header of 20971520 bytes is cut off or too long" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_tables_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, a=ROWS, b=ROWS)
    monkeypatch.setattr("models.recordings.recording.MAXIMUM_BYTES", 2 * ROWS.nbytes)
    assert list(read_tables(path).tables) == ["a", "b"]
    monkeypatch.setattr("models.recordings.recording.MAXIMUM_BYTES", 2 * ROWS.nbytes - 1)
    with pytest.raises(RecordingError, match=r"x\.npz up to 'b' has shape"):
        read_tables(path)


def test_bit_rot_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = saved(tmp_path, a=ROWS)
    content = path.read_bytes()
    at = content.index(ROWS.tobytes())
    path.write_bytes(content[: at + 5] + bytes([content[at + 5] ^ 1]) + content[at + 6 :])
    assert "array 'a' is damaged: Bad CRC-32" in refusal(path)


def test_an_encrypted_archive_and_a_foreign_packing_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, a=ROWS)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    assert "array 'a' is encrypted; write the archive without a password" in refusal(path)
    path = zipped(tmp_path, {"a.npy": npy(ROWS)}, zipfile.ZIP_LZMA)
    assert "array 'a' is packed by method 14" in refusal(path)


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr("a.npy", npy(ROWS))
        archive.writestr("a.npy", npy(ROWS + 1))
    assert "holds two arrays of one name" in refusal(tmp_path / "x.npz")


def test_no_file_a_folder_and_a_pipe_are_refused_and_none_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for name, said in (("absent.npz", "No such file"), (".", "is a folder"), ("pipe.npz", "no regular file")):
        assert said in refusal(tmp_path / name)


def readings(path: Path) -> list[Recording]:
    """What either door makes of the file; a refusal is an answer of one line."""
    found: list[Recording] = []
    said: list[str] = []
    for read in (lambda: [read_table(path, key="a")], lambda: list(read_tables(path).tables.values())):
        try:
            found += read()
        except RecordingError as error:
            said.append(str(error))
    assert "\n" not in "".join(said)
    return found


def test_an_archive_damaged_anywhere_is_refused_or_gives_what_was_saved(tmp_path: Path) -> None:
    for save, step in ((np.savez, 2), (np.savez_compressed, 3)):
        save(tmp_path / "x.npz", a=ROWS, feature_names=NAMES)
        content = (tmp_path / "x.npz").read_bytes()
        for at in range(0, len(content), step):
            (tmp_path / "x.npz").write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
            for found in readings(tmp_path / "x.npz"):
                np.testing.assert_array_equal(found.rows, ROWS)


@given(
    cut=st.integers(0, 800),
    flips=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 255)), max_size=4),
    is_packed=st.booleans(),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_and_mutated_archive_is_refused_or_gives_finite_numbers(
    tmp_path: Path, cut: int, flips: list[tuple[int, int]], is_packed: bool
) -> None:
    (np.savez_compressed if is_packed else np.savez)(tmp_path / "x.npz", a=ROWS, feature_names=NAMES)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    for at, value in flips:
        content[at % len(content)] = value
    (tmp_path / "x.npz").write_bytes(content[: len(content) - cut] if cut < 400 else content)
    for found in readings(tmp_path / "x.npz"):
        assert not np.isinf(found.rows).any()


@given(content=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: b"PK\x03\x04" + b)))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    assert readings(tmp_path / "x.npz") == []


@given(header=st.text("{}()[]'descrfotanshp_<|>=f4iOU,: 0123456789TrueFalse-\n\\", max_size=80))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_an_answer(tmp_path: Path, header: str) -> None:
    content = header.encode()
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content
    readings(zipped(tmp_path, {"a.npy": member}))

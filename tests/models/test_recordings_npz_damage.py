"""Files that are no archive of arrays, crafted, cut or damaged ones: each refused in one sentence and in little memory."""

from __future__ import annotations

import os
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from npz_world import NAMES, ROWS, npy, npy_claiming, refusal, saved, zipped

from models.errors import RecordingError
from models.recordings.npz import read_table, read_tables
from models.recordings.recording import Recording

pytestmark = pytest.mark.edge


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

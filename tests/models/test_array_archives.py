"""Archives of arrays: what numpy.savez wrote is read, and everything else is refused in one sentence about the file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from models.array_archives import array_names, read_arrays
from models.errors import ArrayArchiveError

pytestmark = pytest.mark.edge

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
NAMES = np.array(["speed", "load"])


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npz"
    np.savez(path, rows=ROWS, names=NAMES)
    return path


def test_what_was_saved_is_read_by_name(archive: Path) -> None:
    assert array_names(archive) == ["rows", "names"]
    found = read_arrays(archive)
    np.testing.assert_array_equal(found["rows"], ROWS)
    np.testing.assert_array_equal(found["names"], NAMES)


def test_only_what_is_wanted_and_there_is_read(archive: Path) -> None:
    assert list(read_arrays(archive, only={"names", "another"})) == ["names"]


def test_a_compressed_archive_and_one_with_other_files_in_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez_compressed(path, rows=ROWS)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("README.txt", "how it was recorded")
    assert list(read_arrays(path)) == ["rows"]


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, ROWS)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"speed,load\n1,2\n", npy(), b"PK\x03\x04 and no more"],
    ids=["empty", "CSV", "single array", "cut"],
)
def test_a_file_that_is_no_archive_is_named_with_what_would_be_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.npz"
    path.write_bytes(content)
    for read in (array_names, read_arrays):
        with pytest.raises(
            ArrayArchiveError, match=r"rows\.npz is no NPZ archive, as numpy\.savez makes one"
        ):
            read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArrayArchiveError, match=r"absent\.npz cannot be read: No such file"):
        read_arrays(tmp_path / "absent.npz")


def test_python_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, rows=np.array([print], object))
    with pytest.raises(ArrayArchiveError, match="'rows' is damaged, or holds objects instead of numbers"):
        read_arrays(path)


def test_an_archive_damaged_anywhere_is_refused_or_gives_what_was_saved(archive: Path) -> None:
    content = archive.read_bytes()
    for at in range(len(content)):
        archive.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            found = read_arrays(archive)
        except ArrayArchiveError:
            continue
        for name in found.keys() & {"rows", "names"}:
            np.testing.assert_array_equal(found[name], {"rows": ROWS, "names": NAMES}[name])

"""A file is wholly the old or wholly the new one, and durable once the call returns."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from runtime import durable_files
from runtime.errors import FedgeError, StorageError


def test_the_content_and_the_mode_are_what_was_asked_for(tmp_path: Path) -> None:
    old_mask = os.umask(0o077)
    try:
        durable_files.write_durably(tmp_path / "public", b"a")
        durable_files.write_durably(tmp_path / "secret", b"b", mode=0o600)
    finally:
        os.umask(old_mask)
    assert (tmp_path / "public").read_bytes() == b"a"
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert {p.name for p in tmp_path.iterdir()} == {"public", "secret"}


def test_file_then_rename_then_directory_reach_the_disk_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append("directory" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    durable_files.write_durably(tmp_path / "f", b"x")
    assert calls == ["file", "rename", "directory"]
    calls.clear()
    durable_files.write_quickly(tmp_path / "f", b"y")
    assert calls == ["rename"]


def test_a_disk_that_refuses_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StorageError, match=r"cannot write 3 bytes to .*f: No space left on device; the old file"
    ) as caught:
        durable_files.write_durably(file, b"new")
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, FedgeError)
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_a_missing_directory_is_said(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        durable_files.write_durably(tmp_path / parent / "f", b"x")


def test_threads_that_write_one_file_leave_one_whole_content(tmp_path: Path) -> None:
    contents = [bytes([n]) * 200_000 for n in range(8)]
    writers = [
        threading.Thread(target=durable_files.write_quickly, args=(tmp_path / "f", c))
        for c in contents
        for _ in "ab"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "f").read_bytes() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_reading_tells_nothing_there_from_not_readable(tmp_path: Path) -> None:
    assert durable_files.read_bytes(tmp_path / "f") is None
    with pytest.raises(StorageError, match="cannot read"):
        durable_files.read_bytes(tmp_path)


def test_a_private_directory_is_its_owners_alone(tmp_path: Path) -> None:
    made = durable_files.private_directory(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot create directory"):
        durable_files.private_directory(tmp_path / "f" / "g")


def test_a_finished_file_takes_its_name_or_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x")
    durable_files.replace_file(tmp_path / "new", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"x"
    with pytest.raises(StorageError, match="cannot rename"):
        durable_files.replace_file(tmp_path / "gone", tmp_path / "f")


def test_an_exclusive_write_never_replaces_a_file_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "release.key"
    durable_files.write_durably(file, b"first", mode=0o600, exclusive=True)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StorageError, match="File exists"):
        durable_files.write_durably(file, b"second", exclusive=True)
    assert file.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["release.key"]


def test_of_many_that_write_exclusively_at_once_one_wins(tmp_path: Path) -> None:
    file, won, start = tmp_path / "release.key", list[bytes](), threading.Barrier(8)

    def write(content: bytes) -> None:
        start.wait()
        try:
            durable_files.write_durably(file, content, exclusive=True)
        except StorageError:
            return
        won.append(content)

    threads = [threading.Thread(target=write, args=(bytes([number]),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [file.read_bytes()]


def test_a_private_directory_is_private_up_to_what_was_there(tmp_path: Path) -> None:
    durable_files.private_directory(tmp_path / "a" / "b" / "c")
    assert [
        path.stat().st_mode & 0o777
        for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c")
    ] == [0o700] * 3

"""The signed repository on disk: whole at any time, whoever writes and whenever it is killed; real TUF clients read it."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
from trust_world import Keys, OneDevice, list_bundles, make_repository
from tuf.api.metadata import Metadata, Timestamp

from fleet.errors import ConflictError, NotFoundError, UnacceptableError
from fleet.trust import repository as repository_module
from fleet.trust.metadata import DAY_S
from fleet.trust.repository import TrustRepository
from runtime.errors import StorageError

DAY = DAY_S


def test_a_device_finds_a_listed_release_and_no_other(tmp_path: Path) -> None:
    keys = Keys()
    repository = make_repository(tmp_path, keys)
    list_bundles(repository, {"motor/1": b"one"}, keys.families["motor"])
    device = OneDevice(tmp_path / "device", repository)
    found = device.find("motor/1")
    assert found is not None
    assert found.length == 3
    assert device.find("motor/2") is None
    assert repository.published().is_listed("models/motor/1.fedge", found.hashes["sha256"], 3)
    assert not repository.published().is_listed("models/motor/1.fedge", found.hashes["sha256"], 4)


def test_an_idle_check_costs_a_device_one_small_file(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    device = OneDevice(tmp_path / "device", repository)
    device.refresh()
    device.asked.clear()
    device.refresh()
    assert device.asked == ["2.root.json", "timestamp.json"]
    assert len(repository.read("timestamp.json")) < 600


def test_timestamp_and_snapshot_are_renewed_at_half_and_devices_follow(tmp_path: Path) -> None:
    now = time.time()
    repository = make_repository(tmp_path, now=now)
    device = OneDevice(tmp_path / "device", repository)
    device.refresh()
    first = repository.published()
    assert not repository.renew(now + DAY / 2 - 10)
    assert repository.renew(now + DAY / 2 + 10)
    second = repository.published()
    assert second.timestamp
    assert first.timestamp
    assert second.snapshot
    assert first.snapshot
    assert second.timestamp.signed.version > first.timestamp.signed.version
    assert second.snapshot.signed.version == first.snapshot.signed.version
    device.refresh()
    assert repository.renew(now + 4 * DAY)
    third = repository.published()
    assert third.snapshot
    assert third.snapshot.signed.version > first.snapshot.signed.version
    device.refresh()


def test_what_a_clock_that_was_wrong_has_signed_is_signed_anew(tmp_path: Path) -> None:
    now = time.time()
    repository = make_repository(tmp_path, now=now)
    repository.renew(now + 300 * DAY)
    assert repository.renew(now), "else devices would believe a timestamp of next year for as long"
    assert OneDevice(tmp_path / "device", repository).refresh()


def test_a_fleet_that_comes_back_from_an_old_backup_is_ahead_of_its_devices(tmp_path: Path) -> None:
    now = time.time() - 3600
    repository = make_repository(tmp_path, now=now)
    shutil.copytree(tmp_path / "trust", tmp_path / "backup")
    for hour in range(1, 3):
        repository.renew(now + hour * DAY)
    device = OneDevice(tmp_path / "device", repository)
    device.refresh()
    shutil.rmtree(tmp_path / "trust")
    (tmp_path / "backup").rename(tmp_path / "trust")
    assert repository.renew(now + 3 * DAY)
    device.refresh()


class _KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("writes", range(6))
def test_a_kill_at_any_write_leaves_the_old_state_or_the_new_one(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys()
    repository = make_repository(tmp_path, keys)
    device = OneDevice(tmp_path / "device", repository)
    device.refresh()
    real, done = repository_module.write_durably, 0

    def write(path: Path, content: bytes, **options: object) -> None:
        nonlocal done
        if done == writes:
            raise _KilledError
        done += 1
        real(path, content, **options)  # type: ignore[arg-type] # handed on as they are

    monkeypatch.setattr(repository_module, "write_durably", write)
    if writes < 4:  # pending, list, snapshot, timestamp
        with pytest.raises(_KilledError):
            list_bundles(repository, {"motor/1": b"one"}, keys.families["motor"])
    else:
        list_bundles(repository, {"motor/1": b"one"}, keys.families["motor"])
    monkeypatch.undo()
    device.refresh()  # while nobody has come back
    again = TrustRepository(tmp_path / "trust")
    again.renew(time.time())
    device.served = again
    was_begun = writes > 0
    assert ("family-motor" in again.published().roles) is was_begun
    device.refresh()
    if was_begun:
        assert device.find("motor/1") is not None
    assert again.renew(time.time() + DAY)


def _publish_some(folder: Path, keys: list[bytes], start: int) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(keys[0])
    repository = TrustRepository(folder / "trust")
    done = 0
    while done < 5:
        try:
            list_bundles(repository, {f"motor/{start + done}": b"x"}, key)
        except ConflictError:
            continue
        done += 1


def test_two_processes_that_publish_at_once_never_interleave(tmp_path: Path) -> None:
    keys = Keys()
    repository = make_repository(tmp_path, keys)
    raw = [keys.families["motor"].private_bytes_raw()]
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=_publish_some, args=(tmp_path, raw, start)) for start in (1, 100)]
    try:
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
    device = OneDevice(tmp_path / "device", repository)
    assert all(device.find(f"motor/{n}") for n in (*range(1, 6), *range(100, 105)))
    assert repository.published().roles["family-motor"].signed.version == 10


def test_a_name_that_is_none_opens_no_file(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    key = next((tmp_path / "trust" / "keys").iterdir()).name
    for name in (
        f"../keys/{key}",
        "..",
        "1.root.json/../timestamp.json",
        "",
        "timestamp.json\n",
        "1./x.json",
        "0.root.json",
        "root.json",
        "1.root.json\x00",
        "1." + "a" * 300 + ".json",
        ".timestamp.json.ab.tmp",
        "pending.json",
    ):  # fmt: skip - one list
        with pytest.raises(NotFoundError):
            repository.read(name)


def test_a_damaged_file_is_named_and_not_believed(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    path = tmp_path / "trust" / "metadata" / "timestamp.json"
    path.write_bytes(b"")
    with pytest.raises(StorageError, match=r"timestamp\.json is not what was published"):
        repository.published()


def test_signatures_of_other_keys_too_few_or_a_date_in_the_past_are_refused_before_anything_changes(
    tmp_path: Path,
) -> None:
    keys, now = Keys(), time.time()
    repository = make_repository(tmp_path, keys)
    stranger = Keys().families["motor"]
    with pytest.raises(UnacceptableError, match="0 of the 1 keys"):
        list_bundles(repository, {"motor/1": b"one"}, stranger)
    with pytest.raises(UnacceptableError, match="expired"):
        list_bundles(repository, {"motor/1": b"one"}, keys.families["motor"], now=now - 366 * DAY)
    with pytest.raises(UnacceptableError, match="no keys are named"):
        list_bundles(repository, {"pump/1": b"one"}, keys.families["motor"])
    assert "family-motor" not in repository.published().roles


def test_old_files_go_and_every_root_stays(tmp_path: Path) -> None:
    now = time.time()
    repository = make_repository(tmp_path, now=now)
    for day in range(0, 120, 4):
        repository.renew(now + day * DAY)
    names = sorted(path.name for path in (tmp_path / "trust" / "metadata").iterdir())
    assert sum("snapshot" in name for name in names) == repository_module.KEPT
    assert "1.root.json" in names
    served = json.loads(repository.read("timestamp.json"))["signed"]["meta"]["snapshot.json"]["version"]
    assert repository.read(f"{served}.snapshot.json")
    assert isinstance(Metadata.from_bytes(repository.read("timestamp.json")).signed, Timestamp)

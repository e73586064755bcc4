"""What is asked for: each word is the fleet's by its seal, so its counter decides; and bundles that the disk damaged.

Nothing here checks a seal: `test_fleet_words.py` does, and `test_instruction_attacks.py` with real parts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from installation_world import Device, ask, make_bundle
from msgspec.structs import replace

from edge_agent.errors import UpdateTrustError
from protocol.limits import MAX_INTEGER
from protocol.messages.kinds import InstallStatus, InstallStep, RefusalCode
from protocol.messages.payloads import DesiredState

pytestmark = pytest.mark.edge


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device that runs release 2 after release 1."""
    device = Device(tmp_path)
    for version in (1, 2):
        device.submit(want(device, version, counter=100 + version))
        device.watch()
    assert device.release == "pump/2"
    return device


def want(device: Device, version: int, counter: int) -> DesiredState:
    """What the fleet says."""
    return device.fleet.offer(make_bundle(version), version, counter)


@pytest.mark.parametrize("family", ["fan", "pump"])
def test_a_request_that_cannot_be_met_does_not_end_updates(tmp_path: Path, family: str) -> None:
    device = Device(tmp_path)
    device.submit(device.fleet.offer(make_bundle(1), 1))
    device.watch()
    hopeless = replace(ask(make_bundle(2), 2, 10**9, family=family), execution="hopeless")
    device.submit(hopeless)
    assert (device.release, device.journal.highest_counter) == ("pump/1", 10**9)
    device.submit(device.fleet.offer(make_bundle(2), 2, 10**9 + 1))
    [done] = device.watch()
    assert (done.status, device.release) == (InstallStatus.SUCCEEDED, "pump/2")


def test_a_counter_from_the_end_of_all_numbers_is_not_begun_and_uses_nothing_up(device: Device) -> None:
    [refused] = device.submit(replace(want(device, 1, counter=MAX_INTEGER), execution="stolen key"))
    assert refused.status is InstallStatus.REJECTED
    assert "ahead of 102, which this device has accepted" in refused.reason
    assert (device.release, device.journal.highest_counter) == ("pump/2", 102)
    device.submit(want(device, 3, counter=103))
    device.watch()
    assert device.release == "pump/3"


def test_a_replayed_instruction_brings_no_old_release_back_and_unsays_no_report(device: Device) -> None:
    first = ask(make_bundle(1), 1, 101)
    assert [report.status for report in device.submit(first)] == [InstallStatus.SUCCEEDED], (
        "answered as before"
    )
    assert device.submit(first) == [], "but not without end"
    for number in range(20):
        assert device.submit(replace(first, execution=f"older {number}", counter=50 + number)) == []
    assert (device.release, device.journal.highest_counter) == ("pump/2", 102)
    [told] = device.told
    assert (told.number, told.action, told.code) == (102, "desired", RefusalCode.OUTDATED), "said once"
    device.installer._inbox.wait(3600.0)
    for _ in range(2):
        device.submit(replace(first, execution="older", counter=50))
    assert device.told == [told, told], "and again in an hour, if that fleet loses its count once more"


def test_words_that_are_no_news_are_answered_a_few_times_and_then_seldom(device: Device) -> None:
    wishes = [ask(make_bundle(version), version, 100 + version) for version in (1, 2)]
    answers = sum(len(device.submit(wish)) for _ in range(100) for wish in wishes)
    assert answers == 4
    device.installer._inbox.wait(601.0)
    assert sum(len(device.submit(wish)) for _ in range(100) for wish in wishes) == 1


def test_a_person_approval_that_comes_later_is_noted_whatever_came_before_and_an_old_one_is_not(
    device: Device,
) -> None:
    for _ in range(50):
        device.submit(ask(make_bundle(1), 1, 101))
        device.submit(ask(make_bundle(2), 2, 102))
    device.submit(replace(ask(make_bundle(2), 2, 102), is_approved=True))
    assert device.journal.approved is not None
    assert (device.journal.approved.release, device.release) == ("pump/2", "pump/2")
    device.installer._inbox.wait(6010.0)
    device.submit(replace(ask(make_bundle(1), 1, 101), is_approved=True))
    assert device.journal.approved.release == "pump/2", "a word from before says nothing of it any more"


def test_a_wish_is_the_same_wish_whether_a_person_approved_it_or_not(device: Device) -> None:
    plain = want(device, 3, counter=103)
    requests = len(device.fleet.requests)
    device.submit(plain)
    device.submit(replace(plain, is_approved=True))
    device.watch()
    assert device.release == "pump/3"
    assert len(device.fleet.requests) - requests == 1, "begun once"


def test_offline_a_release_that_proved_itself_here_can_be_gone_back_to(device: Device) -> None:
    device.fleet.is_away = True
    wish = device.fleet.offer(make_bundle(1), 1, counter=103)
    device.listed.trouble = UpdateTrustError("no signed repository is known yet")
    device.listed.taken.add(wish.bundle_sha256)
    assert device.submit(wish)[-1].status is InstallStatus.SUCCEEDED
    assert device.release == "pump/1"


def test_of_requests_that_wait_the_newest_counts_whatever_order_they_came_in(device: Device) -> None:
    newer, older = want(device, 3, counter=104), want(device, 1, counter=103)
    device.installer.submit(newer)
    device.installer.submit(older)
    device.work()
    device.watch()
    assert (device.release, device.journal.highest_counter) == ("pump/3", 104)


def test_a_flood_of_old_words_does_not_stop_a_download(device: Device) -> None:
    wish = want(device, 3, counter=103)
    device.fleet.chunk_bytes = 512
    flood = 0

    def another() -> None:
        nonlocal flood
        flood += 1
        device.installer.submit(replace(ask(make_bundle(1), 1, 60 + flood % 40), execution=f"old {flood}"))

    device.fleet.on_chunk = another
    requests = len(device.fleet.requests)
    device.submit(wish)
    device.watch()
    assert flood > 20
    assert len(device.fleet.requests) - requests == 1
    assert device.release == "pump/3"


# --- bundles that the disk damaged ----------------------------------------------------------------------------------------------


def staged(device: Device, version: int) -> Path:
    return device.root / "bundles" / f"{ask(make_bundle(version), version).bundle_sha256}.fedge"


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def factory_device(root: Path) -> Device:
    (root / "bundles").mkdir(parents=True)
    (root / "bundles" / "factory.fedge").write_bytes(make_bundle(1))
    return Device(root)


@pytest.mark.parametrize("how", ["flipped", "gone", "empty"])
def test_offline_a_damaged_bundle_is_mended_from_the_identical_one_of_the_factory(
    tmp_path: Path, how: str
) -> None:
    device = factory_device(tmp_path)
    device.fleet.is_away = True
    path = staged(device, 1)
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        damage(path)
    device.restart()
    assert device.release == "pump/1"
    assert path.read_bytes() == make_bundle(1)
    assert device.installer.problems() == [
        "the disk had damaged pump/1; it was mended from another copy: is the card worn out?"
    ]
    device.restart()
    assert (device.release, device.installer.problems()) == ("pump/1", [])


def test_a_disk_that_cannot_be_mended_runs_the_intact_copy_from_where_it_lies(tmp_path: Path) -> None:
    device = factory_device(tmp_path)
    staged(device, 1).unlink()
    (device.root / "bundles" / f"{staged(device, 1).stem}.part").symlink_to("/dev/full")
    device.restart()
    assert device.release == "pump/1"


def test_where_the_journal_and_the_newest_bundle_are_damaged_the_factorys_runs(tmp_path: Path) -> None:
    device = factory_device(tmp_path)
    device.install(2)
    damage(staged(device, 2))
    (tmp_path / "install.json").write_bytes(b"\x00" * 100)
    device.restart()
    assert (device.release, device.installer.step()) == ("pump/1", InstallStep.IDLE)
    assert device.installer.problems() == [
        "the journal of installations was damaged: pump/1 runs, as found on the disk"
    ]
    device.install(2)
    assert device.release == "pump/2"


def test_a_committed_bundle_that_is_lost_is_said_until_it_is_fetched_again(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.install(2)
    damage(staged(device, 2))
    for _ in range(2):
        device.restart()
        assert device.release == "pump/1"
        assert device.installer.problems() == [
            "no copy of pump/2 on this disk is whole: pump/1 runs until the fleet sends it again"
        ]
    device.submit(device.fleet.offer(make_bundle(2), 2))
    assert (device.release, device.installer.problems()) == ("pump/2", [])


def test_where_nothing_opens_that_the_journal_names_any_sound_bundle_runs_on_trial(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(2)
    for version, key in ((1, None), (3, None), (4, "another family")):
        content = make_bundle(version, family="fan" if key else "pump")
        device.installer._tools.store.adopt(ask(content, version).bundle_sha256, content)
    damage(staged(device, 2))
    device.restart()
    active = device.installer.active()
    assert active is not None
    assert (active.release, active.is_trial) == ("pump/3", True)
    device.watch(1, error="it does not work here")
    assert device.release == "pump/1", "and where it does not work, the next one does"
    device.watch()
    assert (device.release, device.installer.step()) == ("pump/1", InstallStep.IDLE)


def test_a_found_bundle_that_takes_the_agent_down_is_given_up_after_three_starts(tmp_path: Path) -> None:
    device = factory_device(tmp_path)
    device.install(2)
    (tmp_path / "install.json").write_bytes(b"{")
    for _ in range(3):
        device.crash()
        assert device.release == "pump/2"
    device.crash()
    assert device.release == "pump/1"


def test_a_factory_bundle_that_came_with_a_new_image_is_a_last_resort_too(tmp_path: Path) -> None:
    device = factory_device(tmp_path)
    (tmp_path / "bundles" / "factory.fedge").write_bytes(make_bundle(5))
    staged(device, 1).unlink()
    device.restart()
    assert (device.release, device.installer.step()) == ("pump/5", InstallStep.IDLE)

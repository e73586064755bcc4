"""Whose word counts: whatever a hostile broker sends, the fleet's next release gets through, and no old one comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from installation_world import Device, ask, make_bundle
from msgspec.structs import replace

from edge_agent.installation.acceptance import FARTHEST_JUMP
from protocol.limits import MAX_INTEGER
from protocol.messages.kinds import InstallStatus, InstallStep
from protocol.messages.payloads import DesiredState

pytestmark = pytest.mark.edge


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device that can ask its fleet, and runs release 2 after release 1."""
    device = Device(tmp_path, asks=True)
    for version in (1, 2):
        want(device, version, counter=100 + version)
        device.submit(device.fleet.wanted)
        device.watch()
    assert device.release == "pump/2"
    return device


def want(device: Device, version: int, counter: int) -> DesiredState:
    """The fleet wants this from now on."""
    device.fleet.wanted = device.fleet.offer(make_bundle(version), version, counter)
    return device.fleet.wanted


def forged(version: int, counter: int) -> DesiredState:
    return replace(ask(make_bundle(version), version, counter), execution=f"forged-{counter}")


def a_day_passes(device: Device) -> None:
    device.installer._inbox.wait(86_401.0)


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("counter", [10**9, MAX_INTEGER])
@pytest.mark.parametrize("family", ["fan", "pump"])
def test_a_request_with_a_high_counter_that_cannot_be_met_does_not_end_updates(
    tmp_path: Path, family: str, counter: int, asks: bool
) -> None:
    device = Device(tmp_path, asks=asks)
    device.fleet.wanted = device.fleet.offer(make_bundle(1), 1)
    device.submit(device.fleet.wanted)
    device.watch()
    hostile = replace(ask(make_bundle(2), 2, counter, family=family), execution="forged")
    device.submit(hostile)
    assert (device.release, device.journal.highest_counter) == ("pump/1", 1)
    a_day_passes(device)
    device.fleet.wanted = device.fleet.offer(make_bundle(2), 2)
    device.submit(device.fleet.wanted)
    [done] = device.watch()
    assert (done.status, device.release) == (InstallStatus.SUCCEEDED, "pump/2")


def test_a_signed_old_release_under_a_new_counter_is_not_begun_where_the_fleet_wants_another(
    device: Device,
) -> None:
    for counter in (103, 10**9, MAX_INTEGER):
        assert device.submit(forged(1, counter)) == []
        a_day_passes(device)
        assert (device.release, device.journal.highest_counter) == ("pump/2", 102)
    assert device.installer.problems() == [], "a day later it is no news"
    device.submit(forged(1, MAX_INTEGER))
    [problem] = device.installer.problems()
    assert problem.startswith("asked 4 times for releases that the fleet does not want, last for pump/1")
    device.submit(want(device, 3, counter=103))
    a_day_passes(device)
    device.work()
    device.watch()
    assert device.release == "pump/3"


def test_a_replayed_instruction_brings_no_old_release_back(device: Device) -> None:
    first = ask(make_bundle(1), 1, 101)
    for is_away in (False, True):
        device.fleet.is_away = is_away
        a_day_passes(device)
        reports = device.submit(first)
        assert [report.status for report in reports] == [InstallStatus.SUCCEEDED], "answered as before"
        again = replace(first, execution="once more")
        a_day_passes(device)
        statuses = [report.status for report in device.submit(again)]
        assert statuses == ([InstallStatus.REJECTED] if is_away else [])
        assert device.release == "pump/2"


def test_without_the_fleets_word_a_release_that_proved_itself_here_can_be_gone_back_to(
    device: Device,
) -> None:
    device.fleet.is_away = True
    wish = device.fleet.offer(make_bundle(1), 1, counter=103)
    assert device.submit(wish)[-1].status is InstallStatus.SUCCEEDED
    assert device.release == "pump/1"


def test_a_counter_that_was_used_up_while_the_fleet_was_away_is_corrected_by_its_word(device: Device) -> None:
    device.fleet.is_away = True
    [refused] = device.submit(forged(1, 103 + FARTHEST_JUMP))
    assert refused.status is InstallStatus.REJECTED
    assert "ahead of 102, which this device has accepted" in refused.reason
    a_day_passes(device)
    device.submit(forged(1, 102 + FARTHEST_JUMP))
    assert (device.release, device.journal.highest_counter) == ("pump/1", 102 + FARTHEST_JUMP)
    device.fleet.is_away = False
    a_day_passes(device)
    device.submit(want(device, 3, counter=103))
    device.watch()
    assert (device.release, device.journal.highest_counter) == ("pump/3", 103)
    device.submit(want(device, 4, counter=104))
    device.watch()
    assert device.release == "pump/4"


def test_nothing_is_fetched_before_the_fleet_has_said_that_it_wants_it(device: Device) -> None:
    device.fleet.is_away = True
    answers = 0

    def back_after_three() -> DesiredState | None:
        nonlocal answers
        answers += 1
        device.fleet.is_away = answers < 3
        return original()

    original, device.overrides["asks"] = device.fleet.ask, True
    device.fleet.ask = back_after_three  # type: ignore[method-assign]  # the fleet comes back
    device.restart()
    wish = want(device, 3, counter=103)
    requests = len(device.fleet.requests)
    device.submit(replace(forged(1, 104), bundle_sha256="ab" * 32))
    a_day_passes(device)
    refused = [
        r for r in device.reports if r.execution == "forged-104" and r.status is InstallStatus.REJECTED
    ]
    [report] = refused
    assert report.reason == "the fleet does not want pump/1 under desired state 104: it wants pump/3 (103)"
    assert {path for path, _ in device.fleet.requests[requests:]} == {wish.bundle_path}
    device.watch()
    assert device.release == "pump/3", "and what it wants was begun at once"


def test_a_fleet_that_wants_nothing_is_not_overruled_by_its_broker(device: Device) -> None:
    device.fleet.wanted = None
    assert device.submit(forged(1, 200)) == []
    assert device.release == "pump/2"


def test_a_fleet_that_lost_its_count_is_followed_all_the_same(device: Device) -> None:
    device.submit(want(device, 3, counter=5))
    device.watch()
    assert (device.release, device.journal.highest_counter) == ("pump/3", 5)


def test_an_old_wish_that_the_broker_brings_late_is_no_forgery(device: Device) -> None:
    late = replace(ask(make_bundle(1), 1, 90), execution="late")
    device.submit(late)
    assert (device.release, device.installer.problems()) == ("pump/2", [])


def test_a_wish_that_a_person_approved_is_the_same_wish_as_the_brokers_word_of_it(device: Device) -> None:
    hint = want(device, 3, counter=103)
    device.fleet.wanted = replace(hint, is_approved=True)
    requests = len(device.fleet.requests)
    device.submit(hint)
    device.submit(hint)
    device.submit(device.fleet.wanted)
    device.watch()
    assert device.release == "pump/3"
    assert len(device.fleet.requests) - requests == 1, "begun once, and not held back as a forgery"
    assert device.installer.problems() == []
    device.fleet.wanted = hint
    assert [report.status for report in device.submit(hint)] == [InstallStatus.SUCCEEDED], (
        "it has been answered"
    )


def test_a_flood_of_forged_requests_neither_stops_a_download_nor_floods_the_fleet(device: Device) -> None:
    wish = want(device, 3, counter=103)
    device.fleet.chunk_bytes = 512
    flood = 0

    def another() -> None:
        nonlocal flood
        flood += 1
        device.installer.submit(forged(1, 1000 + flood))
        device.installer._inbox.wait(0.1)

    device.fleet.on_chunk = another
    questions, requests = device.fleet.questions, len(device.fleet.requests)
    device.submit(wish)
    device.watch()
    seconds = 0.1 * flood
    assert flood > 20
    assert device.fleet.questions - questions <= 2 + seconds / 10.0
    assert len(device.fleet.requests) - requests <= 2 + seconds / 10.0
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

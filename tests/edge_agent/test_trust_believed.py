"""What a device believes of a signed repository, when it is fresh, and what survives on its disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from trust_device import TrustDevice
from trust_repository import TrustRepository, signer

from edge_agent.errors import FleetUnreachableError, ReleaseRefusedError, UpdateTrustError
from edge_agent.update_trust import read_root
from protocol.bundle import key_id
from runtime.errors import SettingsError

pytestmark = pytest.mark.edge

DAY_S = 86_400.0
CONTENT = b"bundle of pump/2"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def device(tmp_path: Path) -> TrustDevice:
    repository = TrustRepository()
    repository.list("pump/2", CONTENT)
    repository.publish()
    return TrustDevice(tmp_path, repository)


def test_a_new_device_believes_nobody_until_it_has_asked(device: TrustDevice) -> None:
    assert device.trust.fleet_keys() == ()
    assert len(device.trust.release_keys()) == 0
    assert device.trust.problems() == ["nothing new is installed: no signed repository is known yet"]
    device.trust.refresh()
    assert device.trust.problems() == []


def test_the_keys_are_those_that_the_targets_role_names(device: TrustDevice) -> None:
    device.trust.refresh()
    repository = device.repository
    assert [k.public_numbers() for k in device.trust.fleet_keys()] == [
        repository.fleet_key.public_key().public_numbers()
    ]
    raw = bytes.fromhex(repository.signers[repository.role][0].public_key.keyval["public"])
    device.trust.release_keys().find(key_id(Ed25519PublicKey.from_public_bytes(raw)))


def test_a_listed_release_is_let_in_and_no_other(device: TrustDevice) -> None:
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))
    for release, sha256, length, words in (
        ("pump/3", SHA256, len(CONTENT), "does not list it"),
        ("pump/2", "0" * 64, len(CONTENT), f"lists {len(CONTENT)} bytes with SHA-256 {SHA256[:12]}"),
        ("pump/2", SHA256, len(CONTENT) + 1, "lists 16 bytes"),
    ):
        with pytest.raises(ReleaseRefusedError, match=words):
            device.trust.check_listed(release, sha256, length)
        assert not device.trust.has_listed(release, sha256, length)


def test_only_metadata_of_the_own_family_is_fetched(device: TrustDevice) -> None:
    repository = device.repository
    repository.delegate("family-press", repository.signers[repository.role], ["models/press/*"])
    repository.delegate("agent", repository.signers[repository.role], ["agent/*"])
    repository.publish()
    device.trust.refresh()
    assert device.asked == [
        "2.root.json",
        "timestamp.json",
        "4.snapshot.json",
        "4.targets.json",
        "4.family-pump.json",
    ]


def test_a_key_that_was_taken_back_is_obeyed_no_longer(device: TrustDevice) -> None:
    device.trust.refresh()
    repository = device.repository
    repository.delegate("fleet", [], [])
    repository.publish("targets", "snapshot", "timestamp")
    device.trust.refresh()
    assert device.trust.fleet_keys() == ()


def test_a_release_that_was_taken_from_the_list_is_not_let_in(device: TrustDevice) -> None:
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))
    device.repository.family.targets.clear()
    device.repository.publish()
    with pytest.raises(ReleaseRefusedError, match="does not list it"):
        device.trust.check_listed("pump/2", SHA256, len(CONTENT))


def test_without_the_fleet_a_fresh_list_lets_in_what_it_names(device: TrustDevice) -> None:
    device.trust.refresh()
    device.is_away = True
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))
    with pytest.raises(FleetUnreachableError):
        device.trust.check_listed("pump/3", SHA256, len(CONTENT))


def test_a_restart_without_a_network_believes_what_lies_on_the_disk(device: TrustDevice) -> None:
    device.trust.refresh()
    device.is_away = True
    device.restart()
    assert len(device.trust.fleet_keys()) == 1
    assert device.trust.has_listed("pump/2", SHA256, len(CONTENT))
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))


def test_an_ended_repository_lets_nothing_in_and_its_fleet_is_still_obeyed(device: TrustDevice) -> None:
    device.trust.refresh()
    device.now_s += 2 * DAY_S
    device.restart()
    assert len(device.trust.fleet_keys()) == 1
    assert device.trust.has_listed("pump/2", SHA256, len(CONTENT))
    with pytest.raises(UpdateTrustError, match="expired by this device's clock"):
        device.trust.check_listed("pump/2", SHA256, len(CONTENT))
    assert "the repository's timestamp ended on 2026-07-02 00:00" in device.trust.problems()[0]
    device.repository.now = device.repository.day(2)
    device.repository.timestamp.expires = device.repository.day(1)
    device.repository.publish("timestamp")
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))
    assert device.trust.problems() == []


def test_people_are_told_before_what_they_sign_ends(device: TrustDevice) -> None:
    device.trust.refresh()
    device.repository.targets.expires = device.repository.day(2)
    device.repository.publish()
    device.trust.refresh()
    assert device.trust.problems() == [
        "the signed repository must be signed anew by its people: targets on 2026-07-03 00:00 ends"
    ]


def test_an_unchanged_repository_costs_one_question(device: TrustDevice) -> None:
    device.trust.refresh()
    device.asked.clear()
    device.trust.refresh()
    assert device.asked == ["timestamp.json"]


def test_a_newer_root_is_looked_for_once_a_day_although_the_timestamp_stays(device: TrustDevice) -> None:
    device.trust.refresh()
    device.repository.publish_root()
    device.trust.refresh()
    assert "root 1" in device.trust.words()
    device.boot_s += DAY_S
    device.trust.refresh()
    assert "root 2" in device.trust.words()


@pytest.mark.parametrize("harm", [b"", b"{", b'{"signed": 7}', None, b"\x00" * 3000, b"[" * 15000])
@pytest.mark.parametrize(
    "name", ["timestamp.json", "3.snapshot.json", "3.targets.json", "3.family-pump.json"]
)
def test_a_damaged_file_is_fetched_again_and_nothing_worse(
    device: TrustDevice, name: str, harm: bytes | None
) -> None:
    device.trust.refresh()
    path = device.folder / name
    whole = path.read_bytes()
    path.unlink()
    if harm is not None:
        path.write_bytes(harm)
    device.restart()
    assert not device.trust.has_listed("pump/2", SHA256, len(CONTENT))
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))
    assert path.read_bytes() == whole


def test_a_damaged_root_of_the_chain_is_fetched_again(device: TrustDevice) -> None:
    device.repository.publish_root()
    device.repository.publish_root()
    device.trust.refresh()
    (device.folder / "2.root.json").write_bytes(b"")
    device.restart()
    device.trust.refresh()
    assert "root 3" in device.trust.words()
    assert (device.folder / "2.root.json").read_bytes() == device.repository.files["2.root.json"]


def test_a_full_disk_takes_nothing_away_and_is_told(device: TrustDevice) -> None:
    device.trust.refresh()
    before = {path.name: path.read_bytes() for path in device.folder.iterdir()}
    device.repository.publish()
    device.folder.chmod(0o500)
    device.refuse_writes()
    device.trust.refresh()
    assert "could not be written down" in device.trust.problems()[0]
    assert {path.name: path.read_bytes() for path in device.folder.iterdir()} == before
    device.restart()
    assert len(device.trust.fleet_keys()) == 1


@pytest.mark.parametrize("written", range(4))
def test_a_power_cut_between_two_files_leaves_the_state_before(device: TrustDevice, written: int) -> None:
    device.trust.refresh()
    device.repository.list("pump/3", b"3")
    device.repository.publish()
    device.cut_power_after(written)
    with pytest.raises(KeyboardInterrupt):
        device.trust.refresh()
    device.is_away = True
    device.restart()
    assert device.trust.has_listed("pump/2", SHA256, len(CONTENT))
    device.is_away = False
    device.trust.refresh()
    assert device.trust.has_listed("pump/3", hashlib.sha256(b"3").hexdigest(), 1)


def test_old_files_do_not_pile_up(device: TrustDevice) -> None:
    for _ in range(3):
        device.repository.publish()
        device.trust.refresh()
    assert len(list(device.folder.iterdir())) == 4


def test_an_image_that_brings_the_repository_needs_no_network(device: TrustDevice) -> None:
    device.repository.mirror(device.folder)
    device.is_away = True
    device.restart()
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))


def test_a_pinned_root_of_another_repository_believes_nothing_of_the_old_one(device: TrustDevice) -> None:
    device.trust.refresh()
    device.repository = TrustRepository()
    device.restart()
    assert device.trust.fleet_keys() == ()
    device.trust.refresh()
    assert len(device.trust.fleet_keys()) == 1


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----", b"{}", b"[" * 100_000])
def test_a_pinned_root_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "root.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"trust\.root .*root\.json cannot be used"):
        read_root(tmp_path / "root.json")


def test_a_missing_or_half_signed_root_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_root(tmp_path / "root.json")
    repository = TrustRepository()
    repository.publish_root(by=repository.signers["root"][:1])
    (tmp_path / "root.json").write_bytes(repository.files["2.root.json"])
    with pytest.raises(SettingsError, match="cannot be used"):
        read_root(tmp_path / "root.json")


def test_a_release_key_may_be_changed_and_listed_releases_stay(device: TrustDevice) -> None:
    device.trust.refresh()
    repository, old = device.repository, device.trust.release_keys()
    repository.signers[repository.role] = [signer(Ed25519PrivateKey.generate())]
    repository.delegate(repository.role, repository.signers[repository.role], ["models/pump/*"])
    repository.publish()
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))
    assert set(device.trust.release_keys()._keys) != set(old._keys)

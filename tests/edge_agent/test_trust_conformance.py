"""What any TUF client must do with versions, ends and hashes, held against ours over a real HTTPS server.

Source: The Update Framework 1.0.33, section 5; the cases are those of the public suite theupdateframework/tuf-conformance, told anew.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from trust_conformance_world import CONTENT, DAY_S, ROLES, SHA256, check, device, refused, update
from trust_device import TrustDevice
from trust_repository import TrustRepository, signer
from tuf.api.metadata import MetaFile, TargetFile

from edge_agent.errors import FleetError, ReleaseRefusedError, UpdateTrustError
from edge_agent.update_trust_client import check_root
from protocol.trust_roles import model_target

__all__ = ["device"]  # the fixture
pytestmark = pytest.mark.edge


# --- the walk ---------------------------------------------------------------------------------------------------------------------


def test_a_first_refresh_asks_in_the_order_of_the_specification(device: TrustDevice) -> None:
    device.trust.refresh()
    assert device.asked == [
        "2.root.json",
        "timestamp.json",
        "3.snapshot.json",
        "3.targets.json",
        "3.family-pump.json",
    ]
    assert device.versions == {"root": 1, "timestamp": 3, "snapshot": 3, "targets": 3, "family-pump": 3}


def test_a_release_is_looked_up_in_what_is_served_now_not_in_what_was_known(device: TrustDevice) -> None:
    with pytest.raises(ReleaseRefusedError, match="does not list it"):
        device.trust.check_listed("pump/9", SHA256, 16)
    device.repository.list("pump/9", CONTENT)
    device.repository.publish()
    device.trust.check_listed("pump/9", SHA256, 16)


@pytest.mark.parametrize(
    "harm", ["no version", "another type", "two of three signatures are wrong", "unknown specification"]
)
def test_a_pinned_root_that_does_not_stand_by_itself_is_none(device: TrustDevice, harm: str) -> None:
    root: dict[str, Any] = json.loads(device.repository.pinned)
    match harm:
        case "no version":
            del root["signed"]["version"]
        case "another type":
            root["signed"]["_type"] = "targets"
        case "unknown specification":
            root["signed"]["spec_version"] = "2.0.0"
        case _:
            for one in root["signatures"][:2]:
                one["sig"] = root["signatures"][2]["sig"]
    with pytest.raises(UpdateTrustError, match="no root of a signed repository"):
        check_root(json.dumps(root).encode())


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_its_keys_did_not_sign_is_not_believed(device: TrustDevice, role: str) -> None:
    check(device)
    device.repository.signers[role] = [signer()]
    device.repository.publish()
    if role != "family-pump":
        refused(device, "was signed by 0/1 keys")
    else:
        device.trust.refresh()
        with pytest.raises(UpdateTrustError, match="family-pump was signed by 0/1 keys"):
            check(device)


@pytest.mark.parametrize("role", ROLES[1:])
def test_a_file_of_another_version_than_its_name_says_is_not_believed(device: TrustDevice, role: str) -> None:
    repository = device.repository
    check(device)
    repository.publish()
    ahead = {"snapshot": repository.snapshot, "targets": repository.targets, "family-pump": repository.family}
    signed = ahead[role]
    name = f"{signed.version}.{role}.json"
    signed.version += 1
    repository.files[name] = repository.signed(signed, role)
    with pytest.raises(UpdateTrustError, match=r"Expected .*(version 4|v4)"):
        update(device)


def test_a_timestamp_that_changed_under_its_version_changes_nothing(device: TrustDevice) -> None:
    check(device)
    repository, kept = device.repository, (device.folder / "timestamp.json").read_bytes()
    repository.timestamp.expires = repository.day(6)
    repository.files["timestamp.json"] = repository.signed(repository.timestamp, "timestamp")
    device.trust.refresh()
    assert (device.folder / "timestamp.json").read_bytes() == kept


@pytest.mark.parametrize("version", ["2.0", "0.9.0", "one", "1.0.33.7"])
def test_metadata_of_a_specification_that_is_not_known_are_not_believed(
    device: TrustDevice, version: str
) -> None:
    check(device)
    device.repository.publish("timestamp")
    timestamp = json.loads(device.repository.files["timestamp.json"])
    timestamp["signed"]["spec_version"] = version
    device.repository.files["timestamp.json"] = json.dumps(timestamp).encode()
    refused(device)


# --- lengths and hashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (None, "."),
        (MetaFile(4, length=10), "more than 10 bytes|exceeds 10 bytes"),
        (MetaFile(4, length=100_000), "length"),
        (MetaFile(4, hashes={"sha256": "0" * 64}), "hash"),
        (MetaFile(4, hashes={"unheard-of": "0" * 64}), "hash"),
    ],
    ids=["right", "shorter", "longer", "another hash", "an unknown hash"],
)
@pytest.mark.parametrize("role", ["snapshot", "targets", "family-pump"])
def test_length_and_hash_are_held_where_they_are_told(
    device: TrustDevice, role: str, harm: MetaFile | None, words: str
) -> None:
    check(device)
    repository = device.repository
    repository.list("pump/4", b"4")
    repository.publish()
    content = repository.files[f"4.{role}.json"]
    meta = harm or MetaFile(4, length=len(content), hashes={"sha256": hashlib.sha256(content).hexdigest()})
    if role == "snapshot":
        repository.timestamp.snapshot_meta = meta
    else:
        repository.snapshot.meta[f"{role}.json"] = meta
        repository.files["4.snapshot.json"] = repository.signed(repository.snapshot, "snapshot")
    repository.files["timestamp.json"] = repository.signed(repository.timestamp, "timestamp")
    if harm is None:
        device.trust.check_listed("pump/4", hashlib.sha256(b"4").hexdigest(), 1)
        return
    with pytest.raises((UpdateTrustError, FleetError), match=words):
        device.trust.check_listed("pump/4", hashlib.sha256(b"4").hexdigest(), 1)
    assert not device.trust.has_listed("pump/4", hashlib.sha256(b"4").hexdigest(), 1)


@pytest.mark.parametrize("hashes", [{"sha512": "0" * 128}, {"unheard-of": "00"}, {"sha256": "0" * 64}])
def test_a_release_is_let_in_by_its_sha256_alone(device: TrustDevice, hashes: dict[str, str]) -> None:
    path = model_target("pump/4")
    device.repository.family.targets[path] = TargetFile(1, hashes, path)
    device.repository.publish()
    with pytest.raises(ReleaseRefusedError):
        device.trust.check_listed("pump/4", hashlib.sha256(b"4").hexdigest(), 1)


# --- ends -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", *ROLES])
def test_a_newer_file_that_has_ended_is_not_believed(device: TrustDevice, role: str) -> None:
    check(device)
    repository = device.repository
    signed = {
        "root": repository.root,
        "timestamp": repository.timestamp,
        "snapshot": repository.snapshot,
        "targets": repository.targets,
        "family-pump": repository.family,
    }[role]
    signed.expires = repository.day(-1)
    if role == "root":
        repository.publish_root()
    repository.publish()
    with pytest.raises(UpdateTrustError, match="expired by this device's clock"):
        update(device)
    if role != "family-pump":
        assert device.versions["timestamp"] == 3
    assert device.known_root == (2 if role == "root" else 1), "a root that ended leads on all the same"


@pytest.mark.parametrize("role", ["root", "timestamp"])
def test_what_ended_on_the_disk_leads_to_what_is_newer(device: TrustDevice, role: str) -> None:
    repository = device.repository
    signed: Any = {"root": repository.root, "timestamp": repository.timestamp}[role]
    signed.expires = repository.day(7)
    repository.publish_root()
    repository.publish()
    device.trust.refresh()
    device.now_s += 18 * DAY_S
    device.restart()
    repository.now = repository.day(18)
    for one in (
        repository.root,
        repository.targets,
        repository.family,
        repository.snapshot,
        repository.timestamp,
    ):
        one.expires = repository.day(30)
    repository.publish_root()
    repository.publish()
    check(device)
    assert (device.versions["root"], device.versions["timestamp"]) == (3, 5)


# --- older than what was seen -----------------------------------------------------------------------------------------------------


def test_an_older_timestamp_is_not_believed(device: TrustDevice) -> None:
    old = device.repository.files["timestamp.json"]
    device.repository.publish("timestamp")
    device.trust.refresh()
    device.repository.files["timestamp.json"] = old
    refused(device, "New timestamp version 3 must be >= 4")


@pytest.mark.parametrize("is_hashed", [False, True])
def test_an_older_snapshot_under_a_newer_timestamp_is_not_believed(
    device: TrustDevice, is_hashed: bool
) -> None:
    repository = device.repository
    repository.publish()
    device.trust.refresh()
    content = repository.files["3.snapshot.json"]
    hashes = {"sha256": hashlib.sha256(content).hexdigest()} if is_hashed else None
    repository.timestamp.snapshot_meta = MetaFile(3, hashes=hashes)
    repository.timestamp.version += 1
    repository.files["timestamp.json"] = repository.signed(repository.timestamp, "timestamp")
    refused(device, "New snapshot version must be >= 4, got version 3")


@pytest.mark.parametrize("role", ["targets", "family-pump"])
def test_an_older_list_under_a_newer_snapshot_is_not_believed(device: TrustDevice, role: str) -> None:
    repository = device.repository
    repository.publish()
    device.trust.refresh()
    repository.snapshot.meta[f"{role}.json"] = MetaFile(3)
    repository.publish("snapshot", "timestamp")
    refused(device, f"Expected {role}.json version")


def test_a_role_does_not_vanish_from_the_snapshot(device: TrustDevice) -> None:
    device.trust.refresh()
    del device.repository.snapshot.meta["family-pump.json"]
    device.repository.publish("snapshot", "timestamp")
    refused(device, "missing info for 'family-pump.json'")


@pytest.mark.parametrize("restarts", [True, False])
def test_what_was_seen_before_the_way_broke_off_is_not_gone_back_behind(
    device: TrustDevice, restarts: bool
) -> None:
    """A newer timestamp whose snapshot never comes: the older timestamp is old all the same."""
    device.trust.refresh()
    old = device.repository.files["timestamp.json"]
    device.repository.publish()
    del device.repository.files["4.snapshot.json"]
    refused(device, "there is no 4.snapshot.json", restarts=restarts)
    device.repository.files["timestamp.json"] = old
    refused(device, "New timestamp version 3 must be >= 4", restarts=restarts)
    device.is_away = True
    assert len(device.trust.fleet_keys()) == 1, "what was believed before is whole"


def test_a_newer_root_is_followed_even_where_nothing_else_can_be(device: TrustDevice) -> None:
    """A timestamp key that a new root has taken back is taken back from the moment that root was seen."""
    device.trust.refresh()
    stolen, good = device.repository.signers["timestamp"], dict(device.repository.files)
    _rotate(device.repository, "timestamp")
    device.repository.publish_root()
    device.boot_s += DAY_S
    refused(device, "timestamp was signed by 0/1 keys")
    assert device.known_root == 2
    del device.repository.files["2.root.json"]
    device.repository.signers["timestamp"] = stolen
    device.repository.files["timestamp.json"] = good["timestamp.json"]
    refused(device, "timestamp was signed by 0/1 keys")


@pytest.mark.parametrize("roles", [("timestamp",), ("snapshot", "timestamp")])
def test_new_keys_recover_from_a_version_that_was_driven_up(
    device: TrustDevice, roles: tuple[str, ...]
) -> None:
    repository = device.repository
    for role in roles:
        signed: Any = {"timestamp": repository.timestamp, "snapshot": repository.snapshot}[role]
        signed.version = 10_000
    repository.publish("snapshot", "timestamp")
    device.trust.refresh()
    for role in roles:
        _rotate(repository, role)
    repository.publish_root()
    repository.timestamp.version = repository.snapshot.version = 5
    repository.publish()
    device.boot_s += DAY_S
    check(device)
    assert device.versions["timestamp"] == 6


def _rotate(repository: TrustRepository, role: str) -> None:
    for one in repository.signers[role]:
        repository.root.revoke_key(one.public_key.keyid, role)
    repository.signers[role] = [signer()]
    repository.root.add_key(repository.signers[role][0].public_key, role)

"""What any TUF client must do, held against ours over a real HTTPS server: versions, ends, hashes, keys, delegations.

Source: The Update Framework 1.0.33, section 5; the cases are those of the public suite theupdateframework/tuf-conformance, told anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SSlibKey
from trust_device import TrustDevice, https_device
from trust_repository import TrustRepository, signer
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, TargetFile, Targets

from edge_agent.errors import FleetError, ReleaseRefusedError, UpdateTrustError
from edge_agent.update_trust_client import check_root
from protocol.trust_roles import model_target

pytestmark = pytest.mark.edge

DAY_S = 86_400.0
CONTENT = b"bundle of pump/2"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ROLES = ["timestamp", "snapshot", "targets", "family-pump"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[TrustDevice]:
    repository = TrustRepository()
    repository.list("pump/2", CONTENT)
    repository.publish()
    with https_device(tmp_path, repository) as made:
        yield made


def check(device: TrustDevice) -> None:
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))


def update(device: TrustDevice) -> None:
    device.trust.refresh()
    check(device)


def refused(device: TrustDevice, words: str | None = None) -> None:
    """Nothing of what is served is believed, before and after a restart."""
    before = device.versions
    for _ in range(2):
        with pytest.raises(UpdateTrustError, match=words):
            device.trust.refresh()
        assert device.versions == before
        device.restart()


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


def test_what_was_seen_before_the_way_broke_off_is_not_gone_back_behind(device: TrustDevice) -> None:
    """A newer timestamp whose snapshot never comes: the older timestamp is old all the same, also after a restart."""
    device.trust.refresh()
    old = device.repository.files["timestamp.json"]
    device.repository.publish()
    del device.repository.files["4.snapshot.json"]
    refused(device, "there is no 4.snapshot.json")
    device.repository.files["timestamp.json"] = old
    refused(device, "New timestamp version 3 must be >= 4")
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


# --- keys and thresholds ----------------------------------------------------------------------------------------------------------

KEYS = [signer() for _ in range(6)]
ROTATIONS: dict[str, tuple[list[tuple[list[int], int, list[int]]], bool]] = {
    "the same keys": ([([1], 1, [1]), ([1], 1, [1])], True),
    "another key, signed by both": ([([1], 1, [1]), ([2], 1, [1, 2])], True),
    "signatures that nobody needs": ([([1], 1, [1]), ([1], 1, [3, 1, 4])], True),
    "two steps": ([([1], 1, [1]), ([2], 1, [1, 2]), ([3], 1, [2, 3])], True),
    "back to the first": ([([1], 1, [1]), ([2], 1, [1, 2]), ([1], 1, [2, 1])], True),
    "one of five is changed": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 2, 4, 1])], True),
    "another three of five": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 2, 3, 4], 3, [1, 3, 4])], True),
    "threshold up": ([([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [1, 2])], True),
    "threshold down": ([([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1, 2])], True),
    "without the old key": ([([1], 1, [1]), ([2], 1, [2, 3, 4])], False),
    "without the new key": ([([1], 1, [1]), ([2], 1, [1, 3, 4])], False),
    "too few of the new": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 2, 4])], False),
    "too few of the old": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 4, 5])], False),
    "the higher threshold is not reached": ([([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [2])], False),
    "the threshold before is not reached": ([([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1])], False),
}


@pytest.mark.parametrize(("chain", "is_followed"), ROTATIONS.values(), ids=ROTATIONS)
def test_a_root_is_followed_if_the_old_and_the_new_keys_signed_it(
    device: TrustDevice, chain: list[tuple[list[int], int, list[int]]], is_followed: bool
) -> None:
    repository = device.repository
    for version, (keys, threshold, by) in enumerate(chain, 1):
        repository.root.version = version
        for keyid in list(repository.root.roles["root"].keyids):
            repository.root.revoke_key(keyid, "root")
        for number in keys:
            repository.root.add_key(KEYS[number].public_key, "root")
        repository.root.roles["root"].threshold = threshold
        repository.files[f"{version}.root.json"] = repository.signed(
            repository.root, "root", by=[KEYS[number] for number in by]
        )
    device.restart()
    if is_followed:
        check(device)
    else:
        with pytest.raises(UpdateTrustError, match=r"root was signed by \d/\d keys"):
            check(device)
    assert device.known_root == len(chain) - (not is_followed)


def test_a_root_that_skips_a_version_is_not_followed(device: TrustDevice) -> None:
    device.repository.root.version = 2
    device.repository.files["2.root.json"] = device.repository.publish_root()
    with pytest.raises(UpdateTrustError, match="Expected root version 2 instead got version 3"):
        check(device)


def test_a_chain_of_roots_without_end_is_not_walked_without_end(device: TrustDevice) -> None:
    for _ in range(70):
        device.repository.publish_root()
    check(device)
    assert len([name for name in device.asked if name.endswith("root.json")]) == 64


THRESHOLDS = {
    "another key": ([2], 1, [2], True),
    "signatures that nobody needs": ([1], 1, [3, 1, 4], True),
    "not signed by the new key": ([2], 1, [1, 3, 4], False),
    "three of five": ([0, 1, 2, 3, 4], 3, [0, 4, 1], True),
    "two of five and a stranger": ([0, 1, 3, 4, 5], 3, [0, 2, 4], False),
    "two of three": ([0, 1, 2], 3, [0, 1], False),
    "more than there are keys": ([0, 1], 3, [0, 1], False),
}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize(("keys", "threshold", "by", "is_believed"), THRESHOLDS.values(), ids=THRESHOLDS)
def test_a_role_is_believed_if_as_many_keys_as_the_root_demands_signed_it(
    device: TrustDevice, role: str, keys: list[int], threshold: int, by: list[int], is_believed: bool
) -> None:
    repository = device.repository
    for keyid in list(repository.root.roles[role].keyids):
        repository.root.revoke_key(keyid, role)
    for number in keys:
        repository.root.add_key(KEYS[number].public_key, role)
    repository.root.roles[role].threshold = threshold
    repository.signers[role] = [KEYS[number] for number in by]
    repository.publish_root()
    repository.publish()
    if is_believed:
        check(device)
    else:
        refused(device, rf"{role} was signed by \d/{threshold} keys")


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_one_key_that_is_named_twice_counts_once(device: TrustDevice, role: str) -> None:
    repository = device.repository
    root = repository.root
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for number in (0, 1):
        root.add_key(KEYS[number].public_key, role)
    root.roles[role].threshold = 2
    document = json.loads(repository.publish_root())
    keyid = KEYS[0].public_key.keyid
    document["signed"]["roles"][role]["keyids"] = [keyid, keyid]
    repository.files["2.root.json"] = _signed_again(document, repository.signers["root"])
    repository.signers[role] = [KEYS[0]]
    repository.publish()
    with pytest.raises(UpdateTrustError):
        check(device)


def test_a_signature_that_stands_twice_makes_the_file_void(device: TrustDevice) -> None:
    device.repository.publish()
    document = json.loads(device.repository.files["timestamp.json"])
    document["signatures"] *= 2
    device.repository.files["timestamp.json"] = json.dumps(document).encode()
    with pytest.raises(UpdateTrustError):
        check(device)


@pytest.mark.parametrize("bad", ["", "00" * 64, "ff", "no hex"])
def test_a_wrong_signature_beside_a_good_one_does_no_harm(device: TrustDevice, bad: str) -> None:
    repository = device.repository
    repository.root.add_key(KEYS[0].public_key, "timestamp")
    repository.publish_root()
    repository.publish()
    document = json.loads(repository.files["timestamp.json"])
    document["signatures"].append({"keyid": KEYS[0].public_key.keyid, "sig": bad})
    repository.files["timestamp.json"] = json.dumps(document).encode()
    check(device)


def test_a_p256_key_may_sign_any_role(device: TrustDevice) -> None:
    repository, chosen = device.repository, signer(ec.generate_private_key(ec.SECP256R1()))
    for role in ("root", "timestamp", "targets"):
        repository.root.add_key(chosen.public_key, role)
        repository.root.roles[role].threshold = 2 if role != "root" else 3
        repository.signers[role].append(chosen)
    repository.publish_root()
    repository.publish()
    check(device)


def test_only_p256_keys_of_the_role_give_instructions(device: TrustDevice) -> None:
    good = SSlibKey.from_crypto(device.repository.fleet_key.public_key())
    other_curve = SSlibKey.from_crypto(ec.generate_private_key(ec.SECP384R1()).public_key())
    disguised = SSlibKey("disguised", "ecdsa", "ecdsa-sha2-nistp256", other_curve.keyval)
    torn = SSlibKey("torn", "ecdsa", "ecdsa-sha2-nistp256", {"public": "no PEM"})
    device.repository.delegate("fleet", [KEYS[0], other_curve, disguised, torn, good], [])
    device.repository.publish()
    device.trust.refresh()
    assert len(device.trust.fleet_keys()) == 1


def _signed_again(document: dict[str, Any], signers: list[Any]) -> bytes:
    canonical = encode_canonical(document["signed"])
    assert canonical is not None
    signatures = [one.sign(canonical.encode()) for one in signers]
    document["signatures"] = [{"keyid": one.keyid, "sig": one.signature} for one in signatures]
    return json.dumps(document).encode()


# --- delegations ------------------------------------------------------------------------------------------------------------------

ALL = ["models/pump/*"]
GRAPHS: dict[str, tuple[list[tuple[str, str, list[str], bool]], list[str]]] = {
    "in their order": ([("targets", "a", ALL, False), ("targets", "b", ALL, False)], ["a", "b"]),
    "depth first": (
        [
            ("targets", "a", ALL, False),
            ("targets", "b", ALL, False),
            ("a", "c", ALL, False),
            ("c", "d", ALL, False),
        ],
        ["a", "c", "d", "b"],
    ),
    "one that ends the search": (
        [
            ("targets", "a", ALL, False),
            ("targets", "b", ALL, False),
            ("a", "c", ALL, True),
            ("a", "d", ALL, False),
        ],
        ["a", "c"],
    ),
    "one for other paths": (
        [("targets", "a", ["models/press/*"], False), ("targets", "b", ALL, False), ("a", "c", ALL, False)],
        ["b"],
    ),
    "a circle": (
        [
            ("targets", "a", ALL, False),
            ("a", "b", ALL, False),
            ("b", "a", ALL, False),
            ("b", "c", ALL, False),
        ],
        ["a", "b", "c"],
    ),
    "one that two lead to": (
        [
            ("targets", "a", ALL, False),
            ("targets", "b", ALL, False),
            ("b", "c", ALL, False),
            ("a", "c", ALL, False),
        ],
        ["a", "c", "b"],
    ),
    "no wild card for a folder": (
        [("targets", "a", ["models/*"], False), ("targets", "b", ["*/*/*"], False)],
        ["b"],
    ),
}


def delegate(
    repository: TrustRepository, edges: list[tuple[str, str, list[str], bool]]
) -> dict[str, Targets]:
    """Delegations between roles, all with one key, in place of the family's own."""
    assert repository.targets.delegations is not None
    repository.targets.delegations.roles = {}
    roles: dict[str, Targets] = {"targets": repository.targets}
    for parent, child, paths, terminating in edges:
        for name in (parent, child):
            roles.setdefault(name, Targets(expires=repository.day(90)))
        owner = roles[parent]
        owner.delegations = owner.delegations or Delegations(keys={}, roles={})
        key = KEYS[0].public_key
        owner.delegations.keys[key.keyid] = key
        assert owner.delegations.roles is not None
        owner.delegations.roles[child] = DelegatedRole(child, [key.keyid], 1, terminating, paths)
    for name, targets in roles.items():
        repository.signers.setdefault(name, [KEYS[0]])
        repository._publish_targets(name, targets)
    repository.publish("snapshot", "timestamp")
    return roles


@pytest.mark.parametrize(("edges", "visited"), GRAPHS.values(), ids=GRAPHS)
def test_delegations_are_walked_in_the_order_of_the_specification(
    device: TrustDevice, edges: list[tuple[str, str, list[str], bool]], visited: list[str]
) -> None:
    delegate(device.repository, edges)
    device.trust.refresh()
    assert [name.split(".")[1] for name in device.asked[4:]] == visited
    with pytest.raises(ReleaseRefusedError):
        check(device)


def test_a_role_cannot_list_what_was_not_delegated_to_it(device: TrustDevice) -> None:
    path = model_target("pump/7")
    roles = delegate(
        device.repository, [("targets", "press", ["models/press/*"], False), ("targets", "a", ALL, False)]
    )
    roles["press"].targets[path] = TargetFile(1, {"sha256": SHA256}, path)
    device.repository._publish_targets("press", roles["press"])
    device.repository.publish("snapshot", "timestamp")
    with pytest.raises(ReleaseRefusedError, match="does not list it"):
        device.trust.check_listed("pump/7", SHA256, 1)
    assert "press" not in " ".join(device.asked)


def test_a_delegation_of_a_delegation_may_list_a_release(device: TrustDevice) -> None:
    path = model_target("pump/7")
    roles = delegate(device.repository, [("targets", "a", ALL, False), ("a", "b", ALL, False)])
    roles["b"].targets[path] = TargetFile(1, {"sha256": SHA256}, path)
    device.repository._publish_targets("b", roles["b"])
    device.repository.publish("snapshot", "timestamp")
    device.trust.check_listed("pump/7", SHA256, 1)
    device.is_away = True
    device.restart()
    device.trust.check_listed("pump/7", SHA256, 1)


def test_a_role_that_the_snapshot_does_not_name_is_not_used(device: TrustDevice) -> None:
    edges = [("targets", "a", ALL, False)]
    delegate(device.repository, edges)
    device.repository.snapshot.meta.pop("a.json")
    device.repository.publish("snapshot", "timestamp")
    device.trust.refresh()
    with pytest.raises(UpdateTrustError, match="Role a was delegated but is not part of snapshot"):
        check(device)


def test_a_role_is_verified_against_whoever_leads_to_it_now(device: TrustDevice) -> None:
    """Two roles delegate to a third under different keys: what is good by the first is not good by the second."""
    repository = device.repository
    roles = delegate(
        repository,
        [
            ("targets", "a", ["models/press/*"], False),
            ("targets", "b", ALL, False),
            ("a", "c", ["models/press/*"], False),
            ("b", "c", ALL, False),
        ],
    )
    key = KEYS[1].public_key
    assert roles["b"].delegations is not None
    roles["b"].delegations.keys[key.keyid] = key
    assert roles["b"].delegations.roles is not None
    roles["b"].delegations.roles["c"].keyids = [key.keyid]
    repository._publish_targets("b", roles["b"])
    repository.publish("snapshot", "timestamp")
    with pytest.raises(UpdateTrustError, match="c was signed by 0/1 keys"):
        check(device)


def test_delegations_without_end_are_not_walked_without_end(device: TrustDevice) -> None:
    names = ["targets", *(f"r{number}" for number in range(20))]
    delegate(device.repository, [(a, b, ALL, False) for a, b in pairwise(names)])
    device.trust.refresh()
    assert len(device.asked) == 4 + 8


@pytest.mark.parametrize(
    "role", ["?", "#", "/delegatedrole", "../delegatedrole", "a/b", "..", "timestamp", "ü", "a b", "x" * 300]
)
def test_a_role_with_an_unusual_name_harms_nothing(device: TrustDevice, role: str, tmp_path: Path) -> None:
    repository = device.repository
    assert repository.targets.delegations is not None
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    names = repository.delegate(role, [KEYS[0]], ALL)
    assert names.name == role
    list_of_role = Targets(expires=repository.day(9))
    content = repository.signed(list_of_role, role, by=[KEYS[0]])
    repository.files[f"1.{quote(role, '')}.json"] = content
    repository.files[f"1.{role}.json"] = content
    repository.snapshot.meta[f"{role}.json"] = MetaFile(1)
    repository.publish("targets", "snapshot", "timestamp")
    with suppress(UpdateTrustError, ReleaseRefusedError):
        check(device)
    after = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert all(path.is_relative_to(device.folder) for path in set(after) - set(before))

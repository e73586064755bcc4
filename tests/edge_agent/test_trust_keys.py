"""What any TUF client must do with keys, thresholds and rotations, held against ours over a real HTTPS server.

Source: The Update Framework 1.0.33, section 5; the cases are those of the public suite theupdateframework/tuf-conformance, told anew.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SSlibKey
from trust_conformance_world import check, device, refused
from trust_device import TrustDevice
from trust_repository import signer

from edge_agent.errors import UpdateTrustError

__all__ = ["device"]  # the fixture
pytestmark = pytest.mark.edge


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

"""Each key of the repository is changed and stolen by the procedures of docs/releases.md; real TUF clients are the judges.

A device that has the state before must come along, and what the stolen key signs must be worth nothing to it.
"""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from trust_people import People, founded, instruction_pem, people
from trust_world import OneDevice, list_bundles
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, TargetFile

from fleet.errors import NotFoundError, UnacceptableError
from fleet.trust.key_files import load_private_key, load_public_key
from fleet.trust.metadata import encode, public_key, sign
from protocol.trust_roles import FLEET_ROLE
from runtime.errors import SettingsError

__all__ = ["founded", "people"]  # the fixtures

EVIL = "models/motor/666.fedge"


def _online_keys(people: People) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (people.repository.directory / "keys").iterdir()}


def _forge(people: People, keys: dict[str, bytes], *, list_signer: object = None) -> dict[str, bytes]:
    """What a thief of the online keys (and of a list's key, where given) would serve, a thousand versions ahead."""
    state = people.repository.published()
    folder = people.folder / "stolen"
    folder.mkdir(exist_ok=True)
    by_id = {}
    for name, content in keys.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
        by_id[name.removesuffix(".key")] = load_private_key(folder / name, None)
    assert state.snapshot is not None
    assert state.timestamp is not None
    snapshot, timestamp = deepcopy(state.snapshot.signed), deepcopy(state.timestamp.signed)
    snapshot.version += 1000
    timestamp.version += 1000
    files: dict[str, bytes] = {}
    if list_signer is not None:
        listed = deepcopy(state.roles["family-motor"].signed)
        listed.version += 1000
        listed.targets[EVIL] = TargetFile(4, {"sha256": "0" * 64}, EVIL)
        files[f"{listed.version}.family-motor.json"] = encode(sign(Metadata(listed), list_signer))  # type: ignore[type-var,arg-type] # a test's key
        snapshot.meta["family-motor.json"] = MetaFile(listed.version)
    held = list(by_id.values())
    content = encode(sign(Metadata(snapshot), *held))
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, content, ["sha256"])
    return {
        **files,
        f"{snapshot.version}.snapshot.json": content,
        "timestamp.json": encode(sign(Metadata(timestamp), *held)),
    }


def _refuses(device: OneDevice, files: dict[str, bytes], release: str = "motor/666") -> bool:
    """Whether nothing of `files` makes this device find `release`; it goes on with the true ones afterwards."""
    device.files = files
    try:
        return device.find(release) is None
    except RepositoryError:
        return True
    finally:
        device.files = {}


def test_the_first_ceremony_by_two_of_three_people_on_machines_of_their_own(tmp_path: Path) -> None:
    people = People(tmp_path / "world")
    people.move_in()
    change = people.init()
    assert "still to be signed" in people.run("show", change)
    with pytest.raises(UnacceptableError, match="signed by 0 of the 2 keys"):
        people.publish(change)
    one = people.sign(change, "alice", "tom")
    assert "1 more" in people.run("show", one)
    with pytest.raises(UnacceptableError, match="signed by 1 of the 2 keys"):
        people.publish(one)
    assert not people.repository.exists
    whole = people.folder / "whole"
    people.run("sign", change, "--key", people.key("bob"), "--yes", "--passphrase-file", people.passphrase)
    people.run("assemble", one, change, "--out", whole)
    people.publish(whole)
    device = people.device("device")
    with pytest.raises(RepositoryError):
        device.find("motor/1")
    list_bundles(people.repository, {"motor/1": b"one"}, people.private("rita"))
    assert device.find("motor/1") is not None
    said = people.run("show", "--config", people.config)
    assert "root is signed by 2 of 3 keys" in said
    assert "family-motor lists: motor/1" in said
    people.run("root", "--config", people.config, "--out", tmp_path / "root.json")
    assert Metadata.from_bytes((tmp_path / "root.json").read_bytes()).signed.version == 1


def test_drill_a_root_key_is_lost_or_stolen(people: People) -> None:
    device = people.device("device")
    people.make_key("dave")
    stolen = people.private("alice")
    change = people.prepare(
        "rotate", "root", *(w for n in ("bob", "carol", "dave") for w in ("--key", people.public(n)))
    )
    # the former root's word is needed, by two that are left, and the new one's
    people.publish(people.sign(change, "bob", "carol"))
    device.refresh()
    assert people.device("new").find("motor/1") is not None
    # one stolen root key makes no root, before or after
    forged = deepcopy(people.repository.published().root.signed)
    forged.version += 1
    forged.roles[Root.type].threshold = 1
    device.files = {f"{forged.version}.root.json": encode(sign(Metadata(forged), stolen))}
    with pytest.raises(RepositoryError):
        device.refresh()


def test_drill_two_root_keys_that_were_stolen_are_changed_by_those_who_still_hold_them(
    people: People,
) -> None:
    device = people.device("device")
    people.make_key("dave")
    people.make_key("erin")
    names = ("carol", "dave", "erin")
    change = people.prepare("rotate", "root", *(w for n in names for w in ("--key", people.public(n))))
    people.publish(people.sign(change, "alice", "bob", "carol", "dave"))
    device.refresh()
    forged = deepcopy(people.repository.published().root.signed)
    forged.version += 1
    device.files = {
        f"{forged.version}.root.json": encode(
            sign(Metadata(forged), people.private("alice"), people.private("bob"))
        )
    }
    with pytest.raises(RepositoryError):
        device.refresh()


def test_drill_the_targets_key_is_stolen(people: People) -> None:
    device = people.device("device")
    online, stolen = _online_keys(people), people.private("tom")
    people.make_key("tina")
    change = people.prepare("rotate", "targets", "--key", people.public("tina"))
    with pytest.raises(UnacceptableError, match="targets is signed by 0"):
        people.publish(people.sign(change, "alice", "bob"))
    people.publish(
        people.sign(
            people.prepare("rotate", "targets", "--key", people.public("tina")), "alice", "bob", "tina"
        )
    )
    assert device.find("motor/1") is not None
    # the thief delegates the family to himself, with the online keys' help
    state = people.repository.published()
    targets = deepcopy(state.targets.signed)
    targets.version += 1
    assert state.snapshot is not None
    forged = _forge(people, online)
    snapshot = deepcopy(state.snapshot.signed)
    snapshot.version += 1000
    snapshot.meta["targets.json"] = MetaFile(targets.version)
    files = dict(forged)
    keys = [load_private_key(path, None) for path in (people.folder / "stolen").iterdir()]
    content = encode(sign(Metadata(snapshot), *keys))
    assert state.timestamp is not None
    timestamp = deepcopy(state.timestamp.signed)
    timestamp.version += 1001
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, content, ["sha256"])
    files |= {
        f"{targets.version}.targets.json": encode(sign(Metadata(targets), stolen)),
        f"{snapshot.version}.snapshot.json": content,
        "timestamp.json": encode(sign(Metadata(timestamp), *keys)),
    }
    device.files = files
    with pytest.raises(RepositoryError, match="targets was signed by 0/1"):
        device.refresh()


def test_drill_the_online_keys_are_stolen(people: People) -> None:
    device = people.device("device")
    stolen = _online_keys(people)
    # until it is noticed, the thief can drive versions ahead, and no more: no release of his is listed
    assert _refuses(device, _forge(people, stolen))
    device.files = _forge(people, stolen)
    device.refresh()
    device.files = {}
    with pytest.raises(RepositoryError):
        device.refresh()  # the true repository now looks old
    change = people.prepare("rotate", "online")
    people.publish(people.sign(change, "bob", "carol"))
    device.refresh()  # it came along, though it had seen higher versions
    assert device.find("motor/1") is not None
    assert not _online_keys(people).keys() & stolen.keys(), "the former are destroyed"
    device.files = _forge(people, stolen)
    with pytest.raises(RepositoryError):
        device.refresh()
    device.files = {}
    people.renew(1)
    device.refresh()


def test_drill_the_fleets_folder_is_lost_and_a_devices_mirror_is_all_that_is_left(people: People) -> None:
    device = people.device("device")
    metadata = people.repository.directory / "metadata"
    state = people.repository.published()
    assert state.snapshot is not None
    led_to = [
        "timestamp.json",
        f"{state.snapshot.signed.version}.snapshot.json",
        "1.targets.json",
        "1.family-motor.json",
    ]
    mirror = {name: (metadata / name).read_bytes() for name in led_to}
    pinned = (metadata / "1.root.json").read_bytes()
    shutil.rmtree(people.repository.directory)
    metadata.mkdir(parents=True)
    for name, content in {**mirror, "1.root.json": pinned}.items():
        (metadata / name).write_bytes(content)
    people.publish(people.sign(people.prepare("rotate", "online"), "alice", "bob"))
    assert device.find("motor/1") is not None
    people.renew(1)
    device.refresh()


def test_drill_a_release_key_is_stolen(people: People) -> None:
    device = people.device("device")
    online, stolen = _online_keys(people), people.private("rita")
    # with the fleet's online keys as well, a listed release of his would be found: that is what the drill ends
    assert not _refuses(people.device("victim"), _forge(people, online, list_signer=stolen))
    people.make_key("rolf")
    change = people.prepare("rotate", "family", "--family", "motor", "--key", people.public("rolf"))
    with pytest.raises(UnacceptableError, match="family-motor is signed by 0"):
        people.publish(people.sign(change, "tom"))
    whole = people.folder / "whole"
    copy = people.folder / f"{change.name}-tom"
    people.run("sign", copy, "--key", people.key("rolf"), "--yes", "--passphrase-file", people.passphrase)
    people.run("assemble", copy, "--out", whole)
    people.publish(whole)
    assert device.find("motor/1") is not None
    assert _refuses(people.device("other"), _forge(people, online, list_signer=stolen))
    with pytest.raises(UnacceptableError, match="0 of the 1 keys"):
        list_bundles(people.repository, {"motor/2": b"two"}, stolen)
    list_bundles(people.repository, {"motor/2": b"two"}, people.private("rolf"))
    assert device.find("motor/2") is not None


def test_what_a_thief_listed_is_dropped_with_his_key(people: People) -> None:
    list_bundles(people.repository, {"motor/7": b"evil"}, people.private("rita"))
    people.make_key("rolf")
    words = ("rotate", "family", "--family", "motor", "--key", people.public("rolf"))
    with pytest.raises(NotFoundError, match="does not list models/motor/8"):
        people.prepare(*words, "--drop", "motor/8")
    change = people.prepare(*words, "--drop", "motor/7")
    assert "no longer: motor/7" in people.run("show", change)
    people.publish(people.sign(change, "tom", "rolf"))
    device = people.device("device")
    assert device.find("motor/1") is not None
    assert device.find("motor/7") is None


def test_agent_software_is_listed_by_its_own_key_and_by_no_other(people: People) -> None:
    people.make_key("agnes")
    people.publish(people.sign(people.prepare("delegate", "--agent", "--key", people.public("agnes")), "tom"))
    wheel = people.folder / "fedge-1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    out = people.folder / "software"
    people.run("software", wheel, "--config", people.config, "--out", out)
    with pytest.raises(UnacceptableError, match="signs nothing"):
        people.sign(out, "rita")
    people.publish(people.sign(out, "agnes"))
    found = people.device("device").refresh().get_targetinfo(f"agent/{wheel.name}")
    assert found is not None
    assert found.length == len(b"a wheel")


def test_a_release_key_that_is_changed_without_haste_leaves_no_gap(people: People) -> None:
    device = people.device("device")
    people.make_key("rolf")
    change = people.prepare(
        "rotate", "family", "--family", "motor", "--key", people.public("rolf"), "--keep-old"
    )
    people.publish(people.sign(change, "tom"))
    assert device.find("motor/1") is not None
    list_bundles(people.repository, {"motor/2": b"two"}, people.private("rolf"))
    list_bundles(people.repository, {"motor/3": b"three"}, people.private("rita"))
    assert device.find("motor/2") is not None


def test_drill_the_instruction_key_is_stolen(people: People) -> None:
    device = people.device("device")
    new = people.site / "next.pub.pem"
    new.write_bytes(instruction_pem())
    people.publish(people.sign(people.prepare("rotate", "fleet", "--key", new), "tom"))
    device.refresh()
    targets = Metadata.from_file(str(device.folder / "targets.json")).signed
    (keyid,) = targets.delegations.roles[FLEET_ROLE].keyids
    assert keyid == public_key(load_public_key(new)).keyid


def test_another_family_is_delegated_to_and_taken_back(people: People) -> None:
    people.make_key("petra")
    change = people.prepare("delegate", "--family", "pump", "--key", people.public("petra"))
    people.publish(people.sign(change, "tom"))
    list_bundles(people.repository, {"pump/1": b"one"}, people.private("petra"))
    device = people.device("device")
    assert device.find("pump/1") is not None
    with pytest.raises(UnacceptableError):
        list_bundles(people.repository, {"motor/2": b"two"}, people.private("petra"))


def test_everything_is_signed_anew_before_it_ends(people: People) -> None:
    device = people.device("device")
    change = people.prepare("renew", "--role", "root", "--role", "targets")
    people.publish(people.sign(change, "alice", "bob", "tom"))
    device.refresh()
    assert people.repository.published().root.signed.version == 2


def test_a_trial_on_one_machine_is_one_command(tmp_path: Path) -> None:
    people = People(tmp_path / "world")
    people.move_in()
    out = tmp_path / "keys"
    words = ("trial", "--config", people.config, "--family", f"motor={people.public('rita')}", "--out", out)
    people.run(*words)
    list_bundles(people.repository, {"motor/1": b"one"}, people.private("rita"))
    assert people.device("device").find("motor/1") is not None
    assert (out / "root.json").read_bytes() == people.repository.read("1.root.json")
    assert (out / "root-1.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsError, match="holds a repository already"):
        people.run(*words)

"""A change of the repository on its way: nobody signs what he is not told, and nothing is published that a device would refuse."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy

import pytest
from trust_people import People, founded, people
from tuf.api.metadata import DelegatedRole, Metadata, TargetFile, Targets

from fleet.errors import ConflictError, UnacceptableError
from fleet.trust import published
from fleet.trust.metadata import DAY_S, encode, expiry, public_key, sign
from runtime.errors import SettingsError

__all__ = ["founded", "people"]  # the fixtures


def test_what_was_prepared_before_somebody_else_published_is_refused(people: People) -> None:
    first, second = (people.prepare("renew", "--role", "targets") for _ in range(2))
    people.publish(people.sign(first, "tom"))
    with pytest.raises(ConflictError, match="not newer"):
        people.publish(people.sign(second, "tom"))


@pytest.mark.parametrize(
    ("keys", "threshold", "words"),
    [
        (("alice", "bob", "carol"), 1, "at least two must sign"),
        (("alice", "bob"), 2, "one lost key"),
        (("alice", "alice", "bob"), 2, "named twice"),
    ],
)
def test_a_root_that_one_key_could_misuse_or_end_is_not_prepared(
    keys: tuple[str, ...], threshold: int, words: str, people: People
) -> None:
    with pytest.raises(UnacceptableError, match=words):
        people.prepare(
            "rotate",
            "root",
            *(w for n in keys for w in ("--key", people.public(n))),
            "--threshold",
            threshold,
        )


def test_a_key_is_never_overwritten_and_only_its_owner_may_read_it(people: People) -> None:
    assert people.key("alice").stat().st_mode & 0o777 == 0o600
    before = people.key("alice").read_bytes()
    assert b"ENCRYPTED" in before
    with pytest.raises(SettingsError, match="never overwritten"):
        people.make_key("alice")
    assert people.key("alice").read_bytes() == before
    with pytest.raises(SettingsError, match="PRIVATE key"):
        people.prepare("rotate", "targets", "--key", people.key("alice"))
    people.key("bob").chmod(0o644)
    change = people.prepare("rotate", "online")
    with pytest.raises(SettingsError, match="chmod 600"):
        people.sign(change, "bob")
    people.passphrase.write_text("another\n")
    with pytest.raises(SettingsError, match="passphrase does not open"):
        people.sign(change, "carol")


def test_who_signs_is_told_what_changes_and_nothing_is_signed_on_a_no(people: People) -> None:
    people.make_key("tina")
    change = people.prepare("rotate", "targets", "--key", people.public("tina"))
    content = {path.name: path.read_bytes() for path in change.glob("*.json")}
    with pytest.raises(SettingsError, match="nothing was signed"):
        people.run(
            "sign", change, "--key", people.key("alice"), "--passphrase-file", people.passphrase, answer="n\n"
        )
    assert {path.name: path.read_bytes() for path in change.glob("*.json")} == content
    said = people.run("show", change)
    assert "(NEW)" in said
    assert "(REMOVED)" in said
    assert people.run("keys", "show", people.public("tina")).strip() in said
    with pytest.raises(UnacceptableError, match="signs nothing in this change"):
        people.sign(change, "rita")


def hide_a_file(signed: Targets, people: People) -> None:
    signed.targets["models/motor/9.fedge"] = TargetFile.from_data("models/motor/9.fedge", b"evil", ["sha256"])


def put_another_key_under_a_name(signed: Targets, people: People) -> None:
    assert signed.delegations is not None
    known = signed.delegations.keys[public_key(people.private("rita").public_key()).keyid]
    known.keyval = public_key(people.private("dave").public_key()).keyval


def name_paths_by_hash(signed: Targets, people: People) -> None:
    assert signed.delegations is not None
    assert signed.delegations.roles is not None
    dave = public_key(people.private("dave").public_key())
    signed.delegations.keys[dave.keyid] = dave
    digits = list("0123456789abcdef")
    signed.delegations.roles["fleet-2"] = DelegatedRole("fleet-2", [dave.keyid], 1, False, None, digits)


@pytest.mark.parametrize("hide", [hide_a_file, put_another_key_under_a_name, name_paths_by_hash])
def test_nobody_signs_what_the_words_of_a_change_would_not_tell(
    hide: Callable[[Targets, People], None], people: People
) -> None:
    people.make_key("dave")
    change = people.prepare("renew", "--role", "targets")
    file = change / "2.targets.json"
    targets = Metadata[Targets].from_bytes(file.read_bytes())
    hide(targets.signed, people)
    file.write_bytes(encode(targets))
    for refused in (lambda: people.sign(change, "tom"), lambda: people.run("show", change)):
        with pytest.raises(UnacceptableError):
            refused()
    assert not Metadata[Targets].from_bytes(file.read_bytes()).signatures


def test_nobody_lists_other_bytes_unseen(people: People) -> None:
    change = people.prepare("renew", "--role", "family-motor")
    (file,) = change.glob("*.family-motor.json")
    listed = Metadata[Targets].from_bytes(file.read_bytes())
    listed.signed.targets["models/motor/1.fedge"].hashes["sha256"] = "0" * 64
    file.write_bytes(encode(listed))
    assert "OTHER BYTES than before: models/motor/1.fedge" in people.run("show", change)


def test_a_folder_that_was_altered_on_the_way_cannot_be_put_together(people: People) -> None:
    change = people.prepare("renew", "--role", "root")
    whole = people.sign(change, "alice")
    root = Metadata.from_bytes((whole / "2.root.json").read_bytes())
    root.signed.expires = expiry(time.time(), 9000 * DAY_S)
    (whole / "2.root.json").write_bytes(encode(root))
    copy = people.folder / f"{change.name}-alice"
    with pytest.raises(ConflictError, match="says different things"):
        people.run("assemble", copy, whole, "--out", people.folder / "put-together")
    with pytest.raises(UnacceptableError, match="signed by 0"):
        people.publish(whole)


def test_a_root_that_ends_in_the_past_is_refused(people: People) -> None:
    root = deepcopy(people.repository.published().root)
    root.signatures.clear()
    root.signed.version = 2
    root.signed.expires = expiry(time.time(), -DAY_S)
    content = encode(sign(root, people.private("alice"), people.private("bob")))
    with pytest.raises(UnacceptableError, match="expired"):
        people.repository.publish({"2.root.json": content}, time.time())
    assert people.repository.published().root.signed.version == 1


def test_a_root_that_only_its_own_keys_have_signed_is_refused(people: People) -> None:
    for name in ("dave", "erin", "frank"):
        people.make_key(name)
    names = ("dave", "erin", "frank")
    change = people.prepare("rotate", "root", *(w for n in names for w in ("--key", people.public(n))))
    with pytest.raises(UnacceptableError, match="of the root before it"):
        people.publish(people.sign(change, *names))


def test_what_our_own_checks_would_let_pass_a_real_client_still_stops(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "_check_signed", lambda *_: None)
    change = people.prepare("renew", "--role", "root")
    with pytest.raises(UnacceptableError, match="a device that is up to date now would refuse this"):
        people.publish(people.sign(change, "alice"))
    assert people.repository.published().root.signed.version == 1

"""Device ↔ key ↔ node."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator.errors import RosterError
from aggregator.flower.roster import Roster
from protocol.identity import fingerprint, load_public_key, public_key_pem
from protocol.names import DeviceId

A, B = DeviceId("a"), DeviceId("b")


class Nodes:
    """Gives each key one node, as Flower does."""

    def __init__(self) -> None:
        self.known: dict[bytes, int] = {}

    def __call__(self, key: bytes) -> int:
        return self.known.setdefault(key, len(self.known) + 1)


def new_key() -> bytes:
    return public_key_pem(ec.generate_private_key(ec.SECP256R1()).public_key())


def owner(roster: Roster, pem: bytes) -> DeviceId | None:
    member = roster.find(fingerprint(load_public_key(pem)))
    return None if member is None else member.device


def test_roster_survives_a_restart_with_the_same_nodes(tmp_path: Path) -> None:
    nodes, keys = Nodes(), {A: new_key(), B: new_key()}
    first = Roster(tmp_path / "roster.json", nodes)
    first.sync(keys)
    assert first.devices() == (A, B)
    second = Roster(tmp_path / "roster.json", nodes)
    assert (second.node_of(A), second.node_of(B)) == (first.node_of(A), first.node_of(B))
    assert owner(second, keys[B]) == B
    written = (tmp_path / "roster.json").read_bytes()
    second.sync(keys)
    assert (tmp_path / "roster.json").read_bytes() == written


def test_removed_and_rekeyed_devices_lose_their_old_key_and_may_return(tmp_path: Path) -> None:
    roster = Roster(tmp_path / "roster.json", Nodes())
    old, new = new_key(), new_key()
    roster.sync({A: old})
    node = roster.node_of(A)
    roster.sync({A: new})
    assert owner(roster, new) == A
    assert owner(roster, old) is None
    roster.sync({})
    assert roster.devices() == ()
    assert roster.node_of(A) is None
    roster.sync({A: old})
    assert roster.node_of(A) == node


def test_bad_roster_changes_nothing(tmp_path: Path) -> None:
    roster = Roster(tmp_path / "roster.json", Nodes())
    key = new_key()
    roster.sync({A: key})
    with pytest.raises(RosterError, match="same public key"):
        roster.sync({A: key, B: key})
    with pytest.raises(RosterError, match=r"'b'.*not a PEM"):
        roster.sync({B: b"no key"})
    with pytest.raises(RosterError, match="a/b"):
        roster.sync({DeviceId("a/b"): key})
    assert roster.devices() == (A,)


def test_damaged_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "roster.json").write_text("{")
    with pytest.raises(RosterError, match=r"roster\.json cannot be read"):
        Roster(tmp_path / "roster.json", Nodes())

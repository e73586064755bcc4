"""Round keys: fresh, bound to their use, refused when they are none."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from protocol.secure_sum.errors import KeyAgreementError
from protocol.secure_sum.keys import (
    RoundBinding,
    derive_pair_seed,
    derive_share_key,
    generate_key_pair,
    key_pair_from_secret,
    shared_secret,
)

pytestmark = pytest.mark.edge
BINDING = RoundBinding(
    session="run-1/try-1",
    round_number=3,
    model_hash=b"m" * 32,
    config_hash=b"c" * 32,
    graph_hash=b"g" * 32,
)
SHARED = bytes(range(32))


def test_two_devices_derive_the_same_pair_seed() -> None:
    one, other = generate_key_pair(os.urandom), generate_key_pair(os.urandom)
    seeds = {
        derive_pair_seed(shared_secret(one.secret, other.public), binding=BINDING, devices=("one", "other")),
        derive_pair_seed(shared_secret(other.secret, one.public), binding=BINDING, devices=("other", "one")),
    }
    assert len(seeds) == 1


@pytest.mark.parametrize(
    "changed",
    [
        replace(BINDING, session="run-1/try-2"),
        replace(BINDING, round_number=4),
        replace(BINDING, model_hash=b"M" * 32),
        replace(BINDING, config_hash=b"C" * 32),
        replace(BINDING, graph_hash=b"G" * 32),
    ],
)
def test_a_pair_seed_changes_with_everything_it_is_bound_to(changed: RoundBinding) -> None:
    same = derive_pair_seed(SHARED, binding=BINDING, devices=("a", "b"))
    assert derive_pair_seed(SHARED, binding=changed, devices=("a", "b")) != same
    assert derive_pair_seed(SHARED, binding=BINDING, devices=("a", "c")) != same


def test_names_that_read_alike_when_joined_do_not_share_a_seed() -> None:
    one = derive_pair_seed(SHARED, binding=BINDING, devices=("ab", "c"))
    assert derive_pair_seed(SHARED, binding=BINDING, devices=("a", "bc")) != one


def test_share_keys_differ_by_direction_round_and_session() -> None:
    def key(session: str = "s", round_number: int = 1, sender: str = "a", recipient: str = "b") -> bytes:
        return derive_share_key(
            SHARED, session=session, round_number=round_number, sender=sender, recipient=recipient
        )

    assert len({key(), key(session="t"), key(round_number=2), key(sender="b", recipient="a")}) == 4


def test_a_key_pair_hides_its_secret_and_can_be_wiped() -> None:
    pair = generate_key_pair(os.urandom)
    assert pair.secret.hex() not in repr(pair)
    assert repr(bytes(pair.secret)) not in repr(pair)
    pair.wipe()
    assert pair.secret == bytes(32)


def test_a_secret_gives_its_key_pair_back() -> None:
    pair = generate_key_pair(os.urandom)
    assert key_pair_from_secret(bytes(pair.secret)).public == pair.public


def test_one_agreement_equals_the_same_one_of_a_loaded_pair() -> None:
    pair, peer = generate_key_pair(os.urandom), generate_key_pair(os.urandom)
    assert shared_secret(pair.secret, peer.public) == pair.agree(peer.public) == peer.agree(pair.public)


def test_a_wiped_pair_agrees_with_nobody() -> None:
    pair, peer = generate_key_pair(os.urandom), generate_key_pair(os.urandom)
    pair.wipe()
    with pytest.raises(KeyAgreementError, match="has been wiped"):
        pair.agree(peer.public)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(KeyAgreementError, match=f"secret key is 32 bytes, got {length}"):
        key_pair_from_secret(bytes(length))
    with pytest.raises(KeyAgreementError, match=f"public key is 32 bytes, got {length}"):
        shared_secret(bytes(32), bytes(length))


def test_a_point_of_small_order_would_make_the_secret_known_and_is_refused() -> None:
    with pytest.raises(KeyAgreementError, match="public key 0000"):
        shared_secret(bytes(range(32)), bytes(32))

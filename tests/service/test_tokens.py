"""The life of an operator token, over the fleet's database and over the aggregator's: the same rules at both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aggregator.tokens import TokenStore
from fleet.auth.operator_tokens import open_tokens
from fleet.migrations.upgrade import open_storage
from protocol.errors import TopicError
from service.errors import TokenChangeError, UnauthenticatedError
from service.roles import Caller, Role
from service.tokens import (
    StoredTokens,
    TokenGrant,
    TokenRecord,
    TokenRows,
    create_token,
    revoke_token,
    rotate_token,
)

DAY_S = 86400.0


@dataclass
class Clock:
    now: float = 1000.0


@dataclass
class Place:
    """Where tokens lie, and a clock."""

    tokens: StoredTokens
    write: Callable[[], AbstractContextManager[TokenRows]]
    clock: Clock = field(default_factory=Clock)

    def create(
        self, name: str = "ann", role: Role = Role.OPERATOR, *, valid_s: float | None = None, **grant: object
    ) -> str:
        given = TokenGrant(**{"name": name, "role": role, "person": name} | grant)  # type: ignore[arg-type] # as the test says
        with self.write() as rows:
            return create_token(
                rows, given, prefix="fo_", now=self.clock.now, random_bytes=os.urandom, valid_s=valid_s
            )

    def rotate(self, name: str = "ann", *, grace_s: float = DAY_S, **more: object) -> str:
        with self.write() as rows:
            return rotate_token(
                rows, name, prefix="fo_", now=self.clock.now, random_bytes=os.urandom, grace_s=grace_s, **more
            )  # type: ignore[arg-type] # as the test says

    def revoke(self, name: str = "ann") -> None:
        with self.write() as rows:
            revoke_token(rows, name, self.clock.now)

    def record(self, name: str = "ann") -> TokenRecord:
        with self.write() as rows:
            found = rows.find(name)
        assert found is not None
        return found

    def refuses(self, token: str, words: str) -> None:
        with pytest.raises(UnauthenticatedError, match=words):
            self.tokens.find_caller(token)


@pytest.fixture(params=["fleet", "aggregator"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    clock = Clock()
    if request.param == "aggregator":
        with closing(TokenStore(tmp_path / "a.sqlite", lambda: clock.now)) as store:
            yield Place(store, store.rows, clock)
        return
    with closing(open_storage(f"sqlite:///{tmp_path}/fleet.sqlite")) as database:
        tokens = open_tokens(database, lambda: clock.now)
        yield Place(tokens, tokens._write, clock)


def test_a_token_says_who_calls_for_whom_and_is_256_random_bits(place: Place) -> None:
    token = place.create("ann-laptop", person="Ann")
    assert (token[:3], len(token)) == ("fo_", 46)
    assert place.tokens.find_caller(token) == Caller(name="ann-laptop", role=Role.OPERATOR, person="ann")
    place.refuses(token[:-1], "unknown or revoked")


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
def test_who_changes_things_is_somebody(place: Place, role: Role) -> None:
    with pytest.raises(TokenChangeError, match="--person NAME"):
        place.create("nobodys", role, person=None)
    assert not place.tokens.find_caller(place.create("script", role, is_program=True)).is_person
    assert place.tokens.find_caller(place.create("ann", role)).is_person


def test_a_rotated_token_is_good_under_both_secrets_until_its_grace_is_over(place: Place) -> None:
    old = place.create()
    new = place.rotate()
    place.clock.now += DAY_S - 0.5
    assert place.tokens.find_caller(old) == place.tokens.find_caller(new)
    place.clock.now += 0.5
    place.refuses(old, "old secret of token 'ann', which was rotated on 1970-01-01")
    assert place.tokens.find_caller(new).name == "ann"


def test_of_a_token_that_is_rotated_twice_only_the_last_two_secrets_are_good(place: Place) -> None:
    first, second, third = place.create(), place.rotate(), place.rotate()
    place.refuses(first, "unknown")
    assert place.tokens.find_caller(second) == place.tokens.find_caller(third)


def test_a_stolen_secret_is_void_at_once(place: Place) -> None:
    before = place.create()
    stolen = place.rotate()
    new = place.rotate(grace_s=0.0)
    for secret in (before, stolen):
        place.refuses(secret, "unknown")
    assert place.tokens.find_caller(new).name == "ann"


def test_a_revoked_token_is_void_with_the_secret_before_it_and_its_name_free(place: Place) -> None:
    old, other = place.create(), place.create("bert")
    new = place.rotate()
    place.revoke()
    place.clock.now += 1
    place.revoke()  # the second time changes nothing
    assert place.record().revoked_at == 1000.0
    for secret in (old, new):
        place.refuses(secret, "unknown or revoked")
    with pytest.raises(TokenChangeError, match="revoked; create it anew"):
        place.rotate()
    assert place.tokens.find_caller(other).name == "bert"
    again = place.create(role=Role.ADMIN)
    assert place.tokens.find_caller(again).role is Role.ADMIN
    place.refuses(new, "unknown")


def test_a_token_expires_with_both_secrets_and_a_rotation_renews_it_for_as_long(place: Place) -> None:
    old = place.create(valid_s=30 * DAY_S)
    place.clock.now += 29.5 * DAY_S
    new = place.rotate()
    place.clock.now += 0.5 * DAY_S
    place.refuses(old, "old secret")
    assert place.tokens.find_caller(new).name == "ann"
    place.clock.now += 29.5 * DAY_S
    place.refuses(new, "expired on 1970-03-01 12:16 UTC; an admin renews it with: tokens rotate ann")


def test_a_name_is_given_to_one_token_at_a_time_and_must_be_a_name(place: Place) -> None:
    place.create("anna", Role.VIEWER)
    with pytest.raises(TokenChangeError, match=r"'anna' exists \(role viewer\)"):
        place.create("anna")
    for wrong in ({"name": "an na"}, {"person": "an\nna"}):
        with pytest.raises(TopicError):
            place.create(**wrong)  # type: ignore[arg-type] # names that are none
    for change in (place.rotate, place.revoke):
        with pytest.raises(TokenChangeError, match="no token named 'bert'"):
            change("bert")


def test_the_last_use_is_written_down_now_and_then_and_not_at_each_request(place: Place) -> None:
    token = place.create()
    place.clock.now += 5
    place.tokens.find_caller(token)
    assert place.record().last_used_at is None
    place.tokens.store_uses()
    assert place.record().last_used_at == 1005.0
    place.rotate()
    place.tokens.store_uses()
    assert place.record().last_used_at == 1005.0


def test_only_a_publisher_is_for_families(place: Place) -> None:
    with pytest.raises(TokenChangeError, match="not restricted to families"):
        place.create(families=("pump",))

"""Tokens of the fleet: claims, which let devices in (how long, how many, what a file of them may hold), and operators' own."""

from __future__ import annotations

import secrets

import msgspec
import pytest
from fleet_world import NOW, operator_token
from sqlalchemy import select

from fleet.auth.claim_tokens import create_claim, find_claim, import_claims, use_claim
from fleet.auth.operator_tokens import PREFIX, SessionRows, open_tokens
from fleet.enrolment import Applicant
from fleet.errors import BadRequestError
from fleet.storage.access_tables import AuditEntry, ClaimToken, OperatorToken
from fleet.storage.base import Database
from runtime.errors import SettingsError
from service.errors import UnauthenticatedError
from service.roles import Caller, Role
from service.tokens import rotate_token


def claim(database: Database, *, uses: int = 1, lifetime_s: float | None = None) -> str:
    with database.write() as session:
        return create_claim(
            session, name="batch", uses=uses, now=NOW, lifetime_s=lifetime_s, random_bytes=secrets.token_bytes
        )


def test_a_claim_lets_devices_in_until_its_lifetime_is_over_and_not_a_moment_longer(
    database: Database,
) -> None:
    token = claim(database, lifetime_s=600.0)
    with database.write() as session:
        for now in (NOW, NOW + 600.0):
            assert find_claim(session, token, now).name == "batch"
        for now in (NOW + 600.5, NOW + 1e6):
            with pytest.raises(UnauthenticatedError, match="unknown or expired"):
                find_claim(session, token, now)


def test_a_claim_without_a_lifetime_is_good_for_ever(database: Database) -> None:
    token = claim(database)
    with database.write() as session:
        assert find_claim(session, token, NOW + 1e9).expires_at is None


def test_a_claim_nobody_made_is_unknown(database: Database) -> None:
    claim(database)
    with database.write() as session, pytest.raises(UnauthenticatedError, match="unknown"):
        find_claim(session, "fc_made-up", NOW)


@pytest.mark.parametrize("uses", [1, 3])
def test_a_claim_is_good_for_as_many_devices_as_it_says(database: Database, uses: int) -> None:
    token = claim(database, uses=uses)
    with database.write() as session:
        row = find_claim(session, token, NOW)
        for _ in range(uses):
            use_claim(session, row)
        with pytest.raises(UnauthenticatedError, match=f"good for {uses} devices"):
            use_claim(session, row)


def test_spending_one_claim_leaves_the_others(database: Database) -> None:
    spent, kept = claim(database), claim(database)
    with database.write() as session:
        use_claim(session, find_claim(session, spent, NOW))
        assert find_claim(session, kept, NOW).uses_left == 1


@pytest.mark.parametrize("uses", [0, -1])
def test_a_claim_for_nobody_is_refused(database: Database, uses: int) -> None:
    with pytest.raises(BadRequestError, match=f"for {uses} devices .* 1 or more"):
        claim(database, uses=uses)


def test_a_claim_is_256_random_bits_with_a_prefix_that_says_what_it_is(database: Database) -> None:
    first, second = claim(database), claim(database)
    assert first != second
    assert (first[:3], len(first)) == ("fc_", 3 + 43)  # 32 bytes in base64 without padding


def test_the_database_never_holds_the_token_itself(database: Database) -> None:
    token = claim(database)
    with database.read() as session:
        (row,) = session.scalars(select(ClaimToken)).all()
    assert token[3:] not in repr({column.name: getattr(row, column.key) for column in ClaimToken.__table__.c})


# 20 characters: a token that somebody chose must at least look random.
SHORT, LONG_ENOUGH = "x" * 19, "x" * 20


@pytest.mark.parametrize(
    "line", [SHORT, f"{SHORT} 5", f"{LONG_ENOUGH} 0", f"{LONG_ENOUGH} -1", f"{LONG_ENOUGH} 1 2"]
)
def test_a_line_that_is_no_claim_is_refused_by_its_number(database: Database, line: str) -> None:
    with (
        database.write() as session,
        pytest.raises(SettingsError, match=r"^line 3 .* 20 or more .* uses ≥ 1"),
    ):
        import_claims(session, ["", "# ours", line, LONG_ENOUGH], NOW)


def test_lines_are_taken_over_with_their_uses_and_without_end(database: Database) -> None:
    lines = [f"{LONG_ENOUGH}1", "", f"{LONG_ENOUGH}2 1", "# two more", f"  {LONG_ENOUGH}3   20  "]
    with database.write() as session:
        assert import_claims(session, lines, NOW) == 3
        for number, uses in ((1, 1), (2, 1), (3, 20)):
            row = find_claim(session, f"{LONG_ENOUGH}{number}", NOW + 1e9)
            assert (row.uses, row.uses_left, row.name, row.created_at) == (
                uses,
                uses,
                "claim_tokens_file",
                NOW,
            )


def test_a_claim_that_was_spent_is_not_filled_up_by_the_next_start(database: Database) -> None:
    with database.write() as session:
        import_claims(session, [LONG_ENOUGH], NOW)
        use_claim(session, find_claim(session, LONG_ENOUGH, NOW))
        assert import_claims(session, [LONG_ENOUGH, f"{LONG_ENOUGH}1"], NOW) == 1
        assert find_claim(session, LONG_ENOUGH, NOW).uses_left == 0


def test_a_token_is_found_by_its_new_secret_and_by_the_old_one_and_lies_there_as_neither(
    database: Database,
) -> None:
    with database.write() as session:
        old = operator_token(session, "agg", Role.PUBLISHER, families=("pump",))
        new = rotate_token(
            SessionRows(session), "agg", prefix=PREFIX, now=NOW, random_bytes=secrets.token_bytes
        )
    holders = open_tokens(database, lambda: NOW)
    expected = Caller(name="agg", role=Role.PUBLISHER, is_program=True, families=frozenset({"pump"}))
    assert holders.find_caller(old) == holders.find_caller(new) == expected
    with database.read() as session:
        row = session.get_one(OperatorToken, "agg")
        assert not [value for value in vars(row).values() if str(value) in {old, new}]
        lines = [(line.action, line.subject) for line in session.scalars(select(AuditEntry))]
    assert lines == [("token_created", "agg"), ("token_rotated", "agg")]


APPLICATION = {
    "device": "d" * 64,
    "public_key": "k" * 4096,
    "hardware": "h" * 200,
    "family": "f" * 64,
    "labels": {f"{n:03}" + "l" * 197: "v" * 200 for n in range(32)},
    "signature": "A" * 1024,
}


def test_an_application_may_be_as_long_as_that_and_no_longer() -> None:
    applicant = msgspec.convert(APPLICATION, Applicant)
    assert (len(applicant.signature), len(applicant.labels)) == (768, 32)
    assert msgspec.convert({k: v for k, v in APPLICATION.items() if k != "labels"}, Applicant).labels == {}
    for longer in (
        {"device": "d" * 65},
        {"device": ""},
        {"public_key": "k" * 4097},
        {"hardware": "h" * 201},
        {"hardware": ""},
        {"family": "f" * 65},
        {"family": ""},
        {"labels": {"l" * 201: ""}},
        {"labels": {"l": "v" * 201}},
        {"labels": {str(n): "" for n in range(33)}},
        {"signature": "A" * 1028},
    ):
        with pytest.raises(msgspec.ValidationError, match=next(iter(longer))):
            msgspec.convert({**APPLICATION, **longer}, Applicant)

"""Claims: what lets one device in, once; what they fix, how they end, and what people see of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fleet_world import NOW, make_claims
from sqlalchemy import select

from fleet.auth.claim_tokens import (
    ClaimTerms,
    check_family,
    check_open,
    claim_id,
    find_claim,
    revoke_claims,
    use_claim,
)
from fleet.errors import NotFoundError, UnacceptableError
from fleet.storage.access_tables import ClaimToken
from fleet.storage.base import Database
from fleet.storage.release_tables import Release
from protocol.errors import TopicError
from service.errors import UnauthenticatedError

DAY = 86400.0


def test_a_claim_is_open_until_its_lifetime_is_over_and_not_a_moment_longer(database: Database) -> None:
    (token,) = make_claims(database, lifetime_s=600.0)
    with database.read() as session:
        row = find_claim(session, token)
        for now in (NOW, NOW + 600.0):
            check_open(row, now)
        for now in (NOW + 600.5, NOW + 1e6):
            with pytest.raises(UnauthenticatedError, match="has expired"):
                check_open(row, now)


def test_every_claim_ends(database: Database) -> None:
    (token,) = make_claims(database)
    with database.read() as session:
        assert find_claim(session, token).expires_at == NOW + 7 * DAY


def test_a_claim_nobody_made_is_unknown(database: Database) -> None:
    (token,) = make_claims(database)
    with database.read() as session:
        for forged in ("fc_made-up", token[:-1], token + "x", "", token.upper(), "fc_" + "\0" * 9):
            with pytest.raises(UnauthenticatedError, match="unknown"):
                find_claim(session, forged)


def test_a_claim_lets_one_device_in_and_spending_it_leaves_the_others(database: Database) -> None:
    spent, kept = make_claims(database, 2)
    with database.write() as session:
        use_claim(find_claim(session, spent), "press-1", NOW)
    with database.read() as session:
        with pytest.raises(UnauthenticatedError, match="used by another device"):
            use_claim(find_claim(session, spent), "press-2", NOW)
        check_open(find_claim(session, kept), NOW)


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_claims_for_nobody_or_for_a_whole_town_are_refused(database: Database, count: int) -> None:
    with pytest.raises(UnacceptableError, match=f"^{count} claims"):
        make_claims(database, count)


def test_a_claim_for_one_named_device_is_one_claim(database: Database) -> None:
    with pytest.raises(UnacceptableError, match="1 where the device is named"):
        make_claims(database, 2, for_device="press-1")


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"family": "a/b"}, "family"),
        ({"family": ""}, "family"),
        ({"name": "two words"}, "claim name"),
        ({"for_device": "a/b"}, "a/b"),
        ({"for_device": "training"}, "training"),
    ],
)
def test_a_claim_fixes_names_that_are_names(database: Database, terms: dict[str, Any], words: str) -> None:
    with pytest.raises(TopicError, match=words):
        make_claims(database, **terms)


UNFIT = [
    "a\0",
    "a\n",
    "a\r\nb",
    "\x1b[31m",
    "a\u202eb",
    "a\u2066b",
    "a\u200bb",
    "\ufeff",
    "<script>",
    "x" * 201,
]


@pytest.mark.parametrize("text", UNFIT)
def test_a_text_that_deceives_people_or_breaks_a_database_is_no_label_and_no_site(text: str) -> None:
    for terms in ({"site": text}, {"labels": {"line": text}}, {"labels": {text: "3"}}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": "t", "family": "motor"} | terms, ClaimTerms)


@pytest.mark.parametrize("text", ["", "Halle 2", "größe", "東京", "a&b 'c' \"d\"", "x" * 200])
def test_what_people_write_is_a_label(text: str) -> None:
    made = msgspec.convert({"name": "t", "family": "motor", "labels": {"line": text}}, ClaimTerms)
    assert made.labels == {"line": text}


def test_the_site_is_no_label(database: Database) -> None:
    with pytest.raises(UnacceptableError, match="give it as the site"):
        make_claims(database, labels={"site": "hall-1"})


def test_a_claim_is_256_random_bits_with_a_prefix_that_says_what_it_is(database: Database) -> None:
    tokens = make_claims(database, 50)
    assert len(set(tokens)) == 50
    assert {(token[:3], len(token)) for token in tokens} == {("fc_", 3 + 43)}  # 32 bytes in base64


def test_the_database_never_holds_the_token_itself(database: Database) -> None:
    (token,) = make_claims(database)
    with database.read() as session:
        (row,) = session.scalars(select(ClaimToken)).all()
    assert token[3:] not in repr({column.name: getattr(row, column.key) for column in ClaimToken.__table__.c})


def test_a_claim_is_revoked_by_its_id_and_a_batch_by_its_name(database: Database) -> None:
    one, *others = make_claims(database, 4, name="b-1")
    (elsewhere,) = make_claims(database, name="b-2")
    with database.write() as session:
        use_claim(find_claim(session, others[0]), "press-1", NOW)
        (row,) = revoke_claims(session, claim_id(find_claim(session, one)), NOW + 1)
        assert row.revoked_at == NOW + 1
        rows = revoke_claims(session, "b-1", NOW + 2)
        assert sorted(str(row.revoked_at) for row in rows) == sorted(
            map(str, (NOW + 1, None, NOW + 2, NOW + 2))
        )
        check_open(find_claim(session, elsewhere), NOW)
        for token in (one, others[1]):
            with pytest.raises(UnauthenticatedError, match="was revoked"):
                check_open(find_claim(session, token), NOW)


@pytest.mark.parametrize("which", ["", "%", "_", "b-", "0", "fc_"])
def test_what_names_no_claim_revokes_none(database: Database, which: str) -> None:
    (token,) = make_claims(database, name="b-1")
    with database.write() as session, pytest.raises(NotFoundError, match="no claim"):
        revoke_claims(session, which, NOW)
    with database.read() as session:
        check_open(find_claim(session, token), NOW)


def test_a_family_that_no_release_has_is_told_before_a_claim_is_made(database: Database) -> None:
    with database.write() as session:
        with pytest.raises(UnacceptableError, match=r"'moter'; there are none"):
            check_family(session, "moter")
        session.add(
            Release(
                family="motor",
                version=1,
                sha256="0" * 64,
                size_bytes=1,
                signed_by="k",
                manifest={},
                published_by="p",
                published_at=NOW,
            )  # fmt: skip - one line of fields
        )
        session.flush()
        check_family(session, "motor")
        with pytest.raises(UnacceptableError, match=r"'moter'; there are motor\..*--unreleased"):
            check_family(session, "moter")

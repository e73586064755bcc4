"""Device identity: tokens and statements of one key, for one purpose each."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.errors import IdentityError, TokenError
from protocol.identity import (
    CLOCK_LEEWAY_S,
    TOKEN_LIFETIME_S,
    fingerprint,
    issue_token,
    load_private_key,
    load_public_key,
    private_key_pem,
    public_key_pem,
    sign_statement,
    token_subject,
    verify_statement,
    verify_token,
)

pytestmark = pytest.mark.edge
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
NOW = 1_800_000_000.0


def test_a_token_names_its_device() -> None:
    token = issue_token(KEY, "d01", "fleet", NOW)
    assert token_subject(token) == "d01"
    assert verify_token(token, KEY.public_key(), "fleet", NOW + 10) == "d01"


def test_a_token_of_another_key_is_refused() -> None:
    with pytest.raises(TokenError, match="not signed by its enrolled key"):
        verify_token(issue_token(OTHER, "d01", "fleet", NOW), KEY.public_key(), "fleet", NOW)


def test_a_token_for_another_audience_is_refused() -> None:
    with pytest.raises(TokenError, match="audience 'broker'"):
        verify_token(issue_token(KEY, "d01", "broker", NOW), KEY.public_key(), "fleet", NOW)


@pytest.mark.parametrize("age", [TOKEN_LIFETIME_S + CLOCK_LEEWAY_S + 1, -CLOCK_LEEWAY_S - 1])
def test_an_expired_or_future_token_is_refused(age: float) -> None:
    with pytest.raises(TokenError, match="clock"):
        verify_token(issue_token(KEY, "d01", "fleet", NOW), KEY.public_key(), "fleet", NOW + age)


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c", "ä.ö.ü", "e30.e30.e30", "x" * 5000, "..", "\ud800.b.c"]
)
def test_a_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(TokenError):
        verify_token(token, KEY.public_key(), "fleet", NOW)


def test_a_token_with_altered_claims_is_refused() -> None:
    mine, theirs = (
        issue_token(KEY, "d01", "fleet", NOW).split("."),
        issue_token(OTHER, "d02", "fleet", NOW).split("."),
    )
    with pytest.raises(TokenError):
        verify_token(".".join([mine[0], theirs[1], mine[2]]), KEY.public_key(), "fleet", NOW)


def test_a_statement_signed_for_one_purpose_is_void_for_another() -> None:
    signature = sign_statement(KEY, "enrolment/v1", b"d01")
    verify_statement(KEY.public_key(), "enrolment/v1", b"d01", signature)
    with pytest.raises(IdentityError):
        verify_statement(KEY.public_key(), "report/v1", b"d01", signature)
    with pytest.raises(IdentityError):
        verify_statement(KEY.public_key(), "enrolment/v1", b"d02", signature)


def test_keys_read_back_from_pem() -> None:
    assert fingerprint(load_private_key(private_key_pem(KEY)).public_key()) == fingerprint(KEY.public_key())
    assert fingerprint(load_public_key(public_key_pem(KEY.public_key()))) == fingerprint(KEY.public_key())


@pytest.mark.parametrize("pem", [b"", b"nonsense", private_key_pem(KEY)[:50]])
def test_what_is_no_key_is_refused(pem: bytes) -> None:
    with pytest.raises(IdentityError):
        load_private_key(pem)
    with pytest.raises(IdentityError):
        load_public_key(pem)


def test_a_key_of_another_kind_is_refused() -> None:
    p384, ed = ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()
    with pytest.raises(IdentityError, match="P-256"):
        load_private_key(private_key_pem(p384))
    with pytest.raises(IdentityError, match="P-256"):
        load_public_key(
            ed.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

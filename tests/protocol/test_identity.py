"""Device identity: tokens and statements of one key, for one purpose each."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from protocol.errors import IdentityError, TokenError
from protocol.identity import (
    compressed_key,
    fingerprint,
    issue_token,
    key_from_compressed,
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


# The limits that guard people, as literals: a token cannot be revoked by itself, so it lives 300 s, and 300 s more on either
# side for a device's clock, as Flower's own node authentication allows.
@pytest.mark.parametrize("age", [600.5, 86_400.0, -300.5])
def test_an_expired_or_future_token_is_refused_with_its_age(age: float) -> None:
    with pytest.raises(TokenError, match=rf"'d01' is {age:.0f} s old; it is good for 300 s .*clock"):
        verify_token(issue_token(KEY, "d01", "fleet", NOW), KEY.public_key(), "fleet", NOW + age)


@pytest.mark.parametrize("age", [600.0, 300.0, -300.0])
def test_a_token_is_good_for_five_minutes_and_for_a_clock_that_is_five_minutes_off(age: float) -> None:
    assert verify_token(issue_token(KEY, "d01", "fleet", NOW), KEY.public_key(), "fleet", NOW + age) == "d01"


def signed_token(header: bytes, claims: bytes, *, signature_bytes: int = 64) -> str:
    """A token as anybody who holds `KEY` could write it."""
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims))
    r, s = decode_dss_signature(KEY.sign(signed, ec.ECDSA(hashes.SHA256())))
    raw = (r.to_bytes(32, "big") + s.to_bytes(32, "big"))[:signature_bytes]
    return (signed + b"." + base64.urlsafe_b64encode(raw).rstrip(b"=")).decode()


ES256 = b'{"alg":"ES256","typ":"JWT"}'


def claims_of(*, lasts_s: float) -> bytes:
    return b'{"sub":"d01","aud":"fleet","iat":%d,"exp":%d}' % (NOW, NOW + lasts_s)


def test_a_device_cannot_give_itself_a_longer_token_but_a_shorter_one() -> None:
    for_ever, for_ten_s = (signed_token(ES256, claims_of(lasts_s=lasts_s)) for lasts_s in (1e9, 10))
    assert verify_token(for_ever, KEY.public_key(), "fleet", NOW + 600) == "d01"
    with pytest.raises(TokenError, match="good for 300 s"):
        verify_token(for_ever, KEY.public_key(), "fleet", NOW + 601)
    assert verify_token(for_ten_s, KEY.public_key(), "fleet", NOW + 310) == "d01"
    with pytest.raises(TokenError, match="is 311 s old"):
        verify_token(for_ten_s, KEY.public_key(), "fleet", NOW + 311)


@pytest.mark.parametrize("header", [b'{"alg":"none"}', b'{"alg":"HS256","typ":"JWT"}', b"{}", b'{"alg":"A"}'])
def test_only_es256_is_a_signature(header: bytes) -> None:
    with pytest.raises(TokenError, match="signed with ES256"):
        verify_token(signed_token(header, claims_of(lasts_s=300)), KEY.public_key(), "fleet", NOW)


def test_a_signature_of_another_length_is_refused() -> None:
    token = signed_token(ES256, claims_of(lasts_s=300), signature_bytes=63)
    with pytest.raises(TokenError, match="signed with ES256"):
        verify_token(token, KEY.public_key(), "fleet", NOW)
    longer = signed_token(ES256, claims_of(lasts_s=300)) + "AAAA"
    with pytest.raises(TokenError, match="signed with ES256"):
        verify_token(longer, KEY.public_key(), "fleet", NOW)


def test_a_token_of_more_than_4096_characters_is_not_even_decoded() -> None:
    token = issue_token(KEY, "d01", "f" * 2919, NOW)
    assert len(token) == 4096
    assert verify_token(token, KEY.public_key(), "f" * 2919, NOW) == "d01"
    for text in (issue_token(KEY, "d01", "f" * 2920, NOW), "a.b", "a.b.c.d"):
        with pytest.raises(TokenError, match="three parts"):
            token_subject(text)


@pytest.mark.parametrize("name", ["d" * 65, "d\x00", "d\n1", "d\x7f"])
def test_a_token_of_what_can_be_no_device_is_refused_before_anybody_looks_for_it(name: str) -> None:
    with pytest.raises(TokenError, match="does not parse"):
        token_subject(issue_token(KEY, name, "fleet", NOW))


def test_a_token_is_a_jwt_that_any_other_library_would_verify() -> None:
    header, claims, signature = (
        base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        for part in issue_token(KEY, "d01", "fleet", NOW).split(".")
    )
    assert (header, len(signature)) == (ES256, 64)
    assert json.loads(claims) == {"sub": "d01", "aud": "fleet", "iat": NOW, "exp": NOW + 300}


def test_a_public_key_travels_as_44_characters() -> None:
    text = compressed_key(KEY.public_key())
    assert len(text) == 44
    assert fingerprint(key_from_compressed(text)) == fingerprint(KEY.public_key())
    for wrong in ("", "nonsense", text[:-4], text.replace(text[0], "-", 1), f"{text[:8]}!{text[8:]}"):
        with pytest.raises(IdentityError, match="not a compressed P-256 key"):
            key_from_compressed(wrong)


def test_a_fingerprint_is_the_sha256_of_the_keys_standard_form() -> None:
    der = KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert fingerprint(KEY.public_key()) == hashlib.sha256(der).hexdigest()


def test_what_is_signed_begins_with_our_name_and_the_purpose() -> None:
    # Other implementations and old devices sign these very bytes.
    signature = sign_statement(KEY, "enrolment/v1", b"d01")
    KEY.public_key().verify(signature, b"fedge/enrolment/v1\x00d01", ec.ECDSA(hashes.SHA256()))


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
        load_public_key(public_key_pem(p384.public_key()))
    with pytest.raises(IdentityError, match="P-256"):
        load_public_key(
            ed.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

"""The primitives give the published answers: SP 800-38A, RFC 8439, RFC 7748, RFC 5869, and a hand-worked Shamir."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocol.secure_sum import advertisements
from protocol.secure_sum.errors import KeyAgreementError
from protocol.secure_sum.keys import (
    RoundBinding,
    derive_pair_seed,
    derive_share_key,
    key_pair_from_secret,
    shared_secret,
)
from protocol.secure_sum.masks import MaskGenerator, expand_mask
from protocol.secure_sum.shamir import LIMBS, PRIME, combine

pytestmark = pytest.mark.edge


def hkdf_sha256(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 written out with hmac: the oracle for the keys, itself checked below."""
    pseudo_random_key = hmac.new(salt or bytes(32), key, hashlib.sha256).digest()
    block, output = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.new(pseudo_random_key, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
    return output[:length]


def framed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)


def test_the_aes_mask_is_the_key_stream_of_sp_800_38a_f_5_1() -> None:
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = bytes.fromhex(
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
        "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
    )
    mask = expand_mask(key + counter, 16, generator=MaskGenerator.AES_128_CTR)
    assert bytes(a ^ b for a, b in zip(mask.astype("<u4").tobytes(), plain, strict=True)) == cipher


@pytest.mark.parametrize(
    ("key", "start", "stream"),
    [
        (
            "00" * 32,
            0,
            (
                "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
                "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
                "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
                "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
            ),
        ),
        (
            "00" * 31 + "01",
            64,
            (
                "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
                "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"
            ),
        ),
    ],
)
def test_the_chacha20_mask_is_the_key_stream_of_rfc_8439_a_1(key: str, start: int, stream: str) -> None:
    mask = expand_mask(bytes.fromhex(key), 32, generator=MaskGenerator.CHACHA20)
    expected = bytes.fromhex(stream)
    assert mask.astype("<u4").tobytes()[start : start + len(expected)] == expected


def test_key_agreement_gives_the_shared_secret_of_rfc_7748_6_1() -> None:
    alice = key_pair_from_secret(
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    )
    bob = key_pair_from_secret(
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    )
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    expected = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert shared_secret(alice.secret, bob.public).hex() == expected
    assert shared_secret(bob.secret, alice.public).hex() == expected


@pytest.mark.parametrize(
    ("scalar", "point", "product"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_key_agreement_multiplies_as_in_rfc_7748_5_2(scalar: str, point: str, product: str) -> None:
    assert shared_secret(bytes.fromhex(scalar), bytes.fromhex(point)).hex() == product


@pytest.mark.parametrize(
    "point",
    [
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
        "ed" + "ff" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
        "00" * 31 + "80",  # zero with the bit that RFC 7748 masks away
    ],
)
def test_a_point_of_small_order_is_refused_and_named(point: str) -> None:
    with pytest.raises(KeyAgreementError, match=rf"{point} is a point of small order"):
        shared_secret(bytes(range(32)), bytes.fromhex(point))
    # The library, which multiplies, comes to the same verdict as our list.
    peer = X25519PublicKey.from_public_bytes(bytes.fromhex(point))
    with pytest.raises(ValueError, match="computing shared key"):
        X25519PrivateKey.from_private_bytes(bytes(range(32))).exchange(peer)


def test_the_oracle_for_derived_keys_gives_the_answers_of_rfc_5869() -> None:
    assert hkdf_sha256(
        b"\x0b" * 22,
        bytes.fromhex("000102030405060708090a0b0c"),
        bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"),
        42,
    ).hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    assert hkdf_sha256(b"\x0b" * 22, b"", b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_pair_seeds_and_share_keys_are_hkdf_with_the_written_info_strings() -> None:
    shared = bytes(range(32))
    binding = RoundBinding(
        session="s", round_number=7, model_hash=b"m" * 32, config_hash=b"c" * 32, graph_hash=b"g" * 32
    )
    info = framed(
        b"fedge/secure-sum/v1",
        b"pair",
        b"s",
        (7).to_bytes(8, "big"),
        b"m" * 32,
        b"c" * 32,
        b"g" * 32,
        b"a",
        b"b",
    )
    assert derive_pair_seed(shared, binding=binding, devices=("b", "a")) == hkdf_sha256(shared, b"", info, 32)
    info = framed(b"fedge/secure-sum/v1", b"share", b"s", (7).to_bytes(8, "big"), b"b", b"a")
    key = derive_share_key(shared, session="s", round_number=7, sender="b", recipient="a")
    assert key == hkdf_sha256(shared, b"", info, 16)


def test_shares_worked_out_by_hand_combine() -> None:
    """The line 5 + 3x in the lowest limb, zero elsewhere: f(2) = 11, f(65520) = f(-1) = 2."""
    at_two, at_minus_one = np.zeros(LIMBS, "<u2"), np.zeros(LIMBS, "<u2")
    at_two[0], at_minus_one[0] = 11, 2
    secret = combine([2, PRIME - 1], [at_two.tobytes(), at_minus_one.tobytes()])
    assert secret == (5).to_bytes(32, "little")


def test_a_commitment_to_a_seed_is_the_hash_of_its_names_and_the_seed() -> None:
    fields = (b"fedge/secure-sum/seed/v1", b"s", (1).to_bytes(8, "big"), b"d01", bytes(range(32)))
    assert (
        advertisements._commitment("s", 1, "d01", bytes(range(32)))
        == hashlib.sha256(framed(*fields)).digest()
    )

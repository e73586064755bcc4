"""Bundles: deterministic, and one flipped bit anywhere is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.bundle import (
    _HEAD,
    DOMAIN,
    MAGIC,
    TrustedKeys,
    entries_for,
    key_id,
    open_bundle,
    pack_bundle,
    peek_manifest,
)
from protocol.errors import BundleError, BundleFormatError, BundleIntegrityError, UntrustedBundleError
from protocol.limits import MAX_BUNDLE_BYTES
from protocol.manifest import FeatureSpec, Manifest, ModelSpec, ThresholdSpec

pytestmark = pytest.mark.edge
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUSTED = TrustedKeys([KEY.public_key()])
FILES = {"parameters.f32": bytes(range(16)), "golden.json": b"{}", "empty.bin": b""}
MANIFEST = Manifest(
    family="pump",
    version=2,
    created_at=1_800_000_000.0,
    model=ModelSpec(kind="dense-autoencoder", layers=(2, 1, 2), parameter_count=7, layout_sha256="ab" * 32),
    features=FeatureSpec(kind="passthrough", names=("a", "b")),
    threshold=ThresholdSpec(score=1.5, quantile=0.999, margin=1.1, fitted_on=1000),
    files=entries_for(FILES),
)
PACKED = pack_bundle(MANIFEST, FILES, KEY)
GOLDEN_SHA256 = (Path(__file__).parent / "golden" / "bundle.v1.sha256").read_text().strip()


def test_a_bundle_opens_to_what_was_packed() -> None:
    opened = open_bundle(PACKED, TRUSTED)
    assert (opened.manifest, dict(opened.files)) == (MANIFEST, FILES)
    assert opened.sha256 == hashlib.sha256(PACKED).hexdigest()
    assert opened.manifest.release == "pump/2"


def test_the_bytes_are_the_golden_ones() -> None:
    assert hashlib.sha256(PACKED).hexdigest() == GOLDEN_SHA256


@given(position=st.integers(0, len(PACKED) - 1), bit=st.integers(0, 7))
@settings(max_examples=400)
def test_one_flipped_bit_anywhere_is_refused(position: int, bit: int) -> None:
    altered = bytearray(PACKED)
    altered[position] ^= 1 << bit
    with pytest.raises(BundleError):
        open_bundle(bytes(altered), TRUSTED)


@given(length=st.integers(0, len(PACKED) - 1))
def test_a_truncated_bundle_is_refused(length: int) -> None:
    with pytest.raises(BundleError):
        open_bundle(PACKED[:length], TRUSTED)


def test_bytes_after_the_last_file_are_refused() -> None:
    with pytest.raises(BundleFormatError, match="1 bytes follow"):
        open_bundle(PACKED + b"x", TRUSTED)


def test_a_manifest_of_another_key_is_refused_by_name() -> None:
    foreign = pack_bundle(MANIFEST, FILES, OTHER_KEY)
    with pytest.raises(UntrustedBundleError, match=r"not trusted here \(trusted: "):
        open_bundle(foreign, TRUSTED)


def test_no_trusted_key_means_no_bundle() -> None:
    with pytest.raises(UntrustedBundleError, match="trusted: none"):
        open_bundle(PACKED, TrustedKeys([]))


def test_a_signed_manifest_of_another_format_is_refused() -> None:
    future = msgspec.json.encode({"format": 2, "family": "pump"})
    identifier = key_id(KEY.public_key())
    packed = _HEAD.pack(MAGIC, len(future)) + future + identifier + KEY.sign(DOMAIN + identifier + future)
    with pytest.raises(BundleFormatError, match="no manifest of format 1 may"):
        open_bundle(packed, TRUSTED)


def test_a_signed_manifest_of_a_model_without_layers_is_refused() -> None:
    model = msgspec.structs.replace(MANIFEST.model, layers=())
    packed = pack_bundle(msgspec.structs.replace(MANIFEST, model=model), FILES, KEY)
    with pytest.raises(BundleFormatError, match="layers"):
        open_bundle(packed, TRUSTED)


def test_files_that_differ_from_the_manifest_are_not_packed() -> None:
    with pytest.raises(BundleIntegrityError, match="entries_for"):
        pack_bundle(MANIFEST, FILES | {"golden.json": b"{ }"}, KEY)


def test_an_oversized_bundle_is_refused() -> None:
    with pytest.raises(BundleFormatError, match="exceeds"):
        open_bundle(bytes(MAX_BUNDLE_BYTES + 1), TRUSTED)


def test_a_manifest_can_be_shown_without_being_trusted() -> None:
    assert peek_manifest(pack_bundle(MANIFEST, FILES, OTHER_KEY)) == MANIFEST

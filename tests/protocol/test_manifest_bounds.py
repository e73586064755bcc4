"""What a signature vouches for may still be madness: whatever bytes a release key signs, verification refuses with BundleError alone."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.bundle import TrustedKeys, key_id, open_bundle
from protocol.errors import BundleError, IdentityError, QuestionError, TokenError
from protocol.identity import token_subject
from protocol.manifest import FeatureSpec, Manifest, ModelSpec, ThresholdSpec
from protocol.questions import decode_question
from protocol.signed_requests import decode_step, read_request
from protocol.sum_terms import decode_terms
from protocol.training import TrainingSettings

pytestmark = pytest.mark.edge
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = TrustedKeys([KEY.public_key()])
MANIFEST = Manifest(
    family="pump",
    version=2,
    created_at=1_800_000_000.0,
    model=ModelSpec(kind="dense-autoencoder", layers=(2, 1, 2), parameter_count=7, layout_sha256="ab" * 32),
    features=FeatureSpec(kind="passthrough", names=("a", "b")),
    threshold=ThresholdSpec(score=1.5, quantile=0.999, margin=1.1, fitted_on=1000),
    training=TrainingSettings().settled(),
    files=(),
)
SOUND = msgspec.json.encode(MANIFEST)
HUGE = 10**400


def opened(body: bytes) -> Manifest:
    """Open a bundle with this manifest, rightly signed by a trusted key."""
    identifier = key_id(KEY.public_key())
    signature = KEY.sign(b"fedge/bundle/v1\x00" + identifier + body)
    content = struct.pack("<8sI", b"FEDGEB01", len(body)) + body + identifier + signature
    return open_bundle(content, TRUSTED).manifest


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, one in inner for path in paths(one, (*at, key)))]


def changed(path: tuple[Any, ...], value: Any) -> bytes:
    """The sound manifest with another value at one place."""
    whole = json.loads(SOUND)
    if not path:
        return json.dumps(value).encode()
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(whole).encode()


PATHS = paths(json.loads(SOUND))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-HUGE, HUGE)
    | st.floats()
    | st.text()
    | st.sampled_from(
        [1e308, -1e308, 5e-324, -0.0, 2**53, 2**63, 2**64, "a/b", "..", "\n", "\x00", "x" * 3000]
    )
)  # fmt: skip - one list
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers(one)]
    if isinstance(value, list | tuple):
        return [number for one in value for number in numbers(one)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


@given(path=st.sampled_from(PATHS), value=VALUES)
@settings(max_examples=200, deadline=None)
@example(path=("threshold", "score"), value=1e308)
@example(path=("family",), value="a/b")
@example(path=("family",), value="pump\n")
@example(path=("version",), value=10**9)
@example(path=("created_at",), value=1e308)
@example(path=("training", "learning_rate"), value=1e308)
def test_whatever_is_signed_is_either_sane_or_a_bundle_error(path: tuple[Any, ...], value: Any) -> None:
    try:
        manifest = opened(changed(path, value))
    except BundleError:
        return
    assert manifest.release == f"{manifest.family}/{manifest.version}"
    assert all(abs(number) <= 1e300 for number in numbers(msgspec.to_builtins(manifest)))
    assert 1e-6 <= manifest.threshold.score <= 1e6
    assert all(name.isprintable() for name in manifest.features.names)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_whatever_bytes_are_signed_nothing_but_a_bundle_error_comes_out(body: bytes) -> None:
    with pytest.raises(BundleError):
        opened(body)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_manifest_that_was_cut_mixed_or_doubled_somewhere_is_a_bundle_error_or_reads_as_one(
    data: st.DataObject,
) -> None:
    first, second = sorted((data.draw(st.integers(0, len(SOUND))), data.draw(st.integers(0, len(SOUND)))))
    piece = data.draw(
        st.binary(max_size=8)
        | st.sampled_from([b"[" * 2000, b'{"a":' * 2000, b"1e999", b"NaN", b"\xed\xa0\x80"])
    )
    try:
        opened(SOUND[:first] + piece + SOUND[second:])
    except BundleError:
        return


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("threshold", "score"), 1e308),
        (("threshold", "score"), 1e-300),
        (("threshold", "score"), 0),
        (("threshold", "quantile"), 1.0),
        (("threshold", "margin"), 1e6),
        (("threshold", "fitted_on"), 2**64),
        (("threshold", "personal_minimum"), 1e-300),
        (("threshold", "personal_maximum"), 1e308),
        (("family",), "../../etc"),
        (("family",), "pump\n"),
        (("family",), "x" * 65),
        (("version",), 0),
        (("version",), 10**9),
        (("version",), 2.5),
        (("created_at",), -1.0),
        (("created_at",), 1e300),
        (("features", "names"), ["a"] * 5000),
        (("features", "names"), ["a", "b\x1b[31m"]),
        (("features", "names"), ["a", "b\u202e"]),
        (("features", "window_samples"), 2**53),
        (("features", "channels"), 10**9),
        (("model", "layers"), [10**9, 1]),
        (("model", "layers"), [1] * 100),
        (("model", "parameter_count"), 10**12),
        (("model", "layout_sha256"), "ab" * 32 + "\n"),
        (("training", "learning_rate"), 1e308),
        (("training", "batch_size"), 10**15),
        (("training", "maximum_examples"), 2**63),
        (("training", "trust_radius"), 1e300),
        (("provenance",), {"evaluation": {f"k{n}": 1.0 for n in range(300)}}),
        (("provenance",), {"evaluation": {"a": 1e305}}),
        (("provenance",), {"warnings": ["w"] * 101}),
        (("provenance",), {"git_revision": "g" * 2000}),
        (("provenance",), {"trigger": "two\nlines"}),
        (("provenance",), {"x-unknown": "\x07"}),
        (("files",), [{"name": "a\n", "size": 0, "sha256": "0" * 64}]),
        (("files",), [{"name": "../a", "size": 0, "sha256": "0" * 64}]),
        (("files",), [{"name": "a", "size": 2**40, "sha256": "0" * 64}]),
    ],
)  # fmt: skip - one table
def test_each_of_these_is_refused(path: tuple[Any, ...], value: Any) -> None:
    assert opened(SOUND) == MANIFEST
    with pytest.raises(BundleError):
        opened(changed(path, value))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (SOUND.replace(b'"version":2', b'"version":1,"version":2'), "a key twice"),
        (SOUND.replace(b'"score":1.5', b'"score":1e999'), "no manifest of format 1 may"),
        (SOUND.replace(b'"score":1.5', b'"score":NaN'), "no manifest of format 1 may"),
        (SOUND[:-1] + b',"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}", "no sound JSON"),
        (SOUND[:-1] + b',"x":' + b"[" * 20 + b"]" * 20 + b"}", "nests deeper"),
        (SOUND[:-1] + b',"x":"\\ud800"}', "not seen"),
        (SOUND + b"\x00", "no sound JSON"),
        (b"\xef\xbb\xbf" + SOUND, "no manifest of format 1 may"),
    ],
    ids=["key twice", "infinite", "NaN", "very deep", "deep", "half a character", "more", "byte order mark"],
)
def test_json_that_means_two_things_or_none_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        opened(body)


DEEP = b'{"x":' + b"[" * 2500


def test_no_parser_of_a_strangers_words_is_overrun_by_nests() -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"JWT"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(DEEP).rstrip(b"=").decode()
    with pytest.raises(TokenError):
        token_subject(f"{header}.{body}.{base64.urlsafe_b64encode(bytes(64)).rstrip(b'=').decode()}")
    with pytest.raises(IdentityError):
        read_request(f"Fedge {body}.{body}", "POST", "/")
    assert decode_step(DEEP) is None
    with pytest.raises(QuestionError):
        decode_question(DEEP.decode())
    with pytest.raises(QuestionError):
        decode_terms(DEEP.decode())

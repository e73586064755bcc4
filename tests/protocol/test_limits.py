"""The limits on what another machine may send, as numbers, and what happens on either side of each.

They are literals on purpose: a limit that moves must move here too, where its reason stands.
"""

from __future__ import annotations

import json
import math
import struct

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.bundle import TrustedKeys, entries_for, key_id, open_bundle, pack_bundle, peek_manifest
from protocol.errors import (
    BundleFormatError,
    BundleIntegrityError,
    MalformedMessageError,
    MessageTooLargeError,
    QuestionError,
    TopicError,
    UntrustedBundleError,
)
from protocol.flat_vectors import decode_vector
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID, Grid
from protocol.manifest import FeatureSpec, Manifest, ModelSpec, ThresholdSpec
from protocol.messages.envelope import Event, decode, encode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, AnomalyEvent, Birth, BootAck
from protocol.names import check_name, release_id, split_release_id
from protocol.secure_sum.device_rules import DevicePolicy
from protocol.secure_sum.messages import MAX_BYTES
from protocol.topics import device_topic, parse_device_topic, training_topic

pytestmark = pytest.mark.edge
MEBIBYTE = 1_048_576


# --- messages: AWS IoT Core refuses payloads over 128 KB and topics over 7 levels -------------------------------------------


def anomaly(window: str) -> Event:
    found = AnomalyEvent(
        release="pump/2",
        score=4.5,
        threshold=1.25,
        window_index=77,
        observed_at_s=770.0,
        windows_over=2,
        window=window,
    )
    return Event(source="d01", boot_id="b1", sequence=7, time=1_800_000_000.25, data=found)


def test_a_message_may_have_131072_bytes_and_not_one_more() -> None:
    room = 131_072 - len(encode(anomaly("")))
    full = encode(anomaly("A" * room))
    assert len(full) == 131_072
    assert decode(full) == anomaly("A" * room)
    with pytest.raises(MessageTooLargeError, match="anomaly message of 131073 bytes exceeds 131072"):
        encode(anomaly("A" * (room + 1)))
    with pytest.raises(MessageTooLargeError, match="payload of 131073 bytes exceeds 131072"):
        decode(full + b" ")


def test_a_message_may_nest_twelve_levels_and_not_one_more() -> None:
    wire = json.loads(encode(Event(source="d", boot_id="b", sequence=1, time=0.0, data=Ack(boots=()))))
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deep = opening * 11 + "0" + closing * 11
        # Twice side by side: what has been closed does not count any more.
        text = json.dumps(wire)[:-1] + f', "x": {deep}, "y": {deep}}}'
        assert decode(text.encode()).data == Ack(boots=())
        with pytest.raises(MessageTooLargeError, match="deeper than 12 levels"):
            decode((json.dumps(wire)[:-1] + f', "x": {opening}{deep}{closing}}}').encode())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_number_that_json_cannot_say_leaves_in_any_depth(bad: float) -> None:
    birth = Birth(agent_version="1", hardware="x", family="pump", release="pump/1", labels={"a": "b"})
    for data in (
        msgspec.structs.replace(birth, labels={"a": bad}),  # type: ignore[arg-type] # on purpose
        msgspec.structs.replace(birth, labels=("a", [bad])),  # type: ignore[arg-type] # on purpose
    ):
        with pytest.raises(MalformedMessageError, match="birth message holds NaN or infinity"):
            encode(Event(source="d", boot_id="b", sequence=1, time=0.0, data=data))


@pytest.mark.parametrize("too_large", [1 << 53, 1 << 62, 1 << 63, 1 << 64, 10**300])
def test_no_integer_of_a_message_is_larger_than_json_readers_keep(too_large: int) -> None:
    event = Event(source="d", boot_id="b", boot_number=33, sequence=77, time=0.0, data=_ranges(11, 12))
    text = encode(event).decode()
    assert decode(text.encode()) == event
    for fine in ("11", "12", "33", "77"):
        with pytest.raises(MalformedMessageError):
            decode(text.replace(fine, str(too_large)).encode())


def _ranges(first: int, last: int) -> Ack:
    return Ack(boots=(BootAck(boot_id="b", ranges=((first, last),)),))


@pytest.mark.parametrize("clock_s", [-1e18, -1.0, 1e12, 1e300])
def test_a_clock_beyond_all_calendars_keeps_no_event_from_being_told(clock_s: float) -> None:
    event = Event(source="d", boot_id="b", sequence=1, time=clock_s, data=Ack(boots=()))
    assert decode(encode(event)).time == (0.0 if clock_s < 0 else 253_402_300_799.0)


def test_our_topics_have_five_levels_and_the_narrowest_broker_takes_seven() -> None:
    topics = [device_topic("t" * 64, "d" * 64, Kind.ANOMALY), training_topic("t" * 64, "f" * 64)]
    assert {topic.count("/") + 1 for topic in topics} == {5}
    for levels in ("fedge/v1/t/d", "fedge/v1/t/d/birth/x"):
        with pytest.raises(TopicError, match="is not fedge/v1/<tenant>/<device>/<kind>"):
            parse_device_topic(levels)


# --- names: safe in a topic, a path and a URL; nine digits fit a 32-bit column of any database ------------------------------


def test_a_name_has_one_to_sixty_four_characters() -> None:
    for name in ("x", "x" * 64, "0._-", "A"):
        assert check_name(name, "device") == name
    for name in ("", "x" * 65, ".x", "_x"):
        with pytest.raises(TopicError, match=r"device .* use 1-64 of"):
            check_name(name, "device")


def test_a_release_has_a_version_from_one_to_nine_nines() -> None:
    assert release_id("pump", 1) == "pump/1"
    assert split_release_id(release_id("pump", 999_999_999)) == ("pump", 999_999_999)
    for version in (0, -1, 1_000_000_000):
        with pytest.raises(
            TopicError, match=f"version {version} of family 'pump' must be between 1 and 999999999"
        ):
            release_id("pump", version)
        with pytest.raises(TopicError, match="not of the form family/version"):
            split_release_id(f"pump/{version}")


# --- bundles: 64 MiB for a Coral's 8 MB several times over; a manifest is text; format 1 has at most six files --------------


KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = TrustedKeys([KEY.public_key()])
MANIFEST = Manifest(
    family="pump",
    version=2,
    created_at=0.0,
    model=ModelSpec(kind="dense-autoencoder", layers=(2, 1, 2), parameter_count=7, layout_sha256="ab" * 32),
    features=FeatureSpec(kind="passthrough", names=("a", "b")),
    threshold=ThresholdSpec(score=1.5, quantile=0.999, margin=1.1, fitted_on=1000),
    files=(),
)


def packed(files: dict[str, bytes], **changes: object) -> bytes:
    return pack_bundle(msgspec.structs.replace(MANIFEST, files=entries_for(files), **changes), files, KEY)


def signed(body: bytes, rest: bytes = b"") -> bytes:
    """A bundle with this manifest, as a careless holder of the release key could have made it."""
    identifier = key_id(KEY.public_key())
    signature = KEY.sign(b"fedge/bundle/v1\x00" + identifier + body)
    return struct.pack("<8sI", b"FEDGEB01", len(body)) + body + identifier + signature + rest


def test_a_bundle_may_have_64_mib_and_not_one_byte_more() -> None:
    room = 64 * MEBIBYTE - len(packed({"a": b""})) - 7  # the size has eight digits instead of one
    full = packed({"a": bytes(room)})
    assert len(full) == 64 * MEBIBYTE
    assert len(open_bundle(full, TRUSTED).files["a"]) == room
    with pytest.raises(BundleFormatError, match="67108865 bytes exceeds 67108864"):
        packed({"a": bytes(room + 1)})
    with pytest.raises(BundleFormatError, match="67108865 bytes exceeds 67108864"):
        open_bundle(full + b"x", TRUSTED)


def test_a_manifest_may_have_256_kib_and_not_one_byte_more() -> None:
    body = msgspec.json.encode(MANIFEST)
    body = body[:-1] + b" " * (256 * 1024 - len(body)) + b"}"
    assert len(body) == 262_144
    assert open_bundle(signed(body), TRUSTED).manifest.version == 2
    longer = body[:-1] + b" }"
    with pytest.raises(BundleFormatError, match="manifest of 262145 bytes"):
        open_bundle(signed(longer), TRUSTED)
    provenance = msgspec.structs.replace(MANIFEST.provenance, warnings=("x" * 1000,) * 262)
    with pytest.raises(BundleFormatError, match="/ 0 files exceeds 262144 bytes / 16 files"):
        packed({}, provenance=provenance)


def test_a_bundle_may_have_sixteen_files_and_not_one_more() -> None:
    files = {f"f{n:02}": bytes([n]) for n in range(16)}
    assert open_bundle(packed(files), TRUSTED).files == files
    files["f16"] = b""
    with pytest.raises(BundleFormatError, match="/ 17 files exceeds"):
        packed(files)
    body = msgspec.json.encode(msgspec.structs.replace(MANIFEST, files=entries_for(files)))
    with pytest.raises(BundleFormatError, match=r"of length <= 16 - at `\$\.files`"):
        open_bundle(signed(body, b"".join(files.values())), TRUSTED)


def test_a_file_that_is_named_twice_is_refused() -> None:
    (entry,) = entries_for({"a": b"x"})
    body = msgspec.json.encode(msgspec.structs.replace(MANIFEST, files=(entry, entry)))
    with pytest.raises(BundleFormatError, match="names 'a' twice"):
        open_bundle(signed(body, b"xx"), TRUSTED)


def test_a_signed_manifest_over_other_bytes_is_refused_by_the_file_that_differs() -> None:
    body = msgspec.json.encode(msgspec.structs.replace(MANIFEST, files=entries_for({"a": b"xy"})))
    with pytest.raises(BundleFormatError, match="ends inside 'a': 1 of 2 bytes"):
        open_bundle(signed(body, b"x"), TRUSTED)
    with pytest.raises(BundleIntegrityError, match="'a' of pump/2"):
        open_bundle(signed(body, b"xz"), TRUSTED)
    with pytest.raises(BundleFormatError, match="1 bytes follow the last file"):
        open_bundle(signed(body, b"xyz"), TRUSTED)


def test_a_head_without_its_manifest_key_and_signature_is_refused() -> None:
    whole = packed({})
    assert peek_manifest(whole).release == "pump/2"
    for cut in (len(whole) - 1, 12):
        with pytest.raises(BundleFormatError, match="too short for its manifest"):
            peek_manifest(whole[:cut])
    for cut in (11, 8, 0):
        with pytest.raises(BundleFormatError, match="not a Fedge model bundle"):
            peek_manifest(whole[:cut])


def test_every_trusted_key_opens_its_own_bundles_only() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    both = TrustedKeys([other.public_key(), KEY.public_key()])
    assert len(both) == 2
    assert open_bundle(packed({}), both).signed_by == key_id(KEY.public_key())
    with pytest.raises(UntrustedBundleError, match=key_id(KEY.public_key()).hex()[:12]):
        open_bundle(packed({}), TrustedKeys([other.public_key()]))


# --- grids: the edges are the same on every machine, or counts do not add up ------------------------------------------------


def test_scores_are_counted_from_1e_minus_5_to_1e5_with_32_bins_a_decade() -> None:
    assert (SCORE_GRID.bins, len(SCORE_GRID.edges)) == (322, 321)
    assert SCORE_GRID.edges[[0, 160, 192, 320]] == pytest.approx([1e-5, 1.0, 10.0, 1e5])
    assert np.diff(np.log10(SCORE_GRID.edges)) == pytest.approx(np.full(320, 1 / 32))


def test_ranges_are_counted_on_both_sides_of_zero_from_2_to_the_minus_6_to_2_to_the_12() -> None:
    assert RANGE_GRID.bins == 2 * 145 + 2
    assert RANGE_GRID.edges[145] == 0
    assert np.array_equal(RANGE_GRID.edges, -RANGE_GRID.edges[::-1])
    assert RANGE_GRID.edges[[146, 154, 290]] == pytest.approx([2**-6, 2**-5, 2**12])
    assert np.diff(np.log2(RANGE_GRID.edges[146:])) == pytest.approx(np.full(144, 1 / 8))


def test_features_are_counted_in_quarters_of_a_standard_deviation_from_minus_8_to_8() -> None:
    assert FEATURE_GRID.bins == 66
    assert FEATURE_GRID.edges[[0, 1, 32, 64]].tolist() == [-8.0, -7.75, 0.0, 8.0]


STEPS = Grid(edges=np.array([1.0, 2.0, 4.0]))


def test_a_value_on_an_edge_belongs_to_the_bin_below_it() -> None:
    assert STEPS.count(np.array([[0.5, 1.0], [1.5, 4.0], [4.5, 2.0]])).tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("q", "value"), [(0.05, 1.0), (0.1, 1.0), (0.3, 1.5), (0.5, 2.0), (0.7, 3.0), (0.9, 4.0), (0.95, 4.0)]
)
def test_a_quantile_is_interpolated_within_its_bin_and_stays_on_the_outer_edges(
    q: float, value: float
) -> None:
    assert STEPS.quantile(np.array([1.0, 4.0, 4.0, 1.0]), q) == pytest.approx(value)


@pytest.mark.parametrize("q", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_a_quantile_lies_strictly_between_0_and_1(q: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        STEPS.quantile(np.ones(4), q)


def bounds(low: list[float], high: list[float]) -> tuple[float, float]:
    return STEPS.outer_bounds(STEPS.count(np.array(low)), STEPS.count(np.array(high)))


def test_bounds_enclose_the_lowest_minimum_and_the_highest_maximum_of_all_devices() -> None:
    assert bounds([1.5, 3.0], [1.5, 3.0]) == (1.0, 4.0)
    assert bounds([3.0, 3.5], [1.5, 1.6]) == (2.0, 2.0)
    assert bounds([0.5, 3.0], [0.5, 9.0]) == (1.0, 4.0)
    for nothing in (([], [1.5]), ([1.5], [])):
        with pytest.raises(ValueError, match="no device reported a range"):
            bounds(*nothing)


# --- vectors: nothing is allocated that the bytes do not hold, and nothing is ever unpickled ---------------------------------


def npy(header: str, body: bytes, *, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def header(*, shape: str = "(2,)", kind: str = "<f4") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n"


def test_a_vector_reads_back_as_a_new_writable_one() -> None:
    vector = decode_vector(npy(header(), struct.pack("<2f", 1.5, -2.0)))
    assert (vector.tolist(), vector.dtype) == ([1.5, -2.0], np.float32)
    vector[0] = 0
    assert decode_vector(npy(header(shape="(0,)"), b"")).shape == (0,)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(header(), bytes(8), version=b"\x01\x01"), r"version 1\.0, got \(1, 1\)"),
        (npy(header(), bytes(8), version=b"\x02\x00"), r"version 1\.0, got \(2, 0\)"),
        (npy(header(), bytes(7)), "2 entries is 8 bytes, got 7"),
        (npy(header(), bytes(9)), "2 entries is 8 bytes, got 9"),
        (npy(header(shape="(2, 1)"), bytes(8)), "one dimension, got 2"),
        (npy(header(shape="()"), bytes(4)), "one dimension, got 0"),
        (npy(header(kind=">f4"), bytes(8)), "little-endian float32, got .*>f4"),
        (npy(header(kind="<f8"), bytes(16)), "little-endian float32, got .*float64"),
        (npy(header(kind="|O"), bytes(16)), "little-endian float32, got .*object"),
        (npy(header(shape="(99999999999,)"), bytes(8)), "399999999996 bytes, got 8"),
        (npy("{'descr': " + "[" * 900, b""), r"not a \.npy vector"),
        (npy(header() + " " * 1100, bytes(8)), r"not a \.npy vector"),
        (b"", r"not a \.npy vector"),
        (b"PK\x03\x04", r"not a \.npy vector"),
    ],
)
def test_a_vector_that_is_not_exactly_what_its_header_says_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(QuestionError, match=words):
        decode_vector(content)


def test_a_header_may_have_1024_bytes() -> None:
    padded = header()[:-1] + " " * (1024 - len(header())) + "\n"
    assert decode_vector(npy(padded, bytes(8))).shape == (2,)
    with pytest.raises(QuestionError, match=r"not a \.npy vector"):
        decode_vector(npy(" " + padded, bytes(8)))


# --- the secure sum: what a device or server reads of one message, checked before it is parsed --------------------------------


def test_messages_of_the_secure_sum_have_these_sizes_at_most() -> None:
    # 16,384 devices at 100 bytes, 2,048 neighbours at 340 bytes of sealed shares, 67 million words of 4 bytes.
    assert {kind.__name__: size for kind, size in MAX_BYTES.items()} == {
        "Announcement": 1_024,
        "Advertisement": 1_024,
        "CohortBook": 3_736_576,
        "SealedShares": 697_344,
        "ShareDelivery": 699_392,
        "MaskedInput": 268_436_480,
        "SurvivorList": 3_072,
        "SurvivorConfirmation": 1_024,
        "UnmaskRequest": 701_440,
        "RevealedShares": 574_464,
    }


@pytest.mark.parametrize(
    "floors",
    [{"corrupt_fraction": 0.0}, {"corrupt_fraction": 0.999}, {"secrecy_bits": 1}, {"secrecy_bits": 128}],
)
def test_a_device_takes_every_floor_that_means_something(floors: dict[str, float]) -> None:
    DevicePolicy(**floors)  # type: ignore[arg-type] # by name


@pytest.mark.parametrize(
    "floors",
    [
        {"corrupt_fraction": -0.001},
        {"corrupt_fraction": 1.0},
        {"corrupt_fraction": 1.5},
        {"secrecy_bits": 0},
        {"secrecy_bits": 129},
    ],
)
def test_a_device_refuses_a_floor_that_is_no_share_or_no_number_of_bits(floors: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"corrupt_fraction must be in \[0, 1\) and secrecy_bits 1 to 128"):
        DevicePolicy(**floors)  # type: ignore[arg-type] # by name

"""Topics: what is published where, and what is refused."""

from __future__ import annotations

import pytest

from protocol.errors import TopicError
from protocol.messages.kinds import Kind
from protocol.names import check_name, release_id, split_release_id
from protocol.topics import (
    DOWNLINK_KINDS,
    UPLINK_KINDS,
    device_topic,
    parse_device_topic,
    training_topic,
    uplink_filter,
)

pytestmark = pytest.mark.edge


@pytest.mark.parametrize("kind", sorted(UPLINK_KINDS | DOWNLINK_KINDS))
def test_a_device_topic_reads_back_as_its_parts(kind: Kind) -> None:
    assert parse_device_topic(device_topic("demo", "d01", kind)) == ("demo", "d01", kind)


def test_topics_are_the_documented_ones() -> None:
    assert device_topic("demo", "d01", Kind.ANOMALY) == "fedge/v1/demo/d01/anomaly"
    assert training_topic("demo", "pump") == "fedge/v1/demo/training/pump"
    assert uplink_filter("demo", Kind.HEALTH) == "fedge/v1/demo/+/health"


@pytest.mark.parametrize(
    "topic",
    [
        "fedge/v2/demo/d01/anomaly",
        "fedge/v1/demo/d01/gossip",
        "fedge/v1/demo/d01",
        "fedge/v1/demo/d01/anomaly/more",
        "fedge/v1/demo/+/anomaly",
        "fedge/v1/demo/training/birth",
        "fedge/v1/demo/d01/training",
        "",
    ],
)
def test_a_topic_outside_the_scheme_is_refused(topic: str) -> None:
    with pytest.raises(TopicError):
        parse_device_topic(topic)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "ä", "-x", "x" * 65, "a b", "a\n"])
def test_a_name_that_is_not_safe_everywhere_is_refused(name: str) -> None:
    with pytest.raises(TopicError, match="not a valid name"):
        check_name(name, "device")


def test_the_word_training_is_not_a_device() -> None:
    with pytest.raises(TopicError, match="reserved"):
        device_topic("demo", "training", Kind.BIRTH)


def test_a_release_id_reads_back() -> None:
    assert split_release_id(release_id("pump", 12)) == ("pump", 12)


@pytest.mark.parametrize(
    "release", ["pump", "pump/", "pump/0", "pump/01", "pump/x", "/1", "pump/1/2", "pump/²"]
)
def test_a_malformed_release_id_is_refused(release: str) -> None:
    with pytest.raises(TopicError):
        split_release_id(release)


def test_version_zero_is_refused() -> None:
    with pytest.raises(TopicError, match="between 1 and 999999999"):
        release_id("pump", 0)

"""The topic scheme: who publishes what where.

::

    fedge/v1/{tenant}/{device}/birth|death|anomaly|closed|drift|health|report|result   device → cloud
    fedge/v1/{tenant}/{device}/desired|commands   (retained)                    fleet → device
    fedge/v1/{tenant}/{device}/ack                                              fleet → device
    fedge/v1/{tenant}/training/{family}  (retained, with expiry)                aggregator → devices

``training`` is therefore not available as a device name.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from protocol.errors import TopicError
from protocol.messages.kinds import Kind
from protocol.names import DeviceId, Tenant, check_name

__all__ = [
    "DOWNLINK_KINDS",
    "UPLINK_KINDS",
    "DeviceTopic",
    "device_topic",
    "parse_device_topic",
    "training_topic",
    "uplink_filter",
]

PREFIX: Final = "fedge/v1"
TRAINING: Final = "training"
UPLINK_KINDS: Final = frozenset(
    {Kind.BIRTH, Kind.DEATH, Kind.ANOMALY, Kind.CLOSED, Kind.DRIFT, Kind.HEALTH, Kind.REPORT, Kind.RESULT}
)
DOWNLINK_KINDS: Final = frozenset({Kind.DESIRED, Kind.ACK, Kind.COMMANDS})


class DeviceTopic(NamedTuple):
    """The parts of a device topic."""

    tenant: Tenant
    device: DeviceId
    kind: Kind


def device_topic(tenant: str, device: str, kind: Kind) -> str:
    """The topic on which messages of `kind` from or to `device` travel."""
    check_name(tenant, "tenant")
    check_name(device, "device")
    if device == TRAINING:
        raise TopicError(f"device name {device!r} is reserved for training invitations: choose another")
    if kind not in UPLINK_KINDS | DOWNLINK_KINDS:
        raise TopicError(f"{kind.value!r} does not travel on a device topic; use training_topic")
    return f"{PREFIX}/{tenant}/{device}/{kind.value}"


def training_topic(tenant: str, family: str) -> str:
    """The topic of the retained training invitation of a model family."""
    return f"{PREFIX}/{check_name(tenant, 'tenant')}/{TRAINING}/{check_name(family, 'family')}"


def uplink_filter(tenant: str, kind: Kind) -> str:
    """The MQTT subscription filter that matches `kind` from every device of a tenant."""
    if kind not in UPLINK_KINDS:
        raise TopicError(f"{kind.value!r} is not sent by devices")
    return f"{PREFIX}/{check_name(tenant, 'tenant')}/+/{kind.value}"


def parse_device_topic(topic: str) -> DeviceTopic:
    """Read a device topic back.

    Raises:
        TopicError: the topic is outside the scheme; the message names what was expected.
    """
    levels = topic.split("/")
    if len(levels) != 5 or "/".join(levels[:2]) != PREFIX:
        raise TopicError(f"topic {topic[:120]!r} is not {PREFIX}/<tenant>/<device>/<kind>")
    _, _, tenant, device, kind = levels
    try:
        parsed = Kind(kind)
    except ValueError:
        raise TopicError(
            f"topic {topic[:120]!r} ends in {kind!r}; valid are {sorted(k.value for k in UPLINK_KINDS | DOWNLINK_KINDS)}"
        ) from None
    if parsed not in UPLINK_KINDS | DOWNLINK_KINDS or device == TRAINING:
        raise TopicError(f"topic {topic[:120]!r} is not a device topic")
    return DeviceTopic(Tenant(check_name(tenant, "tenant")), DeviceId(check_name(device, "device")), parsed)

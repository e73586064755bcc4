"""What became of a batch of messages, and what each device is told of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fleet.ingest.boots import BootKey
from fleet.ingest.judging import Refusal
from fleet.ingest.sequences import Range, merge
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, BootAck, RefusedEvent

__all__ = ["BatchResult", "acks_of", "join_results"]


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What became of a batch.

    acks: per device what it may forget, because it is on disk: stored, now or before, or kept as a dead letter.
    stored: new events by kind.
    duplicates: events that had been stored before.
    refusals: messages that were not taken for what they are.
    postponed: messages, by device, of boots that began too fast one after the other; not acknowledged, so they come again.
    commanded: devices whose commands or their counter changed by what they said: their word is to be published again.
    desiring: devices whose desired state has another counter now, likewise.
    """

    acks: Mapping[str, Ack]
    stored: Mapping[Kind, int]
    duplicates: int
    refusals: Sequence[Refusal]
    postponed: Mapping[str, int] = field(default_factory=dict)
    commanded: frozenset[str] = frozenset()
    desiring: frozenset[str] = frozenset()


def acks_of(
    acked: Mapping[BootKey, Sequence[Range]], told: Mapping[str, Sequence[RefusedEvent]]
) -> dict[str, Ack]:
    """What each device is told: the ranges that are on disk, and the events that will never be stored as what they claim."""
    boots: dict[str, list[BootAck]] = defaultdict(list)
    for (device, boot_id), ranges in acked.items():
        if ranges:
            boots[device].append(BootAck(boot_id=boot_id, ranges=tuple(ranges)))
    return {
        device: Ack(boots=tuple(boots.get(device, ())), refused=tuple(told.get(device, ())))
        for device in boots.keys() | told.keys()
    }


def join_results(one: BatchResult, other: BatchResult) -> BatchResult:
    """The result of a batch that was stored in two parts."""
    acks = dict(one.acks)
    for device, ack in other.acks.items():
        before = acks.get(device, Ack(boots=()))
        ranges: dict[str, tuple[Range, ...]] = {}
        for boot in before.boots + ack.boots:
            ranges[boot.boot_id] = merge((*ranges.get(boot.boot_id, ()), *boot.ranges), ())
        boots = tuple(BootAck(boot_id=boot_id, ranges=found) for boot_id, found in ranges.items())
        acks[device] = Ack(boots=boots, refused=before.refused + ack.refused)
    return BatchResult(
        acks=acks,
        stored=Counter(one.stored) + Counter(other.stored),
        duplicates=one.duplicates + other.duplicates,
        refusals=[*one.refusals, *other.refusals],
        postponed=Counter(one.postponed) + Counter(other.postponed),
        commanded=one.commanded | other.commanded,
        desiring=one.desiring | other.desiring,
    )

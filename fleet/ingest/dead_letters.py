"""Messages that could not be taken are kept, so that nothing a device said is lost for a fault of either side.

::

    refused ─► kept as it came, once ─► the device is told (Ack.refused) and forgets it
                  │
                  └─► listed, looked at ─► replayed through the same judging, after an upgrade or a mend ─► stored
                                       └─► dropped

Bounded per device and in all: health makes room first, then what else is no anomaly, of each the oldest, and they are
counted. An anomaly or its end never makes room for another one: where there is none, the device is not told and keeps it
until a person has looked. Only devices that are enrolled have letters; what strangers send is counted and forgotten.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import case, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from fleet.ingest.judging import Arrival, Refusal
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.kinds import Kind

__all__ = ["Kept", "arrival_of", "keep"]

MOST_OF_A_DEVICE: Final = 200
MOST_BYTES_OF_A_DEVICE: Final = 2 * 1024 * 1024
"""Of one device: 200 letters, or 16 of the largest."""

MOST: Final = 20_000
MOST_BYTES: Final = 256 * 1024 * 1024
"""Of all devices."""

BEGINNING_BYTES: Final = 4096
"""What is kept of a payload that is larger than a message may be."""

_PRECIOUS: Final = tuple(f"/{kind.value}" for kind in (Kind.ANOMALY, Kind.CLOSED))
_IS_PRECIOUS: Final = or_(*(DeadLetter.topic.endswith(ending) for ending in _PRECIOUS))
_ORDER: Final = (
    case((DeadLetter.topic.endswith(f"/{Kind.HEALTH.value}"), 0), (_IS_PRECIOUS, 2), else_=1),
    case((_IS_PRECIOUS, -DeadLetter.id), else_=DeadLetter.id),
)
"""Who makes room first. A device that is told that a letter is kept has forgotten it: what it says every minute must push no
anomaly out, and no later anomaly an earlier one."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What became of refused messages: `fresh` by reason were not known before; `dropped` ones made room.

    `settled` are those that their devices may forget: all but the anomalies for which there was no room.
    """

    fresh: Mapping[str, int]
    dropped: int
    settled: Sequence[Refusal]


def keep(session: Session, refusals: Sequence[Refusal]) -> Kept:
    """Keep refused messages of enrolled devices, each once however often it comes.

    Args:
        session: the transaction after which the devices are told.
        refusals: what was refused and why.
    """
    if not refusals:
        return Kept(fresh={}, dropped=0, settled=())
    digested = [(_digest(refusal.arrival), refusal) for refusal in refusals]
    digests = dict(digested)
    identity = tuple_(DeadLetter.device, DeadLetter.sha256)
    keys = [(refusal.device, digest) for digest, refusal in digests.items()]
    known = {
        letter.sha256: letter for letter in session.scalars(select(DeadLetter).where(identity.in_(keys)))
    }
    times = Counter(digest for digest, refusal in digested if not refusal.arrival.retained)
    for digest, refusal in digests.items():
        letter = known.get(digest)
        if letter is None:
            session.add(_letter(refusal, digest, times[digest]))
        else:
            letter.times += times[digest]
            letter.last_received = max(letter.last_received, refusal.arrival.received_at)
            letter.reason, letter.message = refusal.reason.value, _text(refusal.message, 500)
    gone: list[tuple[str, str]] = []
    if len(known) < len(digests):
        session.flush()
        for name in sorted({refusal.device for refusal in refusals}):
            gone += _make_room(session, name, MOST_OF_A_DEVICE, MOST_BYTES_OF_A_DEVICE)
        gone += _make_room(session, None, MOST, MOST_BYTES)
    homeless = {digest for _, digest in gone if _is_precious(digests.get(digest))}
    dropped = Counter(owner for owner, digest in gone if digest not in homeless)
    for owner, count in dropped.items():
        session.execute(
            update(Device)
            .where(Device.id == owner)
            .values(dead_letters_dropped=Device.dead_letters_dropped + count)
        )
    return Kept(
        fresh=Counter(digests[digest].reason.value for digest in digests.keys() - known.keys() - homeless),
        dropped=dropped.total(),
        settled=[refusal for digest, refusal in digested if digest not in homeless],
    )


def arrival_of(letter: DeadLetter) -> Arrival | None:
    """A letter as a message again, received when it was; None where only its beginning was kept."""
    if letter.size_bytes > len(letter.payload):
        return None
    return Arrival(
        topic=letter.topic, payload=letter.payload, retained=True, received_at=letter.first_received
    )


def _letter(refusal: Refusal, digest: str, times: int) -> DeadLetter:
    arrival = refusal.arrival
    boot_id, sequence = refusal.identity or (None, None)
    is_whole = len(arrival.payload) <= MAX_PAYLOAD_BYTES
    return DeadLetter(
        device=refusal.device,
        topic=_text(arrival.topic, 300),
        boot_id=boot_id and _text(boot_id, 64),
        sequence=sequence,
        reason=refusal.reason.value,
        message=_text(refusal.message, 500),
        sha256=digest,
        size_bytes=len(arrival.payload),
        times=max(times, 1),
        first_received=arrival.received_at,
        last_received=arrival.received_at,
        payload=arrival.payload if is_whole else arrival.payload[:BEGINNING_BYTES],
    )


def _make_room(session: Session, device: str | None, most: int, most_bytes: int) -> list[tuple[str, str]]:
    """Drop letters of one device or of all until they are within the bounds; gives whose they were and their digests."""
    mine = DeadLetter.device == device if device is not None else DeadLetter.id.is_not(None)
    kept_bytes = case(
        (DeadLetter.size_bytes > MAX_PAYLOAD_BYTES, BEGINNING_BYTES), else_=DeadLetter.size_bytes
    )
    held = select(func.count(), func.coalesce(func.sum(kept_bytes), 0)).where(mine)
    letters, size = session.execute(held).one()
    if letters <= most and size <= most_bytes:
        return []
    gone: list[int] = []
    lost: list[tuple[str, str]] = []
    least = select(DeadLetter.id, DeadLetter.device, DeadLetter.sha256, kept_bytes).where(mine)
    for number, owner, digest, own in session.execute(least.order_by(*_ORDER)):
        if letters <= most and size <= most_bytes:
            break
        letters, size = letters - 1, size - own
        gone.append(number)
        lost.append((owner, digest))
    session.execute(delete(DeadLetter).where(DeadLetter.id.in_(gone)))
    return lost


def _is_precious(refusal: Refusal | None) -> bool:
    return refusal is not None and refusal.arrival.topic.endswith(_PRECIOUS)


def _digest(arrival: Arrival) -> str:
    return hashlib.sha256(arrival.topic.encode("utf-8", "replace") + b"\0" + arrival.payload).hexdigest()


def _text(text: str, most: int) -> str:
    """A text that any database keeps."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")[:most]

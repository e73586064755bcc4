"""Events for an outbox, and a caller that sends what is due and says what became of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from edge_agent.link import Fate, Outcome
from edge_agent.outbox import Outbox
from edge_agent.outbox_entry import Moment, OutboxEntry
from edge_agent.settings import OutboxSettings
from protocol.messages.envelope import Event, encode, kind_of
from protocol.messages.kinds import AgentState
from protocol.messages.payloads import Ack, AnomalyEvent, BootAck, Health, Payload, RefusedEvent

NOW = 1_800_000_000.0
WINDOW = "A" * 30_000
FILE = "outbox.sqlite"


def moment(
    boot_s: float = 0.0, *, wall_s: float | None = None, boot: str = "k1", is_set: bool = True
) -> Moment:
    return Moment(
        wall_s=NOW + boot_s if wall_s is None else wall_s, boot_s=boot_s, kernel_boot=boot, is_set=is_set
    )


def anomaly(window: str = "", episode: str = "") -> AnomalyEvent:
    return AnomalyEvent(
        release="f/1",
        score=2.0,
        threshold=1.0,
        window_index=3,
        observed_at_s=1.0,
        window=window,
        window_shape=(1, 1) if window else (),
        episode=episode,
    )


def health() -> Health:
    return Health(state=AgentState.WATCHING, release="f/1", uptime_s=1.0)


def event(
    sequence: int, data: Payload, boot: str = "b1", made: Moment | None = None, source: str = "d"
) -> OutboxEntry:
    made = made or moment()
    payload = encode(Event(source=source, boot_id=boot, sequence=sequence, time=made.wall_s, data=data))
    return OutboxEntry(boot_id=boot, sequence=sequence, kind=kind_of(data), made=made, payload=payload)


def ack(*ranges: tuple[int, int], boot: str = "b1") -> Ack:
    return Ack(boots=(BootAck(boot_id=boot, ranges=ranges),))


def refusal(sequence: int, reason: str, boot: str = "b1") -> Ack:
    return Ack(boots=(), refused=(RefusedEvent(boot_id=boot, sequence=sequence, reason=reason),))


def open_outbox(folder: Path, **limits: object) -> Outbox:
    settings = OutboxSettings(**limits)  # type: ignore[arg-type] # keywords of the test
    return Outbox.open(folder / "outbox.sqlite", settings, now=moment(), draw=lambda: 0.0)


def send(
    outbox: Outbox, clock_s: float = 0.0, fates: tuple[Fate, ...] = (Fate.LEFT, Fate.TAKEN)
) -> list[OutboxEntry]:
    """Hand over what is due; a broker takes it at once, unless `fates` say otherwise."""
    entries = outbox.due(clock_s)
    for entry in entries:
        outbox.handed_over(entry, clock_s)
        for fate in fates:
            outbox.hear(Outcome(fate=fate, keys=(entry.key,)), clock_s)
    return entries


def sequences(outbox: Outbox, clock_s: float = 0.0) -> list[int]:
    """What `send` sent."""
    return [entry.sequence for entry in send(outbox, clock_s)]


def on_disk(folder: Path) -> list[int]:
    """Sequences of what the file itself holds."""
    db = sqlite3.connect(folder / FILE)
    try:
        return [n for (n,) in db.execute("SELECT sequence FROM events ORDER BY sequence")]
    finally:
        db.close()

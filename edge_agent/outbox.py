"""What the fleet must hear, on disk until the fleet has said that it stored it.

An event leaves the outbox only when an `Ack` names it that was really sent (a broker's PUBACK is not enough: brokers
acknowledge from memory), when the fleet refuses it for good, or when a bound evicts it: health first, anomalies last. It
knows no network: `due` says what to send now, the caller sends it and tells what became of it. No event blocks another.

::

    put ─► KeptEvents (disk) ─► due ─► link ─► broker ─► fleet stores ─► Ack ─► acknowledge
                                │       └─ hear(outcome): taken │ lost ─► Suspects ─► without its window, then parked
                                └─ Pace: window │ silence

What was never sent goes first, anomalies before the rest; what was sent and not confirmed follows after pauses that double per
event. Nothing is sent again over a connection that still has it. One thread only.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from edge_agent.event_store import Parked
from edge_agent.kept_events import KeptEvents
from edge_agent.link import EventKey, Fate, Outcome
from edge_agent.outbox_entry import Moment, OutboxEntry
from edge_agent.outbox_owner import Owner
from edge_agent.pace import KNOCK_BYTES, Pace
from edge_agent.sending_notes import merged_ranges
from edge_agent.settings import OutboxSettings
from edge_agent.size_limit import SizeLimit
from edge_agent.suspects import STRIKES, Suspects
from edge_agent.version import AGENT_VERSION
from protocol.errors import MessageError
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack

__all__ = ["Outbox"]

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S: Final = 3600.0
_WITHOUT_WINDOW: Final = 3
"""Sent so often with its raw window, while the fleet confirmed others: some brokers acknowledge what is too large and drop it."""
_SIZES: Final = 512
"""Events whose size is remembered until the fleet has confirmed them; of older ones it tells nothing."""
_OFTEN: Final = 5
"""Sent so often without a word of the fleet, while it confirmed others: a person should know."""
_OLD_NEWS_S: Final = 60.0
"""A year's backlog takes minutes on a slow road: what happens now does not wait behind it."""


class Outbox:
    """The queue. Create with `Outbox.open`; `clock_s` arguments are monotonic seconds."""

    def __init__(
        self,
        kept: KeptEvents,
        settings: OutboxSettings,
        draw: Callable[[], float],
        *,
        withholds_windows: bool = False,
    ) -> None:
        self._kept = kept
        self._withholds_windows = withholds_windows
        self._settings = settings
        self._draw = draw
        self._pace = Pace(settings)
        self._suspects = Suspects()
        self._held: set[EventKey] = set()
        self._card: OutboxEntry | None = None
        self._is_card_known = False
        self._lightened: dict[EventKey, tuple[int, bool]] = {}
        self._limit = SizeLimit()
        self._sent_bytes: dict[EventKey, int] = {}
        self._clock_s = float("-inf")
        self._last_refusal = ""
        self.refused = 0

    @classmethod
    def open(
        cls,
        path: Path,
        settings: OutboxSettings,
        *,
        now: Moment,
        owner: Owner | None = None,
        version: str = AGENT_VERSION,
        draw: Callable[[], float] = random.random,
        withholds_windows: bool = False,
    ) -> Outbox:
        """Open or create the outbox; never fails, because watching must not depend on it.

        Args:
            path: the file.
            settings: bounds and times.
            now: by both clocks.
            owner: whose events these are; those of another identity are set aside.
            version: of this agent; what another one parked is offered again.
            draw: uniform in [0, 1), for the jitter.
            withholds_windows: the owner lets no raw window leave, also none that waits here since before.
        """
        kept = KeptEvents.open(path, settings, now=now, owner=owner, version=version)
        return cls(kept, settings, draw, withholds_windows=withholds_windows)

    @property
    def is_volatile(self) -> bool:
        """Do events live in memory only, because the disk takes no file?"""
        return self._kept.is_volatile

    @property
    def is_failing(self) -> bool:
        """Does the disk refuse at present?"""
        return self._kept.is_failing

    @property
    def evicted(self) -> int:
        """Events that a bound took."""
        return self._kept.evicted

    @property
    def parked(self) -> list[Parked]:
        """What was set apart because it ended connections, newest first."""
        return self._kept.parked

    def __len__(self) -> int:
        """Events that wait, on disk or in memory."""
        return len(self._kept)

    def silence_s(self, clock_s: float) -> float:
        """For how long the fleet has confirmed nothing though something was sent."""
        return self._pace.silence_s(clock_s)

    def problems(self) -> tuple[str, ...]:
        """What a person should know of the events themselves."""
        limit = self._limit.present(self._clock_s)
        first = self.parked[0] if self.parked else None
        others, often = self._kept.of_others, self._kept.taken_often(_OFTEN)
        found = (
            (
                others,
                f"events of another identity of this device were set aside in {', '.join(p.name for p in others)}; `fedge-agent take-over-events --config agent.toml` has them delivered under this one, or delete them",
            ),
            (
                self.refused,
                f"the fleet refused {self.refused} events of this start for good, the last one: {self._last_refusal}",
            ),
            (
                first,
                f"{len(self.parked)} events are parked ({first.kind if first else ''}: {first.reason if first else ''}); `fedge-agent retry-parked --config agent.toml` offers them again",
            ),
            (
                limit,
                f"the broker takes no message of {limit} bytes: raw windows that make one so large are left out; raise its limit",
            ),
            (
                often and not self._pace.is_silent(self._clock_s),
                f"the fleet confirms others, but not {often} events that were sent {_OFTEN} times or more: may this device publish them, and does the fleet know it?",
            ),
            (
                self._kept.log_megabytes,
                f"another process keeps the outbox open, and its log has grown to {self._kept.log_megabytes} MB",
            ),
        )
        return tuple(text for is_so, text in found if is_so)

    def put(self, events: Iterable[OutboxEntry], *, now: Moment) -> None:
        """Keep events until they are acknowledged. On return all but health survive a power cut.

        Never raises for a failing disk: the events wait in memory (see `is_failing`).
        """
        fresh = self._withhold(events)
        if self._card is None:
            # What says nothing new if it is sent again: a knock for when nothing small waits.
            self._card = next((event for event in fresh if len(event.payload) <= KNOCK_BYTES), None)
        self._kept.put(fresh, now, self._clock_s)

    def holds(self, kind: Kind, text: str) -> bool:
        """Does an event of this kind wait whose message contains `text`?"""
        return self._kept.holds(kind, text)

    def due(self, clock_s: float) -> list[OutboxEntry]:
        """What to hand to the link now, in this order; what it takes is then told by `handed_over`."""
        self._clock_s = clock_s
        if self._suspects and self._held:
            return []
        if self._pace.is_silent(clock_s):
            chosen = self._into_silence(clock_s)
        elif self._suspects:
            chosen = self._one_alone(clock_s)
        else:
            chosen = self._next(clock_s, *self._pace.room(clock_s))
        return [self._light_enough(entry, clock_s) for entry in self._withhold(chosen)]

    def handed_over(self, entry: OutboxEntry, clock_s: float) -> None:
        """The link took `entry`: the connection has it, and it is not sent over it again."""
        self._pace.handed_over(entry.key, len(entry.payload), clock_s)
        self._held.add(entry.key)
        self._sent_bytes[entry.key] = len(entry.payload)
        if len(self._sent_bytes) > _SIZES:
            del self._sent_bytes[next(iter(self._sent_bytes))]
        if self._kept.entry(entry.key) is not None:
            self._kept.hand_over(entry.key)

    def hear(self, outcome: Outcome, clock_s: float) -> None:
        """What became of events that the link took."""
        if outcome.fate is Fate.LEFT:
            self._pace.left(clock_s)
            for key in outcome.keys:
                self._kept.note_left(key)
                self._is_card_known |= self._card is not None and key == self._card.key
            return
        self._held.difference_update(outcome.keys)
        for key in outcome.keys:
            if outcome.fate is Fate.TAKEN:
                self._suspects.taken(key)
                self._learn_limit(key, clock_s, of_fleet=False)
                self._kept.note_taken(key, clock_s + self._pause_s(self._kept.taken(key)))
            else:
                self._kept.note_due(key, clock_s)
            if outcome.fate is Fate.UNSENT:
                self._pace.unsent(key)
        if outcome.fate is Fate.LOST and (culprit := self._suspects.lost(outcome.keys)) is not None:
            self._lighten_or_park(culprit)

    def acknowledge(self, acks: Iterable[Ack], clock_s: float) -> int:
        """Forget what the fleet has stored, or will never take; only events that were sent are believed to be either.

        Returns:
            How many events left the outbox.
        """
        claimed: dict[str, list[tuple[int, int]]] = {}
        refusals: list[tuple[int, int]] = []
        confirmed: list[EventKey] = []
        for ack in acks:
            for boot in ack.boots:
                claimed.setdefault(boot.boot_id, []).extend(boot.ranges)
            for refused in ack.refused:
                if self._card is not None and refused.boot_id == self._card.boot_id:
                    refusals.append((refused.sequence, refused.sequence))
                if self._kept.sent_within(refused.boot_id, refused.sequence, refused.sequence):
                    confirmed.append((refused.boot_id, refused.sequence))
                    self._note_refusal(refused.reason)
        for boot_id, ranges in claimed.items():
            for first, last in merged_ranges(ranges):
                confirmed += self._kept.sent_within(boot_id, first, last)
        if not confirmed and not self._names_card(claimed, refusals):
            return 0
        if self._pace.confirmed(confirmed, clock_s):
            log.info("fleet_answers_again events=%d", len(self))
            self._kept.make_due(clock_s)
        self._held.difference_update(confirmed)
        for key in confirmed:
            self._suspects.forget(key)
            self._limit.confirm(self._sent_bytes.pop(key, 0), clock_s)
            self._learn_limit(key, clock_s, of_fleet=True)
        return self._kept.forget(confirmed)

    def retry_parked(self) -> int:
        """Offer what was parked again; returns how many events."""
        return self._kept.retry_parked()

    def note(self, name: str, value: str) -> bool:
        """Note something beside the events, durably; False where the disk refuses."""
        return self._kept.note(name, value)

    def about(self, name: str) -> str:
        """What was noted under `name`; empty where nothing was."""
        return self._kept.about(name)

    def close(self) -> None:
        """Save what is still in memory if the disk lets us, and close."""
        self._kept.close()

    def _next(self, clock_s: float, count: int, room_bytes: int) -> list[OutboxEntry]:
        """Never sent first, then what is due again, as far as there is room; of a long backlog the newest leads."""
        chosen: list[OutboxEntry] = []
        for find in (self._kept.never_sent, lambda n: self._kept.overdue(clock_s, n)):
            for entry in find(count - len(chosen)):
                if len(chosen) >= count or room_bytes <= 0:
                    return chosen
                newest = self._kept.newest_unsent() if not chosen and count > 1 else None
                if newest is not None and _is_old_news(entry, newest):
                    chosen.append(newest)
                    room_bytes -= len(newest.payload)
                if entry in chosen or room_bytes <= 0:
                    continue
                chosen.append(entry)
                room_bytes -= len(entry.payload)
        return chosen

    def _one_alone(self, clock_s: float) -> list[OutboxEntry]:
        """The next event, alone; those that are suspected to end connections last."""
        for key in self._suspects.keys():  # noqa: SIM118 - not a dict; a copy, because some are forgotten
            if self._kept.entry(key) is None:
                self._suspects.forget(key)
        candidates = [*self._next(clock_s, 1, 1), *self._kept.overdue(clock_s, len(self._suspects) + 1)]
        order = sorted(
            candidates, key=lambda event: (event.key in self._suspects, self._suspects.strikes(event.key))
        )
        return order[:1]

    def _into_silence(self, clock_s: float) -> list[OutboxEntry]:
        if self._pace.may_knock(clock_s):
            knock = next(self._kept.never_sent(1, KNOCK_BYTES), None) or self._kept.smallest_sent()
            if knock is None or len(knock.payload) > KNOCK_BYTES:
                knock = self._card
            return [knock] if knock is not None and knock.key not in self._held else []
        return self._next(clock_s, 1, 1) if self._pace.may_speak(clock_s) else []

    def _light_enough(self, entry: OutboxEntry, clock_s: float) -> OutboxEntry:
        """The event, without its raw window where that is known, or suspected, to be too large for the broker."""
        size = len(entry.payload)
        if self._limit.forbids(size, clock_s):
            return self._lighten(entry) or entry
        if self._kept.taken(entry.key) < _WITHOUT_WINDOW or self._pace.is_silent(clock_s):
            return entry
        bare = self._lighten(entry)
        if bare is None:
            return entry
        self._lightened[entry.key] = size, True
        log.warning(
            "event_lightened boot=%s sequence=%d bytes=%d: the fleet never confirms it", *entry.key, size
        )
        return bare

    def _withhold(self, entries: Iterable[OutboxEntry]) -> list[OutboxEntry]:
        """Without windows where none may leave, also those from before the owner's word; what cannot be read is parked."""
        if not self._withholds_windows:
            return list(entries)
        bare = []
        for entry in entries:
            try:
                bare.append(entry.withheld())
            except MessageError as error:
                self._park(entry, f"no window may leave, and whether one is in it cannot be read: {error}")
                continue
            if bare[-1] is not entry and self._kept.entry(entry.key) is not None:
                self._kept.replace(bare[-1])
        return bare

    def _learn_limit(self, key: EventKey, clock_s: float, *, of_fleet: bool) -> None:
        """An event got through that did not with its raw window: others of that size will not, either."""
        size, needs_fleet = self._lightened.get(key, (0, False))
        if size and needs_fleet is of_fleet:
            self._limit.suspect(size, clock_s)
        if size and of_fleet | (needs_fleet is of_fleet):
            del self._lightened[key]

    def _lighten(self, entry: OutboxEntry) -> OutboxEntry | None:
        bare = entry.without_window()
        if bare is not None:
            self._kept.replace(bare)
        return bare

    def _lighten_or_park(self, key: EventKey) -> None:
        self._suspects.forget(key)
        entry = self._kept.entry(key)
        if entry is None:
            return
        size = len(entry.payload)
        if self._lighten(entry) is not None:
            self._lightened[key] = size, False
            log.warning(
                "event_lightened boot=%s sequence=%d bytes=%d: connections end with it; sent without its raw window",
                *key,
                size,
            )
            return
        self._lightened.pop(key, None)
        self._park(entry, f"{STRIKES} connections ended while it alone was under way, {size} bytes")

    def _park(self, entry: OutboxEntry, reason: str) -> None:
        log.error("event_parked boot=%s sequence=%d kind=%s reason=%s", *entry.key, entry.kind.value, reason)
        self._kept.park(entry.key, reason, AGENT_VERSION)

    def _note_refusal(self, reason: str) -> None:
        self.refused += 1
        if reason != self._last_refusal:
            log.warning("event_refused reason=%s", reason)
        self._last_refusal = reason

    def _names_card(self, claimed: dict[str, list[tuple[int, int]]], refusals: list[tuple[int, int]]) -> bool:
        """Does the fleet answer the knock that says nothing new, be it with a refusal?"""
        if self._card is None or not self._is_card_known:
            return False
        boot_id, sequence = self._card.key
        return any(first <= sequence <= last for first, last in (*claimed.get(boot_id, ()), *refusals))

    def _pause_s(self, taken_before: int) -> float:
        first_s = self._settings.resend_s
        pause_s = min(max(_LONGEST_PAUSE_S, first_s), first_s * 2.0 ** min(taken_before, 32))
        return pause_s * (1.0 + self._draw() / 2)


def _is_old_news(entry: OutboxEntry, newest: OutboxEntry) -> bool:
    old, new = entry.made, newest.made
    return old.kernel_boot != new.kernel_boot or new.boot_s - old.boot_s > _OLD_NEWS_S

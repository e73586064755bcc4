"""What devices showed before a release and on it, read for gates: by blocks, or by messages where a span is short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from sqlalchemy.orm import Session

from fleet.gates.arms import Placebos, Shown
from fleet.gates.plan import GatePlan
from fleet.rollouts.showing import Told, as_shown
from fleet.rollouts.spans import (
    Span,
    Sums,
    joined,
    read_blocks,
    read_last_heard,
    read_messages,
    read_starts,
    read_verdicts,
)
from fleet.storage.block_tables import BLOCK_S
from fleet.storage.boot_tables import Position
from protocol.names import DeviceId, split_release_id

__all__ = ["Commit", "Histories"]

SHORT_S: Final = 3600.0
"""A baseline below this is read from messages: blocks of ten minutes would cut off too much of it."""

RECENT_S: Final = 7200.0
"""What is older than this, and lasts as long, is read from blocks: messages are kept for a day, soaks may last for weeks."""

PLACEBO_ROWS, PLACEBO_SPANS = 4000, 48
"""Pretended canaries that are enough, and how many spans of the past are read for them at most."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Where in its stream a device committed the release, and when that was heard, Unix seconds."""

    position: Position
    at: float


class Histories:
    """Reads what devices showed.

    Args:
        session: a snapshot.
        release: the one that is judged.
        plan: says how much of the past is read, and how long a device warms up.
        offline_after_s: silence after which a device counts as offline, seconds.
    """

    def __init__(self, session: Session, release: str, plan: GatePlan, *, offline_after_s: float) -> None:
        self._session = session
        self._release, self._family = release, split_release_id(release)[0]
        self._plan = plan
        self._offline_after_s = offline_after_s

    def before(self, devices: Sequence[DeviceId], began: float) -> Shown:
        """Over the plan's baseline before `began`."""
        return self.past(devices, began if self._plan.baseline_s < SHORT_S else began // BLOCK_S * BLOCK_S)

    def after(self, spans: Sequence[Span], commits: Mapping[DeviceId, Commit]) -> Shown:
        """Each in its own span; those with a commit on the release."""
        canaries = [span for span in spans if span.device in commits]
        controls = [span for span in spans if span.device not in commits]
        sums = {**self._lately(canaries, is_on=True), **self._lately(controls, is_on=False)}
        # from when on silence counts: a commit is a sign of life, and a control must have been there when its warm-up began
        since = {
            span.device: commits[span.device].at
            if span.device in commits
            else span.start - self._plan.warm_up_s
            for span in spans
        }
        heard_before = read_last_heard(
            self._session,
            [
                Span(device=s.device, start=since[s.device] - self._offline_after_s, until=s.start)
                for s in spans
            ],
        )
        for device, commit in commits.items():
            heard_before[device] = max(heard_before.get(device, 0.0), commit.at)
        # of a long span the first, broken block is not read: nothing is silent in it
        for span in spans:
            if _is_long(span) and span.device in heard_before:
                heard_before[span.device] = max(heard_before[span.device], _up(span.start))
        told = Told(
            sums=sums,
            heard_before=heard_before,
            heard=read_last_heard(self._session, spans),
            starts=read_starts(self._session, spans),
            verdicts=read_verdicts(self._session, spans, self._family),
        )
        return as_shown(spans, told, self._offline_after_s)

    def placebos(self, devices: Sequence[DeviceId], began: float, lasted_s: float) -> Placebos | None:
        """Spans of the past as long as the look's (in whole blocks, rather shorter), each with its own past before it."""
        length = lasted_s // BLOCK_S * BLOCK_S
        if not length or self._plan.baseline_s < SHORT_S:
            return None
        last = began // BLOCK_S * BLOCK_S
        count = min(PLACEBO_SPANS, max(4, -(-PLACEBO_ROWS // max(1, len(devices)))))
        befores, afters, blocks = [], [], []
        for number in range(count):
            start = last - (number + 1) * length
            after = self.past(devices, start + length, length, with_events=False)
            if not (after.hours > 0).any():
                break
            befores.append(self.past(devices, start, with_events=False))
            afters.append(after)
            blocks += [number] * len(devices)
        if not blocks:
            return None
        return Placebos(block=np.array(blocks, dtype=np.int64), before=_join(befores), after=_join(afters))

    def past(
        self,
        devices: Sequence[DeviceId],
        until: float,
        lasted_s: float | None = None,
        *,
        with_events: bool = True,
    ) -> Shown:
        """Over `lasted_s` seconds (None: the baseline) before `until`, on any release but the one that is judged.

        `with_events`: also starts, and verdicts of people.
        """
        lasted_s = self._plan.baseline_s if lasted_s is None else lasted_s
        is_short = self._plan.baseline_s < SHORT_S
        spans = [Span(device=device, start=until - lasted_s, until=until) for device in devices]
        sums = (
            self._messages(spans, is_on=False)
            if is_short
            else read_blocks(
                self._session,
                spans,
                release=self._release,
                is_on=False,
                offline_after_s=self._offline_after_s,
            )
        )
        if not with_events:
            return as_shown(spans, Told(sums=sums), self._offline_after_s)
        starts = read_starts(self._session, spans)
        verdicts = read_verdicts(self._session, spans, self._family)
        return as_shown(spans, Told(sums=sums, starts=starts, verdicts=verdicts), self._offline_after_s)

    def _lately(self, spans: Sequence[Span], *, is_on: bool) -> dict[DeviceId, Sums]:
        """Sums of spans that end now: over messages, and where they began long ago over blocks until lately."""
        sums = self._messages([span for span in spans if not _is_long(span)], is_on=is_on)
        long = [span for span in spans if _is_long(span)]
        blocks = [replace(span, start=_up(span.start), until=_border(span)) for span in long]
        recent = self._messages(
            [replace(span, start=_border(span)) for span in long], is_on=is_on, goes_on=True
        )
        earlier = read_blocks(
            self._session,
            blocks,
            release=self._release,
            is_on=is_on,
            offline_after_s=self._offline_after_s,
        )
        for span in blocks:
            old, new = earlier.get(span.device), recent.get(span.device)
            if old is not None and new is not None:
                sums[span.device] = joined(old, new, (span.until - span.start) / 3600, self._offline_after_s)
            elif (one := old or new) is not None:
                sums[span.device] = one
        return sums

    def _messages(self, spans: Sequence[Span], *, is_on: bool, goes_on: bool = False) -> dict[DeviceId, Sums]:
        return read_messages(
            self._session,
            spans,
            release=self._release,
            is_on=is_on,
            offline_after_s=self._offline_after_s,
            goes_on=goes_on,
        )


def _up(at: float) -> float:
    return -(-at // BLOCK_S) * BLOCK_S


def _border(span: Span) -> float:
    """Up to where a long span is read from blocks: what came later may not be rolled up yet."""
    return (span.until - RECENT_S) // BLOCK_S * BLOCK_S


def _is_long(span: Span) -> bool:
    return _border(span) - _up(span.start) >= RECENT_S


def _join(parts: Sequence[Shown]) -> Shown:
    names = Shown.__dataclass_fields__
    return Shown(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

"""What is due when: a heap that is never changed, so a rollout before and after a decision can share all of it.

A leftist heap (C. A. Crane, "Linear lists and priority queues as balanced binary trees", Stanford, 1972): to add and to
take the first cost O(log n), and the heap from before stays as it was. Entries are hints: nothing is ever taken out from
the middle, so who takes one asks whether it still holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from protocol.names import DeviceId

__all__ = ["Agenda", "Entry", "add", "first", "take_due"]


class Entry(NamedTuple):
    """`device` is due at Unix second `at`; of equal times the smaller `rank` comes first."""

    at: float
    rank: int
    device: DeviceId


class _Node(NamedTuple):
    height: int  # of the shortest way down: the right side never has more, so merging walks O(log n) nodes
    entry: Entry
    left: _Node | None
    right: _Node | None


Agenda = _Node | None
"""None is the empty one."""


def add(agenda: Agenda, entries: Iterable[Entry]) -> Agenda:
    """`agenda` with `entries` as well; O(n) for n new ones, whatever their order."""
    heaps: list[Agenda] = [_Node(1, entry, None, None) for entry in entries]
    while len(heaps) > 1:
        heaps = [_merge(*heaps[at : at + 2]) for at in range(0, len(heaps) - 1, 2)] + (
            heaps[-1:] if len(heaps) % 2 else []
        )
    return _merge(agenda, heaps[0]) if heaps else agenda


def first(agenda: Agenda) -> Entry | None:
    """The earliest entry; None where there is none."""
    return None if agenda is None else agenda.entry


def take_due(agenda: Agenda, now: float, most: int | None = None) -> tuple[list[Entry], Agenda]:
    """The entries that are due at Unix second `now`, earliest first and at most `most`, and the agenda without them.

    Examples:
        >>> agenda = add(None, [Entry(at, 0, DeviceId("press-1")) for at in (3.0, 1.0, 2.0)])
        >>> due, rest = take_due(agenda, 2.0)
        >>> [entry.at for entry in due], first(rest).at, first(agenda).at
        ([1.0, 2.0], 3.0, 1.0)
    """
    due: list[Entry] = []
    while agenda is not None and agenda.entry.at <= now and (most is None or len(due) < most):
        due.append(agenda.entry)
        agenda = _merge(agenda.left, agenda.right)
    return due, agenda


def _merge(one: Agenda, other: Agenda) -> Agenda:
    if one is None or other is None:
        return one if other is None else other
    if other.entry < one.entry:
        one, other = other, one
    left, right = one.left, _merge(one.right, other)
    if right is not None and (left is None or left.height < right.height):
        left, right = right, left
    return _Node(1 if right is None else right.height + 1, one.entry, left, right)

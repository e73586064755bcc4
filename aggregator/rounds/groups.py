"""How devices are dealt into groups whose sums they may give: a few in each, the same ones as long as that is possible.

::

    12 devices or more   groups of 4 (up to 7), as many as there can be: the median of their sums outvotes a liar
    fewer                one group: no protection against a poisoner
    the next run         groups that are whole stay; the others are dealt anew, so that no new group is nearly an old one

Two sums over groups that differ by a device or two show what those answered. So devices refuse a group that is neither one that they
answered in before, of the same kind and from much the same windows, nor differs from each of those by at least `FEWEST_EXCHANGED`
devices (`edge_agent.privacy.query_policy`). Who answered with whom is in the privacy ledger, which survives everything. An aggregator
that draws otherwise learns nothing; it wastes its attempts.

Pure: randomness comes in as a generator. Not here: what the groups' sums are worth (`combining`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from aggregator.privacy.history import HeldRound
from aggregator.privacy.modes import FEWEST_GROUPS
from aggregator.rounds.cohorts import Group
from protocol.names import DeviceId

__all__ = ["FEWEST_EXCHANGED", "Memory", "deal", "may_ask"]

FEWEST_EXCHANGED: Final = 3
"""Devices by which two groups must differ, or be the same."""

_MOST_MORE: Final = 3
"""Devices that a group may have beyond the smallest: so many newcomers may join one that stays otherwise."""

_REMEMBERED: Final = 3
"""Sets of each device and kind that are kept in mind. Devices remember those since which less than half of their windows are new."""

_TRIES: Final = 40
_MOST_PULLED: Final = 4

Set = frozenset[DeviceId]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """With whom each device `answered`, the newest first, and sets of devices that a device `refused` to be in."""

    answered: Mapping[DeviceId, tuple[Set, ...]] = field(default_factory=dict)
    refused: frozenset[Set] = frozenset()

    @classmethod
    def of(
        cls, rounds: Iterable[HeldRound], kinds: Collection[str], *, refused: Iterable[Set] = ()
    ) -> Memory:
        """What the ledger knows of questions of these `kinds` without noise; sums that may have been seen count, used or not."""
        found: dict[DeviceId, list[Set]] = {}
        for held in rounds:
            noise = held.opened.noise
            if (
                held.opened.id.question not in kinds
                or noise.mechanism != "none"
                or not held.is_seen_by_server
            ):
                continue
            together = frozenset(held.participants)
            for device in together:
                known = found.setdefault(device, [])
                if together in known:
                    known.remove(together)
                known.insert(0, together)
        kept = {device: tuple(sets[: _REMEMBERED * len(kinds)]) for device, sets in found.items()}
        return cls(answered=kept, refused=frozenset(refused))

    def near(self, group: Set) -> list[int]:
        """By how many devices a group differs from each in which a member has answered."""
        return [len(group ^ older) for device in group for older in self.answered.get(device, ())]

    def allows(self, group: Set) -> bool:
        """Whether no member has answered in a group that is nearly this one, or refused this one."""
        return group not in self.refused and all(not 0 < one < FEWEST_EXCHANGED for one in self.near(group))

    def within(self, devices: Set) -> list[Set]:
        """Groups of `devices` alone in which one of them has answered, the newest of each device first."""
        return [older for one in sorted(devices) for older in self.answered.get(one, ()) if older <= devices]


def deal(
    present: Iterable[DeviceId], memory: Memory, rng: np.random.Generator, *, size: int, fewest: int
) -> tuple[tuple[DeviceId, ...], ...]:
    """Groups of `size` to `size` + 3 devices; below three times `size` one group, of `fewest` or more; none where that cannot be.

    Who is in none of them sits out: there is no group in which it may answer and may be asked. As few do as was found to be possible.

    >>> [len(group) for group in deal(map(DeviceId, "abcdefghijklmn"), Memory(), np.random.default_rng(0), size=4, fewest=3)]
    [5, 5, 4]
    """
    devices = sorted(set(present))
    if len(devices) < FEWEST_GROUPS * size:
        one = _one_group(devices, memory, rng, fewest)
        return (one,) if one else ()
    standing = _standing(devices, memory, size)
    best: tuple[Set, ...] = ()
    for pulled in range(min(len(standing), _MOST_PULLED) + 1):
        for attempt in range(_TRIES):
            dealt = _dealt(devices, standing, pulled, memory, rng, size, fewer=attempt >= _TRIES // 2)
            if (_placed(dealt), len(dealt)) > (_placed(best), len(best)):
                best = dealt
            if _placed(best) == len(devices):
                return _sorted(best)
    return _sorted(best)


def may_ask(
    group: Sequence[DeviceId], present: Collection[DeviceId], memory: Memory, *, fewest: int
) -> Group | None:
    """A group as it can be asked now: who of it is there, and how many must stay; None where it has to sit this question out.

    Members who have answered together are asked alone if not all of the group may be.
    """
    here = frozenset(group) & frozenset(present)
    for option in (here, *memory.within(here)):
        if len(option) >= fewest and memory.allows(option):
            near = memory.near(option)
            # Whoever is lost on the way brings what is left nearer to what was answered before.
            spare = max(min(near) - FEWEST_EXCHANGED, 0) if near else len(option)
            return Group(devices=tuple(sorted(option)), quorum=max(fewest, len(option) - spare))
    return None


def _one_group(
    devices: Sequence[DeviceId], memory: Memory, rng: np.random.Generator, fewest: int
) -> tuple[DeviceId, ...]:
    everybody = frozenset(devices)
    tried = [everybody, *memory.within(everybody)]
    for left_out in range(1, len(devices) - fewest + 1):
        for _ in range(_TRIES):
            chosen = rng.choice(len(devices), len(devices) - left_out, replace=False)
            tried.append(frozenset(devices[i] for i in chosen))
    allowed = [one for one in tried if len(one) >= fewest and memory.allows(one)]
    allowed.sort(key=len)
    return tuple(sorted(allowed[-1])) if allowed else ()


def _standing(devices: Sequence[DeviceId], memory: Memory, size: int) -> list[Set]:
    """Groups of before whose members are all there, each device in one at most."""
    free, standing = set(devices), list[Set]()
    for device in devices:
        for older in memory.answered.get(device, ()):
            if older <= free and len(older) <= size + _MOST_MORE and memory.allows(older):
                standing.append(older)
                free -= older
                break
    return standing


def _dealt(
    devices: Sequence[DeviceId],
    standing: Sequence[Set],
    pulled: int,
    memory: Memory,
    rng: np.random.Generator,
    size: int,
    *,
    fewer: bool,
) -> tuple[Set, ...]:
    """One try: `pulled` of the standing groups, and everybody who is in none, are dealt anew, into as many groups as can be or `fewer`."""
    taken = set(rng.choice(len(standing), pulled, replace=False).tolist()) if pulled else set()
    kept = [group for index, group in enumerate(standing) if index not in taken]
    inside = frozenset[DeviceId]().union(*kept)
    pool = [device for device in devices if device not in inside]
    most, fewest = len(pool) // size, -(-len(pool) // (size + _MOST_MORE))
    if most < max(fewest, 1):
        return tuple(kept)
    count = int(rng.integers(max(fewest, 1), most + 1)) if fewer else most
    order = rng.permutation(len(pool))
    new = [frozenset(pool[i] for i in part) for part in np.array_split(order, count)]
    return (*kept, *(group for group in new if memory.allows(group)))


def _placed(groups: Iterable[Set]) -> int:
    return sum(map(len, groups))


def _sorted(groups: Iterable[Set]) -> tuple[tuple[DeviceId, ...], ...]:
    return tuple(sorted((tuple(sorted(group)) for group in groups), key=lambda group: (-len(group), group)))

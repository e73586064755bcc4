"""A month of daily refits over twelve slow machines that join, leave, are off for days, restart and are late: whom the aggregator asks may answer.

The devices' real accounts, on few new windows a day, and the aggregator's real rule of whom to ask (`aggregator.rounds.groups`); time is an
argument. The whole of a run's dealing over a ledger: tests/aggregator/test_month_of_refits.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from privacy_world import DAY_S, Owned, asked

from aggregator.rounds.groups import FEWEST_EXCHANGED, Memory, deal, may_ask
from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.limits import OwnerLimits
from protocol.names import DeviceId
from protocol.questions import ASSESS, COVARIANCE, CURVE, FIT, KINDS, SCALE, Kind
from protocol.refusals import RefusalCode

pytestmark = pytest.mark.slow

ROUNDS, DAYS, FLEET = 5, 30, 12
QUESTIONS: tuple[Kind, ...] = (SCALE, COVARIANCE, CURVE, *(FIT,) * ROUNDS, ASSESS)
LATE, LOST = 0.01, 0.01
"""Chances that a device misses a question as a whole, and that it vanishes after the others masked their answers."""
RESTARTS = 0.1
WINDOWS_A_DAY = 40
"""Of the 200 that a snapshot holds: half of one is new after three days."""
RUN_S = 1200.0
"""A run takes so long; the next is due a day after its end (`aggregator.triggers`)."""

Set = frozenset[DeviceId]


@dataclass
class Fleet:
    """Devices by name, what the aggregator's ledger holds, and a tally of what was asked and what became of it."""

    folder: Path
    rng: np.random.Generator
    owned: dict[DeviceId, Owned] = field(default_factory=dict)
    answered: list[tuple[Kind, Set]] = field(default_factory=list)
    refused: list[Set] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def join(self, name: str) -> None:
        """A device enrols, with a day of windows behind it."""
        folder = self.folder / name
        folder.mkdir()
        self.owned[DeviceId(name)] = device = Owned(folder, OwnerLimits())
        device.watch(400)

    def memory(self, kinds: tuple[Kind, ...]) -> Memory:
        """What the ledger says (`Memory.of`), of questions of these kinds."""
        found: dict[DeviceId, list[Set]] = {}
        for kind, together in reversed(self.answered):
            for device in together if kind in kinds else ():
                if together not in found.setdefault(device, []):
                    found[device].append(together)
        kept = {device: tuple(sets[: 3 * len(kinds)]) for device, sets in found.items()}
        return Memory(answered=kept, refused=frozenset(self.refused))

    def pass_day(self, away: set[DeviceId]) -> None:
        """Everybody's windows of a day; who is away is switched off. Some are restarted."""
        for name, device in self.owned.items():
            device.clock.pass_s(DAY_S)
            if name not in away:
                device.watch(WINDOWS_A_DAY)
            if self.rng.random() < RESTARTS:
                device.clock.restart(off_s=0.0)

    def refit(self, away: set[DeviceId]) -> None:
        """One run: learners start, groups are dealt, and each question is put to those of each group who are there."""
        self.refused.clear()
        there = set(self.owned) - away
        for device in there:
            self.owned[device].account.close()
            self.owned[device].open()
            self.owned[device].snapshot()
        groups = deal(there, self.memory(KINDS), self.rng, size=4, fewest=3)
        self.tally["sat out"] += (len(there) - sum(map(len, groups))) * len(QUESTIONS)
        for kind in QUESTIONS:
            for members in groups:
                present = {device for device in members if self.rng.random() >= LATE}
                group = may_ask(members, present, self.memory((kind,)), fewest=3)
                self.tally["asked"] += len(present)
                if group is not None:
                    self.ask(kind, frozenset(group.devices), group.quorum)
        for device in self.owned.values():
            device.clock.pass_s(RUN_S)

    def ask(self, kind: Kind, cohort: Set, quorum: int) -> None:
        """One question to one group, tried again once where it comes to nothing."""
        for _ in range(2):
            question = asked(kind)
            masked = set()
            for device in sorted(cohort):
                try:
                    self.owned[device].mask(question, cohort)
                    masked.add(device)
                except PrivacyRefusedError as refusal:
                    self.refusals[f"{kind} {refusal.code.value}"] += 1
                    if refusal.code is RefusalCode.COHORT:
                        self.refused.append(cohort)
            survivors = frozenset(device for device in masked if self.rng.random() >= LOST)
            if len(survivors) < max(quorum, 3):
                continue
            self.answered.append((kind, survivors))
            for device in survivors:
                try:
                    self.owned[device].account.reveal(question, survivors)
                    self.tally["answered"] += 1
                except PrivacyRefusedError as refusal:
                    self.refusals[f"reveal {kind} {refusal.code.value}"] += 1
            return


def test_nine_of_ten_questions_are_answered_over_a_month_of_daily_refits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(tmp_path, np.random.default_rng(11))
    for number in range(FLEET):
        fleet.join(f"d{number:02d}")
    for day in range(DAYS):
        away: set[DeviceId] = set()
        if day == 6:
            fleet.join("d12")
        if day == 20:
            fleet.join("d13")
        if day >= 12:
            away.add(DeviceId("d03"))  # lost for good
        if 15 <= day < 18:
            away.add(DeviceId("d07"))  # offline for days
        if day == 24:
            away |= {DeviceId("d00"), DeviceId("d08")}
        fleet.refit(away)
        fleet.pass_day(away)
    share = fleet.tally["answered"] / (fleet.tally["asked"] + fleet.tally["sat out"])
    with capsys.disabled():
        print(
            f"\n{WINDOWS_A_DAY} windows a day: {share:.1%} answered {dict(fleet.tally)} {dict(fleet.refusals)}",
            end=" ",
        )
    assert share >= 0.9


def test_the_aggregators_rule_is_that_of_owners_who_changed_nothing() -> None:
    assert OwnerLimits().fewest_exchanged == FEWEST_EXCHANGED

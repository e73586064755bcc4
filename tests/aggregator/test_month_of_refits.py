"""A month of daily refits, of devices that come, go and fail, under the owners' default policy: what is asked is answered.

The aggregator's side is the real dealing, over a ledger in memory; a device's is its real account, on disk, with its snapshots. Only
masks and Flower are left out. Legal is what no owner's policy forbids to ask at all: each question once a day, ten rounds of training.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from aggregator.privacy.history import HeldRound
from aggregator.privacy.ledger_entries import FixedCohort, Outcome, RoundClosed, RoundId, RoundOpened
from aggregator.rounds.cohorts import Cohort, Group
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.gate import GateSettings
from aggregator.rounds.run_groups import next_cohort, with_groups
from aggregator.rounds.runs import GroupRecord, RefusedDevice, RoundRecord, RunState, TrainingRun
from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.account import AskedSum, DeviceAccount
from edge_agent.privacy.elapsed import DAY_S, Moment
from edge_agent.privacy.limits import ChargeLimits, OwnerLimits
from edge_agent.privacy.snapshots import Content
from edge_agent.sample_buffer import BufferedRows
from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy_cost import RoundNoise
from protocol.questions import ASSESS, FIT, REFIT_KINDS, Kind
from protocol.refusals import RefusalCode, write_refusal

FAMILY = FamilySettings(name="pump", gate=GateSettings(judging_share=0.0))
NOISE = RoundNoise(mechanism="none", bits=32, dimension=10)
ROUNDS, ATTEMPTS = 5, 3
AWAY, FAILS = 0.03, 0.005
"""Shares of devices that are away for a day, and that fail at one question."""


@dataclass
class Fleet:
    """Devices with accounts, an aggregator's ledger, a clock."""

    directory: Path
    rng: np.random.Generator
    accounts: dict[DeviceId, DeviceAccount] = field(default_factory=dict)
    born: dict[DeviceId, int] = field(default_factory=dict)
    ledger: list[HeldRound] = field(default_factory=list)
    now_s: float = 1e6
    day: int = 0
    refusals: Counter[str] = field(default_factory=Counter)

    def add(self) -> None:
        name = DeviceId(f"pump-{len(self.born):03d}")
        self.born[name] = self.day
        self.accounts[name] = DeviceAccount(
            self.directory / f"{name}.sqlite",
            OwnerLimits(),
            clock=lambda: Moment(boot="one", uptime_s=self.now_s, wall_s=self.now_s),
            snapshots=self.directory / name,
        )

    def remove(self, name: DeviceId) -> None:
        self.accounts.pop(name).close()

    def wake(self, name: DeviceId) -> None:
        """A learner starts: a copy of the buffer, 60 windows of each of the last seven days."""
        last = 60.0 * (self.day - self.born[name] + 8)
        times = np.arange(last - 420.0, last)
        rows = BufferedRows(rows=np.zeros((420, 2), np.float32), machine_s=times, wall_s=times)
        self.accounts[name].take_snapshot(Content(columns="c", scale="s"), rows)

    def close(self) -> None:
        for account in self.accounts.values():
            account.close()


@dataclass
class Refit:
    """One day's run: its questions in turn, and for each device how many it was there for and how many sums it is in."""

    fleet: Fleet
    run: TrainingRun
    there: frozenset[DeviceId]
    answered: int = 0
    legal: int = 0
    refused: list[RefusedDevice] = field(default_factory=list)

    def play(self) -> None:
        self.run = with_groups(self.run, FAMILY, self.there, self.fleet.ledger)
        questions: list[tuple[Kind, int]] = [(FIT, number) for number in range(1, ROUNDS + 1)]
        questions += [(kind, 1) for kind in (*REFIT_KINDS, ASSESS)]
        for kind, number in questions:
            self.legal += len(self.there)
            for _ in range(ATTEMPTS):
                if self._ask(kind, number):
                    break
                self.run = with_groups(self.run, FAMILY, self.there, self.fleet.ledger)

    def _ask(self, kind: Kind, number: int) -> bool:
        cohort = next_cohort(self.run, FAMILY, kind, self.there, self.fleet.ledger)
        sums = [self._sum(kind, number, group) for group in cohort.groups]
        inside = [device for found in sums if not found.left_out for device in found.participants]
        is_used = (
            sum(not found.left_out for found in sums) >= cohort.fewest_groups and len(inside) >= cohort.quorum
        )
        self._note(kind, number, cohort, tuple(sums), is_used=is_used)
        self.answered += len(inside) if is_used else 0
        return is_used

    def _sum(self, kind: Kind, number: int, group: Group) -> GroupRecord:
        """One secure sum as the devices' accounts see it."""
        cohort, fleet = frozenset(group.devices), self.fleet
        threshold = max(2 * len(cohort) // 3 + 1, group.quorum)
        session = f"{self.run.id}{kind}{number}{len(fleet.ledger)}{group.devices[0]}"
        asked = AskedSum(
            kind=kind,
            run=self.run.id,
            round_number=number,
            session=session,
            noise=NOISE,
            announced=ChargeLimits(),
        )
        masked: list[DeviceId] = []
        for device in group.devices:
            account = fleet.accounts[device]
            try:
                account.check(asked)
                account.check_cohort(asked, cohort)
                account.charge(asked, now_s=fleet.now_s)
            except PrivacyRefusedError as refusal:
                self._refused(device, refusal)
                continue
            if fleet.rng.random() >= FAILS:
                masked.append(device)
        if len(masked) < threshold:
            return GroupRecord(devices=group.devices, left_out="too few")
        survivors, revealed = frozenset(masked), 0
        for device in masked:
            try:
                fleet.accounts[device].reveal(asked, survivors)
                revealed += 1
            except PrivacyRefusedError as refusal:
                self._refused(device, refusal)
        why = "" if revealed >= threshold else "too few shares"
        return GroupRecord(devices=group.devices, participants=tuple(sorted(survivors)), left_out=why)

    def _refused(self, device: DeviceId, refusal: PrivacyRefusedError) -> None:
        self.fleet.refusals[refusal.code] += 1
        self.refused.append(RefusedDevice(device=device, reason=write_refusal(refusal.code)))

    def _note(
        self, kind: Kind, number: int, cohort: Cohort, groups: tuple[GroupRecord, ...], *, is_used: bool
    ) -> None:
        for index, found in enumerate(groups):
            attempt = len(self.fleet.ledger) + 1
            key = RoundId(run=self.run.id, question=kind, number=number, attempt=attempt, group=index + 1)
            seen = Outcome.VOID if not found.participants else Outcome.USED if is_used else Outcome.WITHHELD
            opened = RoundOpened(
                id=key,
                family=FamilyName("pump"),
                at=0.0,
                noise=NOISE,
                sampling=FixedCohort(size=len(found.devices), population=len(cohort.devices)),
                cohort=found.devices,
            )
            closed = RoundClosed(id=key, at=0.0, outcome=seen, participants=found.participants)
            self.fleet.ledger.append(HeldRound(opened=opened, closed=closed))
        record = RoundRecord(
            kind=kind.partition(".")[2],
            number=number,
            attempt=1,
            started_at=0.0,
            seconds=0.0,
            asked=len(cohort.devices),
            participants=(),
            refused=tuple(self.refused),
            lost=(),
            spared=(),
            groups=groups,
            is_void=not is_used,
        )
        self.refused.clear()
        run = self.run
        finished = run.finished_rounds + (kind == FIT and is_used)
        self.run = structs.replace(
            run,
            finished_rounds=finished,
            attempts=0 if is_used else run.attempts + 1,
            log=(*run.log, record),
        )


def share_answered(
    directory: Path, *, devices: int, days: int, seed: int, forgets_on: int | None = None
) -> tuple[float, Counter[str]]:
    """Over so many days, and by what codes devices refused; on one of them the aggregator loses its ledger."""
    rng = np.random.default_rng(seed)
    fleet = Fleet(directory, rng)
    for _ in range(devices):
        fleet.add()
    answered = legal = 0
    for fleet.day in range(days):
        fleet.now_s += DAY_S + 60.0
        if fleet.day == forgets_on:
            fleet.ledger.clear()
        if fleet.day and rng.random() < 0.15:
            fleet.add()
        if fleet.day and rng.random() < 0.15:
            fleet.remove(sorted(fleet.accounts)[int(rng.integers(len(fleet.accounts)))])
        there = frozenset(device for device in fleet.accounts if rng.random() >= AWAY)
        for device in there:
            fleet.wake(device)
        run = TrainingRun(
            id=RunId(f"run-{fleet.day}"),
            family=FamilyName("pump"),
            trigger="schedule",
            reason="",
            requested_by="",
            rounds=ROUNDS,
            state=RunState.ROUND,
            created_at=0.0,
            updated_at=0.0,
            seed=fleet.day,
        )
        refit = Refit(fleet, run, there)
        refit.play()
        answered, legal = answered + refit.answered, legal + refit.legal
    fleet.close()
    assert math.isfinite(legal)
    return answered / legal, fleet.refusals


def test_days_of_refits_are_answered_by_devices_that_come_and_go(tmp_path: Path) -> None:
    share, refusals = share_answered(tmp_path, devices=13, days=4, seed=1)
    assert share >= 0.9, refusals


def test_an_aggregator_that_lost_its_ledger_draws_again_until_devices_answer(tmp_path: Path) -> None:
    share, refusals = share_answered(tmp_path, devices=13, days=3, seed=3, forgets_on=2)
    assert refusals[RefusalCode.COHORT] > 0, "devices remember what it does not"
    assert share >= 0.85, refusals


@pytest.mark.long
@pytest.mark.parametrize("devices", [13, 30])
def test_nine_of_ten_legal_questions_are_answered_over_a_month_of_refits(
    tmp_path: Path, devices: int
) -> None:
    share, refusals = share_answered(tmp_path, devices=devices, days=30, seed=2)
    assert share >= 0.9, refusals

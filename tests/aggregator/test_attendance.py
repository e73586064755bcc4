"""The devices of a run: who is waited for and how long, and until when an invitation is good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from family_changes import changed, family

from aggregator.rounds.attendance import Attendance, Pacing
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.ports import Member
from aggregator.rounds.reports import RoundCanceledError
from aggregator.rounds.runs import RunState, TrainingRun
from protocol.messages.payloads import TrainingInvitation
from protocol.names import DeviceId, FamilyName, RunId

FAMILY = FamilyName("pump")


class Session:
    """Implements `Session`; devices join at the seconds of `joins`."""

    collector: Any = None

    def __init__(self, world: World) -> None:
        self.world, self.outcome = world, ""

    def joined(self) -> Mapping[DeviceId, str]:
        return {DeviceId(d): str(at) for d, at in self.world.joins.items() if at <= self.world.now}

    def close(self, outcome: str) -> None:
        self.outcome = outcome


class World:
    """Implements `Federation` and `InvitationBoard` around a clock that sleeping moves on."""

    def __init__(self, joins: Mapping[str, float] | None = None, *, devices: int = 4, **cohort: Any) -> None:
        self.joins, self.now, self.is_canceled, self.is_stopping = dict(joins or {}), 1000.0, False, False
        self.posted: list[TrainingInvitation] = []
        self.cleared: list[str] = []
        self.at: dict[float, Callable[[], None]] = {}
        self.session = Session(self)
        self.policy = family(
            FAMILY,
            secure_sum={"enabled": False},
            cohort={"minimum_devices": 2, "over_selection": 1.0, **cohort},
            rounds={"attempts": 2, "deadline_s": 20.0, "join_timeout_s": 30.0, "join_settle_s": 4.0},
        )
        self.members = [
            Member(device=DeviceId(f"d{n}"), public_key=b"pem", is_online=True) for n in range(devices)
        ]

    def open(self, run: RunId, roster: Mapping[DeviceId, bytes], policy: FamilySettings) -> Session:
        return self.session

    def post(self, invitation: TrainingInvitation) -> None:
        self.posted.append(invitation)

    def clear(self, family: FamilyName) -> None:
        self.cleared.append(family)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in [at for at in self.at if at <= self.now]:
            self.at.pop(moment)()

    def attendance(self, **run: Any) -> Attendance:
        return Attendance(
            TrainingRun(
                id=RunId("run-1"),
                family=FAMILY,
                trigger="person",
                reason="",
                requested_by="anna",
                state=RunState.INVITING,
                created_at=0.0,
                updated_at=0.0,
                seed=1,
                base_release="pump/7",
                layout_sha256="ab" * 32,
                **{"rounds": 3, **run},
            ),
            self.policy,
            self.members,
            federation=self,
            board=self,
            flower_address="fedge.example:9092",
            pacing=Pacing(
                now=lambda: self.now, sleep=self.sleep, is_stopping=lambda: self.is_stopping, draw=lambda: 0.5
            ),
            is_canceled=lambda: self.is_canceled,
        )

    def gathered(self, attendance: Attendance | None = None) -> tuple[int, float]:
        """How many are there when the waiting is over, and after how many seconds."""
        began = self.now
        there = (attendance or self.attendance()).gather()
        return len(there), round(self.now - began)


@pytest.mark.parametrize(
    ("run", "seconds"),
    [
        # Rounds left, then moments, contest and assessment, and one more for the way: each asked twice for 30 + 20 s.
        ({"rounds": 3}, (3 + 4 + 1) * 2 * 50),
        ({"rounds": 3, "finished_rounds": 2}, (1 + 4 + 1) * 2 * 50),
        ({"rounds": 1, "finished_rounds": 1}, (0 + 4 + 1) * 2 * 50),
    ],
)
def test_an_invitation_is_good_as_long_as_the_rest_of_the_run_can_last(run: dict, seconds: float) -> None:
    world = World()
    world.attendance(**run)
    (invitation,) = world.posted
    assert (invitation.issued_at, invitation.expires_at) == (1000.0, 1000.0 + seconds)
    assert (invitation.run_id, invitation.family, invitation.base_release) == ("run-1", FAMILY, "pump/7")
    assert (invitation.layout_sha256, invitation.flower_address) == ("ab" * 32, "fedge.example:9092")


def test_everyone_who_is_wanted_is_enough_at_once() -> None:
    assert World(dict.fromkeys(("d0", "d1", "d2", "d3"), 0.0)).gathered() == (4, 0)
    half = {"fraction": 0.5, "over_selection": 1.0}
    assert World(dict.fromkeys(("d0", "d1"), 0.0), **half).gathered() == (2, 0)
    # 4 · 0.5 · 1.2 is 2.4: three are wanted, and never more than there are.
    asked = World(dict.fromkeys(("d0", "d1", "d2"), 0.0), fraction=0.5, over_selection=1.2)
    assert asked.gathered() == (3, 0)
    assert World(dict.fromkeys(("d0", "d1"), 0.0), devices=2, over_selection=2.0).gathered() == (2, 0)


def test_groups_are_dealt_of_everybody_who_is_online_and_not_of_those_who_came_first() -> None:
    world = World(dict.fromkeys(("d0", "d1", "d2"), 0.0) | {"d3": 1002.0}, fraction=0.5, minimum_devices=3)
    world.policy = changed(world.policy, secure_sum__enabled=True)
    assert world.gathered() == (4, 2)


def test_a_quorum_that_nobody_joins_any_more_is_settled() -> None:
    assert World({"d0": 0.0, "d1": 0.0}).gathered() == (2, 4)
    assert World({"d0": 0.0, "d1": 0.0, "d2": 1003.0}).gathered() == (3, 7)
    assert World({"d0": 0.0, "d1": 1010.0}).gathered() == (2, 14)


def test_without_a_quorum_the_waiting_ends_with_the_timeout() -> None:
    assert World({"d0": 0.0}).gathered() == (1, 30)
    assert World().gathered() == (0, 30)


def test_later_a_quorum_is_enough_because_who_left_may_never_return() -> None:
    world = World(dict.fromkeys(("d0", "d1", "d2", "d3"), 0.0))
    attendance = world.attendance()
    assert world.gathered(attendance) == (4, 0)
    world.joins = {"d0": 0.0, "d1": world.now + 5.0}
    assert world.gathered(attendance) == (2, 5)
    nobody = World()
    attendance = nobody.attendance()
    assert nobody.gathered(attendance) == (0, 30)
    nobody.joins = {"d0": 0.0, "d1": 0.0}
    assert nobody.gathered(attendance) == (2, 4), "who never was a quorum has to settle like a first one"


def test_devices_that_are_not_of_the_family_do_not_count() -> None:
    assert World({"d0": 0.0, "stranger": 0.0, "another": 0.0}).gathered() == (1, 30)


@pytest.mark.parametrize("who", ["is_canceled", "is_stopping"])
def test_waiting_ends_when_somebody_ends_the_run_or_the_service(who: str) -> None:
    world = World({"d0": 0.0})
    world.at[1005.0] = lambda: setattr(world, who, True)
    with pytest.raises(RoundCanceledError, match="while devices were joining"):
        world.attendance().gather()
    assert round(world.now) == 1005


def test_only_the_end_of_a_run_takes_its_invitation_down() -> None:
    world = World()
    world.attendance().close("LOST", is_over=False)
    assert (world.cleared, world.session.outcome) == ([], "LOST")
    world.attendance().close("COMPLETED", is_over=True)
    assert (world.cleared, world.session.outcome) == ([FAMILY], "COMPLETED")

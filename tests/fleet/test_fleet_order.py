"""(boot, sequence) is the order of what a device says: however its messages arrive, the fleet sees the same in the end."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from fleet_world import NOW, TENANT, Machine, anomaly, arrival, closed, enrol_directly, health
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollout_world import DEVICE_KEY, RolloutWorld
from sqlalchemy import select

from fleet.ingest.judging import Arrival
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.rollouts.observations import observe
from fleet.rollouts.reports import read_reports
from fleet.rollouts.store import find_rollout
from fleet.storage.base import Database
from fleet.storage.boot_tables import Boot, EventRange
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly, AnomalyEnd, HealthRecord, InstallRecord
from protocol.messages.envelope import Event
from protocol.messages.kinds import AgentState, DeathReason, DriftState, InstallStatus, InstallStep
from protocol.messages.payloads import Birth, Death, DriftReport, InstallReport, Payload

VIEW = [
    "boot_id",
    "online",
    "agent_version",
    "hardware",
    "family",
    "labels",
    "release",
    "drifted",
    "drift_score",
    "agent_state",
    "last_health",
]
"""What is known of a device, but for when it was heard."""


def birth(version: str, release: str = "motor/1", **changes: Any) -> Birth:
    fields = {"agent_version": version, "hardware": "rpi5", "family": "motor", "release": release}
    return Birth(**fields | changes)


def install(status: InstallStatus, execution: str = "e1", **changes: Any) -> InstallReport:
    fields: dict[str, Any] = {"release": "motor/2", "counter": 3, "step": InstallStep.TRIAL}
    return InstallReport(execution=execution, status=status, **fields | changes)


def drift(state: DriftState, score: float) -> DriftReport:
    return DriftReport(release="motor/1", state=state, drift_score=score, observed_at_s=1.0, windows=1)


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, list[Payload]]]:
    """What one device says over its boots, as (number of the boot, its events); an anomaly's end may be said twice."""
    payloads = st.one_of(
        st.builds(
            lambda n, r, d, a: health(uptime_s=n, release=r, drifted=d, drift_accepted=a, drift_score=n),
            st.floats(0, 9),
            st.sampled_from(["motor/1", "motor/2", None]),
            st.booleans(),
            st.booleans(),
        ),
        st.builds(drift, st.sampled_from(DriftState), st.floats(0, 5)),
        st.builds(
            install,
            st.sampled_from(InstallStatus),
            st.sampled_from(["e1", "e2"]),
            active_release=st.sampled_from([None, "motor/2"]),
        ),
        st.builds(lambda n: anomaly(score=n, episode=f"ep-{n:.0f}"), st.floats(0, 3)),
        st.builds(lambda n, p: closed(f"ep-{n:.0f}", peak_score=p), st.floats(0, 3), st.floats(1, 9)),
    )
    boots: list[tuple[int, list[Payload]]] = []
    number = draw(st.integers(1, 50))
    for index in range(draw(st.integers(1, 4))):
        number += draw(st.integers(1, 3))  # a boot that was never heard at all leaves a hole
        said: list[Payload] = [birth(f"0.{index}", labels={"line": str(index)})]
        said += draw(st.lists(payloads, max_size=5))
        if draw(st.booleans()):
            said.append(Death(reason=DeathReason.SHUTDOWN))
        boots.append((number, said))
    return boots


def arrivals(machine: Machine, stream: Sequence[tuple[int, list[Payload]]]) -> list[Arrival]:
    """The stream as it comes when nothing goes wrong; the device's clock says anything."""
    clock = random.Random(len(stream))
    made = []
    for number, said in stream:
        machine.restart(f"boot-{number}", number)
        made += [machine.event(data, at=clock.uniform(0, 2e9)) for data in said]
    return [arrival_at(event, NOW + place) for place, event in enumerate(made)]


def arrival_at(event: Event, received_at: float) -> Arrival:
    plain = arrival(event)
    return Arrival(topic=plain.topic, payload=plain.payload, retained=False, received_at=received_at)


def play(database: Database, machine: Machine, batches: Iterable[Sequence[Arrival]]) -> dict[str, Any]:
    """Store what comes, and give everything that the fleet then knows, but for when it came to know it."""
    enrol_directly(database, machine)
    store = EventStore(database, TENANT, FleetMetrics())
    for batch in batches:
        result = store.store(list(batch))
        assert not result.refusals
        assert not result.postponed
    with database.read() as session:
        device = session.get_one(Device, machine.name)
        view = {name: getattr(device, name) for name in VIEW}
        view["is_drifting"] = device.drift_since is not None
        boots = select(Boot.boot_id).where(Boot.device == machine.name)
        view["boots"] = session.scalars(boots.order_by(Boot.era, Boot.counted, Boot.turn)).all()
        ranges = select(EventRange.boot_id, EventRange.first, EventRange.last)
        mine = ranges.where(EventRange.device == machine.name).order_by(EventRange.boot_id, EventRange.first)
        view["ranges"] = session.execute(mine).all()
        for table in (Anomaly, HealthRecord, InstallRecord):
            rows = select(table.boot_id, table.sequence).where(table.device == machine.name)
            view[table.__tablename__] = sorted(session.execute(rows))
        ends = select(AnomalyEnd.episode, AnomalyEnd.boot_id, AnomalyEnd.sequence, AnomalyEnd.peak_score)
        view["ends"] = sorted(session.execute(ends.where(AnomalyEnd.device == machine.name)))
        told = read_reports(session, select(InstallRecord).where(InstallRecord.device == machine.name))
        view["words"] = {report.execution: (report.status, report.sequence) for report, _ in told}
    return view


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=streams(), chance=st.randoms(use_true_random=False), size=st.integers(1, 7))
def test_the_same_stream_in_any_order_delayed_and_doubled_gives_the_same_view(
    database: Database, stream: list[tuple[int, list[Payload]]], chance: random.Random, size: int
) -> None:
    plain, mixed = (Machine(name=f"d-{secrets.token_hex(6)}") for _ in range(2))
    expected = play(database, plain, ([one] for one in arrivals(plain, stream)))
    sent = arrivals(mixed, stream)
    doubled = sent + chance.choices(sent, k=len(sent))
    chance.shuffle(doubled)
    late = [
        Arrival(topic=one.topic, payload=one.payload, retained=False, received_at=NOW + place)
        for place, one in enumerate(doubled)
    ]
    assert play(database, mixed, (late[n : n + size] for n in range(0, len(late), size))) == expected


def test_a_terminal_word_yields_to_a_later_one_only_whatever_arrives_last(database: Database) -> None:
    machine = Machine(name="press-1")
    machine.restart("first", 7)
    early = [machine.arrival(install(InstallStatus.IN_PROGRESS)) for _ in range(3)]
    machine.restart("second", 8)
    done, undone = (
        machine.arrival(install(status)) for status in (InstallStatus.SUCCEEDED, InstallStatus.ROLLED_BACK)
    )
    assert play(database, machine, [[done], early, [done]])["words"] == {"e1": ("SUCCEEDED", 1)}
    EventStore(database, TENANT, FleetMetrics()).store([undone])
    with database.read() as session:
        words = [report.status for report, _ in read_reports(session, select(InstallRecord))]
    assert words[-1] == "ROLLED_BACK"


def test_what_a_rollout_sees_of_its_devices_does_not_depend_on_the_order_of_arrival(
    world: RolloutWorld,
) -> None:
    rollout_id = world.started(groups=[{"percentage": 100, "soak_s": 600}])
    store = EventStore(world.database, TENANT, FleetMetrics())
    chance = random.Random(1)
    for name in world.devices:
        machine, wanted = Machine(name=name, key=DEVICE_KEY), world.desired(name)
        assert wanted is not None
        said: list[Arrival] = []
        for number, status, step, figures in (
            (11, InstallStatus.IN_PROGRESS, InstallStep.DOWNLOADING, [0.9, 0.9]),
            (12, InstallStatus.IN_PROGRESS, InstallStep.TRIAL, []),
            (13, InstallStatus.SUCCEEDED, InstallStep.COMMITTED, [0.5, 0.1, 0.2, 0.3]),
            (14, InstallStatus.SUCCEEDED, InstallStep.COMMITTED, [0.1, 0.0]),
        ):
            machine.restart(f"start-{number}", number)
            told = install(status, wanted.execution, release="pump/2", step=step)
            health_said = [
                health(release="pump/2", anomaly_rate=rate, interval_windows=20, interval_judged=20)
                for rate in figures
            ]
            said += [arrival_at(machine.event(one), world.now + 1) for one in (told, *health_said)]
        chance.shuffle(said)
        store.store(said)
    with world.database.read() as session:
        rollout, _ = find_rollout(session, rollout_id)
        seen = observe(session, rollout, world.now + 2)
    assert {report.status for report in seen.reports.values()} == {InstallStatus.SUCCEEDED}
    assert len(seen.figures) == 12
    # those after the commit in boot 13, without the first of them
    assert {round(one.windows_over, 6) for one in seen.figures.values()} == {14.0}  # 20 * (.1 + .2 + .3 + .1)


def test_older_agents_are_put_in_order_by_birth_and_clock_and_never_turn_the_view_back(
    database: Database,
) -> None:
    machine = Machine(name="press-1")
    old = [machine.arrival(one, at=NOW) for one in (birth("0.1"), health(release="motor/1"))]
    machine.restart("boot-2")
    new = [machine.arrival(one, at=NOW + 50) for one in (birth("0.2"), health(release="motor/2"))]
    seen = play(database, machine, [[new[1]], [old[1]], [new[0]], [old[0]]])
    assert (seen["boot_id"], seen["release"], seen["agent_version"]) == ("boot-2", "motor/2", "0.2")
    assert seen["boots"] == ["boot-1", "boot-2"]


def test_an_older_agent_whose_clock_was_set_back_is_followed_from_its_birth(database: Database) -> None:
    machine = Machine(name="press-1")
    said = [machine.arrival(health(release="motor/1"), at=NOW)]
    machine.restart("boot-2")
    said += [machine.arrival(one, at=5.0) for one in (birth("0.2", "motor/2"), health(release="motor/2"))]
    assert play(database, machine, [said])["release"] == "motor/2"


def test_an_old_birth_out_of_an_outbox_is_seen_for_what_it_is_when_the_present_boot_speaks(
    database: Database,
) -> None:
    machine = Machine(name="press-1")
    old = machine.arrival(birth("0.1"), at=NOW)
    machine.restart("boot-2")
    new = [machine.arrival(health(release="motor/2"), at=NOW + n) for n in (50, 51)]
    assert play(database, machine, [[new[0]], [old], [new[1]]])["boot_id"] == "boot-2"


def test_an_agent_that_learns_to_count_and_one_that_forgets_it_again_are_both_followed(
    database: Database,
) -> None:
    machine = Machine(name="press-1")
    before = machine.arrival(birth("0.1"), at=NOW)
    straggler = machine.arrival(birth("0.1"), at=NOW + 1)
    machine.restart("counts", 1)
    counts = machine.arrival(birth("0.2"), at=NOW + 2)
    machine.restart("downgraded")
    again = machine.arrival(birth("0.1"), at=NOW + 3)
    machine.restart("upgraded", 2)
    last = machine.arrival(birth("0.3"), at=5.0)
    store = EventStore(database, TENANT, FleetMetrics())
    enrol_directly(database, machine)
    seen = []
    for message in (before, counts, straggler, again, last):
        store.store([message])
        with database.read() as session:
            seen.append(session.get_one(Device, "press-1").boot_id)
    assert seen == ["boot-1", "counts", "counts", "downgraded", "upgraded"]


@pytest.mark.parametrize("enrols", [True, False], ids=["enrolled again", "same number again"])
def test_a_device_that_lost_its_count_is_followed_from_its_first_word(
    database: Database, enrols: bool
) -> None:
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    store = EventStore(database, TENANT, FleetMetrics())
    for number in (5, 57):
        machine.restart(f"old-{number}", number)
        store.store([machine.arrival(health(release="motor/1"), at=NOW + number)])
    if enrols:
        with database.write() as session:
            session.get_one(Device, "press-1").enrolled_again_at = NOW + 100
    for number in (3, 4) if enrols else (5, 6):
        machine.restart(f"new-{number}", number)
        store.store([arrival_at(machine.event(health(release="motor/9", uptime_s=number)), NOW + 200)])
        with database.read() as session:
            device = session.get_one(Device, "press-1")
            assert (device.boot_id, device.release) == (f"new-{number}", "motor/9")
    machine.restart("old-57", 57)
    store.store([machine.arrival(health(release="motor/1"), sequence=9)])
    with database.read() as session:
        assert session.get_one(Device, "press-1").release == "motor/9"


def test_a_farewell_holds_whatever_of_before_it_comes_after_it(database: Database) -> None:
    machine = Machine(name="press-1")
    machine.restart("one", 1)
    said = [machine.arrival(health()), machine.arrival(Death(reason=DeathReason.SHUTDOWN))]
    assert not play(database, machine, [[said[1]], [said[0]]])["online"]
    machine.restart("two", 2)
    EventStore(database, TENANT, FleetMetrics()).store([machine.arrival(health(state=AgentState.BLIND))])
    with database.read() as session:
        device = session.get_one(Device, "press-1")
        assert (device.online, device.agent_state) == (True, "blind")


@pytest.mark.parametrize(
    "number", [0, 31], ids=["cannot count, clock behind", "restored, its starts since never heard"]
)
def test_a_boot_that_speaks_alone_is_followed_though_its_number_says_that_it_is_older(
    database: Database, number: int
) -> None:
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    store = EventStore(database, TENANT, FleetMetrics())

    def say(data: Payload, received_at: float, at: float = NOW) -> None:
        store.store([arrival_at(machine.event(data, at=at), received_at)])

    def state() -> str | None:
        with database.read() as session:
            return session.get_one(Device, "press-1").agent_state

    for one in (30, 57):
        machine.restart(f"old-{one}", one)
        say(birth("0.1"), NOW)
        say(health(), NOW)
    machine.restart("present", number)
    say(birth("0.1"), NOW + 3600, at=5.0)
    for minute in range(60, 72):
        say(health(state=AgentState.BLIND), NOW + 60 * minute, at=60.0 * minute)
    assert state() == "blind"
    machine.restart("next", number + 1 if number else 0)
    say(birth("0.1"), NOW + 5000, at=7.0)
    if not number:
        say(health(), NOW + 5000)
        say(health(), NOW + 6000)
    say(health(), NOW + 6001)
    assert state() == "watching"


def test_health_out_of_an_outbox_is_not_taken_for_the_present_while_the_last_start_is_heard(
    database: Database,
) -> None:
    machine = Machine(name="press-1")
    machine.restart("old", 3)
    old = [arrival_at(machine.event(health(state=AgentState.BLIND)), NOW + 60 * n) for n in range(30)]
    machine.restart("new", 4)
    new = [arrival_at(machine.event(health()), NOW + 60 * n) for n in range(0, 30, 5)]
    both = sorted(new + old, key=lambda one: one.received_at)
    seen = play(database, machine, [[one] for one in both])
    assert (seen["boot_id"], seen["agent_state"]) == ("new", "watching")

"""Nothing that was received, and nothing that breaks, ends the loop that detects: every window is scored."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from agent_loop_world import World, world
from agent_world import faulty, healthy

from edge_agent.errors import RestartNeededError
from edge_agent.fence import GIVE_UP_S, Fence
from edge_agent.health import Counters
from edge_agent.link import Message
from protocol.errors import MalformedMessageError
from protocol.limits import MAX_INTEGER
from protocol.messages.commands import Command, Commands
from protocol.messages.envelope import decode
from protocol.messages.kinds import AgentState, Kind
from protocol.messages.payloads import (
    Ack,
    AnomalyEvent,
    BootAck,
    DesiredState,
    Health,
    TrainingInvitation,
)
from runtime.errors import StorageError

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge

UNEXPECTED = [
    ValueError("x" * 10_000),
    KeyError("counter"),
    TypeError("'NoneType' object is not subscriptable"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    OverflowError("Python int too large to convert to SQLite INTEGER"),
    OSError(5, "Input/output error"),
    StorageError("No space left on device"),
    MalformedMessageError("poison"),
    AssertionError(),
    StopIteration(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ZeroDivisionError(),
]
DESIRED = DesiredState(
    execution="e-1", release="pump/2", counter=1, bundle_path="/v1/b", bundle_sha256="0" * 64, bundle_bytes=10
)
STAGES = [
    "_telemetry.receive",
    "_telemetry.post",
    "_telemetry.deliver",
    "_installation.submit",
    "_installation.poll",
    "_installation.active",
    "_installation.on_window",
    "_learner.invite",
    "_learner.tick",
    "_pipeline.accept_normal",
    "_pipeline.recommission_if_asked",
    "_pipeline.probe_sight",
    "_pipeline.take_untold",
    "_pipeline.told",
    "_reporter.due",
    "_source.next_window",
]


def spoil(world: World, stage: str, fails: Callable[[], Exception | None]) -> None:
    """Let one call of the loop raise what `fails` gives, whenever it gives something."""
    part_name, _, name = stage.partition(".")
    part = getattr(world.agent, part_name)
    whole = getattr(part, name)

    def spoilt(*args: object, **keywords: object) -> object:
        if (error := fails()) is not None:
            raise error
        return whole(*args, **keywords)

    setattr(part, name, spoilt)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_fails_in_any_way_keeps_no_window_from_being_scored(world: World, stage: str) -> None:
    """Each kind of failure, one in three calls; a window that the source has not given yet is given later."""
    world.watch(healthy(100))
    draw = random.Random(stage)
    spoil(world, stage, lambda: draw.choice(UNEXPECTED) if draw.random() < 1 / 3 else None)
    world.source.rows += list(faulty(30))
    while world.source.rows:
        world.arrive(Kind.TRAINING, invitation())
        world.arrive(Kind.DESIRED, DESIRED)
        world.accept_as_normal(1 + 101 - len(world.source.rows))
        world.turn()
        world.now_s += 1.0
    assert world.counters.windows == 130
    assert world.counters.windows_over_threshold == 30
    assert world.counters.anomalies == 1
    assert world.vitals.state is AgentState.WATCHING


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_a_stage_that_fails_for_good_is_told_once_counted_and_named(
    world: World, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    world.watch(healthy(100))
    spoil(world, "_pipeline.recommission_if_asked", lambda: error)
    for _ in range(600):
        world.turn()
    assert caplog.text.count("stage_failed stage=recommissioning") == 1
    assert any("recommissioning fails" in problem for problem in world.status().problems)
    assert 3 <= world.status().health.stage_failures < 12, "with growing pauses"
    newest = world.said(Health)[-1]
    assert isinstance(newest, Health)
    assert any(type(error).__name__ in problem for problem in newest.problems)


def test_a_stage_that_works_again_is_no_problem_any_more(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Exception] = [ValueError("once")]
    spoil(world, "_pipeline.probe_sight", lambda: failures.pop() if failures else None)
    for _ in range(40):
        world.turn()
    assert "stage_recovered stage=sight failures=1" in caplog.text
    assert not any("sight" in problem for problem in world.status().problems)


def test_judging_that_fails_unexpectedly_makes_the_device_blind_and_says_so(world: World) -> None:
    world.watch(healthy(100))
    spoil(world, "_pipeline.observe", lambda: IndexError("list index out of range"))
    world.watch(healthy(20))
    world.now_s += 2
    world.turn()
    status = world.status()
    assert (status.health.state, status.health.unjudged_windows) == (AgentState.BLIND, 20)
    assert any("IndexError: list index out of range" in problem for problem in status.problems)


def test_a_release_on_trial_is_blamed_for_what_nobody_expected(world: World) -> None:
    world.watch(healthy(100))
    world.installation.give(2, is_trial=True, generation=2)
    world.watch(healthy(1))
    world.installation.windows.clear()
    spoil(world, "_pipeline.observe", lambda: IndexError("its fault"))
    world.watch(healthy(1))
    assert world.installation.windows == [(None, "judging failed: IndexError: its fault")]


def test_a_release_that_breaks_in_a_new_way_leaves_the_one_before_in_force(world: World) -> None:
    world.watch(healthy(100))
    spoil(world, "_pipeline.adopt", MemoryError)
    world.installation.give(2, is_trial=True, generation=2)
    world.watch(faulty(5))
    (anomaly,) = world.said(AnomalyEvent)
    assert isinstance(anomaly, AnomalyEvent)
    assert anomaly.release == "pump/1"
    assert "pump/2 cannot be used: MemoryError" in str(world.installation.windows[-1])


def test_only_a_stage_of_the_clock_that_never_works_ends_the_process_and_late() -> None:
    clock = SimpleNamespace(now_s=0.0)
    fence = Fence(Counters(), lambda: clock.now_s)

    def broken() -> None:
        raise ValueError("for good")

    while clock.now_s < GIVE_UP_S - 1:
        fence.run("sight", broken, None)
        fence.attempt("event", broken, None)
        clock.now_s += 1.0
    clock.now_s += LATER_S
    fence.attempt("event", broken, None)
    with pytest.raises(RestartNeededError, match=r"sight has failed \d+ times in .* ValueError: for good"):
        fence.run("sight", broken, None)


LATER_S = 120.0


def test_a_process_that_gives_up_says_goodbye_first(world: World) -> None:
    spoil(world, "_source.next_window", lambda: RestartNeededError("the source is beyond help"))
    with pytest.raises(RestartNeededError):
        world.agent.run()
    assert world.source.is_closed
    assert world.counters.has_said_farewell


def invitation() -> TrainingInvitation:
    return TrainingInvitation(
        run_id="run-1",
        family="pump",
        base_release="pump/1",
        layout_sha256="0" * 64,
        flower_address="127.0.0.1:1",
        issued_at=0.0,
        expires_at=4e9,
    )


def poison(draw: random.Random) -> bytes:
    """What a broker may hold for a device: noise, JSON that nobody meant, and well-formed messages with absurd numbers."""
    numbers = [
        "-1",
        "0",
        "1e999",
        "-1e308",
        "NaN",
        "9" * 400,
        str(2**62),
        str(2**63),
        str(MAX_INTEGER),
        "1.5",
        '"1"',
        "null",
        "[]",
    ]
    document = (
        '{"specversion":"1.0","id":"f/b/1","source":"f","type":"dev.fedge.%s.v1","time":"2027-01-15T08:00:00.250000Z",'
        '"datacontenttype":"application/json","bootid":"b","sequence":%s,"bootnumber":%s,"data":{"boots":[{"boot_id":"b1",'
        '"ranges":[[%s,%s]]}],"refused":[{"boot_id":"b1","sequence":%s,"reason":"x"}],"counter":%s,"until_s":%s,"release":'
        '"pump/%s","expires_at":%s,"run_id":"r","spread_s":%s}}'
    )
    kind = draw.choice(["ack", "desired", "normal", "training", "command", "nonsense"])
    whole = (document % (kind, *(draw.choice(numbers) for _ in range(10)))).encode()
    match draw.randrange(4):
        case 0:
            return draw.randbytes(draw.randrange(2000))
        case 1:
            return b"[" * draw.randrange(20_000)
        case 2:
            return whole[: draw.randrange(len(whole))]
        case _:
            return whole


def test_no_message_ends_the_loop(world: World) -> None:
    """Poison on every topic, well-formed messages with the largest numbers among it; each window is scored."""
    world.watch(healthy(100))
    draw = random.Random(13)
    topics = [
        f"fedge/v1/demo/{level}"
        for level in ("pump-07/ack", "pump-07/desired", "pump-07/commands", "training/pump", "x")
    ]
    for _ in range(100):
        world.link.arrived += [Message(topic=draw.choice(topics), payload=poison(draw)) for _ in range(10)]
        world.arrive(Kind.ACK, Ack(boots=(BootAck(boot_id="b1", ranges=((1, MAX_INTEGER),)),)))
        until_s = draw.choice([0.0, 4e9, 1e300, -1e300])
        order = Command(
            number=draw.choice([1, 2**31, MAX_INTEGER]),
            action=draw.choice(["accept-as-normal", "recommission", "x" * 64]),
            expires_at=until_s,
            arguments={"until_s": until_s, "afresh": "?"},
        )
        wishes = {"health.every_s": until_s, "detection.budget.alarms_per_1000_windows": -until_s}
        world.arrive(
            Kind.COMMANDS, Commands(counter=order.number, settings=wishes, outstanding=(order,) * 16)
        )
        world.arrive(Kind.TRAINING, invitation())
        world.source.rows += list(healthy(1))
        world.turn()
    assert world.counters.windows == 200
    assert world.counters.unjudged_windows == 0
    assert world.counters.stage_failures == 0
    world.watch(faulty(20))
    assert world.counters.anomalies == 1


def test_a_message_that_breaks_us_in_a_new_way_keeps_no_other_from_being_heard(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be decoded, one that the outbox chokes on, and a desired release between them."""

    def decode_or_break(payload: bytes, kind: Kind) -> object:
        if b"deep" in payload:
            raise RecursionError("deeper than anybody thought")
        return decode(payload, kind)

    def choke(acks: list[Ack], clock_s: float) -> int:
        if acks[0].boots[0].boot_id == "poison":
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        heard.extend(acks)
        return 0

    heard: list[Ack] = []
    monkeypatch.setattr("edge_agent.telemetry.decode", decode_or_break)
    monkeypatch.setattr(world.outbox, "acknowledge", choke)
    world.link.arrived.append(Message(topic="fedge/v1/demo/pump-07/desired", payload=b"deep"))
    for boot in ("poison", "b1"):
        world.arrive(Kind.ACK, Ack(boots=(BootAck(boot_id=boot, ranges=((1, 1),)),)))
    world.arrive(Kind.DESIRED, DESIRED)
    world.turn()
    assert world.installation.asked == [DESIRED]
    assert [ack.boots[0].boot_id for ack in heard] == ["b1"]
    assert (world.counters.malformed_downlinks, world.counters.stage_failures) == (2, 0)


YEAR_S = 365.25 * 86400
CLOCKS = [-80 * YEAR_S, 12 * YEAR_S, 8000 * YEAR_S, 1e18, float("inf"), float("nan")]


@pytest.mark.parametrize("wall_s", CLOCKS)
def test_no_clock_ends_the_loop(world: World, wall_s: float) -> None:
    """A wall clock that steps by decades, before 1970, beyond 9999, or that shows no number at all."""
    world.watch(healthy(100))
    world.wall_offset_s = wall_s
    world.arrive(Kind.TRAINING, invitation())
    world.watch(faulty(20))
    for _ in range(70):
        world.turn()
    assert (world.counters.windows, world.counters.anomalies) == (120, 1)
    assert world.counters.stage_failures == 0


def spoil_file(path: Path, content: bytes | None) -> None:
    path.parent.mkdir(exist_ok=True)
    for place in (path, *path.glob("*")):
        if place.is_file():
            place.unlink()
    if content is None:
        path.mkdir(exist_ok=True)
    elif path.is_dir():
        (path / "0000000000.rows").write_bytes(content)
    else:
        path.write_bytes(content)


STATE_FILES = [
    "status.json", "counters.json", "recommission.json", "detection.json", "standardiser.json", "drift.state",
    "commissioning.json", "detector.json", "outbox.sqlite", "learner_stats.json", "learner/last_run", "learner/pid",
    "buffer", "set_aside", "commissioning", "clock.json", "source.json",
]  # fmt: skip
CONTENTS = [b"", b"[" * 50_000, b"{", b"\0" * 100, b'{"windows": 1e400}', b"null", b"\xff" * 3000, None]


@pytest.mark.parametrize(
    ("names", "content"),
    [
        *((STATE_FILES, content) for content in [*CONTENTS[::2], None]),
        *(([name], CONTENTS[i % len(CONTENTS)]) for i, name in enumerate(STATE_FILES[::2])),
    ],
    ids=lambda value: repr(value)[:12] if isinstance(value, bytes | None) else f"{len(value)}-{value[0]}",
)
def test_no_file_in_the_state_directory_keeps_windows_from_being_scored(
    world: World, tmp_path: Path, names: list[str], content: bytes | None
) -> None:
    """Each file, and all together, replaced by rubbish or by a folder before a start."""
    world.watch(healthy(5))
    world.outbox.close()
    for name in names:
        spoil_file(world.paths.root / name, content)
    again = World(tmp_path, "b2")
    again.watch(healthy(100))
    again.watch(faulty(20))
    assert again.counters.anomalies == 1
    for _ in range(30):
        again.turn()
    again.watch(healthy(5))
    assert again.vitals.state is AgentState.WATCHING


def test_the_desired_release_is_handed_on_whatever_else_fails(world: World) -> None:
    spoil(world, "_learner.invite", MemoryError)
    world.arrive(Kind.TRAINING, invitation())
    world.arrive(Kind.DESIRED, DESIRED)
    world.turn()
    assert world.installation.asked == [DESIRED]

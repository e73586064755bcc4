"""A driver in a thread of its own: late is not lost, blocked is named and replaced, and whatever it raises stays with it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from agent_world import FEATURES, SPEC
from waiting import wait_until

from edge_agent.errors import RestartNeededError, SourceError
from edge_agent.source_host import (
    MOST_ABANDONED,
    REOPEN_AFTER_FAILURES,
    SAY_AFTER_S,
    SourceHost,
)
from edge_agent.sources.port import SourceWindow
from models.features import passthrough_spec

pytestmark = pytest.mark.edge
PATIENCE_S = 60.0


class Driver:
    """Gives windows 0, 1, 2, … of its own count; blocks, fails and closes as a test says."""

    def __init__(self, gives: int = 10**9, spec: object = SPEC) -> None:
        self.spec = spec
        self.left, self.count = gives, 0
        self.blocks, self.let_go = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.closed = 0

    @property
    def next_due_s(self) -> float:
        return -math.inf if self.left > 0 else math.inf

    def next_window(self, _now: float) -> SourceWindow | None:
        if self.blocks.is_set():
            self.let_go.wait()
            self.blocks.clear()
        if self.error is not None:
            raise self.error
        self.left -= 1
        self.count += 1
        return SourceWindow(
            samples=np.full((1, FEATURES), self.count, np.float32),
            observed_at_s=10.0 * self.count,
            index=self.count - 1,
        )

    def close(self) -> None:
        self.closed += 1


class Bench:
    """Hosts of drivers under a clock that a test moves; every thread that blocks is let go at the end."""

    def __init__(self, directory: Path) -> None:
        self.now_s = 1000.0
        self.memory = directory / "source.json"
        self.drivers: list[Driver] = []
        self.woken = threading.Event()
        self.stack = ExitStack()

    def host(self, make: Callable[[int], Driver]) -> SourceHost:
        def open_driver() -> Driver:
            made = make(len(self.drivers))
            self.drivers.append(made)
            return made

        host = SourceHost(
            open_driver,
            name="my:driver",
            answers_within_s=PATIENCE_S,
            memory=self.memory,
            clock=lambda: self.now_s,
            wake=self.woken.set,
        )
        self.stack.callback(host.close)
        self.stack.callback(lambda: [driver.let_go.set() for driver in self.drivers])
        return host

    def take(self, host: SourceHost, count: int) -> list[SourceWindow]:
        found: list[SourceWindow] = []

        def look() -> bool:
            while len(found) < count and (window := host.next_window(self.now_s)) is not None:
                found.append(window)
            return len(found) == count

        wait_until(look, f"{count} windows")
        return found

    def blocked(self, host: SourceHost, number: int) -> None:
        """Wait until driver `number` is in its call, and all it gave before is taken."""
        driver = self.drivers[number]
        driver.blocks.set()

        def look() -> bool:
            while host.next_window(self.now_s) is not None:
                pass
            return driver.blocks.is_set() and host._reader.asked_s is not None

        wait_until(look, "the call that blocks")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    with made.stack:
        yield made


def problem(host: SourceHost, bench: Bench) -> str:
    try:
        host.next_window(bench.now_s)
    except SourceError as error:
        return str(error)
    return ""


def test_every_window_arrives_in_order_however_slow_the_loop_is(bench: Bench) -> None:
    host = bench.host(lambda _: Driver(gives=500))
    wait_until(lambda: bench.drivers[0].count >= 30, "a driver that is ahead")
    assert bench.drivers[0].count < 40, "it does not run away from the loop"
    assert host.next_due_s == -math.inf
    windows = bench.take(host, 500)
    assert [window.index for window in windows] == list(range(500))
    wait_until(lambda: host.next_due_s == math.inf, "its end")
    assert bench.woken.is_set()


def test_a_driver_that_blocks_is_named_and_then_replaced_and_counting_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    host = bench.host(lambda _: Driver())
    bench.take(host, 5)
    bench.blocked(host, 0)
    last = bench.drivers[0].count
    bench.now_s += SAY_AFTER_S - 1
    assert problem(host, bench) == ""
    bench.now_s += 2
    assert problem(host, bench) == "the source my:driver has not answered for 11 s"
    bench.now_s += PATIENCE_S
    assert problem(host, bench) == "the source my:driver has not answered for 71 s"
    window = next_window_of(bench, host)
    assert (window.index, window.observed_at_s) == (last, 10.0 * last), (
        "it goes on where the one before stopped"
    )
    assert problem(host, bench) == ""
    assert bench.drivers[0].closed == 1
    assert caplog.text.count("source_silent source=my:driver") == 1
    assert caplog.text.count("source_restarted source=my:driver") == 1
    bench.drivers[0].let_go.set()
    assert all(w.index > window.index for w in bench.take(host, 50)), (
        "what came back too late is not mixed in"
    )


def test_a_driver_that_is_late_loses_no_window_and_is_given_three_times_as_long_the_next_time(
    bench: Bench,
) -> None:
    host = bench.host(lambda _: Driver(gives=100))
    bench.take(host, 3)
    for late_s in (PATIENCE_S - 1, 2 * PATIENCE_S, 5 * PATIENCE_S):
        driver = bench.drivers[0]
        bench.blocked(host, 0)
        due = driver.count
        bench.now_s += late_s
        assert "has not answered" in problem(host, bench)
        driver.let_go.set()
        window = next_window_of(bench, host)
        assert window.index == due
        driver.let_go.clear()
    assert len(bench.drivers) == 1


def test_a_driver_that_never_comes_back_is_replaced_so_often_and_then_the_process(bench: Bench) -> None:
    def make(_: int) -> Driver:
        driver = Driver()
        driver.blocks.set()
        return driver

    host = bench.host(make)

    def never() -> bool:
        bench.now_s += 30
        return problem(host, bench) == "never"

    with pytest.raises(RestartNeededError, match=r"my:driver has not answered for \d+ s, and 4 instances"):
        wait_until(never, "the end of patience")
    assert threading.active_count() < 20
    assert len(bench.drivers) == MOST_ABANDONED + 1


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        RecursionError("too deep"),
        MemoryError(),
        OSError(19, "gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_driver_raises_is_the_sources_failure_and_it_is_asked_again(
    bench: Bench, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.source_host.RETRY_S", 0.001)

    def make(number: int) -> Driver:
        driver = Driver()
        driver.error = error if number == 0 else None
        return driver

    host = bench.host(make)
    wait_until(lambda: type(error).__name__ in problem(host, bench), "the failure")
    wait_until(lambda: len(bench.drivers) > 1, f"another instance after {REOPEN_AFTER_FAILURES} failures")
    assert bench.drivers[0].closed == 1
    assert next_window_of(bench, host).index == 0


def test_a_driver_that_does_not_open_at_a_later_start_keeps_only_its_windows_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.source_host.RETRY_S", 0.001)
    bench.host(lambda _: Driver()).close()
    plugged = threading.Event()

    def make(_: int) -> Driver:
        if not plugged.is_set():
            raise SourceError("no such device /dev/spi7")
        return Driver()

    host = bench.host(make)
    assert host.spec == SPEC
    assert "no such device /dev/spi7" in problem(host, bench)
    plugged.set()
    assert next_window_of(bench, host).index == 0


def next_window_of(bench: Bench, host: SourceHost) -> SourceWindow:
    found: list[SourceWindow] = []

    def look() -> bool:
        try:
            found.extend([window] if (window := host.next_window(bench.now_s)) is not None else [])
        except SourceError:
            return False
        return bool(found)

    wait_until(look, "a window")
    return found[0]


def test_a_driver_that_nobody_has_seen_must_open(bench: Bench) -> None:
    def make(_: int) -> Driver:
        raise SourceError("no such device /dev/spi7")

    with pytest.raises(SourceError, match="no such device"):
        bench.host(make)


def test_a_driver_that_opens_late_with_other_columns_has_the_agent_started_anew_with_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.source_host.RETRY_S", 0.001)
    bench.host(lambda _: Driver()).close()
    others = passthrough_spec(("a", "b"))
    plugged = threading.Event()

    def make(_: int) -> Driver:
        if not plugged.is_set():
            raise SourceError("not yet")
        return Driver(gives=0, spec=others)

    host = bench.host(make)
    plugged.set()

    with pytest.raises(RestartNeededError, match="other columns"):
        wait_until(lambda: problem(host, bench) == "never", "the restart")
    plugged.clear()
    assert bench.host(make).spec == others


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 9000, b"\xff", b'{"factory": "my:driver"}', b'{"factory": "else", "spec": 1}'],
)
def test_a_damaged_memory_of_columns_is_none(bench: Bench, content: bytes) -> None:
    bench.memory.write_bytes(content)
    assert bench.host(lambda _: Driver()).spec == SPEC


def test_a_driver_that_closes_badly_ends_nothing(bench: Bench) -> None:
    class Bad(Driver):
        def close(self) -> None:
            raise SystemExit(3)

    host = bench.host(lambda _: Bad())
    bench.take(host, 2)
    host.close()
    assert not host._reader.thread.is_alive()

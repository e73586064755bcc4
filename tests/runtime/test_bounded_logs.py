"""A log cannot fill a disk, say the same for ever, or hold up who writes it."""

from __future__ import annotations

import io
import logging
import os
import random
import time
from collections.abc import Iterator

import pytest

from runtime.bounded_logs import BURST, EVERY_S, BoundedLog, LogBudget, UnblockedHandler

pytestmark = pytest.mark.edge


class Log:
    """A logger with a bounded handler, and a clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.text = io.StringIO()
        self.handler = logging.StreamHandler(self.text)
        self.handler.addFilter(BoundedLog(LogBudget(lambda: self.now_s)))
        self.logger = logging.Logger("edge_agent.test")
        self.logger.addHandler(self.handler)

    def lines(self) -> list[str]:
        return self.text.getvalue().splitlines()


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_driver_that_fails_with_another_text_each_time_costs_a_few_hundred_lines_a_day(log: Log) -> None:
    draw = random.Random(1)
    for _ in range(86_400 // 5):
        log.logger.warning("%s error=%s", "source_failed", f"read {draw.random()} bytes at {log.now_s}")
        log.now_s += 5
    lines = log.lines()
    assert len(lines) <= BURST + 86_400 / EVERY_S + 1
    assert lines[BURST + 1].endswith("(and 59 more like it)")
    assert sum(int(line.rpartition("(and ")[2].split()[0]) for line in lines if "(and" in line) >= 16_900


def test_what_else_is_said_is_not_lost_in_it(log: Log) -> None:
    for number in range(10_000):
        log.logger.warning("source_failed error=%d", number)
    log.logger.warning("release_committed release=pump/2")
    assert log.lines()[-1] == "release_committed release=pump/2"


def test_a_logger_that_makes_up_words_uses_up_its_own_budget_only(log: Log) -> None:
    foreign = logging.Logger("my_sensors")
    foreign.addHandler(log.handler)
    for number in range(20_000):
        foreign.warning("%d is too much", number)
    for number in range(20_000):
        made_up = logging.Logger(f"made.up.{number}")
        made_up.addHandler(log.handler)
        made_up.warning("x")
    assert len(log.lines()) < 64 + 128 + 3 * BURST
    log.logger.warning("source_failed error=gone")
    assert "source_failed error=gone" in log.lines()


@pytest.mark.parametrize(
    "text", ["x" * 10_000_000, "a\nFATAL forged line\n", "\x1b[2J\x07", "\ud800", "é\u2028b"]
)
def test_a_line_is_one_line_of_bounded_length_whatever_is_in_it(log: Log, text: str) -> None:
    log.logger.warning("source_failed error=%s", text)
    (line,) = log.lines()
    assert len(line) < 1100
    assert line.isprintable()


def test_a_line_that_cannot_be_formatted_is_said_all_the_same(log: Log) -> None:
    log.logger.warning("source_failed error=%d", "no number")
    assert log.lines() == ["unreadable_line 'source_failed error=%d'"]


def test_two_handlers_count_a_line_once(log: Log) -> None:
    second = logging.StreamHandler(io.StringIO())
    second.addFilter(log.handler.filters[0])
    log.logger.addHandler(second)
    for number in range(100):
        log.logger.warning("source_failed error=%d", number)
    assert len(log.lines()) == len(second.stream.getvalue().splitlines()) == BURST


def test_events_of_structlog_keep_their_form(log: Log) -> None:
    for number in range(100):
        log.logger.warning({"event": "event_refused", "number": number})  # type: ignore[arg-type] # as structlog hands it on
    log.now_s += EVERY_S
    log.logger.warning({"event": "event_refused", "number": 100})  # type: ignore[arg-type] # as above
    assert len(log.lines()) == BURST + 1
    assert log.lines()[-1] == "{'event': 'event_refused', 'number': 100, 'more_like_it': 70}"


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
        os.close(reader)


def test_a_reader_that_does_not_read_holds_nobody_up(pipe: tuple[int, io.TextIOWrapper]) -> None:
    reader, stream = pipe
    handler = UnblockedHandler(stream)
    logger = logging.Logger("edge_agent.test")
    logger.addHandler(handler)
    began_s = time.monotonic()
    for number in range(2000):
        logger.warning("%s %d", "x" * 900, number)
    assert time.monotonic() - began_s < 60
    os.read(reader, 1 << 20)
    logger.warning("source_failed")
    told = os.read(reader, 1 << 20).decode()
    assert told.startswith("source_failed (and ")
    assert told.endswith(" lines before it that nobody read)\n")

"""A device whose owner lets no window leave: nothing that leaves holds one, whoever asks, and whatever waited before."""

from __future__ import annotations

import base64
import gzip
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agent_loop_world import SIGHT, World
from agent_world import healthy
from commands_world import order
from outbox_world import WINDOW, anomaly, event, moment, send
from test_commands_in_the_loop import results_of, words

from edge_agent.commands.status_table import print_status
from edge_agent.errors import SourceError
from edge_agent.outbox import Outbox
from edge_agent.settings import OutboxSettings
from protocol.messages.envelope import decode
from protocol.messages.payloads import AnomalyEvent, Health

pytestmark = pytest.mark.edge
WITHHELD = "[privacy]\nsend_windows = false\n"


def everything_that_left(world: World) -> str:
    """All messages as text, what is packed in them unpacked."""
    reports = [result.report for number in (5, 6) for result in results_of(world, number) if result.report]
    bundles = [gzip.decompress(base64.b64decode(report)) for report in reports]
    return b"\n".join([*world.link.sent, *bundles]).decode()


def numbers_in(text: str) -> np.ndarray:
    return np.array([float(found) for found in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)])


def hears_of(world: World, rows: np.ndarray) -> tuple[bool, bool]:
    """Whether what left holds a sample of `rows` as a number, and whether as bytes."""
    said = everything_that_left(world)
    found = numbers_in(said)
    as_number = any(np.isclose(found, value, rtol=1e-4, atol=0).any() for value in rows.ravel())
    encoded = [base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode()[:32] for row in rows]
    return as_number, any(one in said for one in encoded)


def a_fault_is_seen(world: World) -> np.ndarray:
    """A device that is asked for everything while it watches a fault, by a driver that quotes what it reads."""
    logger = logging.getLogger("edge_agent.test")
    logger.addHandler(world.ring)
    fault = healthy(12, 7) * 37.13 + 911.7
    world.watch(healthy(150))
    world.watch(fault)
    quoted = "; ".join(f"{value:.6f}" for value in fault[0])
    logger.warning("driver_said row=[%s]", quoted)
    words(world, order(5, "diagnose"))
    world.source.error = SourceError(f"cannot read '{quoted}'")
    world.watch(healthy(120))
    world.source.error = None
    words(world, order(6, "diagnose"))
    world.watch(healthy(120))
    logger.removeHandler(world.ring)
    return fault


def test_no_sample_of_a_fault_leaves_in_any_message_bundle_or_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, more=WITHHELD)
    fault = a_fault_is_seen(world)
    opened = [one for one in world.said(AnomalyEvent) if isinstance(one, AnomalyEvent)]
    assert opened
    assert {(one.window, one.window_shape, one.window_withheld) for one in opened} == {("", (), True)}
    assert hears_of(world, fault) == (False, False)
    assert any("cannot read" in text for one in world.said(Health) for text in one.problems)  # type: ignore[union-attr]
    assert not world.status().sends_windows
    print_status(world.status(), SIGHT)
    assert "withheld by the owner" in " ".join(capsys.readouterr().out.split())


def test_with_windows_the_same_fault_is_heard_of_by_its_window_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    fault = a_fault_is_seen(world)
    opened = [one for one in world.said(AnomalyEvent) if isinstance(one, AnomalyEvent)]
    assert all(one.window and one.window_withheld is not True for one in opened)
    assert hears_of(world, fault) == (False, True), "or the test above sees nothing"


def test_a_fleet_cannot_switch_windows_on(tmp_path: Path) -> None:
    world = World(tmp_path, more=WITHHELD)
    world.watch(healthy(150))
    words(world, order(10, "send-windows"), privacy__send_windows=1.0)
    world.watch(healthy(12, 7) * 40)
    told = {one.name: one.refused for one in world.status().settings}
    assert "no such setting that a fleet may change" in told["privacy.send_windows"]
    assert all(not one.window for one in world.said(AnomalyEvent))  # type: ignore[union-attr]


def test_windows_that_waited_or_were_parked_before_the_owners_word_do_not_leave(tmp_path: Path) -> None:
    before = Outbox.open(tmp_path / "outbox.sqlite", OutboxSettings(), now=moment(), draw=lambda: 0.0)
    before.put([event(1, anomaly(WINDOW)), event(2, anomaly(WINDOW)), event(3, anomaly())], now=moment())
    before._park(event(2, anomaly(WINDOW)), "too large")
    before.close()
    outbox = Outbox.open(
        tmp_path / "outbox.sqlite", OutboxSettings(), now=moment(), draw=lambda: 0.0, withholds_windows=True
    )
    assert outbox.retry_parked() == 1
    outbox.put([event(4, anomaly(WINDOW))], now=moment())
    sent = {entry.sequence: decode(entry.payload).data for clock in range(4) for entry in send(outbox, clock)}
    assert sorted(sent) == [1, 2, 3, 4]
    assert all(
        isinstance(one, AnomalyEvent) and (one.window, one.window_withheld) == ("", True)
        for one in sent.values()
    )
    outbox.close()
    again = Outbox.open(tmp_path / "outbox.sqlite", OutboxSettings(), now=moment(), draw=lambda: 0.0)
    assert not any(decode(entry.payload).data.window for entry in again.due(100.0)), (
        "switched on again, those stay away"
    )  # type: ignore[union-attr]


def test_an_anomaly_that_cannot_be_read_is_parked_because_a_window_may_be_in_it(tmp_path: Path) -> None:
    outbox = Outbox.open(
        tmp_path / "outbox.sqlite", OutboxSettings(), now=moment(), draw=lambda: 0.0, withholds_windows=True
    )
    torn = replace(event(1, anomaly(WINDOW)), payload=b'{"specversion":"1.0","data":{"window":"AAAA')
    outbox._kept.put([torn], moment(), 0.0)
    outbox.put([event(2, anomaly())], now=moment())
    assert [entry.sequence for entry in send(outbox)] == [2]
    assert [parked.reason.partition(",")[0] for parked in outbox.parked] == ["no window may leave"]

"""Rounds over Flower: real server, real learner processes, TLS on loopback."""

from __future__ import annotations

import json
import signal
import threading

import flower_world as world
import numpy as np
import pytest
from flower_rounds_world import (
    LAYOUT,
    PARAMETERS,
    bundle,
    collect,
    devices,
    honest,
    online,
    server,
    tls,
)
from waiting import AMPLE_S, wait_until

from aggregator.errors import FlowerRunEndedError
from aggregator.flower.server import FlowerServer, RunEnd
from aggregator.rounds.admission import admit_assessment
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion, PlainCollector
from aggregator.rounds.reports import QuorumMissedError
from protocol.names import DeviceId
from protocol.questions import AssessQuestion, assess_layout

pytestmark = pytest.mark.slow

__all__ = ["bundle", "devices", "server", "tls"]  # the fixtures


def test_learner_processes_train_and_assess_together_and_end_on_sigterm(
    server: FlowerServer, devices: list[world.Device]
) -> None:
    run = server.start_run()
    cohort = devices[:2]
    with world.learners(cohort, server.port) as children:
        online(server, *cohort)
        result = collect(server, run, cohort, quorum=2)
        parts = LAYOUT.unpack(result.total)
        assert parts["votes"] == [2]
        assert result.total.dtype == np.float64
        assert sorted(result.participants) == ["press-0", "press-1"]
        candidate = (PARAMETERS + parts["update"] / 2).astype(np.float32)
        layout = assess_layout(world.ARCHITECTURE.tensor_count, 6)
        assessed = PlainCollector(server.link(run)).collect(
            CohortQuestion(
                question=AssessQuestion(
                    run_id="run-1",
                    layout_sha256=world.ARCHITECTURE.layout_sha256,
                    profile_sha256=world.PROFILE.sha256,
                ),
                arrays={"candidate": candidate},
                layout=layout,
                admission=admit_assessment(),
            ),
            Cohort(devices=tuple(device.id for device in cohort), quorum=2),
            deadline_s=AMPLE_S,
        )
        graded = layout.unpack(assessed.total)
        assert graded["examples"] == [80]  # 200 rows each, every fifth held out
        assert graded["candidate_loss"] < graded["champion_loss"]
        for child in children.values():
            child.send_signal(signal.SIGTERM)
        assert [child.wait() for child in children.values()] == [0, 0]
    wait_until(lambda: not server.online_devices(), "both said goodbye")
    stats = json.loads(cohort[0].paths.learner_stats.read_bytes())
    assert (stats["state"], stats["rounds"]) == ("ended", 1)
    assert stats["sent_bytes"] > 0
    assert stats["received_bytes"] > 0
    assert server.traffic(run).from_devices_bytes > 0


def test_nan_answer_is_refused_by_name_and_the_round_goes_on(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()

    def poisoned(question: object, arrays: object) -> np.ndarray:
        vector = honest(question, arrays)
        vector[3] = np.nan
        return vector

    with (
        world.answering_device(devices[0], server.port, tls, poisoned),
        world.answering_device(devices[1], server.port, tls, honest),
    ):
        online(server, *devices[:2])
        result = collect(server, run, devices[:2])
    assert result.participants == ("press-1",)
    (refusal,) = result.refused
    assert refusal.device == "press-0"
    assert "1 NaN or infinite entries" in refusal.reason
    np.testing.assert_array_equal(result.total, honest(None, None).astype(np.float64))


def test_error_and_wrong_layout_are_named_failures(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()

    def broken(_question: object, _arrays: object) -> np.ndarray:
        raise ZeroDivisionError("no rows")

    with (
        world.answering_device(devices[0], server.port, tls, broken),
        world.answering_device(devices[1], server.port, tls, lambda *_: np.zeros(3, np.float32)),
    ):
        online(server, *devices[:2])
        with pytest.raises(QuorumMissedError, match="0 of 2 devices") as missed:
            collect(server, run, devices[:2])
    reasons = {r.device: r.reason for r in missed.value.report.refused}
    assert reasons[DeviceId("press-0")] == "refused: FAILED"
    assert "shape (3,)" in reasons[DeviceId("press-1")]


def test_round_closes_early_with_enough_answers(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    let_go = threading.Event()

    def slow(question: object, arrays: object) -> np.ndarray:
        let_go.wait()
        return honest(question, arrays)

    with (
        world.answering_device(devices[0], server.port, tls, honest),
        world.answering_device(devices[1], server.port, tls, slow),
    ):
        online(server, *devices[:2])
        result = collect(server, run, devices[:2], enough=1)
        let_go.set()
    assert (result.participants, result.spared, result.lost) == (("press-0",), ("press-1",), ())


def test_question_in_a_finished_run_says_so(server: FlowerServer, devices: list[world.Device]) -> None:
    run = server.start_run()
    server.finish_run(run, RunEnd.COMPLETED)
    with pytest.raises(FlowerRunEndedError):
        collect(server, run, devices[:1])

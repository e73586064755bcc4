"""Real server, real learner processes, TLS on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import flower_world as world
import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator.errors import FlowerListenError, FlowerRunEndedError, QuorumMissedError
from aggregator.flower.server import FlowerRun, FlowerServer, FlowerServerSettings, RunEnd
from aggregator.rounds.admission import admit_assessment, admit_update
from aggregator.rounds.cohort_link import CohortSum
from aggregator.rounds.collector import PlainCollector
from edge_agent.errors import AggregatorAnswerError, AggregatorRefusedError
from edge_agent.learner import upstream as device_side
from edge_agent.learner.flower_client import FlowerClient
from models.architecture import initial_parameters
from protocol.names import DeviceId
from protocol.questions import AssessQuestion, FitQuestion, assess_layout, fit_layout

PARAMETERS = initial_parameters(world.ARCHITECTURE, 3)
LAYOUT = fit_layout(len(PARAMETERS))
ADMISSION = admit_update(norm_limit=10.0)


@pytest.fixture(scope="session")
def bundle() -> bytes:
    return world.build_bundle()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> world.Tls:
    return world.make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(tmp_path: Path, tls: world.Tls) -> Iterator[FlowerServer]:
    settings = FlowerServerSettings(tls_cert=tls.cert, tls_key=tls.key, data_dir=tmp_path / "aggregator")
    with FlowerServer(settings) as running:
        yield running


@pytest.fixture
def devices(tmp_path: Path, bundle: bytes, tls: world.Tls, server: FlowerServer) -> list[world.Device]:
    made = [world.make_device(tmp_path, f"press-{i}", bundle, tls, seed=i) for i in range(3)]
    server.sync_roster({device.id: device.public_key for device in made})
    return made


def fit(round_number: int = 1, layout: str = world.ARCHITECTURE.layout_sha256) -> FitQuestion:
    return FitQuestion(
        run_id="run-1",
        round_number=round_number,
        layout_sha256=layout,
        epochs=1,
        batch_size=32,
        learning_rate=0.05,
    )


def honest(_question: object, _arrays: object) -> np.ndarray:
    parts = {
        "weighted_update": np.full(len(PARAMETERS), 0.5),
        "examples": np.array([10.0]),
        "loss_before": np.array([2.0]),
        "loss_after": np.array([1.0]),
    }
    return LAYOUT.pack(parts)


def collect(
    server: FlowerServer,
    run: FlowerRun,
    cohort: list[world.Device],
    *,
    deadline_s: float = 20.0,
    quorum: int = 1,
    enough: int | None = None,
    question: FitQuestion | None = None,
) -> CohortSum:
    return PlainCollector(server.link(run)).collect(
        question or fit(),
        {"parameters": PARAMETERS},
        LAYOUT,
        [device.id for device in cohort],
        admission=ADMISSION,
        deadline_s=deadline_s,
        quorum=quorum,
        enough=enough,
    )


def online(server: FlowerServer, *cohort: world.Device) -> None:
    ids = {device.id for device in cohort}
    world.wait_until(lambda: ids <= server.online_devices(), f"{sorted(ids)} online")


def test_learner_processes_train_and_assess_together_and_end_on_sigterm(
    server: FlowerServer, devices: list[world.Device]
) -> None:
    run = server.start_run()
    cohort = devices[:2]
    with world.learners(cohort, server.port) as children:
        online(server, *cohort)
        result = collect(server, run, cohort, quorum=2)
        parts = LAYOUT.unpack(result.total)
        assert parts["examples"] == [320]  # 200 rows each, every fifth held out
        assert parts["loss_after"] < parts["loss_before"]
        assert result.total.dtype == np.float64
        assert sorted(result.participants) == ["press-0", "press-1"]
        candidate = (PARAMETERS + parts["weighted_update"] / 320).astype(np.float32)
        layout = assess_layout(world.ARCHITECTURE.tensor_count, 6)
        assessed = PlainCollector(server.link(run)).collect(
            AssessQuestion(run_id="run-1", layout_sha256=world.ARCHITECTURE.layout_sha256),
            {"candidate": candidate, "champion": PARAMETERS},
            layout,
            [device.id for device in cohort],
            admission=admit_assessment(),
            deadline_s=20,
            quorum=2,
        )
        graded = layout.unpack(assessed.total)
        assert graded["examples"] == [80]
        assert graded["candidate_loss"] < graded["champion_loss"]
        for child in children.values():
            child.send_signal(signal.SIGTERM)
        assert [child.wait(5) for child in children.values()] == [0, 0]
    world.wait_until(lambda: not server.online_devices(), "both said goodbye")
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
    assert "ZeroDivisionError: no rows" in reasons[DeviceId("press-0")]
    assert "shape (3,)" in reasons[DeviceId("press-1")]


def test_device_that_vanishes_in_the_round_is_lost_at_the_deadline_and_late_answers_are_dropped(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    let_go = threading.Event()

    def stuck(question: object, arrays: object) -> np.ndarray:
        let_go.wait(20)
        return honest(question, arrays)

    with (
        world.answering_device(devices[0], server.port, tls, stuck),
        world.answering_device(devices[1], server.port, tls, honest),
    ):
        online(server, *devices[:2])
        first = collect(server, run, devices[:2], deadline_s=2.0)
        assert (first.participants, first.lost) == (("press-1",), ("press-0",))
        assert 2.0 <= first.seconds < 4.0
        let_go.set()
        second = collect(server, run, devices[:2], question=fit(2))
        assert sorted(second.participants) == ["press-0", "press-1"]
        np.testing.assert_array_equal(second.total, 2 * honest(None, None).astype(np.float64))


def test_device_that_goes_offline_is_lost_at_once(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    client = FlowerClient(f"127.0.0.1:{server.port}", tls.ca, devices[0].key, now=time.time)
    client.activate()
    leaver = threading.Timer(0.5, client.deactivate)
    leaver.start()
    with pytest.raises(QuorumMissedError) as missed:
        collect(server, run, devices[:1], deadline_s=20.0)
    leaver.join()
    client.close()
    assert missed.value.report.lost == ("press-0",)
    assert missed.value.report.seconds < 10


def test_round_closes_early_with_enough_answers(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    let_go = threading.Event()

    def slow(question: object, arrays: object) -> np.ndarray:
        let_go.wait(20)
        return honest(question, arrays)

    with (
        world.answering_device(devices[0], server.port, tls, honest),
        world.answering_device(devices[1], server.port, tls, slow),
    ):
        online(server, *devices[:2])
        result = collect(server, run, devices[:2], enough=1)
        let_go.set()
    assert (result.participants, result.spared, result.lost) == (("press-0",), ("press-1",), ())
    assert result.seconds < 10


def test_killed_learner_comes_back_at_once_and_takes_part_in_the_next_round(
    server: FlowerServer, devices: list[world.Device]
) -> None:
    run = server.start_run()
    with world.learners(devices[:1], server.port) as children:
        online(server, devices[0])
        children[devices[0].id].kill()
        children[devices[0].id].wait()
        assert devices[0].id in server.online_devices()  # Flower cannot know yet
        devices[0].paths.learner_stats.unlink()
        children[devices[0].id] = world.start_learner(devices[0])
        world.wait_until(
            lambda: (
                devices[0].paths.learner_stats.exists()
                and b'"waiting"' in devices[0].paths.learner_stats.read_bytes()
            ),
            "the second learner waits",
        )
        assert collect(server, run, devices[:1]).participants == ("press-0",)


def test_stranger_and_removed_device_are_refused(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    stranger = FlowerClient(
        f"127.0.0.1:{server.port}", tls.ca, ec.generate_private_key(ec.SECP256R1()), now=time.time
    )
    with pytest.raises(AggregatorRefusedError, match="401"):
        stranger.activate()
    member = FlowerClient(f"127.0.0.1:{server.port}", tls.ca, devices[0].key, now=time.time)
    member.activate()
    assert member.pull() is None
    change = server.sync_roster({devices[1].id: devices[1].public_key})
    assert change.removed == ("press-0", "press-2")
    with pytest.raises(AggregatorRefusedError, match="roster"):
        member.pull()
    server.sync_roster({d.id: d.public_key for d in devices})
    assert member.pull() is None
    late = FlowerClient(f"127.0.0.1:{server.port}", tls.ca, devices[1].key, now=lambda: time.time() - 3600)
    with pytest.raises(AggregatorRefusedError):
        late.activate()
    for client in (stranger, member, late):
        client.close()


def test_device_cannot_answer_in_the_name_of_another(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    link = server.link(run)
    victim, thief = (
        FlowerClient(f"127.0.0.1:{server.port}", tls.ca, d.key, now=time.time) for d in devices[:2]
    )
    victim.activate()
    thief.activate()
    tickets = link.ask([devices[0].id], fit(), {"parameters": PARAMETERS}, lifetime_s=20)
    question = victim.pull()
    assert question is not None
    forged = device_side.Message(device_side.RecordDict(), reply_to=question)
    with pytest.raises(AggregatorAnswerError, match="403"):
        thief.reply(forged, 0.0)
    assert link.replies(list(tickets), wait_s=0.1) == []
    victim.close()
    thief.close()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/v1/control/start-run",
        "/v1/runtime/push-messages",
        "/v1/fleet/nothing",
    ],
)
def test_nothing_but_the_fleet_api_is_served(server: FlowerServer, tls: world.Tls, path: str) -> None:
    context = ssl.create_default_context(cafile=str(tls.ca))
    with httpx.Client(verify=context, base_url=f"https://127.0.0.1:{server.port}") as client:
        assert client.get(path).status_code in {404, 413}
        assert client.post(path, content=b"x").status_code in {404, 405, 415}


def test_oversized_and_unsigned_requests_are_refused(tmp_path: Path, tls: world.Tls) -> None:
    settings = FlowerServerSettings(
        tls_cert=tls.cert, tls_key=tls.key, data_dir=tmp_path / "small", maximum_request_bytes=1000
    )
    context = ssl.create_default_context(cafile=str(tls.ca))
    headers = {"content-type": "application/protobuf"}
    with FlowerServer(settings) as running, httpx.Client(verify=context) as client:
        url = f"https://127.0.0.1:{running.port}/v1/fleet/pull-messages"
        assert client.post(url, content=b"x" * 1001, headers=headers).status_code == 413
        assert client.post(url, content=iter([b"x"]), headers=headers).status_code == 413
        assert client.post(url, content=b"", headers=headers).status_code == 401


def test_port_in_use_and_bad_certificate_are_said_in_one_line(tmp_path: Path, tls: world.Tls) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = FlowerServerSettings(
            port=port, tls_cert=tls.cert, tls_key=tls.key, data_dir=tmp_path / "a"
        )
        with pytest.raises(FlowerListenError, match=f"127.0.0.1:{port}.*in use"):
            FlowerServer(settings).start()
    settings = FlowerServerSettings(tls_cert=tls.ca, tls_key=tls.key, data_dir=tmp_path / "a")
    with pytest.raises(FlowerListenError, match="cannot be used"):
        FlowerServer(settings).start()


def test_question_in_a_finished_run_says_so(server: FlowerServer, devices: list[world.Device]) -> None:
    run = server.start_run()
    server.finish_run(run, RunEnd.COMPLETED)
    with pytest.raises(FlowerRunEndedError):
        collect(server, run, devices[:1])


def test_learners_wait_for_a_killed_aggregator_and_go_on_with_it(
    tmp_path: Path, bundle: bytes, tls: world.Tls
) -> None:
    cohort = [world.make_device(tmp_path, f"press-{i}", bundle, tls, seed=i) for i in range(2)]
    data = tmp_path / "aggregator"
    (data / "keys").mkdir(parents=True)
    for device in cohort:
        (data / "keys" / f"{device.id}.pem").write_bytes(device.public_key)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("run_flower_server.py")),
                str(data),
                str(port),
                str(tls.cert),
                str(tls.key),
            ],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def rounds() -> list[list[str]]:
        return [json.loads(line) for line in (data / "rounds.jsonl").read_text().splitlines()]

    (data / "rounds.jsonl").touch()
    aggregator = start()
    try:
        with world.learners(cohort, port) as children:
            world.wait_until(lambda: len(rounds()) >= 2, "two rounds before the kill")
            aggregator.kill()
            aggregator.wait()
            before = len(rounds())
            world.wait_until(
                lambda: b"reconnecting" in cohort[0].paths.learner_stats.read_bytes(), "the learner notices"
            )
            aggregator = start()
            world.wait_until(lambda: len(rounds()) >= before + 2, "two rounds after the restart")
            assert all(child.poll() is None for child in children.values())
        assert all(sorted(r) == ["press-0", "press-1"] for r in rounds()[-1:])
    finally:
        aggregator.kill()
        aggregator.wait()


def test_learner_that_is_not_ready_says_why_with_exit_code_3(
    tmp_path: Path, bundle: bytes, tls: world.Tls
) -> None:
    device = world.make_device(tmp_path, "press-9", bundle, tls, rows=10)
    world.invite(device, 1)
    few = world.start_learner(device)
    world.invite(device, 1, layout="0" * 64)
    other = world.start_learner(device)
    assert few.wait(20) == 3
    assert other.wait(20) == 3
    log = (device.directory / "learner.log").read_text()
    assert "not ready" in log

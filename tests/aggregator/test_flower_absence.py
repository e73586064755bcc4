"""Who is missing from a round: devices that vanish, learners killed or not ready, a killed aggregator."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import flower_world as world
import numpy as np
import pytest
from flower_rounds_world import bundle, collect, devices, fit, honest, online, server, tls
from msgspec.structs import replace
from waiting import AMPLE_S, slowness, wait_until

from aggregator.flower.server import FlowerServer
from aggregator.rounds.reports import QuorumMissedError
from edge_agent.errors import AggregatorAnswerError
from edge_agent.learner.anchor import _keep, read_anchor
from edge_agent.learner.flower_internals import Message, RecordDict

pytestmark = pytest.mark.slow

__all__ = ["bundle", "devices", "server", "tls"]  # the fixtures


def test_device_that_vanishes_in_the_round_is_lost_at_the_deadline_and_late_answers_are_dropped(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    let_go = threading.Event()

    def stuck(question: object, arrays: object) -> np.ndarray:
        let_go.wait()
        return honest(question, arrays)

    with (
        world.answering_device(devices[0], server.port, tls, stuck),
        world.answering_device(devices[1], server.port, tls, honest),
    ):
        online(server, *devices[:2])
        deadline_s = 2.0 * slowness()
        first = collect(server, run, devices[:2], deadline_s=deadline_s)
        assert (first.participants, first.lost) == (("press-1",), ("press-0",))
        assert first.seconds >= deadline_s
        let_go.set()
        second = collect(server, run, devices[:2], question=fit(2))
        assert sorted(second.participants) == ["press-0", "press-1"]
        np.testing.assert_array_equal(second.total, 2 * honest(None, None).astype(np.float64))


def test_a_device_hears_that_nobody_waits_for_its_late_answer(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    client = world.connect(server.port, tls, devices[0].key)
    client.activate()
    pulled: list[Message] = []

    def pull() -> None:
        while not pulled:
            pulled.extend(message for message in [client.pull()] if message is not None)

    puller = threading.Thread(target=pull)
    puller.start()
    with pytest.raises(QuorumMissedError):
        collect(server, run, devices[:1], deadline_s=2.0 * slowness())
    puller.join()
    try:
        with pytest.raises(AggregatorAnswerError, match="nobody waits"):
            client.reply(Message(RecordDict(), reply_to=pulled[0]))
    finally:
        client.close()


def test_device_that_goes_offline_is_lost_at_once(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    client = world.connect(server.port, tls, devices[0].key)
    client.activate()
    leaver = threading.Timer(0.5, client.deactivate)
    leaver.start()
    with pytest.raises(QuorumMissedError) as missed:
        collect(server, run, devices[:1], deadline_s=AMPLE_S)
    leaver.join()
    client.close()
    assert missed.value.report.lost == ("press-0",)


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
        wait_until(
            lambda: (
                devices[0].paths.learner_stats.exists()
                and b'"waiting"' in devices[0].paths.learner_stats.read_bytes()
            ),
            "the second learner waits",
        )
        assert collect(server, run, devices[:1]).participants == ("press-0",)


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
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    map(str, (Path(__file__).parents[2], Path(__file__).parents[1]))
                ),
            },
        )

    def rounds() -> list[list[str]]:
        return [json.loads(line) for line in (data / "rounds.jsonl").read_text().splitlines()]

    (data / "rounds.jsonl").touch()
    aggregator = start()
    try:
        with world.learners(cohort, port) as children:
            wait_until(lambda: len(rounds()) >= 2, "two rounds before the kill")
            aggregator.kill()
            aggregator.wait()
            before = len(rounds())
            wait_until(
                lambda: b"reconnecting" in cohort[0].paths.learner_stats.read_bytes(), "the learner notices"
            )
            aggregator = start()
            wait_until(lambda: len(rounds()) >= before + 2, "two rounds after the restart")
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
    assert few.wait() == 3
    assert other.wait() == 3
    # Somebody approved a release that is trained otherwise than the one that runs.
    world.invite(device, 1)
    approved = read_anchor(device.paths)
    _keep(device.paths.anchor, replace(approved, profile=replace(world.PROFILE, batch_size=1)))
    assert world.start_learner(device).wait() == 3
    log = (device.directory / "learner.log").read_text()
    assert "not ready" in log
    assert "has another training profile than press/1" in log

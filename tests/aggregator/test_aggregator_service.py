"""The aggregator as a process: the whole way with real learners, kill -9 in the middle, and what it says when it cannot start."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import paho.mqtt.client as paho
import pytest
from aggregator_service_world import (
    AggregatorProcess,
    EmbeddedBroker,
    HttpFleet,
    run_cli,
    serve_fleet,
    write_config,
    write_release_key,
)
from command_line import run_command
from flower_world import (
    RELEASE_KEY,
    Device,
    FamilyFleet,
    Tls,
    build_bundle,
    make_device,
    make_tls,
    start_learner,
)
from free_ports import free_port
from secret_file import secret_file
from waiting import AMPLE_S, wait_until

from aggregator import app
from aggregator.cli import cli
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.limits import OwnerLimits
from models.bundles import read_bundle
from protocol.bundle import TrustedKeys, open_bundle, peek_manifest
from protocol.messages.envelope import decode
from protocol.messages.payloads import TrainingInvitation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return build_bundle()


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    write_release_key(tmp_path / "release.key", RELEASE_KEY)
    return make_tls(tmp_path)


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    made = EmbeddedBroker()
    made.start()
    yield made
    made.close()


@pytest.fixture
def fleet(tls: Tls, bundle: bytes) -> Iterator[HttpFleet]:
    with serve_fleet(HttpFleet(bundles={"press/1": bundle}), tls) as served:
        yield served


class Invitations:
    """A device's ear on the training topic."""

    def __init__(self, port: int) -> None:
        self.heard: queue.Queue[bytes] = queue.Queue()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _data, message: self.heard.put(message.payload)
        self._client.on_connect = lambda client, *_: client.subscribe("fedge/v1/demo/training/press", qos=1)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def next(self) -> TrainingInvitation | None:
        """The next message: an invitation, or None where it was cleared."""
        payload = self.heard.get(timeout=AMPLE_S)
        if not payload:
            return None
        data = decode(payload).data
        assert isinstance(data, TrainingInvitation)
        return data

    def next_invitation(self) -> TrainingInvitation:
        while (invitation := self.next()) is None:
            pass
        return invitation

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def start_learners(devices: list[Device], invitation: TrainingInvitation) -> list[subprocess.Popen[bytes]]:
    """What each agent does on an invitation."""
    children = []
    for device in devices:
        device.paths.learner.mkdir(exist_ok=True)
        device.paths.invitation.write_bytes(msgspec.json.encode(invitation))
        children.append(start_learner(device))
    return children


@pytest.fixture
def devices(tmp_path: Path, bundle: bytes, tls: Tls, fleet: HttpFleet) -> Iterator[list[Device]]:
    with FamilyFleet().serving(tls) as family:
        made = [make_device(tmp_path, f"press-{i}", bundle, tls, seed=i, fleet=family) for i in range(3)]
        _enlist(fleet, made)
        yield made


def _enlist(fleet: HttpFleet, made: list[Device]) -> None:
    fleet.devices = [
        {
            "id": device.id,
            "family": "press",
            "state": "enrolled",
            "online": True,
            "public_key": device.public_key.decode(),
        }
        for device in made
    ]


@pytest.mark.slow
def test_drift_starts_a_run_that_survives_kill_9_and_ends_with_a_release_and_its_rollout(
    tmp_path: Path, tls: Tls, fleet: HttpFleet, broker: EmbeddedBroker, devices: list[Device]
) -> None:
    config = write_config(
        tmp_path,
        tls,
        fleet.port,
        broker.port,
        'detector = "mixture"\n[family.training]\nlearning_rate = 0.1\nepochs = 20\n[family.trigger]\ndrift_share = 0.5\ncooldown_s = 600\n'
        "[family.rollout]\ntarget_query = 'family==press'\n",
    )
    aggregator, ear = AggregatorProcess(config, tls), Invitations(broker.port)
    children: list[subprocess.Popen[bytes]] = []
    try:
        aggregator.start()
        fleet.drift_since = {"press-0": time.time(), "press-1": time.time()}
        invitation = ear.next_invitation()
        children = start_learners(devices, invitation)
        wait_until(lambda: aggregator.runs()[0]["finished_rounds"] >= 1, "the first round")
        aggregator.kill()
        aggregator.start()
        assert ear.next_invitation().run_id == invitation.run_id
        run = aggregator.wait_for("COMPLETED")
        assert (run["trigger"], run["release"], run["rollout"]) == ("drift", "press/2", "r1")
        assert [entry["number"] for entry in run["rounds"] if not entry["void"]] == [1, 2, 3]
        assert run["participants"] == ["press-0", "press-1", "press-2"]
        assert run["privacy"]["server"]["epsilon"] is None
        manifest = peek_manifest(fleet.bundles["press/2"])
        assert manifest.provenance.privacy is not None
        assert manifest.provenance.privacy.rounds.used >= 4
        # What each device has given stands in its own account, whatever the aggregator remembers.
        account = DeviceAccount(devices[0].paths.privacy, OwnerLimits())
        assert account.spending().participations >= 4
        account.close()
        prior = read_bundle(
            open_bundle(fleet.bundles["press/2"], TrustedKeys([RELEASE_KEY.public_key()]))
        ).prior
        assert prior is not None
        # Of three real learner processes, each with its own scale, under masks.
        assert prior.devices == 3
        np.testing.assert_allclose(np.sqrt(prior.scale.variance), np.arange(1, 7), rtol=0.1)
        assert fleet.rollouts[0]["state"] == "RUNNING"
        while ear.next() is not None:
            pass
        assert len(aggregator.runs()) == 1
        shown = run_command("aggregator", "runs", run["id"], *aggregator.client_options, "--json")
        assert json.loads(shown.stdout)["state"] == "COMPLETED"
        assert aggregator.terminate() == 0, aggregator.log()
    finally:
        ear.close()
        aggregator.close()
        for child in children:
            child.kill()
            child.wait()


def test_a_broker_that_forgot_everything_gets_the_invitation_again(
    tmp_path: Path, tls: Tls, fleet: HttpFleet, broker: EmbeddedBroker, devices: list[Device]
) -> None:
    aggregator = AggregatorProcess(write_config(tmp_path, tls, fleet.port, broker.port), tls)
    try:
        aggregator.start()
        ear = Invitations(broker.port)
        started = run_command(
            "aggregator", "train", "--family", "press", *aggregator.client_options, "--json"
        )
        run = json.loads(started.stdout)["id"]
        assert ear.next_invitation().run_id == run
        ear.close()
        # What only some families need is not loaded with the service: SciPy is a third of its start.
        assert not {"scipy", "tensorflow"} & set(
            re.findall(r"/site-packages/(\w+)/", aggregator.mapped_files())
        )
        broker.stop()
        broker.start()
        wait_until(lambda: aggregator.http.get("/healthz").json()["broker_connected"], "reconnection")
        ear = Invitations(broker.port)
        assert ear.next_invitation().run_id == run
        twice = run_command("aggregator", "train", "--family", "press", *aggregator.client_options)
        assert (twice.returncode, twice.stderr.count("\n")) == (2, 1)
        assert "already training" in twice.stderr
        canceled = run_command("aggregator", "runs", run, "--cancel", *aggregator.client_options)
        assert canceled.returncode == 0, canceled.stderr
        aggregator.wait_for("CANCELED")
        assert ear.next() is None
        ear.close()
        unknown = run_command("aggregator", "train", "--family", "pres", *aggregator.client_options)
        assert unknown.returncode == 2
        assert "valid are press" in unknown.stderr
        assert (
            aggregator.http.get("/v1/training-runs", headers={"Authorization": "Bearer ao_x"}).status_code
            == 401
        )
        problem = aggregator.http.post("/v1/training-runs", json={"family": "press", "round": 2})
        assert problem.headers["content-type"] == "application/problem+json"
        assert "round" in problem.json()["detail"]
        assert "fedge_training_runs" in aggregator.http.get("/metrics").text
        assert aggregator.terminate() == 0, aggregator.log()
    finally:
        aggregator.close()


def test_a_port_in_use_is_said_in_one_line(
    tmp_path: Path, tls: Tls, fleet: HttpFleet, broker: EmbeddedBroker
) -> None:
    busy = write_config(tmp_path, tls, fleet.port, broker.port, listen=f"127.0.0.1:{broker.port}")
    done = run_cli("serve", "--config", str(busy))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert (
        f"cannot listen on 127.0.0.1:{broker.port}: Address already in use; stop what uses it, or choose another"
        in line
    )


def test_what_cannot_be_used_is_said_in_one_line_with_exit_code_2(
    tmp_path: Path,
    tls: Tls,
    fleet: HttpFleet,
    broker: EmbeddedBroker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(app, "START_PATIENCE_S", 0.2)
    monkeypatch.setattr("service.logs.configure_logging", lambda *, as_json: None)

    def refusal(config: Path) -> str:
        with pytest.raises(SystemExit) as ended:
            cli(["serve", "--config", str(config)])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    flower = write_config(tmp_path, tls, fleet.port, broker.port, flower_listen=f"127.0.0.1:{broker.port}")
    assert "flower_listen" in refusal(flower)
    assert "cannot be reached" in refusal(write_config(tmp_path, tls, free_port(), broker.port))
    assert "the broker at mqtt.url" in refusal(write_config(tmp_path, tls, fleet.port, free_port()))
    missing = write_config(tmp_path, tls, fleet.port, broker.port, signing_key="nowhere.key")
    assert "signing_key" in refusal(missing)
    assert "did you mean 'listen'" in refusal(write_config(tmp_path, tls, 1, 2, lisen="127.0.0.1:1"))
    good = write_config(tmp_path, tls, fleet.port, broker.port)
    secret_file(tmp_path / "fleet.token", "fo_wrong")
    assert "401: unknown token; check fleet.token_file" in refusal(good)

"""The door of the Flower server: who is let in, what is served, and what is said when it cannot open."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import flower_world as world
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flower_rounds_world import PARAMETERS, bundle, devices, fit, server, tls

from aggregator.doorkeeper import Doorkeeper
from aggregator.errors import FlowerListenError
from aggregator.flower.server import FlowerServer, FlowerServerSettings
from edge_agent.errors import AggregatorAnswerError, AggregatorRefusedError
from edge_agent.learner import flower_internals as device_side
from edge_agent.learner.flower_client import FlowerClient
from protocol.names import DeviceId
from protocol.signed_requests import RequestSigner, decode_step

pytestmark = pytest.mark.slow

__all__ = ["bundle", "devices", "server", "tls"]  # the fixtures


def test_stranger_and_removed_device_are_refused(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    stranger = world.connect(server.port, tls, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(AggregatorRefusedError, match="401"):
        stranger.activate()
    member = world.connect(server.port, tls, devices[0].key)
    member.activate()
    assert member.pull() is None
    server.sync_roster({devices[1].id: devices[1].public_key})
    assert server.roster() == ("press-1",)
    with pytest.raises(AggregatorRefusedError, match="roster"):
        member.pull()
    server.sync_roster({d.id: d.public_key for d in devices})
    assert member.pull() is None
    for client in (stranger, member):
        client.close()


class Fleet:
    """Implements `ShutOut`."""

    def __init__(self) -> None:
        self.revoked: list[DeviceId] = []

    def shut_out(self) -> list[DeviceId]:
        return self.revoked


def test_a_device_that_the_fleet_revokes_is_out_in_the_middle_of_a_run(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    fleet = Fleet()
    keeper = Doorkeeper(fleet, server)
    run = server.start_run()
    link = server.link(run)
    gone, stays = (world.connect(server.port, tls, d.key) for d in devices[:2])
    for client in (gone, stays):
        client.activate()
    keeper.look()
    assert len(server.roster()) == len(devices)
    tickets = link.ask([devices[0].id], fit(), {"parameters": PARAMETERS}, lifetime_s=20, answer_size=9)
    question = gone.pull()
    assert question is not None
    fleet.revoked = [devices[0].id, DeviceId("of-another-family")]
    keeper.look()
    assert devices[0].id not in server.roster()
    assert len(server.roster()) == len(devices) - 1
    for speak in (
        gone.pull,
        lambda: gone.reply(device_side.Message(device_side.RecordDict(), reply_to=question)),
    ):
        with pytest.raises(AggregatorRefusedError, match="roster"):
            speak()
    assert link.replies(list(tickets), wait_s=0.1) == []
    assert stays.pull() is None
    fleet.revoked = []
    keeper.look()
    assert devices[0].id not in server.roster(), "who is let in is settled when a run opens"
    for client in (gone, stays):
        client.close()


def test_device_whose_clock_is_years_off_is_let_in(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    signer = RequestSigner(devices[0].key, world.IDENTITY.public_key(), clock=lambda: time.monotonic() - 1e9)
    client = FlowerClient(f"127.0.0.1:{server.port}", tls.ca, signer)
    client.activate()
    assert client.pull() is None
    client.close()


def test_device_cannot_answer_in_the_name_of_another(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls
) -> None:
    run = server.start_run()
    link = server.link(run)
    victim, thief = (world.connect(server.port, tls, d.key) for d in devices[:2])
    victim.activate()
    thief.activate()
    tickets = link.ask([devices[0].id], fit(), {"parameters": PARAMETERS}, lifetime_s=20, answer_size=9)
    question = victim.pull()
    assert question is not None
    forged = device_side.Message(device_side.RecordDict(), reply_to=question)
    with pytest.raises(AggregatorAnswerError, match="403"):
        thief.reply(forged)
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
        "/v1/fleet/register-node",
        "/v1/fleet/push-object",
        "/v1/fleet/nothing",
    ],
)
def test_nothing_but_five_paths_of_the_fleet_api_is_served_to_devices_and_nothing_to_others(
    server: FlowerServer, devices: list[world.Device], tls: world.Tls, path: str
) -> None:
    context = ssl.create_default_context(cafile=str(tls.ca))
    signer = RequestSigner(devices[0].key, world.IDENTITY.public_key(), clock=time.monotonic)
    with httpx.Client(verify=context, base_url=f"https://127.0.0.1:{server.port}") as client:
        assert client.get(path).status_code == 401
        assert client.post(path, content=b"x").status_code == 401
        for method, expected in (("POST", 401), ("POST", 404), ("GET", 404)):
            answer = client.request(method, path, headers={"authorization": signer.sign(method, path, b"")})
            assert answer.status_code == expected
            if (step := decode_step(answer.content)) is not None:
                signer.fall_in(step)


def test_port_in_use_and_bad_certificate_are_said_in_one_line(tmp_path: Path, tls: world.Tls) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = FlowerServerSettings(
            port=port, tls_cert=tls.cert, tls_key=tls.key, data_dir=tmp_path / "a"
        )
        with pytest.raises(FlowerListenError, match=f"127.0.0.1:{port}.*in use"):
            FlowerServer(settings, world.IDENTITY).start()
    settings = FlowerServerSettings(tls_cert=tls.ca, tls_key=tls.key, data_dir=tmp_path / "a")
    with pytest.raises(FlowerListenError, match="cannot be used"):
        FlowerServer(settings, world.IDENTITY).start()

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

from aggregator.errors import FlowerListenError
from aggregator.flower.server import FlowerServer, FlowerServerSettings
from edge_agent.errors import AggregatorAnswerError, AggregatorRefusedError
from edge_agent.learner import flower_internals as device_side
from edge_agent.learner.flower_client import FlowerClient

pytestmark = pytest.mark.slow

__all__ = ["bundle", "devices", "server", "tls"]  # the fixtures


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
    server.sync_roster({devices[1].id: devices[1].public_key})
    assert server.roster() == ("press-1",)
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
        assert client.post(url, content=iter([b"x" * 600] * 2), headers=headers).status_code == 413
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

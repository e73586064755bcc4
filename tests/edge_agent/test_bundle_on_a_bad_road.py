"""A bundle over a real TLS road that breaks after any number of bytes, and one that trickles: it arrives whole, or goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fault_laboratory.road import Cut, Message, Road, Rule
from https_world import Reply, Request, serving
from installation_world import Device, ask, make_bundle

from edge_agent.fleet_client import FleetClient, FleetEndpoint
from protocol.messages.kinds import InstallStatus

KEY = ec.generate_private_key(ec.SECP256R1())
STEP_BYTES = 600
"""Of each connection that many more bytes get through: cuts in the greeting, the certificate, the header, the bundle."""


def breaks_later_each_time() -> Rule:
    """The n-th connection breaks in the middle of a read, after n × `STEP_BYTES` downwards."""
    passed: dict[int, int] = {}

    def rule(message: Message) -> list[bytes]:
        if message.from_device:
            return [message.content]
        left = message.connection * STEP_BYTES - passed.get(message.connection, 0)
        passed[message.connection] = passed.get(message.connection, 0) + len(message.content)
        if len(message.content) >= left:
            raise Cut(message.content[:left])
        return [message.content]

    return rule


def trickles(message: Message) -> list[bytes]:
    """A road of a few kilobytes a second."""
    time.sleep(0.002)
    return [message.content[at : at + 1000] for at in range(0, len(message.content), 1000)]


@pytest.mark.parametrize("rule", [breaks_later_each_time(), trickles], ids=["breaks", "trickles"])
def test_a_release_arrives_whole_over_a_bad_road(tmp_path: Path, rule: Rule) -> None:
    content = make_bundle(2)

    def answer(request: Request) -> Reply:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        if not start:
            return Reply(200, content)
        return Reply(
            206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        )

    with (
        serving(tmp_path / "tls", answer) as server,
        Road(int(server.url.rpartition(":")[2]), is_mqtt=False, rule=rule) as road,
    ):
        fleet = FleetClient(
            endpoint=FleetEndpoint(url=f"https://127.0.0.1:{road.listen}", ca_file=server.ca_file),
            device="d1",
            key=KEY,
        )
        device = Device(tmp_path / "device", source=fleet)
        statuses = []
        for counter in range(2, 40):  # the fleet tries again, each time under a new counter
            device.submit(ask(content, 2, counter))
            device.watch()
            statuses.append({report.execution: report.status for report in device.reports}[f"e{counter}"])
            if statuses[-1] is InstallStatus.SUCCEEDED:
                break
        assert device.release == "pump/2"
        assert set(statuses[:-1]) <= {InstallStatus.FAILED, InstallStatus.TIMED_OUT}
        offsets = [int(r.headers.get("range", "bytes=0-")[6:-1]) for r in server.requests]
        assert offsets == sorted(offsets), "what has arrived is not fetched again"
        if rule is trickles:
            assert len(statuses) == 1
        else:
            assert road.connections > 5

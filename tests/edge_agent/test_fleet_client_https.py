"""The device's HTTPS client against a real TLS server on loopback."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from https_world import Reply, Request, make_certificate, serving
from installation_world import REQUIREMENTS, ListOfAll, TrustingProbe, ask, make_bundle
from sealing_world import fleet_event

from edge_agent.errors import (
    FleetAnswerError,
    FleetConflictError,
    FleetDeniedError,
    FleetNotFoundError,
    FleetTlsError,
    FleetUnreachableError,
)
from edge_agent.fleet_client import FleetClient, FleetEndpoint
from edge_agent.installation.assembly import open_installer
from edge_agent.installation.effects import InstallLimits
from edge_agent.installation.trial import TrialLimits
from protocol.identity import verify_token
from protocol.messages.envelope import CLOUD_EVENT, encode
from protocol.messages.kinds import InstallStatus
from runtime.errors import FedgeError, SettingsError

pytestmark = pytest.mark.edge

KEY = ec.generate_private_key(ec.SECP256R1())
DESIRED = ask(b"bundle", 1)


def client(url: str, ca_file: Path, *, timeout_s: float = 5.0, now: float = 1000.0) -> FleetClient:
    endpoint = FleetEndpoint(url=url, ca_file=ca_file, timeout_s=timeout_s)
    return FleetClient(endpoint=endpoint, device="d1", key=KEY, clock=lambda: now)


def test_desired_state_is_asked_for_with_a_token_and_an_etag(tmp_path: Path) -> None:
    said = fleet_event(DESIRED, tenant="demo", device="d1")

    def answer(request: Request) -> Reply:
        token = request.headers["authorization"].removeprefix("Bearer ")
        assert verify_token(token, KEY.public_key(), "fleet", 1000.0) == "d1"
        if request.headers.get("if-none-match") == '"7"':
            return Reply(304, headers={"ETag": '"7"'})
        return Reply(200, encode(said), {"ETag": '"7"', "Content-Type": CLOUD_EVENT})

    with serving(tmp_path, answer) as server:
        fleet = client(server.url, server.ca_file)
        first = fleet.desired()
        assert (first.state, first.etag, first.is_unchanged) == (said, '"7"', False)
        again = fleet.desired(first.etag)
        assert (again.state, again.etag, again.is_unchanged) == (None, '"7"', True)


def test_a_fleet_that_wants_nothing_is_understood(tmp_path: Path) -> None:
    with serving(tmp_path, lambda _: Reply(204)) as server:
        answer = client(server.url, server.ca_file).desired()
        assert (answer.state, answer.is_unchanged) == (None, False)


def test_a_bundle_is_read_from_an_offset(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000

    def answer(request: Request) -> Reply:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        if start:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return Reply(206, content[start:], {"Content-Range": span})
        return Reply(200, content)

    with serving(tmp_path, answer) as server:
        fleet = client(server.url, server.ca_file)
        for offset in (0, 1, 255_000):
            with fleet.bundle("/v1/x", offset=offset) as stream:
                assert stream.offset == offset
                assert b"".join(stream.chunks) == content[offset:]


def test_a_server_that_ignores_the_offset_is_noticed(tmp_path: Path) -> None:
    with (
        serving(tmp_path, lambda _: Reply(200, b"whole")) as server,
        client(server.url, server.ca_file).bundle("/v1/x", offset=3) as stream,
    ):
        assert stream.offset == 0


def test_a_wrong_range_is_refused(tmp_path: Path) -> None:
    reply = Reply(206, b"xx", {"Content-Range": "bytes 0-1/10"})
    with (
        serving(tmp_path, lambda _: reply) as server,
        pytest.raises(FleetAnswerError, match="asked for bytes from 3 on, got Content-Range 'bytes 0-1/10'"),
        client(server.url, server.ca_file).bundle("/v1/x", offset=3),
    ):
        pass


STATUSES = {
    400: FleetAnswerError,
    401: FleetDeniedError,
    403: FleetDeniedError,
    404: FleetNotFoundError,
    409: FleetConflictError,
    503: FleetAnswerError,
    302: FleetAnswerError,
}


@pytest.mark.parametrize("status", STATUSES)
def test_an_error_status_is_one_clear_line_with_the_fleets_words(tmp_path: Path, status: int) -> None:
    body = b'{"title": "No", "detail": "because\\nof this"}'
    with (
        serving(tmp_path, lambda _: Reply(status, body)) as server,
        pytest.raises(STATUSES[status]) as caught,
    ):
        client(server.url, server.ca_file).desired()
    assert type(caught.value) is STATUSES[status]
    assert caught.value.status == status
    assert f"GET /v1/device/desired: the fleet answered {status}: because of this" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"release": 3}', b"\xff\xfe"])
def test_an_answer_that_is_no_desired_state_is_refused(tmp_path: Path, body: bytes) -> None:
    with (
        serving(tmp_path, lambda _: Reply(200, body, {"Content-Type": CLOUD_EVENT})) as server,
        pytest.raises(FleetAnswerError, match="answer is malformed"),
    ):
        client(server.url, server.ca_file).desired()


def test_an_older_fleet_is_told_by_its_answer_without_a_seal(tmp_path: Path) -> None:
    with (
        serving(tmp_path, lambda _: Reply(200, msgspec.json.encode(DESIRED))) as server,
        pytest.raises(
            FleetAnswerError, match=r"not sealed: the fleet is older than this agent; nothing is obeyed"
        ),
    ):
        client(server.url, server.ca_file).desired()


def test_an_endless_answer_is_cut(tmp_path: Path) -> None:
    with (
        serving(tmp_path, lambda _: Reply(200, b"x" * 200_000)) as server,
        pytest.raises(FleetAnswerError, match="exceeds 131072 bytes"),
    ):
        client(server.url, server.ca_file).desired()


def test_nobody_listening_is_one_clear_line(tmp_path: Path) -> None:
    ca, _, _ = make_certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with pytest.raises(FleetUnreachableError, match="refused the connection: nothing listens there"):
        client(f"https://127.0.0.1:{port}", ca).desired()


def test_an_unknown_host_is_one_clear_line(tmp_path: Path) -> None:
    ca, _, _ = make_certificate(tmp_path)
    with pytest.raises(FleetUnreachableError, match=r"host 'nowhere\.invalid' is unknown"):
        client("https://nowhere.invalid", ca).desired()


def test_a_silent_server_times_out(tmp_path: Path) -> None:
    ca, _, _ = make_certificate(tmp_path)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(FleetUnreachableError, match=r"was silent for 0\.2 s"),
    ):
        client(f"https://127.0.0.1:{silent.getsockname()[1]}", ca, timeout_s=0.2).desired()


def test_a_server_without_tls_is_told(tmp_path: Path) -> None:
    ca, _, _ = make_certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def talk() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        with pytest.raises(FleetTlsError, match=r"does not speak TLS 1\.2 or newer"):
            client(f"https://127.0.0.1:{plain.getsockname()[1]}", ca).desired()
        thread.join(5)


def test_a_fleet_of_another_ca_is_refused(tmp_path: Path) -> None:
    other_ca, _, _ = make_certificate(tmp_path / "other")
    with serving(tmp_path, lambda _: Reply(204)) as server:
        with pytest.raises(FleetTlsError, match="is not the one whose CA is pinned here"):
            client(server.url, other_ca).desired()
        assert server.requests == [], "not even the token was sent"


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    with (
        serving(tmp_path, lambda _: Reply(204), host="127.0.0.2") as server,
        pytest.raises(FleetTlsError, match="IP address mismatch"),
    ):
        client(server.url, server.ca_file).desired()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "127.0.0.1:8443", "https://", "https://h/path", "https://h:nine", ""]
)
def test_an_address_that_is_not_https_is_a_settings_error(tmp_path: Path, url: str) -> None:
    ca, _, _ = make_certificate(tmp_path)
    with pytest.raises(SettingsError, match="is not an HTTPS address; write https://"):
        FleetEndpoint(url=url, ca_file=ca)


@pytest.mark.parametrize("content", [None, b"not a certificate"])
def test_an_unusable_ca_file_is_a_settings_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"ca_file .* cannot be used"):
        FleetEndpoint(url="https://127.0.0.1", ca_file=path)


def test_a_token_is_reused_and_made_anew_when_the_clock_jumps_back(tmp_path: Path) -> None:
    times = [1000.0]
    with serving(tmp_path, lambda _: Reply(204)) as server:
        fleet = FleetClient(
            endpoint=FleetEndpoint(url=server.url, ca_file=server.ca_file),
            device="d1",
            key=KEY,
            clock=lambda: times[0],
        )
        for now in (1000.0, 1100.0, 1200.0, 10.0):
            times[0] = now
            fleet.desired()
        tokens = [request.headers["authorization"] for request in server.requests]
    assert tokens[0] == tokens[1] != tokens[2] != tokens[3]


def test_a_release_travels_over_a_breaking_tls_road_and_is_committed_in_the_background(
    tmp_path: Path,
) -> None:
    content = make_bundle(1)
    desired = ask(content, 1)
    breaks = [5000]

    def answer(request: Request) -> Reply:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        rest = content[start:]
        cut = rest[: breaks.pop()] if breaks else rest
        if not start:
            return Reply(200, cut, declared_bytes=len(rest))
        return Reply(206, cut, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})

    work = threading.Event()
    with serving(tmp_path / "tls", answer) as server:
        installer = open_installer(
            journal_file=tmp_path / "install.json",
            bundles=tmp_path / "bundles",
            trust=ListOfAll(),
            requirements=REQUIREMENTS,
            source=client(server.url, server.ca_file),
            limits=InstallLimits(trial=TrialLimits(windows=2)),
            probe=TrustingProbe(),
        )
        try:
            installer.start(wake=work.set)
            installer.submit(desired)
            statuses: list[InstallStatus] = []
            while InstallStatus.SUCCEEDED not in statuses:
                work.wait()
                work.clear()
                if installer.active() is not None:
                    installer.on_window(0.1, 10.0)
                    installer.on_window(0.1, 10.0)
                statuses += [report.status for report in installer.poll()]
        finally:
            installer.close()
        assert [r.headers.get("range") for r in server.requests] == [None, "bytes=5000-"]
    active = installer.active()
    assert active is not None
    assert (active.release, active.is_trial) == ("pump/1", False)


def test_every_fleet_error_is_an_agent_error() -> None:
    assert all(
        issubclass(kind, FedgeError) for kind in (*STATUSES.values(), FleetTlsError, FleetUnreachableError)
    )

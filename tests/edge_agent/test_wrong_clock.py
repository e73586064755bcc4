"""A device that does not know what time it is reaches its fleet and its broker, and nobody else; one that knows checks dates."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from https_world import Reply, Request, make_certificate, serving
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from edge_agent import pinned_tls
from edge_agent.errors import FleetDeniedError, FleetTlsError
from edge_agent.fleet_client import FleetClient, FleetEndpoint
from edge_agent.mqtt_link import MqttLink
from edge_agent.settings import MqttSettings
from edge_agent.telemetry import Identity, last_will
from edge_agent.trusted_clock import TrustedClock
from protocol.errors import TokenError
from protocol.identity import verify_token

KEY = ec.generate_private_key(ec.SECP256R1())
YEARS_S = 365.25 * 86_400
EXPIRED = {"begins_days": -10, "valid_days": -1}
FUTURE = {"begins_days": 20 * 365, "valid_days": 21 * 365}


def client(url: str, ca_file: Path, *, knows: bool, clock_s: float | None = None) -> FleetClient:
    endpoint = FleetEndpoint(url=url, ca_file=ca_file, now=lambda: time.time() if knows else None)
    return FleetClient(
        endpoint=endpoint, device="d1", key=KEY, clock=time.time if clock_s is None else lambda: clock_s
    )


@pytest.mark.parametrize("dates", [EXPIRED, FUTURE], ids=["of yesterday", "of a day in twenty years"])
def test_dates_are_checked_where_the_time_is_known_and_only_there(
    tmp_path: Path, dates: dict[str, float]
) -> None:
    with serving(tmp_path, lambda _: Reply(204), **dates) as server:
        assert client(server.url, server.ca_file, knows=False).desired().state is None
        heard = len(server.requests)
        with pytest.raises(
            FleetTlsError,
            match=r"certificate (has expired on|is not yet valid: from) 20\d\d-.*by a clock that is kept",
        ):
            client(server.url, server.ca_file, knows=True).desired()
        assert len(server.requests) == heard == 1, "nothing was sent, no token either"


def test_the_dates_of_the_authority_are_checked_as_well(tmp_path: Path) -> None:
    with serving(tmp_path, lambda _: Reply(204), valid_days=5, ca_valid_days=-1) as server:
        assert client(server.url, server.ca_file, knows=False).desired().state is None
        with pytest.raises(FleetTlsError, match="the CA's certificate has expired"):
            client(server.url, server.ca_file, knows=True).desired()


def test_what_ended_before_this_version_was_made_is_refused_by_any_clock(tmp_path: Path) -> None:
    with serving(tmp_path, lambda _: Reply(204), begins_days=-4000, valid_days=-3000) as server:
        with pytest.raises(FleetTlsError, match=r"has expired on 20.*before this version was made"):
            client(server.url, server.ca_file, knows=False).desired()
        assert server.requests == []


@pytest.mark.parametrize("certificate", [{"host": "127.0.0.2"}, {}], ids=["another name", "another CA"])
def test_whoever_does_not_know_the_time_still_knows_whom_to_trust(
    tmp_path: Path, certificate: dict[str, str]
) -> None:
    other_ca, _, _ = make_certificate(tmp_path / "other")
    with serving(tmp_path / "server", lambda _: Reply(204), **certificate) as server:
        ca = server.ca_file if certificate else other_ca
        with pytest.raises(FleetTlsError):
            client(server.url, ca, knows=False).desired()
        assert server.requests == []


# --- tokens ----------------------------------------------------------------------------------------------------------------------


def dated(request: Request) -> Reply:
    """A fleet that checks tokens by its own clock, and dates its answers."""
    headers = {"Date": formatdate(time.time(), usegmt=True)}
    try:
        verify_token(
            request.headers["authorization"].removeprefix("Bearer "), KEY.public_key(), "fleet", time.time()
        )
    except TokenError as error:
        return Reply(401, f'{{"title": "{error}"}}'.encode(), headers)
    return Reply(
        200 if "bundle" in request.path else 204, b"bytes" if "bundle" in request.path else b"", headers
    )


QUESTIONS: dict[str, Callable[[FleetClient], object]] = {
    "desired state": lambda device: device.desired(),
    "a file of the repository": lambda device: device.trust_file("timestamp.json", 1000),
    "a result": lambda device: device.tell_result(b"{}"),
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_the_first_question_of_a_device_in_1970_is_answered_whatever_it_is(
    tmp_path: Path, ask: Callable[[FleetClient], object]
) -> None:
    with serving(tmp_path, dated) as server:
        ask(client(server.url, server.ca_file, knows=False, clock_s=0.0))
        assert len(server.requests) == 2, "refused once, and asked anew with a token of the fleet's time"


@pytest.mark.parametrize("off_s", [-56 * YEARS_S, 20 * YEARS_S, 600.0, -600.0])
def test_a_token_of_another_time_is_made_once_more_by_the_fleets(tmp_path: Path, off_s: float) -> None:
    clock = TrustedClock(
        tmp_path / "clock.json", system=lambda: time.time() + off_s, is_kept=lambda: False, boot_name="b"
    )
    with serving(tmp_path, dated) as server:
        endpoint = FleetEndpoint(url=server.url, ca_file=server.ca_file, now=lambda: None)
        device = FleetClient(endpoint=endpoint, device="d1", key=KEY, clock=clock.wall_s, hear=clock.hear)
        for _ in range(3):
            assert device.desired().state is None
        with device.bundle("/v1/bundle") as stream:
            assert b"".join(stream.chunks) == b"bytes"
        assert len(server.requests) == 5, "refused once, and never again"
    assert clock.wall_s() >= time.time() - 5, "and the device knows that it is no earlier"


def test_a_fleet_that_refuses_every_token_is_asked_twice_and_no_more(tmp_path: Path) -> None:
    with serving(tmp_path, lambda _: Reply(401, headers={"Date": "Thu, 01 Jan 2032 00:00:00 GMT"})) as server:
        with pytest.raises(FleetDeniedError):
            client(server.url, server.ca_file, knows=False).desired()
        assert len(server.requests) == 2


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Foo 99999 00:00:00 GMT"])
def test_a_refusal_without_a_date_or_of_the_same_time_is_none_of_the_clocks(
    tmp_path: Path, date: str
) -> None:
    with serving(tmp_path, lambda _: Reply(401, headers={"Date": date})) as server:
        with pytest.raises(FleetDeniedError):
            client(server.url, server.ca_file, knows=False, clock_s=0.0).desired()
        assert len(server.requests) == 1


# --- the broker ------------------------------------------------------------------------------------------------------------------


class Certificates:
    """What `MosquittoBroker` serves."""

    def __init__(self, folder: Path, dates: dict[str, float]) -> None:
        self.ca_file, self.certificate, self.key = make_certificate(folder, **dates)  # type: ignore[arg-type]  # passed through


@pytest.mark.slow
@pytest.mark.parametrize("dates", [EXPIRED, FUTURE], ids=["of yesterday", "of a day in twenty years"])
def test_a_device_without_the_time_reaches_a_real_broker_and_one_that_knows_it_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dates: dict[str, float]
) -> None:
    identity = Identity(tenant="demo", device="d1", family="pump", boot_id="b1")
    with MosquittoBroker(tmp_path, certificates=Certificates(tmp_path / "pki", dates)) as broker:  # type: ignore[arg-type]  # has what is read

        def connected(*, knows: bool) -> MqttLink:
            monkeypatch.setattr(pinned_tls, "known_time", lambda: time.time() if knows else None)
            return MqttLink(
                MqttSettings(url=broker.url, ca_file=broker.ca_file, reconnect_max_s=0.2),
                client_id="d1",
                will=last_will(identity, 1.8e9),
                subscriptions=(),
                wake=lambda: None,
            )

        link = connected(knows=False)
        wait_until(lambda: link.is_connected, "the link")
        link.close(2.0)
        link = connected(knows=True)
        wait_until(lambda: "certificate" in link._reconnection._last, "the refusal")
        assert not link.is_connected
        link.close(2.0)

"""A service's connection to the broker: settings that are refused, and how patiently it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from mosquitto_broker import LocalCertificates, MosquittoBroker

from runtime.errors import SettingsError
from service.broker_account import BrokerAccount
from service.broker_settings import BrokerSettings
from service.mqtt_client import BrokerGoneError, MqttClient


def account(url: str = "mqtt://127.0.0.1:1", **settings: Any) -> BrokerAccount:
    return BrokerAccount(BrokerSettings(url=url, **settings), client_id="service-1", draw=lambda: 0.0)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mqtt://broker.example", "in clear; use mqtts://"),
        ("mqtt://127.0.0.1.example:1883", "in clear"),
        ("mqtts://user@broker.example", "no user"),
        ("mqtts://broker.example/path", "no path"),
        ("https://broker.example", "mqtts://host"),
        ("mqtts://broker.example:port", "mqtts://host"),
        ("mqtts://", "mqtts://host"),
        ("mqtts://broker.example", "needs tls_cert and tls_key"),
    ],
)
def test_an_address_that_is_none_or_would_show_messages_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BrokerSettings(url=url)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    certificates = LocalCertificates(tmp_path / "pki")
    certificate, key = certificates.service("fleet")
    _, other = certificates.service("aggregator")
    (tmp_path / "no-ca").write_text("secret\n")
    own = {"ca_file": certificates.ca_file, "tls_cert": certificate, "tls_key": key}
    account("mqtts://broker.example", **own)
    for wrong, words in (
        ({"ca_file": tmp_path / "no-ca"}, r"mqtt\.ca_file .*no-ca holds no usable CA"),
        (
            {"tls_cert": tmp_path / "none"},
            r"mqtt\.tls_cert .*none and mqtt\.tls_key .* cannot be used together",
        ),
        ({"tls_key": other}, r"fleet\.pem and mqtt\.tls_key .*aggregator\.key cannot be used together"),
    ):
        with pytest.raises(SettingsError, match=words) as caught:
            account("mqtts://broker.example", **own | wrong)
        assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_a_renewed_certificate_is_shown_at_the_next_connection_and_one_that_does_not_fit_ends_nothing(
    tmp_path: Path,
) -> None:
    shown: list[str] = []
    with MosquittoBroker(tmp_path, knows_clients=True, settings=["log_type all"]) as broker:
        certificate, key = broker.certificates.service("former")
        there = account(
            broker.url, ca_file=broker.ca_file, tls_cert=certificate, tls_key=key, reconnect_s=0.01
        )
        renewed = [path.read_bytes() for path in broker.certificates.service("renewed")]

        async def session(_client: MqttClient) -> None:
            shown.append(broker.log.read_text().rpartition(", u'")[2].partition("'")[0])
            if shown[-1] == "renewed":
                raise Enough
            certificate.write_bytes(renewed[0])  # the key comes a moment later
            asyncio.get_running_loop().call_later(0.1, key.write_bytes, renewed[1])
            raise BrokerGoneError("the connection broke")

        with pytest.raises(Enough):
            asyncio.run(there.stay_connected(session))
    assert shown == ["former", "renewed"]


class Enough(Exception):  # noqa: N818 - no error: the test has seen what it wanted
    """Ends a run of the account."""


def pauses_of(
    account: BrokerAccount, session: Callable[[MqttClient], Awaitable[None]], count: int, monkeypatch: Any
) -> list[float]:
    """The first `count` pauses between attempts, none of which is waited for."""
    pauses: list[float] = []

    async def remember(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == count:
            raise Enough

    monkeypatch.setattr("service.broker_account.asyncio.sleep", remember)
    with pytest.raises(Enough):
        asyncio.run(account.stay_connected(session))
    return pauses


async def never(_client: MqttClient) -> None:
    pytest.fail("there is no broker")


def test_a_broker_that_is_away_is_asked_less_and_less_often_but_never_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = account(f"mqtt://127.0.0.1:{free_port()}", reconnect_s=0.5)
    assert pauses_of(away, never, 7, monkeypatch) == [0.25, 0.5, 1.0, 2.0, 2.5, 2.5, 2.5]


def test_a_session_that_breaks_at_once_counts_as_a_failure_and_one_that_lasted_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = account(reconnect_s=0.5)
    lasts_s = iter([0.0, 0.0, 0.0, 6.0, 0.0])
    now = 0.0

    @asynccontextmanager
    async def client() -> Any:
        yield None

    async def session(_client: MqttClient) -> None:
        nonlocal now
        now += next(lasts_s)
        raise BrokerGoneError("the connection broke")

    monkeypatch.setattr(there, "client", client)
    monkeypatch.setattr("asyncio.BaseEventLoop.time", lambda _loop: now)
    assert pauses_of(there, session, 5, monkeypatch) == [0.25, 0.5, 1.0, 0.25, 0.5]


def test_an_error_that_no_new_connection_would_mend_is_not_swallowed() -> None:
    async def session(_client: MqttClient) -> None:
        raise ZeroDivisionError

    @asynccontextmanager
    async def client() -> Any:
        yield None

    there = account()
    there.client = client  # type: ignore[method-assign] # a broker that is always there
    with pytest.raises(ZeroDivisionError):
        asyncio.run(there.stay_connected(session))

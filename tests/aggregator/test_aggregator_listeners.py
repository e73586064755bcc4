"""Where the aggregator listens: its two ports and nothing else, each over TLS, each asking who is there. Looked up in the kernel."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aggregator_service_world import (
    AggregatorProcess,
    EmbeddedBroker,
    HttpFleet,
    serve_fleet,
    write_config,
    write_release_key,
)
from door_world import PULL, Caller
from flower_world import RELEASE_KEY, Tls, build_bundle, make_tls
from listeners import Listener, answers_plain_http, listeners, speaks_tls
from odd_requests import head
from waiting import wait_until

pytestmark = pytest.mark.slow

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is tried here


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AggregatorProcess, Tls, int, int]]:
    folder = tmp_path_factory.mktemp("aggregator")
    write_release_key(folder / "release.key", RELEASE_KEY)
    tls, broker = make_tls(folder), EmbeddedBroker()
    broker.start()
    with contextlib.ExitStack() as closing:
        closing.callback(broker.close)
        fleet = closing.enter_context(serve_fleet(HttpFleet(bundles={"press/1": build_bundle()}), tls))
        config = write_config(folder, tls, fleet.port, broker.port)
        process = AggregatorProcess(config, tls)
        closing.callback(process.close)
        text = config.read_text()
        api, flower = (
            int(tomllib.loads(text)[key].rpartition(":")[2]) for key in ("listen", "flower_listen")
        )
        text = text.replace(f"127.0.0.1:{api}", f"{EVERYWHERE}:{api}")
        config.write_text(text.replace(f"127.0.0.1:{flower}", f"[::]:{flower}"))
        process.start()
        yield process, tls, api, flower


def test_it_has_two_ports_with_tls_and_answers_nothing_without(
    aggregator: tuple[AggregatorProcess, Tls, int, int],
) -> None:
    process, _, api, flower = aggregator
    assert process.child is not None
    assert listeners(process.child.pid) == {Listener("tcp", EVERYWHERE, api), Listener("tcp", "::", flower)}
    for address, port in (("127.0.0.1", api), ("::1", flower)):
        assert speaks_tls(address, port)
        assert not answers_plain_http(address, port)


def test_strangers_at_either_door_learn_nothing_but_that_it_is_well(
    aggregator: tuple[AggregatorProcess, Tls, int, int],
) -> None:
    _, tls, api, flower = aggregator
    for path in ("/", "/metrics", "/v1/openapi.json", "/v1/training-runs", "/nowhere", PULL):
        with Caller(api, tls) as stranger:
            stranger.send(head(path, method="GET"))
            assert stranger.answer().status == 401, path
    context = ssl.create_default_context(cafile=str(tls.ca))
    for path in ("/", "/healthz", PULL):
        with (
            socket.create_connection(("::1", flower), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as stranger6,
        ):
            stranger6.sendall(head(path))
            assert stranger6.recv(100).startswith(b"HTTP/1.1 401"), path


def test_renewed_certificates_are_shown_at_both_doors_without_a_restart(
    aggregator: tuple[AggregatorProcess, Tls, int, int], tmp_path: Path
) -> None:
    _, tls, api, flower = aggregator

    def shown() -> list[str]:
        return [ssl.get_server_certificate(address) for address in (("127.0.0.1", api), ("::1", flower))]

    before, fresh = shown(), make_tls(tmp_path)
    assert before[0] == before[1]
    for renewed, served in ((fresh.cert, tls.cert), (fresh.key, tls.key)):
        served.write_bytes(renewed.read_bytes())
    wait_until(lambda: before[0] not in shown(), "the renewed certificate at both")

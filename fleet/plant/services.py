"""The three services of a plant as processes: how each is started, and how one sees that it answers."""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
from contextlib import closing, suppress
from typing import Final

from fleet.plant.broker import broker_command
from fleet.plant.supervisor import Service
from fleet.plant.units import QUIET
from service.addresses import Endpoint, split_endpoint
from service.plant import Plant

__all__ = ["dialled", "greet", "plant_services", "tls_context"]

TIMEOUT_S: Final = 2.0


def plant_services(plant: Plant) -> tuple[Service, ...]:
    """Broker, fleet and aggregator, in the order in which they start; raises StartError where the broker is not installed."""
    python, listen = sys.executable, plant.description.listen
    log_plainly = "--plain-logs"
    return (
        Service(
            name="broker",
            command=broker_command(plant),
            environment={},
            answers=lambda: _shakes_hands(plant, dialled(plant.local_broker_url)),
        ),
        Service(
            name="fleet",
            command=(python, "-m", "fleet", "serve", "--config", str(plant.fleet_config), log_plainly),
            environment={},
            answers=lambda: _is_healthy(plant, dialled(plant.local_fleet_url)),
        ),
        Service(
            name="aggregator",
            command=(
                python,
                "-m",
                "aggregator",
                "serve",
                "--config",
                str(plant.aggregator_config),
                log_plainly,
            ),
            environment={**QUIET, "FLWR_HOME": str(plant.aggregator_data / "flwr")},
            answers=lambda: (
                _shakes_hands(plant, dialled(plant.local_aggregator_url))
                and _listens(split_endpoint(listen.flower))
            ),
        ),
    )


def dialled(url: str) -> Endpoint:
    """Host and port of an address with a scheme."""
    return split_endpoint(url.partition("://")[2])


def tls_context(plant: Plant, service: str | None = None) -> ssl.SSLContext:
    """What a client on this machine uses; it shows a service's certificate where one is named."""
    context = ssl.create_default_context(cafile=str(plant.ca))
    if service is not None:
        context.load_cert_chain(*plant.client_files(service))
    return context


def _shakes_hands(plant: Plant, to: Endpoint) -> bool:
    with suppress(OSError), closing(greet(plant, to, "fleet")):
        return True
    return False


def greet(plant: Plant, to: Endpoint, service: str) -> ssl.SSLSocket:
    """A connection over TLS that shows a service's certificate; raises OSError (`ssl.SSLError` is one)."""
    road = socket.create_connection(to, timeout=TIMEOUT_S)
    try:
        return tls_context(plant, service).wrap_socket(road, server_hostname=to.host)
    except BaseException:
        road.close()
        raise


def _is_healthy(plant: Plant, to: Endpoint) -> bool:
    connection = http.client.HTTPSConnection(to.host, to.port, timeout=TIMEOUT_S, context=tls_context(plant))
    with suppress(OSError, http.client.HTTPException), closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    return False


def _listens(at: Endpoint) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(at.host, at.host)  # noqa: S104 - how it is dialled from here
    with suppress(OSError), socket.create_connection((host, at.port), timeout=TIMEOUT_S):
        return True
    return False

"""What a plant listens on, and whether it lets in whom it should: ports, the broker's accounts, the fleet's API, clocks.

A client that logs in at the broker as the fleet would throw the fleet out: so where the fleet runs it is asked whether it is in, and
only where it does not run we log in for it.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from fleet.broker_door.plugin_state import FLEET
from fleet.plant.certificates import read_certificate
from fleet.plant.doctor.findings import Finding, bad, doubtful, well
from fleet.plant.lives import find_lives
from fleet.plant.running import running_supervisor
from fleet.plant.services import TIMEOUT_S, dialled, greet, tls_context
from service.addresses import split_endpoint
from service.mqtt_packets import CONNACK, DISCONNECT, connect
from service.plant import Plant

__all__ = ["examine_broker", "examine_fleet", "examine_services"]

UP: Final = "fedge up"
RESTART: Final = "fedge down and fedge up, which give the broker the present ones"

GREETED_WITHIN_S: Final = 0.5
"""TLS 1.3 refuses a client's certificate after the handshake: so long is waited for a refusal."""

CLOCKS_APART_S: Final = 2.0
CLOCKS_FAR_APART_S: Final = 60.0


def examine_services(plant: Plant) -> Iterator[Finding]:
    """What runs, and who has the ports."""
    running, supervisor = find_lives(plant.folder), running_supervisor(plant)
    listen = plant.description.listen
    if running and supervisor is None:
        yield doubtful(
            "supervisor",
            f"{', '.join(sorted(running))} run without one: it was killed",
            f"{UP}: it takes them over",
        )
    elif supervisor is not None:
        yield well("supervisor", f"process {supervisor}")
    for key, owner in (
        ("broker", "broker"),
        ("fleet", "fleet"),
        ("aggregator", "aggregator"),
        ("flower", "aggregator"),
    ):
        address = getattr(listen, key)
        answers, matter = _is_taken(address), "port of Flower" if key == "flower" else f"port of the {key}"
        if owner in running:
            if answers:
                yield well(matter, f"{address}: the {owner} listens (process {running[owner].pid})")
            else:
                yield bad(
                    matter, f"the {owner} runs and does not listen on {address}", f"see {plant.log}/plant.log"
                )
        elif answers:
            port = split_endpoint(address).port
            yield doubtful(
                matter,
                f"{address}: somebody listens whom `fedge up` did not start",
                f"systemd or a container? Then all is well; else: ss -ltnp 'sport = :{port}'",
            )
        else:
            yield doubtful(matter, f"{address}: nobody listens", UP)


def examine_broker(plant: Plant) -> Iterator[Finding]:
    """Whether the broker lets the services in."""
    to, matter = dialled(plant.local_broker_url), "broker account"
    for service in (FLEET, "aggregator"):
        try:
            with closing(greet(plant, to, service)) as road:
                road.settimeout(GREETED_WITHIN_S)
                _hear_refusal(road)
                shown = road.getpeercert(binary_form=True)
        except ConnectionRefusedError:
            yield doubtful(f"{matter} of the {service}", f"nobody listens at {plant.local_broker_url}", UP)
        except (OSError, ssl.SSLError) as error:
            yield bad(
                f"{matter} of the {service}",
                f"the broker takes no certificate of ours, or shows none: {_words(error)}",
                RESTART,
            )
        else:
            if shown != read_certificate(plant.certificate("broker")).public_bytes(Encoding.DER):
                yield doubtful(
                    "certificate that the broker shows", "it is not the one in pki/broker.pem", RESTART
                )
            yield well(f"{matter} of the {service}", "the broker takes its certificate")
    health = _health(plant)
    if health is not None:
        if health.get("broker_connected"):
            yield well(matter, "the fleet is logged in")
        else:
            yield bad(
                matter,
                "the fleet runs and is not logged in at the broker",
                f"see {plant.log}/plant.log: broker_unreachable",
            )
        return
    try:
        code = _log_in(plant)
    except OSError as error:
        yield doubtful(matter, f"the broker does not greet the fleet: {_words(error)}", UP)
        return
    if code == 0:
        yield well(matter, "logged in as the fleet, which does not run")
    else:
        yield bad(
            matter,
            f"the broker refuses the fleet (code {code})",
            "fedge init broker, then fedge down and fedge up",
        )


def examine_fleet(plant: Plant) -> Iterator[Finding]:
    """Whether the fleet answers, does what it should, takes the plant's token, and what its clock says."""
    health = _health(plant)
    if health is None:
        yield doubtful("fleet", f"no answer from {plant.local_fleet_url}", UP)
        return
    if health.get("status") != "ok" or not health.get("is_storing"):
        reason = health.get("database") or "it takes nothing that is written"
        yield bad("fleet", f"it answers, and its database is away: {reason}", "see the line on the database")
    else:
        yield well("fleet", f"it answers at {plant.local_fleet_url}, and stores")
    try:
        token = plant.admin_token.read_text().strip()
        status, headers, _ = _ask(plant, "/v1/devices?limit=1", {"Authorization": f"Bearer {token}"})
    except (OSError, http.client.HTTPException) as error:
        yield bad("token", f"{plant.admin_token}: {_words(error)}", "fedge init plant")
        return
    if status == http.client.OK:
        yield well("token", f"{plant.admin_token.name} is taken")
    else:
        yield bad(
            "token",
            f"the fleet refuses {plant.admin_token.name} ({status})",
            f"move {plant.admin_token} away, then: fedge init plant",
        )
    said = headers.get("Date")
    if said:
        # whole seconds, cut off
        yield clock("clock of the fleet", parsedate_to_datetime(said).timestamp() + 0.5 - time.time())


def clock(matter: str, apart_s: float) -> Finding:
    """How far a clock is from ours."""
    if abs(apart_s) < CLOCKS_APART_S:
        return well(matter, "as here")
    seen, remedy = (
        f"{abs(apart_s):.0f} s {'ahead' if apart_s > 0 else 'behind'}",
        "timedatectl set-ntp true, on both machines",
    )
    return (bad if abs(apart_s) >= CLOCKS_FAR_APART_S else doubtful)(matter, seen, remedy)


def _health(plant: Plant) -> dict[str, Any] | None:
    try:
        _, _, content = _ask(plant, "/healthz", {})
        found = json.loads(content)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _ask(plant: Plant, path: str, headers: dict[str, str]) -> tuple[int, http.client.HTTPMessage, bytes]:
    to = dialled(plant.local_fleet_url)
    connection = http.client.HTTPSConnection(to.host, to.port, timeout=TIMEOUT_S, context=tls_context(plant))
    with closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def _log_in(plant: Plant) -> int:
    with closing(greet(plant, dialled(plant.local_broker_url), FLEET)) as road:
        road.sendall(connect(FLEET, keepalive_s=10))
        said = road.recv(4)
        road.sendall(DISCONNECT)
    if len(said) < 4 or said[0] >> 4 != CONNACK:
        raise ConnectionError("it hung up")
    return said[3]


def _hear_refusal(road: ssl.SSLSocket) -> None:
    deadline = time.monotonic() + GREETED_WITHIN_S
    try:
        if road.recv(1) == b"" and time.monotonic() < deadline:
            raise ConnectionError("it hung up")
    except TimeoutError:
        return


def _is_taken(address: str) -> bool:
    host, port = split_endpoint(address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _words(error: Exception) -> str:
    reason = (
        getattr(error, "reason", None)
        or getattr(error, "strerror", None)
        or str(error)
        or type(error).__name__
    )
    return str(reason).replace("_", " ").lower()

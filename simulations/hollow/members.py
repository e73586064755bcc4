"""The devices of a crowd and their keys, on disk: who enrolled once is a member for good.

::

    <folder>/devices/hollow-00001.pem (0600)      connection key, certificate, device CA, identity key

A file is there only once its device is enrolled. A crowd that is started again in the same folder comes as the same devices, and
one that is larger asks for claims for the rest.
"""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.connection_certificate import make_request
from protocol.enrolment import ENROLMENT_DOMAIN, EnrolmentAnswer, EnrolmentQuestion, enrolment_statement
from protocol.identity import load_private_key, private_key_pem, public_key_pem, sign_statement
from protocol.limits import MAX_PAYLOAD_BYTES
from runtime.durable_files import private_directory, write_quickly
from runtime.unreadable import UNREADABLE
from simulations.errors import ProcessFailedError, ScenarioError
from simulations.hollow.place import Place

__all__ = ["Member", "enrol_members", "enrolled_members", "member_name"]

AT_ONCE: Final = 8
"""Enrolments under way: a fleet with one core for them is not kept waiting, and nobody times out."""

PATIENCE_S: Final = 60.0
TRIES: Final = 3
_KEY: Final = "-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True, kw_only=True)
class Member:
    """An enrolled device: `file` is what it shows a broker."""

    name: str
    identity: ec.EllipticCurvePrivateKey
    file: Path


def member_name(number: int, prefix: str = "hollow") -> str:
    """The id of the device with this number, from 1."""
    return f"{prefix}-{number:05d}"


def enrolled_members(folder: Path, names: Sequence[str]) -> dict[str, Member]:
    """Those of these devices that enrolled before."""
    found = {}
    for name in names:
        file = folder / "devices" / f"{name}.pem"
        if file.exists():
            found[name] = Member(name=name, identity=_identity(file.read_text("ascii")), file=file)
    return found


def enrol_members(
    place: Place, folder: Path, names: Sequence[str], claims: Sequence[str], told: Callable[[int], None]
) -> Iterator[Member]:
    """Enrol devices, several at once, each with a claim of its own.

    Args:
        place: which fleet.
        folder: of the crowd.
        names: of the devices.
        claims: tokens, at least as many.
        told: hears after each how many are enrolled.

    Raises:
        ScenarioError: too few claims, or the fleet wants a person to approve each device.
        ProcessFailedError: the fleet refuses, or does not answer.
    """
    if len(claims) < len(names):
        raise ScenarioError(
            f"{len(names)} devices want to enrol and {len(claims)} claims are there;"
            f" make the rest with: fedge-fleet claims create --family {place.family} --count {len(names) - len(claims)}"
        )
    private_directory(folder / "devices")
    roads: SimpleQueue[_Road] = SimpleQueue()
    for _ in range(AT_ONCE):
        roads.put(_Road(place))

    def enrol(name: str, claim: str) -> Member:
        road = roads.get()
        try:
            return _enrol(road, place, folder, name, claim)
        finally:
            roads.put(road)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        try:
            for done, member in enumerate(threads.map(enrol, names, claims), 1):
                told(done)
                yield member
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _enrol(road: _Road, place: Place, folder: Path, name: str, claim: str) -> Member:
    identity = ec.generate_private_key(ec.SECP256R1())
    connection, request = make_request(name)
    statement = enrolment_statement(
        device=name,
        tenant=place.tenant,
        family=place.family,
        identity=identity.public_key(),
        certificate_request=request,
    )
    question = EnrolmentQuestion(
        device=name,
        tenant=place.tenant,
        family=place.family,
        public_key=public_key_pem(identity.public_key()).decode(),
        certificate_request=request,
        hardware=place.hardware,
        labels={"hollow": "yes"},
        signature=base64.b64encode(sign_statement(identity, ENROLMENT_DOMAIN, statement)).decode(),
    )
    answer = road.ask(claim, msgspec.json.encode(question))
    if answer.status != "enrolled":
        raise ScenarioError(
            f"the fleet keeps {name} waiting for a person; hollow devices need claims without --approve"
        )
    file = folder / "devices" / f"{name}.pem"
    content = private_key_pem(connection).decode() + answer.certificate + private_key_pem(identity).decode()
    write_quickly(file, content.encode(), mode=0o600)
    return Member(name=name, identity=identity, file=file)


class _Road:
    """One HTTPS connection to the fleet that lasts; of one thread at a time."""

    def __init__(self, place: Place) -> None:
        parts = urlsplit(place.fleet_url)
        context = ssl.create_default_context(cafile=str(place.fleet_ca))
        self._url = place.fleet_url
        self._line = http.client.HTTPSConnection(
            parts.hostname or "", parts.port or 443, timeout=PATIENCE_S, context=context
        )

    def ask(self, claim: str, body: bytes) -> EnrolmentAnswer:
        """Send an enrolment. A line that the fleet closed meanwhile is opened again: asking twice spends no further claim."""
        headers = {"Authorization": f"Bearer {claim}", "Content-Type": "application/json"}
        for attempt in range(TRIES):
            try:
                self._line.request("POST", "/v1/enrolments", body=body, headers=headers)
                response = self._line.getresponse()
                content = response.read(MAX_PAYLOAD_BYTES)
                break
            except (OSError, http.client.HTTPException) as error:
                self._line.close()
                if attempt == TRIES - 1:
                    raise ProcessFailedError(f"the fleet at {self._url} does not answer: {error!r}") from None
        if response.status >= 300:
            raise ProcessFailedError(
                f"the fleet refuses an enrolment with status {response.status}: {content[:300].decode(errors='replace')}"
            )
        try:
            return msgspec.json.decode(content, type=EnrolmentAnswer)
        except UNREADABLE as error:
            raise ProcessFailedError(f"what the fleet answers is no enrolment: {error}") from None


def _identity(content: str) -> ec.EllipticCurvePrivateKey:
    return load_private_key((_KEY + content.rpartition(_KEY)[2]).encode())

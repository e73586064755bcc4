"""A fleet's HTTPS door in the hands of somebody else, who may hold any of its keys; for the real agent process."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from agent_world import DEVICE, FAMILY, RELEASE_KEY, TENANT, healthy, make_bundle, manifest_of, write_device
from cryptography.hazmat.primitives.asymmetric import ec
from https_world import Reply, Request, serving
from installation_world import ask
from msgspec.structs import replace
from trust_repository import TrustRepository

from protocol.messages.envelope import CLOUD_EVENT, Event, encode
from protocol.messages.payloads import DesiredState
from protocol.sealed_events import seal

SPEED = 50.0
"""Windows a second: a trial is over in a moment."""


@dataclass
class HostileFleet:
    """What it serves. `repository` is the true one; change its `files`, `bundles` and `desired` at will."""

    repository: TrustRepository
    bundles: dict[str, bytes] = field(default_factory=dict)
    desired: bytes | None = None
    fetched: list[str] = field(default_factory=list)
    config: Path = Path()
    sequence: int = 0

    def list(self, bundle: bytes) -> None:
        """What only the holder of the family's key can do."""
        self.repository.list(manifest_of(bundle).release, bundle)
        self.repository.publish()

    def want(
        self,
        bundle: bytes,
        version: int,
        counter: int,
        *,
        family: str = FAMILY,
        release: str | None = None,
    ) -> DesiredState:
        """Tell the device to run these bytes under that name, sealed by the fleet's own instruction key."""
        state = ask(bundle, version, counter, family=family)
        state = replace(state, release=release or state.release)
        self.bundles[state.bundle_path] = bundle
        self.sequence += 1
        event = Event(source="fleet", boot_id="b", sequence=self.sequence, time=0.0, data=state)
        sealed = seal(
            event,
            self.repository.fleet_key,
            tenant=TENANT,
            device=DEVICE,
            nonce=secrets.token_hex(16),
            not_after=int(datetime.now(UTC).timestamp()) + 86_400,
        )
        self.desired = encode(sealed)
        return state

    def answer(self, request: Request) -> Reply:
        path = request.path
        if path == "/v1/device/desired":
            return Reply(204) if self.desired is None else self._tagged(request, self.desired, CLOUD_EVENT)
        if path == "/v1/device/commands":
            return Reply(204)
        if path in self.bundles:
            self.fetched.append(path)
            return Reply(200, self.bundles[path])
        content = self.repository.files.get(path.removeprefix("/v1/trust/"))
        return Reply(404, b"{}") if content is None else self._tagged(request, content)

    def _tagged(self, request: Request, content: bytes, kind: str = "application/json") -> Reply:
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        is_known = request.headers.get("if-none-match") == etag
        return Reply(
            304 if is_known else 200, b"" if is_known else content, {"ETag": etag, "Content-Type": kind}
        )


@contextmanager
def hostile_fleet(
    folder: Path, fleet_key: ec.EllipticCurvePrivateKey | None = None
) -> Iterator[HostileFleet]:
    """A device that runs pump/1, which its image brought along listed, and such a fleet at its address."""
    repository = TrustRepository(FAMILY, release_key=RELEASE_KEY, fleet_key=fleet_key, now=datetime.now(UTC))
    fleet = HostileFleet(repository)
    with serving(folder / "tls", fleet.answer) as server:
        first = make_bundle(1)
        extra = f'[fleet]\nurl = "{server.url}"\nca_file = "{server.ca_file}"\npoll_s = 0.3\n'
        fleet.config = write_device(
            folder / "device",
            rows=healthy(2000),
            speed=SPEED,
            bundle=first,
            extra=extra,
            repository=repository,
        )
        yield fleet

"""The fleet's HTTP API as the aggregator uses it: roster, drift, releases, rollouts.

Implements `aggregator.rounds.ports.ReleaseFleet` and the trigger's drift port. TLS is verified against the CA that the
settings pin, never against the system's. A connection that fails, and an answer of 429 or 5xx, becomes
FleetUnreachableError (worth another try); any other refusal becomes FleetRefusedError with the fleet's own words. What
the fleet says is parsed strictly where a decision hangs on it: it may be another version than this build.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from aggregator.errors import FleetRefusedError, FleetUnreachableError
from aggregator.rounds.ports import Member, ReleaseRecord
from aggregator.settings import FleetSettings
from aggregator.triggers import DriftSummary
from protocol.errors import ProtocolError
from protocol.limits import MAX_BUNDLE_BYTES
from protocol.names import DeviceId, FamilyName, check_name, split_release_id
from runtime.errors import SettingsError
from service.bounded_answers import bounded_request
from service.client import refusal_words
from service.token_file import TokenFile

__all__ = ["FleetClient"]

_JSON: dict[str, str] = {"Content-Type": "application/json"}

PAGE: int = 500
"""Records asked for at a time; the fleet may give fewer and a cursor."""


class FleetClient:
    """Calls the fleet. Safe to use from several threads.

    Raises:
        SettingsError: the CA or token file cannot be used.
    """

    def __init__(self, settings: FleetSettings) -> None:
        token = TokenFile(settings.token_file, "fleet.token_file")
        try:
            context = ssl.create_default_context(cafile=str(settings.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"fleet.ca_file {settings.ca_file} holds no usable CA certificate: {error}"
            ) from None
        self._url = settings.url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url,
            verify=context,
            timeout=settings.timeout_s,
            auth=token,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def members(self, family: FamilyName) -> list[Member]:
        """See `ReleaseFleet.members`."""
        query = {"query": f"family=={check_name(family, 'family')} and state==enrolled"}
        # One that waits has no place in the roster yet, and one that was revoked none any more.
        return [
            _member(record)
            for record in self._pages("/v1/devices", query)
            if record.get("family") == family and record.get("state") == "enrolled"
        ]

    def shut_out(self) -> list[DeviceId]:
        """See `aggregator.doorkeeper.ShutOut`."""
        query = {"query": "state!=enrolled"}
        return [
            DeviceId(str(record["id"]))
            for record in self._pages("/v1/devices", query)
            if record.get("id") and record.get("state") != "enrolled"
        ]

    def releases(self, family: FamilyName) -> list[ReleaseRecord]:
        """See `ReleaseFleet.releases`."""
        return [
            record
            for item in self._pages("/v1/releases", {"family": family})
            if (record := _release(item)).release.startswith(f"{family}/")
        ]

    def bundle(self, family: FamilyName, version: int) -> bytes:
        """See `ReleaseFleet.bundle`."""
        return self._call("GET", f"/v1/releases/{quote(family, safe='')}/{version}/bundle").content

    def publish(self, content: bytes) -> None:
        """See `ReleaseFleet.publish`."""
        self._call(
            "POST", "/v1/releases", content=content, headers={"Content-Type": "application/octet-stream"}
        )

    def release_list(self, role: str) -> bytes | None:
        """What `role` lists now, unverified; None where it has listed nothing."""
        try:
            return self._call("GET", f"/v1/trust/roles/{quote(role, safe='')}").content
        except FleetRefusedError as refused:
            if refused.status == 404:
                return None
            raise

    def publish_list(self, role: str, content: bytes) -> None:
        """Let the fleet publish a signed list of `role`; status 409: a newer one is published."""
        self._call("POST", f"/v1/trust/roles/{quote(role, safe='')}", content=content, headers=_JSON)

    def start_rollout(self, template: Mapping[str, Any], release: str, name: str) -> str:
        """See `ReleaseFleet.start_rollout`."""
        rollout = next((item for item in self._pages("/v1/rollouts", {}) if item.get("name") == name), None)
        if rollout is None:
            body = {**template, "name": name, "release": release}
            answer = self._call("POST", "/v1/rollouts", json=body, headers={"Idempotency-Key": name})
            rollout = _object(answer)
        identifier = str(_field(rollout, "id", (str, int), "rollout"))
        # What a person must approve, a person starts. After a kill between creation and start the rollout is there and waits; a
        # running one is left alone.
        if rollout.get("needs_approval"):
            return identifier
        if rollout.get("state") in {None, "DRAFT", "READY"}:
            self._call("POST", f"/v1/rollouts/{quote(identifier, safe='')}:start")
        return identifier

    def drift(self, family: FamilyName) -> DriftSummary:
        """How many devices a family has, and when each that drifted and is not back did."""
        summary = _object(self._call("GET", "/v1/drift/summary", params={"family": family}))
        devices = int(_field(summary, "devices", int, "drift summary"))
        drifted = int(_field(summary, "drifted", int, "drift summary"))
        since = summary.get("drift_since")
        known = [float(at) for at in since.values()] if isinstance(since, dict) else []
        # A device that is counted but not dated is in drift since an unknown time.
        precision = summary.get("precision_drifted_since")
        return DriftSummary(
            devices=devices,
            drifted_since=(*known, *[None] * (drifted - len(known))),
            precision_drifted_since=float(precision) if isinstance(precision, int | float) else None,
        )

    def _pages(self, path: str, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            page = {**params, "limit": str(PAGE)} | ({"after": cursor} if cursor else {})
            answer = _object(self._call("GET", path, params=page))
            items = answer.get("items")
            if not isinstance(items, list):
                raise FleetRefusedError(
                    f"GET {path} of the fleet gave no list 'items'; is it another version?", 200
                )
            yield from (item for item in items if isinstance(item, dict))
            cursor = answer.get("next_cursor")
            if not cursor or not items:
                return

    def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = bounded_request(self._http, method, path, most_bytes=MAX_BUNDLE_BYTES, **request)
        except httpx.HTTPError as error:
            raise FleetUnreachableError(
                f"the fleet at {self._url} cannot be reached: {error or type(error).__name__}"
            ) from None
        if answer.is_success:
            return answer
        words = f"{method} {path} of the fleet at {self._url} was answered {answer.status_code}: {refusal_words(answer)}"
        if answer.status_code == 429 or answer.status_code >= 500:
            raise FleetUnreachableError(words)
        if answer.status_code in {401, 403}:
            words += "; check fleet.token_file (role publisher is needed, for this family)"
        raise FleetRefusedError(words, answer.status_code)


def _member(record: Mapping[str, Any]) -> Member:
    device = _field(record, "id", str, "device")
    key = _field(record, "public_key", str, f"device {device}")
    return Member(device=DeviceId(device), public_key=key.encode(), is_online=record.get("online") is True)


def _release(record: Mapping[str, Any]) -> ReleaseRecord:
    name = _field(record, "id", str, "release")
    try:
        _, version = split_release_id(name)
    except ProtocolError as error:
        raise FleetRefusedError(f"the fleet lists a release that is none: {error}", 200) from None
    devices = record.get("desired_devices")
    return ReleaseRecord(
        release=name,
        version=version,
        is_withdrawn=record.get("withdrawn_at") is not None,
        desired_devices=devices if isinstance(devices, int) else 0,
        is_approved=record.get("approved_at") is not None,
    )


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise FleetRefusedError(
            f"{answer.request.url.path} of the fleet did not answer with a JSON object", 200
        )
    return value


def _field(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...], what: str) -> Any:
    value = record.get(name)
    if not isinstance(value, kind):
        raise FleetRefusedError(f"the fleet's record of {what} has no usable {name!r}: {value!r}", 200)
    return value

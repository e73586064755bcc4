"""A running fleet app for the tests of its HTTP API: one token per role, its own folder and database."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from databases import Databases
from fastapi.testclient import TestClient
from fleet_world import RELEASE_KEY, TENANT, Machine, make_claims, make_trust, operator_token
from trust_world import next_list

from fleet.app import build_app
from fleet.changes import hub
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from fleet.storage.base import Database
from fleet.trust.repository import TrustRepository
from protocol.bundle import peek_manifest
from service.roles import Role


class Fleet:
    """A running app with one token per role."""

    def __init__(self, client: TestClient, database: Database, folder: Path) -> None:
        self.client, self.database, self.folder = client, database, folder
        self.tokens: dict[str, str] = {}
        with database.write() as session:
            for role in Role:
                self.tokens[role] = operator_token(session, f"a-{role}", role)

    def call(self, method: str, path: str, role: str = Role.VIEWER, **arguments: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens.get(role, role)}"} | arguments.pop("headers", {})
        return self.client.request(method, path, headers=headers, **arguments)

    def claim(self, **terms: Any) -> str:
        return make_claims(self.database, now=self.now(), **terms)[0]

    def publish(self, content: bytes) -> None:
        """Hand a bundle in and list it."""
        assert self.call("POST", "/v1/releases", Role.PUBLISHER, content=content).status_code in {200, 201}
        trust = TrustRepository(self.folder / "data" / "trust")
        role, _, listed = next_list(trust, {str(peek_manifest(content).release): content}, RELEASE_KEY)
        answer = self.call("POST", f"/v1/trust/roles/{role}", Role.PUBLISHER, content=listed)
        assert answer.status_code == 204, answer.text

    def now(self) -> float:
        return float(self.client.app.state.services.now())  # type: ignore[attr-defined] # a FastAPI app

    def actions(self, subject: str) -> list[str]:
        """What the audit log says was done with `subject`, oldest first."""
        lines = self.call("GET", "/v1/audit", Role.ADMIN, params={"subject": subject}).json()["items"]
        return [line["action"] for line in lines][::-1]

    def renew(self, machine: Machine, request: str | None = None, **changes: Any) -> Any:
        """Have `machine` ask for its next certificate."""
        body = machine.question(request) | changes
        return self.call("POST", "/v1/device/certificate", machine.token(self.now()), json=body)

    def enrol(self, machine: Machine, claim: str | None = None, **changes: Any) -> Any:
        claim = self.claim() if claim is None else claim
        return self.call("POST", "/v1/enrolments", claim, json=machine.enrolment(**changes))


@pytest.fixture(scope="module")
def fleet(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    make_trust(folder / "data")
    (folder / "fleet.toml").write_text(
        f"""
        data_dir = "data"
        tenant = "{TENANT}"
        maximum_bundle_bytes = 100000
        [mqtt]
        url = "mqtt://127.0.0.1:1"
        shut_out = "file"
        shut_out_file = "broker/shut-out"
        """
    )
    settings = load_fleet_settings(folder / "fleet.toml")
    with databases.fresh() as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "LONGEST_S", 0.0)  # this client reads an answer to its end before it hands it on
        database = open_storage(url)
        with TestClient(build_app(settings, database), raise_server_exceptions=False) as client:
            yield Fleet(client, database, folder)
        database.close()


@pytest.fixture
def machine() -> Machine:
    return Machine(name=f"press-{secrets.token_hex(4)}")


def is_problem(answer: Any, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= body.keys()
    for word in words:
        assert word in body["detail"]


def leaf(chain: str) -> x509.Certificate:
    """The certificate itself, of what an answer hands out."""
    return x509.load_pem_x509_certificates(chain.encode())[0]

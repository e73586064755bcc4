"""The operator API with a driver that is told what to do, a token of each role, and one that a program holds."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from aggregator_world import FAMILY
from fastapi.testclient import TestClient
from ledger_world import accounts_at

from aggregator.api.application import create_api
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.run_store import RunStore
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.run_metrics import open_registry
from aggregator.run_scheduler import RunScheduler
from aggregator.tokens import PREFIX, ROLES, SqliteRows, TokenStore
from aggregator.triggers import DriftSummary
from service.roles import Role
from service.tokens import TokenGrant, create_token


class Driver:
    """Implements `RunDriver`: ends each run at once, after `before`."""

    def __init__(self, store: RunStore) -> None:
        self.store, self.driven = store, threading.Event()
        self.before: Callable[[], None] = lambda: None

    def advance(self, run_id: str) -> TrainingRun:
        self.before()
        run = msgspec.structs.replace(self.store.get(run_id), state=RunState.COMPLETED, ended_at=5.0)
        self.store.save(run)
        self.driven.set()
        return run


class Drift:
    """Implements `DriftSource`."""

    def __init__(self) -> None:
        self.summary = DriftSummary(devices=4, drifted_since=())
        self.failure: Exception | None = None

    def drift(self, family: str) -> DriftSummary:
        if self.failure:
            raise self.failure
        return self.summary

    def look(self) -> None:
        """Implements `Looking`: nobody is shut out."""


def aggregator_token(rows: SqliteRows, role: Role) -> str:
    grant = TokenGrant(name=role, role=role, person=f"a-{role}")
    return create_token(rows, grant, prefix=PREFIX, now=1.0, random_bytes=os.urandom)


class Service:
    """A service, its API, and a token of each role."""

    def __init__(self, tmp_path: Path, policy: FamilySettings) -> None:
        self.store, self.tokens = (
            RunStore(tmp_path / "a.sqlite"),
            TokenStore(tmp_path / "a.sqlite", lambda: 1.0),
        )
        self.driver, self.drift, self.now = Driver(self.store), Drift(), 1000.0
        numbers = iter(range(1, 100))
        self.scheduler = RunScheduler(
            store=self.store,
            families={FAMILY: policy},
            driver=self.driver,
            drift=self.drift,
            door=self.drift,
            stopping=threading.Event(),
            now=lambda: self.now,
            new_id=lambda: f"run-{next(numbers)}",
            watch_every_s=60.0,
        )
        self.accounts = accounts_at(tmp_path)
        registry = open_registry(self.store, self.accounts, lambda: True)
        self.api = create_api(self.scheduler, self.accounts, self.tokens, registry, lambda: {"status": "ok"})
        self.http = TestClient(self.api, raise_server_exceptions=False)
        with self.tokens.rows() as rows:
            secrets = {role: aggregator_token(rows, role) for role in ROLES}
        self.headers = {role: {"Authorization": f"Bearer {secret}"} for role, secret in secrets.items()}

    def close(self) -> None:
        self.scheduler.stop()
        for opened in (self.accounts, self.tokens, self.store):
            opened.close()

    def post(self, role: Role, **body: object) -> tuple[int, dict[str, object]]:
        answer = self.http.post("/v1/training-runs", json=body, headers=self.headers[role])
        return answer.status_code, answer.json()

"""The pages of a fleet in which rollouts happen, and people at browsers in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from dashboard_world import Browser
from fastapi.testclient import TestClient
from fleet_api_world import Fleet
from fleet_world import operator_token
from rollout_world import RolloutWorld
from sqlalchemy import delete, update

from fleet.aggregator_client import AggregatorClient
from fleet.app import build_app
from fleet.rollouts.engine import RolloutEngine
from fleet.settings import Settings
from fleet.storage.device_tables import Desired
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import (
    RolloutExecution,
    RolloutGroup,
    RolloutLook,
    RolloutRecord,
    RolloutTransition,
)
from service.roles import Role

__all__ = ["Pages", "pages_of"]


@dataclass(frozen=True)
class Pages:
    """A running app over a world: `people` are signed in, by name: vic looks, ann and bob operate."""

    client: TestClient
    world: RolloutWorld
    people: dict[str, Browser]

    @property
    def services(self) -> Any:
        return cast("Any", self.client.app).state.services

    def forget(self) -> None:
        """No rollout ever happened."""
        tables = (RolloutLook, RolloutTransition, RolloutExecution, RolloutGroup, RolloutRecord, Desired)
        with self.world.database.write() as session:
            for table in tables:
                session.execute(delete(table))
            session.execute(
                update(Release).values(withdrawn_at=None, withdrawn_reason=None, approved_at=None)
            )

    def rollout(self, **changes: Any) -> str:
        """One that is started by ann."""
        return self.world.started(**changes)


@contextmanager
def pages_of(
    world: RolloutWorld, folder: Path, aggregator: AggregatorClient | None = None
) -> Iterator[Pages]:
    """Serve the pages of `world`; training is said by `aggregator`, None: there is none."""
    with world.database.write() as session:
        tokens = {
            name: operator_token(session, name, role, world.now)
            for name, role in (("vic", Role.VIEWER), ("ann", Role.OPERATOR), ("bob", Role.OPERATOR))
        }
    app = build_app(Settings(data_dir=folder, tenant="demo"), world.database)
    with pytest.MonkeyPatch.context() as patch:
        # the world's clock stands still, and a service's own engine would see years pass
        patch.setattr(RolloutEngine, "run", _rest)
        with TestClient(app, raise_server_exceptions=False) as client:
            if aggregator is not None:
                object.__setattr__(app.state.services, "aggregator", aggregator)
            people = {
                name: Browser(cast("Fleet", _Door(client, {Role.VIEWER: token})), Role.VIEWER)
                for name, token in tokens.items()
            }
            yield Pages(client, world, people)


async def _rest(_self: RolloutEngine) -> None:
    await asyncio.Event().wait()


@dataclass(frozen=True)
class _Door:
    """What a `Browser` asks of a fleet: one that signs in with one token."""

    client: TestClient
    tokens: dict[Role, str]

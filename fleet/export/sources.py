"""What can be exported: listings of the API, and the columns of their views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from fleet.client.client import FleetClient
from fleet.views.devices import DeviceView
from fleet.views.event_log import EventLogPage, LoggedEvent
from fleet.views.observations import AnomalyView, DriftView, VerdictView
from fleet.views.operations import AuditView, DeadLetterView
from fleet.views.releases import ReleaseView
from fleet.views.rollouts import ExecutionView, RolloutSummary, RolloutView, TimelineLine

__all__ = ["SOURCES", "Source", "read_source"]

ALL: Final = 1 << 62
"""As many as there are; a listing is read page by page."""

Query = dict[str, str | float | None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of row. `read` gives them all; `has_times`: `since` and `until` choose among them."""

    view: type[BaseModel]
    read: Callable[[FleetClient, Query], Iterator[BaseModel]]
    has_times: bool = False

    @property
    def columns(self) -> dict[str, Any]:
        """Name → the type that the API says it has."""
        return {name: field.annotation for name, field in self.view.model_fields.items()}


def read_source(
    client: FleetClient, source: Source, *, since: float | None, until: float | None
) -> Iterator[dict[str, Any]]:
    """Every row, as the values of its columns."""
    query: Query = {"since": since, "until": until} if source.has_times else {}
    for row in source.read(client, query):
        yield row.model_dump(mode="json")


def _listing(view: type[BaseModel], path: str) -> Callable[[FleetClient, Query], Iterator[BaseModel]]:
    return lambda client, query: client.listing(view, path, query, ALL)


def _read_events(client: FleetClient, _query: Query) -> Iterator[BaseModel]:
    after = None
    while True:
        page = client.show(EventLogPage, "/v1/event-log", {"after": after, "limit": 1000})
        yield from page.items
        if not page.more:
            return
        after = page.next_cursor


class ExportedExecution(ExecutionView):
    """A device in a rollout, and in which."""

    rollout: str


class ExportedLine(TimelineLine):
    """A line of a rollout's timeline, and of which."""

    rollout: str


def _read_executions(client: FleetClient, _query: Query) -> Iterator[BaseModel]:
    for rollout in client.listing(RolloutSummary, "/v1/rollouts", {}, ALL):
        for group in client.show(RolloutView, f"/v1/rollouts/{rollout.id}").groups:
            path = f"/v1/rollouts/{rollout.id}/groups/{group.number}/executions"
            for execution in client.listing(ExecutionView, path, {}, ALL):
                yield ExportedExecution(**dict(execution), rollout=rollout.id)


def _read_timelines(client: FleetClient, _query: Query) -> Iterator[BaseModel]:
    for rollout in client.listing(RolloutSummary, "/v1/rollouts", {}, ALL):
        for line in client.listing(TimelineLine, f"/v1/rollouts/{rollout.id}/timeline", {}, ALL):
            yield ExportedLine(**dict(line), rollout=rollout.id)


SOURCES: Final[dict[str, Source]] = {
    "devices": Source(view=DeviceView, read=_listing(DeviceView, "/v1/devices")),
    "anomalies": Source(view=AnomalyView, read=_listing(AnomalyView, "/v1/anomalies"), has_times=True),
    "verdicts": Source(view=VerdictView, read=_listing(VerdictView, "/v1/verdicts")),
    "drift": Source(view=DriftView, read=_listing(DriftView, "/v1/drift"), has_times=True),
    "events": Source(view=LoggedEvent, read=_read_events),
    "releases": Source(view=ReleaseView, read=_listing(ReleaseView, "/v1/releases")),
    "rollouts": Source(view=RolloutSummary, read=_listing(RolloutSummary, "/v1/rollouts")),
    "executions": Source(view=ExportedExecution, read=_read_executions),
    "timelines": Source(view=ExportedLine, read=_read_timelines),
    "dead-letters": Source(view=DeadLetterView, read=_listing(DeadLetterView, "/v1/dead-letters")),
    "audit": Source(view=AuditView, read=_listing(AuditView, "/v1/audit")),
}
"""By the name that the command takes. `events` are all reports in the order in which they were stored."""

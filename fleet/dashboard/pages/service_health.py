"""``/service``: how the fleet itself is: its database, its broker, what it takes in, and what it could not take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.api.dead_letters import list_dead_letters, summarise_dead_letters
from fleet.api.dependencies import Services, get_services
from fleet.dashboard.access import signed_in
from fleet.dashboard.addresses import with_query
from fleet.dashboard.rendering import duration, number, page
from fleet.storage.device_tables import Device
from fleet.storage.replica_tables import LeaderRecord
from service.paging import After
from service.roles import Caller

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

LETTERS: Final = 25
LIMITED_S: Final = 3600.0
"""A device that was held back within the last hour is one that sends too fast now."""

EXPIRES_SOON_S: Final = 14 * 86_400.0


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line about the service: what, how it is, in which tone, and where more of it is."""

    what: str
    value: str
    tone: str = ""
    hint: str = ""


@router.get("/service")
def show_service(
    request: Request,
    caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
    after: After = None,
) -> Response:
    """The service's own health, and its dead letters."""
    with services.database.read() as session:
        leader = session.get(LeaderRecord, 1)
        limited = _limited(session, services.now() - LIMITED_S)
    letters = list_dead_letters(_caller=caller, services=services, after=after, limit=LETTERS)
    return page(
        request,
        "service.html",
        title="Service",
        live=() if after else ("alarm", "device"),
        groups={
            "This process": _of_process(services, leader),
            "What comes in": _of_ingest(services.metrics.registry),
            "What ends": _of_ends(services.metrics.registry),
        },
        limited=limited,
        summary=summarise_dead_letters(caller, services),
        letters=letters.items,
        first="/service" if after else None,
        following=letters.next_cursor and with_query("/service", after=letters.next_cursor),
    )


def _limited(session: Session, since: float) -> list[tuple[str, float | None, int]]:
    """Devices that send faster than they may: which, when last, and how many messages wait for it; the latest first."""
    rows = (
        select(Device.id, Device.limited_at, Device.limited_messages)
        .where(Device.limited_at >= since)
        .order_by(Device.limited_at.desc())
        .limit(10)
    )
    return [(row[0], row[1], row[2]) for row in session.execute(rows)]


def _of_process(services: Services, leader: LeaderRecord | None) -> list[Fact]:
    gauge = services.metrics.registry.get_sample_value
    outage = services.database.watch.outage
    dialect = services.database.engine.dialect.name
    is_connected = bool(gauge("fedge_fleet_broker_connected"))
    leads = bool(gauge("fedge_fleet_leads"))
    facts = [
        Fact(
            what="Database",
            value=f"{dialect}, {'answers' if outage is None else outage.kind}",
            tone="good" if outage is None else "bad",
        ),
        Fact(
            what="Broker",
            value="connected" if is_connected else "not connected: devices keep what they have to say",
            tone="good" if is_connected else "bad",
            hint=f"connected {_count(services.metrics.registry, 'fedge_fleet_broker_connects_total')} times since the start",
        ),
        Fact(
            what="Rollouts run",
            value="here" if leads else "in another process of this fleet",
            tone="good",
            hint=f"led by {leader.instance}" if leader is not None else "",
        ),
        Fact(what="Watchers", value=f"{len(services.changes)} connections listen to what changes"),
    ]
    if services.settings.mqtt is None:
        facts[1] = Fact(what="Broker", value="none is set: [mqtt] of fleet.toml", tone="wait")
    return facts


_COUNTED: Final = (
    ("Events stored", "fedge_fleet_events_stored_total", "", ""),
    ("Sent again, stored once", "fedge_fleet_events_duplicate_total", "", ""),
    (
        "Refused",
        "fedge_fleet_events_refused_total",
        "wait",
        "each is a dead letter, where its device is enrolled",
    ),
    ("Held back: too fast", "fedge_fleet_events_limited_total", "wait", "they come again"),
    ("Dropped while busy", "fedge_fleet_events_overflowed_total", "bad", "devices send them again"),
)


def _of_ingest(registry: CollectorRegistry) -> list[Fact]:
    facts = []
    for what, name, tone, hint in _COUNTED:
        count = _total(registry, name)
        facts.append(Fact(what=what, value=number(count, 9), tone=tone if count else "", hint=hint))
    batches = registry.get_sample_value("fedge_fleet_batch_seconds_count") or 0
    if batches:
        seconds = (registry.get_sample_value("fedge_fleet_batch_seconds_sum") or 0) / batches
        events = (registry.get_sample_value("fedge_fleet_batch_events_sum") or 0) / batches
        facts.append(
            Fact(
                what="A transaction", value=f"{number(1000 * seconds)} ms, {number(events)} events on average"
            )
        )
    return facts


def _of_ends(registry: CollectorRegistry) -> list[Fact]:
    facts = []
    days = registry.get_sample_value("fedge_certificate_days_left")
    if days is not None:
        facts.append(
            Fact(what="TLS certificate", value=f"{days:.0f} days left", tone="bad" if days < 14 else "good")
        )
    for metric in registry.collect():
        if metric.name == "fedge_fleet_trust_expires_seconds":
            facts += [_of_role(sample.labels["role"], sample.value) for sample in metric.samples]
    return facts


def _of_role(role: str, left_s: float) -> Fact:
    if left_s <= 0:
        return Fact(what=f"Trust: {role}", value="over: devices take nothing new", tone="bad")
    is_soon = left_s < EXPIRES_SOON_S and role in {"root", "targets"}
    return Fact(
        what=f"Trust: {role}",
        value=f"{duration(left_s)} left",
        tone="wait" if is_soon else "good",
        hint="renewed by the fleet itself" if role in {"snapshot", "timestamp"} else "",
    )


def _total(registry: CollectorRegistry, name: str) -> float:
    """A counter over all its labels."""
    return sum(
        sample.value
        for metric in registry.collect()
        if f"{metric.name}_total" == name
        for sample in metric.samples
        if sample.name == name
    )


def _count(registry: CollectorRegistry, name: str) -> str:
    return number(_total(registry, name), 9)

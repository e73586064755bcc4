"""``alerts`` and ``silences``: what somebody was told, whether it arrives, and when nobody is to be told."""

from __future__ import annotations

import re
import time
from typing import Annotated, Final

import typer

from fleet.alert_settings import AlertKind
from fleet.client.client import FleetClient
from fleet.commands.connection import JsonOption, LimitOption, asks_fleet
from fleet.commands.printing import print_json, print_rows, say, show_time
from fleet.views.alerts import (
    AlertView,
    GroupView,
    GroupWithDeliveries,
    ReceiverView,
    RetryView,
    SilenceView,
    TestView,
)
from service.errors import ClientError

__all__ = ["alerts", "silences"]

alerts = typer.Typer(help="Alerts: list, storms, show, end, receivers, test, retry.", no_args_is_help=True)
silences = typer.Typer(help="Silences: list, create, end.", no_args_is_help=True)

KindOption = Annotated[AlertKind | None, typer.Option("--kind", help="e.g. anomaly, silent, rollout")]
OpenOption = Annotated[bool | None, typer.Option("--open/--over", help="Only those that last, or are over")]
ReceiverArgument = Annotated[str, typer.Argument(help="its name in fleet.toml")]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)([smhd])")


@alerts.command("list")
@asks_fleet
def alerts_list(
    client: FleetClient,
    as_json: JsonOption = False,
    is_open: OpenOption = None,
    kind: KindOption = None,
    device: Annotated[str | None, typer.Option("--device")] = None,
    storm: Annotated[str | None, typer.Option("--storm", help="name of one")] = None,
    limit: LimitOption = 100,
) -> None:
    """Alarms, one a subject and kind, newest first."""
    query = {
        "open": _flag(is_open),
        "kind": None if kind is None else kind.value,
        "device": device,
        "group": storm,
    }
    rows = list(client.listing(AlertView, "/v1/alerts", query, limit))
    print_rows(
        rows,
        f"{len(rows)} alerts",
        {
            "id": lambda r: r.id,
            "kind": lambda r: r.kind,
            "about": lambda r: r.subject,
            "family": lambda r: r.family or None,
            "site": lambda r: r.site or None,
            "opened": lambda r: show_time(r.opened_at),
            "ended": lambda r: show_time(r.ended_at),
            "times": lambda r: r.times,
            "silence": lambda r: r.silence,
            "storm": lambda r: r.group,
            "what": lambda r: r.ending or r.detail,
        },
        as_json=as_json,
        limit=limit,
    )


@alerts.command("storms")
@asks_fleet
def alerts_storms(
    client: FleetClient,
    as_json: JsonOption = False,
    is_open: OpenOption = None,
    kind: KindOption = None,
    limit: LimitOption = 100,
) -> None:
    """Storms, each of which is one message and one resolution, newest first."""
    query = {"open": _flag(is_open), "kind": None if kind is None else kind.value}
    rows = list(client.listing(GroupView, "/v1/alert-groups", query, limit))
    print_rows(
        rows,
        f"{len(rows)} storms",
        {
            "storm": lambda r: r.name,
            "severity": lambda r: r.severity,
            "what": lambda r: r.title,
            "alerts": lambda r: r.alerts,
            "lasting": lambda r: r.lasting,
            "opened": lambda r: show_time(r.opened_at),
            "told": lambda r: show_time(r.told_at),
            "over": lambda r: show_time(r.resolved_at),
        },
        as_json=as_json,
        limit=limit,
    )


@alerts.command("show")
@asks_fleet
def alerts_show(client: FleetClient, storm: Annotated[str, typer.Argument()]) -> None:
    """One storm as JSON, with who was told of it and what became of that."""
    print_json(client.show(GroupWithDeliveries, f"/v1/alert-groups/{storm}"))


@alerts.command("end")
@asks_fleet
def alerts_end(
    client: FleetClient, alert: Annotated[int, typer.Argument(min=1)], as_json: JsonOption = False
) -> None:
    """Say that an alarm is over whose end nothing will tell."""
    ended = client.ask(AlertView, f"/v1/alerts/{alert}:end")
    print_json(ended) if as_json else say(f"over: {ended.kind} of {ended.subject}")


@alerts.command("receivers")
@asks_fleet
def alerts_receivers(client: FleetClient, as_json: JsonOption = False) -> None:
    """Who is told of what, and how each does."""
    rows = list(client.listing(ReceiverView, "/v1/alert-receivers", {}, 1000))
    print_rows(
        rows,
        f"{len(rows)} receivers",
        {
            "receiver": lambda r: r.name,
            "type": lambda r: r.type or "set no longer",
            "told of": lambda r: ", ".join([*r.kinds, *r.families, *r.sites]) or "everything",
            "at least": lambda r: r.at_least,
            "waiting": lambda r: r.waiting,
            "since": lambda r: show_time(r.oldest_waiting_at),
            "parked": lambda r: r.parked,
            "failing since": lambda r: show_time(r.failing_since),
            "tried next": lambda r: show_time(r.next_at),
            "last delivered": lambda r: show_time(r.delivered_at),
            "why": lambda r: r.error or None,
        },
        as_json=as_json,
    )


@alerts.command("test")
@asks_fleet
def alerts_test(client: FleetClient, receiver: ReceiverArgument, as_json: JsonOption = False) -> None:
    """Send a receiver a real message that says it is a test."""
    done = client.ask(TestView, f"/v1/alert-receivers/{receiver}:test")
    if as_json:
        print_json(done)
    elif done.outcome == "delivered":
        say(f"{receiver} has it{f': {done.reason}' if done.reason else ''}")
    else:
        raise ClientError(f"{receiver} has not got it: {done.reason}")


@alerts.command("retry")
@asks_fleet
def alerts_retry(client: FleetClient, receiver: ReceiverArgument, as_json: JsonOption = False) -> None:
    """Send everything again that a receiver refused, after what was wrong has been mended."""
    done = client.ask(RetryView, f"/v1/alert-receivers/{receiver}:retry")
    print_json(done) if as_json else say(f"{done.again} messages wait again; {receiver} is asked at once")


@silences.command("list")
@asks_fleet
def silences_list(
    client: FleetClient,
    as_json: JsonOption = False,
    is_open: OpenOption = None,
    limit: LimitOption = 100,
) -> None:
    """Silences, newest first."""
    rows = list(client.listing(SilenceView, "/v1/alert-silences", {"open": _flag(is_open)}, limit))
    print_rows(
        rows,
        f"{len(rows)} silences",
        {
            "id": lambda r: r.id,
            "devices": lambda r: r.query or "all",
            "kinds": lambda r: ", ".join(r.kinds) or "all",
            "from": lambda r: show_time(r.starts_at),
            "to": lambda r: show_time(r.ends_at),
            "by": lambda r: r.created_by,
            "ended by": lambda r: r.ended_by,
            "why": lambda r: r.comment,
        },
        as_json=as_json,
        limit=limit,
    )


@silences.command("create")
@asks_fleet
def silences_create(
    client: FleetClient,
    query: Annotated[str, typer.Option("--query", help='of devices, e.g. site==hall-1; "": all')],
    lasts: Annotated[str, typer.Option("--for", help="how long: 90m, 2h, 3d")],
    comment: Annotated[str, typer.Option("--comment", help="why, for people")] = "",
    kinds: Annotated[list[AlertKind] | None, typer.Option("--kind", help="several times; none: all")] = None,
    starts_in: Annotated[str, typer.Option("--in", help="begins so much later: 30m, 8h")] = "0s",
    as_json: JsonOption = False,
) -> None:
    """Have nobody told of some devices for a time; what lasts longer is told then."""
    starts_at = time.time() + _span(starts_in, "--in")
    asked = {
        "query": query,
        "kinds": [kind.value for kind in kinds or ()],
        "comment": comment,
        "starts_at": starts_at,
        "ends_at": starts_at + _span(lasts, "--for"),
    }
    made = client.ask(SilenceView, "/v1/alert-silences", asked)
    if as_json:
        print_json(made)
    else:
        say(f"silence {made.id} of {made.query or 'all devices'} until {show_time(made.ends_at)} UTC")


@silences.command("end")
@asks_fleet
def silences_end(
    client: FleetClient, silence: Annotated[int, typer.Argument(min=1)], as_json: JsonOption = False
) -> None:
    """End a silence before its time; what it covers and still lasts is told."""
    ended = client.ask(SilenceView, f"/v1/alert-silences/{silence}:end")
    print_json(ended) if as_json else say(f"silence {ended.id} has ended")


def _span(text: str, option: str) -> float:
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ClientError(f"{option} {text[:20]!r} is no time span; valid: 45s, 90m, 2h, 3d")
    return float(match[1]) * _UNITS[match[2]]


def _flag(wanted: bool | None) -> str | None:
    return None if wanted is None else str(wanted).lower()

"""``releases``, ``drift``: what the fleet knows, over its HTTPS API."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.client.client import FleetClient
from fleet.commands.connection import JsonOption, LimitOption, SinceOption, asks_fleet
from fleet.commands.printing import print_json, print_rows, say, show_number, show_time
from fleet.views.observations import DriftSummary, DriftView
from fleet.views.releases import ReleaseView
from protocol.names import split_release_id
from service.confirmation import YesOption, ask_for_name
from service.errors import ClientError

__all__ = ["drift", "releases"]

releases = typer.Typer(
    help="Releases: list, show, withdraw; fedge-aggregator publishes.", no_args_is_help=True
)


@releases.command("list")
@asks_fleet
def releases_list(
    client: FleetClient,
    as_json: JsonOption = False,
    family: Annotated[str | None, typer.Option("--family")] = None,
    limit: LimitOption = 1000,
) -> None:
    """Every release."""
    rows = list(client.listing(ReleaseView, "/v1/releases", {"family": family}, limit))
    print_rows(
        rows,
        f"{len(rows)} releases",
        {
            "release": lambda r: r.id,
            "bytes": lambda r: r.size_bytes,
            "sha256": lambda r: r.sha256[:12],
            "by": lambda r: r.published_by,
            "published": lambda r: show_time(r.published_at),
            "trigger": lambda r: r.provenance["trigger"],
            "rounds": lambda r: r.provenance["rounds"],
            "learnt from": lambda r: r.provenance["participants"],
            "runs on": lambda r: r.desired_devices,
            "listed": lambda r: "yes" if r.listed_at else "NO",
            "approved": lambda r: r.approved_by,
            "withdrawn": lambda r: r.withdrawn_reason,
        },
        as_json=as_json,
        limit=limit,
    )


@releases.command("show")
@asks_fleet
def releases_show(
    client: FleetClient,
    release: Annotated[str, typer.Argument(help="family/version")],
) -> None:
    """One release's record with manifest and provenance, as JSON."""
    family, version = split_release_id(release)
    print_json(client.show(ReleaseView, f"/v1/releases/{family}/{version}"))


@releases.command("withdraw")
@asks_fleet
def releases_withdraw(
    client: FleetClient,
    release: Annotated[str, typer.Argument(help="family/version")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever would roll it out")],
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Take a release back: nobody builds upon it, and a rollout of it needs force. It cannot be undone."""
    family, version = split_release_id(release)
    ask_for_name(release, f"Withdrawing release {release}", yes=yes)
    asked = {"reason": reason, "confirm": release}
    record = client.ask(ReleaseView, f"/v1/releases/{family}/{version}:withdraw", asked)
    if as_json:
        print_json(record)
        return
    say(f"withdrawn: {record.id} ({record.withdrawn_reason})")
    if record.desired_devices:
        say(f"{record.desired_devices} devices shall still run it: roll another release out to them")


@asks_fleet
def drift(
    client: FleetClient,
    as_json: JsonOption = False,
    family: Annotated[
        str | None, typer.Option("--family", help="with --summary: how much of it drifted")
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="The share in drift now")] = False,
    since: SinceOption = None,
    limit: LimitOption = 100,
) -> None:
    """Drift reports, newest first; or the summary of a family."""
    if summary:
        if family is None:
            raise ClientError("--summary needs --family")
        print_json(client.show(DriftSummary, "/v1/drift/summary", {"family": family}))
        return
    rows = list(client.listing(DriftView, "/v1/drift", {"family": family, "since": since}, limit))
    print_rows(
        rows,
        f"{len(rows)} drift reports",
        {
            "received": lambda r: show_time(r.received_at),
            "device": lambda r: r.device,
            "release": lambda r: r.release,
            "state": lambda r: r.state,
            "score": lambda r: show_number(r.drift_score),
            "severity": lambda r: show_number(r.severity),
            "detectors": lambda r: " ".join(f"{f['detector']}:{f['sensor']}" for f in r.findings[:4]),
        },
        as_json=as_json,
        limit=limit,
    )

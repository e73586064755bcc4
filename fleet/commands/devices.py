"""``devices``: who they are and how they are, who is shut out, and whose windows are normal after all."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import typer

from fleet.client.client import FleetClient
from fleet.commands.claims import LabelsOption, UnreleasedOption, key_values
from fleet.commands.connection import JsonOption, KeyOption, LimitOption, asks_fleet
from fleet.commands.printing import print_json, print_rows, say, show_number, show_time
from fleet.views.commands import AcceptanceView
from fleet.views.devices import DeviceView, Erasure
from service.client import new_key
from service.confirmation import YesOption, ask_for_name
from service.durations import read_past
from service.errors import ClientError

__all__ = ["devices"]

_ABOUT_STATE: Final = re.compile(r"(?<![\w.])state\s*[=!]")

devices = typer.Typer(
    help="Devices: add, list, show, revoke; tell them what to do, and set them.", no_args_is_help=True
)


@devices.command("list")
@asks_fleet
def devices_list(
    client: FleetClient,
    as_json: JsonOption = False,
    query: Annotated[str, typer.Option("--query", "-q", help="e.g. 'hardware==rpi4 and site!=lab'")] = "",
    limit: LimitOption = 1000,
    revoked: Annotated[bool, typer.Option("--revoked", help="Those that were shut out, too")] = False,
) -> None:
    """The devices a query selects; without those that were shut out, unless it is about their state."""
    is_about_state = revoked or _ABOUT_STATE.search(query) is not None
    wanted = query if is_about_state else f"({query}) and state!=revoked" if query else "state!=revoked"
    rows = list(client.listing(DeviceView, "/v1/devices", {"query": wanted}, limit))
    print_rows(
        rows,
        f"{len(rows)} devices",
        {
            "device": lambda r: r.id,
            "hardware": lambda r: r.hardware,
            "family": lambda r: r.family,
            "site": lambda r: r.site,
            "labels": lambda r: " ".join(f"{key}={value}" for key, value in r.labels.items()),
            "state": lambda r: ("online" if r.online else "offline") if r.state == "enrolled" else r.state,
            "alarm": lambda r: f"{r.open_alarms} OPEN" if r.open_alarms else None,
            "does": lambda r: r.agent_state,
            "release": lambda r: r.release,
            "desired": lambda r: r.desired_release,
            "drift": lambda r: "DRIFTED" if r.drifted else show_number(r.drift_score),
            "sight": lambda r: show_number(_told(r, "sight")),
            "alarms in 1000": _kept,
            "unjudged": lambda r: _told(r, "unjudged_windows"),
            "set aside": lambda r: _told(r, "set_aside_windows"),
            "last seen": lambda r: show_time(r.last_seen),
            "problem": lambda r: next(iter(_problems(r)), None),
        },
        as_json=as_json,
        limit=limit,
    )


def _kept(device: DeviceView) -> str | None:
    """Alarms in 1000 windows since a promise was made, with their interval, and how many were promised at most; None: nothing was."""
    promised, windows = _told(device, "promised_per_1000"), _told(device, "realised_windows")
    if promised is None:
        return None
    if not windows:
        return f"of {promised:.3g}"
    rate = 1000 * _told(device, "realised_alarms") / windows
    low, high = _told(device, "realised_low_per_1000"), _told(device, "realised_high_per_1000")
    provisional = ", provisional" if _told(device, "is_promise_provisional") else ""
    return f"{rate:.2g} ({low:.2g}–{high:.2g}) of {promised:.3g}{provisional}"


def _problems(device: DeviceView) -> list[str]:
    """Sentences for people, the gravest first."""
    said, family = device.reported_family, device.family
    return [
        *filter(None, [device.identity_conflict]),
        *([f"says that it is of family {said}, and is of {family}"] if said not in {None, family} else []),
        *(_told(device, "problems") or ()),
    ]


def _told(device: DeviceView, name: str) -> Any:
    """A figure of the last health; None where it was not told."""
    return (device.last_health or {}).get(name)


@devices.command("show")
@asks_fleet
def devices_show(client: FleetClient, device: str) -> None:
    """Everything about one device, as JSON."""
    print_json(client.show(DeviceView, f"/v1/devices/{device}"))


@devices.command("revoke")
@asks_fleet
def devices_revoke(
    client: FleetClient,
    device: str,
    yes: YesOption = False,
) -> None:
    """Shut a device out for good."""
    ask_for_name(device, f"Shutting out device {device}", yes=yes)
    print_json(client.ask(DeviceView, f"/v1/devices/{device}:revoke", {"confirm": device}))


@devices.command("approve")
@asks_fleet
def devices_approve(
    client: FleetClient,
    device: str,
    fingerprint: Annotated[
        str | None, typer.Option(help="Of its key, as the device shows it; asked for where it is left out")
    ] = None,
) -> None:
    """Let a device in that waits. Compare its key's fingerprint with the one that the device shows."""
    seen = client.show(DeviceView, f"/v1/devices/{device}")
    print(
        f"{device}: family {seen.family}, site {seen.site or '–'}, says it is {seen.hardware}\n"
        f"key {seen.fingerprint}"
    )
    if fingerprint is None:
        if not typer.confirm("Does the device show the same key?"):
            raise ClientError("nobody was approved")
        fingerprint = seen.fingerprint
    answer = client.ask(DeviceView, f"/v1/devices/{device}:approve", {"fingerprint": fingerprint})
    print(f"{device} is {answer.state}: it gets its certificate when it asks next")


@devices.command("refuse")
@asks_fleet
def devices_refuse(
    client: FleetClient,
    device: str,
    yes: YesOption = False,
) -> None:
    """Keep a device out that waits, for good."""
    ask_for_name(device, f"Refusing device {device}", yes=yes)
    answer = client.ask(DeviceView, f"/v1/devices/{device}:refuse", {"confirm": device})
    print(f"{device} is {answer.state}; its key does not get in under any name")


@devices.command("assign")
@asks_fleet
def devices_assign(
    client: FleetClient,
    device: str,
    *,
    family: Annotated[str | None, typer.Option(help="Its family from now on")] = None,
    site: Annotated[str | None, typer.Option(help="Where it stands")] = None,
    label: LabelsOption = None,
    remove_label: Annotated[list[str] | None, typer.Option(help="Name of a label that goes")] = None,
    unreleased: UnreleasedOption = False,
) -> None:
    """Change what a device is: its family, site or labels. What is not given stays."""
    wanted: dict[str, Any] = {"labels": key_values(label or []), "remove_labels": remove_label or []}
    wanted |= {"is_unreleased": unreleased}
    wanted |= {} if family is None else {"family": family}
    wanted |= {} if site is None else {"site": site}
    seen = client.ask(DeviceView, f"/v1/devices/{device}:assign", wanted)
    labels = " ".join(f"{name}={value}" for name, value in seen.labels.items())
    print(f"{device}: family {seen.family}, site {seen.site or '–'}, labels {labels or '–'}")


@devices.command("erase")
@asks_fleet
def devices_erase(
    client: FleetClient,
    device: str,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Remove everything a device ever sent, for good; the audit log keeps who did it, when, and how many rows."""
    state = client.show(DeviceView, f"/v1/devices/{device}").state
    goes_on = (
        "It is enrolled, so what it sends from now on is stored (revoke it first if nothing more shall come)."
        if state == "enrolled"
        else "It is revoked: only what keeps it out stays."
    )
    ask_for_name(device, f"{goes_on} Erasing everything that {device} ever sent", yes=yes)
    done = client.ask(Erasure, f"/v1/devices/{device}:erase", {"confirm": device})
    if as_json:
        print_json(done)
        return
    found = ", ".join(f"{count} of {table}" for table, count in done.rows.items()) or "nothing was there"
    say(f"erased: {device} ({found}). {goes_on}")


@devices.command("accept-normal")
@asks_fleet
def devices_accept_normal(
    client: FleetClient,
    device: Annotated[str | None, typer.Argument(help="One device; or give --query")] = None,
    *,
    as_json: JsonOption = False,
    query: Annotated[str | None, typer.Option("--query", "-q", help="Every device it selects")] = None,
    until: Annotated[
        float | None,
        typer.Option(
            "--until",
            parser=read_past,
            metavar="WHEN",
            help="Set aside up to then (2h, 2026-11-30T08:00Z, Unix seconds); default now",
        ),
    ] = None,
    include_true_alarms: Annotated[
        bool, typer.Option("--include-true-alarms", help="Also where an alarm among them was judged true")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which devices and how many windows")
    ] = False,
    idempotency_key: KeyOption = None,
) -> None:
    """Say that the windows which devices set aside during alarms are normal: they may learn them."""
    if (device is None) == (query is None):
        raise ClientError("whose windows are normal? Name one device, or give --query (not both)")
    key = idempotency_key or new_key()
    asked = {"until_s": until, "include_true_alarms": include_true_alarms, "dry_run": dry_run}
    if query is None:
        done = client.ask(AcceptanceView, f"/v1/devices/{device}/normal", asked, key=key)
    else:
        done = client.ask(AcceptanceView, "/v1/devices:accept-normal", asked | {"query": query}, key=key)
    if as_json:
        print_json(done)
        return
    would = "would be told" if dry_run else "are told"
    say(
        f"{len(done.devices)} devices {would} that what they set aside until {show_time(done.until_s)} is normal:"
        f" {done.set_aside_windows} windows by their last word"
    )
    for name, anomaly in done.held_back.items():
        say(f"held back: {name}, whose anomaly {anomaly} was judged a true alarm")

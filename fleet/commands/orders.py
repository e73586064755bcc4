"""``devices command | commands | cancel | settings | diagnose``: what devices are told to do, and to be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from fleet.client.client import FleetClient
from fleet.commands.connection import JsonOption, KeyOption, LimitOption, asks_fleet
from fleet.commands.printing import print_json, print_rows, print_table, say, show_number, show_time
from fleet.views.commands import CommandsGiven, CommandView
from fleet.views.devices import SettingsGiven, SettingsView
from protocol.messages.kinds import CommandAction, CommandStatus
from service.client import new_key
from service.errors import ClientError

__all__ = ["cancel_command", "command_devices", "device_settings", "diagnose_device", "list_commands"]

POLL_S: Final = 0.5

DeviceOrNone = Annotated[str | None, typer.Argument(help="One device; or give --query")]
QueryOption = Annotated[str | None, typer.Option("--query", "-q", help="Every device it selects now")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say which devices; with --query")]


@asks_fleet
def command_devices(
    client: FleetClient,
    action: Annotated[CommandAction, typer.Argument(help="what to do once")],
    device: DeviceOrNone = None,
    *,
    as_json: JsonOption = False,
    query: QueryOption = None,
    afresh: Annotated[
        bool,
        typer.Option("--afresh", help="recommission: forget the scale so far, where the device allows it"),
    ] = False,
    dry_run: DryRunOption = False,
    idempotency_key: KeyOption = None,
) -> None:
    """Tell a device, or every device a query selects, to do something once."""
    if action is CommandAction.ACCEPT_AS_NORMAL:
        raise ClientError("say that with: fedge-fleet devices accept-normal (it looks for true alarms first)")
    _check_meant(device, query, dry_run=dry_run)
    asked: dict[str, Any] = {"action": action.value, "afresh": afresh}
    key = idempotency_key or new_key()
    if device is not None:
        view = client.ask(CommandView, f"/v1/devices/{device}/commands", asked, key=key)
        _print_commands([view], f"{device} is told as soon as it can be", as_json=as_json)
        return
    given = client.ask(
        CommandsGiven, "/v1/devices:command", asked | {"query": query, "dry_run": dry_run}, key=key
    )
    if as_json:
        print_json(given)
        return
    say(f"{len(given.commands)} devices {'would be' if dry_run else 'are'} told: {action.value}")
    for name, reason in given.held_back.items():
        say(f"held back: {name}: {reason}")


@asks_fleet
def list_commands(
    client: FleetClient,
    device: str,
    as_json: JsonOption = False,
    limit: LimitOption = 20,
) -> None:
    """What a device was told to do and what became of it, newest first."""
    rows = list(client.listing(CommandView, f"/v1/devices/{device}/commands", {}, limit))
    _print_commands(rows, f"{len(rows)} commands of {device}", as_json=as_json)


@asks_fleet
def cancel_command(
    client: FleetClient,
    device: str,
    number: Annotated[int, typer.Argument(min=1, help="as `devices commands` prints it")],
    as_json: JsonOption = False,
) -> None:
    """Take a command back that the device has not begun."""
    view = client.ask(CommandView, f"/v1/devices/{device}/commands/{number}:cancel")
    _print_commands([view], f"command {number} of {device} is taken back", as_json=as_json)


@asks_fleet
def device_settings(
    client: FleetClient,
    device: DeviceOrNone = None,
    *,
    as_json: JsonOption = False,
    query: QueryOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="name=value, repeat; the others are agent.toml's again")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="All is as each agent.toml says")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Show what the fleet sets on a device or on those a query selects; with --set or --clear, change it."""
    if set_ and clear:
        raise ClientError("--set and --clear contradict each other: give one of them")
    _check_meant(device, query, dry_run=dry_run)
    is_change = bool(set_) or clear
    body = {"settings": dict(map(_read_setting, set_ or ()))}
    if query is None:
        path = f"/v1/devices/{device}/settings"
        rows = [client.set(SettingsView, path, body) if is_change else client.show(SettingsView, path)]
    elif is_change:
        done = client.set(SettingsGiven, "/v1/devices:settings", body | {"query": query, "dry_run": dry_run})
        if as_json:
            print_json(done)
            return
        would = "would be" if dry_run else "are"
        say(f"{len(done.devices)} devices {would} set; {len(done.unchanged)} are so already")
        return
    else:
        rows = list(client.listing(SettingsView, "/v1/devices:settings", {"query": query}, 1000))
    if as_json:
        print_json(rows if query is not None else rows[0])
        return
    print_table(
        f"settings of {len(rows)} devices",
        ["device", "setting", "wanted", "in force", "by", "refused", "heard"],
        [line for row in rows for line in _setting_lines(row)],
    )


@asks_fleet
def diagnose_device(
    client: FleetClient,
    device: str,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="default: <device>-<number>.json.gz here")
    ] = None,
    wait: Annotated[float, typer.Option("--wait", min=1, help="Seconds to wait for the device")] = 300.0,
) -> None:
    """Fetch a bundle of log, state, settings, disk and memory from a device into a file (gzip-compressed JSON)."""
    asked = client.ask(CommandView, f"/v1/devices/{device}/commands", {"action": "diagnose"}, key=new_key())
    path = f"/v1/devices/{device}/commands/{asked.number}"
    view = _wait(client, path, device, wait)
    if view.report_bytes is None:
        raise ClientError(
            f"command {view.number} of {device} ended {view.status} without a bundle: {view.reason}"
        )
    content = client.download(f"{path}/report")
    file = output or Path(f"{device}-{view.number}.json.gz")
    try:
        file.write_bytes(content)
    except OSError as error:
        raise ClientError(f"cannot write {file}: {error.strerror}") from None
    say(f"{file}: {view.reason} (read it with: gzip -dc {file})")


def _wait(client: FleetClient, path: str, device: str, wait_s: float) -> CommandView:
    deadline = time.monotonic() + wait_s
    with Console(stderr=True).status(f"waiting for {device}") as shown:
        while True:
            view = client.show(CommandView, path)
            if CommandStatus(view.status).is_final:
                return view
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ClientError(
                    f"{device} has not answered within {wait_s:g} s; it will when it can, and"
                    f" `fedge-fleet devices commands {device}` shows it (command {view.number})"
                )
            shown.update(f"waiting for {device} ({view.status}), {left_s:.0f} s at most")
            time.sleep(POLL_S)


def _check_meant(device: str | None, query: str | None, *, dry_run: bool) -> None:
    if (device is None) == (query is None):
        raise ClientError("which devices are meant? Name one, or give --query (not both)")
    if dry_run and query is None:
        raise ClientError("--dry-run goes with --query: with one device there is nothing to look up")


def _read_setting(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ClientError(f"--set {text!r} is not name=number, e.g. health.every_s=60") from None


def _setting_lines(row: SettingsView) -> list[list[object]]:
    names = sorted({*row.wanted, *row.in_force})
    heard = {True: "yes", False: "not yet", None: None}[row.is_obeyed]
    lines: list[list[object]] = []
    for name in names:
        told = row.in_force.get(name)
        lines.append(
            [
                row.device,
                name,
                show_number(row.wanted.get(name)),
                show_number(told.value if told else None),
                told.source if told else None,
                (told.refused if told else None) or None,
                heard,
            ]
        )
    return lines or [[row.device, None, None, None, "all as its agent.toml says", None, heard]]


def _print_commands(rows: list[CommandView], title: str, *, as_json: bool) -> None:
    print_rows(
        rows,
        title,
        {
            "number": lambda r: r.number,
            "command": lambda r: r.action,
            "status": lambda r: r.status,
            "why": lambda r: " ".join(part for part in (r.code, r.reason) if part) or None,
            "by": lambda r: r.asked_by,
            "asked": lambda r: show_time(r.asked_at),
            "changed": lambda r: show_time(r.changed_at),
            "fetched": lambda r: r.report_bytes,
        },
        as_json=as_json,
    )

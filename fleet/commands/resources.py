"""``devices``, ``releases``, ``anomalies``, ``drift``: what the fleet knows, over its HTTPS API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.client import connect
from fleet.commands.connection import CaOption, JsonOption, TokenFileOption, UrlOption
from fleet.commands.printing import print_json, print_table, show_number, show_time
from fleet.errors import ClientError
from protocol.limits import MAX_BUNDLE_BYTES
from protocol.names import split_release_id

__all__ = ["anomalies", "devices", "drift", "releases"]

devices = typer.Typer(help="Devices: list, show, revoke.", no_args_is_help=True)
releases = typer.Typer(help="Releases: list, show, publish.", no_args_is_help=True)

LimitOption = Annotated[int, typer.Option("--limit", min=1, help="Most items")]
SinceOption = Annotated[float | None, typer.Option("--since", help="Received at or after, Unix seconds")]


@devices.command("list")
def devices_list(
    url: UrlOption = None,
    ca: CaOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
    query: Annotated[str, typer.Option("--query", "-q", help="e.g. 'hardware==rpi4 and site!=lab'")] = "",
    limit: LimitOption = 1000,
) -> None:
    """The devices a query selects."""
    with connect(url, ca, token_file) as client:
        rows = list(client.pages("/v1/devices", {"query": query}, limit))
    if as_json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} devices",
        ["device", "hardware", "family", "labels", "state", "release", "desired", "drift", "last seen"],
        (
            [
                r["id"],
                r["hardware"],
                r["family"],
                " ".join(f"{key}={value}" for key, value in r["labels"].items()),
                ("online" if r["online"] else "offline") if r["state"] == "enrolled" else r["state"],
                r["release"],
                r["desired_release"],
                "DRIFTED" if r["drifted"] else show_number(r["drift_score"]),
                show_time(r["last_seen"]),
            ]
            for r in rows
        ),
    )


@devices.command("show")
def devices_show(
    device: str, url: UrlOption = None, ca: CaOption = None, token_file: TokenFileOption = None
) -> None:
    """Everything about one device, as JSON."""
    with connect(url, ca, token_file) as client:
        print_json(client.get(f"/v1/devices/{device}"))


@devices.command("revoke")
def devices_revoke(
    device: str, url: UrlOption = None, ca: CaOption = None, token_file: TokenFileOption = None
) -> None:
    """Shut a device out for good."""
    with connect(url, ca, token_file) as client:
        print_json(client.post(f"/v1/devices/{device}:revoke"))


@releases.command("list")
def releases_list(
    url: UrlOption = None,
    ca: CaOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
    family: Annotated[str | None, typer.Option("--family")] = None,
    limit: LimitOption = 1000,
) -> None:
    """Every release."""
    with connect(url, ca, token_file) as client:
        rows = list(client.pages("/v1/releases", {"family": family}, limit))
    if as_json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} releases",
        ["release", "bytes", "sha256", "by", "published", "trigger", "rounds", "devices", "withdrawn"],
        (
            [
                r["id"],
                r["size_bytes"],
                r["sha256"][:12],
                r["published_by"],
                show_time(r["published_at"]),
                r["provenance"]["trigger"],
                r["provenance"]["rounds"],
                r["provenance"]["participants"],
                r["withdrawn_reason"],
            ]
            for r in rows
        ),
    )


@releases.command("show")
def releases_show(
    release: Annotated[str, typer.Argument(help="family/version")],
    url: UrlOption = None,
    ca: CaOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """One release's record with manifest and provenance, as JSON."""
    family, version = split_release_id(release)
    with connect(url, ca, token_file) as client:
        print_json(client.get(f"/v1/releases/{family}/{version}"))


@releases.command("publish")
def releases_publish(
    bundle: Annotated[Path, typer.Argument(help="A signed .fedge bundle")],
    url: UrlOption = None,
    ca: CaOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a signed bundle (needs a publisher token)."""
    try:
        if bundle.stat().st_size > MAX_BUNDLE_BYTES:
            raise ClientError(
                f"{bundle} has {bundle.stat().st_size} bytes; a bundle has at most {MAX_BUNDLE_BYTES}"
            )
        content = bundle.read_bytes()
    except OSError as error:
        raise ClientError(f"cannot read the bundle {bundle}: {error.strerror}") from None
    with connect(url, ca, token_file) as client:
        record = client.upload("/v1/releases", content)
    if as_json:
        print_json(record)
    else:
        print(f"published {record['id']} ({record['size_bytes']} bytes, SHA-256 {record['sha256'][:12]}…)")


def anomalies(
    url: UrlOption = None,
    ca: CaOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
    device: Annotated[str | None, typer.Option("--device")] = None,
    since: SinceOption = None,
    limit: LimitOption = 100,
) -> None:
    """Anomalies, newest first."""
    with connect(url, ca, token_file) as client:
        rows = list(client.pages("/v1/anomalies", {"device": device, "since": since}, limit))
    if as_json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} anomalies",
        ["id", "received", "device", "release", "score", "threshold", "contributors"],
        (
            [
                str(r["id"]),
                show_time(r["received_at"]),
                r["device"],
                r["release"],
                show_number(r["score"]),
                show_number(r["threshold"]),
                " ".join(r["contributors"]),
            ]
            for r in rows
        ),
    )


def drift(
    url: UrlOption = None,
    ca: CaOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
    family: Annotated[
        str | None, typer.Option("--family", help="with --summary: how much of it drifted")
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="The share in drift now")] = False,
    since: SinceOption = None,
    limit: LimitOption = 100,
) -> None:
    """Drift reports, newest first; or the summary of a family."""
    with connect(url, ca, token_file) as client:
        if summary:
            if family is None:
                raise ClientError("--summary needs --family")
            print_json(client.get("/v1/drift/summary", {"family": family}))
            return
        rows = list(client.pages("/v1/drift", {"family": family, "since": since}, limit))
    if as_json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} drift reports",
        ["received", "device", "release", "state", "score", "detectors"],
        (
            [
                show_time(r["received_at"]),
                r["device"],
                r["release"],
                r["state"],
                show_number(r["drift_score"]),
                " ".join(f"{f['detector']}:{f['sensor']}" for f in r["findings"][:4]),
            ]
            for r in rows
        ),
    )

"""``audit``: who changed what, and whether the log says what was written.

``list`` and ``head`` ask the fleet; ``verify`` and ``export`` read its database on the server, whether or not it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fleet.audit_chain import AuditLine, Head, canonical, verify
from fleet.client.client import FleetClient
from fleet.commands.connection import JsonOption, LimitOption, asks_fleet
from fleet.commands.on_server import reading
from fleet.commands.printing import print_rows, show_time
from fleet.views.operations import AuditView, HeadView
from runtime.durable_files import write_durably
from service.errors import ClientError

__all__ = ["audit"]

audit = typer.Typer(help="The audit log: list, head, verify, export.", no_args_is_help=True)

ConfigOrNone = Annotated[Path | None, typer.Option("--config", help="fleet.toml, on the server")]

_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


@audit.command("list")
@asks_fleet
def audit_list(
    client: FleetClient,
    as_json: JsonOption = False,
    subject: Annotated[
        str | None, typer.Option("--subject", help="what was changed: a device, a release …")
    ] = None,
    action: Annotated[str | None, typer.Option("--action", help="e.g. device_revoked")] = None,
    limit: LimitOption = 100,
) -> None:
    """Lines, the newest first."""
    rows = list(client.listing(AuditView, "/v1/audit", {"subject": subject, "action": action}, limit))
    print_rows(
        rows,
        f"{len(rows)} lines",
        {
            "line": lambda r: r.id,
            "time": lambda r: show_time(r.at),
            "who": lambda r: r.actor,
            "did": lambda r: r.action,
            "to": lambda r: r.subject,
            "more": lambda r: canonical(r.detail),
        },
        as_json=as_json,
        limit=limit,
    )


@audit.command("head")
@asks_fleet
def audit_head(
    client: FleetClient,
) -> None:
    """The last line's number and digest. Keep it where the fleet cannot write: `verify --head` compares it later."""
    found = client.show(HeadView, "/v1/audit/head")
    print(Head(id=found.id, sha256=found.sha256))


@audit.command("verify")
def audit_verify(
    config: ConfigOrNone = None,
    file: Annotated[Path | None, typer.Option("--file", help="what `audit export` wrote, instead")] = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="one that was kept (ID:SHA256), repeat: shows a cut-off end"),
    ] = None,
) -> None:
    """Whether every line says what was written, in its place; names the first that does not, with status 1."""
    known = [_read_head(text) for text in head or ()]
    with _lines(config, file) as lines:
        found = verify(lines, known)
    print(f"the log holds to its last line; its head is {found}")
    if not known:
        print("whether its end was cut off shows only against a head that was kept elsewhere: give --head")


@audit.command("export")
def audit_export(
    config: Annotated[Path, typer.Option("--config", help="fleet.toml, on the server")],
    out: Annotated[Path, typer.Option("--out", help="a new file of JSON lines, mode 0600")],
) -> None:
    """Write the whole log to a file that `verify --file` takes anywhere."""
    with _lines(config, None) as lines:
        content = "".join(f"{canonical(asdict(line))}\n" for line in lines)
    write_durably(out, content.encode(), mode=0o600, exclusive=True)
    print(f"{out}: {content.count(chr(10))} lines")


@contextmanager
def _lines(config: Path | None, file: Path | None) -> Iterator[Iterator[AuditLine]]:
    from fleet.audit import read_lines

    if (config is None) == (file is None):
        raise ClientError("which log? Give --config on the server, or --file with an export (not both)")
    if config is not None:
        with reading(config) as session:
            yield read_lines(session)
    elif file is not None:
        try:
            content = file.open("rb")
        except OSError as error:
            raise ClientError(f"cannot read {file}: {error.strerror or error}") from None
        with content:
            yield map(_read_line, content)


def _read_line(line: bytes) -> AuditLine:
    try:
        return msgspec.json.decode(line, type=AuditLine)
    except msgspec.MsgspecError as error:
        raise ClientError(f"{line[:60]!r} is no line of an export: {error}") from None


def _read_head(text: str) -> Head:
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        raise ClientError(f"--head {text[:80]!r} is not ID:SHA256 as `audit head` prints it")
    return Head(id=int(match[1]), sha256=match[2])

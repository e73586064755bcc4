"""``tokens``: make, rotate, revoke and list operator tokens, the same at every service. On its server, whether it runs or not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Protocol

import typer

from service.confirmation import YesOption, ask_for_name
from service.durations import read_duration
from service.errors import ClientError
from service.roles import Role
from service.secret_files import print_secret, write_secret
from service.tokens import (
    TokenGrant,
    TokenRecord,
    TokenRows,
    create_token,
    revoke_token,
    rotate_token,
)

__all__ = ["ListedRows", "token_commands"]

Config = Annotated[Path, typer.Option("--config", help="the service's settings file")]
Name = Annotated[str, typer.Argument(help="of the token")]
Out = Annotated[
    Path | None, typer.Option("--out", help="a new file for it, mode 0600; else it is printed, once")
]
Valid = Annotated[str | None, typer.Option("--valid", help="until it expires, e.g. 90d")]
Person = Annotated[
    str | None,
    typer.Option("--person", help="who answers for it; a person is one, however many tokens they hold"),
]

Command = Callable[..., None]

_SHOWN: Final = ("name", "role", "person", "holder", "families", "created", "last used", "expires", "state")


class ListedRows(TokenRows, Protocol):
    """`TokenRows` that can be listed."""

    def all(self) -> list[TokenRecord]:
        """Every token, by name."""


def token_commands(
    open_rows: Callable[[Path], AbstractContextManager[ListedRows]],
    *,
    prefix: str,
    told: Callable[[Command], Command],
) -> typer.Typer:
    """The commands over the tokens that `open_rows` opens for a settings file, in a transaction that commits at its end.

    Args:
        open_rows: of the service.
        prefix: of its tokens' text.
        told: how its command line tells an error: a decorator of each command.
    """
    commands = typer.Typer(help="Operator tokens (on the server).", no_args_is_help=True)

    @commands.command("create")
    @told
    def create(
        role: Annotated[Role, typer.Option(help="What the token may do")],
        name: Annotated[str, typer.Option(help="Of the token; appears in the audit log")],
        config: Config,
        person: Person = None,
        program: Annotated[
            bool, typer.Option("--program", help="a program holds it for that person: it approves nothing")
        ] = False,
        family: Annotated[
            list[str] | None,
            typer.Option("--family", help="publisher: what it publishes for, repeat; '*': every family"),
        ] = None,
        valid: Valid = None,
        out: Out = None,
    ) -> None:
        """Make a token. Its text is told once."""
        grant = TokenGrant(
            name=name, role=role, person=person, is_program=program, families=_families(role, family or [])
        )
        valid_s = None if valid is None else read_duration(valid)
        with open_rows(config) as rows:
            token = create_token(
                rows, grant, prefix=prefix, now=time.time(), random_bytes=os.urandom, valid_s=valid_s
            )
            _give_out(token, out)
        _print_unless(token, out)

    @commands.command("rotate")
    @told
    def rotate(
        name: Name,
        config: Config,
        now: Annotated[
            bool, typer.Option("--now", help="the old secret is void at once: it was stolen")
        ] = False,
        grace: Annotated[str, typer.Option("--grace", help="how long the old secret is good")] = "24h",
        valid: Valid = None,
        person: Person = None,
        out: Out = None,
    ) -> None:
        """Give a token a new secret, told once. Programs that hold its file take the new one without a restart."""
        with open_rows(config) as rows:
            token = rotate_token(
                rows,
                name,
                prefix=prefix,
                now=time.time(),
                random_bytes=os.urandom,
                grace_s=0.0 if now else read_duration(grace),
                valid_s=None if valid is None else read_duration(valid),
                person=person,
            )
            _give_out(token, out)
        _print_unless(token, out)

    @commands.command("revoke")
    @told
    def revoke(name: Name, config: Config, yes: YesOption = False) -> None:
        """Make a token void at once and for good."""
        ask_for_name(name, f"Revoking token {name}", yes=yes)
        with open_rows(config) as rows:
            revoke_token(rows, name, time.time())

    @commands.command("list")
    @told
    def index(config: Config, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
        """Who holds tokens, who answers for them, and when they were last used."""
        with open_rows(config) as rows:
            records = rows.all()
        if as_json:
            hidden = {"sha256", "earlier_sha256"}
            shown = [{k: v for k, v in asdict(record).items() if k not in hidden} for record in records]
            typer.echo(json.dumps(shown, indent=2))
            return
        lines = [_SHOWN, *(_cells(record, time.time()) for record in records)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            typer.echo(
                "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            )

    return commands


def _families(role: Role, named: list[str]) -> tuple[str, ...] | None:
    if role is Role.PUBLISHER and not named:
        raise ClientError(
            "what does it publish for? Give --family NAME (repeat), or --family '*' for every family"
        )
    return None if named in ([], ["*"]) else tuple(named)


def _give_out(token: str, out: Path | None) -> None:
    # Inside the transaction: where the file cannot be written, no token was made that nobody holds.
    if out is not None:
        write_secret(out, token)


def _print_unless(token: str, out: Path | None) -> None:
    if out is None:
        print_secret(token)


def _cells(record: TokenRecord, now: float) -> tuple[str, ...]:
    holder = "a program" if record.is_program else "a person"
    families = "" if record.families is None else ",".join(record.families)
    if record.revoked_at is not None:
        state = "revoked"
    elif record.expires_at is not None and now >= record.expires_at:
        state = "expired"
    elif record.earlier_until is not None and now < record.earlier_until:
        state = f"old secret good until {_day(record.earlier_until)}"
    else:
        state = "good"
    times = (_day(record.created_at), _day(record.last_used_at), _day(record.expires_at))
    return record.name, record.role.value, record.person or "", holder, families, *times, state


def _day(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"

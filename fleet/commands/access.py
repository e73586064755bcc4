"""``tokens`` and ``claims``: work on the database itself, whether or not the server runs.

A secret is printed once, alone on standard output, so that it can be redirected into a file.
"""

from __future__ import annotations

import getpass
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.commands.connection import ConfigOption, JsonOption
from fleet.commands.printing import print_rows, show_time
from fleet.settings import load_fleet_settings
from protocol.names import check_name
from service.token_commands import ListedRows, token_commands

# The database layer takes a second to import, which a client command of the same program need not wait for:
# the imports inside the functions below are for that.
if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["claims", "tokens"]

claims = typer.Typer(help="Claim tokens that let devices enrol (on the server).", no_args_is_help=True)


@claims.command("create")
def claims_create(
    config: ConfigOption,
    uses: Annotated[int, typer.Option(min=1, help="How many devices may enrol with it")] = 1,
    name: Annotated[str, typer.Option(help="What it is for")] = "cli",
    valid_s: Annotated[
        float | None, typer.Option(min=1, help="Seconds until it expires; default never")
    ] = None,
) -> None:
    """Print a new claim token. It cannot be shown again."""
    from fleet.auth.claim_tokens import create_claim

    check_name(name, "claim name")
    with _changing(config) as session:
        token = create_claim(
            session,
            name=name,
            uses=uses,
            now=time.time(),
            lifetime_s=valid_s,
            random_bytes=secrets.token_bytes,
        )
        _note(session, "claim_created", name, uses=uses)
    print(token)


@claims.command("list")
def claims_list(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Claim tokens and how many devices they still let in."""
    from sqlalchemy import select

    from fleet.storage.access_tables import ClaimToken

    with _changing(config) as session:
        rows: list[dict[str, Any]] = [
            {"name": c.name, "uses": c.uses, "uses_left": c.uses_left, "expires_at": c.expires_at}
            for c in session.scalars(select(ClaimToken).order_by(ClaimToken.created_at))
        ]
    print_rows(
        rows,
        "Claim tokens",
        {
            "name": lambda r: r["name"],
            "uses": lambda r: r["uses"],
            "left": lambda r: r["uses_left"],
            "expires": lambda r: show_time(r["expires_at"]),
        },
        as_json=as_json,
    )


@contextmanager
def _token_rows(config: Path) -> Iterator[ListedRows]:
    from fleet.auth.operator_tokens import SessionRows

    with _changing(config) as session:
        yield SessionRows(session)


tokens = token_commands(_token_rows, prefix="fo_", told=lambda command: command)


@contextmanager
def _changing(config: Path) -> Iterator[Session]:
    from fleet.migrations.upgrade import open_storage

    url = load_fleet_settings(config).effective_database_url
    with closing(open_storage(url)) as database, database.write() as session:
        yield session


def _note(session: Session, action: str, subject: str, **detail: object) -> None:
    from fleet import audit

    audit.record(
        session, at=time.time(), actor=f"cli:{getpass.getuser()}", action=action, subject=subject, **detail
    )

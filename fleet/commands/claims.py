"""``claims``: what lets devices in, one each (on the server, whether or not it runs).

A token is printed once, one a line and nothing else on standard output, or written into a file that only its owner may read.
"""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.commands.connection import ConfigOption, JsonOption
from fleet.commands.on_server import changing, note
from fleet.commands.printing import print_rows, show_time
from runtime.durable_files import write_durably
from service.confirmation import YesOption, ask_for_name
from service.durations import read_duration
from service.errors import ClientError
from service.secret_files import print_secret

__all__ = ["claims", "key_values"]

claims = typer.Typer(help="Claims that let devices enrol, one each (on the server).", no_args_is_help=True)

LabelsOption = Annotated[list[str] | None, typer.Option("--label", help="name=value; may be given again")]
UnreleasedOption = Annotated[
    bool, typer.Option("--unreleased", help="No release is of this family yet; it will come")
]


@claims.command("create")
def claims_create(
    config: ConfigOption,
    family: Annotated[str, typer.Option(help="Of the devices")],
    site: Annotated[str, typer.Option(help="Where they stand")] = "",
    label: LabelsOption = None,
    count: Annotated[int, typer.Option(min=1, help="How many, each for one device")] = 1,
    *,
    device: Annotated[str | None, typer.Option(help="The only id that may use it")] = None,
    valid: Annotated[str, typer.Option(help="How long, e.g. 12h or 7d")] = "7d",
    approve: Annotated[
        bool, typer.Option("--approve", help="Each device waits until a person approves it")
    ] = False,
    unreleased: UnreleasedOption = False,
    out: Annotated[Path | None, typer.Option(help="Write them into this new file, mode 0600")] = None,
) -> None:
    """Print new claim tokens. They cannot be shown again. Their batch has a name, by which all can be revoked."""
    from fleet.auth.claim_tokens import ClaimTerms, check_family, create_claims
    from fleet.broker_door.broker_files import SERVICES
    from runtime.settings import check_document

    if device is not None and device.casefold() in SERVICES:
        raise ClientError(f"--device {device} is the name of a service; choose another")

    batch = f"b-{secrets.token_hex(4)}"
    terms = check_document(
        {
            "name": batch,
            "family": family,
            "site": site,
            "labels": key_values(label or []),
            "for_device": device,
            "needs_approval": approve,
            "lifetime_s": read_duration(valid),
        },
        ClaimTerms,
        place=lambda _: "the claim is not valid",
    )
    with changing(config) as session:
        if not unreleased:
            check_family(session, family)
        tokens = create_claims(session, terms, count, now=time.time(), random_bytes=secrets.token_bytes)
        note(
            session,
            "claims_created",
            batch,
            count=count,
            family=family,
            site=site,
            labels=terms.labels,
            device=device,
            needs_approval=approve,
            lifetime_s=terms.lifetime_s,
        )
        if out is not None:  # within the transaction: nobody can use what could not be written
            write_durably(out, "".join(f"{token}\n" for token in tokens).encode(), mode=0o600, exclusive=True)
    if out is None:
        print_secret("\n".join(tokens))
    print(f"{count} claim{'s' * (count > 1)} of batch {batch}, good for {valid}", file=sys.stderr)


@claims.command("list")
def claims_list(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Claims, whether they are open, and whom they let in. Tokens are never shown."""
    from sqlalchemy import select

    from fleet.auth.claim_tokens import claim_id
    from fleet.storage.access_tables import ClaimToken

    shown = ("name", "family", "site", "labels", "for_device", "needs_approval", "created_at", "expires_at")
    with changing(config) as session:
        rows: list[dict[str, Any]] = [
            {"id": claim_id(c)}
            | {key: getattr(c, key) for key in (*shown, "revoked_at", "used_at", "used_by")}
            for c in session.scalars(select(ClaimToken).order_by(ClaimToken.created_at, ClaimToken.sha256))
        ]
    now = time.time()
    print_rows(
        rows,
        "Claims",
        {
            "id": lambda r: r["id"],
            "batch": lambda r: r["name"],
            "family": lambda r: r["family"],
            "site": lambda r: r["site"],
            "labels": lambda r: " ".join(f"{key}={value}" for key, value in r["labels"].items()),
            "for": lambda r: r["for_device"] or "any device",
            "lets in": lambda r: "after approval" if r["needs_approval"] else "at once",
            "expires": lambda r: show_time(r["expires_at"]),
            "state": lambda r: _state(r, now),
        },
        as_json=as_json,
    )


@claims.command("revoke")
def claims_revoke(
    which: Annotated[str, typer.Argument(help="The id of one, or the name of a batch")],
    config: ConfigOption,
    *,
    yes: YesOption = False,
) -> None:
    """Make claims void that were not used. Devices that they let in stay."""
    ask_for_name(which, f"Revoking claims {which}", yes=yes)
    from fleet.auth.claim_tokens import claim_id, revoke_claims

    now = time.time()
    with changing(config) as session:
        rows = revoke_claims(session, which, now)
        revoked = [row for row in rows if row.revoked_at == now]
        let_in = sorted(row.used_by for row in rows if row.used_by is not None)
        if revoked:
            note(session, "claims_revoked", which, claims=[claim_id(row) for row in revoked])
    print(f"revoked: {len(revoked)} of {len(rows)} claims")
    if let_in:
        print(
            f"used before, and their devices stay in until they are revoked themselves: {', '.join(let_in)}"
        )


def key_values(texts: list[str]) -> dict[str, str]:
    """``name=value`` arguments as a dictionary; raises ClientError."""
    pairs = [text.partition("=") for text in texts]
    if wrong := next(
        (text for text, pair in zip(texts, pairs, strict=True) if not pair[0] or not pair[1]), None
    ):
        raise ClientError(f"--label {wrong[:80]!r} is not name=value, e.g. line=3")
    return {name: value for name, _, value in pairs}


def _state(row: dict[str, Any], now: float) -> str:
    if row["used_by"] is not None:
        return f"used by {row['used_by']}"
    if row["revoked_at"] is not None:
        return "revoked"
    return "expired" if now > row["expires_at"] else "open"

"""``backup`` and ``restore``: everything of a plant in one file, and back (on the server)."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.connection import JsonOption
from fleet.commands.passphrases import passphrase_for, passphrase_of
from service.plant import PlantOption, find_plant

if TYPE_CHECKING:  # the database layer takes a second to import
    from fleet.backups.restoring import Restored

__all__ = ["backup", "restore"]

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        envvar="FEDGE_BACKUP_PASSPHRASE_FILE",
        help="A file of one line, mode 0600: instead of asking",
    ),
]


def backup(
    out: Annotated[Path, typer.Argument(help="The new file")],
    plant: PlantOption = None,
    *,
    seal: Annotated[
        bool, typer.Option("--seal", help="Seal it with a passphrase, which is asked for")
    ] = False,
    passphrase_file: PassphraseFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write everything of a plant into one file, while it runs: settings, keys, tokens, databases, models, the signed repository.

    Whoever has the file has the plant: it is of mode 0600. Sealed with a passphrase it may lie elsewhere.
    """
    from fleet.backups.taking import take_backup
    from fleet.plant.last_backup import LastBackup, note_backup

    found = find_plant(plant)
    passphrase = (
        passphrase_for("the backup", passphrase_file) if seal or passphrase_file is not None else None
    )
    began = time.monotonic()
    taken = take_backup(found, out, passphrase)
    took_s, listed = time.monotonic() - began, taken.listed
    made = LastBackup(at=listed.made_at, audit_entries=listed.audit_entries, file=str(out.absolute()))
    note_backup(found, made)
    offline = found.offline.is_dir() and any(found.offline.iterdir())
    if as_json:
        said = {
            "file": str(out),
            "bytes": taken.size_bytes,
            "sealed": passphrase is not None,
            "made_at": listed.made_at,
            "files": len(listed.files),
            "database": listed.database,
            "schema": listed.schema,
            "audit_head": f"{listed.audit_entries}:{listed.audit_sha256}",
            "took_s": round(took_s, 3),
        }
        print(json.dumps(said, indent=2))
        return
    print(
        f"{out}: {len(listed.files)} files of {found.tenant} as of {_time(listed.made_at)}, {taken.size_bytes / 1e6:.1f} MB, "
        f"{'sealed' if passphrase is not None else 'mode 0600, not sealed'}, in {took_s:.1f} s"
    )
    print(
        f"  the audit log's head is {listed.audit_entries}:{listed.audit_sha256[:16]}…; keep the file on another machine"
    )
    if passphrase is None:
        print("  whoever has this file has every key of the plant: --seal closes it with a passphrase")
    if offline:
        print(f"  {found.offline} is still on this machine, and so in the backup: take it off")


def restore(
    file: Annotated[Path, typer.Argument(help="What `fedge backup` wrote")],
    to: Annotated[Path, typer.Option("--to", help="The new folder of the plant")],
    *,
    database: Annotated[
        str | None,
        typer.Option(
            help="Another, empty PostgreSQL database: postgresql://…", envvar="FEDGE_RESTORE_DATABASE"
        ),
    ] = None,
    passphrase_file: PassphraseFileOption = None,
) -> None:
    """Make a plant out of a backup, in a folder (and a PostgreSQL database) where nothing is. The former one must not run any more."""
    from fleet.backups.restoring import restore_backup

    restored = restore_backup(
        file, to, passphrase=lambda: passphrase_of("the backup", passphrase_file), database_url=database
    )
    print("\n".join(_words(restored, time.time())))


def _words(restored: Restored, now: float) -> list[str]:
    listed, done = restored.listed, restored.aftermath
    since = _time(listed.made_at)
    age_h = max(0.0, now - listed.made_at) / 3600
    is_back = (
        f"{restored.plant.folder}: {listed.tenant} as of {since}, {age_h:.1f} h ago; {_counted(done.devices, 'device')},"
        f" audit log at {listed.audit_entries}"
    )
    return [
        is_back,
        "Done, because it may have changed since:",
        f"  {_counted(done.claims, 'open claim')} void: `fedge device add` makes new ones",
        f"  {_counted(len(done.paused), 'running rollout')} paused{': ' if done.paused else ''}{', '.join(done.paused)}",
        "  everybody is signed out of the pages",
        "  training with a privacy budget waits for a person: fedge-aggregator accept-restored --config …",
        f"Look after, because nobody here knows what happened after {since}:",
        "  devices that were revoked since are let in again: revoke them again",
        f"  tokens that were revoked since are good again: {', '.join(done.tokens) or 'there are none'}",
        "  devices that joined since are unknown: add and join them again",
        "  anomalies of that time are gone, and show as gaps of their devices; releases of that time are to be published again",
        "  a release that was withdrawn since is offered again, and devices that moved on are told to run what they ran then",
        f"Next: `fedge init plant --plant {restored.plant.folder}` (writes units for this place), `fedge doctor`, `fedge up`",
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

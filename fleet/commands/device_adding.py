"""``device add``: a join file for each new device of a plant, and the list of what a device installs (on the server)."""

from __future__ import annotations

import secrets
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.commands.claims import LabelsOption, key_values
from fleet.commands.connection import JsonOption
from fleet.commands.on_server import changing, note
from fleet.commands.passphrases import passphrase_for
from fleet.commands.printing import print_json, say
from runtime.settings import check_document
from service.durations import read_duration
from service.errors import ClientError
from service.plant import Plant, PlantOption, find_plant

__all__ = ["add_devices", "make_requirements"]

ExtraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--extra", help="opcua, modbus, pkcs11 or torch, where a device needs it; may be given again"
    ),
]


def add_devices(
    names: Annotated[list[str], typer.Argument(help="What the new devices are called", metavar="NAME...")],
    family: Annotated[
        str | None, typer.Option(help="Of the devices  [default: the only one there is]")
    ] = None,
    site: Annotated[str, typer.Option(help="Where they stand")] = "",
    label: LabelsOption = None,
    *,
    valid: Annotated[str, typer.Option(help="How long the files let them in, e.g. 12h or 7d")] = "7d",
    approve: Annotated[
        bool, typer.Option("--approve", help="Each device waits until a person approves it")
    ] = False,
    seal: Annotated[bool, typer.Option("--seal", help="Ask for a passphrase that opens the files")] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="The same, from the first line of a file")
    ] = None,
    plant: PlantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make NAME.join for each: with it alone a device joins (fedge-agent join). Works whether or not the fleet runs."""
    from fleet.auth.claim_tokens import ClaimTerms
    from fleet.broker_door.broker_files import SERVICES
    from fleet.plant.join_files import choose_family, make_join_file

    found = find_plant(plant)
    is_sealed = seal or passphrase_file is not None
    passphrase = passphrase_for("the join files", passphrase_file) if is_sealed else None
    if taken := [name for name in names if name.casefold() in SERVICES]:
        raise ClientError(f"{taken[0]} is the name of a service; choose another")
    if len(set(names)) < len(names):
        raise ClientError("a device is named twice; each has a name of its own")
    lifetime_s, now, made = read_duration(valid), time.time(), dict[str, Path]()
    with changing(found.fleet_config) as session:
        chosen = choose_family(session, found, family)
        for name in names:
            document: dict[str, Any] = {
                "name": f"join-{secrets.token_hex(4)}",
                "family": chosen,
                "site": site,
                "labels": key_values(label or []),
                "for_device": name,
                "needs_approval": approve,
                "lifetime_s": lifetime_s,
            }
            terms = check_document(document, ClaimTerms, place=lambda _: "the claim is not valid")
            made[name] = make_join_file(session, found, terms, passphrase=passphrase, now=now)
            note(session, "claims_created", terms.name, count=1, family=chosen, device=name, site=site)
    ends = datetime.fromtimestamp(now + lifetime_s, UTC)
    if as_json:
        paths = {name: str(path) for name, path in made.items()}
        told = {"family": chosen, "devices": paths, "requirements": str(found.agent_requirements)}
        print_json({**told, "ends": ends.isoformat(timespec="seconds")})
    else:
        for name, path in made.items():
            sealed = ", sealed" if passphrase else ""
            say(f"{path}: lets {name} in, once, until {ends:%Y-%m-%d %H:%M} UTC{sealed}")
    _require(found, [], is_silent=as_json)
    if not as_json:
        say(f"On the device, in a folder with these and {found.devices}/*.whl:")
        say("  pip install --no-deps --require-hashes -r agent-requirements.txt")
        say(f"  fedge-agent join {names[0]}.join --source rec.csv")


def make_requirements(extra: ExtraOption = None, plant: PlantOption = None) -> None:
    """Make agent-requirements.txt, the list of what a device installs, and the wheel beside it."""
    _require(find_plant(plant), extra or [], is_silent=False)


def _require(plant: Plant, extras: list[str], *, is_silent: bool) -> None:
    from fleet.plant.agent_requirements import write_agent_requirements

    path = plant.agent_requirements
    if sys.stderr.isatty():
        print("lists what a device installs …", file=sys.stderr)
    was_written = write_agent_requirements(path, extras)
    if not is_silent:
        say(f"{path}: {'what a device installs, with hashes' if was_written else 'as it was'}")

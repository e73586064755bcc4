"""``init``: a plant made by one command out of one description, and what it lacks later (on its server)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.connection import JsonOption
from fleet.commands.printing import print_json, say
from runtime.errors import SettingsError
from service.plant import FILE, Plant, PlantOption, find_plant, load_plant
from service.plant_description import BrokerKind, Description

# the database layer takes a second to import, which a client command of the same program need not wait for
if TYPE_CHECKING:
    from fleet.plant.written import WrittenFiles

__all__ = ["init"]

init = typer.Typer(help="Make a plant, and what it lacks later (on its server).", no_args_is_help=True)


@init.command("plant")
def init_plant(
    host: Annotated[
        str | None, typer.Option(help="What devices and browsers dial: a name or an address of this machine")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose plant it is  [default: fedge]")] = None,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="FEDGE_DATABASE",
            help="postgresql://user@host/name instead of SQLite; a password is better left to the variable, or to ~/.pgpass",
        ),
    ] = None,
    broker: Annotated[
        BrokerKind | None, typer.Option(help="[default: mosquitto where it is installed]")
    ] = None,
    port: Annotated[
        list[str] | None,
        typer.Option(
            help="SERVICE=NUMBER, may be given again  [default: fleet=8443 aggregator=8444 flower=9092 broker=8883]"
        ),
    ] = None,
    plant: PlantOption = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Certificates anew; and take over another host, port or database")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make certificates, keys, tokens, settings, broker and units. Again: makes what is missing and loses nothing."""
    from fleet.plant.broker import choose_broker
    from fleet.plant.describing import Wanted, describe, read_ports
    from fleet.plant.making import make_plant, without_password

    folder = (plant or (Path() if Path(FILE).is_file() else Path("plant"))).absolute()
    before = load_plant(folder).description if (folder / FILE).is_file() else None
    shown, whole = (None, None) if database is None else without_password(database)
    wanted = Wanted(host=host, tenant=tenant, database=shown, broker=broker, ports=read_ports(port or []))
    description = describe(before, wanted, usual_broker=choose_broker)
    if before is not None and not renew:
        _refuse_changes(folder, before, description)
    made, files = make_plant(folder, description, database_url=whole, renew=renew)
    if as_json:
        told = {str(path): outcome.value for path, outcome in files.outcomes.items()}
        print_json({"plant": str(made.folder), "files": told, "offline": [str(made.offline)]})
    else:
        _show(made, files)


@init.command("clients")
def init_clients(plant: PlantOption = None) -> None:
    """A certificate of fleet or aggregator was stolen: new ones, of a CA that the broker alone believes; no device notices."""
    from fleet.plant.making import make_clients, make_plant
    from fleet.plant.written import Outcome

    found = find_plant(plant)
    make_clients(found)
    made, files = make_plant(found.folder, found.description)
    _show(made, files)
    for service, config in (("fleet", found.fleet_config), ("aggregator", found.aggregator_config)):
        if files.outcomes[config] is Outcome.THEIRS:
            say(f'in {config}: [mqtt] tls_cert = "../pki/clients/{service}.pem", and tls_key beside it')
    say("now:          fedge down, fedge up: from then on the stolen certificate opens nothing at the broker")


@init.command("broker")
def init_broker(plant: PlantOption = None) -> None:
    """Write what the broker is started with, as the CAs are now: `fedge up` and the units do it at each start."""
    from contextlib import closing

    from fleet.migrations.upgrade import open_storage
    from fleet.plant.broker import write_plant_broker
    from fleet.settings import load_fleet_settings

    found = find_plant(plant)
    settings = load_fleet_settings(found.fleet_config)
    with closing(open_storage(settings.effective_database_url)) as database:
        write_plant_broker(found, settings, database)
    say(f"{found.broker}: what the broker of {found.tenant} is started with")


def _refuse_changes(folder: Path, before: Description, after: Description) -> None:
    from fleet.plant.describing import differences

    found = differences(before, after)
    if not found:
        return
    changes = "; ".join(f"{one.key} is {one.has!s}, not {one.asked!s}" for one in found)
    needs = {
        "host": "certificates, and devices' join files, which name the host",
        "database": "the database's content, which is not carried over",
        "tenant": "every device, which joins anew",
    }
    renewed = ", ".join(words for key, words in needs.items() if any(one.key == key for one in found))
    also = f" It touches {renewed}." if renewed else ""
    raise SettingsError(f"{folder}: {changes}. Nothing was changed.{also} To do it, add --renew")


def _show(plant: Plant, files: WrittenFiles) -> None:
    described = plant.description
    say(
        f"{plant.folder}: a plant for {described.host}, tenant {described.tenant}, broker {described.broker},"
        f" database {described.database or 'SQLite'}"
    )
    for outcome in dict.fromkeys(files.outcomes.values()):
        paths = [str(p.relative_to(plant.folder)) for p, found in files.outcomes.items() if found is outcome]
        say(f"  {outcome}: {', '.join(paths)}")
    say("back up:      the whole folder; it holds secrets (fedge backup)")
    if plant.ca_key.exists() or plant.targets_key.exists():
        say(
            f"take offline: {plant.offline}: who has it can be any service, and sign anything; needed for a new family"
        )
    say("next:         fedge up")

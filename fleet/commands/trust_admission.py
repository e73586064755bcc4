"""``trust admit``: let the plant's release key speak for a family, at once; the key that says so lies in the plant."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.commands.on_server import changing_files
from fleet.commands.printing import say
from fleet.commands.trust_changes import trust
from service.plant import PlantOption, find_plant

__all__ = ["admit", "trust"]


@trust.command("admit")
def admit(
    family: Annotated[str, typer.Argument(help="A model family, which may be new")],
    plant: PlantOption = None,
) -> None:
    """Admit a family to the plant's signed repository: its releases are those that the plant's release key signs."""
    from fleet.plant.keys import admit_family, is_admitted

    place = find_plant(plant)
    if is_admitted(place, family):
        say(f"{family} is admitted already")
        return
    with changing_files(place.fleet_config, "family_admitted", family):
        admit_family(place, family)
    say(f"{family} is admitted: devices take what {place.release_key} signs for it")

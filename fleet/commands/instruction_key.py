"""``instruction-key``: the key whose instructions devices obey, for the ceremony that names it (on the server)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.connection import ConfigOption
from fleet.commands.on_server import changing_files
from fleet.errors import ConflictError
from fleet.settings import load_fleet_settings
from service.confirmation import YesOption, ask_for_name

# cryptography need not be waited for by a client command of the same program
if TYPE_CHECKING:
    from fleet.instruction_key import InstructionKey

__all__ = ["instruction_key"]

instruction_key = typer.Typer(help="The key of the fleet's instructions (on the server).")


@instruction_key.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", help="fleet.toml")] = None,
) -> None:
    """Print the public half, as PEM, and that of the next one where there is one; make the key where there is none."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise typer.BadParameter("--config is missing: which fleet.toml?")
    print(_open(config).public_halves(), end="")


@instruction_key.command("rotate")
def rotate(config: ConfigOption) -> None:
    """Make the next key and print its public half, for the ceremony; it seals nothing before `switch`."""
    with changing_files(config, "instruction_key_rotated", "instruction-key"):
        shown = _open(config).rotate()
    print(shown, end="")


@instruction_key.command("switch")
def switch(config: ConfigOption, yes: YesOption = False) -> None:
    """Seal with the next key from now on, and destroy the former one. Refused before the ceremony that names it is published."""
    _check_named(config)
    ask_for_name("instruction-key", "Destroying the present instruction key", yes=yes)
    with changing_files(config, "instruction_key_switched", "instruction-key"):
        _open(config).switch()
    print(
        "the next key seals, in a running fleet within a minute; devices obey it once they have heard of the ceremony"
    )


def _check_named(config: Path) -> None:
    """Raise ConflictError where the signed repository does not name the next key: no device would obey the fleet."""
    from fleet.trust.repository import TrustRepository

    key = _open(config).following()
    repository = TrustRepository(load_fleet_settings(config).data_dir / "trust")
    if repository.exists and key not in repository.published().fleet_keys():
        raise ConflictError(
            "the signed repository does not name the next key yet, so no device would obey it: first publish"
            " fedge-fleet trust rotate fleet --key (what instruction-key rotate printed)"
        )


def _open(config: Path) -> InstructionKey:
    from fleet.instruction_key import InstructionKey

    return InstructionKey(load_fleet_settings(config).data_dir)

"""``device-ca``: what the broker trusts devices by, and how it is changed (on the server)."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.connection import ConfigOption
from fleet.settings import load_fleet_settings

# cryptography need not be waited for by a client command of the same program
if TYPE_CHECKING:
    from fleet.device_ca import DeviceCa

__all__ = ["device_ca"]

device_ca = typer.Typer(help="The CA of devices' certificates (on the server).")


@device_ca.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", help="fleet.toml")] = None,
) -> None:
    """Print the certificates that a broker must trust, as PEM; make the CA where there is none."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise typer.BadParameter("--config is missing: which fleet.toml?")
    authority = _open(config)
    authority.ensure(time.time())
    print(authority.trusted(), end="")


@device_ca.command("rotate")
def rotate(
    config: ConfigOption,
    lost: Annotated[
        bool, typer.Option("--lost", help="The present key is gone: the new CA signs at once")
    ] = False,
) -> None:
    """Make the next CA, trusted beside the present one; `switch` makes it sign."""
    authority = _open(config)
    authority.rotate(time.time(), is_lost=lost)
    then = "then devices get certificates that it takes" if lost else "then: fedge-fleet device-ca switch"
    print(
        f"{authority.trusted_file} holds the new CA: give it to the broker and have it read it (SIGHUP); {then}"
    )


@device_ca.command("switch")
def switch(config: ConfigOption) -> None:
    """Sign with the next CA from now on, and destroy the former key."""
    authority = _open(config)
    authority.switch()
    print("the new CA signs; once devices have renewed: fedge-fleet device-ca forget")


def _open(config: Path) -> DeviceCa:
    from fleet.device_ca import DeviceCa

    settings = load_fleet_settings(config)
    return DeviceCa(settings.data_dir, tenant=settings.tenant, random_bytes=secrets.token_bytes)

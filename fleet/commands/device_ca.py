"""``device-ca``: what the broker trusts devices by, and how it is changed (on the server)."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.connection import ConfigOption
from fleet.commands.on_server import changing, changing_files
from fleet.errors import ConflictError
from fleet.settings import load_fleet_settings
from service.confirmation import YesOption, ask_for_name

# cryptography need not be waited for by a client command of the same program
if TYPE_CHECKING:
    from sqlalchemy.orm import Session

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
    with changing_files(config, "device_ca_rotated", "device-ca", is_lost=lost):
        authority.rotate(time.time(), is_lost=lost)
    then = "then devices get certificates that it takes" if lost else "then: fedge-fleet device-ca switch"
    print(
        f"{authority.trusted_file} holds the new CA: run fedge-fleet broker-files, give clients.pem to the broker and restart it; {then}"
    )


@device_ca.command("switch")
def switch(config: ConfigOption, yes: YesOption = False) -> None:
    """Sign with the next CA from now on, and destroy the former key."""
    ask_for_name("device-ca", "Destroying the present key of the device CA", yes=yes)
    authority = _open(config)
    with changing_files(config, "device_ca_switched", "device-ca"):
        authority.switch()
    print("the new CA signs; once devices have renewed: fedge-fleet device-ca forget")


@device_ca.command("forget")
def forget(
    config: ConfigOption,
    stolen: Annotated[
        bool, typer.Option("--stolen", help="Also while devices hold certificates of it, which they lose")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Trust former CAs no more. Refused while an enrolled device holds a certificate of one that has not ended."""
    ask_for_name("device-ca", "Trusting former device CAs no more", yes=yes)
    authority = _open(config)
    former = authority.former()
    with changing(
        config
    ) as session:  # waits for a certificate that is just being issued; a former CA signs no more
        holders = _holders(session, former)
    if holders and not stolen:
        raise ConflictError(
            f"{len(holders)} devices hold certificates of a former CA, e.g. {', '.join(holders[:5])}; they renew in "
            "time, or at once where the broker refuses them. Was its key stolen, say so with --stolen"
        )
    with changing_files(config, "device_ca_forgotten", "device-ca", former=former, devices=len(holders)):
        authority.forget()
    print(
        f"{authority.trusted_file} holds the present CA only: run fedge-fleet broker-files, give clients.pem to the broker and restart it"
    )


def _holders(session: Session, former: list[str]) -> list[str]:
    from sqlalchemy import select

    from fleet.storage.device_tables import Device, DeviceState

    held = (
        select(Device.id)
        .where(
            Device.state == DeviceState.ENROLLED,
            Device.certificate_issuer.in_(former),
            Device.certificate_ends_at > time.time(),
        )
        .order_by(Device.id)
    )
    return [*session.scalars(held)]


def _open(config: Path) -> DeviceCa:
    from fleet.device_ca import DeviceCa

    settings = load_fleet_settings(config)
    return DeviceCa(settings.data_dir, tenant=settings.tenant, random_bytes=secrets.token_bytes)

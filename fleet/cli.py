"""``fedge-fleet``: the server, its secrets, and a client for people and programs.

Exit status 0 when done, 1 when refused or failed, 2 for wrong usage or settings. An error is one line on standard error.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fleet.commands import (
    access,
    alerts,
    anomalies,
    audit,
    backups,
    bridges,
    broker_files,
    claims,
    dead_letters,
    device_adding,
    device_bundles,
    device_ca,
    devices,
    export,
    flashing,
    instruction_key,
    orders,
    plant,
    plant_doctor,
    plant_status,
    plant_up,
    resources,
    rollouts,
    sign_in,
    trust_admission,
    upgrades,
    verdicts,
)
from fleet.commands.connection import ConfigOption
from fleet.settings import load_fleet_settings
from protocol.errors import ProtocolError
from runtime.errors import FedgeError, SettingsError
from runtime.printable import printable
from runtime.version import version_option
from service.logs import log_of_a_command

__all__ = ["app", "main"]

app = typer.Typer(
    help="Devices, releases, rollouts, anomalies and drift of a Fedge fleet.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(plant.init, name="init")
app.add_typer(access.tokens, name="tokens")
app.add_typer(claims.claims, name="claims")
app.add_typer(device_ca.device_ca, name="device-ca")
app.add_typer(devices.devices, name="devices")
devices.devices.command("add")(device_adding.add_devices)
devices.devices.command("requirements")(device_adding.make_requirements)
app.add_typer(devices.devices, name="device", hidden=True)  # one word for both numbers
devices.devices.command("command")(orders.command_devices)
devices.devices.command("commands")(orders.list_commands)
devices.devices.command("cancel")(orders.cancel_command)
devices.devices.command("settings")(orders.device_settings)
devices.devices.command("diagnose")(orders.diagnose_device)
app.add_typer(instruction_key.instruction_key, name="instruction-key")
app.add_typer(dead_letters.dead_letters, name="dead-letters")
app.add_typer(anomalies.anomalies, name="anomalies")
app.add_typer(alerts.alerts, name="alerts")
app.add_typer(alerts.silences, name="silences")
app.add_typer(resources.releases, name="releases")
app.add_typer(rollouts.rollouts, name="rollouts")
app.add_typer(trust_admission.trust, name="trust")
app.add_typer(audit.audit, name="audit")
app.add_typer(bridges.bridge, name="bridge")
app.command("up")(plant_up.up)
app.command("down")(plant_up.down)
app.command("status")(plant_status.status)
app.command("doctor")(plant_doctor.doctor)
app.command("export")(export.export)
app.command("backup")(backups.backup)
app.command("restore")(backups.restore)
app.command("upgrade")(upgrades.upgrade)
app.command("bundle")(device_bundles.bundle)
app.command("flash")(flashing.flash)
app.command("broker-files")(broker_files.broker_files)
app.command("drift")(resources.drift)
app.command("sign-in")(sign_in.sign_in)
app.command("judge")(verdicts.judge)
app.command("precision")(verdicts.precision)


@app.callback()
def of_every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=version_option("fedge-fleet"),
            is_eager=True,
            help="Print the version and leave",
        ),
    ] = False,
) -> None:
    """What is said before a command."""


@app.command()
def serve(
    config: ConfigOption,
    json_logs: Annotated[
        bool | None,
        typer.Option("--json-logs/--plain-logs", help="form of the log  [default: plain at a terminal]"),
    ] = None,
) -> None:
    """Run the service until SIGINT or SIGTERM."""
    # client commands need not wait for the server's libraries
    from fleet.app import serve as run

    run(load_fleet_settings(config), json_logs=json_logs)


@app.command("check-config")
def check_config(config: ConfigOption) -> None:
    """Check fleet.toml and the files it names without starting anything."""
    from fleet.app import check_files

    settings = load_fleet_settings(config)
    check_files(settings)
    print(f"{config} is valid: tenant {settings.tenant}, listens on {settings.listen}")


def main() -> None:
    """The console command."""
    log_of_a_command()
    try:
        app()
    except (FedgeError, ProtocolError) as error:
        print(f"fedge-fleet: {printable(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingsError) else 1)

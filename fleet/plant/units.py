"""systemd units of a plant: what `fedge up` starts, started by the machine itself. Pure: texts only.

They run as whoever owns the plant, on the plant's folder as it stands; nothing is copied to /etc but the units. A system's own
Mosquitto is not touched.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import Final

from fleet.plant.broker import broker_command
from service.plant import Plant

__all__ = ["QUIET", "unit_texts"]

_HOMES: Final = ("/home", "/root", "/run/user")

QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def unit_texts(plant: Plant) -> dict[str, str]:
    """Name of the unit → its text."""
    python = sys.executable
    prepare = f"{python} -m fleet init broker --plant {plant.folder}"
    return {
        "fedge-broker.service": _unit(
            plant,
            "broker",
            after="network.target",
            start=" ".join(broker_command(plant)),
            further=(
                "# The fleet's device CA and the services' CA as they are now; migrates the database where it must.",
                f"ExecStartPre={prepare}",
                "# Mosquitto bounds no client's memory: what bounds the whole broker is here (docs/broker.md).",
                "MemoryMax=2G",
                "ExecReload=/bin/kill -HUP $MAINPID",
            ),
            writes=(plant.broker, plant.fleet_data),
        ),
        "fedge-fleet.service": _unit(
            plant,
            "fleet",
            after="network-online.target fedge-broker.service",
            start=f"{python} -m fleet serve --config {plant.fleet_config}",
            writes=(plant.fleet_data, plant.broker),
        ),
        "fedge-aggregator.service": _unit(
            plant,
            "aggregator",
            after="network-online.target fedge-fleet.service",
            start=f"{python} -m aggregator serve --config {plant.aggregator_config}",
            environment={**QUIET, "FLWR_HOME": str(plant.aggregator_data / "flwr")},
            writes=(plant.aggregator_data,),
        ),
    }


def _unit(
    plant: Plant,
    service: str,
    *,
    after: str,
    start: str,
    writes: tuple[Path, ...],
    further: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> str:
    in_home = any(
        plant.folder.is_relative_to(home) or Path(sys.prefix).is_relative_to(home) for home in _HOMES
    )
    given = " ".join(f"{name}={value}" for name, value in (environment or {}).items())
    lines = [
        f"# {plant.systemd / f'fedge-{service}.service'}: `fedge init plant` wrote it; docs/plant.md says how it is installed.",
        "[Unit]",
        f"Description=Fedge {service} of {plant.tenant}",
        f"After={after}",
        "# It is started again for ever, also while a database or a disk is away.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"User={pwd.getpwuid(os.geteuid()).pw_name}",
        *further,
        f"ExecStart={start}",
        "Restart=always",
        "RestartSec=2",
        "# A device has a connection to the broker, and two while it trains; the default of 1024 would be 400 devices.",
        "LimitNOFILE=65536",
        "NoNewPrivileges=true",
        "ProtectSystem=strict",
        f"ProtectHome={'read-only' if in_home else 'true'}",
        "PrivateTmp=true",
        f"ReadWritePaths={' '.join(map(str, writes))}",
        *([f"Environment={given}"] if given else []),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"

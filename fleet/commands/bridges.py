"""``bridge kafka``, ``bridge mlflow``: carry what the fleet knows to what people already run, as a process of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fleet.bridges.loop import carry
from fleet.bridges.place import Place
from fleet.bridges.port import Bridge
from fleet.client.client import FleetClient
from fleet.commands.connection import asks_fleet
from fleet.commands.printing import say
from service.client import connect
from service.errors import ClientError

__all__ = ["bridge"]

bridge = typer.Typer(
    help="Carry events to Kafka, runs and releases to MLflow; until interrupted.", no_args_is_help=True
)

PlaceOption = Annotated[
    Path, typer.Option("--place", help="File that keeps how far it is; made where missing")
]
OnceOption = Annotated[bool, typer.Option("--once", help="Carry what is there, and end")]
EveryOption = Annotated[
    float, typer.Option("--every", min=0.2, help="Seconds between two looks for what is new")
]


@bridge.command("kafka")
@asks_fleet
def kafka(
    client: FleetClient,
    servers: Annotated[str, typer.Option("--servers", help="host:port,…: bootstrap.servers of the cluster")],
    place: PlaceOption,
    topic: Annotated[str, typer.Option("--topic")] = "fedge.events",
    source: Annotated[str, typer.Option("--source", help="Names this fleet in each event")] = "fedge",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE for librdkafka, e.g. security.protocol=ssl; NAME=@FILE reads a secret"
        ),
    ] = None,
    once: OnceOption = False,
    every: EveryOption = 2.0,
) -> None:
    """Events of devices to a Kafka topic: key = device, at least once, CloudEvents."""
    from fleet.bridges.kafka import KafkaBridge, open_producer

    producer = open_producer({"bootstrap.servers": servers} | _settings(setting or []))
    made = KafkaBridge(client, producer, Place(place, "kafka"), topic=topic, source=source)
    _drive(made, "events", once=once, every=every)


@bridge.command("mlflow")
@asks_fleet
def mlflow(
    client: FleetClient,
    uri: Annotated[str, typer.Option("--uri", envvar="MLFLOW_TRACKING_URI", help="The MLflow server")],
    place: PlaceOption,
    aggregator_url: Annotated[
        str | None, typer.Option(envvar="FEDGE_AGGREGATOR_URL", help="Its runs; without it releases alone")
    ] = None,
    aggregator_ca: Annotated[Path | None, typer.Option(envvar="FEDGE_AGGREGATOR_CA")] = None,
    aggregator_token_file: Annotated[Path | None, typer.Option(envvar="FEDGE_AGGREGATOR_TOKEN_FILE")] = None,
    once: OnceOption = False,
    every: EveryOption = 30.0,
) -> None:
    """Training runs, releases with their bundles, and the aliases champion and canary to MLflow. Nothing is read back from it."""
    from fleet.bridges.mlflow import MlflowBridge, open_mlflow

    aggregator = None
    if aggregator_url is not None:
        aggregator = connect(aggregator_url, aggregator_ca, aggregator_token_file, service="aggregator")
    made = MlflowBridge(client, aggregator, open_mlflow(uri), Place(place, "mlflow"))
    _drive(made, "runs, releases and aliases", once=once, every=every)


def _drive(made: Bridge, what: str, *, once: bool, every: float) -> None:
    shown = 0.0

    def told(carried: int) -> None:
        nonlocal shown
        if time.monotonic() - shown >= 2:
            shown = time.monotonic()
            say(f"{carried} {what} carried")

    try:
        carried = carry(made, once=once, every_s=every, sleep=time.sleep, told=told)
        say(f"{carried} {what} carried; nothing more is new")
    except KeyboardInterrupt:
        pass
    finally:
        made.close()


def _settings(given: list[str]) -> dict[str, str]:
    settings = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise ClientError(f"--set {one[:80]!r} is not NAME=VALUE")
        settings[name] = Path(value[1:]).read_text().strip() if value.startswith("@") else value
    return settings

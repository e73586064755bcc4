"""compose.yaml of a plant: the same processes in containers, on the plant's folder as it stands. Pure: a text only.

The containers share the machine's network, so that one description, one set of settings and one set of certificates serve `fedge up`,
systemd and containers alike; and they mount the plant where it lies, so that the paths in its files hold.
"""

from __future__ import annotations

import os
from typing import Final

from fleet.plant.mosquitto import START_FILE
from fleet.plant.units import QUIET
from service.plant import Plant

__all__ = ["IMAGE", "MOSQUITTO_IMAGE", "compose_text"]

IMAGE: Final = "fedge"
"""Built by deploy/kubernetes/Containerfile."""

MOSQUITTO_IMAGE: Final = "docker.io/library/eclipse-mosquitto:2.0.20-openssl"


def compose_text(plant: Plant) -> str:
    """The file."""
    folder, user = plant.folder, f"{os.geteuid()}:{os.getegid()}"
    quiet = ", ".join(f'{name}: "{value}"' for name, value in QUIET.items())
    return f"""\
# `fedge init plant` wrote this file. The image {IMAGE} is built by deploy/kubernetes/Containerfile; then: docker compose up --detach
# Not beside `fedge up` or the systemd units: of these three one starts a plant.
x-service: &service
  network_mode: host
  user: "{user}"
  restart: always
  read_only: true
  cap_drop: [ALL]
  security_opt: [no-new-privileges:true]
  tmpfs: [/tmp]
  volumes: ["{folder}:{folder}"]

services:
  prepare: # migrates the database, writes what the broker is started with
    <<: *service
    image: {IMAGE}
    restart: "no"
    command: [fedge-fleet, init, broker, --plant, {folder}]
  broker:
    <<: *service
    image: {MOSQUITTO_IMAGE}
    depends_on: {{prepare: {{condition: service_completed_successfully}}}}
    mem_limit: 2g
    command: [mosquitto, -c, {plant.broker}/{START_FILE}]
  fleet:
    <<: *service
    image: {IMAGE}
    depends_on: [broker]
    command: [fedge-fleet, serve, --config, {plant.fleet_config}]
  aggregator:
    <<: *service
    image: {IMAGE}
    depends_on: [fleet]
    environment: {{{quiet}, FLWR_HOME: {plant.aggregator_data}/flwr}}
    command: [fedge-aggregator, serve, --config, {plant.aggregator_config}]
"""

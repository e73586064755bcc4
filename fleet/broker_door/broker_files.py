"""The files of a tenant's Mosquitto: its configuration, who may say and hear what, and whose certificates it believes.

Written by ``fedge-fleet broker-files``; ``deploy/mosquitto`` holds what comes out for the tenant ``acme``. The rights name the
tenant, so that no device can make topics beyond its own eleven. The limits bound what one device, with a certificate or
without, can take from the others; docs/broker.md has what each costs, measured.

Source: mosquitto.conf(5), Eclipse Mosquitto 2.0.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.broker_door.plugin_state import FLEET
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.topics import DOWNLINK_KINDS, PREFIX, TRAINING, UPLINK_KINDS

__all__ = ["AGGREGATOR", "BROKER", "SERVICES", "BrokerPlaces", "acl", "configuration"]

AGGREGATOR: Final = "aggregator"
"""The name in the aggregator's certificate."""

BROKER: Final = "broker"
"""The name in the broker's certificate."""

SERVICES: Final = frozenset({FLEET, AGGREGATOR, BROKER, TRAINING})
"""No device may have one of these names: the first three are in certificates of the services, the last is in a topic."""

_LARGEST_PACKET: Final = MAX_PAYLOAD_BYTES + 8 * 1024
"""The largest payload with its topic and header."""


@dataclass(frozen=True, kw_only=True)
class BrokerPlaces:
    """Where things lie on the broker's machine.

    listen: "port" or "port address".
    services: the same of a listener for services alone, where each chooses its client id: for replicas; empty: there is none.
    folder: of acl, clients.pem, services.pem, broker.pem and broker.key.
    state: the plugin's own file.
    plugin: its library.
    """

    listen: str = "8883"
    services: str = ""
    folder: Path = Path("/etc/mosquitto/fedge")
    state: Path = Path("/var/lib/mosquitto/dynamic-security.json")
    plugin: str = "mosquitto_dynamic_security.so"


def configuration(places: BrokerPlaces = BrokerPlaces()) -> str:
    """The configuration file beside the distribution's own, which says where pid file, log and database are."""
    folder = places.folder
    return f"""\
# Mosquitto 2 for a Fedge fleet: who shows a certificate of ours is let in under the name in it, and nobody else.
# `fedge-fleet broker-files` wrote this file.
per_listener_settings false
allow_anonymous false
# Asked first: who is shut out, by the fleet's commands. Then who may say and hear what, for who is not.
plugin {places.plugin}
plugin_opt_config_file {places.state}
acl_file {folder / "acl"}

# No message of ours is larger, with its topic.
max_packet_size {_LARGEST_PACKET}
# Ten thousand devices that come back at once send one message each before the fleet has read the first: with Mosquitto's
# defaults (20 under way, 1000 waiting) it would drop most of them. The bytes bound what a slow fleet costs. What is under
# way the fleet confirms once a turn of its loop, of which a busy one makes some tens a second; and a command that throws a
# flooder out waits behind it: hence no more.
max_inflight_messages 400
max_queued_messages 12000
max_queued_bytes 100000000
# No memory_limit: 2.0.11 counts what the plugin frees wrongly, and refuses everybody all memory after some twenty commands.
# What bounds the whole broker is its unit (MemoryMax, docs/broker.md).
# No client of ours leaves a session behind.
persistent_client_expiration 1h

listener {places.listen}
# Below the limit of open files, so that the broker can still write its own.
max_connections 60000
tls_version tlsv1.2
certfile {folder / "broker.pem"}
keyfile {folder / "broker.key"}
# The services' CA and the fleet's device CA.
cafile {folder / "clients.pem"}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
""" + (_services(places) if places.services else "")


def _services(places: BrokerPlaces) -> str:
    folder = places.folder
    return f"""
# Replicas of the fleet show one certificate, so here each says its own client id. No device's certificate is believed.
listener {places.services}
max_connections 100
tls_version tlsv1.2
certfile {folder / "broker.pem"}
keyfile {folder / "broker.key"}
cafile {folder / "services.pem"}
require_certificate true
use_identity_as_username true
"""


def acl(tenant: str) -> str:
    """The rights of everybody: %u is the name in the certificate, which is the device id."""
    own = f"{PREFIX}/{tenant}"
    up, down = (sorted(kind.value for kind in kinds) for kinds in (UPLINK_KINDS, DOWNLINK_KINDS))
    lines = [
        f"# Who may say and hear what at the broker of {tenant}. %u is the name in the certificate, which is the device id.",
        f"user {FLEET}",
        *(f"topic read {own}/+/{kind}" for kind in up),
        *(f"topic write {own}/+/{kind}" for kind in down),
        "",
        f"user {AGGREGATOR}",
        f"topic write {own}/{TRAINING}/+",
        "",
        *(f"pattern write {own}/%u/{kind}" for kind in up),
        *(f"pattern read {own}/%u/{kind}" for kind in down),
        "# Mosquitto warns that this one names no %u: every device may read every invitation, and `topic` would be for nobody.",
        f"pattern read {own}/{TRAINING}/+",
    ]
    return "\n".join((*lines, ""))

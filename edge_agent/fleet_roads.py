"""The roads between this device and its fleet, and what keeps them open; `edge_agent.app` builds the rest of the agent.

::

    identity key ─┬─► HTTPS: FleetClient ─► polls of repository, desired state and commands; CertificateKeeper ─► connection.pem
                  └─► seals under reports                                                                           │
    MQTT: MqttLink ◄──────────────────────────────── shows ─────────────────────────────────────────────────────────┘

Whatever is opened here is closed by the exit stack of who asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

from edge_agent.agent import FAREWELL_S
from edge_agent.certificate_keeper import CertificateKeeper
from edge_agent.enrolled import Enrolled
from edge_agent.fleet_client import FleetClient, FleetEndpoint, FleetWord
from edge_agent.fleet_poll import CommandRoad, FleetPoll
from edge_agent.installation.installer import Installer
from edge_agent.mqtt_link import MqttLink
from edge_agent.report_seals import ReportSeals
from edge_agent.settings import Settings
from edge_agent.telemetry import Identity, OwnRoads, last_will, subscriptions
from edge_agent.trusted_clock import TrustedClock
from edge_agent.update_trust import LOOK_EVERY_S, UpdateTrust
from protocol.identity import IdentityKey

__all__ = ["keep_certificate", "open_client", "open_link", "open_repository", "open_roads", "open_seals"]


def open_client(settings: Settings, device: str, key: IdentityKey, clock: TrustedClock) -> FleetClient | None:
    """The fleet's HTTPS API, as this device; None where agent.toml names no fleet."""
    if settings.fleet is None:
        return None
    endpoint = FleetEndpoint(url=settings.fleet.url, ca_file=settings.fleet.ca_file, now=clock.known_s)
    return FleetClient(endpoint=endpoint, device=device, key=key, clock=clock.wall_s, hear=clock.hear)


def open_link(
    settings: Settings,
    identity: Identity,
    wake: Callable[[], None],
    now_s: float,
    stack: ExitStack,
) -> MqttLink | None:
    """The connection to the broker, which begins to connect; None where agent.toml names no broker."""
    if settings.mqtt is None:
        return None
    link = MqttLink(
        settings.mqtt,
        client_id=identity.device,
        certificate=settings.paths.connection if settings.mqtt.tls else None,
        will=last_will(identity, now_s),
        subscriptions=subscriptions(identity),
        wake=wake,
    )
    stack.callback(link.close, FAREWELL_S)
    return link


def keep_certificate(
    settings: Settings,
    enrolled: Enrolled,
    fleet: FleetClient | None,
    clock: TrustedClock,
    link: MqttLink | None,
    stack: ExitStack,
) -> Callable[[], str]:
    """Have the certificate for the broker renewed where there is a fleet to ask; returns what says what is wrong with it."""
    if fleet is None:
        told = "agent.toml names no [fleet], which alone gives this device a certificate for the broker"
        return lambda: told if link is not None and not settings.paths.connection.exists() else ""
    keeper = CertificateKeeper(settings, enrolled, fleet, clock=clock, link=link)
    stack.callback(keeper.close)
    keeper.start()
    return lambda: keeper.trouble


def open_repository(
    fleet: FleetClient | None, trust: UpdateTrust, installer: Installer, stack: ExitStack
) -> FleetPoll[UpdateTrust] | None:
    """Asks what the signed repository says: at once, and from then on when it is due; None where there is none to ask."""
    if fleet is None:
        return None

    def ask(_etag: str) -> FleetWord[UpdateTrust]:
        has_changed = trust.refresh()
        return FleetWord(state=trust if has_changed else None, etag="", is_unchanged=not has_changed)

    poll = FleetPoll(
        ask, name="repository", every_s=LOOK_EVERY_S, is_needed=trust.is_due, wake=installer.look_again
    )
    stack.callback(poll.close)
    poll.ask_soon()
    return poll


def open_roads(
    fleet: FleetClient | None,
    settings: Settings,
    link: MqttLink | None,
    repository: FleetPoll[UpdateTrust] | None,
    waking: threading.Event,
    stack: ExitStack,
) -> OwnRoads:
    """What the fleet is asked over HTTPS: what to run, and what to do and be; nothing where there is none to ask."""
    if fleet is None or settings.fleet is None or repository is None:
        return OwnRoads()
    every_s = settings.fleet.poll_s

    def is_away() -> bool:
        return link is None or not link.is_connected

    desired = FleetPoll(fleet.desired, name="desired", every_s=every_s, is_needed=is_away, wake=waking.set)
    stack.callback(desired.close)
    commands = CommandRoad(
        fleet.commands, send=fleet.tell_result, every_s=every_s, is_needed=is_away, wake=waking.set
    )
    stack.callback(commands.close)

    def doubt() -> None:
        for poll in (repository, desired, commands):
            poll.ask_soon()

    return OwnRoads(asked=(desired, commands), tell=commands.tell, doubt=doubt)


def open_seals(
    key: IdentityKey, identity: Identity, waking: threading.Event, stack: ExitStack
) -> ReportSeals:
    """What signs this device's reports."""
    sealing = ReportSeals(key, tenant=identity.tenant, device=identity.device, wake=waking.set)
    stack.callback(sealing.close)
    return sealing

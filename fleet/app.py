"""Puts the fleet service together: the only place that reads settings and builds adapters.

One process, one event loop: HTTP, the MQTT connection, the rollout engine and housekeeping are its tasks. Everything
that touches the database runs on worker threads, so the API answers while thousands of events are stored.

::

    settings ─► database (migrated) ─► releases, door     ─┐
                     │                                      ├─► Services ─► API
                     ├─► EventStore ◄─ Intake ◄─ BrokerLink ┤
                     └─► RolloutEngine ─► Outgoing ─────────┘

Of several such processes on one PostgreSQL one leads (`fleet.leadership`): rollouts, housekeeping and renewal run there alone.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Final

import structlog
from fastapi import FastAPI

from fleet.aggregator_client import open_aggregator
from fleet.alerts.receivers.assembly import check_receivers
from fleet.alerts.tasks import alert_tasks
from fleet.api.body_sizes import largest_body
from fleet.api.dependencies import Services
from fleet.api.page_paths import is_page
from fleet.api.routers import ROUTERS
from fleet.api.statuses import STATUSES
from fleet.auth.callers import Callers, Everybody
from fleet.auth.operator_tokens import open_tokens
from fleet.auth.web_sessions import WebSessions
from fleet.bookkeeping import Bookkeeping
from fleet.broker_door.assembly import open_door
from fleet.broker_door.broker_files import SERVICES
from fleet.broker_door.dynamic_security import DynamicSecurity
from fleet.broker_door.plugin_state import FLEET
from fleet.changes.hub import ChangeHub
from fleet.dashboard.site import mount_pages
from fleet.device_ca import DeviceCa
from fleet.enrolment import Enrolments
from fleet.gauges import Gauges
from fleet.housekeeping import Housekeeping
from fleet.ingest.device_view import SEEN_EVERY_S
from fleet.ingest.store import EventStore
from fleet.installation import check_shared, installation_of
from fleet.instruction_key import InstructionKey
from fleet.instructions import Instructions, tell_of_unnamed_key
from fleet.leadership import alone_on, is_led, open_leadership
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.mqtt.intake import Intake
from fleet.mqtt.link import BrokerLink
from fleet.mqtt.outgoing import Outgoing
from fleet.mqtt.retained import RetainedPublisher
from fleet.release_lists import note_listed
from fleet.releases import ReleaseStore
from fleet.replicas import Replicas
from fleet.retention.health_blocks import HealthRollUp
from fleet.retention.hour_blocks import HourBlocks
from fleet.retention.pruning import Pruning
from fleet.rollouts.engine import RolloutEngine
from fleet.settings import MqttSettings, Settings
from fleet.storage.base import Database
from fleet.storage.connecting import check_connection
from fleet.trust.renewal import TrustRenewal
from fleet.trust.repository import TrustRepository
from service.addresses import split_endpoint
from service.application import create_application
from service.background import end_tasks
from service.broker_account import BrokerAccount
from service.connections import ConnectionBook
from service.event_source import EventSource
from service.https_server import HttpsServer
from service.listening import bind, places_for_callers
from service.logs import configure_logging
from service.served_certificate import ServedCertificate, expose_days_left

__all__ = ["build_app", "check_files", "serve"]

RESTART_PAUSE_S: Final = 1.0
"""Before a background task that failed starts anew."""

GC_THRESHOLDS: Final = (20_000, 20, 20)
"""A batch of events makes thousands of objects that end with it; looked for at Python's 700, rings of them cost a fifth of ingest."""

SWITCH_S: Final = 0.000_5
"""How long a thread that computes keeps the interpreter from one that waits for it: of Python's own accord 5 ms. A page asks the database
some twenty times, and would wait so long after each answer while a batch of events is stored."""

Task = Callable[[], Awaitable[None]]
_log = structlog.get_logger()


def build_app(
    settings: Settings, database: Database, certificate: ServedCertificate | None = None
) -> FastAPI:
    """The service as an ASGI app; its lifespan runs the MQTT connection, the rollout engine and housekeeping.

    Args:
        settings: of the service.
        database: migrated.
        certificate: what its listener shows, for the metrics.

    Raises:
        SettingsError: a key or certificate is not what the settings promise.
    """
    metrics = FleetMetrics()
    repository = TrustRepository(settings.data_dir / "trust")
    store = ReleaseStore(database, settings.data_dir / "releases", repository)
    tokens = open_tokens(database, time.time)
    event_store = EventStore(
        database, settings.tenant, metrics, seen_every_s=min(SEEN_EVERY_S, settings.offline_after_s / 12)
    )
    boot_id = secrets.token_hex(8)
    instruction_key = InstructionKey(settings.data_dir)
    tell_of_unnamed_key(repository, instruction_key)
    instructions = Instructions(
        instruction_key,
        tenant=settings.tenant,
        messages=EventSource("fleet", boot_id=boot_id, now=time.time),
        now=time.time,
    )
    instance = _instance(boot_id)
    callers = Callers(database, tokens, time.time)
    sessions = WebSessions(database, tokens, time.time, secrets.token_bytes)
    hub = ChangeHub(database, Everybody(callers, sessions), time.time)
    door = open_door(settings, database, session=boot_id)
    entrance = _open_entrance(settings, database)
    broker = settings.mqtt and _broker_account(settings.mqtt, instance)
    installation = installation_of(settings.data_dir)
    aggregator = open_aggregator(settings.aggregator)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        outgoing = Outgoing()
        leadership = open_leadership(
            database,
            instance=instance,
            installation=installation,
            hear=lambda word: replicas.hear(word),  # noqa: PLW0108 - made below
        )
        metrics.leads.set_function(lambda: leadership.is_leader)
        metrics.listeners.set_function(lambda: len(hub))
        plugin = door if isinstance(door, DynamicSecurity) else None
        engine = RolloutEngine(leadership.database, outgoing, offline_after_s=settings.offline_after_s)
        replicas = Replicas(
            database,
            leadership,
            outgoing,
            me=instance,
            door=door,
            silence=plugin.silence if plugin else lambda _device: None,
            wake=engine.wake,
        )
        housekeeping = Housekeeping(
            leadership.database,
            offline_after_s=settings.offline_after_s,
            now=time.time,
            publisher=outgoing,
        )
        renewal = TrustRenewal(
            repository,
            metrics.trust_expires,
            now=time.time,
            watch=lambda _published: note_listed(
                leadership.database, repository, actor="fleet", now=time.time()
            ),
        )
        leaders: dict[str, Task] = {
            "rollouts": engine.run,
            "housekeeping": housekeeping.run,
            "roll_up": HealthRollUp(leadership.database, offline_after_s=settings.offline_after_s).run,
            "hour_blocks": HourBlocks(
                leadership.database,
                fine_blocks_s=settings.retention.fine_blocks_s,
                offline_after_s=settings.offline_after_s,
                now=time.time,
            ).run,
            "pruning": Pruning(leadership.database, settings.retention, now=time.time).run,
            "trust": renewal.run,
            **alert_tasks(leadership.database, settings, metrics.count_deliveries),
        }
        tasks: dict[str, Task] = {
            "leadership": leadership.run,
            "replicas": replicas.run,
            "gauges": Gauges(database, metrics, time.time, settings.alerts.receivers).run,
            "bookkeeping": Bookkeeping(database, tokens, sessions).run,
            **{name: partial(leadership.while_leading, task) for name, task in leaders.items()},
            "changes": hub.run,
        }
        if settings.mqtt and broker:
            intake = Intake(
                event_store,
                outgoing,
                metrics,
                settings.mqtt,
                wake_rollouts=replicas.wake,
                silence=replicas.silence,
            )
            link = BrokerLink(
                broker,
                instructions,
                tenant=settings.tenant,
                retained=RetainedPublisher(
                    outgoing,
                    instructions,
                    database=database,
                    tenant=settings.tenant,
                    metrics=metrics,
                    life=boot_id,
                    leadership=leadership,
                ),
                intake=intake,
                outgoing=outgoing,
                metrics=metrics,
                now=time.time,
                door=plugin,
                is_shared=settings.mqtt.shared,
            )
            tasks |= {"intake": intake.run, "broker_link": link.run}
        app.state.services = Services(
            settings=settings,
            database=database,
            releases=store,
            trust=repository,
            publisher=outgoing,
            instructions=instructions,
            events=event_store,
            changes=hub,
            metrics=metrics,
            wake_rollouts=replicas.wake,
            door=replicas,
            enrolments=entrance,
            aggregator=aggregator,
            sessions=sessions,
        )
        running = [asyncio.create_task(_keep_running(name, task)) for name, task in tasks.items()]
        try:
            yield
        finally:
            hub.close()
            await end_tasks(running)
            await aggregator.close()

    app = create_application(
        title="Fedge fleet",
        tokens=callers,
        registry=metrics.registry,
        statuses=STATUSES,
        largest_body=largest_body(settings.maximum_bundle_bytes),
        lifespan=lifespan,
        is_page=is_page,
    )
    app.state.changes = hub
    if certificate is not None:
        expose_days_left(metrics.registry, certificate)
    for router in ROUTERS:
        app.include_router(router)
    mount_pages(app, sessions, hub, public_url=settings.dashboard.public_url, statuses=STATUSES)
    return app


def _open_entrance(settings: Settings, database: Database) -> Enrolments:
    authority = DeviceCa(settings.data_dir, tenant=settings.tenant, random_bytes=secrets.token_bytes)
    authority.ensure(time.time())
    return Enrolments(
        database,
        authority,
        tenant=settings.tenant,
        reserved=SERVICES,
        certificate_lifetime_s=settings.enrolment.certificate_lifetime_s,
    )


def serve(settings: Settings, *, json_logs: bool | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the log is plain at a terminal, unless `json_logs` says how it is.

    Raises:
        StartError: the address cannot be bound, or the certificate cannot be used.
    """
    configure_logging(as_json=not sys.stderr.isatty() if json_logs is None else json_logs)
    certificate = open_certificate(settings)
    # in this order: an address in use is told before the database is touched
    url = settings.effective_database_url
    with (
        closing(bind(split_endpoint(settings.listen), is_plain=certificate is None)) as listening,
        alone_on(url),
        closing(open_storage(url)) as database,
    ):
        check_shared(database, settings.data_dir, is_led=is_led(database))
        app = build_app(settings, database, certificate)
        server = HttpsServer(
            app,
            certificate,
            ConnectionBook(in_all=places_for_callers()),
            has_lifespan=True,
            before_stop=app.state.changes.close,
        )

        def stop(*_: object) -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        host, port = listening.getsockname()[:2]
        _log.info(
            "listening",
            url=f"{'http' if certificate is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}",
            tenant=settings.tenant,
        )
        gc.collect()
        gc.freeze()  # what is there now stays, and is not walked through again
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_S)
        server.run(sockets=[listening])


async def _keep_running(name: str, task: Task) -> None:
    # a task that ends by an error nobody foresaw must not leave the service silently deaf
    while True:
        try:
            await task()
        except Exception:  # noqa: BLE001 - whatever it was, it is logged and the task starts anew
            _log.critical("background_task_failed", task=name, exc_info=True)
        await asyncio.sleep(RESTART_PAUSE_S)


def _broker_account(mqtt: MqttSettings, instance: str) -> BrokerAccount:
    return BrokerAccount(
        mqtt,
        # no device's name has a colon, so none can be called so and push a replica out (MQTT: one session a client id)
        client_id=f"{FLEET}:{instance}" if mqtt.shared else FLEET,
        draw=random.SystemRandom().random,
    )


def _instance(boot_id: str) -> str:
    """How this process is called among its replicas: on which machine it is, and another name at each start."""
    host = re.sub("[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
    return f"{host}-{boot_id[:8]}"


def open_certificate(settings: Settings) -> ServedCertificate | None:
    """What the settings have the service show; None on loopback without TLS. Raises StartError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServedCertificate(settings.tls_cert, settings.tls_key, time.time)


def check_files(settings: Settings) -> None:
    """Read every file the settings name, and ask their database; raises SettingsError or StartError for the first that cannot be used."""
    open_certificate(settings)
    check_connection(settings.effective_database_url)
    open_aggregator(settings.aggregator)
    check_receivers(settings.alerts)
    if settings.mqtt:
        _broker_account(settings.mqtt, "check")

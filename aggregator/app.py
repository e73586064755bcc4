"""The aggregator service: the only place that reads settings into adapters, and that runs them.

::

    Flower Fleet API (thread) ◄── devices            operator API (event loop) ◄── people, fedge-aggregator
              ▲                                                  │
    worker thread: Coordinator ◄── RunScheduler ◄── watcher thread ──► fleet (HTTPS)
              └──► invitation board (event loop) ──► MQTT

Starting checks everything that can be checked (keys, ports, fleet, broker) and fails with one clear line; once up, a fleet
or broker that goes away is waited for. SIGTERM ends it within seconds; what was not finished goes on at the next start.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from fastapi import FastAPI

from aggregator.api.application import create_api
from aggregator.doorkeeper import Doorkeeper
from aggregator.errors import FleetUnreachableError
from aggregator.exporter import SigningExporter
from aggregator.family_folder import Budgets, Families
from aggregator.federation import FlowerFederation
from aggregator.flower.server import FlowerServer, FlowerServerSettings
from aggregator.identity import open_identity
from aggregator.invitations import SOURCE, MqttInvitationBoard
from aggregator.privacy.accounts import LEDGER_FILE, PrivacyAccounts
from aggregator.publishing import PublishingFleet, keep_listed, open_fleet
from aggregator.release_keys import read_private_key, read_public_key
from aggregator.rounds.attendance import Pacing
from aggregator.rounds.coordinator import Coordinator
from aggregator.rounds.journal import RunJournal
from aggregator.rounds.run_store import RunStore
from aggregator.run_metrics import open_registry
from aggregator.run_scheduler import RunScheduler
from aggregator.settings import Settings
from aggregator.tokens import DATABASE, TokenStore
from protocol.bundle import TrustedKeys
from protocol.names import FamilyName
from runtime.errors import SettingsError
from service.addresses import split_endpoint
from service.background import end_tasks
from service.broker_account import BrokerAccount
from service.connections import ConnectionBook
from service.https_server import HttpsServer
from service.listening import bind, places_for_callers
from service.mqtt_client import BrokerGoneError, BrokerRefusedError
from service.served_certificate import ServedCertificate, expose_days_left

__all__ = ["Aggregator", "build_aggregator", "serve"]

START_PATIENCE_S: Final = 15.0
"""How long fleet and broker may take to come up beside us before the start fails."""

BOOKS_EVERY_S: Final = 60.0
"""Between two writings of when tokens were last used."""

FAMILIES_EVERY_S: Final = 2.0
"""Between two looks into `families_dir`: a person who has put a file there waits for it."""

_chance: Final = random.SystemRandom()

GIT_REVISION: Final = os.environ.get("FEDGE_GIT_REVISION", "")


@dataclass(frozen=True, kw_only=True)
class Aggregator:
    """The built service; `serve` runs it."""

    settings: Settings
    families: Families
    api: FastAPI
    certificate: ServedCertificate
    scheduler: RunScheduler
    fleet: PublishingFleet
    flower: FlowerServer
    account: BrokerAccount
    board: MqttInvitationBoard
    store: RunStore
    tokens: TokenStore
    privacy: PrivacyAccounts


def build_aggregator(settings: Settings) -> Aggregator:
    """Read keys and secrets, open the database, build every adapter; nothing listens or connects yet.

    Raises:
        SettingsError, StartError: a file that cannot be used.
        FlowerServerError: Flower's state cannot be opened.
    """
    certificate = ServedCertificate(settings.tls_cert, settings.tls_key, time.time)
    signing_key = read_private_key(settings.signing_key, "signing_key")
    former = [read_public_key(path, "release_keys") for path in settings.release_keys]
    trusted = TrustedKeys([signing_key.public_key(), *former])
    fleet = open_fleet(settings, signing_key, former)
    families = Families(settings.families, settings.families_dir)
    identity = open_identity(settings.data_dir)
    boot_id = os.urandom(8).hex()
    account = BrokerAccount(settings.mqtt, client_id=SOURCE, draw=_chance.random)
    board = MqttInvitationBoard(
        account,
        identity,
        tenant=settings.tenant,
        families=families,
        boot_id=boot_id,
        now=time.time,
    )
    try:
        store = RunStore(settings.data_dir / DATABASE)
    except OSError as error:
        raise SettingsError(f"data_dir {settings.data_dir} cannot be used: {error}") from None
    host, port = split_endpoint(settings.flower_listen)
    flower = FlowerServer(
        FlowerServerSettings(
            host=host,
            port=port,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            data_dir=settings.data_dir / "flower",
        ),
        identity,
    )
    privacy = PrivacyAccounts(
        settings.data_dir / LEDGER_FILE,
        Budgets(families),
        now=time.time,
    )
    stopping = threading.Event()
    pacing = Pacing(now=time.time, sleep=stopping.wait, is_stopping=stopping.is_set, draw=_chance.random)
    coordinator = Coordinator(
        journal=RunJournal(store, trusted, pacing, settings.publish_patience_s),
        families=families,
        fleet=fleet,
        federation=FlowerFederation(flower, privacy),
        board=board,
        exporter=SigningExporter(signing_key),
        flower_address=settings.flower_address,
        pacing=pacing,
        git_revision=GIT_REVISION,
        accounts=privacy,
    )
    scheduler = RunScheduler(
        store=store,
        families=families,
        driver=coordinator,
        drift=fleet,
        door=Doorkeeper(fleet, flower),
        stopping=stopping,
        now=time.time,
        new_id=lambda: f"run-{int(time.time())}-{os.urandom(4).hex()}",
        watch_every_s=settings.watch_every_s,
    )
    tokens = TokenStore(settings.data_dir / DATABASE, time.time)
    registry = open_registry(store, privacy, lambda: board.is_connected)
    expose_days_left(registry, certificate)
    api = create_api(
        scheduler,
        privacy,
        tokens,
        registry,
        lambda: {"status": "ok", "broker_connected": board.is_connected},
    )
    return Aggregator(
        settings=settings,
        families=families,
        api=api,
        certificate=certificate,
        scheduler=scheduler,
        fleet=fleet,
        flower=flower,
        account=account,
        board=board,
        store=store,
        tokens=tokens,
        privacy=privacy,
    )


async def serve(aggregator: Aggregator) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        SettingsError, StartError, FlowerListenError, FleetError: the start failed; the message says what to mend.
    """
    listener = bind(split_endpoint(aggregator.settings.listen))
    server = HttpsServer(aggregator.api, aggregator.certificate, ConnectionBook(in_all=places_for_callers()))
    loop, ending = asyncio.get_running_loop(), threading.Event()

    def end() -> None:
        ending.set()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        await _check_surroundings(aggregator, ending)
        if ending.is_set():
            return
        await asyncio.to_thread(aggregator.flower.start)
        tasks = [
            asyncio.create_task(aggregator.board.run()),
            asyncio.create_task(_keep_books(aggregator.tokens)),
            asyncio.create_task(keep_listed(aggregator.fleet, aggregator.families)),
            asyncio.create_task(_keep_families(aggregator)),
        ]
        aggregator.scheduler.start()
        structlog.get_logger().info(
            "aggregator_started",
            listen=aggregator.settings.listen,
            flower_listen=aggregator.settings.flower_listen,
            families=sorted(aggregator.families),
        )
        await server.serve(sockets=[listener])
        await asyncio.to_thread(aggregator.scheduler.stop)
        await end_tasks(tasks)
    finally:
        listener.close()
        await asyncio.to_thread(aggregator.flower.stop)
        aggregator.fleet.close()
        aggregator.tokens.close()
        aggregator.store.close()
        aggregator.privacy.close()
    structlog.get_logger().info("aggregator_stopped")


async def _keep_books(tokens: TokenStore) -> None:
    while True:
        try:
            await asyncio.to_thread(tokens.store_uses)
        except sqlite3.Error as error:
            structlog.get_logger().error("bookkeeping_failed", error=str(error))
        await asyncio.sleep(BOOKS_EVERY_S)


async def _keep_families(aggregator: Aggregator) -> None:
    """Take what appears in `families_dir`, and tell each problem there once."""
    families, log = aggregator.families, structlog.get_logger()
    known, told = set(families), dict[Path, str]()
    while True:
        for path, problem in families.problems.items():
            if told.get(path) != problem:
                log.error("family_file_refused", file=str(path), reason=problem)
        told = dict(families.problems)
        await asyncio.sleep(FAMILIES_EVERY_S)
        await asyncio.to_thread(families.refresh)
        for name in set(families) - known:
            # an invitation of a run that was over long ago stands on no topic of a family that is new here
            aggregator.board.take_in(FamilyName(name))
            log.info("family_taken", family=name)
        known = set(families)


async def _check_surroundings(aggregator: Aggregator, ending: threading.Event) -> None:
    """Wait a little for fleet and broker to come up; a refusal (token, account) is final at once."""
    deadline = time.monotonic() + START_PATIENCE_S
    await asyncio.to_thread(_check_fleet, aggregator, ending, deadline)
    while not ending.is_set():
        try:
            async with aggregator.account.client():
                return
        except BrokerGoneError as error:
            if isinstance(error, BrokerRefusedError) or time.monotonic() > deadline:
                raise SettingsError(
                    f"the broker at mqtt.url {aggregator.settings.mqtt.url} cannot be used: {error}"
                ) from None
        await asyncio.sleep(0.5)


def _check_fleet(aggregator: Aggregator, ending: threading.Event, deadline: float) -> None:
    while True:
        try:
            aggregator.fleet.releases(FamilyName(next(iter(aggregator.families), "none")))
        except FleetUnreachableError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        if ending.wait(0.5):
            return

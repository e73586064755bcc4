"""A fleet whose devices say things, a notifier with a clock of its own, and receivers that keep what they heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fleet_world import NOW, TENANT, Machine, anomaly, closed, enrol_directly
from sqlalchemy import select, update

from fleet.alert_settings import AlertSettings, AnyReceiver, WebhookReceiver
from fleet.alerts.delivering import Courier
from fleet.alerts.messages import Message
from fleet.alerts.notifier import Notifier
from fleet.alerts.outbox import Delivered, Outcome
from fleet.alerts.receivers.port import Sender
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.alert_tables import Alert, AlertDelivery, AlertGroup
from fleet.storage.base import Database
from fleet.storage.device_tables import Device

WEBHOOK = WebhookReceiver(name="programs", url="https://example.org/hook")


class Ear:
    """Implements `Sender`: keeps what it is told, each parcel as a list, and answers what it is given."""

    def __init__(self, at_once: int = 100) -> None:
        self.at_once = at_once
        self.parcels: list[list[Message]] = []
        self.tried = 0
        self.answer: Callable[[Sequence[Message]], Outcome] = lambda _messages: Delivered()

    async def send(self, messages: Sequence[Message]) -> Outcome:
        self.tried += 1
        outcome = self.answer(messages)
        if isinstance(outcome, Delivered):
            self.parcels.append(list(messages))
        return outcome

    @property
    def heard(self) -> list[Message]:
        return [message for parcel in self.parcels for message in parcel]

    @property
    def titles(self) -> list[str]:
        return [message.title for message in self.heard]


class AlertsWorld:
    """Everything that belongs together; `now` is everybody's clock."""

    def __init__(self, database: Database, *receivers: AnyReceiver, **settings: Any) -> None:
        self.database, self.now = database, NOW
        self.store = EventStore(database, TENANT, FleetMetrics())
        self.settings = AlertSettings(receivers=receivers or (WEBHOOK,), **settings)
        self.ears = {receiver.name: Ear() for receiver in self.settings.receivers}
        self.machines: dict[str, Machine] = {}
        self.turn()  # the first look: from here on

    @property
    def ear(self) -> Ear:
        return next(iter(self.ears.values()))

    def enrol(self, *names: str, **columns: Any) -> None:
        self.machines |= {name: Machine(name=name) for name in names}
        enrol_directly(self.database, *(self.machines[name] for name in names))
        heard = {"online": True, "last_seen": self.now, "release": "motor/1"} | columns
        for name in names:
            self.change(name, **heard)

    def change(self, name: str, **columns: Any) -> None:
        with self.database.write() as session:
            session.execute(update(Device).where(Device.id == name).values(**columns))

    def alarm(self, names: Iterable[str], episode: str | None = "one") -> None:
        said = anomaly(episode=episode)
        self.store.store([self.machines[name].arrival(said, at=self.now - 1) for name in names])

    def calm(self, names: Iterable[str], episode: str = "one") -> None:
        self.store.store([self.machines[n].arrival(closed(episode), at=self.now - 1) for n in names])

    def turn(self) -> None:
        notifier = Notifier(self.database, self.settings, tenant=TENANT, now=lambda: self.now)
        while notifier.turn():
            pass

    def courier(self, receiver: AnyReceiver, sender: Sender) -> Courier:
        return Courier(
            self.database,
            receiver,
            sender,
            tenant=TENANT,
            public_url="https://fleet.example",
            now=lambda: self.now,
            count=lambda _name, _outcome, _count: None,
            draw=lambda: 0.5,
        )

    def deliver(self) -> None:
        for receiver in self.settings.receivers:
            courier = self.courier(receiver, self.ears[receiver.name])
            while asyncio.run(courier.deliver()):
                pass

    def pass_time(self, seconds: float, *, every: float = 120.0) -> None:
        """Let time go by, with a turn and deliveries every so often."""
        until, step = self.now + seconds, min(every, seconds / 2)
        while self.now < until:
            self.now = min(self.now + step, until)
            self.turn()
            self.deliver()

    def alerts(self) -> list[Alert]:
        with self.database.read() as session:
            return list(session.scalars(select(Alert).order_by(Alert.id)))

    def groups(self) -> list[AlertGroup]:
        with self.database.read() as session:
            return list(session.scalars(select(AlertGroup).order_by(AlertGroup.id)))

    def deliveries(self) -> list[AlertDelivery]:
        with self.database.read() as session:
            return list(session.scalars(select(AlertDelivery).order_by(AlertDelivery.id)))

"""What the fleet service counts about itself, in Prometheus' words. One registry per app, none global."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from protocol.messages.kinds import CommandStatus

__all__ = ["FleetMetrics"]

_BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_SECOND_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class FleetMetrics:
    """The counters; each is incremented where the thing happens."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.stored = Counter(
            "fedge_fleet_events_stored", "Events stored durably", ["kind"], registry=registry
        )
        self.duplicates = Counter(
            "fedge_fleet_events_duplicate", "Events that were stored before", registry=registry
        )
        self.repeated = Counter(
            "fedge_fleet_events_repeated",
            "Copies of messages that still waited to be stored",
            registry=registry,
        )
        self.refused = Counter(
            "fedge_fleet_events_refused",
            "Messages not taken for what they are",
            ["reason"],
            registry=registry,
        )
        self.limited = Counter(
            "fedge_fleet_events_limited",
            "Messages of devices that send faster than they may; not acknowledged, so they come again",
            ["by"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "fedge_fleet_dead_letters_kept",
            "Refused messages of devices, each counted once",
            ["reason"],
            registry=registry,
        )
        self.dead_letters_dropped = Counter(
            "fedge_fleet_dead_letters_dropped",
            "Dead letters that made room for later ones",
            registry=registry,
        )
        self.dead_letters_present = Gauge(
            "fedge_fleet_dead_letters", "Dead letters that wait for somebody", registry=registry
        )
        self.identity_conflicts = Gauge(
            "fedge_fleet_identity_conflicts", "Devices whose identity two devices use", registry=registry
        )
        self.storing = Gauge(
            "fedge_fleet_storing",
            "0 while the database takes nothing; devices keep their events",
            registry=registry,
        )
        self.storing.set(1)
        self.overflowed = Counter(
            "fedge_fleet_events_overflowed",
            "Messages dropped while busy; devices send them again",
            registry=registry,
        )
        self.batch_events = Histogram(
            "fedge_fleet_batch_events", "Events in one transaction", buckets=_BATCH_BUCKETS, registry=registry
        )
        self.batch_seconds = Histogram(
            "fedge_fleet_batch_seconds", "Time to store one batch", buckets=_SECOND_BUCKETS, registry=registry
        )
        self.acks = Counter("fedge_fleet_acks_published", "Acknowledgements published", registry=registry)
        self.desired = Counter("fedge_fleet_desired_published", "Desired states published", registry=registry)
        self.broker_connected = Gauge("fedge_fleet_broker_connected", "1 while connected", registry=registry)
        self.leads = Gauge(
            "fedge_fleet_leads",
            "1 where this process runs the rollouts, housekeeping and renewal of all replicas",
            registry=registry,
        )
        self.broker_connects = Counter(
            "fedge_fleet_broker_connects", "Connects to the broker", registry=registry
        )
        self.commands = Counter(
            "fedge_fleet_commands",
            "Commands to devices, by what became of them",
            ["action", "status"],
            registry=registry,
        )
        self.trust_expires = Gauge(
            "fedge_fleet_trust_expires_seconds",
            "Until what a role of the signed repository said ends",
            ["role"],
            registry=registry,
        )
        self.rollouts = Gauge(
            "fedge_fleet_rollouts", "Rollouts that are not over, by state", ["state"], registry=registry
        )
        self.unjudged = Gauge(
            "fedge_fleet_anomalies_unjudged",
            "Anomalies of the last seven days without a verdict",
            registry=registry,
        )
        self.open_anomalies = Gauge(
            "fedge_fleet_anomalies_open", "Of those, how many last", registry=registry
        )
        self.stored_seconds = Histogram(
            "fedge_fleet_event_seconds",
            "From an event's arrival to its acknowledgement on its way; of each batch the one that waited longest",
            buckets=_SECOND_BUCKETS,
            registry=registry,
        )
        self.waiting = Gauge(
            "fedge_fleet_events_waiting", "Messages that wait to be stored", registry=registry
        )
        self.oldest_waiting = Gauge(
            "fedge_fleet_events_waiting_seconds",
            "How long the longest-waiting of them has waited",
            registry=registry,
        )
        self.acknowledged_at = Gauge(
            "fedge_fleet_acknowledged_timestamp_seconds",
            "When events were last acknowledged; what time() is past it is the age of the newest acknowledged event",
            registry=registry,
        )
        self.listeners = Gauge(
            "fedge_fleet_listeners",
            "Connections that listen to what changes, open pages too",
            registry=registry,
        )
        self.alerts_open = Gauge(
            "fedge_fleet_alerts_open", "Alerts that last, by what they are about", ["kind"], registry=registry
        )
        self.alert_deliveries = Counter(
            "fedge_fleet_alert_deliveries",
            "Messages to receivers by what became of an attempt",
            ["receiver", "outcome"],
            registry=registry,
        )
        self.alerts_parked = Gauge(
            "fedge_fleet_alert_deliveries_parked",
            "Messages that a receiver refused for good",
            ["receiver"],
            registry=registry,
        )
        self.alerts_undelivered = Gauge(
            "fedge_fleet_alert_undelivered_seconds",
            "How long the oldest message waits that a receiver has not got; 0 where none does",
            ["receiver"],
            registry=registry,
        )
        self.devices = Gauge("fedge_fleet_devices", "Devices by what they are", ["state"], registry=registry)

    def count_deliveries(self, receiver: str, outcome: str, count: int) -> None:
        """Count messages that were tried at one go, by what became of them."""
        self.alert_deliveries.labels(receiver, outcome).inc(count)

    def count_commands(self, changes: Iterable[tuple[str, CommandStatus]]) -> None:
        """Count commands by (action, status) that they came to."""
        for action, status in changes:
            self.commands.labels(action, status.value).inc()

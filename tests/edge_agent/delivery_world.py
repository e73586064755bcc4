"""A device's delivery alone: a real outbox and a real link, turned by a test in the place of the agent's loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from agent_world import DEVICE, FAMILY, TENANT
from sealing_world import SealedAtOnce, fleet_words
from waiting import wait_until

from edge_agent.health import Counters
from edge_agent.mqtt_link import MqttLink
from edge_agent.outbox import Outbox
from edge_agent.outbox_entry import Moment
from edge_agent.settings import MqttSettings, OutboxSettings
from edge_agent.telemetry import Identity, Telemetry, last_will, subscriptions


class Delivery:
    """`turn` is what the loop does in a tick."""

    def __init__(
        self,
        folder: Path,
        url: str,
        ca_file: Path | None = None,
        *,
        certificate: Path | None = None,
        boot: str = "b1",
        resend_s: float = 2.0,
        reconnect_max_s: float = 0.3,
    ) -> None:
        identity = Identity(tenant=TENANT, device=DEVICE, family=FAMILY, boot_id=boot, boot_number=1)
        self.woken = threading.Event()
        settings = OutboxSettings(resend_s=resend_s)
        self.outbox = Outbox.open(folder / "outbox.sqlite", settings, now=self._now(), draw=lambda: 0.0)
        self.link = MqttLink(
            MqttSettings(url=url, ca_file=ca_file, keepalive_s=5, reconnect_max_s=reconnect_max_s),
            client_id=DEVICE,
            certificate=certificate,
            will=last_will(identity, 1.8e9),
            subscriptions=subscriptions(identity),
            wake=self.woken.set,
        )
        self.counters = Counters()
        self.telemetry = Telemetry(
            identity,
            self.outbox,
            self.link,
            self.counters,
            now=self._now,
            words=fleet_words(TENANT, DEVICE, monotonic=time.monotonic),
            sealing=SealedAtOnce(TENANT, DEVICE),
        )

    def _now(self) -> Moment:
        return Moment(wall_s=time.time(), boot_s=time.monotonic(), kernel_boot="k1", is_set=True)

    def turn(self) -> None:
        self.woken.wait(0.05)
        self.woken.clear()
        self.telemetry.receive(time.monotonic())
        self.telemetry.deliver(time.monotonic())

    def turn_until(
        self, condition: Callable[[], object], what: str, progress: Callable[[], object] = lambda: None
    ) -> None:
        def turned() -> object:
            self.turn()
            return condition()

        wait_until(turned, what, progress=progress)

    def close(self) -> None:
        self.link.close(0.5)
        self.outbox.close()

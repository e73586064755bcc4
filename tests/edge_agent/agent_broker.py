"""A real broker, and a fleet that listens and acknowledges when it is told to."""

from __future__ import annotations

import threading
from pathlib import Path

import paho.mqtt.client as mqtt
from agent_world import DEVICE, TENANT
from mosquitto_broker import MosquittoBroker
from paho.mqtt.enums import CallbackAPIVersion
from sealing_world import fleet_message

from protocol.messages.envelope import Event, decode, kind_of
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, BootAck, Payload
from protocol.topics import device_topic, parse_device_topic, training_topic, uplink_filter


def agents_broker(folder: Path) -> MosquittoBroker:
    """Mosquitto that knows device and fleet by their certificates; not started yet."""
    return MosquittoBroker(folder, knows_clients=True)


class ListeningFleet:
    """Keeps every event by id; acknowledges while `acknowledges`."""

    def __init__(self, broker: MosquittoBroker, *, acknowledges: bool = True) -> None:
        self.acknowledges = acknowledges
        self.events: dict[str, Event] = {}
        self.deliveries: list[str] = []
        self.retained_deaths: list[Event] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="fleet")
        self._client.tls_set_context(broker.client_tls(broker.certificates.service("fleet")))
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.subscribe([(uplink_filter(TENANT, kind), 1) for kind in _UPLINKS])
        self._client.loop_start()
        self._subscribed.wait()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def of(self, kind: Kind) -> list[Event]:
        return [e for e in list(self.events.values()) if _kind(e) is kind]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def tell(self, kind: Kind, data: Payload, *, family: str = "pump") -> None:
        topic = (
            training_topic(TENANT, family) if kind is Kind.TRAINING else device_topic(TENANT, DEVICE, kind)
        )
        self.publish(topic, fleet_message(data, tenant=TENANT, device=DEVICE), retain=kind is not Kind.ACK)

    def acknowledge_all(self) -> None:
        for event in list(self.events.values()):
            self._acknowledge(event)

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        event = decode(bytes(message.payload), parse_device_topic(message.topic).kind)
        if message.retain:
            self.retained_deaths.append(event)
            return
        self.deliveries.append(event.id)
        self.events[event.id] = event
        if self.acknowledges:
            self._acknowledge(event)

    def _acknowledge(self, event: Event) -> None:
        ack = Ack(boots=(BootAck(boot_id=event.boot_id, ranges=((event.sequence, event.sequence),)),))
        answer = fleet_message(ack, tenant=TENANT, device=event.source)
        self._client.publish(device_topic(TENANT, event.source, Kind.ACK), answer, qos=1)


_UPLINKS = (
    Kind.BIRTH,
    Kind.DEATH,
    Kind.ANOMALY,
    Kind.CLOSED,
    Kind.DRIFT,
    Kind.HEALTH,
    Kind.REPORT,
    Kind.RESULT,
)


def _kind(event: Event) -> Kind:
    return kind_of(event.data)

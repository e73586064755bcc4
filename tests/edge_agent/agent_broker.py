"""A real broker in this process, and a fleet that listens and acknowledges when it is told to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
from agent_world import DEVICE, PASSWORD, TENANT
from amqtt.broker import Broker
from free_ports import free_port
from mosquitto_broker import LocalCertificates
from paho.mqtt.enums import CallbackAPIVersion

from protocol.messages.envelope import Event, decode, encode, kind_of
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, BootAck, Payload
from protocol.topics import device_topic, parse_device_topic, training_topic, uplink_filter
from simulations.broker import broker_settings

FLEET_PASSWORD = "fleet-made-up"


class BrokerThread:
    """amqtt on loopback; may be stopped and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.certificates = LocalCertificates(directory / "pki")
        self.passwords = directory / "passwords"
        lines = [_password_line(DEVICE, PASSWORD), _password_line("fleet", FLEET_PASSWORD)]
        self.passwords.write_text("\n".join(lines) + "\n")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broker: Broker | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.certificates.ca_file

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        if self._loop is None or self._broker is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end(self._broker), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop = self._broker = self._thread = None

    def _serve(self, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        certificates = self.certificates
        settings = broker_settings(
            f"127.0.0.1:{self.port}", self.passwords, certificates.certificate, certificates.key
        )
        broker = Broker(settings, loop)
        loop.run_until_complete(broker.start())
        self._loop, self._broker = loop, broker
        ready.set()
        loop.run_forever()
        loop.close()


async def _end(broker: Broker) -> None:
    # amqtt stumbles over its own cancelled tasks when a client has vanished, and then leaves its port open.
    with contextlib.suppress(asyncio.CancelledError):
        await broker.shutdown()
    for server in broker._servers.values():
        await server.close_instance()


class ListeningFleet:
    """Keeps every event by id; acknowledges while `acknowledges`."""

    def __init__(self, broker: BrokerThread, *, acknowledges: bool = True) -> None:
        self.acknowledges = acknowledges
        self.events: dict[str, Event] = {}
        self.deliveries: list[str] = []
        self.retained_deaths: list[Event] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"fleet-{broker.port}")
        self._client.tls_set(str(broker.ca_file))
        self._client.username_pw_set("fleet", FLEET_PASSWORD)
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
        event = Event(source="fleet", boot_id="fleet", sequence=1, time=1.8e9, data=data)
        self.publish(topic, encode(event), retain=kind is not Kind.ACK)

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
        answer = Event(source="fleet", boot_id="fleet", sequence=1, time=1.8e9, data=ack)
        self._client.publish(device_topic(TENANT, DEVICE, Kind.ACK), encode(answer), qos=1)


_UPLINKS = (Kind.BIRTH, Kind.DEATH, Kind.ANOMALY, Kind.DRIFT, Kind.HEALTH, Kind.REPORT)


def _kind(event: Event) -> Kind:
    return kind_of(event.data)


def _password_line(user: str, password: str) -> str:
    salt = b"0123456789ab"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"

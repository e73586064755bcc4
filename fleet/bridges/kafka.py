"""Events of devices to Kafka: key = device, so that one device's stay in order; id = the event's, so that a consumer can know it again.

At least once: the place moves on when all brokers that must have a batch have it (``acks=all``, an idempotent producer). Messages are
CloudEvents 1.0 in structured mode, as everything that devices send is.

Source: CloudEvents Kafka protocol binding 1.0.2, section 3.3; librdkafka's configuration reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fleet.bridges.place import Place
from fleet.bridges.port import BridgeError
from fleet.client.client import FleetClient
from fleet.views.event_log import EventLogPage, LoggedEvent

__all__ = ["KafkaBridge", "cloud_event", "open_producer"]

AT_ONCE: Final = 500
FLUSH_S: Final = 30.0
CONTENT_TYPE: Final = "application/cloudevents+json; charset=UTF-8"


class KafkaBridge:
    """Implements `Bridge`.

    Args:
        client: of the fleet.
        producer: `open_producer`, to the cluster.
        place: how far it is.
        topic: where everything goes.
        source: names this fleet in each event.
    """

    def __init__(self, client: FleetClient, producer: Any, place: Place, *, topic: str, source: str) -> None:
        self._client, self._producer, self._place = client, producer, place
        self._topic, self._source = topic, source

    def step(self) -> int:
        """See `Bridge`."""
        after = self._place.get("after")
        page = self._client.show(EventLogPage, "/v1/event-log", {"after": after, "limit": AT_ONCE})
        if page.items:
            self._deliver(page.items)
        if page.next_cursor != after:
            self._place.note(after=page.next_cursor)
        return len(page.items)

    def close(self) -> None:
        """See `Bridge`."""
        self._producer.purge()

    def _deliver(self, events: Sequence[LoggedEvent]) -> None:
        failed: list[str] = []

        def noted(error: object, _message: object) -> None:
            if error is not None:
                failed.append(str(error))

        try:
            for event in events:
                self._producer.produce(
                    self._topic,
                    key=event.device.encode(),
                    value=json.dumps(cloud_event(event, self._source)).encode(),
                    headers={"content-type": CONTENT_TYPE.encode(), "ce_id": event.id.encode()},
                    timestamp=int(event.received_at * 1000),
                    on_delivery=noted,
                )
            left = self._producer.flush(FLUSH_S)
        except Exception as error:
            # librdkafka's errors have no common parent that is worth a name; whatever it was, nothing counts as delivered
            self._producer.purge()
            raise BridgeError(f"Kafka did not take {len(events)} events: {error}") from error
        if left or failed:
            self._producer.purge()
            reason = failed[0] if failed else f"no answer within {FLUSH_S:.0f} s"
            raise BridgeError(
                f"Kafka did not take {left or len(failed)} of {len(events)} events: {reason}; is the cluster there?"
            )


def cloud_event(event: LoggedEvent, source: str) -> dict[str, Any]:
    """An event as it is sent; `time` is when the fleet received it."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": f"fedge.{event.kind.value}",
        "subject": event.device,
        "time": datetime.fromtimestamp(event.received_at, UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": event.data | {"sent_at": event.sent_at},
    }


def open_producer(settings: Mapping[str, str]) -> Any:
    """A producer of librdkafka; `settings` are its own, under what a bridge stands on.

    Raises:
        BridgeError: it is not installed, or does not take the settings.
    """
    try:
        from confluent_kafka import Producer
    except ImportError:
        raise BridgeError("the bridge to Kafka needs confluent-kafka: pip install 'fedge[kafka]'") from None
    try:
        return Producer({"linger.ms": 20, **settings, "enable.idempotence": True, "acks": "all"})
    except Exception as error:  # noqa: BLE001 - as above
        raise BridgeError(f"librdkafka does not take the settings: {error}") from None

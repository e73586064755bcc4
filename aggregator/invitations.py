"""The invitation board over MQTT, under the aggregator's signature: what shall stand retained on each family's training topic, and a task that makes it so.

`post` and `clear` may be called from any thread; they change what shall stand and return. `run` connects, publishes ALL
families anew (an embedded broker forgets, and a run may have ended while it was away), then every change, and starts over
when the connection breaks. An empty retained message clears a topic.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from protocol.invitations import sign_invitation
from protocol.messages.payloads import TrainingInvitation
from protocol.names import FamilyName
from protocol.topics import training_topic
from service.broker_account import BrokerAccount
from service.event_source import EventSource
from service.mqtt_client import MqttClient

__all__ = ["SOURCE", "MqttInvitationBoard"]

SOURCE: Final = "aggregator"
"""Who speaks; also the name in the aggregator's certificate."""


class MqttInvitationBoard:
    """Implements `aggregator.rounds.ports.InvitationBoard`; `is_connected` says whether the broker is there.

    Args:
        account: ours at the broker.
        identity: signs invitations.
        tenant: first level of the topics.
        families: whose topics are cleared while nothing is posted.
        boot_id: of this process, for event ids.
        now: Unix seconds.
    """

    def __init__(
        self,
        account: BrokerAccount,
        identity: ec.EllipticCurvePrivateKey,
        *,
        tenant: str,
        families: Iterable[str],
        boot_id: str,
        now: Callable[[], float],
    ) -> None:
        self._account, self._identity = account, identity
        self._tenant = tenant
        self._messages = EventSource(SOURCE, boot_id=boot_id, now=now)
        self._lock = threading.Lock()
        self._standing: dict[str, TrainingInvitation | None] = dict.fromkeys(families)
        self._dirty: set[str] = set(self._standing)
        self._wake: Callable[[], object] = lambda: None
        self.is_connected = False

    def post(self, invitation: TrainingInvitation) -> None:
        """See `InvitationBoard.post`."""
        self._set(invitation.family, sign_invitation(invitation, self._identity))

    def clear(self, family: FamilyName) -> None:
        """See `InvitationBoard.clear`."""
        self._set(family, None)

    def take_in(self, family: FamilyName) -> None:
        """Know a family that is new here: where nothing is posted for it, its topic is cleared."""
        with self._lock:
            if family in self._standing:
                return
            self._standing[family] = None
            self._dirty.add(family)
        self._wake()

    async def run(self) -> None:
        """Keep the broker's retained invitations as they shall stand, until this task is canceled."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        self._wake = partial(loop.call_soon_threadsafe, changed.set)

        async def session(client: MqttClient) -> None:
            self.is_connected = True
            try:
                with self._lock:
                    self._dirty = set(self._standing)
                await self._publish_changes(client, changed)
            finally:
                self.is_connected = False

        await self._account.stay_connected(session)

    async def _publish_changes(self, client: MqttClient, changed: asyncio.Event) -> None:
        # The client notices a lost connection only while somebody reads from it.
        listener = asyncio.create_task(_drain(client))
        try:
            while not listener.done():
                changed.clear()
                for family, payload in self._take_changes():
                    await client.publish(training_topic(self._tenant, family), payload, qos=1, retain=True)
                waiter = asyncio.create_task(changed.wait())
                await asyncio.wait({waiter, listener}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
            listener.result()
        finally:
            listener.cancel()

    def _set(self, family: str, invitation: TrainingInvitation | None) -> None:
        with self._lock:
            self._standing[family] = invitation
            self._dirty.add(family)
        self._wake()

    def _take_changes(self) -> list[tuple[str, bytes]]:
        with self._lock:
            changes = [(family, self._payload(family)) for family in sorted(self._dirty)]
            self._dirty.clear()
        return changes

    def _payload(self, family: str) -> bytes:
        invitation = self._standing[family]
        return b"" if invitation is None else self._messages.message(invitation)


async def _drain(client: MqttClient) -> None:
    async for _ in client.messages():
        pass

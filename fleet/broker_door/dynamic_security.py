"""The shut out in Mosquitto, by the acknowledged commands of its dynamic-security plugin, over the fleet's own connection.

::

    shut_out(name) ─► asked ──┐                        ┌─► $CONTROL/dynamic-security/v1           create and modify, delete
                              ├─► a few names at once ─┤
    silence(name) ─► for a while, of a device that floods
    at each (re)connect:      │   what the database    └─◄ $CONTROL/dynamic-security/v1/response  one answer a request
    compare with the list ─► repairs   says now

Nothing is kept here that a restart could lose: who must stay out is in the database, who does is in the broker, and the two
are compared whenever a connection begins. So a broker that forgot somebody (its state gone, or an older backup restored) is
told again, and a command whose answer was lost is given again. Every command may be repeated. An entry without this fleet's
mark is a person's: nothing takes it away, but who must stay out stays out also under such an entry.

The plugin throws nobody out when an entry is made, only when it is changed: so each name is created and then modified, and
the broker's answer to the second command is its word that the device is out.

Mosquitto has no rate for a client. So a device that goes on sending far faster than it may is shut out for `SILENCE_S`, as if it
were revoked: what it says ends in the broker then, and not in the queue in which the others' messages wait.

One request is under way at a time. The plugin writes its whole state for every command, and the broker does nothing
else meanwhile; hence few names a request, and whoever waits before repairs.

Source: plugins/dynamic-security of Eclipse Mosquitto 2.0.11; mosquitto_ctrl_dynsec(1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec
import structlog

from fleet.broker_door.plugin_state import (
    COMMAND_TOPIC,
    SHUT_OUT_ROLE,
    default_denials,
    role,
    shut_out_client,
)
from fleet.errors import BrokerError

__all__ = ["DynamicSecurity"]

PATIENCE_S: Final = 8.0
"""How long `shut_out` waits for the broker."""

ANSWER_TIMEOUT_S: Final = 30.0
"""A broker that answers no command for this long does not have the plugin, or gives us no rights in it."""

SILENCE_S: Final = 300.0
"""How long a device that floods is shut out."""

NAMES_AT_ONCE: Final = 5
"""A request of five keeps the broker busy for a moment only (benchmarks/broker_door.py)."""

LISTED_AT_ONCE: Final = 1000
"""Entries in one answer: about 150 KB."""

Publish = Callable[[str, bytes], Awaitable[object]]
_Commands = list[dict[str, Any]]
_Waiting = dict[str, list[asyncio.Future[None]]]
_log = structlog.get_logger()


class _Role(msgspec.Struct, frozen=True):
    rolename: str


class _Client(msgspec.Struct, frozen=True):
    username: str
    textname: str = ""
    roles: list[_Role] = []


class _Data(msgspec.Struct, frozen=True):
    clients: list[_Client] = []


class _Reply(msgspec.Struct, frozen=True, rename="camel"):
    command: str = ""
    error: str | None = None
    correlation_data: str = ""
    data: _Data = _Data()


class _Replies(msgspec.Struct, frozen=True):
    responses: list[_Reply]


class DynamicSecurity:
    """`BrokerDoor` in Mosquitto. The fleet's `BrokerLink` runs it and hands it what the plugin answers."""

    def __init__(
        self,
        names: Callable[[], Collection[str]],
        *,
        lets_in: Callable[[Collection[str]], Collection[str]],
        mark: str,
        session: str,
    ) -> None:
        """Keep out who must stay out.

        Args:
            names: who that is now, from the database.
            lets_in: of these, those whom the database knows and lets in.
            mark: written beside our entries.
            session: tells our requests from those of another program (mosquitto_ctrl) or of our last life.
        """
        self._names, self._lets_in = names, lets_in
        self._mark = mark
        self._session = session
        self._requests = 0
        self._answer: asyncio.Future[list[_Reply]] | None = None
        self._asked: _Waiting = {}
        self._repairs: _Waiting = {}
        self._silenced: dict[str, float] = {}
        self._work = asyncio.Event()

    def silence(self, name: str) -> None:
        """Shut `name` out for `SILENCE_S`, soon; nothing is kept of it over a restart. In the loop's own thread."""
        if name not in self._silenced:
            self._silenced[name] = asyncio.get_running_loop().time() + SILENCE_S
            self._asked.setdefault(name, [])
            self._work.set()
            _log.warning("device_silenced", device=name, for_s=SILENCE_S)

    async def shut_out(self, name: str) -> None:
        """See `BrokerDoor.shut_out`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(name, []).append(done)
        self._work.set()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await done
        except TimeoutError:
            raise BrokerError(
                f"the broker has not confirmed within {PATIENCE_S:g} s that {name!r} is out; the fleet knows "
                "the change and tells the broker as soon as it answers: repeat this call to wait for that"
            ) from None

    def hear(self, payload: bytes) -> None:
        """Take what came on `RESPONSE_TOPIC`."""
        try:
            replies = msgspec.json.decode(payload, type=_Replies).responses
        except msgspec.MsgspecError as error:
            _log.warning("broker_answer_not_understood", error=str(error))
            return
        if (
            self._answer
            and not self._answer.done()
            and replies
            and replies[0].correlation_data == self._request_id
        ):
            self._answer.set_result(replies)

    async def keep(self, publish: Publish) -> None:
        """Compare and repair, then shut out whoever is named, for as long as one connection lasts."""
        while True:
            try:
                await self._compare(publish)
                while True:
                    await self._make_some(publish)
            except TimeoutError:
                _log.warning(
                    "broker_door_not_confirmed",
                    waited_s=ANSWER_TIMEOUT_S,
                    hint="no revoked device can be shut out: does mosquitto.conf load the dynamic-security plugin, with the "
                    "state that `fedge-fleet broker-files` writes? See docs/broker.md, or set [mqtt] shut_out otherwise",
                )
            except BrokerError as error:
                _log.error("broker_door_not_compared", error=str(error), again_in_s=ANSWER_TIMEOUT_S)
                await asyncio.sleep(ANSWER_TIMEOUT_S)

    async def _compare(self, publish: Publish) -> None:
        await self._make_role(publish)
        held: dict[str, _Client] = {}
        offset = 0
        while listed := (await self._list(publish, offset)):
            offset += len(listed)
            held |= {client.username: client for client in listed}
        wanted = await self._wanted()
        missing = {name for name in wanted if name not in held or not _is_shut_out(held[name])}
        ours = {name for name, client in held.items() if client.textname == self._mark and name not in wanted}
        # whom a database does not know at all, it may have forgotten: he stays out
        left_over = set(await asyncio.to_thread(self._lets_in, ours))
        self._repairs = {name: [] for name in sorted(missing | left_over)}
        _log.info(
            "broker_door_compared", shut_out=len(wanted), missing=len(missing), left_over=len(left_over)
        )

    async def _make_role(self, publish: Publish) -> None:
        shut_out = role(SHUT_OUT_ROLE)
        replies = await self._request(
            publish,
            [
                {"command": "setDefaultACLAccess", "acls": default_denials()},
                {"command": "createRole", **shut_out},  # refused where it is there already
                {"command": "modifyRole", **shut_out},
            ],
        )
        for command, reply in (("setDefaultACLAccess", replies[0]), ("modifyRole", replies[2])):
            if reply.error:
                raise BrokerError(f"the broker refused {command}: {reply.error}")

    async def _list(self, publish: Publish, offset: int) -> list[_Client]:
        command = {"command": "listClients", "verbose": True, "count": LISTED_AT_ONCE, "offset": offset}
        (reply,) = await self._request(publish, [command])
        if reply.error:  # an error read as the end of the list would shut everybody out anew
            raise BrokerError(f"the broker refused listClients: {reply.error}")
        return reply.data.clients

    async def _make_some(self, publish: Publish) -> None:
        while not self._asked and not self._repairs:
            self._work.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(self._silenced.values(), default=None)):
                    await self._work.wait()
            self._lift()
        queue = self._asked or self._repairs
        some = dict(islice(queue.items(), NAMES_AT_ONCE))
        for name in some:
            del queue[name]
            self._repairs.pop(name, None)
        try:
            refusals = await self._make(publish, list(some))
        except BaseException:  # also when canceled: whoever waits is served by the next connection
            for name, waiting in some.items():
                self._asked.setdefault(name, []).extend(waiting)
            raise
        for name, waiting in some.items():
            for done in waiting:
                if done.done():
                    continue
                if name in refusals:
                    done.set_exception(refusals[name])
                else:
                    done.set_result(None)

    def _lift(self) -> None:
        """Let those in again whose silence has ended."""
        now = asyncio.get_running_loop().time()
        for name in [name for name, until in self._silenced.items() if until <= now]:
            del self._silenced[name]
            self._repairs.setdefault(name, [])

    async def _wanted(self) -> Collection[str]:
        return {*await asyncio.to_thread(self._names), *self._silenced}

    async def _make(self, publish: Publish, names: Sequence[str]) -> dict[str, BrokerError]:
        """Make these entries what the database says; returns name → why it could not be."""
        wanted = await self._wanted()
        commands: _Commands = []
        for name in names:
            if name in wanted:
                entry = shut_out_client(name, self._mark)
                commands += [{"command": command, **entry} for command in ("createClient", "modifyClient")]
            else:
                commands.append({"command": "deleteClient", "username": name})
        replies = await self._request(publish, commands)
        refusals = {
            command["username"]: BrokerError(
                f"the broker does not shut {command['username']!r} out: {reply.error}"
            )
            for command, reply in zip(commands, replies, strict=True)
            if reply.error and command["command"] == "modifyClient"
        }
        if refusals:
            _log.error("broker_door_refused", refusals={n: str(error) for n, error in refusals.items()})
        return refusals

    async def _request(self, publish: Publish, commands: _Commands) -> list[_Reply]:
        """The broker's replies, one a command, in order; raises TimeoutError where it is silent."""
        self._requests += 1
        marked = [command | {"correlationData": self._request_id} for command in commands]
        self._answer = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await publish(COMMAND_TOPIC, msgspec.json.encode({"commands": marked}))
            replies = await self._answer
        return [*replies, *(_Reply(error="no answer to this command") for _ in commands)][: len(commands)]

    @property
    def _request_id(self) -> str:
        return f"{self._session}-{self._requests}"


def _is_shut_out(client: _Client) -> bool:
    return [one.rolename for one in client.roles] == [SHUT_OUT_ROLE]

"""Accounts in Mosquitto, by the acknowledged commands of its dynamic-security plugin, over the fleet's own connection.

::

    update(name) ─► asked ──┐                        ┌─► $CONTROL/dynamic-security/v1           look, delete, create
                            ├─► a few names at once ─┤
    at each (re)connect:    │   what the database    └─◄ $CONTROL/dynamic-security/v1/response  one answer a request
    compare with the list ─► repairs   says now

Nothing is kept here that a restart could lose: what must be is in the database, what is is in the broker, and the two
are compared whenever a connection begins. So a broker that lost accounts (its state gone, or an older backup restored)
gets them back, one that still has a revoked device's account loses it, and an update whose answer was lost is made
again. Every command may be repeated. An account without this fleet's mark is a person's or another tenant's: it is
looked at before anything is done under its name, and left alone. A repair that is refused is logged, and made again at
the next connection; only an update has somebody to tell.

One request is under way at a time. The plugin writes its whole state for every command, and the broker does nothing
else meanwhile; hence few names a request, and enrolments before repairs.

Source: plugins/dynamic-security of Eclipse Mosquitto 2.0.11; mosquitto_ctrl_dynsec(1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import structlog

from fleet.broker_accounts.accounts import Account, AccountBook
from fleet.broker_accounts.broker_state import COMMAND_TOPIC, DENY_BY_DEFAULT
from fleet.errors import BrokerError, ConflictError, FleetError

__all__ = ["DynamicSecurity"]

PATIENCE_S: Final = 8.0
"""How long `update` waits for the broker: a device that enrols gives up on a silent fleet after 10 s."""

ANSWER_TIMEOUT_S: Final = 30.0
"""A broker that answers no command for this long does not have the plugin, or gives us no rights in it."""

NAMES_AT_ONCE: Final = 5
"""With ten thousand accounts a request of five keeps the broker busy for half a second, on a busy machine for two
(benchmarks/broker_accounts.py)."""

LISTED_AT_ONCE: Final = 1000
"""Accounts in one answer: about 100 KB."""

Publish = Callable[[str, bytes], Awaitable[object]]
_Waiting = dict[str, list[asyncio.Future[None]]]
_log = structlog.get_logger()


class _Client(msgspec.Struct, frozen=True):
    username: str
    textname: str = ""
    clientid: str = ""
    disabled: bool = False


class _Data(msgspec.Struct, frozen=True):
    clients: list[_Client] = []
    client: _Client | None = None


class _Reply(msgspec.Struct, frozen=True, rename="camel"):
    command: str = ""
    error: str | None = None
    correlation_data: str = ""
    data: _Data = _Data()


class _Replies(msgspec.Struct, frozen=True):
    responses: list[_Reply]


class DynamicSecurity:
    """`BrokerAccounts` in Mosquitto. The fleet's `BrokerLink` runs it and hands it what the plugin answers."""

    def __init__(self, book: AccountBook, *, session: str) -> None:
        """`session` tells our requests from those of another program (mosquitto_ctrl) or of our last life."""
        self._book = book
        self._session = session
        self._requests = 0
        self._answer: asyncio.Future[list[_Reply]] | None = None
        self._asked: _Waiting = {}
        self._repairs: _Waiting = {}
        self._work = asyncio.Event()

    async def update(self, name: str) -> None:
        """See `BrokerAccounts.update`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(name, []).append(done)
        self._work.set()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await done
        except TimeoutError:
            raise BrokerError(
                f"the broker has not confirmed its account of {name!r} within {PATIENCE_S:g} s; the fleet knows "
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
        """Compare and repair, then make every update, for as long as one connection lasts."""
        while True:
            try:
                await self._compare(publish)
                while True:
                    await self._make_some(publish)
            except TimeoutError:
                _log.warning(
                    "broker_accounts_not_confirmed",
                    waited_s=ANSWER_TIMEOUT_S,
                    hint="nobody can enrol: does mosquitto.conf load the dynamic-security plugin, and does the fleet's "
                    "account have the role fedge-fleet? See deploy/README.md, or set [mqtt] accounts otherwise",
                )
            except BrokerError as error:
                _log.error("broker_accounts_not_compared", error=str(error), again_in_s=ANSWER_TIMEOUT_S)
                await asyncio.sleep(ANSWER_TIMEOUT_S)

    async def _compare(self, publish: Publish) -> None:
        held: dict[str, _Client] = {}
        offset = 0
        while listed := await self._list(publish, offset):
            offset += len(listed)
            held |= {client.username: client for client in listed}
        wanted = {
            name: msgspec.convert({"username": name} | self._book.labels(name, entry), _Client)
            for name, entry in (await asyncio.to_thread(self._book.entries)).items()
        }
        missing = {name for name, client in wanted.items() if held.get(name) != client}
        left_over = {name for name, client in held.items() if self._is_ours(client) and name not in wanted}
        self._repairs = {name: [] for name in sorted(missing | left_over)}
        _log.info(
            "broker_accounts_compared", accounts=len(wanted), missing=len(missing), left_over=len(left_over)
        )

    def _is_ours(self, client: _Client) -> bool:
        return client.textname.startswith(self._book.owner)

    async def _list(self, publish: Publish, offset: int) -> list[_Client]:
        denials = [{"acltype": right, "allow": False} for right in DENY_BY_DEFAULT]
        commands: list[dict[str, Any]] = [
            {"command": "listClients", "verbose": True, "count": LISTED_AT_ONCE, "offset": offset}
        ]
        if offset == 0:
            commands.append({"command": "setDefaultACLAccess", "acls": denials})
        replies = await self._request(publish, commands)
        for command, reply in zip(commands, replies, strict=True):
            if reply.error:  # an error read as the end of the list would make every account anew
                raise BrokerError(f"the broker refused {command['command']}: {reply.error}")
        return replies[0].data.clients

    async def _make_some(self, publish: Publish) -> None:
        while not self._asked and not self._repairs:
            self._work.clear()
            await self._work.wait()
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

    async def _make(self, publish: Publish, names: Sequence[str]) -> dict[str, FleetError]:
        """Make these accounts what the database says; returns name → why it could not be."""
        accounts = await asyncio.to_thread(self._book.find, names)
        looks = await self._request(publish, [{"command": "getClient", "username": name} for name in names])
        refusals: dict[str, FleetError] = {}
        commands: list[dict[str, Any]] = []
        for name, look in zip(names, looks, strict=True):
            account, held = accounts.get(name), look.data.client
            if look.error and "not found" not in look.error:
                refusals[name] = _refused(name, look.error)
            elif held and not self._is_ours(held):
                if account:
                    refusals[name] = ConflictError(
                        f"the broker has an account {name!r} that this fleet did not make; "
                        "choose another id, or delete that account and repeat this call"
                    )
            elif account and account.password is None:
                refusals[name] = _refused(
                    name,
                    "its password is known to it alone: let it enrol again, or restore the broker's state with "
                    "`fedge-fleet broker-state`",
                )
            else:
                commands += self._replacement(name, account, is_held=held is not None)
        replies = await self._request(publish, commands) if commands else []
        for command, reply in zip(commands, replies, strict=True):
            if reply.error:
                refusals[command["username"]] = _refused(command["username"], reply.error)
        if refusals:
            _log.error("broker_accounts_refused", refusals={n: str(error) for n, error in refusals.items()})
        return refusals

    def _replacement(self, name: str, account: Account | None, *, is_held: bool) -> list[dict[str, Any]]:
        commands: list[dict[str, Any]] = [{"command": "deleteClient", "username": name}] if is_held else []
        if account:
            create = {"command": "createClient", "username": name, "password": account.password}
            commands.append(create | self._book.labels(name, account.entry))
        return commands

    async def _request(self, publish: Publish, commands: list[dict[str, Any]]) -> list[_Reply]:
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


def _refused(name: str, why: str) -> BrokerError:
    return BrokerError(f"the account of {name!r} is not in the broker: {why}")

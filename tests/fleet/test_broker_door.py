"""Who is shut out, without a broker: the file of an embedded one, the files of Mosquitto, and a plugin that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from fleet_world import Machine, enrol_directly
from structlog.testing import capture_logs

from fleet.broker_door import dynamic_security
from fleet.broker_door.broker_files import acl, configuration
from fleet.broker_door.dynamic_security import DynamicSecurity
from fleet.broker_door.name_file import NameFile
from fleet.broker_door.plugin_state import COMMAND_TOPIC, SHUT_OUT_ROLE
from fleet.broker_door.shut_out import names_let_in, names_shut_out
from fleet.errors import BrokerError
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState

MARK = "fedge demo: shut out"
DEPLOYED = Path(__file__).parents[2] / "deploy" / "mosquitto"


def revoke(database: Database, *names: str) -> None:
    enrol_directly(database, *(Machine(name=name) for name in names))
    with database.write() as session:
        for name in names:
            session.get_one(Device, name).state = DeviceState.REVOKED


@pytest.mark.parametrize(("name", "content"), [("fedge.conf", configuration()), ("acl", acl("acme"))])
def test_the_files_of_deploy_are_what_the_fleet_writes_for_the_tenant_acme(name: str, content: str) -> None:
    assert (DEPLOYED / name).read_text() == content


def test_the_file_of_an_embedded_broker_names_every_revoked_device_and_nobody_else(
    database: Database, tmp_path: Path
) -> None:
    enrol_directly(database, Machine(name="stays"))
    kept = NameFile(database, tmp_path / "not" / "yet" / "there")
    kept.write()
    assert (tmp_path / "not" / "yet" / "there").read_text() == ""

    async def revoke_both() -> None:
        revoke(database, "d-2", "d-1")
        await asyncio.gather(kept.shut_out("d-1"), kept.shut_out("d-2"))

    asyncio.run(revoke_both())
    assert (tmp_path / "not" / "yet" / "there").read_text() == "d-1\nd-2\n"
    assert names_shut_out(database) == {"d-1", "d-2"}


class Plugin:
    """A dynamic-security plugin whose answers a test may bend; `clients` is username → (textname, roles)."""

    def __init__(self) -> None:
        self.clients: dict[str, tuple[str, list[str]]] = {}
        self.requests: list[list[dict[str, Any]]] = []
        self.bend: Callable[[list[dict[str, Any]]], list[dict[str, Any]] | None] = lambda replies: replies
        self.security: DynamicSecurity | None = None

    async def publish(self, topic: str, payload: bytes) -> None:
        assert topic == COMMAND_TOPIC
        commands = json.loads(payload)["commands"]
        self.requests.append(commands)
        replies = self.bend([self._do(command) for command in commands])
        if replies is not None and self.security:
            self.security.hear(json.dumps({"responses": replies}).encode())

    def _do(self, command: dict[str, Any]) -> dict[str, Any]:
        reply = {"command": command["command"], "correlationData": command["correlationData"]}
        match command:
            case {"command": "listClients", "offset": offset, "count": count}:
                listed = [self._shown(name) for name in sorted(self.clients)]
                return reply | {"data": {"clients": listed[offset : offset + count]}}
            case {"command": "deleteClient", "username": name}:
                return reply if self.clients.pop(name, None) else reply | {"error": "Client not found"}
            case {"command": "createClient", "username": name} if name in self.clients:
                return reply | {"error": "Client already exists"}
            case {"command": "createClient" | "modifyClient", "username": name, "textname": mark, "roles": r}:
                self.clients[name] = mark, [role["rolename"] for role in r]
        return reply

    def _shown(self, name: str) -> dict[str, Any]:
        mark, roles = self.clients[name]
        return {"username": name, "textname": mark, "roles": [{"rolename": role} for role in roles]}

    def commands(self, wanted: str) -> list[str]:
        """Whom a command named, in order."""
        return [c["username"] for request in self.requests for c in request if c["command"] == wanted]


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


def refusing(refused: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Bends every answer to one command into an error."""
    return lambda replies: [
        reply | ({"error": "Internal error"} if reply["command"] == refused else {}) for reply in replies
    ]


def during(
    plugin: Plugin,
    names: set[str],
    work: Callable[[DynamicSecurity], Awaitable[None]],
    *,
    lets_in: Callable[[Collection[str]], Collection[str]] = frozenset,
) -> None:
    """Run `work` while the fleet is connected to `plugin`."""

    async def connected() -> None:
        plugin.security = DynamicSecurity(lambda: names, lets_in=lets_in, mark=MARK, session="this")
        keeping = asyncio.create_task(plugin.security.keep(plugin.publish))
        try:
            await work(plugin.security)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(connected())


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(0)


def test_the_list_is_read_to_its_end_and_one_request_names_few_devices(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_security, "LISTED_AT_ONCE", 7)
    plugin.clients = {f"back-{n:02}": (MARK, [SHUT_OUT_ROLE]) for n in range(23)}
    theirs = {"a-person": ("theirs", ["admin"]), "of-another-fleet": ("fedge another: shut out", [])}
    plugin.clients |= theirs

    async def work(security: DynamicSecurity) -> None:
        await security.shut_out("d-1")
        await until(lambda: len(plugin.clients) == 3)

    during(plugin, {"d-1"}, work)
    assert plugin.clients == theirs | {"d-1": (MARK, [SHUT_OUT_ROLE])}
    assert max(len(request) for request in plugin.requests) <= 2 * dynamic_security.NAMES_AT_ONCE


def test_who_was_shut_out_stays_so_when_the_database_does_not_know_him_any_more(plugin: Plugin) -> None:
    plugin.clients = {name: (MARK, [SHUT_OUT_ROLE]) for name in ("forgotten", "silenced-and-back")}

    async def work(security: DynamicSecurity) -> None:
        await until(lambda: "silenced-and-back" not in plugin.clients)
        await security.shut_out("d-1")

    during(plugin, {"d-1"}, work, lets_in=lambda names: {"silenced-and-back"} & set(names))
    assert sorted(plugin.clients) == ["d-1", "forgotten"]


def test_the_database_lets_in_whom_it_knows_and_has_not_revoked(database: Database) -> None:
    revoke(database, "d-1")
    enrol_directly(database, Machine(name="stays"))
    assert names_let_in(database, {"d-1", "stays", "forgotten"}) == {"stays"}


def test_whoever_waits_is_served_before_what_is_only_repaired_and_nobody_twice(plugin: Plugin) -> None:
    async def work(security: DynamicSecurity) -> None:
        await security.shut_out("z-new")
        await until(lambda: len(plugin.clients) == 41)

    during(plugin, {*(f"lost-{n:02}" for n in range(40)), "z-new"}, work)
    created = plugin.commands("createClient")
    assert created[0] == "z-new"
    assert len(created) == len(set(created)) == 41


def test_who_stands_in_the_list_without_being_denied_is_denied_and_who_is_denied_is_left_alone(
    plugin: Plugin,
) -> None:
    plugin.clients = {
        "out": (MARK, [SHUT_OUT_ROLE]),
        "a-persons": ("theirs", ["admin"]),
        "loosened": (MARK, []),
        "mixed": (MARK, ["admin", SHUT_OUT_ROLE]),
    }
    everybody = set(plugin.clients)

    async def work(_: DynamicSecurity) -> None:
        await until(lambda: all(roles == [SHUT_OUT_ROLE] for _, roles in plugin.clients.values()))

    during(plugin, everybody, work)
    assert sorted(plugin.commands("modifyClient")) == ["a-persons", "loosened", "mixed"]


def test_a_device_that_floods_is_shut_out_for_a_while_before_what_is_only_repaired(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_security, "SILENCE_S", 0.05)

    async def work(security: DynamicSecurity) -> None:
        for _ in range(3):
            security.silence("loud")
        await until(lambda: "loud" in plugin.clients)
        await until(lambda: "loud" not in plugin.clients)
        assert plugin.commands("deleteClient") == ["loud"]
        security.silence("loud")
        await until(lambda: "loud" in plugin.clients)

    during(plugin, {f"lost-{n:02}" for n in range(40)}, work)
    created = plugin.commands("createClient")
    assert created[0] == "loud"
    assert created.count("loud") == 2


def test_who_is_revoked_while_he_is_silenced_stays_out(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_security, "SILENCE_S", 0.05)
    revoked: set[str] = set()

    async def work(security: DynamicSecurity) -> None:
        security.silence("loud")
        await until(lambda: "loud" in plugin.clients)
        revoked.add("loud")
        await security.shut_out("loud")
        await until(lambda: plugin.commands("modifyClient").count("loud") == 3)  # at the end of the silence

    during(plugin, revoked, work)
    assert plugin.clients == {"loud": (MARK, [SHUT_OUT_ROLE])}
    assert plugin.commands("deleteClient") == []


def test_answers_to_somebody_else_or_to_nothing_confirm_nothing(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_security, "PATIENCE_S", 0.05)

    async def work(security: DynamicSecurity) -> None:
        for foreign in (
            b"no JSON",
            b"{}",
            b'{"responses": []}',
            b'{"responses": [{"correlationData": "that"}]}',
        ):
            security.hear(foreign)
        await until(lambda: len(plugin.requests) >= 2)  # it has compared
        plugin.bend = lambda replies: [reply | {"correlationData": "a person"} for reply in replies]
        with pytest.raises(BrokerError, match="'d-1'"):
            await security.shut_out("d-1")

    during(plugin, {"d-1"}, work)


def test_a_refused_command_and_one_without_answer_are_told_to_whoever_waits(plugin: Plugin) -> None:
    async def work(security: DynamicSecurity) -> None:
        await security.shut_out("d-1")
        plugin.bend = refusing("modifyClient")
        with pytest.raises(BrokerError, match="Internal error"):
            await security.shut_out("d-1")
        plugin.bend = lambda replies: replies[:-1] or replies
        with pytest.raises(BrokerError, match="no answer"):
            await security.shut_out("d-1")
        plugin.bend = lambda replies: replies
        await security.shut_out("d-1")  # it is there already, which the broker says as an error

    with capture_logs() as logs:
        during(plugin, {"d-1"}, work)
    assert [line["event"] for line in logs].count("broker_door_refused") == 2


@pytest.mark.parametrize("refused", ["listClients", "setDefaultACLAccess", "modifyRole"])
def test_a_list_that_is_refused_is_no_empty_list_and_nobody_is_shut_out_anew_before_it_is_read(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(dynamic_security, "ANSWER_TIMEOUT_S", 0.05)
    plugin.clients = {"d-1": (MARK, [SHUT_OUT_ROLE])}
    plugin.bend = refusing(refused)

    async def refuse_twice(security: DynamicSecurity) -> None:
        await until(lambda: len(plugin.requests) >= 3)
        assert plugin.commands("modifyClient") == []
        plugin.bend = lambda replies: replies
        await security.shut_out("d-1")

    with capture_logs() as logs:
        during(plugin, {"d-1"}, refuse_twice)
    said = [line["error"] for line in logs if line["event"] == "broker_door_not_compared"]
    assert said[0] == f"the broker refused {refused}: Internal error"


def test_a_command_whose_answer_was_lost_is_given_over_the_next_connection(plugin: Plugin) -> None:
    async def across_connections() -> None:
        plugin.security = security = DynamicSecurity(
            lambda: {"d-1"}, lets_in=frozenset, mark=MARK, session="this"
        )
        plugin.bend = lambda replies: None if replies[0]["command"] == "createClient" else replies
        first = asyncio.create_task(security.keep(plugin.publish))
        waiting = asyncio.create_task(security.shut_out("d-1"))
        await until(lambda: bool(plugin.clients))  # the plugin has done it; only its answer is lost
        plugin.clients.clear()  # and then the plugin lost it as well
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not waiting.done()
        plugin.bend = lambda replies: replies
        second = asyncio.create_task(security.keep(plugin.publish))
        await waiting
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    asyncio.run(across_connections())
    assert list(plugin.clients) == ["d-1"]

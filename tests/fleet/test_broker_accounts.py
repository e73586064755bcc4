"""The broker's accounts without a broker: passwords, the file of an embedded one, and a plugin that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_world import TENANT, Machine, enrol_directly
from mosquitto_broker import installed_program
from structlog.testing import capture_logs

from fleet.broker_accounts import dynamic_security, password_file
from fleet.broker_accounts.accounts import AccountBook
from fleet.broker_accounts.dynamic_security import DynamicSecurity
from fleet.broker_accounts.password_file import PasswordFile
from fleet.broker_accounts.passwords import (
    BrokerPasswords,
    hash_password,
    load_password_key,
    salt_of,
    verify_password,
)
from fleet.errors import BrokerError
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState
from runtime.durable_files import write_durably
from runtime.errors import SettingsError

KEY = bytes(range(32))


@pytest.fixture
def passwords() -> BrokerPasswords:
    return BrokerPasswords(KEY, secrets.token_bytes)


def enrol(database: Database, passwords: BrokerPasswords, name: str) -> str:
    enrol_directly(database, Machine(name=name))
    password, entry = passwords.new(name)
    with database.write() as session:
        session.get_one(Device, name).broker_password_hash = entry
    return password


def test_mosquitto_itself_would_accept_our_password_entries(tmp_path: Path) -> None:
    # the published vector form: $7$, iterations, 12-byte salt, 64-byte digest
    entry = hash_password("secret", b"0123456789ab", 101)
    kind, iterations, salt, digest = entry.split("$")[1:]
    assert (kind, iterations, len(salt), len(digest)) == ("7", "101", 16, 88)
    assert verify_password("secret", entry)
    assert not verify_password("Secret", entry)
    assert not verify_password("secret", entry.replace("$7$", "$6$"))
    assert not verify_password("secret", "nonsense")
    tool = installed_program("mosquitto_passwd")
    subprocess.run([tool, "-c", "-b", str(tmp_path / "p"), "ann", "secret"], check=True)
    assert verify_password("secret", (tmp_path / "p").read_text().strip().split(":", 1)[1])


def test_an_entry_is_made_with_a_thousand_rounds_a_salt_of_twelve_bytes_and_the_published_derivation() -> (
    None
):
    # One key, one salt, one password, worked out with hashlib and hmac: brokers hold such entries for years.
    maker = BrokerPasswords(KEY, lambda size: b"0123456789abcdef"[:size])
    password, entry = maker.new("press-7")
    mac = hmac.digest(KEY, b"fedge broker password v1\0press-7\0" + b"0123456789ab", "sha256")
    assert password == base64.urlsafe_b64encode(mac).decode().rstrip("=")
    derived = hashlib.pbkdf2_hmac("sha512", password.encode(), b"0123456789ab", 1000, 64)
    assert (
        entry == f"$7$1000${base64.b64encode(b'0123456789ab').decode()}${base64.b64encode(derived).decode()}"
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: entry.replace("$7$", "$6$"),
        lambda entry: entry.replace("$1000$", "$x$"),
        lambda entry: entry.replace("$1000$", "$999$"),
        lambda entry: entry + "$",
        lambda entry: "x" + entry,
        lambda entry: entry.rpartition("$")[0],
        lambda entry: entry.replace("$1000$", "$1000$!"),
        lambda entry: entry[:-5] + "AAAA=",
    ],
)
def test_an_entry_of_any_other_form_verifies_nothing(spoil: Callable[[str], str]) -> None:
    entry = hash_password("secret", b"0123456789ab")
    assert verify_password("secret", entry)
    assert not verify_password("secret", spoil(entry))


def test_a_password_is_256_bits_of_its_own_and_is_found_again_with_the_key_alone(
    passwords: BrokerPasswords,
) -> None:
    password, entry = passwords.new("press-7")
    assert len(password) == 43
    assert verify_password(password, entry)
    assert passwords.recover("press-7", entry) == password
    assert passwords.recover("press-8", entry) is None
    assert BrokerPasswords(bytes(32), secrets.token_bytes).recover("press-7", entry) is None
    other, other_entry = passwords.new("press-7")
    assert other != password
    assert salt_of(other_entry) != salt_of(entry)


def test_a_chosen_password_has_one_entry_a_name_and_its_salt_gives_nothing_away_without_the_key(
    passwords: BrokerPasswords,
) -> None:
    entry = passwords.entry_of_chosen("aggregator", "made-up")
    assert verify_password("made-up", entry)
    assert passwords.entry_of_chosen("aggregator", "made-up") == entry
    salts = {
        salt_of(maker.entry_of_chosen(name, "made-up"))
        for maker in (passwords, BrokerPasswords(bytes(32), secrets.token_bytes))
        for name in ("aggregator", "dashboard")
    }
    assert len(salts) == 4


def test_the_key_is_made_once_for_its_owner_alone_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data" / "broker-passwords.key"
    key = load_password_key(path, secrets.token_bytes)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_password_key(path, secrets.token_bytes) == key
    path.write_bytes(key[:-1])
    with pytest.raises(SettingsError, match="holds 31 bytes") as caught:
        load_password_key(path, secrets.token_bytes)
    assert key.hex()[:8] not in str(caught.value)


def test_updates_at_once_share_rewrites_and_none_returns_before_its_device_is_in_the_file(
    database: Database, passwords: BrokerPasswords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = PasswordFile(
        AccountBook(database, passwords, {"aggregator": "made-up"}, tenant=TENANT), tmp_path / "file"
    )
    writes: list[int] = []

    def counted(path: Path, content: bytes, *, mode: int) -> None:
        writes.append(len(content))
        write_durably(path, content, mode=mode)

    monkeypatch.setattr(password_file, "write_durably", counted)

    async def admit(name: str) -> bool:
        enrol(database, passwords, name)
        await kept.update(name)
        return f"{name}:" in (tmp_path / "file").read_text()

    async def admit_all() -> list[bool]:
        return await asyncio.gather(*(admit(f"d-{n}") for n in range(12)))

    assert all(asyncio.run(admit_all()))
    assert len(writes) == 2  # the first one's, and one for the eleven who came while it was under way
    assert verify_password(
        "made-up",
        dict(line.split(":", 1) for line in (tmp_path / "file").read_text().splitlines())["aggregator"],
    )


class Plugin:
    """A dynamic-security plugin whose answers a test may bend; `accounts` is username → textname."""

    def __init__(self) -> None:
        self.accounts: dict[str, str] = {}
        self.requests: list[list[dict[str, Any]]] = []
        self.bend: Callable[[list[dict[str, Any]]], list[dict[str, Any]] | None] = lambda replies: replies
        self.security: DynamicSecurity | None = None

    async def publish(self, topic: str, payload: bytes) -> None:
        assert topic == "$CONTROL/dynamic-security/v1"
        commands = json.loads(payload)["commands"]
        self.requests.append(commands)
        replies = self.bend([self._do(command) for command in commands])
        if replies is not None and self.security:
            self.security.hear(json.dumps({"responses": replies}).encode())

    def _do(self, command: dict[str, Any]) -> dict[str, Any]:
        reply = {"command": command["command"], "correlationData": command["correlationData"]}
        match command:
            case {"command": "listClients", "offset": offset, "count": count}:
                listed = [self._shown(name) for name in sorted(self.accounts)]
                return reply | {"data": {"clients": listed[offset : offset + count]}}
            case {"command": "getClient", "username": name}:
                found = name in self.accounts
                return reply | (
                    {"data": {"client": self._shown(name)}} if found else {"error": "Client not found"}
                )
            case {"command": "deleteClient", "username": name}:
                del self.accounts[name]
            case {"command": "createClient", "username": name, "textname": mark}:
                self.accounts[name] = mark
        return reply

    def _shown(self, name: str) -> dict[str, str]:
        return {"username": name, "textname": self.accounts[name], "clientid": name}


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
    database: Database,
    passwords: BrokerPasswords,
    work: Callable[[DynamicSecurity], Awaitable[None]],
) -> None:
    """Run `work` while the fleet is connected to `plugin`."""

    async def connected() -> None:
        book = AccountBook(database, passwords, {}, tenant=TENANT)
        plugin.security = DynamicSecurity(book, session="this")
        keeping = asyncio.create_task(plugin.security.keep(plugin.publish))
        try:
            await work(plugin.security)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(connected())


def test_the_list_is_read_to_its_end_and_one_request_names_few_devices(
    plugin: Plugin, database: Database, passwords: BrokerPasswords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_security, "LISTED_AT_ONCE", 7)
    plugin.accounts = {f"gone-{n:02}": f"fedge {TENANT} x" for n in range(23)} | {"a-person": "theirs"}
    plugin.accounts["other-fleet"] = "fedge another-tenant x"
    enrol(database, passwords, "d-1")

    async def work(security: DynamicSecurity) -> None:
        await security.update("d-1")
        while len(plugin.accounts) > 3:
            await asyncio.sleep(0)

    during(plugin, database, passwords, work)
    assert sorted(plugin.accounts) == ["a-person", "d-1", "other-fleet"]
    assert max(len(request) for request in plugin.requests) <= 2 * dynamic_security.NAMES_AT_ONCE


def test_an_update_is_made_before_what_is_only_repaired_and_not_twice(
    plugin: Plugin, database: Database, passwords: BrokerPasswords
) -> None:
    for n in range(40):
        enrol(database, passwords, f"lost-{n:02}")
    enrol(database, passwords, "z-new")

    async def work(security: DynamicSecurity) -> None:
        await security.update("z-new")
        while len(plugin.accounts) < 41:
            await asyncio.sleep(0)

    during(plugin, database, passwords, work)
    created = [
        command["username"]
        for request in plugin.requests
        for command in request
        if command["command"] == "createClient"
    ]
    assert created[0] == "z-new"
    assert len(created) == len(set(created)) == 41


def test_answers_to_somebody_else_or_to_nothing_confirm_nothing(
    plugin: Plugin, database: Database, passwords: BrokerPasswords, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(database, passwords, "d-1")
    monkeypatch.setattr(dynamic_security, "PATIENCE_S", 0.05)

    async def work(security: DynamicSecurity) -> None:
        for foreign in (
            b"no JSON",
            b"{}",
            b'{"responses": []}',
            b'{"responses": [{"correlationData": "that"}]}',
        ):
            security.hear(foreign)
        while len(plugin.requests) < 2:  # it has compared
            await asyncio.sleep(0)
        plugin.bend = lambda replies: [reply | {"correlationData": "a person"} for reply in replies]
        with pytest.raises(BrokerError, match="'d-1'"):
            await security.update("d-1")

    during(plugin, database, passwords, work)


def test_a_refused_command_and_one_without_answer_are_told_to_whoever_waits(
    plugin: Plugin, database: Database, passwords: BrokerPasswords
) -> None:
    enrol(database, passwords, "d-1")

    async def work(security: DynamicSecurity) -> None:
        await security.update("d-1")
        for refused in ("getClient", "deleteClient", "createClient"):
            plugin.bend = refusing(refused)
            with pytest.raises(BrokerError, match="Internal error"):
                await security.update("d-1")
            plugin.bend = lambda replies: replies
            await security.update("d-1")
        plugin.bend = lambda replies: replies[:-1] or replies
        with pytest.raises(BrokerError, match="no answer"):
            await security.update("d-1")

    with capture_logs() as logs:
        during(plugin, database, passwords, work)
    assert [line["event"] for line in logs].count("broker_accounts_refused") == 4
    password = passwords.recover("d-1", AccountBook(database, passwords, {}, tenant=TENANT).entries()["d-1"])
    assert password is not None
    assert password not in str(logs)


@pytest.mark.parametrize("refused", ["listClients", "setDefaultACLAccess"])
def test_a_list_that_is_refused_is_no_empty_list_and_nothing_is_made_anew_before_it_is_read(
    plugin: Plugin,
    database: Database,
    passwords: BrokerPasswords,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
) -> None:
    monkeypatch.setattr(dynamic_security, "ANSWER_TIMEOUT_S", 0.05)
    enrol(database, passwords, "d-1")

    async def settle(_: DynamicSecurity) -> None:
        while not plugin.accounts:
            await asyncio.sleep(0)

    async def refuse_twice(security: DynamicSecurity) -> None:
        while len(plugin.requests) < 2:
            await asyncio.sleep(0)
        plugin.bend = lambda replies: replies
        await security.update("d-1")

    during(plugin, database, passwords, settle)
    plugin.requests.clear()
    plugin.bend = refusing(refused)
    with capture_logs() as logs:
        during(plugin, database, passwords, refuse_twice)
    assert [request[0]["command"] for request in plugin.requests[:3]] == ["listClients"] * 3
    said = [line["error"] for line in logs if line["event"] == "broker_accounts_not_compared"]
    assert said[0] == f"the broker refused {refused}: Internal error"


def test_an_update_whose_answer_was_lost_is_made_over_the_next_connection(
    plugin: Plugin, database: Database, passwords: BrokerPasswords
) -> None:
    enrol(database, passwords, "d-1")

    async def across_connections() -> None:
        book = AccountBook(database, passwords, {}, tenant=TENANT)
        plugin.security = security = DynamicSecurity(book, session="this")
        plugin.bend = lambda replies: None if replies[0]["command"] == "createClient" else replies
        first = asyncio.create_task(security.keep(plugin.publish))
        waiting = asyncio.create_task(security.update("d-1"))
        while not plugin.accounts:  # the plugin has done it; only its answer is lost
            await asyncio.sleep(0)
        plugin.accounts.clear()  # and then the plugin lost it as well
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not waiting.done()
        plugin.bend = lambda replies: replies
        second = asyncio.create_task(security.keep(plugin.publish))
        await waiting
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    asyncio.run(across_connections())
    assert list(plugin.accounts) == ["d-1"]


def test_a_revoked_device_has_no_account_wherever_accounts_are_kept(
    plugin: Plugin, database: Database, passwords: BrokerPasswords, tmp_path: Path
) -> None:
    enrol(database, passwords, "d-1")
    book = AccountBook(database, passwords, {}, tenant=TENANT)
    with database.write() as session:
        session.get_one(Device, "d-1").state = DeviceState.REVOKED
    assert book.entries() == {}
    assert book.find(["d-1", "nobody"]) == {}
    PasswordFile(book, tmp_path / "not" / "yet" / "there").write()
    PasswordFile(book, tmp_path / "file").write()
    assert (tmp_path / "file").read_text() == ""

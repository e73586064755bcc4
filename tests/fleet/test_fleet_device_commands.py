"""Commands at the fleet: who may give them, whom they reach, what becomes of them, on either database."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_commands_world import answer, device, give, show, word
from fleet_world import NOW, Machine, Told, enrol_directly, health, word_of
from msgspec.structs import replace

from fleet.command_results import KEPT_REPORTS
from fleet.device_commands import KEPT_FINISHED, Order, expire_commands, give_commands
from fleet.housekeeping import Housekeeping
from protocol.limits import MAX_OUTSTANDING
from protocol.messages.commands import CommandResult
from protocol.messages.envelope import CLOUD_EVENT, encode
from protocol.messages.kinds import CommandAction, CommandStatus, Kind
from service.roles import Role

__all__ = ["device", "fleet", "machine"]  # the fixtures

MANY = "/v1/devices:command"


def test_a_command_waits_for_its_device_and_ends_with_its_word(fleet: Fleet, device: Machine) -> None:
    given = give(fleet, device.name)
    assert given.status_code == 201
    number = given.json()["number"]
    assert (given.json()["status"], given.json()["asked_by"]) == ("WAITING", "operator:a-operator")
    (command,) = word(fleet, device.name).outstanding
    assert (command.number, command.action, word(fleet, device.name).counter) == (
        number,
        "recommission",
        number,
    )
    assert answer(fleet, device, number, "IN_PROGRESS", reason="gathering").commanded == {device.name}
    assert show(fleet, device.name, number)["status"] == "IN_PROGRESS"
    assert fleet.call("GET", f"/v1/devices/{device.name}").json()["outstanding_commands"] == 1
    answer(fleet, device, number, "DONE", reason="a scale of 120 windows")
    counted = 'fedge_fleet_commands_total{action="recommission",status="WAITING"}'
    assert counted in fleet.call("GET", "/metrics").text
    assert word(fleet, device.name).outstanding == ()
    for late in ("IN_PROGRESS", "REFUSED", "FAILED"):
        answer(fleet, device, number, late)
    assert show(fleet, device.name, number)["status"] == "DONE", "its first final word is its last"
    assert fleet.actions(device.name) == ["command_given"]


def test_one_of_a_kind_is_outstanding_so_that_a_device_away_for_weeks_finds_each_thing_once(
    fleet: Fleet, device: Machine
) -> None:
    first = give(fleet, device.name).json()["number"]
    is_problem(give(fleet, device.name), 409, str(first), "has not ended")
    for action in ("diagnose", "reactivate", "retry-parked"):
        assert give(fleet, device.name, action).status_code == 201
    path = f"/v1/devices/{device.name}/normal"
    for until_s in (NOW - 5, NOW - 9):
        assert fleet.call("POST", path, Role.OPERATOR, json={"until_s": until_s}).status_code == 200
    outstanding = word(fleet, device.name).outstanding
    assert {command.action for command in outstanding} == set(CommandAction)
    assert len(outstanding) == len(CommandAction) <= MAX_OUTSTANDING
    (accept,) = [command for command in outstanding if command.action == "accept-as-normal"]
    assert accept.arguments == {"until_s": NOW - 5}, "no earlier word is unsaid"
    listed = fleet.call("GET", f"/v1/devices/{device.name}/commands?limit=2").json()
    rest = fleet.call("GET", f"/v1/devices/{device.name}/commands?after={listed['next_cursor']}").json()
    numbers = [one["number"] for one in listed["items"] + rest["items"]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 6


def test_the_same_key_is_the_same_command_once_whoever_repeats_it(fleet: Fleet, device: Machine) -> None:
    first = give(fleet, device.name, key="k")
    again = give(fleet, device.name, key="k")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["number"] == first.json()["number"]
    answer(fleet, device, first.json()["number"], "DONE")
    assert give(fleet, device.name, key="k").json()["status"] == "DONE", "also when it is over"
    is_problem(give(fleet, device.name, "diagnose", key="k"), 409, "Idempotency-Key")
    many = {"query": f"id=={device.name}", "action": "recommission"}
    headers = {"Idempotency-Key": "k"}
    before = counted_as_waiting(fleet)
    given = fleet.call("POST", MANY, Role.OPERATOR, json=many, headers=headers).json()
    assert given["commands"] == {device.name: first.json()["number"]}
    assert counted_as_waiting(fleet) == before, "what is said again is counted once"


def counted_as_waiting(fleet: Fleet) -> list[str]:
    lines = fleet.call("GET", "/metrics").text.splitlines()
    return [one for one in lines if one.startswith("fedge_fleet_commands_total") and "WAITING" in one]


def test_only_operators_command_and_only_what_is_on_the_list(fleet: Fleet, device: Machine) -> None:
    path = f"/v1/devices/{device.name}/commands"
    for role in (Role.VIEWER, Role.PUBLISHER):
        is_problem(fleet.call("POST", path, role, json={"action": "diagnose"}), 403, "needs operator")
        is_problem(fleet.call("PUT", f"/v1/devices/{device.name}/settings", role, json={"settings": {}}), 403)
        is_problem(fleet.call("GET", f"{path}/1/report", role), 403)
    is_problem(fleet.call("POST", path, device.token(fleet.now()), json={"action": "diagnose"}), 403)
    is_problem(give(fleet, "nobody"), 404, "nobody")
    is_problem(give(fleet, device.name, "dance"), 422, "action")
    is_problem(give(fleet, device.name, "accept-as-normal"), 422, "action")
    is_problem(give(fleet, device.name, "diagnose", afresh=True), 422, "afresh goes with recommission")
    is_problem(give(fleet, device.name, expires_in_s=1), 422, "expires_in_s")
    is_problem(fleet.call("GET", f"{path}/7"), 404, "no command 7")
    fleet.call("POST", f"/v1/devices/{device.name}:revoke", Role.ADMIN, json={"confirm": device.name})
    is_problem(give(fleet, device.name), 409, "revoked")


def test_a_query_is_asked_dry_first_and_names_who_is_held_back(fleet: Fleet, machine: Machine) -> None:
    machines = [Machine(name=f"{machine.name}-{n}") for n in range(3)]
    enrol_directly(fleet.database, *machines)
    taken = give(fleet, machines[1].name).json()["number"]
    wanted = {"query": f"id=={machine.name}-*", "action": "recommission", "dry_run": True}
    dry = fleet.call("POST", MANY, Role.OPERATOR, json=wanted).json()
    assert list(dry["commands"]) == [machines[0].name, machines[2].name]
    assert list(dry["held_back"]) == [machines[1].name]
    assert str(taken) in dry["held_back"][machines[1].name]
    assert fleet.call("GET", f"/v1/devices/{machines[0].name}/commands").json()["items"] == []
    done = fleet.call("POST", MANY, Role.OPERATOR, json=wanted | {"dry_run": False}).json()
    assert list(done["commands"]) == list(dry["commands"])
    assert all(word(fleet, name).outstanding[0].number == number for name, number in done["commands"].items())
    is_problem(fleet.call("POST", MANY, Role.OPERATOR, json=wanted | {"query": " "}), 422, "query")


def test_what_is_taken_back_is_gone_unless_the_device_had_begun_it(fleet: Fleet, device: Machine) -> None:
    number = give(fleet, device.name).json()["number"]
    path = f"/v1/devices/{device.name}/commands/{number}:cancel"
    assert fleet.call("POST", path, Role.OPERATOR).json()["status"] == "CANCELED"
    assert word(fleet, device.name).outstanding == ()
    assert word(fleet, device.name).counter > number, "an older retained word is refused by the device"
    is_problem(fleet.call("POST", path, Role.OPERATOR), 409, "CANCELED")
    answer(fleet, device, number, "REFUSED", code="stale")
    assert show(fleet, device.name, number)["status"] == "CANCELED"
    answer(fleet, device, number, "DONE")
    assert show(fleet, device.name, number)["status"] == "DONE", "what was done was done"
    assert fleet.actions(device.name) == ["command_given", "command_canceled"]


def test_a_command_nobody_answers_expires_and_its_device_is_told(fleet: Fleet, device: Machine) -> None:
    number = give(fleet, device.name, expires_in_s=60).json()["number"]
    told, clock = Told(), [fleet.now()]
    keeper = Housekeeping(
        fleet.database,
        offline_after_s=1e9,
        now=lambda: clock[0],
        publisher=told,
    )
    keeper.tidy()
    assert (device.name, Kind.COMMANDS) not in told.announced
    clock[0] += 61
    keeper.tidy()
    assert (device.name, Kind.COMMANDS) in told.announced
    assert show(fleet, device.name, number)["status"] == "EXPIRED"
    assert word(fleet, device.name).outstanding == ()
    with fleet.database.write() as session:
        assert expire_commands(session, clock[0]) == []
    assert give(fleet, device.name).status_code == 201


def test_a_bundle_comes_whole_to_operators_alone_and_the_last_few_are_kept(
    fleet: Fleet, device: Machine
) -> None:
    numbers = []
    for n in range(KEPT_REPORTS + 2):
        number = give(fleet, device.name, "diagnose").json()["number"]
        answer(fleet, device, number, "DONE", report=base64.b64encode(f"bundle {n}".encode()).decode())
        numbers.append(number)
    path = f"/v1/devices/{device.name}/commands"
    last = fleet.call("GET", f"{path}/{numbers[-1]}/report", Role.OPERATOR)
    assert (last.content, last.headers["content-type"]) == (b"bundle 6", "application/gzip")
    kept = [one["number"] for one in fleet.call("GET", path).json()["items"] if one["report_bytes"]]
    assert kept == numbers[: -KEPT_REPORTS - 1 : -1]
    is_problem(fleet.call("GET", f"{path}/{numbers[0]}/report", Role.OPERATOR), 404, "let go")
    number = give(fleet, device.name, "diagnose").json()["number"]
    answer(fleet, device, number, "DONE", report="no base64!")
    assert "not base64" in show(fleet, device.name, number)["reason"]


def test_a_device_of_many_commands_keeps_the_last_hundred(fleet: Fleet, device: Machine) -> None:
    with fleet.database.write() as session:
        for until_s in range(KEPT_FINISHED + 5):
            order = Order(
                action=CommandAction.ACCEPT_AS_NORMAL, expires_at=NOW, arguments={"until_s": until_s}
            )
            give_commands(session, [device.name], order, actor="a", now=NOW)
    listed = fleet.call("GET", f"/v1/devices/{device.name}/commands?limit=1000").json()["items"]
    assert len(listed) == KEPT_FINISHED + 1
    assert listed[0]["status"] == "WAITING"


def test_words_about_no_command_change_nothing(fleet: Fleet, device: Machine) -> None:
    for status in CommandStatus:
        answer(fleet, device, 4711, status)
    assert fleet.call("GET", f"/v1/devices/{device.name}/commands").json()["items"] == []
    number = give(fleet, device.name).json()["number"]
    for status in ("WAITING", "CANCELED", "SUPERSEDED"):
        answer(fleet, device, number, status)
    assert show(fleet, device.name, number)["status"] == "WAITING", "no device says so"


def test_a_device_without_mqtt_gets_the_same_word_and_little_when_it_has_it(
    fleet: Fleet, device: Machine
) -> None:
    token = device.token(fleet.now())
    assert fleet.call("GET", "/v1/device/commands", token).status_code == 204
    give(fleet, device.name)
    got = fleet.call("GET", "/v1/device/commands", token)
    assert word_of(got) == word(fleet, device.name)
    known = {"If-None-Match": got.headers["etag"]}
    assert fleet.call("GET", "/v1/device/commands", token, headers=known).status_code == 304
    number = give(fleet, device.name, "diagnose").json()["number"]
    assert fleet.call("GET", "/v1/device/commands", token, headers=known).status_code == 200
    done = CommandResult(number=number, action="diagnose", status=CommandStatus.DONE, report="YnVuZGxl")
    message = encode(device.event(done))
    for _ in range(2):
        assert tell(fleet, token, message).status_code == 204
    assert (show(fleet, device.name, number)["status"], show(fleet, device.name, number)["report_bytes"]) == (
        "DONE",
        6,
    )
    is_problem(tell(fleet, Role.ADMIN, message), 403)


def tell(fleet: Fleet, token: str, message: bytes, kind: str = CLOUD_EVENT) -> Any:
    return fleet.call("POST", "/v1/device/results", token, content=message, headers={"Content-Type": kind})


def test_a_result_over_https_is_believed_by_its_seal(fleet: Fleet, device: Machine) -> None:
    other = Machine(name=f"other-{device.name}")
    enrol_directly(fleet.database, other)
    token, number = device.token(fleet.now()), give(fleet, device.name, "diagnose").json()["number"]
    done = CommandResult(number=number, action="diagnose", status=CommandStatus.DONE)
    sealed = device.event(done)
    bare = msgspec.json.encode(done)
    is_problem(tell(fleet, token, bare, "application/json"), 422, "older than the fleet", "install")
    is_problem(tell(fleet, token, bare), 422, "not a Fedge message")
    is_problem(tell(fleet, token, encode(replace(sealed, seal=None))), 422, "not signed")
    is_problem(tell(fleet, token, encode(other.event(done))), 422, "not signed by whom it must come from")
    is_problem(tell(fleet, other.token(fleet.now()), encode(sealed)), 422, "not signed by whom")
    changed = replace(sealed, data=replace(done, status=CommandStatus.FAILED))
    is_problem(tell(fleet, token, encode(changed)), 422, "not signed by whom")
    is_problem(tell(fleet, token, encode(device.event(health()))), 422, "arrived on the topic")
    assert show(fleet, device.name, number)["status"] == "WAITING"
    assert tell(fleet, token, encode(sealed)).status_code == 204
    assert show(fleet, device.name, number)["status"] == "DONE"

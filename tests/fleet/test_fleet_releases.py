"""Releases over the HTTP API: published once, refused when damaged, and downloaded in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import Machine, bundle, enrol_directly

from fleet.storage.device_tables import Device, DeviceState
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


def test_a_release_is_published_once_and_never_changes(fleet: Fleet) -> None:
    content = bundle(10)
    created = fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content)
    assert created.status_code == 201, created.text
    assert created.json()["id"] == "motor/10"
    assert created.json()["provenance"]["trigger"] == "initial"
    again = fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content)
    assert (again.status_code, again.json()) == (200, created.json())
    is_problem(
        fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(10, content=b"other")),
        409,
        "motor/10",
        "new version",
    )  # fmt: skip - one line of words
    assert fleet.call("GET", "/v1/releases/motor/10").json() == created.json()


def test_a_bundle_with_any_flipped_byte_is_refused(fleet: Fleet) -> None:
    content = bundle(11)
    for position in [0, 9, 20, len(content) // 2, len(content) - 80, len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 1
        is_problem(fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bytes(damaged)), 422)
    is_problem(fleet.call("GET", "/v1/releases/motor/11"), 404, "motor/11")


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (bundle(12, key=Ed25519PrivateKey.generate()), 422, "not trusted"),
        (bundle(12)[:-1], 422, "fetch it again"),
        (bundle(12) + b"x", 422, "follow the last file"),
        (b"", 422, "not a Fedge model bundle"),
        (bundle(12, family="a/b"), 422, "$.family"),
        (bundle(10**9), 422, "<= 999999999"),
        (bundle(12, changed={"parameters.f32": b"\0" * 8}), 422, "wrong layout"),
        (bundle(12, changed={"parameters.f32": b"\xff" * 88}), 422, "not finite"),
        (bundle(12, changed={"training.tflite": b"another graph"}), 422, "another layout"),
        (bundle(12, changed={"notes.txt": b"hello"}), 422, "notes.txt"),
        (b"x" * 100_001, 413, "100000"),
    ],
)
def test_a_wrong_bundle_is_refused(fleet: Fleet, content: bytes, status: int, words: str) -> None:
    is_problem(fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content), status, words)
    assert not list((fleet.folder / "data/releases").glob(".*"))


def test_nobody_takes_a_family_to_the_end_of_all_numbers(fleet: Fleet) -> None:
    def publish(version: int) -> Any:
        return fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(version))

    assert publish(20).status_code in {200, 201}
    is_problem(publish(999_999_999), 422, "999999999 is more than 1000 beyond 20", "the next is 21")
    assert [publish(version).status_code for version in (1021, 1020, 19, 2020)] == [422, 201, 201, 201]


def test_an_oversized_upload_without_a_length_is_cut_off(fleet: Fleet) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    is_problem(fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=endless()), 413, "100000")


def test_a_download_resumes_where_it_broke_off(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    content = bundle(13, content=bytes(range(256)) * 100)
    fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=content)
    path, token = "/v1/releases/motor/13/bundle", machine.token(fleet.now())
    whole = fleet.call("GET", path, token)
    assert (whole.status_code, whole.content) == (200, content)
    size, etag = len(content), whole.headers["etag"]

    def part(value: str, **headers: str) -> Any:
        return fleet.call("GET", path, token, headers={"Range": value} | headers)

    rest = part("bytes=1000-", **{"If-Range": etag})
    assert (rest.status_code, rest.content) == (206, content[1000:])
    assert rest.headers["content-range"] == f"bytes 1000-{size - 1}/{size}"
    assert part("bytes=5-9").content == content[5:10]
    assert part("bytes=-7").content == content[-7:]
    assert part(f"bytes=5-{size * 2}").content == content[5:]
    assert part("bytes=1000-", **{"If-Range": '"old"'}).content == content
    assert part("bytes=0-1,5-6").content == content
    beyond = part(f"bytes={size}-")
    is_problem(beyond, 416, str(size))
    assert beyond.headers["content-range"] == f"bytes */{size}"
    assert fleet.call("GET", path, token, headers={"If-None-Match": etag}).status_code == 304


def test_a_bundle_missing_on_disk_is_told_and_not_served_half(fleet: Fleet) -> None:
    record = fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(14)).json()
    path = fleet.folder / "data/releases" / f"{record['sha256']}.fedge"
    path.unlink()
    answer = fleet.call("GET", "/v1/releases/motor/14/bundle")
    is_problem(answer, 500, "missing", "publish its bytes again")
    assert fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(14)).status_code == 200
    assert fleet.call("GET", "/v1/releases/motor/14/bundle").content == bundle(14)


def test_a_range_of_more_digits_than_a_number_has_means_the_whole_bundle(fleet: Fleet) -> None:
    fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(15))
    headers = {"Range": f"bytes={'9' * 5000}-"}
    answer = fleet.call("GET", "/v1/releases/motor/15/bundle", headers=headers)
    assert (answer.status_code, answer.content) == (200, bundle(15))


def test_paging_through_releases_gives_each_once_in_order(fleet: Fleet) -> None:
    for version in (1, 2, 3):
        fleet.call("POST", "/v1/releases", Role.PUBLISHER, content=bundle(version, family="fan"))
    first = fleet.call("GET", "/v1/releases?family=fan&limit=2").json()
    second = fleet.call("GET", f"/v1/releases?family=fan&limit=2&after={first['next_cursor']}").json()
    assert [r["version"] for r in first["items"] + second["items"]] == [1, 2, 3]


def make_family(fleet: Fleet, family: str, *devices: str) -> None:
    """Enrolled devices and releases 1 to 3 of a family that no other test asks for."""
    enrol_directly(fleet.database, *(Machine(name=name) for name in devices))
    with fleet.database.write() as session:
        for name in devices:
            session.get_one(Device, name).family = family
    for version in (1, 2, 3):
        content = bundle(version, family=family)
        fleet.publish(content)


def roll_out(fleet: Fleet, family: str, version: int, *verbs: str, **changes: Any) -> Any:
    """Create a rollout to every device of a family and say some verbs; the last answer."""
    plan = {"name": "all", "release": f"{family}/{version}", "groups": [{"percentage": 100}]} | changes
    answer = fleet.call("POST", "/v1/rollouts", Role.OPERATOR, json=plan)
    for verb in verbs:
        answer = fleet.call("POST", f"/v1/rollouts/{answer.json()['id']}:{verb}", Role.OPERATOR)
    return answer


def in_force(fleet: Fleet, family: str) -> dict[int, int]:
    listed = fleet.call("GET", f"/v1/releases?family={family}").json()["items"]
    return {item["version"]: item["desired_devices"] for item in listed}


def withdraw(fleet: Fleet, family: str, version: int, role: Role = Role.OPERATOR) -> Any:
    path = f"/v1/releases/{family}/{version}:withdraw"
    return fleet.call(
        "POST", path, role, json={"reason": "alarms on every cold start", "confirm": f"{family}/{version}"}
    )


def test_a_release_says_how_many_devices_shall_run_it_also_after_an_undo(fleet: Fleet) -> None:
    make_family(fleet, "counted", "c-1", "c-2", "c-3", "c-4")
    assert in_force(fleet, "counted") == {1: 0, 2: 0, 3: 0}
    with fleet.database.write() as session:
        for name, version in (("c-1", 1), ("c-2", 1), ("c-3", 3), ("c-4", 1)):
            session.get_one(Device, name).release = f"counted/{version}"
        session.get_one(Device, "c-4").state = DeviceState.REVOKED
    # nobody was told anything: a device keeps what it has
    assert in_force(fleet, "counted") == {1: 2, 2: 0, 3: 1}
    roll_out(fleet, "counted", 2, "start", target_query="id=in=(c-1,c-3)", rollback_to="counted/1")
    assert in_force(fleet, "counted") == {1: 1, 2: 2, 3: 0}
    assert fleet.call("GET", "/v1/releases/counted/2").json()["desired_devices"] == 2
    running = fleet.call("GET", "/v1/rollouts?state=RUNNING").json()["items"][0]["id"]
    fleet.call("POST", f"/v1/rollouts/{running}:rollback", Role.OPERATOR, json={"confirm": running})
    assert in_force(fleet, "counted") == {1: 3, 2: 0, 3: 0}
    assert fleet.call("GET", "/v1/releases/counted/2").json()["withdrawn_at"] is not None


def test_a_person_withdraws_a_release_for_good_and_nobody_rolls_it_out_without_force(fleet: Fleet) -> None:
    make_family(fleet, "taken", "t-1", "t-2")
    waiting = roll_out(fleet, "taken", 2).json()["id"]
    for role in (Role.VIEWER, Role.PUBLISHER):
        is_problem(withdraw(fleet, "taken", 2, role), 403, "needs operator")
    is_problem(withdraw(fleet, "taken", 9), 404, "taken/9")
    is_problem(fleet.call("POST", "/v1/releases/taken/2:withdraw", Role.OPERATOR, json={"reason": ""}), 422)
    unconfirmed = {"reason": "alarms", "confirm": "taken/3"}
    is_problem(
        fleet.call("POST", "/v1/releases/taken/2:withdraw", Role.OPERATOR, json=unconfirmed),
        422,
        'confirm is \'taken/3\'; to go on send {"confirm": "taken/2"}',
    )
    first = withdraw(fleet, "taken", 2)
    assert first.status_code == 200, first.text
    assert first.json()["withdrawn_reason"] == "alarms on every cold start"
    assert withdraw(fleet, "taken", 2).json() == first.json()
    lines = fleet.call("GET", "/v1/audit?subject=taken/2&action=release_withdrawn", Role.ADMIN).json()[
        "items"
    ]
    assert [(line["actor"], line["detail"]) for line in lines] == [
        ("operator:a-operator", {"reason": "alarms on every cold start"})
    ]
    # also a rollout that was created before is not begun
    late = fleet.call("POST", f"/v1/rollouts/{waiting}:start", Role.OPERATOR)
    is_problem(late, 409, "taken/2 was withdrawn (alarms on every cold start)")
    is_problem(roll_out(fleet, "taken", 2), 409, "must set force")
    forced = roll_out(fleet, "taken", 2, force=True).json()
    assert forced["state"] == "WAITING_FOR_APPROVAL", "one person may not undo what another withdrew"
    for verb, role in (("approve", Role.ADMIN), ("start", Role.OPERATOR)):
        done = fleet.call("POST", f"/v1/rollouts/{forced['id']}:{verb}", role).json()
    assert done["state"] == "RUNNING"


def test_a_release_that_is_being_rolled_out_is_rolled_back_and_not_withdrawn(fleet: Fleet) -> None:
    make_family(fleet, "busy", "b-1")
    rollout = roll_out(fleet, "busy", 2, "start").json()["id"]
    is_problem(withdraw(fleet, "busy", 2), 409, rollout, "roll it back")
    assert fleet.call("GET", "/v1/releases/busy/2").json()["withdrawn_at"] is None
    assert withdraw(fleet, "busy", 3).status_code == 200
    fleet.call("POST", f"/v1/rollouts/{rollout}:cancel", Role.OPERATOR)
    assert withdraw(fleet, "busy", 2).status_code == 200

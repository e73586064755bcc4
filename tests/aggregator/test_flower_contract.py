"""Fails loudly when Flower changes underneath: every name and behaviour that both adapters rely on.

Moving to another Flower: change the version in both `flower_internals`, in the files that
`test_every_place_that_installs_flower_names_this_version` lists and in constraints.txt, install it, and make this file
pass; then the tests named ``*flower*``. Names are imported when the adapters are (a missing one says so); what this file adds is
signatures, routes, wire names and the private attributes that the adapters write.
"""

from __future__ import annotations

import inspect
import re
from importlib import metadata
from pathlib import Path

import pytest

from aggregator.flower import flower_internals as server_side
from edge_agent.learner import flower_internals as device_side

ROOT = Path(__file__).parents[2]


def test_both_sides_are_written_for_the_installed_version() -> None:
    assert server_side.FLOWER_VERSION == device_side.FLOWER_VERSION == metadata.version("flwr")


@pytest.mark.parametrize(
    "file",
    [
        "docs/agent.md",
        "docs/decisions/0002-flower-on-the-device-without-its-server.md",
        "pyproject.toml",
        "constraints.txt",
        "tests/edge_environment/edge_packages.py",
        "tests/aggregator/test_stock_flower.py",
    ],
)
def test_every_place_that_installs_flower_names_this_version(file: str) -> None:
    named = re.findall(r"flwr==([0-9.]*[0-9])", (ROOT / file).read_text(encoding="utf-8"))
    assert set(named) == {server_side.FLOWER_VERSION}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("create_node", ["owner_aid", "owner_name", "public_key", "heartbeat_interval"]),
        ("activate_node", ["node_id", "heartbeat_interval"]),
        ("deactivate_node", ["node_id"]),
        ("acknowledge_node_heartbeat", ["node_id", "heartbeat_interval"]),
        ("get_node_id_by_public_key", ["public_key"]),
        ("get_node_info", ["node_ids", "owner_aids", "statuses"]),
        ("claim_task", ["task_id"]),
        ("activate_task", ["task_id"]),
        ("finish_task", ["task_id", "sub_status", "details"]),
        ("acknowledge_task_heartbeat", ["task_id"]),
        ("cleanup_run", ["run_id"]),
        ("get_run_status", ["run_ids"]),
    ],
)
def test_link_state_still_takes_what_the_grid_gives(method: str, parameters: list[str]) -> None:
    found = list(inspect.signature(getattr(server_side.LinkState, method)).parameters)[1:]
    assert found[: len(parameters)] == parameters


def test_message_protobuf_still_has_room_for_the_content_itself() -> None:
    proto = server_side.MessageProto()
    proto.metadata.message_type = "query"
    proto.content.SetInParent()
    assert proto.HasField("content")
    assert server_side.message_from_proto(proto).has_content()


@pytest.fixture
def message() -> server_side.Message:
    identity = server_side.TaskIdentity
    identity.run_id, identity.node_id, identity.task_id = 1, 1, 1
    content = server_side.RecordDict({"question": server_side.ConfigRecord({"json": "{}"})})
    return server_side.Message(content, 5, "query.x", ttl=60.0)


def test_addressed_message_says_so_on_the_wire_under_the_id_of_its_content(
    message: server_side.Message,
) -> None:
    run = server_side.Run.create_empty(run_id=77)
    run.primary_task_id = 78
    server_side.address_message(message, run)
    metadata = server_side.message_to_proto(message).metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.dst_node_id) == (
        77,
        server_side.SUPERLINK_NODE_ID,
        5,
    )
    assert message.metadata.src_task_id == 78
    assert metadata.message_id == message.object_id


def test_devices_answer_has_the_id_of_its_content_on_the_wire(message: server_side.Message) -> None:
    answer = device_side.Message(device_side.RecordDict(), reply_to=message)
    device_side.set_message_id(answer)
    assert device_side.message_to_proto(answer).metadata.message_id == answer.object_id != ""


def test_flower_is_imported_and_written_into_in_the_adapters_alone() -> None:
    offenders = [
        str(path.relative_to(ROOT))
        for package in ("aggregator", "edge_agent", "fleet", "models", "protocol")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "flower_internals.py"
        and re.search(r"import flwr|from flwr|__dict__", path.read_text(encoding="utf-8"))
    ]
    assert offenders == []

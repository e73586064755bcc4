"""Fails loudly when Flower changes underneath: every name and behaviour that the adapters rely on."""

from __future__ import annotations

import inspect
from importlib import metadata
from pathlib import Path

import pytest

from aggregator.flower import upstream as server_side
from edge_agent.learner import upstream as device_side


def test_both_sides_are_written_for_the_installed_version() -> None:
    assert server_side.FLOWER_VERSION == device_side.FLOWER_VERSION == metadata.version("flwr")


def test_fleet_router_has_exactly_the_known_routes() -> None:
    assert sorted(route.path for route in server_side.fleet_router.routes) == [
        f"/v1/fleet/{name}"
        for name in (
            "activate-node",
            "confirm-message-received",
            "deactivate-node",
            "get-fab",
            "get-run",
            "pull-messages",
            "pull-object",
            "push-messages",
            "push-object",
            "register-node",
            "send-node-heartbeat",
            "unregister-node",
        )
    ]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("create_node", ["owner_aid", "owner_name", "public_key", "heartbeat_interval"]),
        ("deactivate_node", ["node_id"]),
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


def test_wire_names_are_the_ones_that_were_read_in_the_source() -> None:
    assert device_side.PROTOBUF_MEDIA_TYPE == "application/protobuf"
    assert device_side.FLEET_HTTP_PUBLIC_KEY_HEADER == "flwr-public-key"
    assert device_side.FLEET_HTTP_SIGNATURE_HEADER == "flwr-signature"
    assert device_side.TIMESTAMP_HEADER == "flwr-timestamp"


def test_message_protobuf_still_has_room_for_the_content_itself() -> None:
    proto = server_side.PushMessagesRequest().messages_list.add()
    proto.metadata.message_type = "query"
    proto.content.SetInParent()
    assert proto.HasField("content")
    assert server_side.message_from_proto(proto).has_content()


def test_registration_over_the_network_stays_forbidden() -> None:
    from flwr.superlink.servicer.fleet import fleet_handlers  # only to read what the guard relies on

    assert "FLEET_SUPERNODE_REGISTRATION_DISABLED" in inspect.getsource(fleet_handlers.register_node)


def test_flower_is_imported_in_the_adapters_alone() -> None:
    root = Path(__file__).parents[2]
    offenders = [
        str(path.relative_to(root))
        for package in ("aggregator", "edge_agent", "fleet", "models", "protocol")
        for path in (root / package).rglob("*.py")
        if path.name != "upstream.py" and ("import flwr" in (text := path.read_text()) or "from flwr" in text)
    ]
    assert offenders == []

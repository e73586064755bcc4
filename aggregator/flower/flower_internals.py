"""Everything the aggregator takes from inside Flower 1.42.0, in one place.

Flower promises to keep what its ``__all__`` lists name; a server without its Control API, Runtime API and
subprocesses needs more. All of that is imported here and nowhere else in the aggregator, so an
upgrade shows in one module and in `tests/aggregator/test_flower_contract.py`.

Importing this module has side effects by necessity: Flower reads its environment when it is imported. Telemetry and the
update check (each phones home and may wait seconds for an answer) are switched off, and its console log handler is taken
away, so that records go where the application's own go, from level ERROR up.

Source: Flower 1.42.0, https://github.com/adap/flower (Apache-2.0).
"""

from __future__ import annotations

import logging
import os
from importlib import metadata
from typing import Final

from aggregator.errors import FlowerVersionError

FLOWER_VERSION: Final = "1.42.0"
"""The one version this adapter was written and tested for."""

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
# Flower's home holds command-line profiles and caches. The embedded server uses neither, and must not find a person's.
os.environ["FLWR_HOME"] = "/nonexistent/fedge-flower"

if (_installed := metadata.version("flwr")) != FLOWER_VERSION:
    raise FlowerVersionError(
        f"Flower {_installed} is installed; this build works with {FLOWER_VERSION} exactly: pip install flwr=={FLOWER_VERSION}"
    )

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict
    from flwr.app.message import remove_content_from_message
    from flwr.common.constant import (
        NOOP_ACCOUNT_NAME,
        NOOP_FLWR_AID,
        SUPERLINK_NODE_ID,
        ErrorCode,
        Status,
        SubStatus,
    )
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.fleet_pb2 import (
        ActivateNodeRequest,
        PullMessagesRequest,
        PullMessagesResponse,
        PushMessagesRequest,
        PushMessagesResponse,
    )
    from flwr.proto.message_pb2 import (
        ConfirmMessageReceivedRequest,
        ConfirmMessageReceivedResponse,
        PullObjectRequest,
        PullObjectResponse,
        PushObjectRequest,
        PushObjectResponse,
    )
    from flwr.server.superlink.linkstate import LinkState, LinkStateFactory, SqlLinkState
    from flwr.serverapp import Grid
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, NOOP_FEDERATION_ID, TaskType
    from flwr.supercore.error import http_error_translator
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        iterate_object_tree,
        no_object_id_recompute,
    )
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
    from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories
    from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
    from flwr.superlink.routers.fleet.router import router as fleet_router
except ImportError as error:
    raise FlowerVersionError(
        f"Flower {FLOWER_VERSION} as installed lacks what the server needs ({error}): pip install --force-reinstall flwr=={FLOWER_VERSION}"
    ) from error

__all__ = [
    "FLEET_HTTP_PUBLIC_KEY_HEADER",
    "FLOWER_VERSION",
    "NOOP_ACCOUNT_NAME",
    "NOOP_FEDERATION_ID",
    "NOOP_FLWR_AID",
    "SUPERLINK_NODE_ID",
    "ActivateNodeRequest",
    "Array",
    "ArrayRecord",
    "ConfigRecord",
    "ConfirmMessageReceivedRequest",
    "ConfirmMessageReceivedResponse",
    "Error",
    "ErrorCode",
    "Grid",
    "LinkState",
    "LinkStateFactory",
    "Message",
    "Metadata",
    "MetricRecord",
    "NodeAuthMiddleware",
    "ProtobufTranslationMiddleware",
    "PullMessagesRequest",
    "PullMessagesResponse",
    "PullObjectRequest",
    "PullObjectResponse",
    "PushMessagesRequest",
    "PushMessagesResponse",
    "PushObjectRequest",
    "PushObjectResponse",
    "RecordDict",
    "Run",
    "SqlLinkState",
    "Status",
    "SubStatus",
    "TaskIdentity",
    "TaskType",
    "address_message",
    "fleet_router",
    "get_all_nested_objects",
    "get_federation_manager",
    "get_object_tree",
    "get_objectstore_linkstate_factories",
    "http_error_translator",
    "inflate_object_from_contents",
    "iterate_object_tree",
    "message_from_proto",
    "message_to_proto",
    "no_object_id_recompute",
    "remove_content_from_message",
    "replace_metadata",
]

_logger = logging.getLogger("flwr")
_logger.handlers.clear()
_logger.propagate = True
_logger.setLevel(logging.ERROR)


def address_message(message: Message, run: Run) -> None:
    """Make `message` the run's own and give it its id; Flower's setters refuse both outside of its own processes."""
    private = message.metadata.__dict__
    # Identity first: the message's id is a hash over it.
    private.update(_run_id=run.run_id, _src_node_id=SUPERLINK_NODE_ID, _src_task_id=run.primary_task_id)
    private["_message_id"] = message.object_id


def replace_metadata(message: Message, metadata: Metadata) -> Message:
    """The same message under `metadata` that were checked, in place of what its sender wrote into the object."""
    message.__dict__["_metadata"] = metadata
    return message

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
    from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
    from flwr.common.constant import (
        NOOP_ACCOUNT_NAME,
        NOOP_FLWR_AID,
        SUPERLINK_NODE_ID,
        ErrorCode,
        Status,
        SubStatus,
    )
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as MessageProto
    from flwr.server.superlink.linkstate import LinkState, SqlLinkState
    from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
    from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories
except ImportError as error:
    raise FlowerVersionError(
        f"Flower {FLOWER_VERSION} as installed lacks what the server needs ({error}): pip install --force-reinstall flwr=={FLOWER_VERSION}"
    ) from error

__all__ = [
    "FLOWER_VERSION",
    "NOOP_ACCOUNT_NAME",
    "NOOP_FEDERATION_ID",
    "NOOP_FLWR_AID",
    "SUPERLINK_NODE_ID",
    "Array",
    "ArrayRecord",
    "ConfigRecord",
    "Error",
    "ErrorCode",
    "LinkState",
    "Message",
    "MessageProto",
    "MetricRecord",
    "RecordDict",
    "Run",
    "SqlLinkState",
    "Status",
    "SubStatus",
    "TaskIdentity",
    "TaskType",
    "address_message",
    "get_federation_manager",
    "get_objectstore_linkstate_factories",
    "message_from_proto",
    "message_to_proto",
    "no_object_id_recompute",
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

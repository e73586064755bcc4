"""Everything the device takes from inside Flower 1.42.0, in one place; and what it must not import.

Flower's own device connection (`flwr.supernode.fleet_http_connection`) needs FastAPI for the name of one status
code, and its package is installed here without its server's dependencies. So the wire is spoken by our `flower_client` over Flower's
protobuf messages, and this module imports the messages and `ClientApp`, which load
without SQLAlchemy, FastAPI, pydantic, starlette, uvicorn and alembic. See docs/decisions/0002.

Importing has side effects by necessity: telemetry and the update check are switched off before Flower reads its environment, and its
console handler is taken away.

Source: Flower 1.42.0, https://github.com/adap/flower (Apache-2.0).
"""

from __future__ import annotations

import logging
import os
from typing import Final

from edge_agent.errors import LearnerError

FLOWER_VERSION: Final = "1.42.0"
"""The one version this adapter was written and tested for."""

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["FLWR_HOME"] = (
    "/nonexistent/fedge-flower"  # a service user may have no home, and nothing of it is used
)

try:
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Error,
        Message,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.common.constant import ErrorCode
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as MessageProto
    from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
    from flwr.supercore.version import package_version
except ImportError as error:
    raise LearnerError(
        f"Flower as installed lacks what the learner needs ({error}): pip install --no-deps flwr=={FLOWER_VERSION}"
    ) from error

if package_version != FLOWER_VERSION:
    raise LearnerError(
        f"Flower {package_version} is installed; this build works with {FLOWER_VERSION} exactly: pip install --no-deps flwr=={FLOWER_VERSION}"
    )

__all__ = [
    "FLOWER_VERSION",
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "ErrorCode",
    "Message",
    "MessageProto",
    "MetricRecord",
    "RecordDict",
    "message_from_proto",
    "message_to_proto",
    "no_object_id_recompute",
    "set_message_id",
]

_logger = logging.getLogger("flwr")
_logger.handlers.clear()
_logger.propagate = True
_logger.setLevel(logging.ERROR)


def set_message_id(message: Message) -> None:
    """Give `message` the id that Flower derives from its content; Flower's setter refuses outside of its own processes."""
    message.metadata.__dict__["_message_id"] = message.object_id

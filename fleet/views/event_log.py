"""What devices reported, in the order in which it was stored: for whoever carries it elsewhere and must miss nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["EventLogPage", "LoggedEvent", "LoggedKind"]


class LoggedKind(StrEnum):
    """What a device reported."""

    ANOMALY = "anomaly"
    ANOMALY_END = "anomaly_end"
    DRIFT = "drift"
    INSTALL = "install"


class LoggedEvent(BaseModel):
    """One report. `id` is the same however often it is read: device, boot and place in its stream; `data` what it said.

    `sent_at` is the device's clock, `received_at` ours.
    """

    kind: LoggedKind
    id: str
    device: str
    sent_at: float
    received_at: float
    data: dict[str, Any]


class EventLogPage(BaseModel):
    """Events, the oldest first; `next_cursor` is the place after them, and `more` says that there are others already."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "items": [
                    {
                        "kind": "anomaly",
                        "id": "press-7/b1/17",
                        "device": "press-7",
                        "sent_at": 1767225600.0,
                        "received_at": 1767225600.4,
                        "data": {"release": "motor/3", "score": 1.8, "threshold": 1.0},
                    }
                ],
                "next_cursor": "YTkwLmUwLmQwLmkw",
                "more": False,
            }
        }
    )
    items: list[LoggedEvent]
    next_cursor: str
    more: bool

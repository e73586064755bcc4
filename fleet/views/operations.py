"""How the service is, who changed what, and what could not be taken, as the API shows it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fleet.views.observations import RowView

__all__ = [
    "AuditView",
    "DeadLetterSummary",
    "DeadLetterView",
    "DeadLetterWithPayload",
    "DropView",
    "HeadView",
    "HealthView",
    "ReplayView",
]


class HealthView(BaseModel):
    """`status` is ok while the database answers, else away; a broker that is away does not make the API unwell.

    `is_storing` is false while the database takes nothing (full, read-only, locked): devices keep their events until it does.
    `leads`: of several replicas the one that runs rollouts and housekeeping. `database` says what is wrong, null while nothing is.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "status": "ok",
                "broker_connected": True,
                "is_storing": True,
                "leads": True,
                "database": None,
            }
        }
    )
    status: Literal["ok", "away"]
    broker_connected: bool
    is_storing: bool
    leads: bool
    database: str | None


class AuditView(RowView):
    """A line of the audit log; `previous` is the `sha256` of the line before it (`fleet.audit_chain`)."""

    at: float
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    previous: str
    sha256: str


class HeadView(BaseModel):
    """Where the audit log ends: its last line's id and digest. Kept elsewhere, it shows later whether an end was cut off."""

    model_config = ConfigDict(json_schema_extra={"example": {"id": 412, "sha256": "9f" * 32}})
    id: int
    sha256: str


class DeadLetterView(RowView):
    """A message on `topic` of `device` that could not be taken, for `reason`: `message` says it in words.

    It came `times` times, first and last at these Unix seconds. `boot_id` and `sequence` are what it says of itself, null
    where not even that can be read: then the device cannot be told that it may forget it. Of `size_bytes` beyond what any
    message may have only the beginning is kept.
    """

    device: str
    topic: str
    boot_id: str | None
    sequence: int | None
    reason: str
    message: str
    size_bytes: int
    times: int
    first_received: float
    last_received: float


class DeadLetterWithPayload(DeadLetterView):
    """A dead letter with what was sent, base64."""

    payload: str


class DeadLetterSummary(BaseModel):
    """How many letters wait, by reason and by device, and how many older ones made room since each device enrolled."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "letters": 3,
                "reasons": {"version": 2, "malformed": 1},
                "devices": {"press-7": 3},
                "dropped": 0,
            }
        }
    )
    letters: int
    reasons: dict[str, int]
    devices: dict[str, int]
    dropped: int


class ReplayView(BaseModel):
    """Ids: the messages of `stored` are on disk now, and their letters gone; `refused` stay. `more` have to be asked for."""

    stored: list[int]
    refused: list[int]
    more: bool


class DropView(BaseModel):
    """Ids of the letters that are gone. `more` have to be asked for."""

    dropped: list[int]
    more: bool

"""Commands as the API shows them, and who was told one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from protocol.messages.kinds import CommandStatus

__all__ = ["AcceptanceView", "CommandView", "CommandsGiven"]


class CommandView(BaseModel):
    """A command and what became of it; times are Unix seconds.

    `status`: WAITING and IN_PROGRESS are outstanding; DONE, FAILED, REFUSED (`code` says why in a word), EXPIRED and
    INTERRUPTED (the agent was stopped in the middle and does not begin it twice) are final, and so are CANCELED and
    SUPERSEDED. `report_bytes` is the size of what it fetched.
    """

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "example": {
                "device": "press-7",
                "number": 92000001,
                "action": "diagnose",
                "arguments": {},
                "status": "DONE",
                "code": "",
                "reason": "18211 bytes",
                "asked_by": "operator:eve",
                "asked_at": 1767225600.0,
                "expires_at": 1767830400.0,
                "changed_at": 1767225601.5,
                "report_bytes": 18211,
            }
        },
    )
    device: str
    number: int
    action: str
    arguments: dict[str, Any]
    status: CommandStatus
    code: str
    reason: str
    asked_by: str
    asked_at: float
    expires_at: float
    changed_at: float
    report_bytes: int | None


class CommandsGiven(BaseModel):
    """Who got the command (with `dry_run`: would get it), and who was left out and why.

    `commands` is device → number of the command there, 0 with `dry_run`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "action": "recommission",
                "dry_run": False,
                "commands": {"press-1": 92000001},
                "held_back": {"press-7": "command 91999990 (recommission) is IN_PROGRESS, and has not ended"},
            }
        }
    )
    action: str
    dry_run: bool
    commands: dict[str, int]
    held_back: dict[str, str]


class AcceptanceView(BaseModel):
    """Who is told (with `dry_run`: would be), and how many windows they last said are set aside.

    `held_back` is device → an anomaly of it that was judged a true alarm.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "until_s": 1767225600.0,
                "dry_run": True,
                "devices": ["press-1", "press-7"],
                "set_aside_windows": 214,
                "held_back": {"press-3": 4711},
            }
        }
    )
    until_s: float
    dry_run: bool
    devices: list[str]
    set_aside_windows: int
    held_back: dict[str, int]

"""What people ask of devices: commands, each with what became of it, and settings.

`DeviceCommands` is the fleet's word to one device and holds its counter; `CommandRecord` is one command of it. The two
make `protocol.messages.commands.Commands`, which `fleet.mqtt` publishes and a device may fetch over HTTPS.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["CommandRecord", "DeviceCommands"]


class DeviceCommands(Base):
    """The word to one device. `counter` only ever grows; `settings_counter` is its value when they were changed last."""

    __tablename__ = "device_commands"

    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    counter: Mapped[int] = mapped_column(BigInteger)
    settings: Mapped[dict[str, Any]]
    settings_counter: Mapped[int] = mapped_column(BigInteger, default=0)
    settings_by: Mapped[str | None] = mapped_column(String(200))
    settings_at: Mapped[float | None]


class CommandRecord(Base):
    """One command to one device. `number` is the counter of the word that first brought it; times are Unix seconds.

    `is_device_word` says that the device itself ended it: then nothing changes any more. `request_key` is the
    idempotency key it was asked under, hashed with who asked. `report` is what it fetched, as it came (gzip).
    """

    __tablename__ = "commands"
    __table_args__ = (
        Index(None, "status", "expires_at"),
        Index(None, "device", "request_key", unique=True),
    )

    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    action: Mapped[str] = mapped_column(String(64))
    arguments: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))  # a CommandStatus
    code: Mapped[str] = mapped_column(String(64), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    is_device_word: Mapped[bool] = mapped_column(default=False)
    asked_by: Mapped[str] = mapped_column(String(200))
    asked_at: Mapped[float]
    expires_at: Mapped[float]
    changed_at: Mapped[float]
    request_key: Mapped[str | None] = mapped_column(String(64))
    report: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    report_bytes: Mapped[int | None]

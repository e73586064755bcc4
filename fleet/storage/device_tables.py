"""Devices as the fleet knows them, and what each shall run.

`Device` joins what it was enrolled as (identity, family, site, labels: a claim's or a person's word) with what it says of itself
(hardware, reported labels, online, release, drift, health), which is shown and decides nothing about who it is. `Desired` is the fleet's wish: written by the rollout engine only, published by `fleet.mqtt`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["Desired", "Device", "DeviceChange", "DeviceState"]


class DeviceState(StrEnum):
    """Whether the fleet lets a device in."""

    WAITING = "waiting"  # until a person approves it
    ENROLLED = "enrolled"
    REVOKED = "revoked"


class Device(Base):
    """One device. `release` is what it last said it runs; `boot_id` its latest boot; times are Unix seconds.

    `agent_state` is what its agent last said it does (`protocol.messages.kinds.AgentState`). `limited_messages` came faster
    than a device may send, the last at `limited_at`; `dead_letters_dropped` had to make room for later ones. `claim` is the id of
    the claim that let it in. `certificate_issuer` is the device CA that signed its last certificate.
    """

    __tablename__ = "devices"
    # of few devices, asked several times a second
    __table_args__ = (
        Index(
            "ix_devices_revoked",
            "id",
            sqlite_where=text("state = 'revoked'"),
            postgresql_where=text("state = 'revoked'"),
        ),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    public_key: Mapped[str]
    hardware: Mapped[str] = mapped_column(String(200), index=True)
    family: Mapped[str] = mapped_column(String(64), index=True)
    site: Mapped[str] = mapped_column(String(200), default="", index=True)
    labels: Mapped[dict[str, str]]
    reported_family: Mapped[str | None] = mapped_column(String(64))
    reported_labels: Mapped[dict[str, str]] = mapped_column(default=dict)
    claim: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[DeviceState] = mapped_column(String(16), default=DeviceState.ENROLLED)
    enrolled_at: Mapped[float]
    enrolled_again_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    certificate_serial: Mapped[str | None] = mapped_column(String(64))
    certificate_issuer: Mapped[str | None] = mapped_column(String(64))
    certificate_ends_at: Mapped[float | None]
    agent_version: Mapped[str | None] = mapped_column(String(200))
    online: Mapped[bool] = mapped_column(default=False)
    boot_id: Mapped[str | None] = mapped_column(String(64))
    heard: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of which event what we know is: device_view
    heard_sent_at: Mapped[float] = mapped_column(
        default=0.0
    )  # the latest time among them, by the device's clock
    last_seen: Mapped[float | None]
    release: Mapped[str | None] = mapped_column(String(80))
    release_since: Mapped[float | None]
    drifted: Mapped[bool] = mapped_column(default=False)
    drift_since: Mapped[float | None]
    drift_score: Mapped[float | None]
    agent_state: Mapped[str | None] = mapped_column(String(32), index=True)
    last_health: Mapped[dict[str, Any] | None]
    last_health_at: Mapped[float | None]
    limited_at: Mapped[float | None]
    limited_messages: Mapped[int] = mapped_column(BigInteger, default=0)
    dead_letters_dropped: Mapped[int] = mapped_column(BigInteger, default=0)


class DeviceChange(Base):
    """That a device is another than before: its state, whether it is online, what it does or runs, or whether it drifted.

    One row a device, under a number that is greater than every one before it: written by triggers of migration 0018, so that no
    writer of `devices` can forget it. On SQLite altering `devices` (`batch_alter_table`) drops them: a later migration that does
    must make them again.
    """

    __tablename__ = "device_changes"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy reads it as a class attribute

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    device: Mapped[str] = mapped_column(String(64), unique=True)
    at: Mapped[float]


class Desired(Base):
    """What one device shall run; `counter` only ever grows per device (a rollback is old content, new counter).

    The row's fields are those of `protocol.messages.payloads.DesiredState`.
    """

    __tablename__ = "desired_states"

    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    execution: Mapped[str] = mapped_column(String(200))
    release: Mapped[str] = mapped_column(String(80))
    counter: Mapped[int] = mapped_column(BigInteger)
    bundle_path: Mapped[str] = mapped_column(String(300))
    bundle_sha256: Mapped[str] = mapped_column(String(64))
    bundle_bytes: Mapped[int]
    set_at: Mapped[float]

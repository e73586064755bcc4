"""Every table of the fleet in one metadata: importing this module is what makes it complete."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from fleet.storage import (
    access_tables,
    alert_tables,
    block_tables,
    boot_tables,
    command_tables,
    dead_letter_tables,
    device_tables,
    event_tables,
    filter_tables,
    release_tables,
    replica_tables,
    rollout_tables,
    verdict_tables,
)
from fleet.storage.base import Base

__all__ = ["METADATA"]

_MODULES: Final = (
    access_tables,
    alert_tables,
    block_tables,
    boot_tables,
    command_tables,
    dead_letter_tables,
    device_tables,
    event_tables,
    filter_tables,
    release_tables,
    replica_tables,
    rollout_tables,
    verdict_tables,
)

METADATA: Final[MetaData] = Base.metadata
"""All tables of `_MODULES`."""

"""Which start of this device the present one is: counted durably, so that (number, sequence) orders a device's events.

Written down in three places, and the largest number counts: a file that is damaged, or restored from a backup, must not
make a device say that it is younger than it is. ``boot.json`` lies beside the enrolment and belongs to it: who deletes the rest
of the state keeps those. Where nothing can be written the number is 0, not known: the next start could not help using it again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from edge_agent.outbox import Outbox
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["next_boot_number"]

log = logging.getLogger(__name__)

_NOTE: Final = "boot_number"
_BELIEVABLE: Final = 1 << 31
"""A start every second for sixty years; what is more was damaged."""


class _Kept(Struct, kw_only=True):
    """The content of ``boot.json``."""

    number: int


def next_boot_number(file: Path, outbox: Outbox, starts: int) -> int:
    """Count this start; on return the number is on disk, or 0.

    Args:
        file: ``boot.json``.
        outbox: keeps the same number beside its events.
        starts: of the agent so far, by its counters: a third opinion.
    """
    noted = outbox.about(_NOTE)
    counts = (_read(file), int(noted) if noted.isascii() and noted.isdigit() else 0, starts)
    number = 1 + max((count for count in counts if 0 <= count < _BELIEVABLE), default=0)
    is_noted = outbox.note(_NOTE, str(number))
    try:
        write_durably(file, msgspec.json.encode(_Kept(number=number)))
    except StorageError as error:
        log.warning("boot_not_counted error=%s", error)
        return number if is_noted else 0
    return number


def _read(file: Path) -> int:
    try:
        content = read_bytes(file)
        return 0 if content is None else msgspec.json.decode(content, type=_Kept).number
    except (StorageError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("boot_number_unreadable path=%s error=%s", file, error)
        return 0

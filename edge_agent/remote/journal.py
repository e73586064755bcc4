"""What a device remembers of its fleet's commands: one small file, written durably before and after each of them.

    unheard ─► begun (written, then done) ─► its result is known ─► its result is in the outbox: `results`
                 └─ killed in between: the next start finds it in `under_way`

Invariants: `counter` and `number` never fall; a command whose number is not above `number` is not begun.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, field

from protocol.messages.commands import Command, CommandResult, Value
from protocol.messages.fields import Count
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["KEPT_RESULTS", "Begun", "CommandFile", "CommandJournal"]

log: Final = logging.getLogger(__name__)

KEPT_RESULTS: Final = 16
"""Results remembered, without what they fetched, for a fleet that asks again: as many as may be outstanding."""


class Begun(Struct, frozen=True, kw_only=True):
    """A command that has begun and whose final result is not in the outbox.

    `result` is what is known of it: None while it is being begun. `tries` is how often it was.
    """

    command: Command
    result: CommandResult | None = None
    tries: Count = 1


class CommandJournal(Struct, frozen=True, kw_only=True):
    """The content of ``commands.json``.

    Attributes:
        counter: of the newest message obeyed.
        number: of the newest command begun or refused.
        settings: what the fleet wishes, as it came.
        unmet: those of them that this device could not meet when it tried last, each with the reason.
        under_way: commands that have not ended, oldest first.
        results: final ones, oldest first.
    """

    counter: Count = 0
    number: Count = 0
    settings: dict[str, Value] = field(default_factory=dict)
    unmet: dict[str, str] = field(default_factory=dict)
    under_way: tuple[Begun, ...] = ()
    results: tuple[CommandResult, ...] = ()


class CommandFile:
    """``commands.json``. A damaged one is told in one line, and begins anew: the fleet says again what it wants.

    That may obey a command twice that was obeyed just before the damage; not to obey any more would be worse.

    Attributes:
        journal: as it was when this was made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_failing = False
        self.journal = self._load()

    def _load(self) -> CommandJournal:
        try:
            content = read_bytes(self._path)
            return CommandJournal() if content is None else msgspec.json.decode(content, type=CommandJournal)
        except (StorageError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("commands_unreadable path=%s error=%s: starting without them", self._path, error)
            return CommandJournal()

    def save(self, journal: CommandJournal) -> bool:
        """Write it durably; False where the disk refuses, which is told once until it works again."""
        try:
            write_durably(self._path, msgspec.json.encode(journal))
        except StorageError as error:
            if not self._is_failing:
                log.error("commands_not_saved error=%s", error)  # noqa: TRY400 - one line; the agent goes on
            self._is_failing = True
            return False
        self._is_failing = False
        return True

"""What a fleet tells one device to do once, what it sets there, and what the device answers.

One retained message a device holds both: `settings` are what shall be so from now on, `outstanding` what shall be done
once. A device obeys no message whose `counter` is below one that it has obeyed, and no command twice: `number` only ever
grows, and is the counter of the message that first brought the command.

An action, an argument or a setting that a device does not know is refused by its name, and the rest is obeyed: so
they are words here and not enumerations (`protocol.messages.kinds.CommandAction` are those of this build).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from protocol.limits import MAX_OUTSTANDING, MAX_REPORT_CHARS, MAX_SETTINGS
from protocol.messages.fields import Positive, Text, Word
from protocol.messages.kinds import CommandStatus, Kind, RefusalCode, SettingSource

__all__ = ["Command", "CommandResult", "Commands", "SettingInForce", "Value", "outdated"]

Value = float | bool | Annotated[str, Meta(max_length=200)]


class Command(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Do this once. Not obeyed from `expires_at` (Unix seconds) on."""

    number: Positive
    action: Word
    expires_at: float
    arguments: Annotated[dict[Word, Value], Meta(max_length=8)] = field(default_factory=dict)


class Commands(Struct, frozen=True, kw_only=True):
    """All that a fleet asks of one device. Retained; `counter` grows with every change but the end of a command.

    `settings` are all that come from the fleet: one that is not among them is as the device's own file says.
    """

    counter: Positive
    settings: Annotated[dict[Word, Value], Meta(max_length=MAX_SETTINGS)] = field(default_factory=dict)
    outstanding: Annotated[tuple[Command, ...], Meta(max_length=MAX_OUTSTANDING)] = ()


class CommandResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a command; the first word that is not IN_PROGRESS is the last.

    `code` says in one word why it was refused (`protocol.messages.kinds.RefusalCode`), `reason` in a sentence what
    happened. `report` is base64 of what the command was to fetch. With code ``outdated`` no command is meant but a word of the
    kind `action`: `number` is the counter of the newest that the device has obeyed (`outdated`).
    """

    number: Positive
    action: Word
    status: CommandStatus
    code: Annotated[str, Meta(max_length=64)] = ""
    reason: Text = ""
    report: Annotated[str, Meta(max_length=MAX_REPORT_CHARS)] = ""


class SettingInForce(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A setting that a fleet may change, as it is on the device; `refused` says why the fleet's wish for it is not obeyed.

    `value` is None for a name that the device does not know.
    """

    name: Word
    value: float | None
    source: SettingSource
    refused: Annotated[str, Meta(max_length=200)] = ""


def outdated(kind: Kind, counter: int, known: int) -> CommandResult:
    """What a device answers to a word of the fleet's own (DESIRED or COMMANDS) that is older than one it has obeyed.

    A fleet that has lost its count, or whose key another one had, goes on beyond `known` then. The seal of the result is what it is
    believed by: who could lift a counter without it could use all of them up.
    """
    return CommandResult(
        number=known,
        action=kind.value,
        status=CommandStatus.REFUSED,
        code=RefusalCode.OUTDATED,
        reason=f"the word {counter} is not newer than {known}, which this device has obeyed",
    )

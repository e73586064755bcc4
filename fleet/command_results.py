"""What devices say of their commands: how each ended, what it fetched, and how far their counters are.

A device that has obeyed a word under a greater counter than the fleet's (a database that was lost, a key that another one had)
says so, sealed (`protocol.messages.commands.outdated`), and the fleet goes on beyond it: else it would never listen again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import Session

from fleet.desired import overtake_desired
from fleet.device_commands import read_words, step_counter
from fleet.storage.command_tables import CommandRecord
from protocol.limits import MAX_INTEGER
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import CommandStatus, Kind, RefusalCode

__all__ = ["HeardResults", "hear_results", "note_results"]

KEPT_REPORTS: Final = 5
"""Bundles of a device that are kept whole: each may have 80 kB."""


def note_results(
    session: Session, results: Sequence[tuple[str, CommandResult]], now: float
) -> list[tuple[str, CommandStatus]]:
    """Write down what devices said of their commands, in the order in which they said it; a word about no command is dropped.

    Returns:
        (action, status) of what changed.
    """
    changed: list[tuple[str, CommandStatus]] = []
    named = {(device, result.number) for device, result in results}
    rows = select(CommandRecord).where(tuple_(CommandRecord.device, CommandRecord.number).in_(list(named)))
    records = {(row.device, row.number): row for row in session.scalars(rows)} if named else {}
    for device, result in results:
        record = records.get((device, result.number))
        if record is None or not _is_news(record, result.status):
            continue
        record.status, record.code, record.reason = result.status, result.code, result.reason
        record.is_device_word, record.changed_at = result.status.is_final, now
        changed.append((record.action, result.status))
        if result.report:
            _keep_report(session, record, result.report)
    return changed


def _is_news(record: CommandRecord, status: CommandStatus) -> bool:
    """The first final word of a device is the last; of what the fleet has ended, that it was begun all the same counts."""
    if status in {CommandStatus.WAITING, CommandStatus.CANCELED, CommandStatus.SUPERSEDED}:
        return False  # no device says so
    if not CommandStatus(record.status).is_final:
        return status != record.status
    overrules = {CommandStatus.DONE, CommandStatus.FAILED, CommandStatus.INTERRUPTED}
    return not record.is_device_word and status in overrules


def _keep_report(session: Session, record: CommandRecord, report: str) -> None:
    try:
        content = base64.b64decode(report, validate=True)
    except (binascii.Error, ValueError):
        record.reason = f"{record.reason[:1900]}; what it sent is not base64, and is not kept"
        return
    record.report, record.report_bytes = content, len(content)
    older = (
        select(CommandRecord.number)
        .where(
            CommandRecord.device == record.device,
            CommandRecord.report_bytes.is_not(None),
            CommandRecord.number != record.number,
        )
        .order_by(CommandRecord.number.desc())
        .offset(KEPT_REPORTS - 1)
    )
    session.flush()
    session.execute(
        update(CommandRecord)
        .where(CommandRecord.device == record.device, CommandRecord.number.in_(session.scalars(older).all()))
        .values(report=None, report_bytes=None)
        .execution_options(synchronize_session=False)
    )


@dataclass(frozen=True, kw_only=True)
class HeardResults:
    """What results changed: commands by action and status, and the devices whose words are to be published again."""

    changed: Sequence[tuple[str, CommandStatus]]
    commanded: frozenset[str]
    desiring: frozenset[str]


def hear_results(session: Session, results: Sequence[tuple[str, CommandResult]], now: float) -> HeardResults:
    """Note what devices said of commands, and go on beyond the counters that they have obeyed. Said again, it changes nothing.

    Args:
        session: the transaction.
        results: by device, each sealed by its key.
        now: Unix seconds.
    """
    if not results:  # nearly every batch: nothing is asked for that
        return HeardResults(changed=(), commanded=frozenset(), desiring=frozenset())
    of_commands = [one for one in results if one[1].code != RefusalCode.OUTDATED]
    obeyed = {
        kind: {
            device: result.number
            for device, result in results
            if result.code == RefusalCode.OUTDATED and result.action == kind
        }
        for kind in (Kind.COMMANDS, Kind.DESIRED)
    }
    changed = note_results(session, of_commands, now)
    return HeardResults(
        changed=changed,
        commanded=frozenset(
            {device for device, _ in of_commands} | _overtake(session, obeyed[Kind.COMMANDS], now)
        ),
        desiring=frozenset(overtake_desired(session, obeyed[Kind.DESIRED], now)),
    )


def _overtake(session: Session, obeyed: Mapping[str, int], now: float) -> set[str]:
    """Lift the counters of devices that have obeyed a greater one; returns which."""
    words = read_words(session, obeyed)
    behind = [
        device for device, counter in obeyed.items() if device not in words or words[device].counter < counter
    ]
    for device in behind:
        word = step_counter(session, device, words.get(device), now)
        word.counter = min(max(word.counter, obeyed[device] + 1), MAX_INTEGER)
    return set(behind)

"""What devices said about their installations, in the order in which they said it, whenever it arrived.

What a fleet did not acknowledge, because it died, and what lay in an outbox over a restart, comes after what was said
later. The order of a report is where it stands in the stream of its device: (boot, sequence).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select
from sqlalchemy.orm import Session

from fleet.rollouts.states import OPEN
from fleet.storage.boot_tables import Position, position_columns, with_boots
from fleet.storage.event_tables import InstallRecord
from protocol.messages.kinds import InstallStatus

__all__ = ["read_reports"]


def read_reports(session: Session, wanted: Select[Any]) -> Iterator[tuple[InstallRecord, Position]]:
    """The words that count among `wanted`, a query of reports; the last one of an execution is its last word.

    An execution that has ended is not under way again, and a desired state that came again and was refused is not what
    became of it: neither unsays how it ended. Only a later ending does.

    Args:
        session: the transaction.
        wanted: selects from `InstallRecord`.

    Yields:
        A report and where it stands in the stream of its device, in that order.
    """
    position = position_columns(InstallRecord)
    told = session.execute(with_boots(wanted, InstallRecord).add_columns(*position).order_by(*position))
    ended: set[tuple[str, str]] = set()
    for report, *place in told:
        status, execution = InstallStatus(report.status), (report.device, report.execution)
        if execution in ended and status in OPEN | {InstallStatus.REJECTED}:
            continue
        if status not in OPEN:
            ended.add(execution)
        yield report, Position(*place)

"""Pages of rows of the fleet's database (`service.paging`), the newest first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, TypeVar

from fastapi import Path
from sqlalchemy import ColumnElement, Select, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from fleet.storage.access_tables import AuditEntry
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.event_tables import Anomaly, DriftRecord
from fleet.views.observations import RowView
from service.paging import MAXIMUM_ROW_ID, Page, cut_page, decode_row_cursor

__all__ = ["RowId", "equals", "newest_first", "read_page", "within"]

Row = TypeVar("Row", AuditEntry, Anomaly, DeadLetter, DriftRecord)
View = TypeVar("View", bound="RowView")
RowId = Annotated[int, Path(ge=1, le=MAXIMUM_ROW_ID)]


def equals(column: InstrumentedAttribute[str], value: str | None) -> ColumnElement[bool]:
    """That `column` is `value`; where none is given, every row."""
    return true() if value is None else column == value


def within(column: InstrumentedAttribute[str], values: Collection[str] | None) -> ColumnElement[bool]:
    """That `column` is one of `values`; None: every row."""
    return true() if values is None else column.in_(sorted(values))


def newest_first(table: type[Row], after: str | None, limit: int) -> Select[Row]:
    """Rows by id, the newest first, one more than the page holds: whether there is another page shows in it."""
    rows = select(table).order_by(table.id.desc()).limit(limit + 1)
    return rows.where(table.id < decode_row_cursor(after)) if after else rows


def read_page(session: Session, rows: Select[Row], view: type[View], limit: int) -> Page[View]:
    """The page of `rows`, which are `newest_first`, each as `view`."""
    return cut_page([view.model_validate(row) for row in session.scalars(rows)], limit, key=lambda v: v.id)

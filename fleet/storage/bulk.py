"""Many rows in one statement: found by their keys, inserted, updated. What a batch of events costs is decided here.

Through the ORM a row costs several times what the database takes to store it. So rows go as JSON in one parameter to PostgreSQL,
which makes records of it (``json_to_recordset``), and as tuples through one prepared statement to SQLite; keys go as JSON to both.
Values are what the columns hold, of a JSON column plain data; None is NULL.

Of the caller's transaction. What the ORM holds of the same rows is neither written before nor read again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, cast

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    Dialect,
    LargeBinary,
    String,
    Table,
    Text,
    and_,
    bindparam,
    column,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy import table as sql_table
from sqlalchemy.orm import InstrumentedAttribute, Session

__all__ = ["among", "insert_rows", "update_rows"]

Columns = tuple[str, ...]
Rows = Collection[Mapping[str, Any]]

_encode: Final = msgspec.json.Encoder().encode
_TOLD: Final = "told"


def among(
    session: Session, columns: Sequence[InstrumentedAttribute[Any]], keys: Collection[Sequence[str | int]]
) -> ColumnElement[bool]:
    """That the `columns` of a row are one of `keys`, which are one parameter, however many they are."""
    told = literal(_encode(list(keys)).decode(), String)
    parts: list[ColumnElement[Any]]
    if session.get_bind().dialect.name == "sqlite":
        each = func.json_each(told).table_valued("value")
        parts = [func.json_extract(each.c.value, f"$[{at}]") for at in range(len(columns))]
    else:
        each = func.json_array_elements(sql_cast(told, JSON)).table_valued("value")
        texts = [each.c.value.op("->>", return_type=String())(at) for at in range(len(columns))]
        parts = [
            text if isinstance(one.type, String) else sql_cast(text, one.type)
            for text, one in zip(texts, columns, strict=True)
        ]
    wanted = select(*parts)
    return columns[0].in_(wanted) if len(columns) == 1 else tuple_(*columns).in_(wanted)


def insert_rows(session: Session, model: type[Any], rows: Rows) -> None:
    """Insert `rows` into the table of `model`. A column that a row does not name gets what the database gives it."""
    _execute(session, model, (), rows)


def update_rows(session: Session, model: type[Any], key: Columns, rows: Rows) -> None:
    """In the row of `model` whose columns `key` are as in one of `rows`, set the others that it names."""
    _execute(session, model, key, rows)


def _execute(session: Session, model: type[Any], key: Columns, rows: Rows) -> None:
    connection, table = session.connection(), cast("Table", model.__table__)
    some: dict[Columns, list[Mapping[str, Any]]] = {}
    for row in rows:
        some.setdefault(tuple(row), []).append(row)
    for names, alike in some.items():
        told = tuple(name for name in names if name not in key)
        sql, order = _statement(connection.dialect, table, told, key)
        values = _tuples(table, order, alike) if order else {_TOLD: _encode(alike).decode()}
        connection.exec_driver_sql(sql, values)


def _tuples(table: Table, order: Columns, rows: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    documents = [name for name in order if isinstance(table.c[name].type, JSON)]
    values = itemgetter(*order)  # of two and more: a row has a key and something to tell
    return [values({**row, **_documents(row, documents)} if documents else row) for row in rows]


def _documents(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: _encode(row[name]).decode() for name in names if row[name] is not None}


@lru_cache(maxsize=1000)
def _statement(dialect: Dialect, table: Table, told: Columns, key: Columns) -> tuple[str, Columns]:
    """An UPDATE, without a key an INSERT, and in which order it takes the columns; none: it takes all rows at once."""
    # without the defaults that the ORM would put in
    bare = sql_table(table.name, *(column(name, table.c[name].type) for name in (*told, *key)))
    if dialect.name == "sqlite":
        given: dict[str, Any] = {name: bindparam(name) for name in told}
        which = [bare.c[name] == bindparam(name) for name in key]
        change = update(bare).where(*which).values(given) if key else insert(bare).values(given)
        compiled = change.compile(dialect=dialect)
        return str(compiled), tuple(compiled.positiontup or ())
    # texts without their length: what is too long shall be refused, and not cut
    kinds = [
        column(name, Text() if isinstance(kind, String | LargeBinary) else kind)
        for name, kind in ((name, table.c[name].type) for name in (*told, *key))
    ]
    row = func.json_to_recordset(sql_cast(bindparam(_TOLD, type_=String), JSON)).table_valued(*kinds)
    row = row.render_derived(with_types=True)
    given = {
        # bytes are base64 in JSON
        name: func.decode(row.c[name], literal_column("'base64'"))
        if isinstance(table.c[name].type, LargeBinary)
        else row.c[name]
        for name in told
    }
    if key:
        same = and_(*(bare.c[name] == row.c[name] for name in key))
        change = update(bare).where(same).values(given)
    else:
        change = insert(bare).from_select(list(given), select(*given.values()))
    return str(change.compile(dialect=dialect)), ()

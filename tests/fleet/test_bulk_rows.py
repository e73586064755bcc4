"""Rows in bulk: what goes in comes out, of every kind of column, on both databases; odd keys find what they name and no more."""

from __future__ import annotations

from typing import Any

from fleet_world import NOW
from sqlalchemy import delete, select

from fleet.errors import UnacceptableError
from fleet.storage.base import Database
from fleet.storage.boot_tables import EventRange
from fleet.storage.bulk import among, insert_rows, update_rows
from fleet.storage.event_tables import Anomaly
from protocol.limits import MAX_INTEGER

ODD = ["plain", "a \"b\" 'c'", "100 %s %(told)s :x ?", "ü\N{SNOWMAN}\n\t\\", "", "null", "[1, 2]"]


def row(sequence: int, **changes: Any) -> dict[str, Any]:
    return {
        "device": "press-1",
        "boot_id": "b",
        "sequence": sequence,
        "sent_at": NOW + 1e-7,
        "received_at": -1.5e-300,
        "release": "motor/1",
        "score": 1.7976931348623157e308,
        "threshold": 0.1,
        "window_index": MAX_INTEGER,
        "windows_over": 0,
        "observed_at_s": 1 / 3,
        "contributors": ODD,
        "window": bytes(range(256)),
        "window_shape": [64, 1],
        "window_withheld": None,
        "episode": None,
        "is_open": False,
        **changes,
    }


def stored(database: Database) -> list[dict[str, Any]]:
    columns = [getattr(Anomaly, name) for name in row(0)]
    with database.read() as session:
        return [one._asdict() for one in session.execute(select(*columns).order_by(Anomaly.sequence))]


def test_what_goes_in_comes_out_and_what_changes_is_what_was_named(database: Database) -> None:
    rows = [row(at, release=text, window_withheld=bool(at % 2)) for at, text in enumerate(ODD, 1)]
    rows += [row(50, window=None), row(51, contributors=[], window=b"")]
    with database.write() as session:
        insert_rows(session, Anomaly, rows)
    assert stored(database) == rows
    key = ("device", "boot_id", "sequence")
    changes = [
        {"device": "press-1", "boot_id": "b", "sequence": 1, "contributors": ["x"], "window": b"\0"},
        {"device": "press-1", "boot_id": "b", "sequence": 2, "score": 0.25},
        {"device": "press-1", "boot_id": "b", "sequence": 3, "score": 0.5},
        {"device": "press-9", "boot_id": "b", "sequence": 4, "score": 0.75},
    ]
    with database.write() as session:
        update_rows(session, Anomaly, key, changes)
    for at in range(3):
        rows[at] |= changes[at]
    assert stored(database) == rows


def test_nothing_is_nothing(database: Database) -> None:
    with database.write() as session:
        insert_rows(session, Anomaly, [])
        update_rows(session, Anomaly, ("sequence",), [])
        insert_rows(session, Anomaly, [row(1)])
        assert (
            session.scalars(select(Anomaly.sequence).where(among(session, [Anomaly.sequence], []))).all()
            == []
        )


def test_a_text_that_is_too_long_is_refused_or_kept_as_it_is_and_never_cut(database: Database) -> None:
    long = row(1, release="x" * 201)
    try:
        with database.write() as session:
            insert_rows(session, Anomaly, [long])
    except UnacceptableError:
        long = {}
    assert stored(database) == [long] * bool(long)
    assert bool(long) == (database.engine.dialect.name == "sqlite"), "which keeps texts of any length"


def test_keys_find_the_rows_that_they_name_whatever_is_in_them(database: Database) -> None:
    rows = [
        {"device": device, "boot_id": boot, "first": first, "last": first}
        for device in ODD
        for boot in ODD
        for first in (1, MAX_INTEGER)
    ]
    columns = (EventRange.device, EventRange.boot_id, EventRange.first)
    wanted = [(ODD[1], ODD[2], 1), (ODD[3], ODD[4], MAX_INTEGER), (ODD[5], ODD[6], 2), ("press%", ODD[0], 1)]
    with database.write() as session:
        insert_rows(session, EventRange, rows)
        found = session.execute(select(*columns).where(among(session, columns, wanted))).all()
        assert sorted(found) == sorted(wanted[:2])
        names = select(EventRange.device).where(among(session, columns[:1], [(ODD[2],), ("nobody",)]))
        assert session.scalars(names.distinct()).all() == [ODD[2]]
        gone = delete(EventRange).where(among(session, columns, wanted))
        session.execute(gone.execution_options(synchronize_session=False))
        assert len(session.execute(select(EventRange.device)).all()) == len(rows) - 2

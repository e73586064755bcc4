"""Whether a database can be connected to, said in words: for whoever starts something, or asks what is wrong.

The server's own driver speaks in several lines and repeats what it was told; a person needs one line and what to do.
"""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from fleet.storage.addresses import parsed_address
from fleet.storage.base import connection_options
from runtime.errors import SettingsError
from service.errors import StartError

__all__ = ["check_connection"]

_REMEDIES: Final = (
    (
        "password authentication failed",
        "the password of {user} is wrong: set it there with ALTER ROLE, or give the right one",
    ),
    ("no password supplied", "give the password: in the address, or in ~/.pgpass"),
    ("does not exist", "make it there: createuser {user}; createdb --owner {user} {name}"),
    ("Connection refused", "nothing listens at {where}: start PostgreSQL, or give the right host and port"),
    ("No such file", "no server has its socket at {where}: start PostgreSQL, or give the right host"),
    ("resolve host", "no machine is called {where}: give the right host"),
    ("Name or service not known", "no machine is called {where}: give the right host"),
    ("timeout expired", "{where} does not answer: is it the right host, and does its firewall let us in?"),
    ("no pg_hba.conf entry", "the server lets nobody in from here as {user}: add a line to its pg_hba.conf"),
    ("permission denied", "{user} may not do that there: GRANT ALL ON SCHEMA public TO {user}"),
    ("SSL", "see sslmode and sslrootcert in the address"),
    ("too many", "the server has no connection left: raise its max_connections"),
)


def check_connection(url: str) -> str:
    """Connect once and return what answers, e.g. ``PostgreSQL 15.4``.

    Raises:
        SettingsError: the address is none.
        StartError: it cannot be connected to; says in one line why, and what to do.
    """
    parsed = parsed_address(url)
    if parsed.get_backend_name() == "sqlite":
        return "SQLite"
    if parsed.get_backend_name() != "postgresql":
        raise SettingsError(f"the database is {parsed.get_backend_name()!r}; valid are sqlite and postgresql")
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"), connect_args=connection_options(parsed)
    )
    try:
        with engine.connect() as connection:
            return "PostgreSQL " + str(connection.execute(text("SHOW server_version")).scalar()).split()[0]
    except (SQLAlchemyError, UnicodeError) as error:
        said = str(getattr(error, "orig", error))
    finally:
        engine.dispose()
    where = str(parsed.query.get("host") or parsed.host or "this machine's socket") + (
        f":{parsed.port}" if parsed.port else ""
    )
    places = {"user": parsed.username or "this user", "name": parsed.database or "it", "where": where}
    remedy = next((words.format(**places) for sign, words in _REMEDIES if sign in said), "")
    raise StartError(
        f"cannot connect to PostgreSQL at {where}: {_reason(said)}" + (f"; {remedy}" if remedy else "")
    )


def _reason(said: str) -> str:
    """The last line of what the driver says, without the address that it repeats."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "server running on" not in line]
    lines = [
        line for line in lines if not line.startswith(("Multiple connection attempts", "- host:"))
    ] or lines
    last = re.sub(r"^.*?failed: (?=\S)", "", lines[0] if lines else "no answer")
    return last.removeprefix("FATAL:").strip()

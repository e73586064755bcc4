"""A database's address in its parts: the one place that reads what a person wrote, and that knows where a password may hide in it."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from runtime.errors import SettingsError

__all__ = ["parsed_address"]


def parsed_address(url: str) -> URL:
    """The parts of ``sqlite:////path`` or ``postgresql://user@host/name``.

    A password among the options (``?password=``), as libpq takes it, is moved to where it is known for one, so that no message, file
    or list of processes shows it.

    Raises:
        SettingsError: it does not parse, or has two passwords.
    """
    try:
        parsed = make_url(url)
        parsed.get_backend_name()
    except (SQLAlchemyError, ValueError):  # the second of a port that is no number
        raise SettingsError(
            "the database's address does not parse; valid: postgresql://user@host:5432/name, sqlite:////absolute/file.sqlite, or none for SQLite"
        ) from None
    hidden = parsed.query.get("password")
    if hidden is None:
        return parsed
    if not isinstance(hidden, str) or parsed.password:
        raise SettingsError("the database's address has two passwords; write it once, after the user's name")
    return parsed.difference_update_query(["password"]).set(password=hidden)

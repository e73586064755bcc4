"""``tokens``: work on the database itself, whether or not the server runs.

A secret is printed once, alone on standard output, so that it can be redirected into a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.commands.on_server import changing
from service.token_commands import ListedRows, token_commands

__all__ = ["tokens"]


@contextmanager
def _token_rows(config: Path) -> Iterator[ListedRows]:
    from fleet.auth.operator_tokens import SessionRows

    with changing(config) as session:
        yield SessionRows(session)


tokens = token_commands(_token_rows, prefix="fo_", told=lambda command: command)

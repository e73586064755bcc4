"""Alembic's entry: runs the steps on the connection that `upgrade` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from fleet.storage.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite alters a table by rebuilding it
    render_as_batch=True,
    # the caller's transaction is the only one
    transactional_ddl=False,
)
context.run_migrations()

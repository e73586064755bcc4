"""Schema migrations (Alembic), inside the package, brought up to date at every start.

`versions/` holds one file per step; a test holds fast that together they give exactly the tables of `fleet.storage`.
A new step: ``make_revision("what it does", database)`` in `upgrade.py`, then read and edit what it wrote.
"""

"""numbers of anomalies, their ends and drift reports are never given twice; boots by when they began

Revision 0024, after 0023. SQLite gives the number of the last row once more when that row is removed, unless the table says
AUTOINCREMENT, and whoever reads what is new after a number misses it. What a table holds is the same with it and without, so its
definition alone is changed, as https://sqlite.org/lang_altertable.html (section 8) allows: a year of anomalies with their windows
is not copied, nor are triggers and references lost. PostgreSQL's sequences never give a number twice.
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = '0024'
down_revision = '0023'
branch_labels = None
depends_on = None

TABLES = ('anomalies', 'anomaly_ends', 'drift_reports')
PLAIN, NUMBERED = '\tid INTEGER NOT NULL, ', '\tid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, '
KEY = '\tCONSTRAINT pk_{table} PRIMARY KEY (id), \n'


def upgrade() -> None:
    _define({table: ((PLAIN, NUMBERED), (KEY.format(table=table), '')) for table in TABLES})
    op.create_index(op.f('ix_boots_first_received'), 'boots', ['first_received'])


def downgrade() -> None:
    op.drop_index(op.f('ix_boots_first_received'), table_name='boots')
    unique = '\tCONSTRAINT uq_{table}_device_boot_id_sequence'
    _define(
        {
            table: (
                (NUMBERED, PLAIN),
                (unique.format(table=table), KEY.format(table=table) + unique.format(table=table)),
            )
            for table in TABLES
        }
    )


def _define(changes: dict[str, tuple[tuple[str, str], ...]]) -> None:
    connection = op.get_bind()
    if connection.dialect.name != 'sqlite':
        return
    version = connection.execute(sa.text('PRAGMA schema_version')).scalar_one()
    connection.execute(sa.text('PRAGMA writable_schema = ON'))
    for table, replaced in changes.items():
        its = "type = 'table' AND name = :table"
        definition = connection.execute(
            sa.text(f'SELECT sql FROM sqlite_master WHERE {its}'), {'table': table}
        ).scalar_one()
        for former, present in replaced:
            if definition.count(former) != 1:
                raise CommandError(f'table {table} is not as the steps before this one left it')
            definition = definition.replace(former, present)
        connection.execute(
            sa.text(f'UPDATE sqlite_master SET sql = :definition WHERE {its}'),
            {'definition': definition, 'table': table},
        )
    connection.execute(sa.text(f'PRAGMA schema_version = {version + 1}'))
    connection.execute(sa.text('PRAGMA writable_schema = RESET'))

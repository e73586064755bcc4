"""what changes of a device has a number, by triggers; executions and the audit log are read by the page

Revision 0018, after 0017.
"""

import sqlalchemy as sa
from alembic import op

revision = '0018'
down_revision = '0017'
branch_labels = None
depends_on = None

TOLD = ('state', 'online', 'agent_state', 'release', 'drifted')

_SQLITE_NOTE = """DELETE FROM device_changes WHERE device = NEW.id;
    INSERT INTO device_changes (device, at) VALUES (NEW.id, (julianday('now') - 2440587.5) * 86400.0);"""
_SQLITE = (
    f"CREATE TRIGGER devices_come AFTER INSERT ON devices BEGIN {_SQLITE_NOTE} END",
    f"CREATE TRIGGER devices_change AFTER UPDATE ON devices WHEN {' OR '.join(f'OLD.{n} IS NOT NEW.{n}' for n in TOLD)}"
    f" BEGIN {_SQLITE_NOTE} END",
)
_POSTGRESQL = (
    """CREATE FUNCTION note_device_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO device_changes (device, at) VALUES (NEW.id, extract(epoch FROM clock_timestamp()))
        ON CONFLICT (device) DO UPDATE
            SET id = nextval(pg_get_serial_sequence('device_changes', 'id')), at = excluded.at;
        RETURN NULL;
    END $$""",
    "CREATE TRIGGER devices_come AFTER INSERT ON devices FOR EACH ROW EXECUTE FUNCTION note_device_change()",
    f"CREATE TRIGGER devices_change AFTER UPDATE ON devices FOR EACH ROW"
    f" WHEN ({' OR '.join(f'OLD.{n} IS DISTINCT FROM NEW.{n}' for n in TOLD)}) EXECUTE FUNCTION note_device_change()",
)


def upgrade() -> None:
    op.create_table('device_changes',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_device_changes')),
    sa.UniqueConstraint('device', name=op.f('uq_device_changes_device')),
    sqlite_autoincrement=True,
    )
    for statement in _SQLITE if op.get_bind().dialect.name == 'sqlite' else _POSTGRESQL:
        op.execute(statement)
    op.create_index(
        op.f('ix_rollout_executions_rollout_group_number_device'),
        'rollout_executions',
        ['rollout', 'group_number', 'device'],
    )
    op.create_index(op.f('ix_audit_log_subject'), 'audit_log', ['subject'])


def downgrade() -> None:
    on = ' ON devices' if op.get_bind().dialect.name == 'postgresql' else ''
    op.execute(f'DROP TRIGGER devices_come{on}')
    op.execute(f'DROP TRIGGER devices_change{on}')
    if on:
        op.execute('DROP FUNCTION note_device_change')
    op.drop_index(op.f('ix_audit_log_subject'), table_name='audit_log')
    op.drop_index(op.f('ix_rollout_executions_rollout_group_number_device'), table_name='rollout_executions')
    op.drop_table('device_changes')

"""scores and thresholds beside health, which anomalies last or wait for a verdict, queries that people keep

Which anomalies last is kept by triggers, so that no writer of ends can forget it.

Revision 0022, after 0021.
"""

import sqlalchemy as sa
from alembic import op

revision = '0022'
down_revision = '0021'
branch_labels = None
depends_on = None

ENDED = 'EXISTS (SELECT 1 FROM anomaly_ends e WHERE e.device = {row}.device AND e.episode = {row}.episode)'
FOUND = ENDED.format(row='NEW')
_SQLITE = (
    'CREATE TRIGGER anomaly_ends_close AFTER INSERT ON anomaly_ends BEGIN'
    ' UPDATE anomalies SET is_open = 0 WHERE device = NEW.device AND episode = NEW.episode; END',
    # either may arrive first
    f'CREATE TRIGGER anomalies_ended AFTER INSERT ON anomalies WHEN NEW.is_open AND {FOUND} BEGIN'
    ' UPDATE anomalies SET is_open = 0 WHERE id = NEW.id; END',
)
_POSTGRESQL = (
    """CREATE FUNCTION close_anomaly() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE anomalies SET is_open = false WHERE device = NEW.device AND episode = NEW.episode;
        RETURN NULL;
    END $$""",
    f"""CREATE FUNCTION note_ended_anomaly() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.is_open := NOT {FOUND};
        RETURN NEW;
    END $$""",
    'CREATE TRIGGER anomaly_ends_close AFTER INSERT ON anomaly_ends FOR EACH ROW EXECUTE FUNCTION close_anomaly()',
    'CREATE TRIGGER anomalies_ended BEFORE INSERT ON anomalies FOR EACH ROW WHEN (NEW.is_open)'
    ' EXECUTE FUNCTION note_ended_anomaly()',
)
OPEN = sa.text('is_open = true')
WAITS = sa.text('is_judged = false')
HEALTH = {'health_reports': ('score_mean', 'score_max', 'threshold'), 'health_blocks': ('score_max', 'threshold_max')}


def upgrade() -> None:
    for table, names in HEALTH.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Double(), nullable=True))
    for name in ('is_open', 'is_judged'):
        op.add_column('anomalies', sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        'UPDATE anomalies SET is_open = true'
        f' WHERE episode IS NOT NULL AND NOT {ENDED.format(row="anomalies")}'
    )
    op.execute('UPDATE anomalies SET is_judged = true WHERE id IN (SELECT anomaly FROM verdicts)')
    op.create_index('ix_anomalies_open', 'anomalies', ['device'], sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index('ix_anomalies_unjudged', 'anomalies', ['score'], sqlite_where=WAITS, postgresql_where=WAITS)
    for statement in _SQLITE if op.get_bind().dialect.name == 'sqlite' else _POSTGRESQL:
        op.execute(statement)
    op.create_index(op.f('ix_verdicts_author_given_at'), 'verdicts', ['author', 'given_at'])
    op.create_table('saved_filters',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('owner', sa.String(length=64), nullable=False),
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('query', sa.String(length=2000), nullable=False),
    sa.Column('is_shared', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_saved_filters')),
    )
    op.create_index(op.f('ix_saved_filters_owner_name'), 'saved_filters', ['owner', 'name'], unique=True)


def downgrade() -> None:
    op.drop_index(op.f('ix_saved_filters_owner_name'), table_name='saved_filters')
    op.drop_table('saved_filters')
    op.drop_index(op.f('ix_verdicts_author_given_at'), table_name='verdicts')
    is_postgresql = op.get_bind().dialect.name == 'postgresql'
    op.execute('DROP TRIGGER anomaly_ends_close' + (' ON anomaly_ends' if is_postgresql else ''))
    op.execute('DROP TRIGGER anomalies_ended' + (' ON anomalies' if is_postgresql else ''))
    if is_postgresql:
        op.execute('DROP FUNCTION close_anomaly')
        op.execute('DROP FUNCTION note_ended_anomaly')
    op.drop_index('ix_anomalies_unjudged', table_name='anomalies')
    op.drop_index('ix_anomalies_open', table_name='anomalies')
    # not in a batch: that would drop the table, and its triggers
    for name in ('is_open', 'is_judged'):
        op.drop_column('anomalies', name)
    for table, names in HEALTH.items():
        for name in names:
            op.drop_column(table, name)

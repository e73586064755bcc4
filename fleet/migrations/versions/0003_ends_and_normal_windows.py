"""ends of anomalies, windows that people call normal, what a device could judge

Revision 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('anomaly_ends',
    sa.Column('episode', sa.String(length=64), nullable=False),
    sa.Column('release', sa.String(length=200), nullable=False),
    sa.Column('observed_at_s', sa.Double(), nullable=False),
    sa.Column('lasted_s', sa.Double(), nullable=False),
    sa.Column('windows', sa.BigInteger(), nullable=False),
    sa.Column('windows_over', sa.BigInteger(), nullable=False),
    sa.Column('peak_score', sa.Double(), nullable=False),
    sa.Column('reason', sa.String(length=16), nullable=False),
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('boot_id', sa.String(length=64), nullable=False),
    sa.Column('sequence', sa.BigInteger(), nullable=False),
    sa.Column('sent_at', sa.Double(), nullable=False),
    sa.Column('received_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_anomaly_ends')),
    sa.UniqueConstraint('device', 'boot_id', 'sequence', name=op.f('uq_anomaly_ends_device_boot_id_sequence')),
    sa.UniqueConstraint('device', 'episode', name=op.f('uq_anomaly_ends_device_episode'))
    )
    with op.batch_alter_table('anomaly_ends', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_anomaly_ends_device_received_at'), ['device', 'received_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_anomaly_ends_received_at'), ['received_at'], unique=False)

    op.create_table('normal_windows',
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('counter', sa.BigInteger(), nullable=False),
    sa.Column('until_s', sa.Double(), nullable=False),
    sa.Column('accepted_by', sa.String(length=200), nullable=False),
    sa.Column('accepted_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['device'], ['devices.id'], name=op.f('fk_normal_windows_device_devices')),
    sa.PrimaryKeyConstraint('device', name=op.f('pk_normal_windows'))
    )
    # columns that may be null: SQLite adds them without rebuilding a table, to which verdicts may refer
    with op.batch_alter_table('anomalies', schema=None) as batch_op:
        batch_op.add_column(sa.Column('episode', sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f('ix_anomalies_device_episode'), ['device', 'episode'], unique=False)

    with op.batch_alter_table('devices', schema=None) as batch_op:
        batch_op.add_column(sa.Column('agent_state', sa.String(length=32), nullable=True))
        batch_op.create_index(batch_op.f('ix_devices_agent_state'), ['agent_state'], unique=False)

    with op.batch_alter_table('health_reports', schema=None) as batch_op:
        batch_op.add_column(sa.Column('interval_judged', sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column('state', sa.String(length=32), nullable=True))

    # what each device last said it does was told before, inside its health
    devices = sa.table('devices', sa.column('last_health', sa.JSON()), sa.column('agent_state', sa.String()))
    op.execute(devices.update().values(agent_state=devices.c.last_health['state'].as_string()))


def downgrade() -> None:
    # not in a batch: that would rebuild the tables, and other rows refer to these
    op.drop_column('health_reports', 'state')
    op.drop_column('health_reports', 'interval_judged')
    op.drop_index(op.f('ix_devices_agent_state'), table_name='devices')
    op.drop_column('devices', 'agent_state')
    op.drop_index(op.f('ix_anomalies_device_episode'), table_name='anomalies')
    op.drop_column('anomalies', 'episode')
    op.drop_table('normal_windows')
    with op.batch_alter_table('anomaly_ends', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_anomaly_ends_received_at'))
        batch_op.drop_index(batch_op.f('ix_anomaly_ends_device_received_at'))

    op.drop_table('anomaly_ends')

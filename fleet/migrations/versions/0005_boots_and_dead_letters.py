"""the order of a device's boots, messages that could not be taken, identities that two devices share

Revision 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

RECORDS = ('anomalies', 'anomaly_ends', 'drift_reports', 'health_reports', 'install_reports')

# what was heard of a boot says when it was; the one that its device is believed to be in is the last
BOOTS = f"""
INSERT INTO boots (device, boot_id, number, era, counted, turn, first_received, last_received, range_count,
                   closed_to, given_up)
SELECT known.device, known.boot_id, 0, 0, 0,
       ROW_NUMBER() OVER (PARTITION BY known.device
                          ORDER BY CASE WHEN devices.boot_id = known.boot_id THEN 1 ELSE 0 END,
                                   COALESCE(told.earliest, 0), known.boot_id),
       COALESCE(told.earliest, 0), COALESCE(told.latest, 0), known.ranges, 0, 0
FROM (SELECT device, boot_id, COUNT(*) AS ranges FROM event_ranges GROUP BY device, boot_id) AS known
LEFT JOIN devices ON devices.id = known.device
LEFT JOIN (SELECT device, boot_id, MIN(received_at) AS earliest, MAX(received_at) AS latest
           FROM ({' UNION ALL '.join(f'SELECT device, boot_id, received_at FROM {table}' for table in RECORDS)}) AS events
           GROUP BY device, boot_id) AS told
       ON told.device = known.device AND told.boot_id = known.boot_id
"""


def upgrade() -> None:
    op.create_table('boots',
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('boot_id', sa.String(length=64), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.Column('era', sa.BigInteger(), nullable=False),
    sa.Column('counted', sa.BigInteger(), nullable=False),
    sa.Column('turn', sa.BigInteger(), nullable=False),
    sa.Column('first_received', sa.Double(), nullable=False),
    sa.Column('last_received', sa.Double(), nullable=False),
    sa.Column('will_received', sa.Double(), nullable=True),
    sa.Column('hardware', sa.String(length=200), nullable=True),
    sa.Column('agent_version', sa.String(length=200), nullable=True),
    sa.Column('range_count', sa.Integer(), nullable=False),
    sa.Column('closed_to', sa.BigInteger(), nullable=False),
    sa.Column('given_up', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('device', 'boot_id', name=op.f('pk_boots'))
    )
    op.create_index(op.f('ix_boots_device_era_counted_turn'), 'boots', ['device', 'era', 'counted', 'turn'])

    op.create_table('identity_conflicts',
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('boots', sa.JSON(), nullable=False),
    sa.Column('speaker', sa.String(length=64), nullable=False),
    sa.Column('signs', sa.BigInteger(), nullable=False),
    sa.Column('seen_at', sa.Double(), nullable=False),
    sa.Column('since', sa.Double(), nullable=True),
    sa.Column('is_one_number', sa.Boolean(), nullable=False),
    sa.Column('message', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['device'], ['devices.id'], name=op.f('fk_identity_conflicts_device_devices')),
    sa.PrimaryKeyConstraint('device', name=op.f('pk_identity_conflicts'))
    )
    op.create_table('dead_letters',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('topic', sa.String(length=300), nullable=False),
    sa.Column('boot_id', sa.String(length=64), nullable=True),
    sa.Column('sequence', sa.BigInteger(), nullable=True),
    sa.Column('reason', sa.String(length=32), nullable=False),
    sa.Column('message', sa.String(length=500), nullable=False),
    sa.Column('sha256', sa.String(length=64), nullable=False),
    sa.Column('size_bytes', sa.Integer(), nullable=False),
    sa.Column('times', sa.BigInteger(), nullable=False),
    sa.Column('first_received', sa.Double(), nullable=False),
    sa.Column('last_received', sa.Double(), nullable=False),
    sa.Column('payload', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['device'], ['devices.id'], name=op.f('fk_dead_letters_device_devices')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_dead_letters')),
    sa.UniqueConstraint('device', 'sha256', name=op.f('uq_dead_letters_device_sha256'))
    )
    op.create_index(op.f('ix_dead_letters_device_id'), 'dead_letters', ['device', 'id'])
    op.create_index(op.f('ix_dead_letters_reason'), 'dead_letters', ['reason'])

    # not in a batch: that would rebuild the table, and other rows refer to it
    for name in ('enrolled_again_at', 'limited_at'):
        op.add_column('devices', sa.Column(name, sa.Double(), nullable=True))
    for name in ('limited_messages', 'dead_letters_dropped'):
        op.add_column('devices', sa.Column(name, sa.BigInteger(), nullable=False, server_default='0'))
    op.add_column('devices', sa.Column('heard', sa.JSON(), nullable=False, server_default='{}'))

    connection = op.get_bind()
    connection.execute(sa.text(BOOTS))
    _write_heard(connection)
    op.drop_column('devices', 'heard_sequence')


def _write_heard(connection: sa.Connection) -> None:
    """Of what was known of a device only the last event was known, so all of it counts as said by that one."""
    devices = sa.table(
        'devices', sa.column('id'), sa.column('boot_id'), sa.column('heard_sequence'), sa.column('heard', sa.JSON())
    )
    boots = sa.table('boots', sa.column('device'), sa.column('boot_id'), sa.column('turn'))
    present = sa.and_(boots.c.device == devices.c.id, boots.c.boot_id == devices.c.boot_id)
    rows = connection.execute(
        sa.select(devices.c.id, boots.c.turn, devices.c.heard_sequence).join(boots, present)
    ).all()
    things = ('last', 'birth', 'health', 'drift', 'release')
    if rows:
        connection.execute(
            devices.update().where(devices.c.id == sa.bindparam('device')).values(heard=sa.bindparam('position')),
            [{'device': device, 'position': dict.fromkeys(things, [0, 0, turn, sequence])} for device, turn, sequence in rows],
        )


def downgrade() -> None:
    op.add_column('devices', sa.Column('heard_sequence', sa.BigInteger(), nullable=False, server_default='0'))
    for name in ('heard', 'dead_letters_dropped', 'limited_messages', 'limited_at', 'enrolled_again_at'):
        op.drop_column('devices', name)
    op.drop_index(op.f('ix_dead_letters_reason'), table_name='dead_letters')
    op.drop_index(op.f('ix_dead_letters_device_id'), table_name='dead_letters')
    op.drop_table('dead_letters')
    op.drop_table('identity_conflicts')
    op.drop_index(op.f('ix_boots_device_era_counted_turn'), table_name='boots')
    op.drop_table('boots')

"""commands to devices and settings of devices; what people called normal becomes a command

Revision 0006, after 0005.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None

KEPT_FOR_S = 90 * 86400.0


def upgrade() -> None:
    words = op.create_table('device_commands',
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('counter', sa.BigInteger(), nullable=False),
    sa.Column('settings', sa.JSON(), nullable=False),
    sa.Column('settings_counter', sa.BigInteger(), nullable=False),
    sa.Column('settings_by', sa.String(length=200), nullable=True),
    sa.Column('settings_at', sa.Double(), nullable=True),
    sa.ForeignKeyConstraint(['device'], ['devices.id'], name=op.f('fk_device_commands_device_devices')),
    sa.PrimaryKeyConstraint('device', name=op.f('pk_device_commands'))
    )
    commands = op.create_table('commands',
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('number', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('action', sa.String(length=64), nullable=False),
    sa.Column('arguments', sa.JSON(), nullable=False),
    sa.Column('status', sa.String(length=16), nullable=False),
    sa.Column('code', sa.String(length=64), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('is_device_word', sa.Boolean(), nullable=False),
    sa.Column('asked_by', sa.String(length=200), nullable=False),
    sa.Column('asked_at', sa.Double(), nullable=False),
    sa.Column('expires_at', sa.Double(), nullable=False),
    sa.Column('changed_at', sa.Double(), nullable=False),
    sa.Column('request_key', sa.String(length=64), nullable=True),
    sa.Column('report', sa.LargeBinary(), nullable=True),
    sa.Column('report_bytes', sa.Integer(), nullable=True),
    sa.ForeignKeyConstraint(['device'], ['devices.id'], name=op.f('fk_commands_device_devices')),
    sa.PrimaryKeyConstraint('device', 'number', name=op.f('pk_commands'))
    )
    with op.batch_alter_table('commands', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_commands_device_request_key'), ['device', 'request_key'], unique=True)
        batch_op.create_index(batch_op.f('ix_commands_status_expires_at'), ['status', 'expires_at'], unique=False)

    # what a device had not obeyed yet waits for it as a command; what it had is a command that is done
    found = op.get_bind().execute(sa.text(
        'SELECT n.device, n.counter, n.until_s, n.accepted_by, n.accepted_at, d.last_health'
        ' FROM normal_windows n JOIN devices d ON d.id = n.device'
    )).mappings().all()
    for row in found:
        health = row['last_health']
        health = json.loads(health) if isinstance(health, str) else health
        is_obeyed = ((health or {}).get('accepted') or 0) >= row['counter']
        op.bulk_insert(words, [{
            'device': row['device'], 'counter': row['counter'], 'settings': {}, 'settings_counter': 0,
        }])
        op.bulk_insert(commands, [{
            'device': row['device'], 'number': row['counter'], 'action': 'accept-as-normal',
            'arguments': {'until_s': row['until_s']}, 'status': 'DONE' if is_obeyed else 'WAITING', 'code': '',
            'reason': 'before commands', 'is_device_word': is_obeyed, 'asked_by': row['accepted_by'],
            'asked_at': row['accepted_at'], 'expires_at': row['accepted_at'] + KEPT_FOR_S,
            'changed_at': row['accepted_at'],
        }])
    op.drop_table('normal_windows')


def downgrade() -> None:
    op.create_table('normal_windows',
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('counter', sa.BigInteger(), nullable=False),
    sa.Column('until_s', sa.Double(), nullable=False),
    sa.Column('accepted_by', sa.String(length=200), nullable=False),
    sa.Column('accepted_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['device'], ['devices.id'], name=op.f('fk_normal_windows_device_devices')),
    sa.PrimaryKeyConstraint('device', name=op.f('pk_normal_windows'))
    )
    with op.batch_alter_table('commands', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_commands_status_expires_at'))
        batch_op.drop_index(batch_op.f('ix_commands_device_request_key'))

    op.drop_table('commands')
    op.drop_table('device_commands')

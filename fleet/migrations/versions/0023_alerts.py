"""Alerts, their storms, the outbox to receivers, and silences

Revision 0023, after 0022.
"""

import sqlalchemy as sa
from alembic import op

revision = '0023'
down_revision = '0022'
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')


def partial_index(name, table, columns, condition, *, unique=False):
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.create_table('alert_groups',
    sa.Column('id', NUMBER, autoincrement=True, nullable=False),
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('kind', sa.String(length=32), nullable=False),
    sa.Column('severity', sa.String(length=16), nullable=False),
    sa.Column('family', sa.String(length=64), nullable=False),
    sa.Column('site', sa.String(length=200), nullable=False),
    *(sa.Column(name, sa.Double(), nullable=False) for name in ('opened_at', 'joined_at', 'tell_at')),
    *(sa.Column(name, sa.Double(), nullable=True) for name in ('told_at', 'reminded_at')),
    sa.Column('reminders', sa.Integer(), nullable=False),
    sa.Column('resolved_at', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alert_groups')),
    sa.UniqueConstraint('name', name=op.f('uq_alert_groups_name'))
    )
    op.create_index(op.f('ix_alert_groups_resolved_at'), 'alert_groups', ['resolved_at'])
    partial_index('ix_alert_groups_unresolved', 'alert_groups', ['id'], 'resolved_at IS NULL')
    op.create_table('alerts',
    sa.Column('id', NUMBER, autoincrement=True, nullable=False),
    sa.Column('key', sa.String(length=300), nullable=False),
    sa.Column('kind', sa.String(length=32), nullable=False),
    sa.Column('subject', sa.String(length=200), nullable=False),
    sa.Column('device', sa.String(length=64), nullable=True),
    sa.Column('family', sa.String(length=64), nullable=False),
    sa.Column('site', sa.String(length=200), nullable=False),
    sa.Column('detail', sa.String(length=500), nullable=False),
    sa.Column('episode', sa.String(length=64), nullable=True),
    sa.Column('times', sa.BigInteger(), nullable=False),
    *(sa.Column(name, sa.Double(), nullable=False) for name in ('opened_at', 'last_at', 'due_at', 'hold_s')),
    sa.Column('ended_at', sa.Double(), nullable=True),
    sa.Column('ending', sa.String(length=200), nullable=False),
    sa.Column('settled_at', sa.Double(), nullable=True),
    sa.Column('silence', sa.Integer(), nullable=True),
    sa.Column('group_id', NUMBER, nullable=True),
    sa.ForeignKeyConstraint(['group_id'], ['alert_groups.id'], name=op.f('fk_alerts_group_id_alert_groups')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alerts'))
    )
    partial_index('ix_alerts_live_key', 'alerts', ['key'], 'settled_at IS NULL', unique=True)
    op.create_index(op.f('ix_alerts_key_settled_at'), 'alerts', ['key', 'settled_at'])
    op.create_index(op.f('ix_alerts_group_id_settled_at'), 'alerts', ['group_id', 'settled_at'])
    for name in ('device', 'settled_at', 'silence'):
        op.create_index(op.f(f'ix_alerts_{name}'), 'alerts', [name])
    op.create_table('alert_deliveries',
    sa.Column('id', NUMBER, autoincrement=True, nullable=False),
    sa.Column('group_id', NUMBER, nullable=False),
    sa.Column('receiver', sa.String(length=64), nullable=False),
    sa.Column('event', sa.String(length=32), nullable=False),
    sa.Column('state', sa.String(length=16), nullable=False),
    sa.Column('queued_at', sa.Double(), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('tried_at', sa.Double(), nullable=True),
    sa.Column('delivered_at', sa.Double(), nullable=True),
    sa.Column('is_alone', sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column('error', sa.String(length=300), nullable=False),
    sa.ForeignKeyConstraint(
        ['group_id'], ['alert_groups.id'], name=op.f('fk_alert_deliveries_group_id_alert_groups')
    ),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alert_deliveries')),
    sa.UniqueConstraint('group_id', 'receiver', 'event', name=op.f('uq_alert_deliveries_group_id_receiver_event'))
    )
    partial_index('ix_alert_deliveries_waiting', 'alert_deliveries', ['receiver', 'id'], "state = 'waiting'")
    op.create_table('alert_receivers',
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('failures', sa.Integer(), nullable=False),
    sa.Column('failing_since', sa.Double(), nullable=True),
    sa.Column('next_at', sa.Double(), nullable=True),
    sa.Column('error', sa.String(length=300), nullable=False),
    sa.Column('delivered_at', sa.Double(), nullable=True),
    sa.Column('recent', sa.JSON(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_alert_receivers'))
    )
    op.create_table('alert_silences',
    sa.Column('id', NUMBER, autoincrement=True, nullable=False),
    sa.Column('query', sa.String(length=2000), nullable=False),
    sa.Column('kinds', sa.JSON(), nullable=False),
    sa.Column('comment', sa.String(length=500), nullable=False),
    *(sa.Column(name, sa.Double(), nullable=False) for name in ('starts_at', 'ends_at', 'created_at')),
    sa.Column('created_by', sa.String(length=200), nullable=False),
    sa.Column('ended_by', sa.String(length=200), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alert_silences'))
    )
    op.create_index(op.f('ix_alert_silences_ends_at'), 'alert_silences', ['ends_at'])
    op.create_table('alert_places',
    sa.Column('table_name', sa.String(length=64), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('table_name', name=op.f('pk_alert_places'))
    )


def downgrade() -> None:
    for table in (
        'alert_places', 'alert_silences', 'alert_receivers', 'alert_deliveries', 'alerts', 'alert_groups'
    ):
        op.drop_table(table)

"""health in blocks, what the gates saw at each look, limits in place of metrics of success

A plan that compared with the control did so without a guarantee: that condition goes, and no gate takes its place in a
plan that was made before there were any.

Revision 0016, after 0015.
"""

import sqlalchemy as sa
from alembic import op

revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None

HEALTH = {'interval_s': sa.Double(), 'memory_pss_bytes': sa.BigInteger(), 'sight': sa.Double()}
COUNTS = ('windows', 'judged', 'latency_count', 'memory_count', 'sight_count', 'silences')
SUMS = (
    'seconds', 'over', 'latency_sum', 'drift_sum', 'memory_t', 'memory_tt', 'memory_y', 'memory_ty', 'sight_sum',
    'first_at', 'last_at',
)  # fmt: skip


def upgrade() -> None:
    for name, kind in HEALTH.items():
        op.add_column('health_reports', sa.Column(name, kind, nullable=True))
    op.create_table('health_blocks',
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('start', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('release', sa.String(length=200), nullable=False),
    sa.Column('reports', sa.BigInteger(), nullable=False),
    *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
    *(sa.Column(name, sa.Double(), nullable=False) for name in SUMS),
    sa.Column('silence_at', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('device', 'start', 'release', name=op.f('pk_health_blocks'))
    )
    op.create_index(op.f('ix_health_blocks_start'), 'health_blocks', ['start'])
    op.create_table('roll_ups',
    sa.Column('table_name', sa.String(length=64), nullable=False),
    sa.Column('done_to', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('table_name', name=op.f('pk_roll_ups'))
    )
    op.create_table('rollout_looks',
    sa.Column('rollout', sa.String(length=64), nullable=False),
    sa.Column('group_number', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('number', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.Column('answer', sa.JSON(), nullable=False),
    sa.ForeignKeyConstraint(['rollout'], ['rollouts.id'], name=op.f('fk_rollout_looks_rollout_rollouts')),
    sa.PrimaryKeyConstraint('rollout', 'group_number', 'number', name=op.f('pk_rollout_looks'))
    )
    op.add_column('rollout_groups', sa.Column('looks', sa.Integer(), nullable=False, server_default='0'))
    _rewrite_plans()


def _rewrite_plans() -> None:
    rollouts = sa.table('rollouts', sa.column('id'), sa.column('plan', sa.JSON()))
    connection = op.get_bind()
    for name, plan in connection.execute(sa.select(rollouts.c.id, rollouts.c.plan)).all():
        metrics = (plan.get('success') or {}).pop('metrics', [])
        plan['limits'] = [
            {'metric': one['name'], 'op': one.get('op', '<='), 'value': one['value']}
            for one in metrics
            if one.get('value') is not None
        ]
        plan['gates'] = None
        connection.execute(sa.update(rollouts).where(rollouts.c.id == name).values(plan=plan))


def downgrade() -> None:
    rollouts = sa.table('rollouts', sa.column('id'), sa.column('plan', sa.JSON()))
    connection = op.get_bind()
    for name, plan in connection.execute(sa.select(rollouts.c.id, rollouts.c.plan)).all():
        limits = plan.pop('limits', [])
        plan.pop('gates', None)
        plan.setdefault('success', {})['metrics'] = [
            {'name': one['metric'], 'op': one['op'], 'value': one['value']} for one in limits
        ]
        connection.execute(sa.update(rollouts).where(rollouts.c.id == name).values(plan=plan))
    op.drop_column('rollout_groups', 'looks')
    op.drop_table('rollout_looks')
    op.drop_table('roll_ups')
    op.drop_index(op.f('ix_health_blocks_start'), table_name='health_blocks')
    op.drop_table('health_blocks')
    for name in HEALTH:
        op.drop_column('health_reports', name)

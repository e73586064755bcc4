"""What a rollout remembers of its devices: attempts granted, quarantine, returns that are awaited, who has them now

Revision 0019, after 0018. `version` is raised by every writer of a rollout.
"""

import sqlalchemy as sa
from alembic import op

revision = '0019'
down_revision = '0018'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('rollouts') as table:
        table.add_column(sa.Column('version', sa.BigInteger(), nullable=False, server_default='0'))
        table.add_column(sa.Column('rollback_to', sa.String(80), nullable=True))
    with op.batch_alter_table('rollout_groups') as table:
        table.add_column(sa.Column('is_cleared', sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table('rollout_executions') as table:
        table.add_column(sa.Column('allowed', sa.Integer(), nullable=False, server_default='0'))
        table.add_column(sa.Column('is_unheard', sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column('is_awaited', sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column('held_until', sa.Double(), nullable=True))
        table.add_column(sa.Column('failed_at', sa.Double(), nullable=True))
        table.add_column(sa.Column('superseded_by', sa.String(64), nullable=True))
    op.execute(
        "UPDATE rollout_executions SET is_awaited = (returned_at IS NOT NULL AND restored_at IS NULL)"
    )
    op.execute(
        "UPDATE rollout_executions SET failed_at = since"
        " WHERE state IN ('FAILED', 'REJECTED', 'TIMED_OUT', 'ROLLED_BACK') AND returned_at IS NULL"
    )
    # who has a device now was never written down: the rollout that gave it a release next
    later = (
        "SELECT other.rollout FROM rollout_executions AS other WHERE other.device = rollout_executions.device"
        " AND other.given_at > rollout_executions.given_at ORDER BY other.given_at LIMIT 1"
    )
    op.execute(
        f"UPDATE rollout_executions SET superseded_by = ({later}) WHERE given_at IS NOT NULL"  # noqa: S608 - our own words
    )


def downgrade() -> None:
    # column by column: SQLite would rebuild tables to which others refer
    for name in ('superseded_by', 'failed_at', 'held_until', 'is_awaited', 'is_unheard', 'allowed'):
        op.drop_column('rollout_executions', name)
    op.drop_column('rollout_groups', 'is_cleared')
    for name in ('rollback_to', 'version'):
        op.drop_column('rollouts', name)

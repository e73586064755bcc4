"""What a rollout remembers of its devices: attempts granted, quarantine, returns that are awaited, who has them now

Revision 0019, after 0018. `version` is raised by every writer of a rollout.
"""

import sqlalchemy as sa
from alembic import op

revision = '0019'
down_revision = '0018'
branch_labels = None
depends_on = None

NEW = (
    ('rollouts', 'version', sa.BigInteger(), '0'),
    ('rollouts', 'rollback_to', sa.String(80), None),
    ('rollout_groups', 'is_cleared', sa.Boolean(), sa.false()),
    ('rollout_executions', 'allowed', sa.Integer(), '0'),
    ('rollout_executions', 'is_unheard', sa.Boolean(), sa.false()),
    ('rollout_executions', 'is_awaited', sa.Boolean(), sa.false()),
    ('rollout_executions', 'held_until', sa.Double(), None),
    ('rollout_executions', 'failed_at', sa.Double(), None),
    ('rollout_executions', 'superseded_by', sa.String(64), None),
)
"""Table, column, type, and what rows of before have in it; null where that is None."""


def upgrade() -> None:
    # not in a batch: that would make the tables anew, their constraints in another order each time
    for table, name, kind, default in NEW:
        op.add_column(table, sa.Column(name, kind, nullable=default is None, server_default=default))
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
    for table, name, _, _ in reversed(NEW):
        op.drop_column(table, name)

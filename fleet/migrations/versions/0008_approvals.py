"""whether a person approved a release

Revision 0008, after 0007. What a person approved before is taken over from the timelines of the rollouts.
"""

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None

_FIRST_APPROVAL = """
    SELECT MIN(t.{column}) FROM rollouts r JOIN rollout_timeline t ON t.rollout = r.id
    WHERE r.release = releases.family || '/' || releases.version
      AND t.subject = 'rollout' AND t.was = 'WAITING_FOR_APPROVAL' AND t.state = 'READY'
      AND (t.actor LIKE 'operator:%' OR t.actor LIKE 'admin:%')
"""


def upgrade() -> None:
    with op.batch_alter_table('releases', schema=None) as batch_op:
        batch_op.add_column(sa.Column('approved_at', sa.Double(), nullable=True))
        batch_op.add_column(sa.Column('approved_by', sa.String(length=200), nullable=True))
    op.execute(f"UPDATE releases SET approved_at = ({_FIRST_APPROVAL.format(column='at')})")
    op.execute(
        f"UPDATE releases SET approved_by = ({_FIRST_APPROVAL.format(column='actor')} AND t.at = releases.approved_at)"
        " WHERE approved_at IS NOT NULL"
    )


def downgrade() -> None:
    with op.batch_alter_table('releases', schema=None) as batch_op:
        batch_op.drop_column('approved_by')
        batch_op.drop_column('approved_at')

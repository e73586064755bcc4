"""Tallies beside a rollout, indexes for who looks at what is new, and numbers of reports that are never given twice

Revision 0020, after 0019. Tallies of a rollout that nobody writes any more stay null: they are counted when they are asked for.
"""

import sqlalchemy as sa
from alembic import op

revision = '0020'
down_revision = '0019'
branch_labels = None
depends_on = None

REVOKED = sa.text("state = 'revoked'")


def upgrade() -> None:
    op.add_column('rollouts', sa.Column('tallies', sa.JSON(), nullable=True))
    op.add_column(
        'rollouts', sa.Column('is_unsent', sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.create_index(
        op.f('ix_rollout_timeline_rollout_subject_id'), 'rollout_timeline', ['rollout', 'subject', 'id']
    )
    op.drop_index('ix_rollout_timeline_rollout', table_name='rollout_timeline')
    op.create_index('ix_devices_revoked', 'devices', ['id'], sqlite_where=REVOKED, postgresql_where=REVOKED)
    _count_reports(never_twice=True)


def downgrade() -> None:
    _count_reports(never_twice=False)
    op.drop_index('ix_devices_revoked', table_name='devices')
    op.create_index('ix_rollout_timeline_rollout', 'rollout_timeline', ['rollout'])
    op.drop_index(op.f('ix_rollout_timeline_rollout_subject_id'), table_name='rollout_timeline')
    # not in a batch: that would drop the table, to which others point
    op.drop_column('rollouts', 'is_unsent')
    op.drop_column('rollouts', 'tallies')


def _count_reports(*, never_twice: bool) -> None:
    """PostgreSQL's sequences never give a number twice."""
    if op.get_bind().dialect.name == 'sqlite':
        kwargs = {'sqlite_autoincrement': never_twice}
        with op.batch_alter_table('install_reports', recreate='always', table_kwargs=kwargs):
            pass

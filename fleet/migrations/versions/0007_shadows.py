"""what came of judging by a release beside the one before it, on each device

Revision 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('install_reports', schema=None) as batch_op:
        batch_op.add_column(sa.Column('shadow', sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column('install_reports', 'shadow')

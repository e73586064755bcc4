"""that the signed repository lists a release

Revision 0012, after 0011.
"""

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('releases', schema=None) as batch_op:
        batch_op.add_column(sa.Column('listed_at', sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column('releases', 'listed_at')

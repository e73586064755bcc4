"""that the owner of a device lets no raw window leave

Revision 0009, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('anomalies', schema=None) as batch_op:
        batch_op.add_column(sa.Column('window_withheld', sa.Boolean(), nullable=True))


def downgrade() -> None:
    op.drop_column('anomalies', 'window_withheld')

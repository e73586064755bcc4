"""how far a machine has come to rest from its reference, and which sensors' distributions differ

Revision 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # columns that may be null: SQLite adds them without rebuilding the table
    with op.batch_alter_table('drift_reports', schema=None) as batch_op:
        batch_op.add_column(sa.Column('severity', sa.Double(), nullable=True))
        batch_op.add_column(sa.Column('shapes', sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column('drift_reports', 'shapes')
    op.drop_column('drift_reports', 'severity')

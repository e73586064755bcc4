"""counters of desired states as long as messages may hold

Revision 0014, after 0013.
"""

import sqlalchemy as sa
from alembic import op

revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('desired_states', schema=None) as batch_op:
        batch_op.alter_column('counter', existing_type=sa.Integer(), type_=sa.BigInteger(), existing_nullable=False)


def downgrade() -> None:
    with op.batch_alter_table('desired_states', schema=None) as batch_op:
        batch_op.alter_column('counter', existing_type=sa.BigInteger(), type_=sa.Integer(), existing_nullable=False)

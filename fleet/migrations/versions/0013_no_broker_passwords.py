"""no broker passwords: a device shows the broker its certificate

Revision 0013, after 0012.
"""

import sqlalchemy as sa
from alembic import op

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column('devices', 'broker_password_hash')


def downgrade() -> None:
    op.add_column('devices', sa.Column('broker_password_hash', sa.String(), nullable=False, server_default='-'))

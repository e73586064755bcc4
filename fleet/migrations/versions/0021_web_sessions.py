"""Browsers that are signed in, and the codes that sign one in

Revision 0021, after 0020.
"""

import sqlalchemy as sa
from alembic import op

revision = '0021'
down_revision = '0020'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'web_sessions',
        sa.Column('id', sa.String(16), nullable=False),
        sa.Column('sha256', sa.String(64), nullable=False),
        sa.Column('token', sa.String(64), nullable=False),
        sa.Column('token_sha256', sa.String(64), nullable=False),
        sa.Column('browser', sa.String(200), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.Column('last_used_at', sa.Double(), nullable=False),
        sa.Column('expires_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_web_sessions')),
        sa.UniqueConstraint('sha256', name=op.f('uq_web_sessions_sha256')),
    )
    op.create_index(op.f('ix_web_sessions_token'), 'web_sessions', ['token'])
    op.create_index(op.f('ix_web_sessions_expires_at'), 'web_sessions', ['expires_at'])
    op.create_table(
        'sign_in_codes',
        sa.Column('sha256', sa.String(64), nullable=False),
        sa.Column('token_sha256', sa.String(64), nullable=False),
        sa.Column('expires_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('sha256', name=op.f('pk_sign_in_codes')),
    )


def downgrade() -> None:
    op.drop_table('sign_in_codes')
    op.drop_index(op.f('ix_web_sessions_expires_at'), table_name='web_sessions')
    op.drop_index(op.f('ix_web_sessions_token'), table_name='web_sessions')
    op.drop_table('web_sessions')

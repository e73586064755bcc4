"""who a device is, by its claim; what it says of itself, apart; its certificate; claims for one device each

A device keeps what it had as what it is enrolled as. Claims from before let in any device as anything: they are revoked.

Revision 0011, after 0010.
"""

import re
import time

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None

# as protocol.labels has it on the day of this step
_LINE = re.compile(
    r'[^<>\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\uffff]{0,200}'
)


def upgrade() -> None:
    # column by column: SQLite adds them without rebuilding a table to which others refer
    for column in (
        sa.Column('site', sa.String(length=200), nullable=False, server_default=''),
        sa.Column('reported_family', sa.String(length=64), nullable=True),
        sa.Column('reported_labels', sa.JSON(), nullable=False, server_default='{}'),
        sa.Column('claim', sa.String(length=64), nullable=True),
        sa.Column('certificate_serial', sa.String(length=64), nullable=True),
        sa.Column('certificate_issuer', sa.String(length=64), nullable=True),
        sa.Column('certificate_ends_at', sa.Double(), nullable=True),
    ):
        op.add_column('devices', column)
    op.create_index(op.f('ix_devices_site'), 'devices', ['site'])
    devices = sa.table(
        'devices', sa.column('id'), sa.column('site'), sa.column('labels', sa.JSON()),
        sa.column('family'), sa.column('reported_family'), sa.column('reported_labels', sa.JSON()),
    )  # fmt: skip
    connection = op.get_bind()
    rows = connection.execute(sa.select(devices.c.id, devices.c.labels, devices.c.family)).all()
    for name, labels, family in rows:
        kept = dict(list({k: v for k, v in (labels or {}).items() if _is_line(k) and _is_line(v)}.items())[:32])
        site = kept.pop('site', '')
        said = {**kept, **({'site': site} if site else {})}
        values = {'labels': kept, 'site': site, 'reported_labels': said, 'reported_family': family}
        connection.execute(sa.update(devices).where(devices.c.id == name).values(**values))
    with op.batch_alter_table('claim_tokens', schema=None) as batch_op:
        batch_op.add_column(sa.Column('family', sa.String(length=64), nullable=False, server_default=''))
        batch_op.add_column(sa.Column('site', sa.String(length=200), nullable=False, server_default=''))
        batch_op.add_column(sa.Column('labels', sa.JSON(), nullable=False, server_default='{}'))
        batch_op.add_column(sa.Column('for_device', sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column('needs_approval', sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column('revoked_at', sa.Double(), nullable=True))
        batch_op.add_column(sa.Column('used_at', sa.Double(), nullable=True))
        batch_op.add_column(sa.Column('used_by', sa.String(length=64), nullable=True))
    claims = sa.table('claim_tokens', sa.column('created_at'), sa.column('expires_at'), sa.column('revoked_at'))
    connection.execute(
        sa.update(claims).values(
            expires_at=sa.func.coalesce(claims.c.expires_at, claims.c.created_at), revoked_at=time.time()
        )
    )
    with op.batch_alter_table('claim_tokens', schema=None) as batch_op:
        batch_op.drop_column('uses')
        batch_op.drop_column('uses_left')
        batch_op.alter_column('expires_at', existing_type=sa.Double(), nullable=False)
        for name in ('family', 'site', 'labels', 'needs_approval'):
            batch_op.alter_column(name, server_default=None)
        batch_op.create_index(batch_op.f('ix_claim_tokens_name'), ['name'])


def downgrade() -> None:
    with op.batch_alter_table('claim_tokens', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_claim_tokens_name'))
        for name in ('family', 'site', 'labels', 'for_device', 'needs_approval', 'revoked_at', 'used_at', 'used_by'):
            batch_op.drop_column(name)
        batch_op.alter_column('expires_at', existing_type=sa.Double(), nullable=True)
        batch_op.add_column(sa.Column('uses', sa.Integer(), nullable=False, server_default='1'))
        batch_op.add_column(sa.Column('uses_left', sa.Integer(), nullable=False, server_default='0'))
    op.drop_index(op.f('ix_devices_site'), table_name='devices')
    for name in (
        'site', 'reported_family', 'reported_labels', 'claim',
        'certificate_serial', 'certificate_issuer', 'certificate_ends_at',
    ):  # fmt: skip
        op.drop_column('devices', name)


def _is_line(text: object) -> bool:
    return isinstance(text, str) and _LINE.fullmatch(text) is not None

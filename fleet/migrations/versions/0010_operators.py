"""who answers for a token, its rotation and end; who is the author of a rollout; the chain of the audit log

Revision 0010, after 0009. Operators' and admins' tokens of before are taken over as of the person they are named after
(`fedge-fleet tokens rotate NAME --person` says otherwise); the lines of the audit log are chained as they stand.
"""

import secrets

import sqlalchemy as sa
from alembic import op

from fleet.audit_chain import Head, chain

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None

_TOKENS = (
    sa.Column('person', sa.String(length=64), nullable=True),
    sa.Column('is_program', sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column('families', sa.JSON(), nullable=True),
    sa.Column('earlier_sha256', sa.String(length=64), nullable=True),
    sa.Column('earlier_until', sa.Double(), nullable=True),
    sa.Column('rotated_at', sa.Double(), nullable=True),
    sa.Column('expires_at', sa.Double(), nullable=True),
    sa.Column('last_used_at', sa.Double(), nullable=True),
)
_ROLLOUTS = (
    sa.Column('author', sa.String(length=64), nullable=True),
    sa.Column('needs_approval', sa.Boolean(), nullable=False, server_default=sa.false()),
)
_AUDIT = (
    sa.Column('salt', sa.String(length=32), nullable=True),
    sa.Column('detail_sha256', sa.String(length=64), nullable=False, server_default=''),
    sa.Column('previous', sa.String(length=64), nullable=False, server_default=''),
    sa.Column('sha256', sa.String(length=64), nullable=False, server_default=''),
)
_TABLES = (('operator_tokens', _TOKENS), ('rollouts', _ROLLOUTS), ('audit_log', _AUDIT))

_WORDS = 'the audit log is append-only: only words of a device that is erased may go'
_SAME = ' AND '.join(
    f'NEW.{name} = OLD.{name}'
    for name in ('id', 'at', 'actor', 'action', 'subject', 'detail_sha256', 'previous', 'sha256')
)
_SQLITE = (
    f"CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log"
    f" WHEN NOT ({_SAME} AND NEW.salt IS NULL AND NEW.detail = '{{}}')"
    f" BEGIN SELECT RAISE(ABORT, '{_WORDS}'); END",
    f"CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log BEGIN SELECT RAISE(ABORT, '{_WORDS}'); END",
)
_POSTGRESQL = (
    f"""CREATE FUNCTION audit_log_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' THEN
            IF {_SAME} AND NEW.salt IS NULL AND NEW.detail::text = '{{}}' THEN
                RETURN NEW;
            END IF;
        END IF;
        RAISE EXCEPTION '{_WORDS}';
    END $$""",
    "CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE ON audit_log"
    " FOR EACH ROW EXECUTE FUNCTION audit_log_append_only()",
    "CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_log_append_only()",
)


def upgrade() -> None:
    # Column by column, never by a new table: on SQLite that would drop one to which rows of others refer
    for table, columns in _TABLES:
        for column in columns:
            op.add_column(table, column.copy())
    op.execute("UPDATE operator_tokens SET person = lower(name) WHERE role IN ('operator', 'admin')")
    op.execute(sa.text("UPDATE operator_tokens SET is_program = :yes WHERE role = 'publisher'").bindparams(yes=True))
    _name_authors()
    _chain()
    for statement in _SQLITE if op.get_bind().dialect.name == 'sqlite' else _POSTGRESQL:
        op.execute(statement)


def _name_authors() -> None:
    rollouts = sa.table('rollouts', *(sa.column(n) for n in ('id', 'created_by', 'author', 'needs_approval')), sa.column('plan', sa.JSON()))
    connection = op.get_bind()
    for row in connection.execute(sa.select(rollouts)).all():
        role, _, name = row.created_by.partition(':')
        author = name.lower() if role in ('operator', 'admin') else None
        asked = bool(row.plan.get('require_approval'))
        connection.execute(
            sa.update(rollouts).where(rollouts.c.id == row.id).values(author=author, needs_approval=asked)
        )


def _chain() -> None:
    log = sa.table(
        'audit_log',
        *(sa.column(name) for name in ('id', 'at', 'actor', 'action', 'subject', 'salt', 'detail_sha256', 'previous', 'sha256')),
        sa.column('detail', sa.JSON()),
    )
    connection, head, number = op.get_bind(), Head(), 0
    first = sa.select(log).order_by(log.c.id).limit(500)
    added = ('salt', 'detail_sha256', 'previous', 'sha256')
    fill = sa.update(log).where(log.c.id == sa.bindparam('number')).values({n: sa.bindparam(f'new_{n}') for n in added})
    while rows := connection.execute(first.where(log.c.id > number)).all():
        filled = []
        for row in rows:
            words = {name: getattr(row, name) for name in ('at', 'actor', 'action', 'subject', 'detail')}
            line = chain(Head(id=row.id - 1, sha256=head.sha256), **words, salt=secrets.token_hex(16))
            head, number = Head(id=row.id, sha256=line.sha256), row.id
            filled.append({'number': number} | {f'new_{name}': getattr(line, name) for name in added})
        connection.execute(fill, filled)


def downgrade() -> None:
    if op.get_bind().dialect.name == 'sqlite':
        op.execute('DROP TRIGGER audit_log_no_update')
        op.execute('DROP TRIGGER audit_log_no_delete')
    else:
        op.execute('DROP TRIGGER audit_log_no_change ON audit_log')
        op.execute('DROP TRIGGER audit_log_no_truncate ON audit_log')
        op.execute('DROP FUNCTION audit_log_append_only()')
    for table, columns in reversed(_TABLES):
        for column in columns:
            op.drop_column(table, column.name)

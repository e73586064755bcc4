"""who leads of several processes, and what they are told of the words that others changed

Revision 0017, after 0016.
"""

import sqlalchemy as sa
from alembic import op

revision = '0017'
down_revision = '0016'
branch_labels = None
depends_on = None

WORDS = {'desired_states': 'desired', 'device_commands': 'commands', 'commands': 'commands'}
MOVES = ('install_reports', 'rollouts')


def upgrade() -> None:
    op.create_table(
        'leader',
        sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('epoch', sa.BigInteger(), nullable=False),
        sa.Column('instance', sa.String(length=200), nullable=False),
        sa.Column('installation', sa.String(length=64), nullable=False),
        sa.Column('since', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_leader')),
    )
    if op.get_bind().dialect.name != 'postgresql':
        return
    # told with the commit or not at all: whoever changed it may die at once. What the leader writes it tells itself.
    op.execute(
        "CREATE FUNCTION fedge_tell_word() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF current_setting('fedge.leads', true) IS DISTINCT FROM 'on' THEN"
        " PERFORM pg_notify('fedge_fleet', TG_ARGV[0] || ' ' || CASE TG_OP WHEN 'DELETE' THEN OLD.device ELSE NEW.device END);"
        " END IF; RETURN NULL; END $$"
    )
    op.execute(
        "CREATE FUNCTION fedge_tell_move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF current_setting('fedge.leads', true) IS DISTINCT FROM 'on' THEN"
        " PERFORM pg_notify('fedge_fleet', 'rollouts'); END IF; RETURN NULL; END $$"
    )
    for table, word in WORDS.items():
        op.execute(
            f"CREATE TRIGGER {table}_tell AFTER INSERT OR UPDATE OR DELETE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION fedge_tell_word('{word}')"
        )
    for table in MOVES:
        op.execute(
            f"CREATE TRIGGER {table}_tell AFTER INSERT OR UPDATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION fedge_tell_move()"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == 'postgresql':
        for table in (*WORDS, *MOVES):
            op.execute(f'DROP TRIGGER {table}_tell ON {table}')
        op.execute('DROP FUNCTION fedge_tell_word')
        op.execute('DROP FUNCTION fedge_tell_move')
    op.drop_table('leader')

"""SQLite: a line of the audit log is not replaced either

Revision 0015, after 0014. ``INSERT OR REPLACE`` takes the old line out without asking its DELETE trigger.
"""

from alembic import op

revision = '0015'
down_revision = '0014'
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == 'sqlite':
        op.execute(
            "CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log"
            " WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)"
            " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only: a line is never replaced'); END"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == 'sqlite':
        op.execute('DROP TRIGGER audit_log_no_replace')

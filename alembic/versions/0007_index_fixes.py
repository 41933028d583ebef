"""Partial indexes in the form that SQLite uses, and a day between what the triggers of the audit
log let be deleted and what retention deletes, since clocks differ.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_users_administrators", "users")
    op.create_index(
        "ix_users_administrators",
        "users",
        ["is_admin"],
        postgresql_where=sa.text("is_admin"),
        sqlite_where=sa.text("is_admin = 1"),
    )
    if op.get_context().dialect.name == "sqlite":
        _index_strangers("actor_id IS NULL AND succeeded = 0")
    _keep(days=29)


def downgrade() -> None:
    _keep(days=30)
    if op.get_context().dialect.name == "sqlite":
        _index_strangers("actor_id IS NULL AND NOT succeeded")
    op.drop_index("ix_users_administrators", "users")
    op.create_index(
        "ix_users_administrators",
        "users",
        ["id"],
        postgresql_where=sa.text("is_admin"),
        sqlite_where=sa.text("is_admin"),
    )


def _index_strangers(where: str) -> None:
    op.drop_index("ix_audit_log_strangers", "audit_log")
    op.create_index("ix_audit_log_strangers", "audit_log", ["id"], sqlite_where=sa.text(where))


def _keep(days: int) -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_log_delete")
        op.execute(
            "CREATE TRIGGER audit_log_delete BEFORE DELETE ON audit_log"
            f" WHEN OLD.at > datetime('now', '-{days} days')"
            " AND (OLD.succeeded OR OLD.actor_id IS NOT NULL)"
            " BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION audit_log_keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF TG_OP = 'DELETE' THEN"
        f"  IF OLD.at <= now() - interval '{days} days'"
        "  OR (NOT OLD.succeeded AND OLD.actor_id IS NULL) THEN RETURN OLD; END IF;"
        " END IF;"
        " RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = '42501';"
        " END $$"
    )

"""The audit log, which only grows."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BY_STRANGERS = sa.text("actor_id IS NULL AND NOT succeeded")


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.Identity(),
            nullable=False,
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("actor_id", sa.BigInteger(), nullable=True),
        sa.Column("subject_id", sa.BigInteger(), nullable=True),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
        sa.Column("address", sa.String(45), nullable=False),
        sa.Column("user_agent", sa.String(200), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("details", sa.String(1000), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    op.create_index("ix_audit_log_subject_id_id", "audit_log", ["subject_id", "id"])
    op.create_index("ix_audit_log_actor_id_id", "audit_log", ["actor_id", "id"])
    op.create_index("ix_audit_log_action_id", "audit_log", ["action", "id"])
    op.create_index(
        "ix_audit_log_strangers",
        "audit_log",
        ["id"],
        postgresql_where=_BY_STRANGERS,
        sqlite_where=_BY_STRANGERS,
    )
    if op.get_context().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER audit_log_update BEFORE UPDATE ON audit_log"
            " BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END"
        )
        op.execute(
            "CREATE TRIGGER audit_log_delete BEFORE DELETE ON audit_log"
            " WHEN OLD.at > datetime('now', '-30 days')"
            " AND (OLD.succeeded OR OLD.actor_id IS NOT NULL)"
            " BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION audit_log_keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF TG_OP = 'DELETE' THEN"
        "  IF OLD.at <= now() - interval '30 days'"
        "  OR (NOT OLD.succeeded AND OLD.actor_id IS NULL) THEN RETURN OLD; END IF;"
        " END IF;"
        " RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = '42501';"
        " END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_log_rows BEFORE UPDATE OR DELETE ON audit_log"
        " FOR EACH ROW EXECUTE FUNCTION audit_log_keep()"
    )
    op.execute(
        "CREATE TRIGGER audit_log_truncate BEFORE TRUNCATE ON audit_log"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_log_keep()"
    )


def downgrade() -> None:
    op.drop_table("audit_log")
    if op.get_context().dialect.name != "sqlite":
        op.execute("DROP FUNCTION audit_log_keep()")

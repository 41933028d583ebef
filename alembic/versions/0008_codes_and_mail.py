"""Single-use codes, mail that waits, and addresses as they are compared, and verified."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("users", sa.Column("email_folded", sa.String(254), nullable=True))
    verified_at = sa.Column("email_verified_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("users", verified_at)
    _fold()
    op.create_index("ix_users_email_folded", "users", ["email_folded"])
    op.create_table(
        "codes",
        sa.Column("id", _ID, sa.Identity(), nullable=False),
        sa.Column("purpose", sa.String(10), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("user_id", _ID, nullable=True),
        sa.Column("email", sa.String(254), nullable=True),
        sa.Column("scopes", sa.String(500), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_codes"),
        sa.UniqueConstraint("code_hash", name="uq_codes_code_hash"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_codes_user_id_users", ondelete="CASCADE"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_codes_user_id", "codes", ["user_id"])
    op.create_index("ix_codes_expires_at", "codes", ["expires_at"])
    op.create_table(
        "outbox",
        sa.Column("id", _ID, sa.Identity(), nullable=False),
        sa.Column("code_id", _ID, nullable=True),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("languages", sa.String(100), nullable=False),
        sa.Column("address", sa.String(45), nullable=False),
        sa.Column("user_agent", sa.String(200), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.ForeignKeyConstraint(
            ["code_id"], ["codes.id"], name="fk_outbox_code_id_codes", ondelete="CASCADE"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_code_id", "outbox", ["code_id"])
    op.create_index("ix_outbox_due_at", "outbox", ["due_at"])
    op.create_index("ix_outbox_created_at", "outbox", ["created_at"])


def downgrade() -> None:
    op.drop_table("outbox")
    op.drop_table("codes")
    op.drop_index("ix_users_email_folded", "users")
    op.drop_column("users", "email_verified_at")
    op.drop_column("users", "email_folded")


def _fold() -> None:
    """By the database what it folds as Python does, and the rest one by one."""
    op.execute("UPDATE users SET email_folded = lower(email)")
    users = sa.table(
        "users", sa.column("id"), sa.column("email", sa.String), sa.column("email_folded")
    )
    connection = op.get_bind()
    is_sqlite = connection.dialect.name == "sqlite"
    beyond_ascii = (
        users.c.email.op("GLOB")("*[^ -~]*") if is_sqlite else users.c.email.op("~")("[^ -~]")
    )
    for id_, email in connection.execute(sa.select(users.c.id, users.c.email).where(beyond_ascii)):
        folded = sa.update(users).where(users.c.id == id_).values(email_folded=email.casefold())
        connection.execute(folded)

"""Webhooks: their endpoints, and the messages that wait for them."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_BEFORE = "'outbox', 'users'"
_AFTER = f"{_BEFORE}, 'webhook_deliveries', 'webhook_endpoints'"
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", _ID, sa.Identity(), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("types", sa.String(1000), nullable=False),
        sa.Column("secret", sa.String(200), nullable=False),
        sa.Column("previous_secret", sa.String(200), nullable=True),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.String(20), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", _ID, sa.Identity(), nullable=False),
        sa.Column("endpoint_id", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.String(40), nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("username", sa.String(64), nullable=True),
        sa.Column("details", sa.String(200), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("given_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sqlite_autoincrement=True,
    )
    for columns in (("user_id",), ("given_up_at",), ("created_at",), ("endpoint_id", "due_at")):
        name = op.f(f"ix_webhook_deliveries_{'_'.join(columns)}")
        op.create_index(name, "webhook_deliveries", columns)
    _replace_in_function(_BEFORE, _AFTER)


def downgrade() -> None:
    _replace_in_function(_AFTER, _BEFORE)
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_endpoints")


def _replace_in_function(old: str, new: str) -> None:
    """The function of migration 0012 moves the sequences of all tables that count their ids."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        find = "SELECT pg_get_functiondef('server_timeline_enter()'::regprocedure)"
        definition: str = connection.scalar(sa.text(find))
        assert old in definition
        connection.exec_driver_sql(definition.replace(old, new))

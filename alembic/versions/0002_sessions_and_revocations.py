"""Sessions, revocations, scopes, and keys that are announced before they sign."""

import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Columns are added in place: copying the table, as batch mode would on SQLite, could forget
    # which ids were given out before.
    op.add_column("users", sa.Column("scopes", sa.String(500), nullable=False, server_default=""))
    op.add_column("signing_keys", sa.Column("activates_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE signing_keys SET activates_at = created_at")
    with op.batch_alter_table("signing_keys") as batch:
        batch.alter_column("activates_at", nullable=False)
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("scope", sa.String(1000), nullable=False),
        sa.Column("handle", sa.String(32), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("previous_secret_hash", sa.LargeBinary(32), nullable=True),
        sa.Column("rotation_key", sa.LargeBinary(32), nullable=False),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("address", sa.String(45), nullable=False),
        sa.Column("user_agent", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_sessions_user_id_users", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("handle", name="uq_sessions_handle"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "revocations",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.String(100), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_revocations"),
    )
    op.create_index("ix_revocations_value", "revocations", ["value"])
    op.create_index("ix_revocations_expires_at", "revocations", ["expires_at"])
    feed = op.create_table(
        "revocation_feed",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revocation_feed"),
    )
    op.bulk_insert(feed, [{"id": 1, "name": secrets.token_hex(8), "position": 0}])
    leases = op.create_table(
        "leases",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    nobody = {"name": "housekeeping", "holder": "", "expires_at": datetime(2000, 1, 1, tzinfo=UTC)}
    op.bulk_insert(leases, [nobody])


def downgrade() -> None:
    op.drop_table("leases")
    op.drop_table("revocation_feed")
    op.drop_table("revocations")
    op.drop_table("sessions")
    op.drop_column("signing_keys", "activates_at")
    op.drop_column("users", "scopes")

"""Which worker has which values of SECRET_KEY, and since when each of them encrypts."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "secret_key_holders",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("fingerprints", sa.String(100), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_secret_key_holders"),
    )
    op.create_table(
        "used_secret_keys",
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("used_since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_used_secret_keys"),
    )


def downgrade() -> None:
    op.drop_table("used_secret_keys")
    op.drop_table("secret_key_holders")

"""Columns for outgoing mail whose recipients have not been looked up yet."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outbox", sa.Column("user_id", sa.BigInteger(), nullable=True))
    op.add_column("outbox", sa.Column("request_id", sa.String(64), nullable=True))


def downgrade() -> None:
    op.drop_column("outbox", "request_id")
    op.drop_column("outbox", "user_id")

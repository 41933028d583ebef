"""A mark on each revocation and on the feed's head, by which a cursor is told from one of another
history of the same feed. It is random from now on, and 0 for what is there already."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("revocations", "revocation_feed"):
        op.add_column(table, sa.Column("mark", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    for table in ("revocation_feed", "revocations"):
        op.drop_column(table, "mark")

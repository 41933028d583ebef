"""A random mark on each revocation and on the head of the feed, to tell two histories of one feed
apart. Existing rows get 0.
"""

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

"""Mail without a code: notices to users."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outbox", sa.Column("notice", sa.String(40), nullable=True))
    op.add_column("outbox", sa.Column("details", sa.String(1000), nullable=True))


def downgrade() -> None:
    # Without their texts, they would be taken for requests.
    op.execute("DELETE FROM outbox WHERE notice IS NOT NULL")
    op.drop_column("outbox", "details")
    op.drop_column("outbox", "notice")

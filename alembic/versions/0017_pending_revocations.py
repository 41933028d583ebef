"""Members of narrowed groups whose access tokens are revoked one by one, for old guards."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pending_revocations",
        sa.Column(
            "user_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("user_id", name="pk_pending_revocations"),
    )


def downgrade() -> None:
    op.drop_table("pending_revocations")

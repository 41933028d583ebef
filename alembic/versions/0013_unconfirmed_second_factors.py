"""An index of unconfirmed second factors, which retention looks for once a minute."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_second_factors_unconfirmed",
        "second_factors",
        ["created_at"],
        postgresql_where=sa.text("confirmed_at IS NULL"),
        sqlite_where=sa.text("confirmed_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_second_factors_unconfirmed", "second_factors")

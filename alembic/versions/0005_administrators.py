"""An index of the administrators, who are looked for before one is taken away."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_users_administrators",
        "users",
        ["id"],
        postgresql_where=sa.text("is_admin"),
        sqlite_where=sa.text("is_admin"),
    )


def downgrade() -> None:
    op.drop_index("ix_users_administrators", "users")

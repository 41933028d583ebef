"""What is done once in the life of a database: creating the first administrator.

A database that has an administrator, or had one as far as the audit log reaches, has it done.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_USERS = sa.table(
    "users",
    sa.column("is_admin", sa.Boolean()),
    sa.column("created_at", sa.DateTime(timezone=True)),
)
_AUDIT_LOG = sa.table(
    "audit_log",
    sa.column("at", sa.DateTime(timezone=True)),
    sa.column("action", sa.String()),
    sa.column("details", sa.String()),
)


def upgrade() -> None:
    steps = op.create_table(
        "setup_steps",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_setup_steps"),
    )
    connection = op.get_bind()
    oldest = sa.select(sa.func.min(_USERS.c.created_at)).where(_USERS.c.is_admin)
    done_at = connection.scalar(oldest) or _granted_at(connection)
    if done_at:
        op.bulk_insert(steps, [{"name": "first_admin", "done_at": done_at}])


def downgrade() -> None:
    op.drop_table("setup_steps")


def _granted_at(connection: sa.Connection) -> object:
    grants = (
        sa.select(_AUDIT_LOG.c.at, _AUDIT_LOG.c.details)
        .where(_AUDIT_LOG.c.action.in_(["user.register", "user.grant"]))
        .where(_AUDIT_LOG.c.details.contains("admin"))
        .order_by(_AUDIT_LOG.c.at)
    )
    for at, details in connection.execute(grants):
        if "admin" in json.loads(details).get("to", "").split():
            return at
    return None

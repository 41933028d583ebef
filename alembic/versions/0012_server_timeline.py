"""The timeline of PostgreSQL for which the sequences have been moved forward: the current one."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_CURRENT = sa.text(
    "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE (SELECT system_identifier FROM"
    " pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
)


def upgrade() -> None:
    table = op.create_table(
        "server_timeline",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_server_timeline"),
    )
    op.bulk_insert(table, [{"id": 1, "name": _current(op.get_bind()) or ""}])


def downgrade() -> None:
    op.drop_table("server_timeline")


def _current(connection: sa.Connection) -> str | None:
    if connection.dialect.name != "postgresql":
        return None
    try:
        with connection.begin_nested():
            name: str | None = connection.scalar(_CURRENT)
    except sa.exc.DBAPIError:  # the server does not tell
        return None
    return name

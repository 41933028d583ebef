"""The timeline of PostgreSQL for which the sequences have been moved forward: the current one.

The function moves them for a new one. It has the rights of its owner, because the role of the
service may have none for sequences. It does nothing more than the service has to do anyway, so any
role of the database may call it. No object of the caller's temporary schema is used.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_CURRENT = (
    "CASE WHEN pg_is_in_recovery() THEN NULL ELSE (SELECT system_identifier FROM"
    " pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
)
_ENTER = """
CREATE FUNCTION server_timeline_enter() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = SCHEMA, pg_temp AS $$
DECLARE
    current_name text;
    known_name text;
    table_name text;
    sequence regclass;
BEGIN
    BEGIN
        current_name := CURRENT;
    EXCEPTION WHEN OTHERS THEN -- the server does not tell
        current_name := NULL;
    END;
    SELECT name INTO known_name FROM server_timeline
        WHERE name <> current_name OR name = '' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE server_timeline SET name = coalesce(current_name, '');
    FOREACH table_name IN ARRAY ARRAY['audit_log', 'codes', 'outbox', 'users'] LOOP
        sequence := pg_get_serial_sequence(table_name, 'id')::regclass;
        PERFORM setval(
            sequence, nextval(sequence) + CASE known_name WHEN '' THEN 100000 ELSE 10000 END
        );
    END LOOP;
END $$
"""


def upgrade() -> None:
    table = op.create_table(
        "server_timeline",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_server_timeline"),
    )
    op.bulk_insert(table, [{"id": 1, "name": _current(op.get_bind()) or ""}])
    if op.get_context().dialect.name != "sqlite":
        schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
        op.execute(_ENTER.replace("SCHEMA", schema, 1).replace("CURRENT", _CURRENT, 1))
        op.execute("GRANT EXECUTE ON FUNCTION server_timeline_enter() TO PUBLIC")


def downgrade() -> None:
    if op.get_context().dialect.name != "sqlite":
        op.execute("DROP FUNCTION server_timeline_enter()")
    op.drop_table("server_timeline")


def _current(connection: sa.Connection) -> str | None:
    if connection.dialect.name != "postgresql":
        return None
    try:
        with connection.begin_nested():
            name: str | None = connection.scalar(sa.text(f"SELECT {_CURRENT}"))
    except sa.exc.DBAPIError:  # the server does not tell
        return None
    return name

"""The triggers of the audit log let the IP address, the user agent and the request id of a removed
user be erased, and nothing else be changed.

The person of an entry is its actor or, if nobody was logged in, its subject.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_KEPT = ("id", "at", "action", "actor_id", "subject_id", "succeeded", "details")
_PERSON = "coalesce(OLD.actor_id, OLD.subject_id)"
_IS_BLANK = "NEW.address = '' AND NEW.user_agent = '' AND NEW.request_id IS NULL"


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        same = " AND ".join(f"NEW.{name} IS OLD.{name}" for name in _KEPT)
        op.execute("DROP TRIGGER audit_log_update")
        op.execute(
            "CREATE TRIGGER audit_log_update BEFORE UPDATE ON audit_log"  # noqa: S608 - constants
            f" WHEN NOT ({_IS_BLANK} AND {same} AND {_PERSON} IS NOT NULL"
            f" AND NOT EXISTS (SELECT 1 FROM users WHERE id = {_PERSON}))"
            " BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END"
        )
        return
    same = " AND ".join(f"NEW.{name} IS NOT DISTINCT FROM OLD.{name}" for name in _KEPT)
    # By the table's schema, so that no other table with this name is taken for the users.
    find = "EXECUTE format('SELECT EXISTS (SELECT FROM %I.users WHERE id = $1)', TG_TABLE_SCHEMA)"
    _replace_function(
        " IF TG_OP = 'UPDATE' THEN"
        f"  {find} INTO is_user USING {_PERSON};"
        f"  IF {_IS_BLANK} AND {same} AND {_PERSON} IS NOT NULL AND NOT is_user"
        "  THEN RETURN NEW; END IF;"
        " END IF;"
    )


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_log_update")
        op.execute(
            "CREATE TRIGGER audit_log_update BEFORE UPDATE ON audit_log"
            " BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END"
        )
        return
    _replace_function("")


def _replace_function(on_update: str) -> None:
    op.execute(
        "CREATE OR REPLACE FUNCTION audit_log_keep() RETURNS trigger LANGUAGE plpgsql AS $$"
        " DECLARE is_user boolean; BEGIN"
        " IF TG_OP = 'DELETE' THEN"
        "  IF OLD.at <= now() - interval '29 days'"
        "  OR (NOT OLD.succeeded AND OLD.actor_id IS NULL) THEN RETURN OLD; END IF;"
        f" END IF;{on_update}"
        " RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = '42501';"
        " END $$"
    )

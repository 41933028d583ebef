"""API keys, groups, service accounts, limited sessions, and room for more scopes."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# SQLite enforces no length, and changing one there would copy the table.
_WIDENED = (("users", "scopes", 500), ("codes", "scopes", 500), ("sessions", "scope", 1000))


def upgrade() -> None:
    _set_lengths(to=4000)
    op.add_column(
        "users", sa.Column("kind", sa.String(10), nullable=False, server_default="person")
    )
    op.add_column(
        "sessions", sa.Column("is_limited", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("sessions", sa.Column("audience", sa.String(200), nullable=True))
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(8), nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64), nullable=True),
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("scopes", sa.String(4000), nullable=True),
        sa.Column("networks", sa.String(1000), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_on", sa.Date(), nullable=True),
        sa.Column("suspended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replaced_by", sa.String(8), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_api_keys_user_id_users", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
    op.create_index("ix_api_keys_expires_at", "api_keys", ["expires_at"])
    op.create_table(
        "groups",
        sa.Column("id", _ID, sa.Identity(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("name_folded", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(4000), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
        sa.UniqueConstraint("name_folded", name="uq_groups_name_folded"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "group_members",
        sa.Column("group_id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.PrimaryKeyConstraint("group_id", "user_id", name="pk_group_members"),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name="fk_group_members_group_id_groups", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_group_members_user_id_users", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_group_members_user_id", "group_members", ["user_id"])
    _replace_in_function("'codes', 'outbox'", "'codes', 'groups', 'outbox'")


def downgrade() -> None:
    _replace_in_function("'codes', 'groups', 'outbox'", "'codes', 'outbox'")
    op.drop_table("group_members")
    op.drop_table("groups")
    op.drop_table("api_keys")
    op.drop_column("sessions", "audience")
    op.drop_column("sessions", "is_limited")
    op.drop_column("users", "kind")
    _set_lengths(to=None)


def _set_lengths(to: int | None) -> None:
    """To the original lengths with None. PostgreSQL refuses that if a value is longer."""
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, column, original in _WIDENED:
        op.alter_column(table, column, type_=sa.String(to or original))


def _replace_in_function(old: str, new: str) -> None:
    """The function of migration 0012 moves the sequences of all tables that count their ids."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        find = "SELECT pg_get_functiondef('server_timeline_enter()'::regprocedure)"
        definition: str = connection.scalar(sa.text(find))
        assert old in definition
        connection.exec_driver_sql(definition.replace(old, new))

"""What became of mailed codes, and what the next try of a mail needs: the text of its code.

A code whose mail still waits gets the state "queued". Of others, nobody knows the state.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("codes", sa.Column("mail_state", sa.String(10), nullable=True))
    op.add_column("codes", sa.Column("mail_reply_code", sa.Integer(), nullable=True))
    op.add_column("codes", sa.Column("mail_enhanced_code", sa.String(11), nullable=True))
    op.execute(
        "UPDATE codes SET mail_state = 'queued' WHERE id IN (SELECT code_id FROM outbox "
        "WHERE code_id IS NOT NULL)"
    )
    op.create_table(
        "earlier_code_hashes",
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("code_id", _ID, nullable=False),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("code_hash", name="pk_earlier_code_hashes"),
        sa.ForeignKeyConstraint(
            ["code_id"],
            ["codes.id"],
            name="fk_earlier_code_hashes_code_id_codes",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_earlier_code_hashes_code_id", "earlier_code_hashes", ["code_id"])
    op.add_column("outbox", sa.Column("encrypted_code", sa.String(200), nullable=True))
    waits_for_server = sa.Column(
        "waits_for_server", sa.Boolean(), nullable=False, server_default=sa.false()
    )
    op.add_column("outbox", waits_for_server)
    op.create_index("ix_outbox_waits_for_server", "outbox", ["waits_for_server"])


def downgrade() -> None:
    op.drop_index("ix_outbox_waits_for_server", "outbox")
    op.drop_column("outbox", "waits_for_server")
    op.drop_column("outbox", "encrypted_code")
    op.drop_table("earlier_code_hashes")
    for name in ("mail_enhanced_code", "mail_reply_code", "mail_state"):
        op.drop_column("codes", name)

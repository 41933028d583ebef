"""Which tables are copied: all of them but the ones that belong to a server or a process."""

from sqlalchemy import Table

from app.tables import metadata

LEFT_OUT = {
    "leases": "which worker runs which job: the workers of the target take their own",
    "server_timeline": "the timeline of the server: the target has another one",
}
# Rows that a migration writes into tables that are copied, while nothing has used them. They are
# replaced. Any other row means that the target is not empty.
UNUSED_ROWS = {"revocation_feed": "position = 0"}


def copied_tables() -> list[Table]:
    """Parents come before the tables that refer to them."""
    return [table for table in metadata.sorted_tables if table.name not in LEFT_OUT]

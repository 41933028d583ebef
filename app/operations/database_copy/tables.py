"""Which tables are copied: all of them but the ones that belong to a server or a process."""

from sqlalchemy import ColumnElement, Table

from app.tables import metadata
from app.tokens.revocations.models import Feed

LEFT_OUT = {
    "leases": "which worker runs which job: the workers of the target take their own",
    "secret_key_holders": "which worker has which values of SECRET_KEY: as above",
    "server_timeline": "the timeline of the server: the target has another one",
}
# Tables to which a migration adds rows, and which of their rows are in use: then the target is not
# empty. The other rows are replaced.
IS_USED: dict[str, ColumnElement[bool]] = {"revocation_feed": Feed.position > 0}


def copied_tables() -> list[Table]:
    """Parents come before the tables that refer to them."""
    return [table for table in metadata.sorted_tables if table.name not in LEFT_OUT]

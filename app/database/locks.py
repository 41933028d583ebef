"""Locks several rows of a table."""

from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute

Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


def locked_in_order(
    query: Query, primary_key: InstrumentedAttribute[Any], *, key_share: bool = False
) -> Query:
    """Lock the rows of a query in the order of their primary keys, and read their current values.

    All operations do so, so that there is no deadlock. With `key_share`, transactions that insert
    rows with a foreign key to these do not wait.
    """
    query = query.order_by(primary_key).with_for_update(key_share=key_share)
    return query.execution_options(populate_existing=True)

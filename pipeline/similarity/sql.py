"""Search a table of embeddings: parameterized GoogleSQL with ``VECTOR_SEARCH``.

A search covers the vectors of one model and one length. A table can hold two vectors of a unit (from two versions
of the embedding task); a search returns the nearer one.
"""

from __future__ import annotations

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Parameter, Query, check_expression

#: Half of what BigQuery allows for ``top_k``, because a unit can be found twice.
MOST_TOP_K = 4_999
#: Columns of a result, in this order; named as the columns of a source, so that a result can be one.
FOUND = (
    "unit_id", "observation_id", "uri", "asset_id", "asset_type", "capture_time", "latitude", "longitude", "map_url",
    "snapshot_id",
)  # fmt: skip


def search_query(
    table: TableName,
    vector: tuple[float, ...],
    top_k: int,
    *,
    where: str | None = None,
    without: str | None = None,
) -> Query:
    """Return the query for the units nearest to a vector.

    Its columns are :data:`FOUND`, ``distance`` (cosine, 0 to 2) and ``rank`` from 1.

    Args:
        table: Table of the embeddings.
        vector: The vector, as long as those in the table.
        top_k: Number of nearest units to return, 1 to :data:`MOST_TOP_K`.
        where: Condition on the table's columns; None for all rows.
        without: Unit to leave out, because its own vector is searched for; None to leave out nothing.

    Raises:
        UserError: ``top_k`` is out of bounds, or ``where`` is not a condition.
    """
    if not 1 <= top_k <= MOST_TOP_K:
        raise UserError(f"--top_k={top_k} is out of range: use 1 to {MOST_TOP_K:,}")
    columns = ", ".join(f"near.base.{name} AS {name}" for name in FOUND)
    # BigQuery is guaranteed to use the vector index only for a table reference, not for a subquery.
    base = f"TABLE {table.sql()}"
    if where is not None:
        condition = check_expression(where, source="--where")
        base = f"(\n      SELECT * FROM {table.sql()}\n      WHERE (\n{condition}\n      )\n    )"
    others, parameters = "TRUE", [Parameter("vector", "FLOAT64", vector, array=True)]
    if without is not None:
        others = "found.unit_id != @without"
        parameters.append(Parameter("without", "STRING", without))
    return Query(
        f"SELECT ranked.*\nFROM (\n  SELECT nearer.*, ROW_NUMBER() OVER (ORDER BY distance, unit_id) AS `rank`\n"
        "  FROM (\n    SELECT found.*\n    FROM (\n"
        f"      SELECT {columns}, near.distance AS distance\n"
        f"      FROM VECTOR_SEARCH(\n    {base},\n    'vector',\n    (SELECT @vector AS vector),\n"
        f"    top_k => {2 * top_k + 1},\n    distance_type => 'COSINE'\n  ) AS near\n    ) AS found\n"
        f"    WHERE {others} AND found.distance IS NOT NULL\n"
        "    QUALIFY ROW_NUMBER() OVER (PARTITION BY found.unit_id ORDER BY found.distance) = 1\n"
        f"  ) AS nearer\n) AS ranked\nWHERE ranked.`rank` <= {int(top_k)}",
        tuple(parameters),
    )


def save_query(query: Query, table: TableName, *, replace: bool) -> Query:
    """Return the statement that saves a search result as a table, usable with ``imagebeam classify --source``."""
    create = "CREATE OR REPLACE TABLE" if replace else "CREATE TABLE"
    return Query(f"{create} {table.sql()}\nAS\n{query.sql}", query.parameters)


def saved_query(table: TableName) -> Query:
    """Return the query for a saved search result, nearest first."""
    return Query(f"SELECT * FROM {table.sql()} ORDER BY `rank`")


def vector_query(table: TableName, unit_id: str) -> Query:
    """Return the query for the newest vector of a unit: column ``vector``; no row for an unknown unit."""
    return Query(
        f"SELECT vector FROM {table.sql()}\nWHERE unit_id = @unit_id\n"
        "ORDER BY embedded_at DESC, version, run_id\nLIMIT 1",
        (Parameter("unit_id", "STRING", unit_id),),
    )


def model_query(table: TableName) -> Query:
    """Return the query for the model of a table: columns ``model`` and ``dimension``; no row for an empty table."""
    return Query(f"SELECT model, dimension FROM {table.sql()} LIMIT 1")

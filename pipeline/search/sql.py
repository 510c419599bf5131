"""Search over a table of vectors: GoogleSQL with ``VECTOR_SEARCH``, parameterised.

A search is over the vectors of one model and one length. A table can hold two vectors of one unit (another
version of the embedding task); only the nearer one of them is found.
"""

from __future__ import annotations

import dataclasses

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Parameter, Query, check_expression

#: BigQuery's bound of ``top_k``; half of it is asked for, since a unit can be found twice.
MOST_TOP_K = 4_999
#: What a search finds, in this order. The names are those that a source of imagebeam has.
FOUND = (
    "unit_id", "observation_id", "uri", "asset_id", "asset_type", "capture_time", "latitude", "longitude", "map_url",
    "snapshot_id",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """What is searched for, and where; checked when it is made.

    Attributes:
        table: Table of the vectors.
        top_k: So many of the nearest, 1 to :data:`MOST_TOP_K`.
        where: Condition on the table's columns; None for all.
        without: Unit that is not to be found, because it is the one that others are to be like; None for none.

    Raises:
        UserError: ``top_k`` is out of bounds, or ``where`` is no condition.
    """

    table: TableName
    top_k: int = 20
    where: str | None = None
    without: str | None = None

    def __post_init__(self) -> None:
        """Checks what a person gave."""
        if not 1 <= self.top_k <= MOST_TOP_K:
            raise UserError(f"--top_k={self.top_k}: give 1 to {MOST_TOP_K:,}")
        if self.where is not None:
            check_expression(self.where, where="--where")


def search_sql(search: Search, vector: tuple[float, ...]) -> Query:
    """The nearest units to a vector: the columns :data:`FOUND`, ``distance`` (cosine, 0 to 2) and ``rank`` from 1.

    Args:
        search: Where to look.
        vector: As long as those of the table.
    """
    columns = ", ".join(f"near.base.{name} AS {name}" for name in FOUND)
    # The whole table by its name: only then, and without a condition, BigQuery uses the vector index for certain.
    base = f"TABLE {search.table.sql()}"
    if search.where is not None:
        condition = check_expression(search.where, where="--where")
        base = f"(\n      SELECT * FROM {search.table.sql()}\n      WHERE (\n{condition}\n      )\n    )"
    others = "TRUE" if search.without is None else "found.unit_id != @without"
    parameters = [Parameter("vector", "FLOAT64", vector, array=True)]
    if search.without is not None:
        parameters.append(Parameter("without", "STRING", search.without))
    return Query(
        f"SELECT ranked.*\nFROM (\n  SELECT nearer.*, ROW_NUMBER() OVER (ORDER BY distance, unit_id) AS `rank`\n"
        "  FROM (\n    SELECT found.*\n    FROM (\n"
        f"      SELECT {columns}, near.distance AS distance\n"
        f"      FROM VECTOR_SEARCH(\n    {base},\n    'vector',\n    (SELECT @vector AS vector),\n"
        f"    top_k => {2 * search.top_k + 1},\n    distance_type => 'COSINE'\n  ) AS near\n    ) AS found\n"
        f"    WHERE {others} AND found.distance IS NOT NULL\n"
        "    QUALIFY ROW_NUMBER() OVER (PARTITION BY found.unit_id ORDER BY found.distance) = 1\n"
        f"  ) AS nearer\n) AS ranked\nWHERE ranked.`rank` <= {int(search.top_k)}",
        tuple(parameters),
    )


def keep_sql(query: Query, table: TableName, *, replace: bool) -> Query:
    """The statement that keeps what a search finds; its columns fit ``imagebeam classify --source``."""
    create = "CREATE OR REPLACE TABLE" if replace else "CREATE TABLE"
    return Query(f"{create} {table.sql()}\nAS\n{query.sql}", query.parameters)


def kept_sql(table: TableName) -> Query:
    """What was kept, the nearest first."""
    return Query(f"SELECT * FROM {table.sql()} ORDER BY `rank`")


def vector_sql(table: TableName, unit_id: str) -> Query:
    """The newest vector of a unit: column ``vector``; no row for an unknown one."""
    return Query(
        f"SELECT vector FROM {table.sql()}\nWHERE unit_id = @unit_id\n"
        "ORDER BY embedded_at DESC, version, run_id\nLIMIT 1",
        (Parameter("unit_id", "STRING", unit_id),),
    )


def model_sql(table: TableName) -> Query:
    """Whose vectors a table holds: columns ``model`` and ``dimension``; no row while it is empty."""
    return Query(f"SELECT model, dimension FROM {table.sql()} LIMIT 1")

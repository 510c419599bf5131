"""Query results as pandas data frames with typed columns that can be NULL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from imagebeam.transforms.clients.bigquery import BigQueryClient, build_job_config
from imagebeam.transforms.clients.bigquery_errors import query_errors
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import Query

if TYPE_CHECKING:
    import pandas

#: Arrow type → type of a data frame's column that can be NULL.
_NULLABLE: Final = {"string": "string", "int64": "Int64", "double": "Float64", "bool": "boolean"}
#: BigQuery type → type of a data frame's column.
_DTYPES: Final = {
    "STRING": "string",
    "INT64": "Int64",
    "FLOAT64": "Float64",
    "BOOL": "boolean",
    "TIMESTAMP": "datetime64[us, UTC]",
}


def query_frame(
    bq: BigQueryClient, query: Query, *, location: str, maximum_bytes_billed: int | None
) -> pandas.DataFrame:
    """Run a query and return its rows.

    Raises:
        UserError: pandas is not installed, or BigQuery rejects the query.
        SystemicError: BigQuery cannot run it.
    """
    pandas = require_pandas()
    config = build_job_config(query.parameters, maximum_bytes_billed)
    with query_errors("reading the answers"):
        rows = bq.client.query(query.sql, job_config=config, location=location).result()
        table = rows.to_arrow(create_bqstorage_client=False)  # another API, and another permission
    types = {str(kind): pandas.array([], dtype=name).dtype for kind, name in _NULLABLE.items()}
    return table.to_pandas(types_mapper=lambda kind: types.get(str(kind)))


def frame_of(rows: Iterable[Mapping[str, Any]], types: Mapping[str, str]) -> pandas.DataFrame:
    """Return rows as a data frame.

    Args:
        rows: The rows.
        types: BigQuery type of each column; other types than scalars are kept as Python objects.

    Raises:
        UserError: pandas is not installed.
    """
    pandas = require_pandas()
    values: Sequence[Mapping[str, Any]] = list(rows)
    return pandas.DataFrame({
        name: pandas.Series([row[name] for row in values], dtype=_DTYPES.get(kind, "object"))
        for name, kind in types.items()
    })  # fmt: skip


def require_pandas() -> ModuleType:
    """Import pandas, and pyarrow, which reads query results into it.

    Raises:
        UserError: It is not installed.
    """
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(f"to_dataframe needs {error.name}", fix="pip install 'imagebeam[pandas]'") from None
    module: ModuleType = pandas
    return module

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
        return rows.to_dataframe(
            create_bqstorage_client=False,  # needs another API and another permission
            bool_dtype=pandas.BooleanDtype(),
            int_dtype=pandas.Int64Dtype(),
            float_dtype=pandas.Float64Dtype(),
            string_dtype=pandas.StringDtype(),
        )


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
    """Import pandas and what google-cloud-bigquery needs for data frames.

    Raises:
        UserError: It is not installed.
    """
    try:
        import db_dtypes  # noqa: F401
        import pandas
    except ImportError as error:
        raise UserError(f"to_dataframe needs {error.name}", fix="pip install 'imagebeam[pandas]'") from None
    module: ModuleType = pandas
    return module

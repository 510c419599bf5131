"""VECTOR_SEARCH: exact nearest rows of a table for every row of a query; vector indexes have no effect.

DuckDB reads the base table in chunks and keeps only the row ids of the nearest rows, which are joined at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
import sqlglot
from sqlglot import exp

from imagebeam.emulators.bigquery.dialect.nodes import MARK, invalid, not_implemented

#: Default number of rows for each row of the query.
TOP_K: Final = 10
MAX_TOP_K: Final = 10_000
DISTANCES: Final = {
    "EUCLIDEAN": "bq_euclidean_distance",
    "COSINE": "bq_cosine_distance",
    "DOT_PRODUCT": "bq_dot_distance",
}
#: Checked, but without effect: every search is exact.
_OPTIONS: Final = ("fraction_lists_to_search", "use_brute_force")
MACROS: Final = (
    """bq_same_length(a, b) AS CASE WHEN coalesce(len(a), 0) = 0 OR len(a) <> coalesce(len(b), 0)
        THEN error('VECTOR_SEARCH: array lengths of base column and query column differ: ' || coalesce(len(a), 0)
            || ' and ' || coalesce(len(b), 0)) ELSE TRUE END""",
    "bq_euclidean_distance(a, b) AS CASE WHEN bq_same_length(a, b) THEN list_distance(a, b) END",
    "bq_dot_distance(a, b) AS CASE WHEN bq_same_length(a, b) THEN list_negative_inner_product(a, b) END",
    "bq_cosine_distance(a, b) AS CASE WHEN bq_same_length(a, b) THEN list_cosine_distance(a, b) END",
    "bq_neighbor(p, d) AS struct_pack(id := p, distance := d)",
    "bq_known_distance(d) AS CASE WHEN isnan(d) THEN NULL ELSE d END",  # NaN for a vector of zeros: the farthest
)
_TEMPLATE: Final = """
WITH _queries AS MATERIALIZED (
  SELECT ROW_NUMBER() OVER () AS _number, _query AS _row, _query.{query_column} AS _vector FROM _QUERY_ AS _query
), _rows AS {materialized} (
  SELECT {row_id} AS _id, _base AS _row, _base.{column} AS _vector FROM _BASE_ AS _base
)
SELECT _asked._row AS query, _held._row AS base, zz_bq_known_distance(_found._near.distance) AS distance
FROM (
  SELECT _number, zz_unnest(zz_arg_min(zz_bq_neighbor(_id, _distance), _distance, {top_k})) AS _near
  FROM (
    SELECT _left._number AS _number, _right._id AS _id,
      zz_{distance}(_right._vector, _left._vector) AS _distance
    FROM _queries AS _left CROSS JOIN _rows AS _right
  ) AS _pairs
  GROUP BY _number
) AS _found
JOIN _rows AS _held ON _held._id = _found._near.id
JOIN _queries AS _asked ON _asked._number = _found._number
"""


def expand_vector_search(node: exp.VectorSearch, is_stored: Callable[[exp.Table], bool]) -> exp.Query:
    """Return the query that replaces a call of VECTOR_SEARCH.

    Args:
        node: The call.
        is_stored: Returns whether a table stores its rows (not a view, not an object table).

    Raises:
        ApiError: 400 for invalid arguments, 501 for arguments that are not implemented.
    """
    arguments = _arguments(node)
    top_k = _top_k(arguments.get("top_k"))
    distance = _text(arguments.get("distance_type"), "distance_type", "EUCLIDEAN").upper()
    if distance not in DISTANCES:
        raise invalid(f"Invalid distance_type {distance}: use {', '.join(DISTANCES)}")
    _check_options(_text(arguments.get("options"), "options", "{}"))
    column = _text(arguments.get("column_to_search"), "column_to_search", "")
    query = _relation(arguments.get("query_table"))
    query_column = _text(arguments.get("query_column_to_search"), "query_column_to_search", "") or _column_of(
        query, column
    )
    stored = isinstance(node.this, exp.Table) and is_stored(node.this)
    sql = _TEMPLATE.format(
        materialized="NOT MATERIALIZED"
        if stored
        else "MATERIALIZED",  # reading a table twice is cheaper than copying it
        row_id="_base.rowid" if stored else "ROW_NUMBER() OVER ()",
        query_column=exp.to_identifier(query_column, quoted=True).sql("duckdb"),
        column=exp.to_identifier(column, quoted=True).sql("duckdb"),
        top_k=top_k,
        distance=DISTANCES[distance],
    )
    tree: Any = sqlglot.parse_one(sql, dialect="duckdb")
    for function_call in tree.find_all(exp.Anonymous):
        function_call.set("this", MARK + str(function_call.this).removeprefix("zz_"))
    for table in list(tree.find_all(exp.Table)):
        if table.name == "_BASE_" and stored:
            base = node.this.copy()
            base.set("alias", table.args["alias"].copy())
            table.replace(base)
        elif table.name in ("_QUERY_", "_BASE_"):
            relation = query if table.name == "_QUERY_" else _relation(node.this)
            table.replace(exp.Subquery(this=relation.copy(), alias=table.args["alias"].copy()))
    result: exp.Query = tree
    return result


def _arguments(node: exp.VectorSearch) -> dict[str, Any]:
    """Return the arguments by name, whether they are positional or named."""
    found: dict[str, Any] = {}
    for key, value in node.args.items():
        if value is None or key == "this":
            continue
        if isinstance(value, exp.Kwarg):
            key, value = value.this.name.lower(), value.expression
        if key == "expressions":
            raise not_implemented("further arguments of VECTOR_SEARCH")
        found[key] = value
    known = ("column_to_search", "query_table", "query_column_to_search", "top_k", "distance_type", "options")
    for key in found:
        if key not in known:
            raise not_implemented(f"the argument {key} of VECTOR_SEARCH")
    return found


def _relation(node: Any) -> Any:
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query):
        return node.this
    if isinstance(node, exp.Table):
        return exp.Select(expressions=[exp.Star()]).from_(node.copy())
    raise invalid("VECTOR_SEARCH needs TABLE name or (query) for its base table and its query table")


def _column_of(query: Any, column: str) -> str:
    names = query.named_selects
    if column.lower() in (name.lower() for name in names) or query.is_star:
        return column
    if len(names) == 1 and names[0]:
        return str(names[0])
    raise invalid("VECTOR_SEARCH: query_column_to_search must be specified")


def _text(node: Any, name: str, default: str) -> str:
    if node is None:
        if not default and name == "column_to_search":
            raise invalid("VECTOR_SEARCH: column_to_search must be specified")
        return default
    if isinstance(node, exp.ParseJSON):
        node = node.this
    if not isinstance(node, exp.Literal) or not node.is_string:
        raise invalid(f"VECTOR_SEARCH: {name} must be a STRING literal")
    return str(node.this)


def _top_k(node: Any) -> str:
    if node is None:
        return str(TOP_K)
    if isinstance(node, exp.Parameter):
        return node.sql("duckdb")
    if not isinstance(node, exp.Literal) or node.is_string or not str(node.this).isdigit():
        raise invalid("VECTOR_SEARCH: top_k must be a positive INT64")
    if not 1 <= int(node.this) <= MAX_TOP_K:
        raise invalid(f"VECTOR_SEARCH: top_k must be between 1 and {MAX_TOP_K}")
    return str(node.this)


def _check_options(options_json: str) -> None:
    try:
        options = orjson.loads(options_json)
    except orjson.JSONDecodeError as problem:
        raise invalid(f"VECTOR_SEARCH: options must be a JSON text: {problem}") from problem
    if not isinstance(options, dict):
        raise invalid("VECTOR_SEARCH: options must be a JSON object")
    for name in options:
        if name not in _OPTIONS:
            raise invalid(f"VECTOR_SEARCH: unknown option {name}: use {', '.join(_OPTIONS)}")
    share = options.get("fraction_lists_to_search")
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1):
        raise invalid("VECTOR_SEARCH: fraction_lists_to_search must be more than 0 and at most 1")
    if share is not None and options.get("use_brute_force"):
        raise invalid("VECTOR_SEARCH: use_brute_force and fraction_lists_to_search exclude each other")

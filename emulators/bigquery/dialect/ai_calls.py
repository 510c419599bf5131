"""Calls of ``AI.GENERATE_EMBEDDING`` and ``ML.GENERATE_EMBEDDING`` in FROM, expanded to queries.

The query calls the function ``bq_generate_embedding`` (registered by `ai.embedder`) once per row.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
import sqlglot
from sqlglot import exp

from imagebeam.emulators.bigquery.dialect.nodes import MARK, invalid, not_implemented, string
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, embedding_model

#: Names of the result columns, by namespace of the function.
_RESULT_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "AI": {
        "embedding": "embedding", "status": "status", "statistics": "statistics",
        "start": "video_start_sec", "end": "video_end_sec",
    },
    "ML": {
        "embedding": "ml_generate_embedding_result", "status": "ml_generate_embedding_status",
        "statistics": "ml_generate_embedding_statistics",
        "start": "ml_generate_embedding_start_sec", "end": "ml_generate_embedding_end_sec",
    },
}  # fmt: skip
_TEMPLATE: Final = """
WITH _ai_rows AS MATERIALIZED (
  SELECT *, zz_bq_generate_embedding(zz_spec(), {content}) AS _ai FROM _INPUT_ AS _in
)
SELECT * EXCLUDE (_ai), {columns} FROM _ai_rows
"""


def expand_embedding(
    table: exp.Table,
    find_model: Callable[[exp.Table], Mapping[str, Any]],
    is_object_table: Callable[[exp.Table], bool],
) -> exp.Query:
    """Return the query that replaces a call of the function.

    Args:
        table: The call in FROM.
        find_model: Returns the properties of a remote model; raises 404 for an unknown one.
        is_object_table: Returns whether a table is an object table.

    Raises:
        ApiError: 400 for invalid arguments, 404 for an unknown model, 501 for what is not implemented.
    """
    node, namespace = table.this, table.db.upper()
    function = f"{namespace}.GENERATE_EMBEDDING"
    if namespace not in _RESULT_COLUMNS or node.args.get("is_text"):
        raise not_implemented(f"the table function {table.sql('bigquery')[:60]}")
    remote_model = find_model(node.this)
    model = embedding_model(str(remote_model["model"]))
    if model is None:
        raise not_implemented(f"remote models over {remote_model['model']}")
    relation, by_uri = _input_query(node.args.get("expression"), is_object_table, function)
    dimension = _dimension(node.args.get("params_struct"), model, function)
    names = _RESULT_COLUMNS[namespace]
    columns = [f"_ai.{kind} AS {names[kind]}" for kind in ("embedding", "status")]
    if model.method == "predict":
        columns += [f"CAST(NULL AS DOUBLE) AS {names[kind]}" for kind in ("start", "end")]
    else:
        columns.append(f"_ai.statistics AS {names['statistics']}")
    content = "_in.uri" if by_uri else "_in.content"
    tree: Any = sqlglot.parse_one(_TEMPLATE.format(content=content, columns=", ".join(columns)), dialect="duckdb")
    spec = orjson.dumps(
        {"model": model.name, "endpoint": remote_model["endpoint"], "dimension": dimension, "by_uri": by_uri,
         "call": uuid.uuid4().hex}
    ).decode()  # fmt: skip
    for function_call in list(tree.find_all(exp.Anonymous)):
        name = str(function_call.this)
        if name == "zz_spec":
            function_call.replace(string(spec))
        elif name.startswith("zz_"):
            function_call.set("this", MARK + name.removeprefix("zz_"))
    for input_table in list(tree.find_all(exp.Table)):
        if input_table.name == "_INPUT_":
            input_table.replace(exp.Subquery(this=relation, alias=input_table.args["alias"].copy()))
    result: exp.Query = tree
    return result


def _input_query(node: Any, is_object_table: Callable[[exp.Table], bool], function: str) -> tuple[Any, bool]:
    """Return the query of the input rows, and whether they are objects of an object table."""
    if isinstance(node, exp.Table):
        return exp.Select(expressions=[exp.Star()]).from_(node.copy()), is_object_table(node)
    if not isinstance(node, exp.Subquery) or not isinstance(node.this, exp.Query):
        raise invalid(f"{function} needs TABLE name or (query) as its second argument")
    query = node.this.copy()
    names = {name.lower() for name in query.named_selects}
    source = query.args.get("from_")
    if "content" not in names and isinstance(query, exp.Select) and source is not None:
        table = source.this
        if isinstance(table, exp.Table) and isinstance(table.this, exp.Identifier) and is_object_table(table):
            _check_object_query(query, function)
            return query, True
    if "content" not in names and not query.is_star:
        raise invalid(f"{function}: column content is not found in the input query")
    return query, False


def _check_object_query(query: exp.Select, function: str) -> None:
    allowed = ("expressions", "from_", "where", "order", "limit", "offset")
    for key, value in query.args.items():
        if value and key not in allowed:
            raise invalid(f"{function}: a query of an object table may have WHERE, ORDER BY and LIMIT only")
    if not query.is_star:
        raise invalid(f"{function}: a query of an object table must select all columns (SELECT *)")


def _dimension(node: Any, model: EmbeddingModel, function: str) -> int:
    dimension = model.default
    for item in node.expressions if node is not None else ():
        name = item.this.name.lower() if isinstance(item, exp.PropertyEQ) else item.alias.lower()
        value = item.expression if isinstance(item, exp.PropertyEQ) else item.this
        if name == "output_dimensionality":
            if not isinstance(value, exp.Literal) or value.is_string or not str(value.this).isdigit():
                raise invalid(f"{function}: output_dimensionality must be a positive INT64 literal")
            dimension = int(value.this)
        elif name == "flatten_json_output":
            if not (isinstance(value, exp.Boolean) and value.this):
                raise not_implemented("flatten_json_output = FALSE")
        else:
            raise not_implemented(f"the argument {name} of {function}")
    problem = model.check_dimension(dimension)
    if problem:
        raise invalid(f"{function}: {problem}")
    return dimension

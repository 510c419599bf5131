"""Rewriting of BigQuery expressions to DuckDB expressions, node by node of sqlglot's tree.

Nodes that are not listed here are rejected by name (501): DuckDB may accept them with another meaning. Sources: the
GoogleSQL reference, and tests of DuckDB's behavior.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sqlglot import exp

from imagebeam.emulators.bigquery.dialect.expressions import VALUE_HANDLERS
from imagebeam.emulators.bigquery.dialect.functions.date_time import DATE_TIME_HANDLERS
from imagebeam.emulators.bigquery.dialect.nodes import (
    MARK,
    Handler,
    Node,
    call,
    check_arguments,
    describe_node,
    invalid,
    is_call,
    not_implemented,
    string,
    to_call,
    unchanged,
)

#: Nodes with the same meaning in both dialects and without arguments that could be lost. They include clauses: those
#: that are not listed (TABLESAMPLE, PIVOT, FOR SYSTEM_TIME ...) are rejected.
SAME: Final = frozenset(
    re.findall(
        r"\w+",
        """
        Select From Join Where Group Having Order Ordered Limit Offset Qualify Window WindowSpec With CTE
        Subquery Table TableAlias Alias Column Identifier Null Boolean Var Paren Tuple Dot Values
        Union Intersect Except Distinct ColumnDef PropertyEQ Aliases
        And Or Not EQ NEQ GT GTE LT LTE Is Between Like NullSafeEQ NullSafeNEQ Escape
        Add Sub Mul Neg DPipe BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitwiseLeftShift BitwiseRightShift
        Case If Coalesce Nullif Exists
        Abs Sign Sqrt Exp Ln Log Pow Ceil Floor IsNan IsInf Rand Uuid Sin Cos Tan Asin Acos Atan Atan2
        Upper Lower Replace StartsWith EndsWith Reverse Repeat RegexpLike RawString
        CountIf Sum Avg Min Max LogicalOr LogicalAnd Stddev StddevSamp StddevPop Variance VariancePop Corr
        BitwiseAndAgg BitwiseOrAgg BitwiseXorAgg ArgMax ArgMin
        RowNumber Rank DenseRank PercentRank CumeDist Ntile Lag Lead FirstValue LastValue NthValue
        CurrentTimestamp CurrentDate Parameter Placeholder Unnest Lateral
        """,
    )
)


#: Nodes of statements around queries, which `dialect.statement` handles.
STATEMENTS: Final = frozenset(
    re.findall(
        r"\w+",
        """
        Insert Update Delete Merge Whens When Create Drop TruncateTable Schema Alter
        """,
    )
)


#: Functions without a class in sqlglot, to the DuckDB function and its minimum and maximum number of arguments.
FUNCTIONS: Final[dict[str, tuple[str, int, int]]] = {
    "FARM_FINGERPRINT": ("bq_farm_fingerprint", 1, 1),
    "ST_GEOGPOINT": ("bq_st_geogpoint", 2, 2),
    "ST_DWITHIN": ("bq_st_dwithin", 3, 3),
    "ST_CONTAINS": ("bq_st_contains", 2, 2),
    "ST_INTERSECTS": ("bq_st_intersects", 2, 2),
    "ST_COVERS": ("bq_st_covers", 2, 2),
    "ST_GEOGFROMGEOJSON": ("bq_st_geogfromgeojson", 1, 1),
    "ST_GEOGFROMTEXT": ("bq_st_geogfromtext", 1, 1),
    "ST_X": ("bq_st_x", 1, 1),
    "ST_Y": ("bq_st_y", 1, 1),
    "ST_ASTEXT": ("bq_st_astext", 1, 1),
    "ST_ASGEOJSON": ("bq_st_asgeojson", 1, 1),
    "IEEE_DIVIDE": ("bq_ieee_divide", 2, 2),
    "ERROR": ("error", 1, 1),
    "OBJ.MAKE_REF": ("bq_make_ref", 1, 2),
    "OBJ.FETCH_METADATA": ("bq_fetch_metadata", 1, 1),
}


_PRINTF: Final = re.compile(r"%(?:%|[-+0 ]*\d*(?:\.\d+)?[dsfgeExX])")


def rewrite(tree: Node) -> Node:
    """Rewrite a BigQuery tree to DuckDB, children before parents.

    Raises:
        ApiError: 501 for a node that is not implemented, 400 for an invalid one.
    """
    root: Any = exp.Paren(this=tree)
    for node in reversed(list(tree.walk(bfs=True))):
        handler = HANDLERS.get(type(node).__name__)
        if handler is None:
            if type(node).__name__ not in _KNOWN:
                raise not_implemented(describe_node(node))
            continue
        replacement = handler(node)
        if replacement is not None and replacement is not node:
            node.replace(replacement)
    result: Node = root.this
    result.pop()
    for node in result.find_all(exp.Anonymous):
        node.set("this", str(node.this).removeprefix(MARK))
    return result


def _anonymous(node: exp.Anonymous) -> Node | None:
    name = str(node.this).upper()
    if name.startswith(MARK) or (isinstance(node.parent, exp.Dot) and node.arg_key == "expression"):
        return None  # the latter is handled with its namespace
    if name not in FUNCTIONS:
        raise not_implemented(f"the function {node.this}")
    target, minimum, maximum = FUNCTIONS[name]
    if not minimum <= len(node.expressions) <= maximum:
        raise invalid(f"No matching signature for function {name}: it takes {minimum} argument(s)")
    if name == "OBJ.MAKE_REF" and len(node.expressions) == 1:
        return call(target, *node.expressions, exp.Null())
    return call(target, *node.expressions)


def _dot(node: exp.Dot) -> Node | None:
    """Rewrite a function with a namespace, such as OBJ.MAKE_REF(x)."""
    function = node.expression
    if not isinstance(function, exp.Anonymous) or not isinstance(node.this, exp.Identifier):
        return None
    return _anonymous(exp.Anonymous(this=f"{node.this.name}.{function.this}", expressions=function.expressions))


def _array_agg(node: exp.ArrayAgg) -> Node | None:
    check_arguments(node, "this", "nulls_excluded")
    return _aggregate(node, "list")


def _ignore_nulls(node: exp.IgnoreNulls) -> Node | None:
    """Rewrite IGNORE NULLS of ARRAY_AGG to a FILTER; DuckDB supports it for window functions."""
    inner = node.this
    sliced = is_call(inner, "list_slice")
    aggregate = inner.expressions[0] if sliced else inner
    if not is_call(aggregate, "list"):
        return None
    value = aggregate.expressions[0]
    while isinstance(value, exp.Order | exp.Distinct):
        value = value.this if isinstance(value, exp.Order) else value.expressions[0]
    test = exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null()))
    filtered = exp.Filter(this=aggregate.copy(), expression=exp.Where(this=test))
    if not sliced:
        return filtered
    return call("list_slice", filtered, *[part.copy() for part in inner.expressions[1:]])


def _aggregate(node: Node, name: str, *more: Node) -> Node:
    """Rewrite ARRAY_AGG or STRING_AGG, whose first argument contains DISTINCT, ORDER BY and LIMIT."""
    value = node.this
    limit = None
    if isinstance(value, exp.Limit):
        limit, value = value.expression, value.this
    if isinstance(value, exp.Order):
        order = exp.Order(expressions=value.expressions)
        aggregate = call(name, value.this, *more)
        # DuckDB's parser expects ORDER BY after the last argument.
        last = aggregate.expressions[-1]
        order.set("this", last.copy())
        last.replace(order)
    else:
        aggregate = call(name, value, *more)
    if limit is None:
        return aggregate
    if name != "list":
        raise not_implemented("LIMIT in STRING_AGG")
    return call("list_slice", aggregate, exp.Literal.number(1), limit)


def _string_agg(node: exp.GroupConcat) -> Node:
    check_arguments(node, "this", "separator")
    return _aggregate(node, "string_agg", node.args.get("separator") or string(","))


def _json_path(node: exp.JSONPath) -> str:
    path = ""
    for part in node.expressions:
        if isinstance(part, exp.JSONPathRoot):
            path = "$"
        elif isinstance(part, exp.JSONPathKey) and isinstance(part.this, str):
            if '"' in part.this:
                raise not_implemented("a double quote in a JSON path")
            path += f'."{part.this}"'
        elif isinstance(part, exp.JSONPathSubscript) and isinstance(part.this, int):
            path += f"[{part.this}]"
        else:
            raise not_implemented(f"{type(part).__name__} in a JSON path")
    return path


def _json(name: str) -> Handler:
    def handle(node: Node) -> Node:
        check_arguments(node, "this", "expression", "scalar_only", "only_json_types")
        path = node.args.get("expression")
        if path is None:
            return call(name, node.this, string("$"))
        if not isinstance(path, exp.JSONPath):
            raise not_implemented("a JSON path that is not a literal")
        return call(name, node.this, string(_json_path(path)))

    return handle


def _json_format(node: exp.JSONFormat) -> Node:
    check_arguments(node, "this", "to_json")
    return call("bq_to_json" if node.args.get("to_json") else "bq_to_json_string", node.this)


def _parse_json(node: exp.ParseJSON) -> Node:
    check_arguments(node, "this", "is_literal", "safe")
    return call("bq_parse_json", node.this)


def _sha2(node: exp.SHA2Digest) -> Node:
    if node.args["length"].name != "256":
        raise not_implemented(f"SHA{node.args['length'].name}")
    return call("bq_sha256", node.this)


def _regexp_extract(node: exp.RegexpExtract) -> Node:
    check_arguments(
        node, "this", "expression", "group", "null_if_pos_overflow", "null_if_no_match", "empty_if_group_missing"
    )
    pattern = node.expression
    if not isinstance(pattern, exp.Literal | exp.RawString):
        raise not_implemented("REGEXP_EXTRACT with a pattern that is not a literal")
    groups = re.compile(pattern.name).groups
    if groups > 1:
        raise invalid("Regular expression has more than 1 capturing groups")
    return call("bq_regexp_extract", node.this, pattern, exp.Literal.number(groups))


def _regexp_replace(node: exp.RegexpReplace) -> Node:
    check_arguments(node, "this", "expression", "replacement")
    return call("regexp_replace", node.this, node.expression, node.args["replacement"], string("g"))


def _format(node: exp.Format) -> Node:
    template = node.this
    if not isinstance(template, exp.Literal) or "%" in _PRINTF.sub("", template.name):
        raise not_implemented(f"this FORMAT: {template.sql('bigquery')[:60]}")
    return call("printf", template, *node.expressions)


def _quantiles(node: exp.ApproxQuantiles) -> Node:
    check_arguments(node, "this", "expression")
    count = int(node.expression.name)
    shares: list[Node] = [exp.Literal.number(repr(index / count)) for index in range(count + 1)]
    return call("quantile_disc", node.this, exp.Array(expressions=shares))


def _percentile(name: str) -> Handler:
    def handle(node: Node) -> Node:
        if not isinstance(node.parent, exp.Window):
            raise invalid(f"{describe_node(node)} needs an OVER clause")
        share = node.expression
        return call(name, node.this, share.this if isinstance(share, exp.Cast) else share)

    return handle


def _null_if_any(name: str) -> Handler:
    def handle(node: Node) -> Node:
        check_arguments(node, "this", "expressions", "ignore_nulls")
        parts = [node.this, *node.expressions]
        tests = [exp.Is(this=part.copy(), expression=exp.Null()) for part in parts]
        return exp.Case().when(exp.or_(*tests), exp.Null()).else_(call(name, *parts))

    return handle


def _array_concat(node: exp.ArrayConcat) -> Node:
    joined: Node = node.this
    for part in node.expressions:
        joined = call("list_concat", joined, part)
    return joined


def _join_array(node: exp.ArrayToString) -> Node:
    check_arguments(node, "this", "expression", "null")
    if node.args.get("null") is not None:
        return call("bq_join_nulls", node.this, node.expression, node.args["null"])
    return call("bq_join", node.this, node.expression)


def _substring(node: exp.Substring) -> Node:
    length = node.args.get("length")
    return call("bq_substr2" if length is None else "bq_substr3", node.this, node.args["start"], length)


def _any_value(node: exp.AnyValue) -> Node:
    if isinstance(node.this, exp.HavingMax):
        name = "arg_max_null" if node.this.args.get("max") else "arg_min_null"
        return call(name, node.this.this, node.this.expression)
    return call("any_value", node.this)


HANDLERS: Final[dict[str, Handler]] = (
    VALUE_HANDLERS
    | DATE_TIME_HANDLERS
    | {
        "Anonymous": _anonymous,
        "Dot": _dot,
        # Aggregates
        "ArrayAgg": _array_agg,
        "IgnoreNulls": _ignore_nulls,
        "RespectNulls": lambda node: node.this if isinstance(node.this, exp.Anonymous) else None,
        "GroupConcat": _string_agg,
        "AnyValue": _any_value,
        "HavingMax": lambda _: None,
        "ApproxQuantiles": _quantiles,
        "ApproxDistinct": lambda node: exp.Count(this=exp.Distinct(expressions=[node.this])),
        "PercentileCont": _percentile("quantile_cont"),
        "PercentileDisc": _percentile("quantile_disc"),
        "Filter": unchanged("this", "expression"),
        "Count": unchanged("this", "expressions", "big_int"),
        # Arithmetic
        "Div": to_call("bq_div", "this", "expression", ignore=("typed", "safe")),
        "IntDiv": to_call("bq_int_div", "this", "expression"),
        "Mod": to_call("bq_mod", "this", "expression"),
        "SafeDivide": to_call("bq_safe_divide", "this", "expression"),
        "Greatest": _null_if_any("greatest"),
        "Least": _null_if_any("least"),
        "Round": unchanged("this", "decimals"),
        "Trunc": unchanged("this", "decimals"),
        # Text and bytes
        "Length": to_call("bq_length", "this", ignore=("binary", "encoding")),
        "ByteLength": to_call("strlen", "this"),
        "Substring": _substring,
        "Split": to_call("bq_split", "this", "expression"),
        "RegexpExtract": _regexp_extract,
        "RegexpReplace": _regexp_replace,
        "Format": _format,
        "LowerHex": to_call("bq_to_hex", "this"),
        "Unhex": to_call("unhex", "this"),
        "ToBase64": to_call("bq_to_base64", "this"),
        "FromBase64": to_call("from_base64", "this"),
        "SHA2Digest": _sha2,
        "SHA1Digest": to_call("bq_sha1", "this"),
        "MD5Digest": to_call("bq_md5", "this"),
        "MD5": to_call("md5", "this"),  # sqlglot parses TO_HEX(MD5(x)) to this
        "FarmFingerprint": to_call("bq_farm_fingerprint", "expressions"),
        "StrPosition": unchanged("this", "substr"),
        "Trim": unchanged("this", "expression", "position"),
        "Pad": unchanged("this", "expression", "fill_pattern", "is_left"),
        # Arrays
        "ArraySize": to_call("len", "this"),
        "ArrayToString": _join_array,
        "ArrayConcat": _array_concat,
        "ArrayReverse": to_call("list_reverse", "this"),
        "ArrayFirst": to_call("list_first", "this"),
        "ArrayLast": to_call("list_last", "this"),
        "GenerateSeries": to_call("generate_series", "start", "end", "step"),
        # JSON
        "JSONExtractScalar": _json("bq_json_value"),
        "JSONExtract": _json("bq_json_query"),
        "JSONExtractArray": _json("bq_json_query_array"),
        "JSONValueArray": _json("bq_json_value_array"),
        "JSONPath": lambda _: None,
        "JSONPathRoot": lambda _: None,
        "JSONPathKey": lambda _: None,
        "JSONPathSubscript": lambda _: None,
        "JSONFormat": _json_format,
        "ParseJSON": _parse_json,
        "JSONType": to_call("bq_json_type", "this"),
        "LaxInt64": to_call("bq_lax_int64", "this"),
        "LaxFloat64": to_call("bq_lax_float64", "this"),
        "LaxBool": to_call("bq_lax_bool", "this"),
        "LaxString": to_call("bq_lax_string", "this"),
        "Int64": to_call("bq_json_int64", "this"),
        "Float64": to_call("bq_json_float64", "this"),
        "JSONBool": to_call("bq_json_bool", "this"),
        "String": to_call("bq_json_string", "this"),
        # Geography
        "StDistance": to_call("bq_st_distance", "this", "expression"),
    }
)
_KNOWN: Final = SAME | STATEMENTS

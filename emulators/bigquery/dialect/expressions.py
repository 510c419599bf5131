"""Rewrites of values: literals, types and casts, structs, arrays and their elements."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sqlglot import exp

from imagebeam.emulators.bigquery.dialect.nodes import (
    Handler,
    Node,
    call,
    check_arguments,
    invalid,
    is_call,
    not_implemented,
    null_on_error,
    string,
)
from imagebeam.emulators.bigquery.dialect.types import DUCK_TYPES

_TYPE_NAMES: Final = {
    exp.DataType.Type.TEXT: "STRING",
    exp.DataType.Type.VARCHAR: "STRING",
    exp.DataType.Type.BINARY: "BYTES",
    exp.DataType.Type.VARBINARY: "BYTES",
    exp.DataType.Type.BIGINT: "INTEGER",
    exp.DataType.Type.INT: "INTEGER",
    exp.DataType.Type.SMALLINT: "INTEGER",
    exp.DataType.Type.TINYINT: "INTEGER",
    exp.DataType.Type.DOUBLE: "FLOAT",
    exp.DataType.Type.BOOLEAN: "BOOLEAN",
    exp.DataType.Type.DECIMAL: "NUMERIC",
    exp.DataType.Type.BIGDECIMAL: "BIGNUMERIC",
    exp.DataType.Type.TIMESTAMPTZ: "TIMESTAMP",
    exp.DataType.Type.TIMESTAMP: "DATETIME",
    exp.DataType.Type.DATETIME: "DATETIME",
    exp.DataType.Type.DATE: "DATE",
    exp.DataType.Type.TIME: "TIME",
    exp.DataType.Type.JSON: "JSON",
    exp.DataType.Type.GEOGRAPHY: "GEOGRAPHY",
    exp.DataType.Type.GEOMETRY: "GEOGRAPHY",
}


_ARITHMETIC: Final = (
    exp.Add, exp.Sub, exp.Mul, exp.Neg, exp.Paren, exp.Alias, exp.Array, exp.PropertyEQ, exp.Coalesce, exp.If,
    exp.Case, exp.Tuple, exp.Struct, exp.Sum, exp.Max, exp.Min,
)  # fmt: skip


def _literal(node: exp.Literal) -> Node | None:
    """Cast numbers to INT64 and FLOAT64, where DuckDB would use INTEGER and DECIMAL."""
    if node.is_string:
        return None
    if re.search(r"[.eE]", node.name) and not node.name.lower().startswith("0x"):
        return cast_to(node, "DOUBLE")
    if isinstance(node.parent, _ARITHMETIC):
        return cast_to(node, "BIGINT")
    return None


def cast_to(node: Node, duck_type: str) -> exp.Cast:
    """Return a cast to a DuckDB type."""
    return exp.Cast(this=node.copy(), to=exp.DataType.build(duck_type, dialect="duckdb"))


def _data_type(node: exp.DataType) -> Node | None:
    kind = node.this
    if kind in (exp.DataType.Type.ARRAY, exp.DataType.Type.STRUCT):
        return None
    name = _TYPE_NAMES.get(kind)
    if name is None:
        raise not_implemented(f"the type {node.sql('bigquery')}")
    duck = DUCK_TYPES[name]
    if name == "NUMERIC" and node.expressions:
        precision = [part.name for part in node.expressions]
        duck = f"DECIMAL({', '.join(precision)})" if len(precision) == 2 else f"DECIMAL({precision[0]}, 0)"
    return exp.DataType.build(duck, dialect="duckdb")


def type_name(node: exp.DataType) -> str | None:
    """Return the REST name of a scalar type, or None for any other type."""
    return _TYPE_NAMES.get(node.this)


def _cast(node: exp.Cast | exp.TryCast) -> Node | None:
    check_arguments(node, "this", "to", "safe", "requires_string")
    if node.to.this in (exp.DataType.Type.ARRAY, exp.DataType.Type.STRUCT):
        _name_fields(node.this, node.to)
        return None
    safe = isinstance(node, exp.TryCast)
    kind = str(node.to.sql("duckdb")).upper()
    if kind in ("TEXT", "VARCHAR"):
        return null_on_error(call("bq_string", node.this)) if safe else call("bq_string", node.this)
    if kind == "BIGINT":
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return None
        return call("bq_try_int64" if safe else "bq_int64", node.this)
    if kind == "BLOB":
        return call("bq_bytes", node.this)
    if kind == "JSON":
        raise invalid("Invalid cast to type JSON: use PARSE_JSON or TO_JSON")
    return None


def _name_fields(value: Node, kind: exp.DataType) -> None:
    """Name the fields of a typed STRUCT after its type, as in STRUCT<a INT64>(1): DuckDB casts structs by name."""
    if kind.this == exp.DataType.Type.ARRAY and isinstance(value, exp.Array) and kind.expressions:
        for item in list(value.expressions):
            _name_fields(item, kind.expressions[0])
    elif kind.this == exp.DataType.Type.STRUCT and isinstance(value, exp.Struct | exp.Tuple):
        if len(value.expressions) != len(kind.expressions):
            raise invalid("STRUCT constructor has another number of fields than its type")
        names = [
            item.name if isinstance(item, exp.ColumnDef) else f"_field_{n}"
            for n, item in enumerate(kind.expressions, 1)
        ]
        _rename_fields(value, names)
        for item, wanted in zip(value.expressions, kind.expressions, strict=True):
            if isinstance(wanted, exp.ColumnDef) and isinstance(item, exp.PropertyEQ):
                _name_fields(item.expression, wanted.args["kind"])


def _rename_fields(value: Node, names: Sequence[str]) -> None:
    """Rename the fields of a struct, or replace a tuple by a struct with these names."""
    items = [item.expression if isinstance(item, exp.PropertyEQ) else item for item in value.expressions]
    fields = [
        exp.PropertyEQ(this=exp.to_identifier(name, quoted=True), expression=item.copy())
        for name, item in zip(names, items, strict=True)
    ]
    if isinstance(value, exp.Struct):
        value.set("expressions", fields)
    else:
        value.replace(exp.Struct(expressions=fields))


def _array(node: exp.Array) -> None:
    """Name the fields of all structs of an array after the first one, as in [STRUCT(1 AS a), STRUCT(2)]."""
    first = node.expressions[0] if node.expressions else None
    if not isinstance(first, exp.Struct):
        return
    names = [item.this.name for item in first.expressions]
    for item in list(node.expressions[1:]):
        if isinstance(item, exp.Struct | exp.Tuple) and len(item.expressions) == len(names):
            _rename_fields(item, names)


def _concat(node: exp.Concat) -> Node:
    parts = list(node.expressions)
    joined = parts[0]
    for part in parts[1:]:
        joined = exp.DPipe(this=joined, expression=part)
    return exp.Paren(this=joined)


def _struct(node: exp.Struct) -> Node:
    """Name the fields of STRUCT(a, b AS c, 3); fields without a name get their position."""
    fields = []
    for index, item in enumerate(node.expressions):
        if isinstance(item, exp.PropertyEQ | exp.Alias):
            name = item.this.name if isinstance(item, exp.PropertyEQ) else item.alias
            value = item.expression if isinstance(item, exp.PropertyEQ) else item.this
        else:
            column = isinstance(item, exp.Column | exp.Dot)
            name, value = (item.output_name if column else f"_field_{index + 1}"), item
        fields.append(exp.PropertyEQ(this=exp.to_identifier(name, quoted=True), expression=value))
    return exp.Struct(expressions=fields)


def _bracket(node: exp.Bracket) -> Node | None:
    if len(node.expressions) != 1:
        raise not_implemented("a subscript of several values")
    index = node.expressions[0]
    if isinstance(index, exp.Literal) and index.is_string:
        return call("json_extract", node.this, string(f'$."{index.name}"'))
    offset = node.args.get("offset")
    if offset is None:
        return call("bq_at", node.this, index.copy())
    if offset == 1:
        index = exp.Sub(this=index.copy(), expression=exp.Literal.number(1))
    return call("bq_safe_at" if node.args.get("safe") else "bq_array_at", node.this, index.copy())


def _in(node: exp.In) -> Node | None:
    unnest = node.args.get("unnest")
    if unnest is None:
        check_arguments(node, "this", "expressions", "query")
        return None
    values = unnest.expressions[0] if isinstance(unnest, exp.Unnest) else unnest
    if any(isinstance(part, exp.Column) for part in values.walk()):
        return call("bq_in", node.this, values)
    query = exp.select(call("unnest", values))
    return exp.In(this=node.this, query=exp.Subquery(this=query))


def _safe(node: exp.SafeFunc) -> Node:
    return null_on_error(node.this)


def _star(node: exp.Star) -> Node | None:
    check_arguments(node, "except_", "replace")
    return None


def _named_argument(node: exp.Kwarg) -> None:
    if not is_call(node.parent, "unnest"):
        raise not_implemented(f"the named argument {node.sql('bigquery')}")


def _bytes(node: exp.ByteString) -> Node:
    raw = str(node.this).encode("latin-1", "replace")
    return call("unhex", string(raw.hex()))


VALUE_HANDLERS: Final[dict[str, Handler]] = {
    "Literal": _literal,
    "DataType": _data_type,
    "Cast": _cast,
    "TryCast": _cast,
    "Concat": _concat,
    "Struct": _struct,
    "Array": _array,
    "Bracket": _bracket,
    "In": _in,
    "Star": _star,
    "ByteString": _bytes,
    "SafeFunc": _safe,
    "Kwarg": _named_argument,
}

"""BigQuery functions that DuckDB lacks or defines differently: macros, and Python functions where SQL is not enough.

Every name starts with ``bq_``; `dialect.rewrite` inserts the calls. Macros that depend on a type use ``typeof``, which
DuckDB evaluates at planning time.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
from typing import Any, Final

import duckdb
import orjson

from imagebeam.emulators.bigquery.dialect.functions import geography, vector_search
from imagebeam.emulators.bigquery.dialect.functions.fingerprint import fingerprint64
from imagebeam.emulators.bigquery.dialect.types import number_text

#: Largest integer that a double represents exactly; larger ones become strings in TO_JSON_STRING.
EXACT_INTEGER: Final = 2**53

MACROS: Final = (
    # Arithmetic: BigQuery raises errors where DuckDB returns NULL or Infinity, or rounds differently.
    "bq_div(a, b) AS CASE WHEN b = 0 THEN error('division by zero: ' || a || ' / ' || b) ELSE a / b END",
    "bq_safe_divide(a, b) AS CASE WHEN b = 0 THEN NULL ELSE a / b END",
    "bq_ieee_divide(a, b) AS CAST(a AS DOUBLE) / CAST(b AS DOUBLE)",
    "bq_int_div(a, b) AS CASE WHEN b = 0 THEN error('division by zero: DIV') ELSE a // b END",
    "bq_mod(a, b) AS CASE WHEN b = 0 THEN error('division by zero: MOD') ELSE a % b END",
    # Casts
    """bq_int64(x) AS CASE
        WHEN typeof(x) IN ('DOUBLE', 'FLOAT') THEN CAST(round(TRY_CAST(x AS DOUBLE)) AS BIGINT)
        WHEN typeof(x) = 'VARCHAR' AND NOT regexp_full_match(CAST(x AS VARCHAR),
            '\\s*[+-]?(\\d+|0[xX][0-9a-fA-F]+)\\s*') THEN error('Bad int64 value: ' || CAST(x AS VARCHAR))
        ELSE CAST(x AS BIGINT) END""",
    """bq_try_int64(x) AS CASE
        WHEN typeof(x) IN ('DOUBLE', 'FLOAT') THEN TRY_CAST(round(TRY_CAST(x AS DOUBLE)) AS BIGINT)
        WHEN typeof(x) = 'VARCHAR' AND NOT regexp_full_match(CAST(x AS VARCHAR),
            '\\s*[+-]?(\\d+|0[xX][0-9a-fA-F]+)\\s*') THEN NULL
        ELSE TRY_CAST(x AS BIGINT) END""",
    "bq_fraction(s) AS regexp_replace(regexp_replace(s, '(\\.\\d{3})0{3}(\\D|$)', '\\1\\2'), '\\.000(\\D|$)', '\\1')",
    "bq_zoned_text(t) AS bq_fraction(strftime(t AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%f')) || '+00'",
    "bq_local_text(t) AS bq_fraction(strftime(t, '%Y-%m-%d %H:%M:%S.%f'))",
    """bq_string(x) AS CASE
        WHEN typeof(x) = 'TIMESTAMP WITH TIME ZONE' THEN bq_zoned_text(TRY_CAST(x AS TIMESTAMPTZ))
        WHEN typeof(x) = 'TIMESTAMP' THEN bq_local_text(TRY_CAST(x AS TIMESTAMP))
        WHEN typeof(x) = 'BLOB' THEN decode(TRY_CAST(x AS BLOB))
        WHEN typeof(x) = 'DOUBLE' THEN bq_double_text(TRY_CAST(x AS DOUBLE))
        WHEN typeof(x) LIKE 'DECIMAL%' THEN regexp_replace(CAST(x AS VARCHAR), '\\.?0+$', '')
        WHEN typeof(x) IN ('JSON', 'GEOMETRY') OR typeof(x) LIKE '%[]' OR typeof(x) LIKE 'STRUCT%'
            THEN error('Invalid cast from ' || typeof(x) || ' to STRING')
        ELSE CAST(x AS VARCHAR) END""",
    "bq_double_text(d) AS regexp_replace(CAST(d AS VARCHAR), '\\.0$', '')",
    "bq_bytes(x) AS CASE WHEN typeof(x) = 'BLOB' THEN TRY_CAST(x AS BLOB) ELSE encode(CAST(x AS VARCHAR)) END",
    # Text
    "bq_substr2(s, p) AS substring(s, CASE WHEN p = 0 THEN 1 WHEN p < -len(s) THEN 1 ELSE p END)",
    "bq_substr3(s, p, n) AS substring(s, CASE WHEN p = 0 THEN 1 WHEN p < -len(s) THEN 1 ELSE p END, n)",
    """bq_length(x) AS CASE WHEN typeof(x) = 'BLOB' THEN octet_length(TRY_CAST(x AS BLOB))
        ELSE length(CAST(x AS VARCHAR)) END""",
    "bq_regexp_extract(s, r, g) AS CASE WHEN regexp_matches(s, r) THEN regexp_extract(s, r, g) END",
    "bq_split(s, d) AS CASE WHEN s = '' THEN [''] ELSE string_split(s, d) END",
    # Arrays
    # DuckDB counts elements of JSON from 0 and those of lists from 1.
    """bq_at(x, i) AS CASE
        WHEN typeof(x) = 'JSON' THEN CASE WHEN i >= 0 THEN x[i] END
        ELSE bq_array_at(x, i) END""",
    """bq_array_at(x, i) AS CASE
        WHEN typeof(x) = 'JSON'
            THEN error('Subscript access using [OFFSET(INT64)] is not supported on values of type JSON')
        WHEN i < 0 OR i >= len(x) THEN error('Array index ' || i || ' is out of bounds')
        ELSE x[i + 1] END""",
    """bq_safe_at(x, i) AS CASE
        WHEN typeof(x) = 'JSON'
            THEN error('Subscript access using [SAFE_OFFSET(INT64)] is not supported on values of type JSON')
        WHEN i < 0 OR i >= len(x) THEN NULL
        ELSE x[i + 1] END""",
    """bq_in(x, xs) AS CASE
        WHEN xs IS NULL OR len(xs) = 0 THEN FALSE
        WHEN x IS NULL THEN NULL
        WHEN list_contains(xs, x) THEN TRUE
        WHEN len(xs) <> list_count(xs) THEN NULL
        ELSE FALSE END""",
    "bq_join(xs, d) AS array_to_string(xs, d)",
    "bq_join_nulls(xs, d, n) AS array_to_string(list_transform(xs, lambda x: coalesce(x, n)), d)",
    # Time
    "bq_before(a, b, unit) AS date_sub(unit, b, a)",
    # JSON: the result for invalid JSON text is NULL, as in BigQuery.
    # TRY cannot be used: the argument may be a subscript, and error() is volatile.
    """bq_json_value(j, p) AS CASE
        WHEN NOT json_valid(j) THEN NULL
        WHEN json_type(j, p) IN ('OBJECT', 'ARRAY', 'NULL') THEN NULL
        ELSE json_extract_string(j, p) END""",
    # The result has the type of the input: JSON or STRING.
    """bq_json_query(j, p) AS
        coalesce(nullif(j, j), CASE WHEN json_valid(j) THEN CAST(json_extract(j, p) AS VARCHAR) END)""",
    """bq_json_query_array(j, p) AS CASE
        WHEN NOT json_valid(j) THEN NULL
        WHEN json_type(j, p) = 'ARRAY' THEN json_extract(j, p || '[*]') END""",
    """bq_json_value_array(j, p) AS CASE
        WHEN NOT json_valid(j) THEN NULL
        WHEN json_type(j, p) = 'ARRAY' AND len(list_intersect(json_type(j, p || '[*]'), ['OBJECT', 'ARRAY'])) = 0
        THEN json_extract_string(j, p || '[*]') END""",
    "bq_json_kind(j) AS json_type(bq_need_json(j))",
    "bq_need_json(j) AS CASE WHEN typeof(j) = 'JSON' THEN j ELSE error('the argument must be JSON') END",
    """bq_json_type(j) AS CASE bq_json_kind(j) WHEN 'VARCHAR' THEN 'string' WHEN 'BOOLEAN' THEN 'boolean'
        WHEN 'OBJECT' THEN 'object' WHEN 'ARRAY' THEN 'array' WHEN 'NULL' THEN 'null' ELSE 'number' END""",
    """bq_lax_string(j) AS CASE WHEN bq_json_kind(j) NOT IN ('OBJECT', 'ARRAY', 'NULL')
        THEN json_extract_string(j, '$') END""",
    """bq_lax_int64(j) AS CASE
        WHEN bq_json_kind(j) = 'BOOLEAN' THEN CAST(json_extract_string(j, '$') = 'true' AS BIGINT)
        ELSE coalesce(TRY_CAST(bq_lax_string(j) AS BIGINT),
            TRY_CAST(round(TRY_CAST(bq_lax_string(j) AS DOUBLE)) AS BIGINT)) END""",
    """bq_lax_float64(j) AS CASE WHEN bq_json_kind(j) = 'BOOLEAN' THEN NULL
        ELSE TRY_CAST(bq_lax_string(j) AS DOUBLE) END""",
    """bq_lax_bool(j) AS CASE WHEN bq_json_kind(j) = 'BOOLEAN' THEN json_extract_string(j, '$') = 'true'
        WHEN bq_json_kind(j) = 'VARCHAR' THEN
            CASE lower(json_extract_string(j, '$')) WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END
        ELSE TRY_CAST(bq_lax_string(j) AS DOUBLE) <> 0 END""",
    """bq_json_int64(j) AS CASE WHEN bq_json_kind(j) IN ('BIGINT', 'UBIGINT')
            OR (bq_json_kind(j) = 'DOUBLE' AND bq_lax_float64(j) = round(bq_lax_float64(j)))
        THEN bq_lax_int64(j) ELSE error('The provided JSON input is not an integer') END""",
    """bq_json_float64(j) AS CASE WHEN bq_json_kind(j) IN ('BIGINT', 'UBIGINT', 'DOUBLE') THEN bq_lax_float64(j)
        ELSE error('The provided JSON input is not a number') END""",
    """bq_json_bool(j) AS CASE WHEN bq_json_kind(j) = 'BOOLEAN' THEN bq_lax_bool(j)
        ELSE error('The provided JSON input is not a boolean') END""",
    """bq_json_string(j) AS CASE WHEN typeof(j) <> 'JSON' THEN bq_string(j)
        WHEN json_type(j) = 'VARCHAR' THEN json_extract_string(j, '$')
        ELSE error('The provided JSON input is not a string') END""",
    """bq_to_json_string(x) AS CASE WHEN x IS NULL THEN 'null'
        WHEN typeof(x) IN ('VARCHAR', 'BOOLEAN', 'JSON') THEN CAST(to_json(x) AS VARCHAR)
        ELSE bq_json_text(x, CAST(to_json(x) AS VARCHAR)) END""",
    "bq_to_json(x) AS bq_parse_json(bq_to_json_string(x))",
    # Bytes
    "bq_to_hex(b) AS lower(hex(bq_bytes_only(b)))",
    "bq_bytes_only(b) AS CASE WHEN typeof(b) = 'BLOB' THEN b ELSE error('the argument must be BYTES') END",
    "bq_sha256(x) AS unhex(sha256(x))",
    "bq_sha1(x) AS unhex(sha1(x))",
    "bq_md5(x) AS unhex(md5(x))",
    "bq_to_base64(b) AS to_base64(bq_bytes_only(b))",
    # Geography
    """bq_st_astext(g) AS bq_wkt(g)""",
)


def canonical_json(text: str | bytes) -> str:
    """Return JSON text in the form of the JSON type: without spaces, keys sorted.

    Raises:
        ValueError: The text is not JSON.
    """
    return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()


def json_of_value(value: Any) -> str:
    """Return a value as JSON text in the form of the JSON type."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _parse_json(text: str) -> str:
    try:
        return canonical_json(text)
    except orjson.JSONDecodeError as problem:
        raise ValueError(f"syntax error while parsing value - {problem}") from None


def _json_text(value: Any, rendered: str) -> str:
    """Return TO_JSON_STRING of a value: DuckDB's JSON with BigQuery's form of types that JSON does not have.

    Args:
        value: The value.
        rendered: DuckDB's JSON of it, which distinguishes JSON from STRING (both are ``str`` in Python).
    """
    return json.dumps(_bigquery_form(value, json.loads(rendered)), separators=(",", ":"), ensure_ascii=False)


def _bigquery_form(value: Any, rendered: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return rendered
    if isinstance(value, dict):
        return {name: _bigquery_form(value[name], rendered[name]) for name in value}
    if isinstance(value, list | tuple):
        return [_bigquery_form(item, part) for item, part in zip(value, rendered, strict=True)]
    if isinstance(value, int):
        return value if abs(value) <= EXACT_INTEGER else str(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[repr(value)]
        return int(value) if value.is_integer() and abs(value) <= EXACT_INTEGER else value
    if isinstance(value, decimal.Decimal):
        return _json_number(value)
    if isinstance(value, datetime.datetime):
        return _json_time(value)
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        if raw[:1] == b"\x01" and not str(rendered).startswith("\\x01"):  # WKB: DuckDB renders it as WKT
            return json.loads(geography.to_geojson(raw))
        return base64.b64encode(raw).decode()
    return rendered


def _json_number(value: decimal.Decimal) -> Any:
    if value == value.to_integral_value():
        return int(value) if abs(value) <= EXACT_INTEGER else str(int(value))
    return float(value) if decimal.Decimal(repr(float(value))) == value else number_text(value)


def _json_time(value: datetime.datetime) -> str:
    zone = "" if value.tzinfo is None else "Z"
    micros = value.microsecond
    fraction = "" if not micros else f".{micros // 1000:03d}" if micros % 1000 == 0 else f".{micros:06d}"
    return value.strftime("%Y-%m-%dT%H:%M:%S") + fraction + zone


def _fingerprint_text(value: str) -> int:
    return fingerprint64(value.encode())


_UDFS: Final = (
    ("bq_parse_json", _parse_json, ["VARCHAR"], "JSON"),
    ("bq_farm_fingerprint", _fingerprint_text, ["VARCHAR"], "BIGINT"),
    ("bq_st_geogpoint", geography.point, ["DOUBLE", "DOUBLE"], "GEOMETRY"),
    ("bq_st_x", geography.x_of, ["GEOMETRY"], "DOUBLE"),
    ("bq_st_y", geography.y_of, ["GEOMETRY"], "DOUBLE"),
    ("bq_wkt", geography.to_wkt, ["GEOMETRY"], "VARCHAR"),
    ("bq_st_asgeojson", geography.to_geojson, ["GEOMETRY"], "VARCHAR"),
    ("bq_st_geogfromtext", geography.from_text, ["VARCHAR"], "GEOMETRY"),
    ("bq_st_geogfromgeojson", geography.from_geojson, ["VARCHAR"], "GEOMETRY"),
    ("bq_st_distance", geography.distance, ["GEOMETRY", "GEOMETRY"], "DOUBLE"),
    ("bq_st_dwithin", geography.within, ["GEOMETRY", "GEOMETRY", "DOUBLE"], "BOOLEAN"),
    ("bq_st_intersects", geography.intersects, ["GEOMETRY", "GEOMETRY"], "BOOLEAN"),
    ("bq_st_contains", geography.contains, ["GEOMETRY", "GEOMETRY"], "BOOLEAN"),
    ("bq_st_covers", geography.covers, ["GEOMETRY", "GEOMETRY"], "BOOLEAN"),
)


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Register the functions with a connection and its cursors."""
    for name, function, parameters, result in _UDFS:
        connection.create_function(name, function, parameters, result)  # type: ignore[arg-type]
    connection.create_function("bq_json_text", _json_text, None, "VARCHAR")
    pending = [*MACROS, *vector_search.MACROS]
    while pending:  # macros may use each other, in any order
        later = []
        for macro in pending:
            try:
                connection.execute(f"CREATE MACRO {macro}")
            except duckdb.Error:
                later.append(macro)
        if len(later) == len(pending):
            connection.execute(f"CREATE MACRO {later[0]}")
        pending = later

"""GoogleSQL of the local BigQuery: expressions and queries with the results of BigQuery."""

import base64
import datetime
import json
from decimal import Decimal
from typing import Any

import pytest
from google.cloud import bigquery
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imagebeam.emulators.bigquery.dialect.functions.fingerprint import fingerprint64
from imagebeam.emulators.cloud import LocalCloud

UTC = datetime.UTC
MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
DATA = """
WITH t AS (
  SELECT 1 AS id, 'a' AS s, [3, 1] AS xs, [STRUCT(1 AS x, 'p' AS y)] AS rs,
    PARSE_JSON('{"a": {"b": 5}, "l": ["u", "v"], "t": true, "f": 1.5, "n": null}') AS j,
    TIMESTAMP '2024-01-02 03:04:05.678+00' AS ts, DATE '2024-01-02' AS d, NUMERIC '1.5' AS n
  UNION ALL
  SELECT 2, CAST(NULL AS STRING), CAST([] AS ARRAY<INT64>), CAST([] AS ARRAY<STRUCT<x INT64, y STRING>>),
    CAST(NULL AS JSON), NULL, NULL, NULL
  UNION ALL
  SELECT 3, 'c', [7], [STRUCT(2 AS x, 'q' AS y), STRUCT(3, 'r')], PARSE_JSON('{"a": "text"}'),
    TIMESTAMP '2025-01-02 03:04:05+00', DATE '2025-01-01', NUMERIC '2'
)
""".replace("CAST(NULL AS JSON)", "PARSE_JSON(CAST(NULL AS STRING))")
SQUARE = json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]})


@pytest.fixture
def client(cloud: LocalCloud) -> bigquery.Client:
    return bigquery.Client(project=cloud.project)


def run(client: bigquery.Client, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    config = bigquery.QueryJobConfig(query_parameters=list(parameters))
    return [tuple(row.values()) for row in client.query_and_wait(sql, job_config=config)]


EXPRESSIONS: list[tuple[str, Any]] = [
    # Literals and escapes
    ("1", 1),
    ("-7", -7),
    ("1.5", 1.5),
    ("1e3", 1000.0),
    ("NULL", None),
    (r"'a\nb\t\'\\'", "a\nb\t'\\"),
    ('"it\'s"', "it's"),
    (r"r'\d\n'", r"\d\n"),
    ("'''tri'ple'''", "tri'ple"),
    (r"'\u00e9\x41'", "éA"),
    (r"b'\x00\xffa'", b"\x00\xffa"),
    ("DATE '2024-01-02'", datetime.date(2024, 1, 2)),
    ("DATETIME '2024-01-02 03:04:05'", datetime.datetime(2024, 1, 2, 3, 4, 5)),  # noqa: DTZ001
    ("TIME '03:04:05.5'", datetime.time(3, 4, 5, 500000)),
    ("TIMESTAMP '2024-01-02 03:04:05+02'", datetime.datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
    ("NUMERIC '1.50'", Decimal("1.5")),
    ("BIGNUMERIC '0.00000000000000000001'", Decimal("1e-20")),
    ('JSON \'{"b": 1, "a": [1, 2]}\'', {"a": [1, 2], "b": 1}),
    # Arithmetic
    ("1000000 * 1000000", 10**12),
    ("7 / 2", 3.5),
    ("DIV(-7, 2)", -3),
    ("MOD(-7, 3)", -1),
    ("SAFE_DIVIDE(1, 0)", None),
    ("SAFE_DIVIDE(1, 4)", 0.25),
    ("IEEE_DIVIDE(1, 0)", float("inf")),
    ("ROUND(2.5)", 3.0),
    ("ROUND(-2.5)", -3.0),
    ("ROUND(1.256, 2)", 1.26),
    ("CEIL(1.2) + FLOOR(1.8) + TRUNC(-1.8) + ABS(-1) + SIGN(-3)", 2.0),
    ("POW(2, 10)", 1024.0),
    ("GREATEST(1, 3, 2) - LEAST(3, 1)", 2),
    ("GREATEST(1, NULL)", None),
    ("5 & 4 | 2", 6),
    ("0.1 + 0.2", 0.1 + 0.2),
    # Conditions
    ("IF(1 = 1, 'x', 'y')", "x"),
    ("IFNULL(NULL, 'z')", "z"),
    ("COALESCE(NULL, NULL, 3)", 3),
    ("NULLIF(1, 1)", None),
    ("CASE WHEN 1 = 2 THEN 'a' ELSE 'b' END", "b"),
    ("CASE 3 WHEN 3 THEN 'three' END", "three"),
    ("1 IS DISTINCT FROM NULL", True),
    ("NULL = NULL", None),
    ("'abc' LIKE 'a%'", True),
    ("2 BETWEEN 1 AND 3", True),
    ("3 IN UNNEST([1, 2])", False),
    ("3 IN UNNEST([1, NULL])", None),
    ("NULL IN UNNEST([1])", None),
    ("3 NOT IN (1, 2)", True),
    ("EXISTS(SELECT 1 FROM UNNEST([1]) AS x WHERE x = 2)", False),
    # Casts
    ("CAST('12' AS INT64)", 12),
    ("CAST('0x1F' AS INT64)", 31),
    ("CAST(2.5 AS INT64)", 3),
    ("CAST(-2.5 AS INT64)", -3),
    ("CAST(TRUE AS INT64)", 1),
    ("SAFE_CAST('x' AS INT64)", None),
    ("SAFE_CAST('1.5' AS INT64)", None),
    ("SAFE_CAST('2024-13-01' AS DATE)", None),
    ("CAST(1.0 AS STRING)", "1"),
    ("CAST(1.25 AS STRING)", "1.25"),
    ("CAST(NUMERIC '1.50' AS STRING)", "1.5"),
    ("CAST(TRUE AS STRING)", "true"),
    ("CAST(b'abc' AS STRING)", "abc"),
    ("CAST('é' AS BYTES)", "é".encode()),
    ("CAST(DATE '2024-01-02' AS STRING)", "2024-01-02"),
    ("CAST(TIMESTAMP '2024-01-02 03:04:05' AS STRING)", "2024-01-02 03:04:05+00"),
    ("CAST(TIMESTAMP '2024-01-02 03:04:05.12' AS STRING)", "2024-01-02 03:04:05.120+00"),
    ("CAST(TIMESTAMP '2024-01-02 03:04:05.123456' AS STRING)", "2024-01-02 03:04:05.123456+00"),
    ("CAST('2024-01-02T03:04:05Z' AS TIMESTAMP)", datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ("CAST('1.5' AS FLOAT64) + CAST(1 AS NUMERIC)", 2.5),
    # Text and bytes
    ("CONCAT('a', 'b', 'c') || 'd'", "abcd"),
    ("CONCAT('a', NULL)", None),
    ("LENGTH('é') + BYTE_LENGTH('é') + CHAR_LENGTH('ab')", 5),
    ("LENGTH(b'abc')", 3),
    ("SUBSTR('abcdef', 2, 3)", "bcd"),
    ("SUBSTR('abc', -2)", "bc"),
    ("SUBSTR('abc', 0, 2)", "ab"),
    ("UPPER('a') || LOWER('B') || TRIM(' c ') || RTRIM('dxx', 'x') || REVERSE('fe')", "Abcdef"),
    ("REPLACE('aba', 'b', 'x')", "axa"),
    ("LPAD('7', 3, '0') || REPEAT('a', 2)", "007aa"),
    ("STRPOS('abc', 'c') + INSTR('abc', 'b')", 5),
    ("SPLIT('a,b')", ["a", "b"]),
    ("SPLIT('a;b', ';')[OFFSET(1)]", "b"),
    ("STARTS_WITH('abc', 'ab') AND ENDS_WITH('abc', 'bc')", True),
    (r"REGEXP_CONTAINS('a1', r'\d')", True),
    (r"REGEXP_EXTRACT('ab12', r'[a-z](\d+)')", "12"),
    (r"REGEXP_EXTRACT('ab', r'\d')", None),
    (r"REGEXP_REPLACE('aXbX', r'(X)', r'<\1>')", "a<X>b<X>"),
    ("FORMAT('%d-%s-%05.1f%%', 1, 'x', 2.5)", "1-x-002.5%"),
    ("TO_HEX(SHA256('abc'))", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("CAST(CONCAT('0x', SUBSTR(TO_HEX(SHA256('abc')), 1, 8)) AS INT64)", 0xBA7816BF),
    ("TO_HEX(MD5('abc'))", "900150983cd24fb0d6963f7d28e17f72"),
    ("MD5('abc')", bytes.fromhex("900150983cd24fb0d6963f7d28e17f72")),
    ("FROM_HEX('00ff')", b"\x00\xff"),
    ("TO_BASE64(b'abc') || CAST(FROM_BASE64('YWJj') AS STRING)", "YWJjabc"),
    # Examples of the GoogleSQL reference
    ("FARM_FINGERPRINT('1footrue')", -1541654101129638711),
    ("FARM_FINGERPRINT('2applefalse')", 2794438866806483259),
    ("FARM_FINGERPRINT('3true')", -4880158226897771312),
    # Arrays and structs
    ("[1, 2, 3]", [1, 2, 3]),
    ("ARRAY<STRING>[]", []),
    ("ARRAY_LENGTH([1, 2])", 2),
    ("[1, 2][OFFSET(1)] + [1, 2][ORDINAL(1)]", 3),
    ("[1][SAFE_OFFSET(5)]", None),
    ("ARRAY_TO_STRING(['a', NULL, 'b'], ',')", "a,b"),
    ("ARRAY_TO_STRING(['a', NULL], ',', '?')", "a,?"),
    ("ARRAY_CONCAT([1], [2], [3])", [1, 2, 3]),
    ("ARRAY_REVERSE([1, 2])", [2, 1]),
    ("GENERATE_ARRAY(1, 10, 4)", [1, 5, 9]),
    ("ARRAY(SELECT x * 2 FROM UNNEST([3, 1, 2]) AS x ORDER BY x)", [2, 4, 6]),
    ("ARRAY(SELECT AS STRUCT x, x + 1 AS y FROM UNNEST([2, 1]) AS x ORDER BY x)", [{"x": 1, "y": 2}, {"x": 2, "y": 3}]),
    ("STRUCT(1 AS a, 'x' AS b)", {"a": 1, "b": "x"}),
    ("STRUCT(1 AS a, STRUCT('x' AS c) AS b).b.c", "x"),
    ("STRUCT<a INT64, b STRING>(1, 'x')", {"a": 1, "b": "x"}),
    ("ARRAY<STRUCT<a INT64, b STRING>>[(1, 'x'), (2, 'y')]", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
    ("(SELECT AS STRUCT 1 AS a, 'x' AS b)", {"a": 1, "b": "x"}),
    ("(SELECT SUM(x) FROM UNNEST([1, 2]) AS x)", 3),
    # Time
    ("FORMAT_TIMESTAMP('%FT%H:%M:%E6SZ', TIMESTAMP '2024-01-02 03:04:05.678')", "2024-01-02T03:04:05.678000Z"),
    ("FORMAT_TIMESTAMP('%FT%H:%M:%E6SZ', TIMESTAMP '2024-01-02 03:04:05', 'UTC')", "2024-01-02T03:04:05.000000Z"),
    ("FORMAT_DATE('%Y/%m', DATE '2024-01-02')", "2024/01"),
    ("PARSE_TIMESTAMP('%Y-%m-%d %H', '2024-01-02 03')", datetime.datetime(2024, 1, 2, 3, tzinfo=UTC)),
    ("PARSE_DATE('%F', '2024-01-02')", datetime.date(2024, 1, 2)),
    ("TIMESTAMP_ADD(TIMESTAMP '2024-01-31', INTERVAL 36 HOUR)", datetime.datetime(2024, 2, 1, 12, tzinfo=UTC)),
    ("TIMESTAMP_SUB(TIMESTAMP '2024-01-02', INTERVAL 1 DAY)", datetime.datetime(2024, 1, 1, tzinfo=UTC)),
    ("TIMESTAMP '2024-01-02' + INTERVAL 2 MINUTE", datetime.datetime(2024, 1, 2, 0, 2, tzinfo=UTC)),
    ("TIMESTAMP_DIFF(TIMESTAMP '2024-01-02 00:30:00', TIMESTAMP '2024-01-01 23:50:00', HOUR)", 0),
    ("TIMESTAMP_DIFF(TIMESTAMP '2024-01-02', TIMESTAMP '2024-01-01', SECOND)", 86400),
    ("TIMESTAMP_TRUNC(TIMESTAMP '2024-01-02 03:04:05', DAY)", datetime.datetime(2024, 1, 2, tzinfo=UTC)),
    ("CURRENT_TIMESTAMP() > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 5 MINUTE)", True),
    ("TIMESTAMP('2024-01-02')", datetime.datetime(2024, 1, 2, tzinfo=UTC)),
    ("DATE(TIMESTAMP '2024-01-02 23:59:59')", datetime.date(2024, 1, 2)),
    ("DATE(2024, 1, 2)", datetime.date(2024, 1, 2)),
    ("DATE_ADD(DATE '2024-01-31', INTERVAL 1 MONTH)", datetime.date(2024, 2, 29)),
    ("DATE_DIFF(DATE '2024-01-03', DATE '2024-01-01', DAY)", 2),
    ("DATE_TRUNC(DATE '2024-05-17', MONTH)", datetime.date(2024, 5, 1)),
    ("EXTRACT(YEAR FROM DATE '2024-05-17') + EXTRACT(MONTH FROM DATE '2024-05-17')", 2029),
    ("EXTRACT(DAYOFWEEK FROM DATE '2024-01-07')", 1),
    ("EXTRACT(HOUR FROM TIMESTAMP '2024-01-02 03:04:05' AT TIME ZONE 'UTC')", 3),
    ("EXTRACT(MICROSECOND FROM TIMESTAMP '2024-01-02 03:04:05.678')", 678000),
    ("UNIX_MICROS(TIMESTAMP '1970-01-01 00:00:01') + UNIX_SECONDS(TIMESTAMP '1970-01-01 00:01:00')", 1000060),
    ("TIMESTAMP_MILLIS(1500)", datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)),
    # JSON
    ('PARSE_JSON(\'{"b":1,"a":2}\')', {"a": 2, "b": 1}),
    ("SAFE.PARSE_JSON('{')", None),
    ("JSON_VALUE('{\"a\": {\"b\": 5}}', '$.a.b')", "5"),
    ("JSON_VALUE('{\"a\": {\"b\": 5}}', '$.a')", None),
    ('JSON_VALUE(\'{"a b": ["x"]}\', \'$."a b"[0]\')', "x"),
    ("JSON_VALUE(JSON '{\"a\": null}', '$.a')", None),
    ("JSON_QUERY(JSON '{\"a\": [1]}', '$.a')", [1]),
    ("JSON_QUERY('{\"a\": [1]}', '$.a')", "[1]"),
    ("JSON_VALUE_ARRAY(JSON '[\"x\", 1]')", ["x", "1"]),
    ("JSON_VALUE_ARRAY(JSON '{\"a\": [{}]}', '$.a')", []),
    ("JSON_QUERY_ARRAY(JSON '{\"a\": [{\"b\": 1}]}', '$.a')", [{"b": 1}]),
    ("LAX_INT64(JSON '\"12\"')", 12),
    ("LAX_INT64(JSON '1.5')", 2),
    ("LAX_INT64(JSON 'true')", 1),
    ("LAX_INT64(JSON '{}')", None),
    ("LAX_FLOAT64(JSON '\"1.5\"')", 1.5),
    ("LAX_FLOAT64(JSON 'true')", None),
    ("LAX_BOOL(JSON '\"TRUE\"')", True),
    ("LAX_BOOL(JSON '0')", False),
    ("LAX_STRING(JSON '1.5')", "1.5"),
    ("LAX_STRING(JSON '[1]')", None),
    ("INT64(JSON '5') + INT64(JSON '5.0')", 10),
    ("STRING(JSON '\"x\"')", "x"),
    ("BOOL(JSON 'true')", True),
    ("JSON_TYPE(JSON '{\"a\":1}')", "object"),
    ("TO_JSON_STRING(STRUCT(1 AS b, 'x' AS a))", '{"b":1,"a":"x"}'),
    ("TO_JSON_STRING(STRUCT([1.0, 2.5] AS f, NULL AS n, b'a' AS b))", '{"f":[1,2.5],"n":null,"b":"YQ=="}'),
    ("TO_JSON_STRING(TIMESTAMP '2024-01-02 03:04:05.5')", '"2024-01-02T03:04:05.500Z"'),
    ("TO_JSON_STRING(DATE '2024-01-02')", '"2024-01-02"'),
    ("TO_JSON_STRING(9007199254740993)", '"9007199254740993"'),
    ("TO_JSON_STRING('é\"')", '"é\\""'),
    ("TO_JSON(STRUCT(1 AS z, [2] AS a))", {"a": [2], "z": 1}),
    ("JSON '{\"a\": 1}'['a']", 1),
    ("JSON '[1, [2, 3]]'[1][0]", 2),
    ("JSON '[1]'[1]", None),
    ("JSON '[1]'[-1]", None),
    ("JSON '{\"a\": 1}'[0]", None),
    ('JSON_VALUE(JSON \'{"c": [{"t": "x"}]}\'.c[0].t)', "x"),
    ('JSON_QUERY_ARRAY(JSON \'{"c": [{"t": [5]}]}\'.c[0].t)', [5]),
    ("JSON_VALUE('{', '$.a')", None),
    # Geography
    ("ST_ASTEXT(ST_GEOGPOINT(1.5, -2))", "POINT(1.5 -2)"),
    ("ST_GEOGPOINT(1.5, -2)", "POINT(1.5 -2)"),
    ("ST_X(ST_GEOGPOINT(1.5, -2)) + ST_Y(ST_GEOGPOINT(1.5, -2))", -0.5),
    ("ROUND(ST_DISTANCE(ST_GEOGPOINT(0, 0), ST_GEOGPOINT(0, 1)))", 111195.0),
    ("ST_DWITHIN(ST_GEOGPOINT(13.4, 52.5), ST_GEOGPOINT(13.4, 52.5009), 101)", True),
    ("ST_DWITHIN(ST_GEOGPOINT(13.4, 52.5), ST_GEOGPOINT(13.4, 52.5009), 99)", False),
    ("ST_CONTAINS(ST_GEOGFROMGEOJSON(@square), ST_GEOGPOINT(5, 5))", True),
    ("ST_CONTAINS(ST_GEOGFROMGEOJSON(@square), ST_GEOGPOINT(0, 5))", False),
    ("ST_COVERS(ST_GEOGFROMGEOJSON(@square), ST_GEOGPOINT(0, 5))", True),
    ("ST_INTERSECTS(ST_GEOGPOINT(11, 5), ST_GEOGFROMGEOJSON(@square))", False),
    ("ST_ASTEXT(ST_GEOGFROMTEXT('POLYGON((0 0, 1 0, 1 1, 0 0))'))", "POLYGON((0 0, 1 0, 1 1, 0 0))"),
    ("ST_GEOGPOINT(NULL, 1)", None),
]


@pytest.fixture(scope="module")
def values(cloud: LocalCloud) -> dict[str, Any]:
    """The values of all expressions, from one query."""
    columns = ", ".join(f"{expression} AS c{number}" for number, (expression, _) in enumerate(EXPRESSIONS))
    square = bigquery.ScalarQueryParameter("square", "STRING", SQUARE)
    (row,) = run(bigquery.Client(project=cloud.project), f"SELECT {columns}", square)
    return dict(zip((expression for expression, _ in EXPRESSIONS), row, strict=True))


@pytest.mark.parametrize(("expression", "expected"), EXPRESSIONS, ids=[text for text, _ in EXPRESSIONS])
def test_expression_has_the_value_of_bigquery(values: dict[str, Any], expression: str, expected: Any) -> None:
    assert values[expression] == expected
    assert type(values[expression]) is type(expected)


QUERIES: list[tuple[str, list[tuple[Any, ...]]]] = [
    ("SELECT s FROM t ORDER BY s", [(None,), ("a",), ("c",)]),
    ("SELECT s FROM t ORDER BY s DESC", [("c",), ("a",), (None,)]),
    ("SELECT id FROM t ORDER BY 1 DESC LIMIT @n OFFSET 1", [(2,), (1,)]),
    ("SELECT s, COUNT(*) AS c FROM t GROUP BY 1 HAVING c > 0 ORDER BY 1 LIMIT 2", [(None, 1), ("a", 1)]),
    (
        "SELECT id FROM t QUALIFY ROW_NUMBER() OVER (PARTITION BY s IS NULL ORDER BY id DESC) = 1 ORDER BY id",
        [(2,), (3,)],
    ),
    ("SELECT id FROM t WHERE id IN UNNEST(@ids) ORDER BY id", [(1,), (3,)]),
    ("SELECT id FROM t WHERE 7 IN UNNEST(xs)", [(3,)]),
    ("SELECT id, x, o FROM t, UNNEST(xs) AS x WITH OFFSET AS o ORDER BY id, o", [(1, 3, 0), (1, 1, 1), (3, 7, 0)]),
    ("SELECT id, x FROM t, t.xs AS x ORDER BY id, x", [(1, 1), (1, 3), (3, 7)]),
    ("SELECT id, x FROM t LEFT JOIN UNNEST(t.xs) AS x ORDER BY id, x", [(1, 1), (1, 3), (2, None), (3, 7)]),
    ("SELECT id, r.x, r.y FROM t CROSS JOIN UNNEST(rs) AS r ORDER BY r.x", [(1, 1, "p"), (3, 2, "q"), (3, 3, "r")]),
    ("SELECT id, x, y FROM t, UNNEST(rs) ORDER BY x", [(1, 1, "p"), (3, 2, "q"), (3, 3, "r")]),
    ("SELECT * FROM UNNEST([STRUCT(1 AS a, 'x' AS b), STRUCT(2, 'y')]) ORDER BY a", [(1, "x"), (2, "y")]),
    ("SELECT x FROM UNNEST(@ids) AS x WITH OFFSET ORDER BY offset DESC", [(3,), (1,)]),
    (
        "SELECT ARRAY_AGG(STRUCT(id, s) ORDER BY s DESC, id LIMIT 2) FROM t",
        [([{"id": 3, "s": "c"}, {"id": 1, "s": "a"}],)],
    ),
    ("SELECT ARRAY_AGG(s IGNORE NULLS ORDER BY id DESC LIMIT 1) FROM t", [(["c"],)]),
    ("SELECT ARRAY_AGG(DISTINCT s IGNORE NULLS ORDER BY s) FROM t", [(["a", "c"],)]),
    ("SELECT ARRAY_AGG(t ORDER BY id LIMIT 1)[OFFSET(0)].s, ANY_VALUE(t).id > 0 FROM t", [("a", True)]),
    ("SELECT ARRAY_AGG(id) FROM t WHERE FALSE", [([],)]),
    (
        "SELECT STRING_AGG(s, ';' ORDER BY id DESC), STRING_AGG(DISTINCT s, ',' ORDER BY s) FROM t",
        [("c;a", "a,c")],
    ),
    (
        "SELECT COUNTIF(id > 1), COUNT(DISTINCT s), COUNT(s), LOGICAL_OR(id = 1), LOGICAL_AND(id = 1), MAX(ts) FROM t",
        [(2, 2, 2, True, False, datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC))],
    ),
    ("SELECT SUM(id), AVG(id), SUM(n), MIN(d) FROM t", [(6, 2.0, Decimal("3.5"), datetime.date(2024, 1, 2))]),
    ("SELECT ANY_VALUE(s HAVING MAX id), MAX_BY(s, id) FROM t", [("c", "c")]),
    ("SELECT APPROX_QUANTILES(id, 2), APPROX_QUANTILES(id, 4)[OFFSET(2)] FROM t", [([1, 2, 3], 2)]),
    ("SELECT DISTINCT PERCENTILE_CONT(id, 0.5) OVER () FROM t", [(2.0,)]),
    ("SELECT LAG(id) OVER w, SUM(id) OVER w FROM t WINDOW w AS (ORDER BY id) ORDER BY 2", [(None, 1), (1, 3), (2, 6)]),
    ("SELECT t.* EXCEPT (xs, rs, j, ts, d, n) REPLACE (id + 1 AS id) FROM t WHERE id = 1", [(2, "a")]),
    ("SELECT a.id, b.x FROM t AS a LEFT JOIN (SELECT 5 AS x) AS b ON TRUE WHERE a.id = 2", [(2, 5)]),
    ("SELECT a.id FROM t AS a JOIN t AS b USING (id) WHERE b.s = 'c'", [(3,)]),
    ("SELECT id, (SELECT COUNT(*) FROM UNNEST(t.xs)) AS c FROM t ORDER BY id", [(1, 2), (2, 0), (3, 1)]),
    ("SELECT id, ARRAY(SELECT x FROM UNNEST(xs) AS x ORDER BY x) FROM t ORDER BY id", [(1, [1, 3]), (2, []), (3, [7])]),
    ("SELECT id FROM t WHERE EXISTS(SELECT 1 FROM UNNEST(rs) AS r WHERE r.y = 'r')", [(3,)]),
    ("SELECT id FROM t WHERE id = (SELECT MAX(id) FROM t)", [(3,)]),
    ("SELECT AS STRUCT id, s FROM t WHERE id = 1", [(1, "a")]),
    (
        "SELECT j.a, j.a.b, JSON_VALUE(j, '$.l[1]'), LAX_BOOL(j.t), LAX_FLOAT64(j.f) FROM t WHERE id = 1",
        [({"b": 5}, 5, "v", True, 1.5)],
    ),
    ("SELECT JSON_VALUE(j, '$.a'), LAX_INT64(JSON_QUERY(j, '$.a')) FROM t WHERE id = 3", [("text", None)]),
    ("SELECT j.l[1], STRING(t.j.l[0]), JSON_VALUE(j.l[xs[1]]) FROM t WHERE id = 1", [("v", "u", "v")]),
    ("SELECT TO_JSON_STRING(j) FROM t WHERE id = 3", [('{"a":"text"}',)]),
    (
        "SELECT TO_JSON_STRING(u) FROM (SELECT id, j, ts, n FROM t WHERE id = 3) AS u",
        [('{"id":3,"j":{"a":"text"},"ts":"2025-01-02T03:04:05Z","n":2}',)],
    ),
    ("SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT 2 ORDER BY x", [(1,), (2,), (2,)]),
    ("SELECT x FROM (SELECT 1 AS x UNION DISTINCT SELECT 1) EXCEPT DISTINCT SELECT 3", [(1,)]),
    ("SELECT ts FROM t WHERE ts > TIMESTAMP '2024-06-01'", [(datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),)]),
    ("SELECT ts FROM t WHERE id = 1", [(MOMENT,)]),
    ("SELECT s FROM t WHERE s IS NOT NULL AND NOT s LIKE 'a%'", [("c",)]),
    ("SELECT COUNT(*) FROM t WHERE (id, s) IN ((1, 'a'), (3, 'x'))", [(1,)]),
]


@pytest.mark.parametrize(("sql", "expected"), QUERIES, ids=[text for text, _ in QUERIES])
def test_query_has_the_rows_of_bigquery(client: bigquery.Client, sql: str, expected: list[tuple[Any, ...]]) -> None:
    parameters: list[Any] = []
    if "@n" in sql:
        parameters.append(bigquery.ScalarQueryParameter("n", "INT64", 2))
    if "@ids" in sql:
        parameters.append(bigquery.ArrayQueryParameter("ids", "INT64", [1, 3]))
    assert run(client, DATA + sql, *parameters) == expected


def test_result_schema_matches_bigquery(client: bigquery.Client) -> None:
    sql = (
        "SELECT 1, 'a' AS s, 1.5, TRUE AS b, b'x' AS y, NUMERIC '1' AS n, BIGNUMERIC '1' AS bn, "
        "CURRENT_TIMESTAMP() AS t, "
        "CURRENT_DATE() AS d, DATETIME '2024-01-01 00:00:00' AS dt, TIME '00:00:00' AS ti, JSON '1' AS j, "
        "ST_GEOGPOINT(1, 2) AS g, [1] AS xs, STRUCT(1 AS a, [STRUCT('x' AS c)] AS b) AS r, SUM(1) AS total, NULL"
    )
    result = client.query(sql).result()
    assert [(field.name, field.field_type, field.mode) for field in result.schema] == [
        ("f0_", "INTEGER", "NULLABLE"),
        ("s", "STRING", "NULLABLE"),
        ("f1_", "FLOAT", "NULLABLE"),
        ("b", "BOOLEAN", "NULLABLE"),
        ("y", "BYTES", "NULLABLE"),
        ("n", "NUMERIC", "NULLABLE"),
        ("bn", "BIGNUMERIC", "NULLABLE"),
        ("t", "TIMESTAMP", "NULLABLE"),
        ("d", "DATE", "NULLABLE"),
        ("dt", "DATETIME", "NULLABLE"),
        ("ti", "TIME", "NULLABLE"),
        ("j", "JSON", "NULLABLE"),
        ("g", "GEOGRAPHY", "NULLABLE"),
        ("xs", "INTEGER", "REPEATED"),
        ("r", "RECORD", "NULLABLE"),
        ("total", "INTEGER", "NULLABLE"),
        ("f2_", "INTEGER", "NULLABLE"),
    ]
    record = result.schema[14]
    assert [(field.name, field.field_type, field.mode) for field in record.fields] == [
        ("a", "INTEGER", "NULLABLE"),
        ("b", "RECORD", "REPEATED"),
    ]


def test_parameters_of_every_type_keep_their_values(client: bigquery.Client) -> None:
    scalars: list[tuple[str, Any]] = [
        ("STRING", "it's @ '\\ \n é"),
        ("INT64", -(2**63)),
        ("FLOAT64", 0.1),
        ("BOOL", False),
        ("NUMERIC", Decimal("1.123456789")),
        ("BYTES", b"\x00\xff'"),
        ("TIMESTAMP", MOMENT),
        ("DATE", datetime.date(2024, 2, 29)),
        ("DATETIME", datetime.datetime(2024, 1, 1, 0, 0, 0, 5)),  # noqa: DTZ001
        ("TIME", datetime.time(1, 2, 3, 4)),
        ("STRING", None),
    ]
    for number, (kind, value) in enumerate(scalars):
        assert run(client, "SELECT @p", bigquery.ScalarQueryParameter("p", kind, value)) == [(value,)], number
    assert run(client, "SELECT @p", bigquery.ArrayQueryParameter("p", "STRING", [])) == [([],)]
    names = bigquery.ArrayQueryParameter("Names", "STRING", ["a", "it's"])
    assert run(client, "SELECT @names, ARRAY_LENGTH(@NAMES)", names) == [(["a", "it's"], 2)]
    inner = bigquery.StructQueryParameter(
        "p", bigquery.ScalarQueryParameter("x", "INT64", 1), bigquery.ArrayQueryParameter("ys", "STRING", ["q"])
    )
    assert run(client, "SELECT @p.x + 1, @p.ys, @p", inner) == [(2, ["q"], {"x": 1, "ys": ["q"]})]


def test_parameter_value_is_never_sql(client: bigquery.Client) -> None:
    nasty = "'); DROP TABLE t; --"
    sql = "SELECT x FROM UNNEST([@p, 'b']) AS x WHERE x = @p"
    assert run(client, sql, bigquery.ScalarQueryParameter("p", "STRING", nasty)) == [(nasty,)]


@example("")
@example("\\")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_text_survives_literals_json_and_hashes(client: bigquery.Client, text: str) -> None:
    literal = "'" + "".join(rf"\U{ord(char):08x}" if not char.isalnum() or char > "~" else char for char in text) + "'"
    sql = (
        f"SELECT {literal}, @p, JSON_VALUE(TO_JSON_STRING(STRUCT(@p AS v)), '$.v'), "
        "TO_BASE64(CAST(@p AS BYTES)), "
        "FARM_FINGERPRINT(@p), LENGTH(@p)"
    )
    encoded = text.encode()
    expected = (text, text, text, base64.b64encode(encoded).decode(), fingerprint64(encoded), len(text))
    assert run(client, sql, bigquery.ScalarQueryParameter("p", "STRING", text)) == [expected]


@pytest.mark.parametrize(
    ("length", "expected"),
    # One length per branch of the hash; values of the reference implementation.
    [
        (0, -7286425919675154353),
        (1, -4728684028706075820),
        (3, 7836721383716570152),
        (4, 365121004050576997),
        (7, 1123016345076934235),
        (8, -2573794281055111257),
        (16, -310057867672146533),
        (17, -6531458125173161868),
        (32, 764915578794662492),
        (33, -341158500388626361),
        (64, -2286581940167837302),
        (65, 1750252573709625707),
        (128, -6361978639264201605),
        (129, -1390946558950256037),
        (200, 1800212452726993940),
        (1000, -7693643720511775873),
    ],
)
def test_fingerprint_matches_farmhash(length: int, expected: int) -> None:
    assert fingerprint64(bytes(index * 7 % 256 for index in range(length))) == expected

"""Streaming inserts, load jobs and reading of rows in the local BigQuery, with the unmodified client."""

import concurrent.futures
import datetime
import io
import json
import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import google.api_core.exceptions as errors
import google.api_core.retry as retries
import pytest
from google.cloud import bigquery, storage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebeam.emulators.cloud import LocalCloud

Field = bigquery.SchemaField
UTC = datetime.UTC
STOPPED = {"reason": "stopped", "location": "", "debugInfo": "", "message": ""}

#: Retries nothing.
ONCE = retries.Retry(predicate=retries.if_exception_type())


@pytest.fixture(scope="module")
def client(cloud: LocalCloud) -> bigquery.Client:
    return bigquery.Client(project=cloud.project)


@pytest.fixture(scope="module")
def dataset(client: bigquery.Client) -> Iterator[str]:
    name = f"d_{uuid.uuid4().hex}"
    client.create_dataset(name)
    yield name
    client.delete_dataset(name, delete_contents=True)


@pytest.fixture
def bucket(cloud: LocalCloud) -> storage.Bucket:
    return storage.Client(project=cloud.project).create_bucket(f"b-{uuid.uuid4().hex}")


def create_table(client: bigquery.Client, dataset: str, *fields: bigquery.SchemaField) -> str:
    name = f"{client.project}.{dataset}.t_{uuid.uuid4().hex}"
    client.create_table(bigquery.Table(name, fields or [Field("k", "STRING"), Field("n", "INTEGER")]))
    return name


def rows_of(client: bigquery.Client, table: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in client.list_rows(table)]


# -- streamed rows -------------------------------------------------------------------------------------


def test_deduplicates_rows_by_insert_id(client: bigquery.Client, dataset: str, cloud: LocalCloud) -> None:
    table, other = create_table(client, dataset), create_table(client, dataset)
    rows = [{"k": "a"}, {"k": "b"}]
    for _ in range(3):
        assert client.insert_rows_json(table, rows, row_ids=["1", "2"]) == []
    assert client.insert_rows_json(table, [{"k": "c"}, {"k": "c"}], row_ids=["3", "3"]) == []
    assert client.insert_rows_json(other, rows, row_ids=["1", "2"]) == []
    assert client.insert_rows_json(other, rows, row_ids=[None, None]) == []
    assert (rows_of(client, table), len(rows_of(client, other))) == ([("a", None), ("b", None), ("c", None)], 4)
    counters = cloud.counters()["bigquery"]
    assert (counters["insert_requests"], counters["inserted_rows"], counters["deduplicated_rows"]) == (6, 7, 5)


def test_recreated_table_forgets_insert_ids(client: bigquery.Client, dataset: str) -> None:
    table = create_table(client, dataset)
    client.insert_rows_json(table, [{"k": "a"}], row_ids=["1"])
    client.delete_table(table)
    client.create_table(bigquery.Table(table, [Field("k", "STRING")]))
    client.insert_rows_json(table, [{"k": "b"}], row_ids=["1"])
    assert rows_of(client, table) == [("b",)]


BAD_ROWS = [
    ({"id": "a", "zz": 1}, "zz", "no such field: zz."),
    ({"n": 1}, "id", "Missing required field: id."),
    ({"id": None}, "id", "Missing required field: id."),
    ({"id": "a", "n": "x"}, "n", "Cannot convert value to integer (bad value): x"),
    ({"id": "a", "n": 1.5}, "n", "Cannot convert value to integer (bad value): 1.5"),
    ({"id": "a", "n": 2**63}, "n", "Cannot convert value to integer"),
    ({"id": "a", "n": [1]}, "n", "Array specified for non-repeated field: n."),
    ({"id": "a", "n": {"x": 1}}, "n", "This field: n is not a record."),
    ({"id": "a", "f": "x"}, "f", "Cannot convert value to floating point"),
    ({"id": "a", "ok": "perhaps"}, "ok", "Cannot convert value to boolean"),
    ({"id": "a", "tags": "x"}, "tags", "Repeated field must be imported as a JSON array"),
    ({"id": "a", "tags": ["x", None]}, "tags", "Only optional fields can be set to NULL"),
    ({"id": "a", "r": "x"}, "r", "This field: r is not a record."),
    ({"id": "a", "r": {"zz": 1}}, "r.zz", "no such field: r.zz."),
    ({"id": "a", "r": {"at": "yesterday"}}, "r.at", "Could not parse 'yesterday' as a timestamp"),
    ({"id": "a", "j": "{bad"}, "j", "Invalid JSON value"),
    ({"id": "a", "j": {"an": "object"}}, "j", "This field: j is not a record."),
    ({"id": "a", "cost": "1.0000000001"}, "cost", "Invalid NUMERIC value"),
    ({"id": "a", "cost": "much"}, "cost", "Invalid NUMERIC value"),
    ({"id": "a", "raw": "§"}, "raw", "Could not decode base64"),
    ({"id": "a", "g": "POINT(1 99)"}, "g", "Latitude"),
    ({"id": "a", "g": "nowhere"}, "g", "Invalid WKT"),
    ({"id": "a", "d": "2024-02-30"}, "d", "day is out of range"),
]
STRICT = (
    Field("id", "STRING", "REQUIRED"),
    Field("n", "INTEGER"),
    Field("f", "FLOAT"),
    Field("ok", "BOOLEAN"),
    Field("tags", "STRING", "REPEATED"),
    Field("r", "RECORD", fields=[Field("at", "TIMESTAMP")]),
    Field("j", "JSON"),
    Field("cost", "NUMERIC"),
    Field("raw", "BYTES"),
    Field("g", "GEOGRAPHY"),
    Field("d", "DATE"),
)


@pytest.mark.parametrize(("row", "location", "message"), BAD_ROWS)
def test_rejects_invalid_row_and_names_its_field(
    client: bigquery.Client, dataset: str, row: dict[str, Any], location: str, message: str
) -> None:
    table = create_table(client, dataset, *STRICT)
    (entry,) = client.insert_rows_json(table, [row])
    assert (entry["index"], entry["errors"][0]["reason"], entry["errors"][0]["location"]) == (0, "invalid", location)
    assert message in entry["errors"][0]["message"]
    assert rows_of(client, table) == []


def test_invalid_row_stops_the_request_unless_skipped(client: bigquery.Client, dataset: str) -> None:
    table = create_table(client, dataset)
    rows: list[dict[str, Any]] = [{"k": "a"}, {"k": "b", "zz": 1}, {"k": "c"}]
    found = client.insert_rows_json(table, rows, row_ids=["1", "2", "3"])
    assert [entry["index"] for entry in found] == [0, 1, 2]
    assert (found[0]["errors"], found[2]["errors"]) == ([STOPPED], [STOPPED])
    assert rows_of(client, table) == []
    found = client.insert_rows_json(table, rows, row_ids=["1", "2", "3"], skip_invalid_rows=True)
    assert [entry["index"] for entry in found] == [1]
    assert client.insert_rows_json(table, rows[1:2], ignore_unknown_values=True) == []
    assert sorted(rows_of(client, table)) == [("a", None), ("b", None), ("c", None)]


def test_accepts_value_formats_of_bigquery(client: bigquery.Client, dataset: str) -> None:
    table = create_table(client, dataset, *STRICT)
    row = {
        "ID": "x",
        "n": "12",
        "f": "NaN",
        "ok": "true",
        "r": {"at": "2024-01-02 03:04:05.5 UTC"},
        "j": '{"b": [1], "a": "\\u00e9"}',
        "cost": "0.000001500",
        "raw": "AP8=",
        "g": json.dumps({"type": "Point", "coordinates": [1.5, 2]}),
    }
    assert (
        client.insert_rows_json(table, [row, {"id": 5, "n": 3.0, "tags": [1, True], "r": {"at": 1.5}, "j": "null"}])
        == []
    )
    first, second = (dict(item.items()) for item in client.list_rows(table))
    assert math.isnan(first.pop("f"))
    assert first == {
        "id": "x",
        "n": 12,
        "ok": True,
        "tags": [],
        "r": {"at": datetime.datetime(2024, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)},
        "j": {"a": "é", "b": [1]},
        "cost": Decimal("0.0000015"),
        "raw": b"\x00\xff",
        "g": "POINT(1.5 2)",
        "d": None,
    }
    assert (second["id"], second["n"], second["tags"]) == ("5", 3, ["1", "true"])
    assert second["r"] == {"at": datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)}
    assert [tuple(item) for item in client.query(f"SELECT j IS NULL FROM `{table}` WHERE id = '5'").result()] == [
        (False,)
    ]


def test_concurrent_queries_see_whole_batches(client: bigquery.Client, dataset: str) -> None:
    table = create_table(client, dataset)

    def work(number: int) -> int:
        rows = [{"k": f"k{number}", "n": place} for place in range(10)]
        assert client.insert_rows_json(table, rows, row_ids=[f"{number}-{place}" for place in range(10)]) == []
        (row,) = client.query_and_wait(f"SELECT COUNT(*) AS c FROM `{table}`")
        changed = client.query_and_wait(f"UPDATE `{table}` SET n = n + 1 WHERE k = 'k{number}'").num_dml_affected_rows
        assert changed == 10
        return int(row["c"])

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert all(seen % 10 == 0 and seen >= 10 for seen in pool.map(work, range(18)))
    (row,) = client.query_and_wait(f"SELECT COUNT(*) AS c, SUM(n) AS s FROM `{table}`")
    assert (row["c"], row["s"]) == (180, 18 * sum(range(1, 11)))


def test_rejects_missing_tables_and_invalid_requests(client: bigquery.Client, dataset: str) -> None:
    with pytest.raises(errors.NotFound, match="Not found: Table"):
        client.insert_rows_json(f"{client.project}.{dataset}.missing", [{"k": "a"}])
    table = create_table(client, dataset)
    with pytest.raises(errors.BadRequest, match="No rows present"):
        client._connection.api_request("POST", f"/{bigquery.Table(table).path}/insertAll".replace("//", "/"), data={})
    with pytest.raises(errors.MethodNotImplemented, match="templateSuffix"):
        client.insert_rows_json(table, [{"k": "a"}], template_suffix="_x")


# -- faults --------------------------------------------------------------------------------------------


def test_row_fault_applies_a_limited_number_of_times(client: bigquery.Client, dataset: str, cloud: LocalCloud) -> None:
    table = create_table(client, dataset)
    cloud.faults(bigquery={"insert_failures": [{"match": "poison", "times": 1, "do": "row_error"}]})
    rows = [{"k": "good"}, {"k": "poison"}]
    (entry,) = client.insert_rows_json(table, rows, row_ids=["1", "2"], skip_invalid_rows=True)
    assert entry["index"] == 1
    assert client.insert_rows_json(table, rows, row_ids=["1", "2"], skip_invalid_rows=True) == []
    assert sorted(rows_of(client, table)) == [("good", None), ("poison", None)]


def test_insert_faults_http_503_and_lost_answer(client: bigquery.Client, dataset: str, cloud: LocalCloud) -> None:
    table = create_table(client, dataset)
    cloud.faults(bigquery={"insert_failures": [{"do": "http_503", "times": 1}, {"do": "lost_answer", "times": 1}]})
    for expected in ([], [("a", None)]):
        with pytest.raises(errors.ServiceUnavailable):
            client.insert_rows_json(table, [{"k": "a"}], row_ids=["1"], retry=ONCE)
        assert rows_of(client, table) == expected
    assert client.insert_rows_json(table, [{"k": "a"}], row_ids=["1"]) == []
    assert rows_of(client, table) == [("a", None)]


def test_rejects_unknown_fault(cloud: LocalCloud) -> None:
    with pytest.raises(Exception, match="row_eror"):
        cloud.faults(bigquery={"insert_failures": [{"do": "row_eror"}]})


# -- loads ---------------------------------------------------------------------------------------------


def config(**options: Any) -> bigquery.LoadJobConfig:
    return bigquery.LoadJobConfig(source_format="NEWLINE_DELIMITED_JSON", **options)


def test_loads_files_by_wildcard_and_disposition(client: bigquery.Client, dataset: str, bucket: storage.Bucket) -> None:
    for number in range(3):
        lines = "".join(json.dumps({"k": f"{number}", "n": place}) + "\n" for place in range(2))
        bucket.blob(f"rows/part-{number}.jsonl").upload_from_string(lines)
    bucket.blob("rows/readme.txt").upload_from_string("no rows")
    table = create_table(client, dataset)
    uri = f"gs://{bucket.name}/rows/part-*.jsonl"
    job = client.load_table_from_uri(uri, table, job_config=config(write_disposition="WRITE_EMPTY"))
    job.result()
    assert (job.output_rows, job.input_files, job.state) == (6, 3, "DONE")
    one = f"gs://{bucket.name}/rows/part-1.jsonl"
    client.load_table_from_uri(one, table, job_config=config()).result()
    assert len(rows_of(client, table)) == 8
    with pytest.raises(errors.Conflict, match="Already Exists"):
        client.load_table_from_uri(one, table, job_config=config(write_disposition="WRITE_EMPTY")).result()
    client.load_table_from_uri(one, table, job_config=config(write_disposition="WRITE_TRUNCATE")).result()
    assert sorted(rows_of(client, table)) == [("1", 0), ("1", 1)]
    with pytest.raises(errors.NotFound, match="Not found: URI"):
        client.load_table_from_uri(f"gs://{bucket.name}/nothing", table, job_config=config()).result()


def test_invalid_line_fails_the_load_and_keeps_the_table(
    client: bigquery.Client, dataset: str, bucket: storage.Bucket
) -> None:
    table = create_table(client, dataset)
    client.insert_rows_json(table, [{"k": "before"}])
    bucket.blob("bad.jsonl").upload_from_string('{"k": "a"}\n\n{"k": \n{"k": "b", "zz": 1}\n')
    uri = f"gs://{bucket.name}/bad.jsonl"
    job = client.load_table_from_uri(uri, table, job_config=config(write_disposition="WRITE_TRUNCATE"))
    with pytest.raises(errors.BadRequest, match="too many errors"):
        job.result()
    assert "bad.jsonl, line 3" in str(job.error_result)
    assert rows_of(client, table) == [("before", None)]
    job = client.load_table_from_uri(uri, table, job_config=config(max_bad_records=2))
    job.result()
    assert job.output_rows == 1
    fresh = f"{client.project}.{dataset}.t_{uuid.uuid4().hex}"
    with pytest.raises(errors.BadRequest):
        client.load_table_from_uri(uri, fresh, job_config=config(schema=[Field("k", "STRING")])).result()
    with pytest.raises(errors.NotFound):
        client.get_table(fresh)


def test_load_creates_the_table_and_detects_its_schema(client: bigquery.Client, dataset: str) -> None:
    name = f"{client.project}.{dataset}.t_{uuid.uuid4().hex}"
    rows = [
        {
            "i": 1,
            "f": 1,
            "s": "x",
            "b": True,
            "d": "2024-01-02",
            "t": "2024-01-02T03:04:05Z",
            "xs": [1],
            "r": {"a": "q"},
        },
        {"i": 2, "f": 1.5, "s": "1", "b": None, "xs": []},
    ]
    job = client.load_table_from_json(rows, name, job_config=bigquery.LoadJobConfig(autodetect=True))
    job.result()
    assert [(field.name, field.field_type, field.mode) for field in client.get_table(name).schema] == [
        ("i", "INTEGER", "NULLABLE"),
        ("f", "FLOAT", "NULLABLE"),
        ("s", "STRING", "NULLABLE"),
        ("b", "BOOLEAN", "NULLABLE"),
        ("d", "DATE", "NULLABLE"),
        ("t", "TIMESTAMP", "NULLABLE"),
        ("xs", "INTEGER", "REPEATED"),
        ("r", "RECORD", "NULLABLE"),
    ]
    assert rows_of(client, name)[0][:5] == (1, 1.0, "x", True, datetime.date(2024, 1, 2))


def test_load_adds_columns_only_with_schema_update_option(client: bigquery.Client, dataset: str) -> None:
    table = create_table(client, dataset)
    wider = [Field("k", "STRING"), Field("more", "JSON")]
    rows: list[dict[str, Any]] = [{"k": "a", "more": {"x": "1"}}, {"k": "b", "more": "text"}]
    with pytest.raises(errors.BadRequest, match="Cannot add fields"):
        client.load_table_from_json(rows, table, job_config=bigquery.LoadJobConfig(schema=wider)).result()
    options = bigquery.LoadJobConfig(schema=wider, schema_update_options=["ALLOW_FIELD_ADDITION"])
    client.load_table_from_json(rows, table, job_config=options).result()
    assert sorted(rows_of(client, table)) == [("a", None, {"x": "1"}), ("b", None, "text")]


def test_uploads_large_files_in_chunks(client: bigquery.Client, dataset: str) -> None:
    table = create_table(client, dataset)
    data = b"".join(b'{"k": "%06d"}\n' % number for number in range(20_000))
    job = client.load_table_from_file(io.BytesIO(data), table, job_config=config())  # no size: resumable
    job.result()
    assert (job.output_rows, client.get_table(table).num_rows) == (20_000, 20_000)
    window = client.list_rows(table, start_index=19_998)
    assert [row["k"] for row in window] == ["019998", "019999"]


def test_rejects_formats_that_are_not_implemented(client: bigquery.Client, dataset: str) -> None:
    with pytest.raises(errors.MethodNotImplemented, match="CSV"):
        client.load_table_from_file(io.BytesIO(b"a,b"), create_table(client, dataset), size=3)


# -- reading ------------------------------------------------------------------------------------

TIMES = st.datetimes(datetime.datetime(1000, 1, 1), datetime.datetime(9999, 12, 30))  # noqa: DTZ001
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc é", max_size=3), inner, max_size=3),
    max_leaves=6,
)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "STRING": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    "INTEGER": st.integers(-(2**63), 2**63 - 1),
    "FLOAT": st.floats(allow_nan=False),
    "BOOLEAN": st.booleans(),
    "NUMERIC": st.decimals("-1e28", "1e28", places=9),
    "BIGNUMERIC": st.decimals("-1e17", "1e17", places=18),
    "BYTES": st.binary(max_size=20),
    "TIMESTAMP": TIMES.map(lambda moment: moment.replace(tzinfo=UTC)),
    "DATETIME": TIMES,
    "DATE": st.dates(),
    "TIME": st.times(),
    "JSON": JSON,
    "GEOGRAPHY": st.tuples(st.integers(-180, 180), st.integers(-90, 90)).map(lambda at: f"POINT({at[0]} {at[1]})"),
}
INNER = [Field(kind.lower(), kind) for kind in SCALARS]
ALL_TYPES = (
    *(Field(f"one_{kind.lower()}", kind) for kind in SCALARS),
    *(Field(f"many_{kind.lower()}", kind, "REPEATED") for kind in SCALARS if kind != "JSON"),
    Field("record", "RECORD", fields=INNER),
    Field("records", "RECORD", "REPEATED", fields=INNER),
)
RECORD = st.fixed_dictionaries({kind.lower(): st.none() | values for kind, values in SCALARS.items()})
ROW = st.fixed_dictionaries(
    {
        **{f"one_{kind.lower()}": st.none() | values for kind, values in SCALARS.items()},
        **{f"many_{kind.lower()}": st.lists(values, max_size=3) for kind, values in SCALARS.items() if kind != "JSON"},
        "record": st.none() | RECORD,
        "records": st.lists(RECORD, max_size=2),
    }
)


@pytest.fixture(scope="module")
def all_types(client: bigquery.Client, dataset: str) -> bigquery.Table:
    return client.get_table(create_table(client, dataset, *ALL_TYPES))


@pytest.mark.filterwarnings("ignore:Unknown type 'GEOGRAPHY':FutureWarning")
@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=4))
def test_streamed_values_of_every_type_are_read_back(
    client: bigquery.Client, all_types: bigquery.Table, rows: list[dict[str, Any]]
) -> None:
    client.query(f"TRUNCATE TABLE `{all_types.full_table_id.replace(':', '.')}`").result()
    assert client.insert_rows(all_types, rows) == []
    assert [dict(row.items()) for row in client.list_rows(all_types)] == rows
    result = client.query_and_wait(f"SELECT * FROM `{all_types.full_table_id.replace(':', '.')}`")
    found = [dict(row.items()) for row in result]
    assert len(found) == len(rows)
    assert all(row in rows for row in found)

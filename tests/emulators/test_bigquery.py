"""Datasets, tables, views and jobs of the local BigQuery, with the unmodified client."""

import concurrent.futures
import datetime
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.api_core.exceptions as errors
import pytest
from google.cloud import bigquery

from imagebeam.emulators.bigquery.offline_query import query_database
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.core.errors import UserError

Field = bigquery.SchemaField
UTC = datetime.UTC


@pytest.fixture
def client(cloud: LocalCloud) -> bigquery.Client:
    return bigquery.Client(project=cloud.project)


@pytest.fixture
def dataset(client: bigquery.Client) -> Iterator[str]:
    name = f"d_{uuid.uuid4().hex}"
    client.create_dataset(name)
    yield name
    client.delete_dataset(name, delete_contents=True, not_found_ok=True)


def make_table(client: bigquery.Client, dataset: str, name: str = "t", **properties: Any) -> bigquery.Table:
    table = bigquery.Table(f"{client.project}.{dataset}.{name}", [Field("k", "STRING"), Field("n", "INTEGER")])
    for key, value in properties.items():
        setattr(table, key, value)
    return client.create_table(table)


def sql_rows(client: bigquery.Client, sql: str, **options: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in client.query(sql, **options).result()]


# -- datasets ------------------------------------------------------------------------------------------


def test_dataset_properties_and_duplicate_creation(client: bigquery.Client) -> None:
    resource = bigquery.Dataset(f"{client.project}.d_{uuid.uuid4().hex}")
    resource.location = "europe-west4"
    resource.description = "of photos"
    resource.labels = {"team": "trees"}
    created = client.create_dataset(resource)
    assert (created.location, created.description, created.labels) == ("europe-west4", "of photos", {"team": "trees"})
    with pytest.raises(errors.Conflict, match="Already Exists: Dataset"):
        client.create_dataset(resource)
    created.description, created.labels = "of poles", {"team": None, "kind": "poles"}
    client.update_dataset(created, ["description", "labels"])
    found = client.get_dataset(resource.reference)
    assert (found.description, found.labels, found.location) == ("of poles", {"kind": "poles"}, "europe-west4")
    client.delete_dataset(resource.reference)
    with pytest.raises(errors.NotFound, match="Not found: Dataset"):
        client.get_dataset(resource.reference)


def test_rejects_dataset_update_with_outdated_etag(client: bigquery.Client, dataset: str) -> None:
    outdated, current = client.get_dataset(dataset), client.get_dataset(dataset)
    current.description = "second"
    client.update_dataset(current, ["description"])
    outdated.description = "first"
    with pytest.raises(errors.PreconditionFailed):
        client.update_dataset(outdated, ["description"])


def test_lists_datasets_by_label(client: bigquery.Client, dataset: str) -> None:
    other = bigquery.Dataset(f"{client.project}.d_{uuid.uuid4().hex}")
    key = f"k{uuid.uuid4().hex}"
    other.labels = {key: "yes"}
    client.create_dataset(other)
    assert [item.dataset_id for item in client.list_datasets(filter=f"labels.{key}:yes")] == [other.dataset_id]
    assert list(client.list_datasets(filter=f"labels.{key}:no")) == []
    assert {dataset, other.dataset_id} <= {item.dataset_id for item in client.list_datasets(page_size=1)}
    client.delete_dataset(other)


def test_deletes_dataset_with_tables_only_with_delete_contents(client: bigquery.Client, dataset: str) -> None:
    make_table(client, dataset)
    with pytest.raises(errors.BadRequest, match="still in use"):
        client.delete_dataset(dataset)
    client.delete_dataset(dataset, delete_contents=True)
    with pytest.raises(errors.NotFound):
        client.get_table(f"{dataset}.t")


def test_rejects_dataset_properties_that_are_not_implemented(client: bigquery.Client) -> None:
    resource = bigquery.Dataset(f"{client.project}.d_{uuid.uuid4().hex}")
    resource.max_time_travel_hours = 48
    with pytest.raises(errors.MethodNotImplemented, match="maxTimeTravelHours"):
        client.create_dataset(resource)


# -- tables --------------------------------------------------------------------------------------------


def test_table_keeps_its_resource(client: bigquery.Client, dataset: str) -> None:
    resource = bigquery.Table(
        f"{client.project}.{dataset}.t",
        [
            Field("id", "STRING", "REQUIRED", description="who"),
            Field("n", "INT64"),
            Field("x", "FLOAT64", "REPEATED"),
            Field("r", "RECORD", fields=[Field("at", "TIMESTAMP"), Field("where", "GEOGRAPHY")]),
            Field("j", "JSON"),
        ],
    )
    resource.description, resource.friendly_name, resource.labels = "all of it", "T", {"a": "b"}
    resource.clustering_fields = ["id"]
    resource.time_partitioning = bigquery.TimePartitioning(type_="DAY")
    expires = datetime.datetime.now(UTC).replace(microsecond=0) + datetime.timedelta(hours=1)
    resource.expires = expires
    client.create_table(resource)
    found = client.get_table(resource.reference)
    assert [(field.name, field.field_type, field.mode) for field in found.schema] == [
        ("id", "STRING", "REQUIRED"),
        ("n", "INTEGER", "NULLABLE"),
        ("x", "FLOAT", "REPEATED"),
        ("r", "RECORD", "NULLABLE"),
        ("j", "JSON", "NULLABLE"),
    ]
    assert found.schema[0].description == "who"
    assert [field.field_type for field in found.schema[3].fields] == ["TIMESTAMP", "GEOGRAPHY"]
    assert (found.description, found.friendly_name, found.labels) == ("all of it", "T", {"a": "b"})
    assert (found.clustering_fields, found.time_partitioning.type_) == (["id"], "DAY")
    assert (found.expires, found.table_type, found.location) == (expires, "TABLE", "US")
    assert (found.num_rows, found.num_bytes) == (0, 0)
    assert found.created <= datetime.datetime.now(UTC)


def test_one_of_concurrent_table_creations_succeeds(client: bigquery.Client, dataset: str) -> None:
    def create(_: int) -> bool:
        try:
            client.create_table(bigquery.Table(f"{client.project}.{dataset}.lease", [Field("x", "STRING")]))
        except errors.Conflict:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == [False] * 7 + [True]


def test_expired_table_is_deleted(client: bigquery.Client, dataset: str) -> None:
    soon = datetime.datetime.now(UTC) + datetime.timedelta(seconds=0.4)
    table = make_table(client, dataset, expires=soon)
    with pytest.raises(errors.Conflict):
        make_table(client, dataset)
    while datetime.datetime.now(UTC) <= soon:
        time.sleep(0.02)
    with pytest.raises(errors.NotFound):
        client.get_table(table)
    with pytest.raises(errors.NotFound):
        client.query(f"SELECT * FROM {dataset}.t").result()
    assert list(client.list_tables(dataset)) == []
    make_table(client, dataset)


def test_create_table_sets_the_expiration(client: bigquery.Client, dataset: str) -> None:
    options = "OPTIONS (expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL {} HOUR)) AS SELECT 1 AS x"
    before = datetime.datetime.now(UTC)
    client.query_and_wait(f"CREATE TABLE {dataset}.soon {options.format(2)}")
    expires = client.get_table(f"{dataset}.soon").expires
    assert expires is not None
    hours = datetime.timedelta(hours=2) - datetime.timedelta(milliseconds=1)
    assert before + hours <= expires <= datetime.datetime.now(UTC) + datetime.timedelta(hours=2)
    with pytest.raises(errors.MethodNotImplemented, match="expiration_timestamp"):
        client.query_and_wait(f"CREATE TABLE {dataset}.later {options.format('CAST(2 AS INT64)')}")


def test_expiration_can_be_extended_and_removed(client: bigquery.Client, dataset: str) -> None:
    table = make_table(client, dataset, expires=datetime.datetime.now(UTC) + datetime.timedelta(minutes=1))
    later = datetime.datetime.now(UTC).replace(microsecond=0) + datetime.timedelta(hours=2)
    table.expires = later
    assert client.update_table(table, ["expires"]).expires == later
    table = client.get_table(table)
    table.expires = None
    table = client.update_table(table, ["expires"])
    assert table.expires is None
    table.expires = datetime.datetime.now(UTC) - datetime.timedelta(hours=1)
    with pytest.raises(errors.BadRequest, match="expirationTime"):
        client.update_table(table, ["expires"])


def test_columns_can_be_added_but_not_removed_or_changed(client: bigquery.Client, dataset: str) -> None:
    table = make_table(client, dataset)
    client.insert_rows_json(table, [{"k": "a", "n": 1}])
    table.schema = [*table.schema, Field("more", "STRING", "REPEATED")]
    table = client.update_table(table, ["schema"])
    assert client.insert_rows_json(table, [{"k": "b", "more": ["x"]}]) == []
    assert sorted(sql_rows(client, f"SELECT k, more FROM {dataset}.t")) == [("a", []), ("b", ["x"])]
    table.schema = table.schema[:1]
    with pytest.raises(errors.BadRequest, match="Field n is missing in new schema"):
        client.update_table(table, ["schema"])
    table = client.get_table(table)
    table.schema = [Field("k", "INTEGER"), *table.schema[1:]]
    with pytest.raises(errors.BadRequest, match="has changed type from STRING to INT64"):
        client.update_table(table, ["schema"])


def test_rejects_table_update_with_outdated_etag(client: bigquery.Client, dataset: str) -> None:
    make_table(client, dataset)
    outdated, current = client.get_table(f"{dataset}.t"), client.get_table(f"{dataset}.t")
    current.description = "second"
    client.update_table(current, ["description"])
    outdated.description = "first"
    with pytest.raises(errors.PreconditionFailed):
        client.update_table(outdated, ["description"])


def test_lists_tables_in_pages(client: bigquery.Client, dataset: str) -> None:
    for name in "bca":
        make_table(client, dataset, name)
    assert [item.table_id for item in client.list_tables(dataset, page_size=2)] == ["a", "b", "c"]


def test_table_size_follows_its_rows(client: bigquery.Client, dataset: str) -> None:
    table = make_table(client, dataset)
    client.insert_rows_json(table, [{"k": "abc", "n": 1}, {"k": "de", "n": None}])
    found = client.get_table(table)
    assert (found.num_rows, found.num_bytes) == (2, (3 + 2) + (2 + 2) + 8)
    client.query(f"DELETE FROM {dataset}.t WHERE n IS NULL").result()
    assert client.get_table(table).num_rows == 1


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Field("x", "INTERVAL"), "INTERVAL"),
        (Field("x", "STRING", default_value_expression="'a'"), "defaultValueExpression"),
    ],
)
def test_rejects_columns_that_are_not_implemented(
    client: bigquery.Client, dataset: str, field: bigquery.SchemaField, message: str
) -> None:
    with pytest.raises(errors.MethodNotImplemented, match=message):
        client.create_table(bigquery.Table(f"{client.project}.{dataset}.t", [field]))


# -- views ---------------------------------------------------------------------------------------------


def test_view_keeps_its_sql_and_follows_its_table(client: bigquery.Client, dataset: str) -> None:
    table = make_table(client, dataset)
    view = bigquery.Table(f"{client.project}.{dataset}.v")
    view.view_query = (
        f"-- counts\nWITH t AS (SELECT * FROM `{client.project}.{dataset}.t`)\n"
        "SELECT k, COUNT(*) AS c FROM t GROUP BY 1"
    )
    view.description = "how many"
    client.create_table(view)
    found = client.get_table(view)
    assert (found.view_query, found.table_type, found.description) == (view.view_query, "VIEW", "how many")
    assert [(field.name, field.field_type) for field in found.schema] == [("k", "STRING"), ("c", "INTEGER")]
    client.insert_rows_json(table, [{"k": "a"}, {"k": "a"}, {"k": "b"}])
    assert sql_rows(client, f"SELECT * FROM {dataset}.v ORDER BY k") == [("a", 2), ("b", 1)]
    found.view_query = f"SELECT 'all' AS k, COUNT(*) AS c, TRUE AS new FROM {dataset}.t"
    client.update_table(found, ["view_query"])
    assert sql_rows(client, f"SELECT * FROM {dataset}.v") == [("all", 3, True)]
    assert len(client.get_table(view).schema) == 3
    with pytest.raises(errors.BadRequest, match="Cannot list a table of type VIEW"):
        list(client.list_rows(bigquery.Table(view.reference, found.schema)))
    with pytest.raises(errors.BadRequest, match="VIEW"):
        client.insert_rows_json(f"{dataset}.v", [{"k": "a"}])


def test_view_of_a_view_and_view_of_a_deleted_table(client: bigquery.Client, dataset: str) -> None:
    table = make_table(client, dataset)
    project = client.project
    client.query(f"CREATE VIEW {dataset}.one AS SELECT k FROM `{project}.{dataset}.t`").result()
    client.query(f"CREATE OR REPLACE VIEW {dataset}.two AS (SELECT UPPER(k) AS big FROM `{dataset}.one`)").result()
    client.insert_rows_json(table, [{"k": "a"}])
    assert sql_rows(client, f"SELECT t.big FROM {dataset}.two AS t") == [("A",)]
    client.delete_table(table)
    with pytest.raises(errors.NotFound, match=f"Not found: Table {project}:{dataset}.t was not found in location US"):
        client.query(f"SELECT * FROM {dataset}.two").result()


def test_rejects_view_with_invalid_sql(client: bigquery.Client, dataset: str) -> None:
    view = bigquery.Table(f"{client.project}.{dataset}.v")
    view.view_query = f"SELECT nothing FROM {dataset}.t"
    with pytest.raises(errors.NotFound):
        client.create_table(view)
    make_table(client, dataset)
    with pytest.raises(errors.BadRequest, match=r"Unrecognized name: nothing at \[1:8\]"):
        client.create_table(view)


# -- query jobs ----------------------------------------------------------------------------------------


def test_inserted_job_is_running_and_keeps_its_configuration(client: bigquery.Client, cloud: LocalCloud) -> None:
    config = bigquery.QueryJobConfig(labels={"run": "r1"}, use_query_cache=False)
    job = client.query("SELECT 1 AS x", job_config=config)
    assert job.state in ("PENDING", "RUNNING")
    job.result()
    assert (job.state, job.statement_type, job.labels, job.location) == ("DONE", "SELECT", {"run": "r1"}, "US")
    assert job.created <= job.started <= job.ended
    again = client.get_job(job.job_id, location="US")
    assert isinstance(again, bigquery.QueryJob)
    assert (again.query, again.destination, again.error_result) == ("SELECT 1 AS x", job.destination, None)
    assert job.job_id in [item.job_id for item in client.list_jobs(max_results=5)]
    assert cloud.counters()["bigquery"]["jobs"] == 1


def test_rejects_used_job_id(client: bigquery.Client) -> None:
    good, bad = f"job-{uuid.uuid4().hex}", f"job-{uuid.uuid4().hex}"
    client.query("SELECT 1", job_id=good, job_retry=None).result()
    with pytest.raises(errors.Conflict, match="Already Exists: Job"):
        client.query("SELECT 2", job_id=good, job_retry=None)
    with pytest.raises(errors.BadRequest):
        client.query("SELECT nothing", job_id=bad, job_retry=None).result()
    with pytest.raises(errors.Conflict):
        client.query("SELECT 2", job_id=bad, job_retry=None)
    failed = client.get_job(bad)
    assert failed.state == "DONE"
    assert failed.error_result == {"reason": "invalidQuery", "message": "Unrecognized name: nothing at [1:8]"}


@pytest.mark.parametrize(
    ("sql", "kind", "reason", "message"),
    [
        ("SELEC 1", errors.BadRequest, "invalidQuery", r"Syntax error: .* at \[1:7\]"),
        ("SELECT\n  x + nothing FROM (SELECT 1 AS x)", errors.BadRequest, "invalidQuery", r"nothing at \[2:7\]"),
        ("SELECT 1 AS a, 2 AS a", errors.BadRequest, "invalidQuery", "Duplicate column names"),
        ("SELECT * FROM missing.t", errors.NotFound, "notFound", "Not found: Dataset .*:missing was not found"),
        ("SELECT * FROM t", errors.BadRequest, "invalidQuery", "must be qualified with a dataset"),
        ("SELECT @p", errors.BadRequest, "invalidQuery", "Query parameter 'p' not found"),
        ("SELECT 1 / 0", errors.BadRequest, "invalidQuery", "division by zero"),
        ("SELECT [1][OFFSET(3)]", errors.BadRequest, "invalidQuery", "out of bounds"),
        ("SELECT JSON '[1]'[OFFSET(0)]", errors.BadRequest, "invalidQuery", "not supported on values of type JSON"),
        (
            "SELECT JSON '[1]'[SAFE_OFFSET(0)]",
            errors.BadRequest,
            "invalidQuery",
            "not supported on values of type JSON",
        ),
        ("SELECT CAST('x' AS INT64)", errors.BadRequest, "invalidQuery", "Bad int64 value: x"),
        ("SELECT [1, NULL]", errors.BadRequest, "invalidQuery", "null element"),
        ("SELECT a, COUNT(*) FROM (SELECT 1 AS a, 2 AS b) GROUP BY b", errors.BadRequest, "invalidQuery", "grouped"),
        ("SELECT HLL_COUNT.INIT(1)", errors.MethodNotImplemented, "notImplemented", "INIT"),
        ("SELECT no_such_function(1)", errors.MethodNotImplemented, "notImplemented", "no_such_function"),
        ("SELECT list_sort([1])", errors.MethodNotImplemented, "notImplemented", "list_sort"),
        (
            "SELECT * FROM missing.t TABLESAMPLE SYSTEM (1 PERCENT)",
            errors.MethodNotImplemented,
            "notImplemented",
            "TABLE",
        ),
        ("SELECT 1; SELECT 2", errors.MethodNotImplemented, "notImplemented", "scripts"),
        ("EXPORT DATA OPTIONS(uri='gs://x') AS SELECT 1", errors.MethodNotImplemented, "notImplemented", "EXPORT DATA"),
        ("SELECT FORMAT_TIMESTAMP('%F', CURRENT_TIMESTAMP(), 'Asia/Tokyo')", errors.MethodNotImplemented, "", "Tokyo"),
        ("SELECT FORMAT_TIMESTAMP('%Q', CURRENT_TIMESTAMP())", errors.MethodNotImplemented, "notImplemented", "%Q"),
        (
            "SELECT x.* FROM missing.t FOR SYSTEM_TIME AS OF CURRENT_TIMESTAMP()",
            errors.MethodNotImplemented,
            "",
            "version",
        ),
        ("SELECT @@project_id", errors.MethodNotImplemented, "notImplemented", "@@project_id"),
    ],
)
def test_invalid_query_fails_with_the_error_of_bigquery(
    client: bigquery.Client, sql: str, kind: type[Exception], reason: str, message: str
) -> None:
    job = client.query(sql, job_retry=None)
    with pytest.raises(kind, match=message):
        job.result()
    job.reload()
    assert job.error_result is not None
    assert reason in job.error_result["reason"]


def test_dry_run_reports_schema_and_bytes_without_a_job(
    client: bigquery.Client, dataset: str, cloud: LocalCloud
) -> None:
    table = make_table(client, dataset)
    client.insert_rows_json(table, [{"k": "abc", "n": 1}])
    config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
    job = client.query(f"SELECT n, n + 0.5 AS more FROM {dataset}.t", job_config=config)
    assert [(field.name, field.field_type) for field in job.schema or ()] == [("n", "INTEGER"), ("more", "FLOAT")]
    assert (job.total_bytes_processed, job.statement_type, job.state) == (8, "SELECT", "DONE")
    assert [str(item) for item in job.referenced_tables] == [f"{client.project}.{dataset}.t"]
    assert client.query(f"SELECT * FROM {dataset}.t", job_config=config).total_bytes_processed == 8 + 5
    with pytest.raises(errors.BadRequest, match="Unrecognized name"):
        client.query(f"SELECT zz FROM {dataset}.t", job_config=config)
    assert "jobs" not in cloud.counters()["bigquery"]


def test_rejects_query_over_its_byte_limit(client: bigquery.Client, dataset: str) -> None:
    table = make_table(client, dataset)
    client.insert_rows_json(table, [{"k": "abc", "n": 1}])
    sql = f"SELECT k FROM {dataset}.t"
    enough = bigquery.QueryJobConfig(maximum_bytes_billed=10 * 2**20)
    assert [tuple(row) for row in client.query(sql, job_config=enough).result()] == [("abc",)]
    job = client.query(sql, job_config=bigquery.QueryJobConfig(maximum_bytes_billed=10 * 2**20 - 1), job_retry=None)
    with pytest.raises(errors.GoogleAPICallError, match="Query exceeded limit for bytes billed: 10485759"):
        job.result()
    assert job.error_result is not None
    assert job.error_result["reason"] == "bytesBilledLimitExceeded"


def test_rejects_byte_limit_of_none(client: bigquery.Client) -> None:
    with pytest.raises(errors.BadRequest, match="maximum_bytes_billed"):
        client.query("SELECT 1", job_config=bigquery.QueryJobConfig(maximum_bytes_billed=None))


def test_rejects_query_in_another_location(client: bigquery.Client) -> None:
    home = bigquery.Dataset(f"{client.project}.d_{uuid.uuid4().hex}")
    home.location = "EU"
    client.create_dataset(home)
    make_table(client, home.dataset_id)
    sql = f"SELECT * FROM {home.dataset_id}.t"
    job = client.query(sql)
    assert (list(job.result()), job.location) == ([], "EU")
    with pytest.raises(errors.NotFound, match="was not found in location US"):
        client.query(sql, location="US").result()
    with pytest.raises(errors.NotFound, match="Not found: Job"):
        client.get_job(job.job_id, location="US")
    client.delete_dataset(home, delete_contents=True)


def test_reads_results_by_start_index_in_pages(client: bigquery.Client) -> None:
    job = client.query("SELECT x, [x, -x] AS pair FROM UNNEST(GENERATE_ARRAY(1, 2500)) AS x ORDER BY x DESC")
    result = job.result(page_size=700)
    assert result.total_rows == 2500
    assert [row["x"] for row in result] == list(range(2500, 0, -1))
    table = bigquery.Table(job.destination, schema=result.schema)
    window = client.list_rows(table, start_index=1000, max_results=30, page_size=7)
    assert [row["x"] for row in window] == list(range(1500, 1470, -1))
    only = client.list_rows(table, selected_fields=[Field("pair", "INTEGER", "REPEATED")], max_results=1)
    assert [tuple(row) for row in only] == [([2500, -2500],)]
    again = client.get_job(job.job_id)
    assert isinstance(again, bigquery.QueryJob)
    assert [row["x"] for row in again.result(start_index=2498)] == [2, 1]
    assert list(client.list_rows(table, start_index=2500)) == []


def test_short_query_returns_its_rows_at_once(client: bigquery.Client, cloud: LocalCloud) -> None:
    rows = client.query_and_wait("SELECT x FROM UNNEST([3, 1, 2]) AS x ORDER BY x", page_size=2)
    assert [row["x"] for row in rows] == [1, 2, 3]
    with pytest.raises(errors.BadRequest, match="Unrecognized name"):
        client.query_and_wait("SELECT nothing")


def test_writes_result_to_destination_table(client: bigquery.Client, dataset: str) -> None:
    target = f"{client.project}.{dataset}.out"

    def write(sql: str, how: str) -> list[tuple[Any, ...]]:
        config = bigquery.QueryJobConfig(destination=target, write_disposition=how)
        client.query(sql, job_config=config).result()
        return sorted(tuple(row) for row in client.list_rows(target))

    assert write("SELECT 1 AS x", "WRITE_EMPTY") == [(1,)]
    with pytest.raises(errors.Conflict):
        write("SELECT 2 AS x", "WRITE_EMPTY")
    assert write("SELECT 2 AS x", "WRITE_APPEND") == [(1,), (2,)]
    assert write("SELECT 'z' AS s", "WRITE_TRUNCATE") == [("z",)]


def test_default_dataset_completes_table_names(client: bigquery.Client, dataset: str) -> None:
    make_table(client, dataset)
    config = bigquery.QueryJobConfig(default_dataset=f"{client.project}.{dataset}")
    assert [tuple(row) for row in client.query("SELECT COUNT(*) FROM t", job_config=config).result()] == [(0,)]


def test_cancels_running_query(client: bigquery.Client) -> None:
    many = "UNNEST(GENERATE_ARRAY(1, 1000000))"
    job = client.query(f"SELECT SUM(a * b) FROM {many} AS a CROSS JOIN {many} AS b", job_retry=None)
    job.cancel()
    deadline = time.monotonic() + 240
    while not job.done() and time.monotonic() < deadline:
        pass
    assert job.error_result is not None
    assert job.error_result["reason"] == "stopped"


def test_job_fault_is_an_http_error(client: bigquery.Client, cloud: LocalCloud) -> None:
    cloud.faults(bigquery={"rules": [{"match": "42", "times": 1, "do": "http", "code": 403, "reason": "accessDenied"}]})
    with pytest.raises(errors.Forbidden):
        client.query("SELECT 42")
    assert sql_rows(client, "SELECT 42") == [(42,)]


# -- DML and DDL ---------------------------------------------------------------------------------------


def test_dml_changes_and_counts_rows(client: bigquery.Client, dataset: str) -> None:
    make_table(client, dataset)

    def change(sql: str) -> int | None:
        return client.query(sql.replace("TABLE", f"`{client.project}.{dataset}.t`")).result().num_dml_affected_rows

    def rows() -> list[tuple[Any, ...]]:
        return sql_rows(client, f"SELECT k, n FROM {dataset}.t ORDER BY k")

    assert change("INSERT INTO TABLE (k, n) VALUES ('a', 1), ('b', 2), ('c', 3)") == 3
    assert change("INSERT TABLE (k, n) SELECT 'd', 4") == 1
    assert change("UPDATE TABLE SET n = n * 10 WHERE k IN ('a', 'b')") == 2
    assert change("UPDATE TABLE t SET t.n = s.n FROM (SELECT 'c' AS k, 33 AS n) s WHERE t.k = s.k") == 1
    assert rows() == [("a", 10), ("b", 20), ("c", 33), ("d", 4)]
    assert change("DELETE TABLE WHERE k = 'd'") == 1
    merged = change(
        "MERGE TABLE t USING (SELECT 'a' AS k, 1 AS n UNION ALL SELECT 'z', 26) s ON t.k = s.k "
        "WHEN MATCHED THEN UPDATE SET n = s.n WHEN NOT MATCHED THEN INSERT (k, n) VALUES (s.k, s.n) "
        "WHEN NOT MATCHED BY SOURCE THEN DELETE"
    )
    assert (merged, rows()) == (4, [("a", 1), ("z", 26)])
    job = client.query(f"TRUNCATE TABLE {dataset}.t")
    job.result()
    assert (job.num_dml_affected_rows, rows()) == (2, [])
    with pytest.raises(errors.BadRequest, match="WHERE"):
        change("DELETE FROM TABLE")


def test_ddl_creates_and_drops_resources(client: bigquery.Client, dataset: str) -> None:
    create = (
        f"CREATE TABLE {dataset}.created (id STRING NOT NULL OPTIONS(description='who'), tags ARRAY<STRING>, "
        "at TIMESTAMP, spot STRUCT<lat FLOAT64, lng FLOAT64>, j JSON, g GEOGRAPHY, cost NUMERIC) "
        "PARTITION BY DATE(at) CLUSTER BY id OPTIONS(description='of all', labels=[('a', 'b')])"
    )
    job = client.query(create)
    job.result()
    assert (job.statement_type, job.ddl_operation_performed) == ("CREATE_TABLE", "CREATE")
    created = client.get_table(f"{dataset}.created")
    assert [(field.name, field.field_type, field.mode) for field in created.schema] == [
        ("id", "STRING", "REQUIRED"),
        ("tags", "STRING", "REPEATED"),
        ("at", "TIMESTAMP", "NULLABLE"),
        ("spot", "RECORD", "NULLABLE"),
        ("j", "JSON", "NULLABLE"),
        ("g", "GEOGRAPHY", "NULLABLE"),
        ("cost", "NUMERIC", "NULLABLE"),
    ]
    assert (created.description, created.labels, created.clustering_fields) == ("of all", {"a": "b"}, ["id"])
    assert created.time_partitioning.field == "at"
    with pytest.raises(errors.Conflict, match="Already Exists: Table"):
        client.query(create).result()
    client.query(create.replace("TABLE", "TABLE IF NOT EXISTS")).result()
    client.query(f"ALTER TABLE {dataset}.created ADD COLUMN IF NOT EXISTS n INT64").result()
    client.query(f"CREATE TABLE {dataset}.copy AS SELECT 1 AS n, [STRUCT('a' AS s)] AS r").result()
    assert [tuple(row) for row in client.list_rows(f"{client.project}.{dataset}.copy")] == [(1, [{"s": "a"}])]
    client.query(f"DROP TABLE {dataset}.created").result()
    with pytest.raises(errors.NotFound):
        client.query(f"DROP TABLE {dataset}.created").result()
    client.query(f"DROP TABLE IF EXISTS {dataset}.created").result()
    client.query(f"CREATE TABLE {dataset}.strict (x STRING NOT NULL)").result()
    with pytest.raises(errors.BadRequest, match="Required field x cannot be null"):
        client.query(f"INSERT INTO {dataset}.strict (x) VALUES (NULL)").result()


def test_information_schema_lists_tables_and_columns(client: bigquery.Client, dataset: str) -> None:
    make_table(client, dataset)
    client.query(f"CREATE VIEW {dataset}.v AS SELECT ARRAY(SELECT 1) AS xs").result()
    tables = sql_rows(client, f"SELECT table_name, table_type FROM {dataset}.INFORMATION_SCHEMA.TABLES ORDER BY 1")
    assert tables == [("t", "BASE TABLE"), ("v", "VIEW")]
    columns = sql_rows(
        client,
        f"SELECT table_name, column_name, data_type FROM `{client.project}.{dataset}.INFORMATION_SCHEMA.COLUMNS` "
        "ORDER BY table_name, ordinal_position",
    )
    assert columns == [("t", "k", "STRING"), ("t", "n", "INT64"), ("v", "xs", "ARRAY<INT64>")]


# -- offline queries ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_queries_the_file_after_the_server_was_stopped_or_killed(tmp_path: Path) -> None:
    with LocalCloud(tmp_path) as own, pytest.MonkeyPatch.context() as patch:
        for name, value in own.environment.items():
            patch.setenv(name, value)
        project = own.project
        client = bigquery.Client(project=project)
        client.create_dataset("d")
        client.query("CREATE TABLE d.t AS SELECT 'a' AS k, ST_GEOGPOINT(1, 2) AS g").result()
        client.query("CREATE VIEW d.v AS SELECT k, g FROM d.t WHERE k = 'a'").result()
        client.close()
        database = tmp_path / "bigquery.duckdb"
        with pytest.raises(UserError, match="cannot be opened"):
            query_database(database, project, "SELECT 1")
    assert query_database(database, project, f"SELECT * FROM `{project}.d.v`") == (["k", "g"], [("a", "POINT(1 2)")])
    assert query_database(database, project, "SELECT table_name FROM d.INFORMATION_SCHEMA.TABLES ORDER BY 1")[1] == [
        ("t",),
        ("v",),
    ]
    with pytest.raises(UserError, match="only SELECT is supported, not DELETE"):
        query_database(database, project, "DELETE FROM d.t WHERE TRUE")
    with pytest.raises(UserError, match="Unrecognized name"):
        query_database(database, project, "SELECT x FROM d.t")

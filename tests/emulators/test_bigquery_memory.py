"""Memory of the local BigQuery, measured in this process."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.rows import append_rows
from imagebeam.emulators.bigquery.catalog.store import RESULTS, ROW_GROUP, Store
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.types import parse_fields
from imagebeam.emulators.bigquery.jobs.execute import plan_query, run_query
from imagebeam.emulators.bigquery.jobs.load import BATCH_ROWS, run_load
from imagebeam.emulators.bigquery.jobs.query import QueryRequest
from imagebeam.emulators.storage.object_store import ObjectStore

pytestmark = pytest.mark.long


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    store = Store(tmp_path / "bigquery.duckdb", "project")
    catalog = Catalog(store)
    catalog.create_dataset({"datasetReference": {"datasetId": "d"}})
    yield catalog
    store.close()


@pytest.fixture
def vectors(catalog: Catalog) -> Table:
    return catalog.create_table("d", {"tableReference": {"tableId": "t"}}, fields())


def fields() -> Any:
    vector = {"name": "vector", "type": "FLOAT", "mode": "REPEATED"}
    return parse_fields([{"name": "k", "type": "INTEGER"}, vector])


def fetch(catalog: Catalog, sql: str) -> Any:
    with catalog.store.cursor() as cursor:
        return cursor.execute(sql).fetchall()


def test_append_releases_each_batch_before_the_transaction_ends(catalog: Catalog, vectors: Table) -> None:
    before, allocated = pa.total_allocated_bytes(), []
    batch: Sequence[Any] = [[number, [0.5] * 512] for number in range(200)]

    def batches() -> Iterator[Sequence[Any]]:
        for _ in range(10):
            yield batch
            allocated.append(pa.total_allocated_bytes() - before)

    append_rows(catalog, vectors, batches())

    assert 200 * 512 * 8 <= max(allocated) < 2.5 * 200 * 512 * 8
    assert fetch(catalog, "SELECT count(*), sum(len(vector)) FROM project.d.t") == [(2_000, 2_000 * 512)]


def test_failed_load_leaves_the_table_unchanged(catalog: Catalog, vectors: Table, tmp_path: Path) -> None:
    good = json.dumps({"k": 1, "vector": [1.0, 2.0]}) + "\n"
    target = {"projectId": "project", "datasetId": "d", "tableId": "t"}
    config = {"sourceFormat": "NEWLINE_DELIMITED_JSON", "destinationTable": target}
    text = good * (BATCH_ROWS + 1) + '{"k": "one"}\n'

    with pytest.raises(Exception, match="too many errors"):
        run_load(catalog, ObjectStore(tmp_path), config, text.encode())

    assert fetch(catalog, "SELECT count(*) FROM project.d.t") == [(0,)]
    assert run_load(catalog, ObjectStore(tmp_path), config, (good * 3).encode()).rows == 3


def test_rows_are_written_in_row_groups_of_limited_size(catalog: Catalog, vectors: Table) -> None:
    rows: list[list[Any]] = [[number, [1.0]] for number in range(2 * ROW_GROUP + 1)]

    append_rows(catalog, vectors, [rows])

    groups = "SELECT count(DISTINCT row_group_id) FROM pragma_storage_info('project.d.t')"
    assert fetch(catalog, groups) == [(3,)]


def test_create_table_as_select_keeps_no_result_in_memory(catalog: Catalog) -> None:
    for number, name in enumerate(["d.a", "IF NOT EXISTS d.b", "IF NOT EXISTS d.b"]):
        request = QueryRequest(f"CREATE TABLE {name} AS SELECT number FROM UNNEST(GENERATE_ARRAY(1, 5)) AS number")
        run_query(catalog, plan_query(catalog, request), f"key_{number}")

    assert fetch(catalog, "SELECT (SELECT sum(number) FROM project.d.a), (SELECT sum(number) FROM project.d.b)") == [
        (15, 15)
    ]
    assert fetch(catalog, f"SELECT count(*) FROM duckdb_tables() WHERE schema_name = '{RESULTS}'") == [(0,)]


def test_query_result_is_kept_until_it_is_dropped(catalog: Catalog) -> None:
    request = QueryRequest("SELECT 7 AS n")

    result = run_query(catalog, plan_query(catalog, request), "key").result

    assert result is not None
    assert catalog.results.find(TableId("project", catalog.results.dataset, "key")) == result
    assert fetch(catalog, f"SELECT n FROM {result.duck}") == [(7,)]
    catalog.results.drop(result)
    catalog.results.drop(result)
    assert catalog.results.find(result.ident) is None

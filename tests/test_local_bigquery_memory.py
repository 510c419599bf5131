"""What the local BigQuery holds in memory, looked at in this process: no more than it has to."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.store import RESULTS, ROW_GROUP, Store
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.types import parse_fields
from imagebeam.emulators.bigquery.jobs.load import BATCH_ROWS, load
from imagebeam.emulators.bigquery.jobs.run import prepare, run
from imagebeam.emulators.bigquery.jobs.select import Request
from imagebeam.emulators.bigquery.rows import append
from imagebeam.emulators.storage.object_store import ObjectStore


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


def test_rows_that_are_in_the_table_are_held_no_longer_although_the_transaction_goes_on(
    catalog: Catalog, vectors: Table
) -> None:
    before, held = pa.total_allocated_bytes(), []
    batches: Sequence[Any] = [[[number, [0.5] * 512] for number in range(200)]] * 10

    append(catalog, vectors, batches, progress=lambda _: held.append(pa.total_allocated_bytes() - before))

    assert 200 * 512 * 8 <= max(held) < 2.5 * 200 * 512 * 8
    assert fetch(catalog, "SELECT count(*), sum(len(vector)) FROM project.d.t") == [(2_000, 2_000 * 512)]


def test_a_load_with_a_bad_line_behind_good_ones_leaves_the_table_as_it_was(
    catalog: Catalog, vectors: Table, tmp_path: Path
) -> None:
    good = json.dumps({"k": 1, "vector": [1.0, 2.0]}) + "\n"
    target = {"projectId": "project", "datasetId": "d", "tableId": "t"}
    config = {"sourceFormat": "NEWLINE_DELIMITED_JSON", "destinationTable": target}
    text = good * (BATCH_ROWS + 1) + '{"k": "one"}\n'

    with pytest.raises(Exception, match="too many errors"):
        load(catalog, ObjectStore(tmp_path), config, text.encode())

    assert fetch(catalog, "SELECT count(*) FROM project.d.t") == [(0,)]
    assert load(catalog, ObjectStore(tmp_path), config, (good * 3).encode()).rows == 3


def test_rows_go_to_the_file_in_groups_that_memory_can_hold(catalog: Catalog, vectors: Table) -> None:
    rows: list[list[Any]] = [[number, [1.0]] for number in range(2 * ROW_GROUP + 1)]

    append(catalog, vectors, [rows])

    groups = "SELECT count(DISTINCT row_group_id) FROM pragma_storage_info('project.d.t')"
    assert fetch(catalog, groups) == [(3,)]


def test_a_table_made_by_a_query_stands_once_and_not_in_memory_besides(catalog: Catalog) -> None:
    for number, name in enumerate(["d.a", "IF NOT EXISTS d.b", "IF NOT EXISTS d.b"]):
        request = Request(f"CREATE TABLE {name} AS SELECT number FROM UNNEST(GENERATE_ARRAY(1, 5)) AS number")
        run(catalog, request, prepare(catalog, request), f"key_{number}")

    assert fetch(catalog, "SELECT (SELECT sum(number) FROM project.d.a), (SELECT sum(number) FROM project.d.b)") == [
        (15, 15)
    ]
    assert fetch(catalog, f"SELECT count(*) FROM duckdb_tables() WHERE schema_name = '{RESULTS}'") == [(0,)]


def test_rows_of_a_query_stay_until_they_are_let_go(catalog: Catalog) -> None:
    request = Request("SELECT 7 AS n")

    result = run(catalog, request, prepare(catalog, request), "key").result

    assert result is not None
    assert catalog.results.find(TableId("project", catalog.results.dataset, "key")) == result
    assert fetch(catalog, f"SELECT n FROM {result.duck}") == [(7,)]
    catalog.results.drop(result)
    catalog.results.drop(result)
    assert catalog.results.find(result.ident) is None

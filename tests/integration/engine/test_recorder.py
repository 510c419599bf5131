"""The recorder: long vectors are split into requests, and inserted once and before their outcomes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import secrets
from collections.abc import Sequence

import pytest
from google.cloud import bigquery

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Answer, Image, Outcome, Status, Unit, UnitKind
from imagebeam.transforms.engine.recorder import INSERT_BYTES, BigQueryRecorder, VectorTable
from imagebeam.transforms.run_tables import prepare_embeddings
from imagebeam.transforms.sql import tables
from imagebeam.transforms.sql.embedding_tables import embedding_row
from imagebeam.transforms.tasks.embedding import embed_task
from imagebeam.transforms.tasks.task import parse_task

LONG = embed_task("gemini-embedding-2", 3072)
COLUMNS = {"task": LONG.name, "version": LONG.version, "model": LONG.model, "lane": "online", "run_id": "r"}


def outcome(number: int, *, ok: bool = True) -> Outcome:
    unit = Unit(f"o{number}", UnitKind.OBSERVATION, f"d{number}", (Image(f"o{number}", f"gs://b/{number}.jpg"),))
    found = Answer(Status.OK, value={"dimension": 3072}, vector=[number + 1 / 3] * 3072)
    answer = found if ok else Answer(Status.IMAGE_ERROR, "NOT_FOUND")
    return Outcome(unit, answer, answered_at="2026-11-21T10:00:00Z")


@pytest.fixture
def results(cloud: LocalCloud) -> TableName:
    name = f"recorder_{secrets.token_hex(4)}"
    bigquery.Client().create_dataset(name)
    outcomes = TableName(cloud.project, name, "outcomes")
    BigQueryClient(cloud.project).create_table(outcomes, tables.OUTCOMES.schema)
    prepare_embeddings(BigQueryClient(cloud.project), outcomes, LONG.model, LONG.dimension)
    return outcomes


def record(results: TableName, outcomes: Sequence[Outcome], vectors: VectorTable) -> list[Outcome]:
    """Records outcomes all at once; gives what was kept."""
    kept: list[Outcome] = []
    failures: list[SystemicError] = []

    async def run() -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            recorder = BigQueryRecorder(
                BigQueryClient(results.project), results, COLUMNS, threads, failures.append, vectors=vectors
            )
            for one in outcomes:
                recorder.put(one, kept.append)
            await recorder.close()

    asyncio.run(run())
    assert failures == []
    return kept


def count(results: TableName, table: str) -> tuple[int, int]:
    sql = f"SELECT COUNT(*) AS n, COUNT(DISTINCT unit_id) AS units FROM {results.dataset}.{table}"
    row = next(iter(bigquery.Client().query(sql).result()))
    return row["n"], row["units"]


def test_splits_long_vectors_into_requests_and_inserts_each_once(cloud: LocalCloud, results: TableName) -> None:
    vectors = VectorTable(dataclasses.replace(results, table="embeddings_gemini_embedding_2_3072"), LONG, "r")
    before = cloud.counters().get("bigquery", {}).get("insert_requests", 0)
    outcomes = [outcome(number, ok=number % 10 != 3) for number in range(250)]
    kept = record(results, outcomes, vectors)
    assert [one.unit.unit_id for one in kept] == [one.unit.unit_id for one in outcomes]
    assert [one.status for one in kept] == [one.status for one in outcomes]
    assert all(one.answer.vector is None for one in kept), "what is recorded need not be held"
    assert count(results, "outcomes") == (250, 250)
    assert count(results, vectors.table.table) == count(results, "embeddings") == (225, 225)
    assert cloud.counters()["bigquery"]["insert_requests"] - before == 3 + 1


def test_insert_of_the_longest_vectors_is_below_the_limit() -> None:
    vectors = VectorTable(TableName("my-project", "d", "t"), LONG, "r")
    long = dataclasses.replace(outcome(1), answer=Answer(Status.OK, vector=[-1 / 3 * 1e-100] * 3072))
    row = embedding_row(long, model=LONG.model, dimension=3072, version="v", run_id="r")
    assert vectors.rows_at_once * len(str(row)) < 10_000_000
    assert vectors.rows_at_once > 50
    assert INSERT_BYTES < 10_000_000


def test_vector_table_rejects_a_classification_task() -> None:
    task = parse_task("name: seen\nprompt: What?\n", source="seen", default_model="gemini-3.5-flash-lite")
    with pytest.raises(TypeError, match="no vectors"):
        VectorTable(TableName("my-project", "d", "t"), task, "r")

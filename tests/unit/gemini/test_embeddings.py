"""What is known of embeddings without asking anybody: models, dimensions, the task, the tables, the rows."""

from __future__ import annotations

import dataclasses
import math

import pytest
import sqlglot

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Answer, Image, Outcome, Status, Unit, UnitKind
from imagebeam.transforms.sql.embedding_tables import (
    COLUMNS,
    EMBEDDINGS,
    embedding_row,
    embedding_table,
    embeddings_view,
    is_embedding_table,
    point,
    vector_index_sql,
)
from imagebeam.transforms.sql.views import views
from imagebeam.transforms.tasks.embedding import (
    DEFAULT_MODEL,
    embed_task,
    resolve_dimension,
)
from imagebeam.transforms.tasks.task import ImageSettings

OUTCOMES = TableName("my-project", "answers", "outcomes")
UNIT = Unit("o1", UnitKind.OBSERVATION, "d", (Image("o1", "gs://b/o1.jpg"),), "a1", latitude=46.948, longitude=7.447)
OK = Outcome(UNIT, Answer(Status.OK, vector=(0.6, 0.8)), answered_at="2026-11-21T10:00:00Z")


@pytest.mark.parametrize("dimension", [1, 128, 768, 1408, 3072])
def test_gemini_embedding_supports_every_length_up_to_3072(dimension: int) -> None:
    assert resolve_dimension("gemini-embedding-2", dimension) == dimension


@pytest.mark.parametrize(
    ("model", "dimension", "said"),
    [
        ("multimodalembedding@001", 768, "128, 256, 512 or 1408"),
        ("multimodalembedding@001", 0, "128, 256, 512 or 1408"),
        ("gemini-embedding-2", 0, "1 to 3072"),
        ("gemini-embedding-2", 3073, "1 to 3072"),
        ("gemini-3.5-flash-lite", 512, "gemini-embedding-2, multimodalembedding@001"),
    ],
)
def test_rejects_unsupported_lengths_and_names_supported_ones(model: str, dimension: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        embed_task(model, dimension)


def test_default_dimension_is_the_longest() -> None:
    assert resolve_dimension(DEFAULT_MODEL, None) == 3072
    assert resolve_dimension("multimodalembedding@001", None) == 1408


def test_version_covers_exactly_what_can_change_a_vector() -> None:
    small = ImageSettings(max_side=512)
    versions = {
        embed_task("gemini-embedding-2", 512).version,
        embed_task("gemini-embedding-2", 256).version,
        embed_task("multimodalembedding@001", 512).version,
        embed_task("gemini-embedding-2", 512, small).version,
    }
    assert len(versions) == 4
    task = embed_task("gemini-embedding-2", 512)
    assert dataclasses.replace(task, description="other").version == task.version
    assert embed_task("gemini-embedding-2", 512).version == "ecfd5341f2e6", "a new version buys every vector again"


def test_each_model_and_length_has_its_own_task_and_table() -> None:
    assert embed_task("gemini-embedding-2", 512).name == "embed/gemini-embedding-2/512"
    table = embedding_table(OUTCOMES, "gemini-embedding-2", 512)
    assert table.dotted == "my-project.answers.embeddings_gemini_embedding_2_512"
    assert is_embedding_table(table.table)
    assert not any(is_embedding_table(name) for name in ("embeddings", "outcomes", "embeddings_x_y"))


def test_rows_match_the_schema() -> None:
    row = embedding_row(OK, model="gemini-embedding-2", dimension=2, version="v", run_id="r")
    assert tuple(row) == COLUMNS == tuple(field["name"] for field in EMBEDDINGS.schema)
    assert all(row[str(field["name"])] is not None for field in EMBEDDINGS.schema if field["mode"] == "REQUIRED")
    assert (row["uri"], row["position"], row["vector"]) == ("gs://b/o1.jpg", "POINT(7.447 46.948)", [0.6, 0.8])


@pytest.mark.parametrize(
    "outcome",
    [
        dataclasses.replace(OK, answer=Answer(Status.OK)),
        dataclasses.replace(OK, answer=Answer(Status.OK, vector=(0.1,))),
        dataclasses.replace(OK, answer=Answer(Status.INVALID_ANSWER, vector=(0.6, 0.8))),
    ],
)
def test_invalid_vectors_have_no_row(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="no vector with 2 dimensions"):
        embedding_row(outcome, model="m", dimension=2, version="v", run_id="r")


@pytest.mark.parametrize("place", [(math.nan, 7.0), (90.1, 7.0), (46.0, 181.0), (None, 7.0), (46.0, None)])
def test_an_invalid_position_is_null_and_keeps_the_vector(place: tuple[float | None, float | None]) -> None:
    assert point(*place) is None
    unit = dataclasses.replace(UNIT, latitude=place[0], longitude=place[1])
    row = embedding_row(dataclasses.replace(OK, unit=unit), model="m", dimension=2, version="v", run_id="r")
    assert row["vector"] == [0.6, 0.8]


def test_embedding_tasks_have_only_shared_views() -> None:
    assert set(views(OUTCOMES, embed_task("gemini-embedding-2", 8))) == {"dead_letters", "runs_history"}


def test_view_and_index_are_valid_bigquery_sql() -> None:
    tables = [embedding_table(OUTCOMES, "gemini-embedding-2", 512), embedding_table(OUTCOMES, "gemini-embedding-2", 8)]
    view = embeddings_view(tables)
    parsed = sqlglot.parse_one(view, dialect="bigquery")
    assert {table.name for table in parsed.find_all(sqlglot.exp.Table)} == {table.table for table in tables}
    assert view == embeddings_view(tables[::-1])
    with pytest.raises(ValueError, match="no table"):
        embeddings_view([])
    assert vector_index_sql(tables[0]) == (
        "CREATE VECTOR INDEX IF NOT EXISTS `embeddings_gemini_embedding_2_512_index`\n"
        "ON `my-project.answers.embeddings_gemini_embedding_2_512`(vector)\n"
        "STORING (unit_id, asset_id, asset_type, capture_time, uri)\n"
        "OPTIONS (index_type = 'IVF', distance_type = 'COSINE')"
    )

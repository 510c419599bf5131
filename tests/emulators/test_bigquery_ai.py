"""Object tables, remote models, embeddings and vector search of the local BigQuery, with the unmodified client."""

import contextlib
import math
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import google.auth
import numpy as np
import pytest
from google.api_core.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    GoogleAPICallError,
    MethodNotImplemented,
    NotFound,
)
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebeam.emulators.bigquery.ai.faults import AiFaults
from imagebeam.emulators.bigquery.dialect.resource_ddl import parse_resource_ddl
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.sample_data.images import Picture, photos, render

RETRYABLE = "A retryable error occurred:"


@dataclass(frozen=True)
class Lab:
    """A dataset with a connection, an object table over two views of every photograph, and two models."""

    cloud: LocalCloud
    client: bigquery.Client
    dataset: str
    bucket: str

    def run(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run a statement in which ``D`` is replaced by the dataset and ``B`` by the bucket."""
        config = bigquery.QueryJobConfig(
            query_parameters=[
                bigquery.ArrayQueryParameter(name, "STRING", value)
                if isinstance(value, list)
                else bigquery.ScalarQueryParameter(name, "STRING", value)
                for name, value in parameters.items()
            ]
        )
        text = re.sub(r"\bD\.", f"{self.dataset}.", sql)
        text = text.replace("gs://B/", f"gs://{self.bucket}/")
        job = self.client.query(text, job_config=config, job_retry=None)
        return [dict(row.items()) for row in job.result()]

    def uri(self, name: str) -> str:
        return f"gs://{self.bucket}/{name}"

    def embed(self, where: str = "TRUE", model: str = "mm", dimension: int = 128, **parameters: Any) -> list[Any]:
        rows = f"(SELECT * FROM D.images WHERE {where})"
        options = f"STRUCT({dimension} AS output_dimensionality)"
        call = f"AI.GENERATE_EMBEDDING(MODEL D.{model}, {rows}, {options})"
        return self.run(f"SELECT uri, embedding, status FROM {call} ORDER BY uri", **parameters)


@pytest.fixture(scope="module")
def lab(cloud: LocalCloud) -> Iterator[Lab]:
    suffix = uuid.uuid4().hex[:8]
    lab = Lab(cloud, bigquery.Client(project=cloud.project), f"ai_{suffix}", f"ai-{suffix}")
    directory = cloud.directory / "storage" / lab.bucket
    (directory / "obs").mkdir(parents=True)
    for photo in photos():
        for name, box in {"a": (10, 10, 200, 160), "b": (20, 20, 220, 170)}.items():
            (directory / "obs" / f"o1:{photo}:{name}.jpg").write_bytes(render(Picture(photo, box, (190, 150), "plain")))
    (directory / "notes.txt").write_text("no picture")
    lab.client.create_dataset(lab.dataset)
    lab.run(f"CREATE CONNECTION IF NOT EXISTS `us.conn_{suffix}` OPTIONS (connection_type = 'CLOUD_RESOURCE')")
    lab.run(
        f"CREATE OR REPLACE EXTERNAL TABLE D.images WITH CONNECTION `us.conn_{suffix}` "
        "OPTIONS (object_metadata = 'SIMPLE', uris = ['gs://B/obs/*.jpg'])"
    )
    for name, endpoint in {"mm": "multimodalembedding@001", "ge": "gemini-embedding-2-preview"}.items():
        lab.run(f"CREATE OR REPLACE MODEL D.{name} REMOTE WITH CONNECTION DEFAULT OPTIONS (ENDPOINT = '{endpoint}')")
    yield lab
    lab.client.delete_dataset(lab.dataset, delete_contents=True)
    shutil.rmtree(directory)


# Connections


def test_connection_has_a_service_account(lab: Lab) -> None:
    name = f"c{uuid.uuid4().hex[:8]}"
    lab.run(f"CREATE CONNECTION `{lab.client.project}.us.{name}` "
            "OPTIONS (connection_type = 'CLOUD_RESOURCE', friendly_name = 'x')")  # fmt: skip
    lab.run(f"CREATE CONNECTION IF NOT EXISTS `us.{name}` OPTIONS (connection_type = 'CLOUD_RESOURCE')")
    with pytest.raises(Conflict, match="Already Exists: Connection"):
        lab.run(f"CREATE CONNECTION `us.{name}` OPTIONS (connection_type = 'CLOUD_RESOURCE')")
    credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    path = f"{lab.cloud.url}/v1/projects/{project}/locations/us/connections"
    with AuthorizedSession(credentials) as session:
        found = session.get(f"{path}/{name}").json()
        assert found["friendlyName"] == "x"
        assert found["cloudResource"]["serviceAccountId"].endswith("@gcp-sa-bigquery-condel.iam.gserviceaccount.com")
        assert found["name"].endswith(f"/connections/{name}")
        assert found in session.get(path).json()["connections"]
        other = session.post(path, params={"connectionId": f"{name}x"}, json={"cloudResource": {}})
        assert other.json()["cloudResource"]["serviceAccountId"] != found["cloudResource"]["serviceAccountId"]
        assert session.post(path, params={"connectionId": name}, json={"cloudResource": {}}).status_code == 409
        assert session.delete(f"{path}/{name}x").status_code == 200
    lab.run(f"DROP CONNECTION `us.{name}`")
    with pytest.raises(NotFound):
        lab.run(f"DROP CONNECTION `us.{name}`")
    lab.run(f"DROP CONNECTION IF EXISTS `us.{name}`")


def test_rejects_missing_connection_and_other_location(lab: Lab) -> None:
    name = f"c{uuid.uuid4().hex[:8]}"
    model = "CREATE MODEL D.x REMOTE WITH CONNECTION `{}` OPTIONS (ENDPOINT = 'gemini-embedding-2')"
    with pytest.raises(NotFound, match="Connection"):
        lab.run(model.format(f"us.{name}"))
    lab.run(f"CREATE CONNECTION `eu.{name}` OPTIONS (connection_type = 'CLOUD_RESOURCE')")
    with pytest.raises(BadRequest, match="same location"):
        lab.run(model.format(f"eu.{name}"))
    row = lab.run(f"SELECT status FROM AI.GENERATE_EMBEDDING(MODEL D.ge, "
                  f"(SELECT OBJ.MAKE_REF('gs://B/obs/o1:cat:a.jpg', 'us.{name}') AS content))")  # fmt: skip
    assert row[0]["status"].startswith("NOT_FOUND")


# Object tables


def test_object_table_has_all_columns_and_matching_objects(lab: Lab) -> None:
    table = lab.client.get_table(f"{lab.dataset}.images")
    assert table.table_type == "EXTERNAL"
    assert [field.name for field in table.schema] == [
        "uri", "generation", "content_type", "size", "md5_hash", "updated", "metadata", "ref",
    ]  # fmt: skip
    rows = lab.run("SELECT * FROM D.images ORDER BY uri")
    assert [row["uri"] for row in rows] == sorted(
        lab.uri(f"obs/o1:{photo}:{side}.jpg") for photo in photos() for side in "ab"
    )
    assert {row["content_type"] for row in rows} == {"image/jpeg"}
    assert rows[0]["ref"]["uri"] == rows[0]["uri"]
    assert rows[0]["ref"]["details"]["gcs_metadata"]["size"] == rows[0]["size"]
    assert lab.run("SELECT ref.uri AS u FROM D.images WHERE uri LIKE '%cat:a%'") == [{"u": lab.uri("obs/o1:cat:a.jpg")}]


def test_object_table_follows_the_bucket_within_max_staleness(lab: Lab) -> None:
    base = "OPTIONS (object_metadata = 'SIMPLE', uris = ['gs://B/new/*']"
    lab.run(f"CREATE EXTERNAL TABLE D.fresh WITH CONNECTION DEFAULT {base})")
    lab.run(f"CREATE EXTERNAL TABLE D.cached WITH CONNECTION DEFAULT {base}, max_staleness = INTERVAL 4 HOUR, "
            "metadata_cache_mode = 'MANUAL')")  # fmt: skip
    counts = [lab.run(f"SELECT COUNT(*) AS n FROM D.{table}")[0]["n"] for table in ("fresh", "cached")]
    target = lab.cloud.directory / "storage" / lab.bucket / "new" / "x.jpg"
    target.parent.mkdir()
    target.write_bytes(b"x")
    counts += [lab.run(f"SELECT COUNT(*) AS n FROM D.{table}")[0]["n"] for table in ("fresh", "cached")]
    lab.run(f"CALL BQ.REFRESH_EXTERNAL_METADATA_CACHE('{lab.dataset}.cached')")
    counts.append(lab.run("SELECT COUNT(*) AS n FROM D.cached")[0]["n"])
    assert counts == [0, 0, 1, 0, 1]
    lab.run("DROP EXTERNAL TABLE D.fresh")
    with pytest.raises(NotFound):
        lab.run("SELECT * FROM D.fresh")
    lab.run("DROP EXTERNAL TABLE IF EXISTS D.fresh")
    with pytest.raises(BadRequest):
        lab.run("DELETE FROM D.cached WHERE TRUE")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("object_metadata = 'SIMPLE'", BadRequest, "uris"),
        ("object_metadata = 'SIMPLE', uris = []", BadRequest, "uris"),
        ("object_metadata = 'SIMPLE', uris = ['/tmp/x']", BadRequest, "gs://bucket/path"),
        ("object_metadata = 'SIMPLE', uris = ['gs://B/*/*']", BadRequest, "one"),
        ("object_metadata = 'SIMPLE', uris = ['gs://no-such-bucket-here/*']", NotFound, "does not exist"),
        ("object_metadata = 'SIMPLE', uris = ['gs://B/a'], max_staleness = INTERVAL 5 MINUTE", BadRequest, "30 minute"),
        ("object_metadata = 'SIMPLE', uris = ['gs://B/a'], max_staleness = INTERVAL 1 DAY", BadRequest, "cache_mode"),
        ("object_metadata = 'SIMPLE', uris = ['gs://B/*'], metadata_cache_mode = 'X'", BadRequest, "AUTOMATIC"),
        ("format = 'CSV', uris = ['gs://B/*']", MethodNotImplemented, "format"),
    ],
)  # fmt: skip
def test_rejects_invalid_object_table(lab: Lab, options: str, error: type[GoogleAPICallError], message: str) -> None:
    with pytest.raises(error, match=message):
        lab.run(f"CREATE EXTERNAL TABLE D.bad WITH CONNECTION DEFAULT OPTIONS ({options})")


# Models


def test_creates_lists_replaces_and_drops_models(lab: Lab) -> None:
    url = (
        "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/publishers/google/models/"
        "multimodalembedding@001"
    )
    lab.run(f"CREATE MODEL D.other REMOTE WITH CONNECTION DEFAULT OPTIONS (endpoint = '{url}')")
    lab.run(
        "CREATE MODEL IF NOT EXISTS D.other REMOTE WITH CONNECTION DEFAULT OPTIONS (ENDPOINT = 'gemini-embedding-2')"
    )
    with pytest.raises(Conflict):
        lab.run("CREATE MODEL D.other REMOTE WITH CONNECTION DEFAULT OPTIONS (ENDPOINT = 'gemini-embedding-2')")
    assert sorted(model.model_id for model in lab.client.list_models(lab.dataset)) == ["ge", "mm", "other"]
    assert lab.client.get_model(f"{lab.dataset}.other").location == "US"
    lab.run("DROP MODEL D.other")
    lab.run("DROP MODEL IF EXISTS D.other")
    with pytest.raises(NotFound, match="Model"):
        lab.run("SELECT * FROM AI.GENERATE_EMBEDDING(MODEL D.other, TABLE D.images)")
    with pytest.raises(MethodNotImplemented, match=r"gemini-2\.5-flash"):
        lab.run("CREATE MODEL D.chat REMOTE WITH CONNECTION DEFAULT OPTIONS (ENDPOINT = 'gemini-2.5-flash')")
    with pytest.raises(MethodNotImplemented, match="REMOTE"):
        lab.run("CREATE MODEL D.own OPTIONS (model_type = 'LINEAR_REG') AS SELECT 1 AS x")


# Embeddings


@pytest.mark.parametrize("dimension", [128, 256, 512, 1408])
def test_embeds_every_row_of_an_object_table(lab: Lab, dimension: int) -> None:
    rows = lab.run(
        f"SELECT * FROM AI.GENERATE_EMBEDDING(MODEL D.mm, TABLE D.images, STRUCT({dimension} AS output_dimensionality))"
    )
    assert len(rows) == 2 * len(photos())
    assert set(rows[0]) >= {"uri", "generation", "embedding", "status", "video_start_sec", "video_end_sec"}
    for row in rows:
        assert row["status"] == ""
        assert len(row["embedding"]) == dimension
        assert math.isclose(np.linalg.norm(row["embedding"]), 1)


def test_embeds_object_refs_and_text(lab: Lab) -> None:
    (by_table,) = lab.embed("uri LIKE '%cat:a.jpg'", model="ge", dimension=512)
    rows = lab.run(
        "SELECT id, embedding, status, statistics FROM AI.GENERATE_EMBEDDING(MODEL D.ge, "
        "(SELECT 7 AS id, OBJ.MAKE_REF(u) AS content FROM UNNEST(@uris) AS u), STRUCT(512 AS output_dimensionality))",
        uris=[by_table["uri"]],
    )
    assert rows == [
        {
            "id": 7,
            "embedding": by_table["embedding"],
            "status": "",
            "statistics": {"token_count": 258, "truncated": False},
        }
    ]
    (ref,) = lab.run("SELECT embedding FROM AI.GENERATE_EMBEDDING(MODEL D.ge, (SELECT ref AS content FROM D.images "
                     "WHERE uri LIKE '%cat:a.jpg'), STRUCT(512 AS output_dimensionality))")  # fmt: skip
    assert ref["embedding"] == by_table["embedding"]
    (text,) = lab.run("SELECT * FROM AI.GENERATE_EMBEDDING(MODEL D.mm, (SELECT 'a red thing' AS content))")
    assert len(text["embedding"]) == 1408


def test_ml_generate_embedding_has_its_own_column_names(lab: Lab) -> None:
    (row,) = lab.run(
        "SELECT * FROM ML.GENERATE_EMBEDDING(MODEL D.mm, (SELECT * FROM D.images WHERE uri = @uri), "
        "STRUCT(TRUE AS flatten_json_output, 256 AS output_dimensionality))",
        uri=lab.uri("obs/o1:cat:a.jpg"),
    )
    assert len(row["ml_generate_embedding_result"]) == 256
    assert row["ml_generate_embedding_status"] == ""


def test_failed_rows_have_a_status_and_others_succeed(lab: Lab) -> None:
    uris = [lab.uri(name) for name in ("obs/o1:cat:a.jpg", "none.jpg", "notes.txt")]
    rows = lab.run(
        "SELECT content.uri AS uri, ARRAY_LENGTH(embedding) AS n, status FROM AI.GENERATE_EMBEDDING(MODEL D.mm, "
        "(SELECT OBJ.MAKE_REF(u) AS content FROM UNNEST(@uris) AS u), STRUCT(128 AS output_dimensionality))",
        uris=uris,
    )
    found = {row["uri"]: (row["n"], row["status"]) for row in rows}
    assert found[uris[0]] == (128, "")
    assert found[uris[1]][0] == found[uris[2]][0] == 0
    assert found[uris[1]][1].startswith("NOT_FOUND")
    assert found[uris[2]][1].startswith("INVALID_ARGUMENT")
    assert not any(status.startswith(RETRYABLE) for _, status in found.values())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("MODEL D.mm, TABLE D.images, STRUCT(768 AS output_dimensionality)", BadRequest, "128, 256, 512 and 1408"),
        ("MODEL D.ge, TABLE D.images, STRUCT(3073 AS output_dimensionality)", BadRequest, "between 1 and 3072"),
        ("MODEL D.mm, TABLE D.images, STRUCT('a' AS output_dimensionality)", BadRequest, "positive INT64"),
        ("MODEL D.mm, TABLE D.images, STRUCT(1 AS interval_seconds)", MethodNotImplemented, "interval_seconds"),
        ("MODEL D.mm, (SELECT uri FROM D.images)", BadRequest, "all columns"),
        ("MODEL D.mm, (SELECT * FROM D.images JOIN D.images AS b USING (uri))", BadRequest, "WHERE, ORDER BY"),
        ("MODEL D.mm, (SELECT 1 AS x)", BadRequest, "content"),
        ("MODEL D.nope, TABLE D.images", NotFound, "Model"),
        ("MODEL D.mm, TABLE D.nope", NotFound, "Table"),
    ],
)  # fmt: skip
def test_rejects_invalid_call(lab: Lab, call: str, error: type[GoogleAPICallError], message: str) -> None:
    with pytest.raises(error, match=message):
        lab.run(f"SELECT * FROM AI.GENERATE_EMBEDDING({call})")
    assert "ai" not in lab.cloud.counters().get("bigquery", {})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT AI.IF('x')",
        "SELECT AI.CLASSIFY('x', ['a'])",
        "SELECT AI.GENERATE('x')",
        "SELECT AI.EMBED('x', endpoint => 'e')",
        "SELECT * FROM AI.GENERATE_TABLE(MODEL D.ge, (SELECT 1 AS prompt), STRUCT('a STRING' AS output_schema))",
        "SELECT ML.DISTANCE([1.0], [2.0])",
        "SELECT * FROM ML.PREDICT(MODEL D.ge, TABLE D.images)",
        "SELECT OBJ.GET_ACCESS_URL(OBJ.MAKE_REF('x'), 'r')",
    ],
)
def test_other_ai_functions_are_not_implemented(lab: Lab, sql: str) -> None:
    name = sql.replace("SELECT ", "").replace("* FROM ", "").split("(")[0]
    with pytest.raises(MethodNotImplemented, match=name):
        lab.run(sql)


def test_dry_run_calls_no_model(lab: Lab) -> None:
    sql = f"SELECT * FROM AI.GENERATE_EMBEDDING(MODEL {lab.dataset}.mm, TABLE {lab.dataset}.images)"
    job = lab.client.query(sql, job_config=bigquery.QueryJobConfig(dry_run=True))
    assert [field.name for field in job.schema or () if field.mode == "REPEATED"] == ["metadata", "embedding"]
    assert "ai" not in lab.cloud.counters()["bigquery"]


def test_repeated_passes_write_every_row_and_embed_none_twice(lab: Lab) -> None:
    """Run the loop of the SQL lane: retryable rows are processed again, permanent failures keep their status."""
    lab.cloud.faults(
        bigquery={
            "ai": {
                "failures": [
                    {"match": "cat:a", "do": "permanent", "message": "PERMISSION_DENIED: no"},
                    {"match": "grass:b", "times": 2, "do": "retryable"},
                    {"rate": 0.3, "do": "retryable"},
                ]
            }
        }
    )
    lab.run("CREATE OR REPLACE TABLE D.written (uri STRING, embedding ARRAY<FLOAT64>, status STRING)")
    merge = (
        "MERGE D.written T USING (SELECT uri, embedding, status FROM AI.GENERATE_EMBEDDING(MODEL D.mm, "
        "(SELECT * FROM D.images WHERE uri NOT IN (SELECT uri FROM D.written)), STRUCT(128 AS output_dimensionality)) "
        f"WHERE status NOT LIKE '{RETRYABLE}%') S ON T.uri = S.uri "
        "WHEN NOT MATCHED THEN INSERT (uri, embedding, status) VALUES (S.uri, S.embedding, S.status)"
    )
    row_counts: list[int] = []
    while not row_counts or row_counts[-1] < 2 * len(photos()):
        lab.run(merge)
        row_counts.append(lab.run("SELECT COUNT(*) AS n FROM D.written")[0]["n"])
        assert len(row_counts) < 12
    assert row_counts[0] < 2 * len(photos())
    assert len(row_counts) >= 3
    counted = lab.cloud.counters()["bigquery"]["ai"]
    assert set(counted["answered_per_key"].values()) == {1}
    assert counted["answered"] == 2 * len(photos()) - 1
    assert counted["permanent"] == 1
    assert counted["retryable"] == counted["rows"] - 2 * len(photos())
    assert counted["calls_per_key"][lab.uri("obs/o1:grass:b.jpg")] >= 3
    (failed,) = lab.run("SELECT status FROM D.written WHERE status != ''")
    assert failed["status"] == "PERMISSION_DENIED: no"


def test_setting_the_same_faults_resets_their_counts(lab: Lab) -> None:
    for _ in range(2):
        lab.cloud.faults(bigquery={"ai": {"failures": [{"match": "cat:a", "times": 1, "do": "retryable"}]}})
        statuses = [lab.embed("uri LIKE '%cat:a%'")[0]["status"] for _ in range(2)]
        assert statuses == [f"{RETRYABLE} RESOURCE EXHAUSTED error from multimodalembedding@001", ""]


def test_rows_above_the_quota_of_a_job_are_retryable(lab: Lab) -> None:
    lab.cloud.faults(bigquery={"ai": {"rows_per_job": 5}})
    statuses = [row["status"] for row in lab.embed()]
    assert statuses.count("") == 5
    assert set(statuses) == {"", f"{RETRYABLE} the maximum size quota per query has reached"}


def test_rejects_jobs_above_the_concurrency_quota(lab: Lab) -> None:
    lab.cloud.faults(bigquery={"ai": {"concurrent_jobs": 0}})
    with pytest.raises(Forbidden, match="concurrent queries"):
        lab.embed()
    lab.cloud.faults(bigquery={})
    with ThreadPoolExecutor(5) as threads:
        assert [len(rows) for rows in threads.map(lambda _: lab.embed(), range(5))] == [2 * len(photos())] * 5
    assert lab.cloud.counters()["bigquery"]["ai"]["max_running_jobs"] <= 5


@pytest.mark.parametrize(
    "ai",
    [
        {"failure": []},
        {"failures": [{"do": "explode"}]},
        {"failures": [{"do": "permanent", "rate": 2}]},
        {"failures": [{"do": "permanent", "share": 0.1}]},
        {"rows_per_job": "x"},
        [],
    ],
)
def test_rejects_invalid_fault(cloud: LocalCloud, ai: Any) -> None:
    with pytest.raises(ValueError, match="bigquery"):
        cloud.faults(bigquery={"ai": ai})


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 0.6))
def test_random_failures_have_their_rate_and_ignore_row_order(seed: int, rate: float) -> None:
    keys = [f"gs://b/{number}" for number in range(400)]

    def failing(order: list[str]) -> set[str]:
        config = FaultConfig()
        config.update({"bigquery": {"ai": {"failures": [{"rate": rate, "do": "retryable"}]}}})
        faults = AiFaults(config, seed, Counters())
        return {key for key in order if faults.failure("c", key, "e")}

    first = failing(keys)
    assert first == failing(keys[::-1])
    assert abs(len(first) / 400 - rate) < 0.15


# Search


@pytest.fixture(scope="module")
def vectors(lab: Lab) -> Lab:
    lab.cloud.reset()
    lab.run("CREATE OR REPLACE TABLE D.vectors AS SELECT uri, embedding FROM AI.GENERATE_EMBEDDING(MODEL D.mm, "
            "TABLE D.images, STRUCT(256 AS output_dimensionality))")  # fmt: skip
    return lab


def test_nearest_neighbor_is_the_other_view_of_the_photo(vectors: Lab) -> None:
    rows = vectors.run(
        "SELECT query.uri AS own, base.uri AS near, distance FROM VECTOR_SEARCH(TABLE D.vectors, 'embedding', "
        "(SELECT uri, embedding FROM D.vectors), top_k => 2, distance_type => 'COSINE') ORDER BY own, distance"
    )
    assert len(rows) == 2 * 2 * len(photos())
    for same, other in zip(rows[::2], rows[1::2], strict=True):
        assert same["near"] == same["own"]
        assert same["distance"] == pytest.approx(0, abs=1e-9)
        assert other["near"].split(":")[2] == other["own"].split(":")[2]


@pytest.mark.parametrize("kind", ["COSINE", "EUCLIDEAN", "DOT_PRODUCT"])
def test_search_matches_numpy(vectors: Lab, kind: str) -> None:
    rows = vectors.run("SELECT uri, embedding FROM D.vectors")
    (query,) = vectors.run("SELECT embedding FROM AI.GENERATE_EMBEDDING(MODEL D.mm, (SELECT 'red' AS content), "
                           "STRUCT(256 AS output_dimensionality))")  # fmt: skip
    matrix, vector = np.array([row["embedding"] for row in rows]), np.array(query["embedding"])
    distances = {
        "COSINE": 1 - matrix @ vector,
        "EUCLIDEAN": np.linalg.norm(matrix - vector, axis=1),
        "DOT_PRODUCT": -(matrix @ vector),
    }[kind]
    expected = [rows[index]["uri"] for index in np.argsort(distances)[:7]]
    found = vectors.run(
        "SELECT base.uri AS uri, distance FROM VECTOR_SEARCH((SELECT * FROM D.vectors WHERE uri IS NOT NULL), "
        "'embedding', (SELECT content, embedding AS v FROM AI.GENERATE_EMBEDDING("
        "MODEL D.mm, (SELECT 'red' AS content), STRUCT(256 AS output_dimensionality))), "
        f"query_column_to_search => 'v', top_k => 7, distance_type => '{kind}', "
        """options => '{"fraction_lists_to_search": 0.05}') ORDER BY distance"""
    )
    assert [row["uri"] for row in found] == expected
    assert [row["distance"] for row in found] == pytest.approx(sorted(distances)[:7])


def test_zero_vector_is_last_and_has_no_distance(lab: Lab) -> None:
    rows = lab.run(
        "SELECT base.id AS id, distance FROM VECTOR_SEARCH((SELECT 1 AS id, [0.0, 0.0] AS v UNION ALL "
        "SELECT 2, [-1.0, 0.0] UNION ALL SELECT 3, [1.0, 1.0]), 'v', (SELECT [1.0, 0.0] AS v), "
        "top_k => 3, distance_type => 'COSINE') ORDER BY distance IS NULL, distance"
    )
    assert [row["id"] for row in rows] == [3, 2, 1]
    assert rows[1]["distance"] == pytest.approx(2)
    assert rows[2]["distance"] is None


def test_searches_hundreds_of_long_vectors_in_little_memory(lab: Lab) -> None:
    schema = [bigquery.SchemaField("id", "INTEGER"), bigquery.SchemaField("v", "FLOAT64", mode="REPEATED")]
    matrix = np.random.default_rng(0).standard_normal((300, 3072))
    rows = [{"id": index, "v": row.tolist()} for index, row in enumerate(matrix)]
    config = bigquery.LoadJobConfig(schema=schema)
    lab.client.load_table_from_json(rows, f"{lab.dataset}.long", job_config=config).result()
    found = lab.run(
        "SELECT query.id AS own, base.id AS near FROM VECTOR_SEARCH(TABLE D.long, 'v', (SELECT * FROM D.long), "
        "top_k => 2, distance_type => 'COSINE') WHERE query.id != base.id ORDER BY own"
    )
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    likeness = matrix @ matrix.T
    np.fill_diagonal(likeness, -1)
    assert [row["near"] for row in found] == likeness.argmax(axis=1).tolist()


def test_search_defaults_to_ten_rows_by_euclidean_distance(vectors: Lab) -> None:
    rows = vectors.run("SELECT distance FROM VECTOR_SEARCH(TABLE D.vectors, 'embedding', (SELECT embedding FROM "
                       "D.vectors WHERE uri = @uri)) ORDER BY 1", uri=vectors.uri("obs/o1:cat:a.jpg"))  # fmt: skip
    assert len(rows) == 10
    assert rows[0]["distance"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'embedding', (SELECT [1.0, 2.0] AS embedding)", "lengths"),
        ("'embedding', (SELECT embedding FROM D.vectors), top_k => 0", "top_k"),
        ("'embedding', (SELECT embedding FROM D.vectors), distance_type => 'MANHATTAN'", "MANHATTAN"),
        ("'embedding', (SELECT embedding FROM D.vectors), options => '{\"lists\": 1}'", "lists"),
        ("'embedding', (SELECT embedding FROM D.vectors), options => '{\"fraction_lists_to_search\": 2}'", "fraction"),
        ("'embedding', (SELECT uri AS a, embedding AS b FROM D.vectors)", "query_column_to_search"),
        ("'nothing', (SELECT embedding FROM D.vectors)", "nothing"),
    ],
)
def test_rejects_invalid_search(vectors: Lab, arguments: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        vectors.run(f"SELECT * FROM VECTOR_SEARCH(TABLE D.vectors, {arguments})")


def test_creates_lists_and_drops_vector_index(vectors: Lab) -> None:
    create = (
        "CREATE VECTOR INDEX {} ON D.vectors(embedding) STORING (uri) "
        "OPTIONS (index_type = '{}', distance_type = 'COSINE')"
    )
    vectors.run(create.format("ix", "IVF"))
    with pytest.raises(Conflict):
        vectors.run(create.format("ix", "IVF"))
    vectors.run(create.replace("INDEX {}", "INDEX IF NOT EXISTS {}").format("ix", "IVF"))
    vectors.run(create.replace("CREATE", "CREATE OR REPLACE").format("ix", "TREE_AH"))
    with pytest.raises(BadRequest, match="already"):
        vectors.run(create.format("iy", "IVF"))
    listed = vectors.run("SELECT index_name, table_name, coverage_percentage FROM D.INFORMATION_SCHEMA.VECTOR_INDEXES")
    assert listed == [{"index_name": "ix", "table_name": "vectors", "coverage_percentage": 100}]
    vectors.run("DROP VECTOR INDEX ix ON D.vectors")
    vectors.run("DROP VECTOR INDEX IF EXISTS ix ON D.vectors")
    assert vectors.run("SELECT * FROM D.INFORMATION_SCHEMA.VECTOR_INDEXES") == []


@pytest.mark.parametrize(
    ("rows", "column", "options", "message"),
    [
        (
            "SELECT 'a' AS uri, [1.0] AS e UNION ALL SELECT 'b', [1.0, 2.0]",
            "e",
            "index_type = 'IVF'",
            "several lengths",
        ),
        ("SELECT 'a' AS uri, CAST([] AS ARRAY<FLOAT64>) AS e", "e", "index_type = 'IVF'", "empty"),
        ("SELECT 'a' AS uri, [1] AS e", "e", "index_type = 'IVF'", "ARRAY<FLOAT64>"),
        ("SELECT 'a' AS uri, [1.0] AS e", "f", "index_type = 'IVF'", "not found"),
        ("SELECT 'a' AS uri, [1.0] AS e", "e", "index_type = 'HNSW'", "IVF"),
    ],
)
def test_rejects_invalid_vector_index(lab: Lab, rows: str, column: str, options: str, message: str) -> None:
    lab.run(f"CREATE OR REPLACE TABLE D.unfit AS {rows}")
    with pytest.raises(BadRequest, match=message):
        lab.run(f"CREATE VECTOR INDEX ix ON D.unfit({column}) OPTIONS ({options})")


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE MODEL d.m REMOTE WITH CONNECTION DEFAULT OPTIONS (ENDPOINT = 'x'",
        "CREATE MODEL d.m REMOTE WITH CONNECTION DEFAULT OPTIONS (ENDPOINT 'x')",
        "CREATE VECTOR INDEX i ON",
        "DROP MODEL d.m d.n",
        "CREATE CONNECTION `us.c` OPTIONS (",
    ],
)
def test_truncated_or_invalid_ddl_is_a_syntax_error(sql: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_resource_ddl(sql)
    assert caught.value.code == 400
    assert "Syntax error" in caught.value.message


@given(st.text(max_size=60))
def test_ddl_parser_accepts_any_text(text: str) -> None:
    for sql in (text, f"CREATE MODEL {text}", f"DROP VECTOR INDEX {text}", f"CALL {text}"):
        with contextlib.suppress(ApiError):  # the only allowed error
            parse_resource_ddl(sql)

"""Batch jobs of gemini-embedding-2 in the local Vertex AI, through the unchanged google-genai client."""

import math
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from google.genai import errors
from support.batch_local import Bench
from support.vertex_local import Place, file_part, gemini, open_place

from imagebeam.emulators.batch.data.importer import JobImportError, import_lines
from imagebeam.emulators.batch.faults import MAX_EMBEDDING_LINES, BatchFaults, Limits
from imagebeam.emulators.batch.requests import max_lines
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.vertex.embedding_models import MODELS
from imagebeam.emulators.vertex.models import MODELS as GENERATING

MODEL = "gemini-embedding-2"


@pytest.fixture(scope="module")
def place(cloud: LocalCloud) -> Iterator[Place]:
    opened = open_place(cloud, "batch-vectors")
    yield opened
    shutil.rmtree(cloud.directory / "storage" / opened.bucket)


@pytest.fixture
def bench(cloud: LocalCloud, place: Place) -> Iterator[Bench]:
    with gemini(cloud) as client:
        yield Bench(place, client)


def line_of(key: str, uri: str, dimension: int = 8, **config: Any) -> dict[str, Any]:
    settings = {"output_dimensionality": dimension, **config}
    return {"key": key, "request": {"content": {"parts": [file_part(uri)]}, "embed_content_config": settings}}


def online(place: Place, uri: str, dimension: int = 8) -> list[float]:
    body = {"content": {"parts": [file_part(uri)]}, "embedContentConfig": {"outputDimensionality": dimension}}
    answer = place.post(body, method="embedContent", model=MODEL).json()
    values: list[float] = answer["embedding"]["values"]
    return values


@pytest.mark.parametrize("location", ["global", "us", "eu"])
def test_job_returns_the_vectors_of_the_online_service(cloud: LocalCloud, place: Place, location: str) -> None:
    with gemini(cloud, location) as client:
        bench = Bench(place, client, location)
        uris = bench.pictures(3)
        job = bench.run(f"shape-{location}", [line_of(f"k-{n}", uri, 16) for n, uri in enumerate(uris)], model=MODEL)
        assert job["state"] == "JOB_STATE_SUCCEEDED"
        assert job["completionStats"] == {"successfulCount": "3", "failedCount": "0", "incompleteCount": "0"}
        lines = {line["key"]: line for line in bench.output(job)}
    for number, uri in enumerate(uris):
        line = lines[f"k-{number}"]
        assert set(line) == {"key", "request", "response"}
        assert line["request"]["content"]["parts"][0]["fileData"]["fileUri"] == uri
        values = online(place, uri, 16)
        assert line["response"] == {"tokenCount": "258", "embedding": {"values": values}}
        assert (len(values), math.isclose(math.hypot(*values), 1.0)) == (16, True)


def test_failed_row_has_a_status_and_others_are_answered(bench: Bench) -> None:
    good = bench.place.put("rows/good.jpg")
    bad = bench.place.put("rows/bad.jpg", b"\xff\xd8\xff\xe0 this is no photograph")
    lines = [line_of("k-1", good), line_of("k-2", f"gs://{bench.place.bucket}/none.jpg"), line_of("k-3", bad)]
    lines.append({"key": "k-4", "request": {"content": {"parts": [file_part(good)] * 7}}})
    lines.append(line_of("k-5", good, 4000))
    found = {line["key"]: line for line in bench.output(bench.run("trouble", lines, model=MODEL))}
    assert found["k-1"]["response"]["embedding"]["values"]
    for key, phrase in (("k-2", "Not Found"), ("k-3", "Bad Request"), ("k-4", "Bad Request"), ("k-5", "Bad Request")):
        assert found[key]["status"].startswith(f'{phrase}: {{"error": '), key
        assert not found[key]["response"]


def test_ignored_settings_change_nothing(bench: Bench) -> None:
    uri = bench.pictures(1)[0]
    lines = [line_of("k-1", uri), line_of("k-2", uri, task_type="CLUSTERING", title="a pole")]
    first, second = bench.output(bench.run("ignored", lines, model=MODEL))
    assert first["response"] == second["response"]


def test_batch_faults_apply_to_embedding_models(cloud: LocalCloud, bench: Bench) -> None:
    uris = bench.pictures(30)
    cloud.faults(batch={"jobs": [{"failed": 0.2, "failed_codes": [503], "missing": 0.2, "duplicated": 0.2}]})
    output = bench.output(bench.run("faulty", [line_of(f"k-{n}", uri) for n, uri in enumerate(uris)], model=MODEL))
    keys = [line["key"] for line in output]
    assert len(set(keys)) < 30, "some are missing"
    assert len(keys) > len(set(keys)), "some are there twice"
    assert keys != sorted(keys, key=lambda key: int(key[2:])), "they are shuffled"
    assert any(line.get("status", "").startswith("Service Unavailable") for line in output)


def test_synthetic_job_returns_vectors_without_reading_images(cloud: LocalCloud, bench: Bench) -> None:
    cloud.faults(batch={"synthetic": True})
    lines = [line_of(f"k-{n:03d}", f"gs://nowhere/{n}.jpg", 64) for n in range(50)]
    job = bench.run("rehearsal", lines, model=MODEL)
    found = [tuple(line["response"]["embedding"]["values"]) for line in bench.output(job)]
    assert len(set(found)) == 50
    assert all(math.isclose(math.hypot(*values), 1.0) and len(values) == 64 for values in found)
    again = bench.output(bench.run("rehearsal-2", lines, model=MODEL))
    assert {tuple(line["response"]["embedding"]["values"]) for line in again} == set(found)


@pytest.mark.parametrize(
    ("source", "dest"),
    [("bq://{project}.lane.requests", "gs://{bucket}/out"), ("gs://{bucket}/in.jsonl", "bq://{project}.lane.results")],
)
def test_rejects_tables(cloud: LocalCloud, bench: Bench, source: str, dest: str) -> None:
    names = {"project": cloud.project, "bucket": bench.place.bucket}
    with pytest.raises(errors.ClientError, match="BigQuery tables are not supported for Gemini embedding models"):
        bench.create("tables", source.format(**names), dest.format(**names), MODEL)


@pytest.mark.parametrize(
    ("model", "location", "code"),
    [(MODEL, "us-central1", 404), ("multimodalembedding@001", "us-central1", 400), ("gemini-embedding-3", "us", 404)],
)
def test_rejects_model_without_batch_in_the_location(
    cloud: LocalCloud, place: Place, model: str, location: str, code: int
) -> None:
    with gemini(cloud, location) as client, pytest.raises(errors.ClientError) as caught:
        Bench(place, client, location).submit("elsewhere", [line_of("k-1", "gs://b/1.jpg")], model=model)
    assert caught.value.code == code


def test_embedding_job_accepts_at_most_a_million_rows() -> None:
    limits = BatchFaults(FaultConfig()).limits(max_lines(MODELS[MODEL]))
    assert limits == Limits(lines=MAX_EMBEDDING_LINES) == Limits(lines=1_000_000)
    assert max_lines(GENERATING["gemini-3.5-flash"]) == 200_000
    line = b'{"key":"k-1","request":{"content":{"parts":[{"text":"a"}]}}}\n'
    with pytest.raises(JobImportError, match="more than 1000000 requests"):
        import_lines((line for _ in range(1_000_001)), limits)


def test_job_above_the_configured_row_limit_fails(cloud: LocalCloud, bench: Bench) -> None:
    cloud.faults(batch={"limits": {"lines": 2}})
    job = bench.run("many", [line_of(f"k-{n}", "gs://b/1.jpg") for n in range(3)], model=MODEL)
    assert job["state"] == "JOB_STATE_FAILED"
    assert "The input has more than 2 requests." in job["error"]["message"]

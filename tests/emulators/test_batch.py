"""Batch jobs of the local Vertex AI, through the unchanged google-genai client."""

import json
import re
import shutil
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from google.cloud import bigquery
from google.cloud.aiplatform_v1.services.job_service import JobServiceClient
from google.cloud.aiplatform_v1.services.job_service.transports.rest import JobServiceRestTransport
from google.genai import errors, types
from google.oauth2.credentials import Credentials
from pydantic import ValidationError
from support.batch_local import Bench, jsonl, line_of, request_of
from support.vertex_local import MODEL, Place, file_part, gemini, open_place, picture, user

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.gemini.batch_responses import parse_line
from imagebeam.transforms.gemini.job_states import parse_job

OLD_MODEL = "gemini-2.5-flash"
REGION = "us-central1"


@pytest.fixture(scope="module")
def place(cloud: LocalCloud) -> Iterator[Place]:
    opened = open_place(cloud, "batch-lane")
    yield opened
    shutil.rmtree(cloud.directory / "storage" / opened.bucket)


@pytest.fixture
def bench(cloud: LocalCloud, place: Place) -> Iterator[Bench]:
    with gemini(cloud) as client:
        yield Bench(place, client)


@pytest.fixture
def regional(cloud: LocalCloud, place: Place) -> Iterator[Bench]:
    with gemini(cloud, REGION) as client:
        yield Bench(place, client, REGION)


@pytest.fixture
def tables(cloud: LocalCloud) -> Iterator[bigquery.Client]:
    client = bigquery.Client(project=cloud.project)
    for name, location in (("lane", REGION), ("wide", "US")):
        dataset = bigquery.Dataset(f"{cloud.project}.{name}")
        dataset.location = location
        client.create_dataset(dataset)
    yield client
    for name in ("lane", "wide"):
        client.delete_dataset(name, delete_contents=True)


def text_of(response: dict[str, Any]) -> str:
    return str(response["candidates"][0]["content"]["parts"][0]["text"])


def test_job_passes_its_states_and_answers_like_online(bench: Bench) -> None:
    uris = bench.pictures(3)
    uris.append(bench.place.put("pictures/small.jpg", picture(size=(64, 48))))
    name = bench.submit("run-1-000", [line_of(f"k-{number}", uri) for number, uri in enumerate(uris)])
    assert re.fullmatch(r"projects/\d+/locations/global/batchPredictionJobs/\d+", name)
    job = bench.wait(name)
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    assert job["completionStats"] == {"successfulCount": "4", "failedCount": "0", "incompleteCount": "0"}
    assert job["outputInfo"]["gcsOutputDirectory"] == (
        f"gs://batch-lane/out/run-1-000/prediction-model-{job['createTime']}"
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", job["createTime"])
    assert job["createTime"] <= job["startTime"] <= job["endTime"]
    batch = {line["custom_id"]: line for line in bench.output(job)}
    for number, uri in enumerate(uris):
        online = bench.place.post(request_of(uri)).json()
        line = batch[f"k-{number}"]
        assert line["status"] == ""
        assert text_of(line["response"]) == text_of(online)
        assert line["response"]["usageMetadata"] == online["usageMetadata"]


def test_client_gets_lists_and_deletes_jobs(bench: Bench) -> None:
    uri = bench.pictures(1)[0]
    bench.run("run-2-000", [line_of("k-1", uri)])
    done = bench.run("run-2-001", [line_of("k-1", uri)])
    bench.run("other", [line_of("k-1", uri)])
    job = bench.client.batches.get(name=done["name"])
    assert job.state == types.JobState.JOB_STATE_SUCCEEDED
    assert job.done
    assert job.dest
    assert job.dest.gcs_uri == "gs://batch-lane/out/run-2-001"
    assert job.completion_stats
    assert job.completion_stats.successful_count == 1

    def listed(text: str, size: int = 1) -> list[str | None]:
        config = types.ListBatchJobsConfig(filter=text, page_size=size)
        return [job.display_name for job in bench.client.batches.list(config=config)]

    assert listed("") == ["other", "run-2-001", "run-2-000"]
    assert listed('displayName="run-2-001"') == ["run-2-001"]
    assert listed('displayName!="run-2-001"') == ["other", "run-2-000"]
    assert listed('displayName:"run-2-*"') == ["run-2-001", "run-2-000"]
    assert listed('display_name:"run-2-*" AND state="JOB_STATE_FAILED"') == []
    assert bench.client.batches.delete(name=done["name"]).done
    assert listed("", 50) == ["other", "run-2-000"]
    with pytest.raises(errors.ClientError) as caught:
        bench.client.batches.get(name=done["name"])
    assert caught.value.code == 404


def test_aiplatform_client_reads_a_job(cloud: LocalCloud, bench: Bench) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "WORN_OUT"}
    cloud.faults(batch={"jobs": [{"end": "FAILED", "error": {"code": 13, "message": "Broken.", "details": [detail]}}]})
    job = bench.run("run-3", [line_of("k-1", bench.pictures(1)[0])])
    assert parse_job(job).error == "code 13: Broken.; " + json.dumps(detail, separators=(",", ":"))
    with pytest.raises(ValidationError):
        bench.client.batches.get(name=job["name"])
    transport = JobServiceRestTransport(
        host=cloud.url.removeprefix("http://"), url_scheme="http", credentials=Credentials(token=bench.place.token)
    )
    found = JobServiceClient(transport=transport).get_batch_prediction_job(name=job["name"])
    assert (found.state.name, found.error.message) == ("JOB_STATE_FAILED", "Broken.")


def test_echoed_request_has_nulls_for_missing_fields_and_sorted_keys(bench: Bench) -> None:
    job = bench.run("echo", [line_of(f"k-{number}", uri) for number, uri in enumerate(bench.pictures(2))])
    raw = bench.raw(job).splitlines()[0]
    line = json.loads(raw)
    assert list(line) == ["custom_id", "status", "processed_time", "request", "response"]
    assert list(line["request"]) == ["contents", "generationConfig"]
    first, second = line["request"]["contents"][0]["parts"]
    assert first["text"] is None
    assert second["fileData"] is None
    found = parse_line(raw)
    assert found.key == line["custom_id"]
    assert found.uris == (first["fileData"]["fileUri"],)
    assert found.answered_at


def test_failed_row_has_a_status_and_the_job_succeeds(cloud: LocalCloud, bench: Bench) -> None:
    good = bench.pictures(1)[0]
    broken = bench.place.put("pictures/broken.jpg", b"no image")
    cloud.faults(vertex={"rules": [{"match": "night", "do": "blocked"}, {"match": "busy", "do": "http", "code": 503}]})
    lines = [
        line_of("k-good", good),
        line_of("k-gone", "gs://batch-lane/pictures/gone.jpg"),
        line_of("k-broken", broken),
        line_of("k-night", bench.place.put("pictures/night.jpg")),
        line_of("k-busy", bench.place.put("pictures/busy.jpg")),
        {"custom_id": "k-role", "request": {"contents": [{"role": "tester", "parts": [{"text": "x"}]}]}},
    ]
    job = bench.run("failures", lines)
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    assert job["completionStats"] == {"successfulCount": "2", "failedCount": "4", "incompleteCount": "0"}
    found = {line["custom_id"]: line for line in bench.output(job)}
    assert found["k-role"]["response"] == {}
    assert found["k-role"]["status"] == (
        'Bad Request: {"error": {"code": 400, "message": "Please use a valid role: user, model.", '
        '"status": "INVALID_ARGUMENT"}}'
    )
    assert found["k-gone"]["status"].startswith('Not Found: {"error": {"code": 404, "message": "Input file not found')
    assert found["k-broken"]["status"].startswith('Bad Request: {"error": {"code": 400, "message": "Unable to process')
    assert found["k-busy"]["status"].startswith('Service Unavailable: {"error": {"code": 503')
    assert found["k-night"]["status"] == ""
    assert found["k-night"]["response"]["promptFeedback"]["blockReason"] == "SAFETY"
    assert "candidates" not in found["k-night"]["response"]


def test_output_file_as_input_processes_unanswered_rows(cloud: LocalCloud, bench: Bench) -> None:
    lines = [line_of(f"k-{number}", uri) for number, uri in enumerate(bench.pictures(4))]
    cloud.faults(batch={"jobs": [{"match": "first", "failed": 0.5}]})
    first = bench.run("first", lines)
    failed = int(first["completionStats"]["failedCount"])
    assert 0 < failed < 4
    second = bench.run("second", bench.raw(first))
    assert second["completionStats"]["successfulCount"] == "4"
    before = {line["custom_id"]: line for line in bench.output(first)}
    after = {line["custom_id"]: line for line in bench.output(second)}
    assert all(after[key] == line for key, line in before.items() if not line["status"])
    counted = cloud.counters()["batch"]
    assert counted["paid_per_name"] == {"first": 4 - failed, "second": failed}
    assert counted["paid_uris"] == {"distinct": 4, "repeated": 0}
    assert set(counted["paid_per_uri"].values()) == {1}


# Tables


def fill(tables: bigquery.Client, name: str, rows: list[dict[str, Any]], kind: str = "JSON") -> str:
    schema = [bigquery.SchemaField("unit_id", "STRING"), bigquery.SchemaField("request", kind)]
    schema += [bigquery.SchemaField("taken", "TIMESTAMP"), bigquery.SchemaField("cost", "NUMERIC")]
    config = bigquery.LoadJobConfig(schema=schema)
    tables.load_table_from_json(rows, f"{tables.project}.{name}", job_config=config).result()
    return f"bq://{tables.project}.{name}"


def row_of(number: int, uri: str, *, text: bool = False) -> dict[str, Any]:
    request: Any = request_of(uri)
    taken = f"2025-01-0{number + 1}T00:00:00Z"
    return {"unit_id": f"u{number}", "request": json.dumps(request) if text else request, "taken": taken, "cost": 0.25}


@pytest.mark.parametrize("kind", ["JSON", "STRING"])
def test_table_to_table_keeps_all_columns(regional: Bench, tables: bigquery.Client, kind: str) -> None:
    uris = [*regional.pictures(2), "gs://batch-lane/pictures/gone.jpg"]
    rows = [row_of(number, uri, text=kind == "STRING") for number, uri in enumerate(uris)]
    source = fill(tables, "lane.asked", rows, kind)
    dest = f"bq://{tables.project}.lane.answers"
    job = regional.wait(regional.create("table", source, dest, OLD_MODEL))
    assert job["completionStats"] == {"successfulCount": "2", "failedCount": "1", "incompleteCount": "0"}
    assert job["outputInfo"]["bigqueryOutputTable"] == dest
    answers = {row["unit_id"]: row for row in tables.list_rows(f"{tables.project}.lane.answers")}
    assert len(answers) == 3
    assert answers["u1"]["taken"].day == 2
    assert answers["u1"]["cost"] == Decimal("0.25")
    for number, uri in enumerate(uris[:2]):
        online = regional.place.post(request_of(uri), model=OLD_MODEL, location=REGION).json()
        response = answers[f"u{number}"]["response"]
        assert text_of(response if isinstance(response, dict) else json.loads(response)) == text_of(online)
        assert answers[f"u{number}"]["status"] == ""
    assert answers["u2"]["response"] is None
    assert answers["u2"]["status"].startswith("Not Found: ")
    again = regional.wait(regional.create("again", dest, f"bq://{tables.project}.lane.more", OLD_MODEL))
    assert again["completionStats"] == {"successfulCount": "2", "failedCount": "1", "incompleteCount": "0"}
    counted = regional.place.cloud.counters()["batch"]
    assert counted["paid_uris"] == {"distinct": 2, "repeated": 0}


def test_file_to_table_and_table_to_file(regional: Bench, tables: bigquery.Client) -> None:
    uri = regional.pictures(1)[0]
    dest = f"bq://{tables.project}.lane.mixed"
    job = regional.run("mixed", [line_of("k-1", uri, number=7)], model=OLD_MODEL, dest=dest)
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    (row,) = tables.list_rows(f"{tables.project}.lane.mixed")
    assert (row["custom_id"], row["number"], row["status"]) == ("k-1", 7, "")
    source = fill(tables, "lane.asked", [row_of(0, uri)])
    job = regional.wait(regional.create("back", source, "gs://batch-lane/out/back", OLD_MODEL))
    (line,) = regional.output(job)
    assert (line["unit_id"], line["status"], line["cost"]) == ("u0", "", "0.250000000")
    assert line["request"] == request_of(uri)


def test_tuned_model_is_served_in_its_region_only(bench: Bench, regional: Bench) -> None:
    lines = [line_of("k-1", bench.pictures(1)[0])]
    for number in ("8150", "8150@1", "8151@default"):
        name = f"projects/1/locations/{REGION}/models/{number}"
        job = regional.run(f"tuned-{number}", lines, model=name)
        assert (job["state"], job["model"]) == ("JOB_STATE_SUCCEEDED", name)
    with pytest.raises(errors.ClientError, match="not supported in batch prediction at global"):
        bench.submit("tuned", lines, model="projects/1/locations/global/models/8150")


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("endpoints/4711", 400, "is not of the form publishers/google/models/NAME or projects/P/locations/L/models/ID"),
        ("models/9999", 404, "The Model `projects/1/locations/us-central1/models/9999` is not found"),
        ("models/8150@7", 404, "is not found"),
    ],
)
def test_job_takes_tuned_models_and_no_endpoints(regional: Bench, model: str, code: int, message: str) -> None:
    with pytest.raises(errors.ClientError, match=re.escape(message)) as caught:
        regional.submit("tuned", [], model=f"projects/1/locations/{REGION}/{model}")
    assert caught.value.code == code


# What is refused


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("wide.asked", "does not support BigQuery tables in a multi-region"),
        ("nowhere.asked", "Not found: Dataset"),
    ],
)
def test_rejects_table_in_another_location(regional: Bench, tables: bigquery.Client, table: str, said: str) -> None:
    with pytest.raises(errors.ClientError, match=said):
        regional.create("far", f"bq://{tables.project}.{table}", "gs://batch-lane/out/far", OLD_MODEL)


def test_global_location_rejects_tables(bench: Bench) -> None:
    with pytest.raises(errors.ClientError, match="do not support the global endpoint"):
        bench.create("far", "bq://p.d.t", "gs://batch-lane/out/far")


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"displayName": None}, 400, "display_name"),
        ({"model": "publishers/google/models/gemini-9"}, 404, "was not found"),
        ({"model": "gemini"}, 400, "is not of the form publishers"),
        (
            {"inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["gs://b/1", "gs://b/2"]}}},
            400,
            "exactly one",
        ),
        ({"inputConfig": {"instancesFormat": "csv"}}, 400, "Unsupported input"),
        ({"outputConfig": {"predictionsFormat": "jsonl"}}, 400, "Unsupported output"),
        ({"outputConfig": None}, 400, "output_config"),
        ({"serviceAccount": "me@example.com"}, 400, "not supported for Gemini"),
        ({"colour": "red"}, 400, "Unknown name"),
    ],
)
def test_rejects_invalid_job(bench: Bench, change: dict[str, Any], code: int, said: str) -> None:
    body = {
        "displayName": "bad",
        "model": f"publishers/google/models/{MODEL}",
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": "gs://batch-lane/in/x.jsonl"}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": "gs://batch-lane/out"}},
    }
    answer = bench.call("POST", json=body | change)
    assert (answer.status_code, said in answer.text) == (code, True), answer.text
    assert bench.place.cloud.batch_jobs() == []


def test_rejects_call_without_token(cloud: LocalCloud, bench: Bench) -> None:
    anonymous = Bench(Place(cloud, "batch-lane", "wrong"), bench.client)
    assert anonymous.call("GET").status_code == 401


GOOD = line_of("k-1", "gs://b/1.jpg")
TEXT = {"contents": user("x")}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"{not json\n", "line 1: unexpected character"),
        (b"[1]\n", "line 1: the line is not a JSON object"),
        (b"", "has no requests"),
        ([{"custom_id": "k"}], "no object request"),
        ([GOOD, {"custom_id": "k", "request": TEXT | {"tools": [{"url_context": {}}]}}], "empty object"),
        ([{"request": TEXT | {"safetySettings": []}}], "request.safetySettings: an empty array"),
        ([{"request": TEXT | {"generationConfig": {"responseSchema": {"type": "STRING", "enum": ["A", None]}}}}],
         "request.generationConfig.responseSchema.enum[1]: an array cannot have a null element"),
        ([{"request": TEXT | {"generationConfig": {"responseSchema": {"type": ["STRING", "NULL"]}}}}],
         "must be a boolean or an object"),
        ([GOOD, line_of("k-2", "gs://b/2.jpg") | {"custom_id": 2}], "line 2, field custom_id: it is integer here"),
        ([{"n": 1, "request": TEXT}, {"n": 1.5, "request": TEXT}], "it is float here and integer before"),
    ],
)  # fmt: skip
def test_input_that_cannot_be_imported_fails_the_job(bench: Bench, lines: Any, said: str) -> None:
    job = bench.run("import", lines)
    assert job["state"] == "JOB_STATE_FAILED"
    assert job["error"]["code"] == 3
    assert job["error"]["message"].startswith("Failed to import data. ")
    assert said in job["error"]["message"]
    assert "outputInfo" not in job
    assert "rows" not in bench.place.cloud.counters()["batch"]


def test_missing_or_too_large_input_fails_the_job(cloud: LocalCloud, bench: Bench) -> None:
    cloud.faults(batch={"limits": {"lines": 2, "bytes": 1000}})
    assert "more than 2 requests" in bench.run("long", jsonl({"request": TEXT} for _ in range(3)))["error"]["message"]
    assert "at most 1000 are supported" in bench.run("wide", b" " * 1001)["error"]["message"]
    missing = bench.wait(bench.create("missing", "gs://batch-lane/in/nothing.jsonl", "gs://batch-lane/out/x"))
    assert "Not found: gs://batch-lane/in/nothing.jsonl" in missing["error"]["message"]
    homeless = bench.run("homeless", [GOOD], dest="gs://no-such-bucket/out")
    assert (homeless["state"], homeless["error"]["code"]) == ("JOB_STATE_FAILED", 5)


def test_different_schemas_in_a_job_fail_its_rows(bench: Bench) -> None:
    """The union gives every schema the other's properties, as null: the reason for one structure per job."""
    uri = bench.pictures(1)[0]

    def line(key: str, name: str) -> dict[str, Any]:
        schema = {"type": "OBJECT", "properties": {name: {"type": "STRING"}}}
        config = {"responseMimeType": "application/json", "responseSchema": schema}
        return {"custom_id": key, "request": {"contents": user(file_part(uri), "?"), "generationConfig": config}}

    job = bench.run("spoilt", [line("k-1", "a"), line("k-2", "b")])
    assert job["completionStats"]["failedCount"] == "2"


def test_rejects_models_and_locations_without_batch(cloud: LocalCloud, place: Place) -> None:
    with gemini(cloud, "us") as client, pytest.raises(errors.ClientError, match="multi-region us"):
        Bench(place, client).submit("us", [GOOD])

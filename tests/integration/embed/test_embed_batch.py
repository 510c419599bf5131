"""``imagebeam embed --lane=batch``: the vectors of the online lane from batch jobs, each written once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
import orjson
import pydantic
import pytest
from google.cloud import bigquery
from hypothesis import given
from hypothesis import strategies as st
from support.batch_runs import QUICK, command, created, fault, paid, summary_of, work_dir
from support.jobs import Job, make_job, run_cli
from support.settings_lines import embed_settings

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.batch import state as batch_state
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.collect_batch import read_collected
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.images import SUPPORTED
from imagebeam.transforms.core.records import Image, Lane, Status, Unit, UnitKind, Usage
from imagebeam.transforms.engine.settings import CallSettings
from imagebeam.transforms.gemini.batch_requests import key_of, lint
from imagebeam.transforms.gemini.batch_responses import build_outcome, parse_answer, parse_line
from imagebeam.transforms.gemini.embeddings import build_embedding_request
from imagebeam.transforms.gemini.requests import ImagePart
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.sql.tables import TABLES
from imagebeam.transforms.tasks.catalog import load_models_file
from imagebeam.transforms.tasks.costs import cost_usd
from imagebeam.transforms.tasks.embedding import embed_task
from imagebeam.transforms.tasks.task import Task, parse_task

TASK = embed_task("gemini-embedding-2", 3)
PROFILE = load_models_file().embedding("gemini-embedding-2")
MULTIMODAL = ("--model=multimodalembedding@001", "--location=us-central1")
TABLE = "embeddings_gemini_embedding_2_8"


def arguments(job: Job, *more: str) -> list[str]:
    given = {flag.partition("=")[0] for flag in more}
    base = [
        *(() if "--query" in given else (f"--source={job.source}",)),
        f"--results={job.results}",
        f"--work_dir={work_dir(job)}",
        "--dimension=8",
        "--lane=batch",
        *(() if "--lane" in given else QUICK),
    ]
    return ["embed", *(flag for flag in base if flag.partition("=")[0] not in given), *more]


def embed(job: Job, *more: str) -> dict[str, Any]:
    """Run ``imagebeam embed`` in this process; give its summary with exit code and standard error."""
    code, out, err = run_cli(arguments(job, "--json", *more))
    assert out.strip().startswith("{"), f"exit code {code}: {err}"
    return {**json.loads(out), "exit_code": code, "err": err}


def vectors(job: Job, table: str = TABLE) -> dict[str, tuple[float, ...]]:
    """The vector of every unit; no unit has two."""
    rows = job.query(f"SELECT unit_id, vector FROM {{results}}.{table}")
    found = {row["unit_id"]: tuple(row["vector"]) for row in rows}
    assert len(found) == len(rows), "a vector landed twice"
    return found


def statuses(job: Job) -> dict[str, int]:
    rows = job.query("SELECT status, COUNT(*) AS n FROM {results}.outcomes GROUP BY status")
    return {row["status"]: row["n"] for row in rows}


# -- parsing-----------------------------------------------------------------------------------------------


@given(st.text(min_size=1), st.sampled_from(sorted(SUPPORTED)))
def test_a_batch_row_is_the_online_request_in_snake_case(uri: str, mime: str) -> None:
    unit = Unit("o1:a", UnitKind.OBSERVATION, "d" * 64, (Image("o1:a", uri),))
    key = key_of(unit.unit_id, unit.input_digest, TASK.version)
    line = task_kind(TASK).build_lines(PROFILE, {"imagebeam_run": "r"}).line(key, unit, [mime])
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    said = orjson.loads(line)
    assert (list(said), said["key"], list(lint(said))) == (["key", "request"], key, [])
    online = build_embedding_request(TASK, [ImagePart(mime, uri=uri)])
    assert said["request"]["content"]["parts"] == online["content"]["parts"]
    assert said["request"]["embed_content_config"] == {"output_dimensionality": 3}


def test_a_batch_row_matches_the_documentation_of_google() -> None:
    unit = Unit("o1", UnitKind.OBSERVATION, "d", (Image("o1", "gs://b/o1:a.jpg"),))
    assert task_kind(TASK).build_lines(PROFILE, {}).line("k-1", unit, ["image/jpeg"]) == (
        b'{"key":"k-1","request":{"content":{"parts":[{"fileData":{"mimeType":"image/jpeg","fileUri":"gs://b/o1:a.jpg"'
        b'}}]},"embed_content_config":{"output_dimensionality":3}}}\n'
    )


@pytest.mark.parametrize("images", [0, 2])
def test_a_batch_row_has_one_image(images: int) -> None:
    unit = Unit("o1", UnitKind.OBSERVATION, "d", (Image("o1", "gs://b/1.jpg"),) * images)
    with pytest.raises(ValueError, match="needs exactly one"):
        task_kind(TASK).build_lines(PROFILE, {}).line("k-1", unit, ["image/jpeg"] * images)


def line_of(response: Any, **more: Any) -> bytes:
    return orjson.dumps({"key": "k-1", "request": {}, "response": response, **more})


def test_parses_a_vector_at_half_the_price() -> None:
    result = parse_answer(parse_line(line_of({"tokenCount": "258", "embedding": {"values": [0.6, -0.8, 0]}})), TASK)
    assert (result.status, result.reason, result.value) == (Status.OK, None, {"dimension": 3})
    assert list(result.vector or ()) == [0.6, -0.8, 0.0]
    usage = Usage(prompt_tokens=258, images=1)
    unit = Unit("o1", UnitKind.OBSERVATION, "d", (Image("o1", "gs://b/1.jpg"),))
    outcome = build_outcome(unit, result, PROFILE, answered_at="2026-11-21T10:00:00Z")
    assert outcome.cost_usd is not None
    assert (outcome.usage, outcome.cost_usd * 2) == (usage, cost_usd(PROFILE, Lane.ONLINE, usage))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0, 2.0], "WRONG_LENGTH"),
        ([1.0, 2.0, "NaN"], "NOT_FINITE"),
        ([1.0, 2.0, None], "NOT_FINITE"),
        ([0, 0, 0.0], "ALL_ZERO"),
        ([], "EMPTY"),
        ("0.1", "EMPTY"),
    ],
)
def test_rejects_invalid_vectors_as_online(values: Any, reason: str) -> None:
    result = parse_answer(parse_line(line_of({"tokenCount": "258", "embedding": {"values": values}})), TASK)
    assert (result.status, result.reason, result.vector) == (Status.INVALID_ANSWER, reason, None)
    assert result.usage.prompt_tokens == 258, "it is billed all the same"


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ('Not Found: {"error": {"code": 404, "message": "gs://b/1.jpg does not exist."}}', "IMAGE_ERROR"),
        ('Service Unavailable: {"error": {"code": 503, "message": "Overloaded."}}', "UNAVAILABLE"),
        ("", "UNAVAILABLE"),
    ],
)
def test_a_failed_row_costs_nothing_and_has_a_reason(status: str, says: str) -> None:
    result = parse_answer(parse_line(line_of({}, status=status)), TASK)
    assert (result.status.value, result.vector, result.usage) == (says, None, Usage())


@pytest.mark.parametrize("response", [None, {}, {"tokenCount": None, "embedding": None}])
def test_retries_rows_that_the_job_did_not_process(response: Any) -> None:
    result = parse_answer(parse_line(line_of(response)), TASK)
    assert (result.status, result.reason, result.usage) == (Status.UNAVAILABLE, "NO_ANSWER", Usage())


def test_accepts_a_vector_with_an_unknown_status() -> None:
    row = parse_line(line_of({"embedding": {"values": [1, 0, 0]}}, status="Done"))
    assert parse_answer(row, TASK).status is Status.OK


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["values", "x"]), inner, max_size=2),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["embedding", "tokenCount", "usageMetadata"]), JSON), st.text(max_size=9))
def test_classifies_any_response_and_only_valid_vectors_are_ok(response: dict[str, Any], status: str) -> None:
    raw = json.dumps({"key": "k-1", "status": status, "response": response}).encode()
    result = parse_answer(parse_line(raw), TASK)
    assert (result.status is Status.OK) == (result.vector is not None)
    if result.vector is not None:
        assert len(result.vector) == 3
        assert all(map(math.isfinite, result.vector))
        assert any(result.vector)
    again = parse_answer(parse_line(parse_line(raw).without_echo()), TASK)
    assert again == result


QUESTION = parse_task("name: look\nprompt: What is it?\n", source="look.yaml", default_model="gemini-3.5-flash-lite")


@pytest.mark.parametrize("task", [TASK, QUESTION], ids=["vector", "question"])
def test_stores_and_loads_tasks_of_each_kind(task: Task) -> None:
    call_settings = pydantic.TypeAdapter(CallSettings)
    kept = call_settings.validate_json(call_settings.dump_json(CallSettings("p", "global", task, PROFILE))).task
    assert (type(kept), kept, kept.version) == (type(task), task, task.version)


# -- failures ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_writes_every_vector_once_despite_failed_missing_and_duplicate_rows(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 20)
    faulty = {"failed": 0.25, "missing": 0.25, "duplicated": 0.5, "truncated": True}
    fault(job, {"match": "*-r1-*", **faulty}, {"match": "*-r1-0000000000-0", "echo_key": False})
    # The faults of a row depend on the name of its job, and so on the run ID.
    summary = embed(job, "--batch_lines=10", "--run_id=20261121-100000-faulty")
    assert (summary["exit_code"], summary["problems"]) == (0, []), summary["err"]
    assert (summary["counted"]["ok"], summary["counted"]["failed"]) == (20, {})
    assert len(vectors(job)) == statuses(job)["OK"] == 20
    assert {name.partition("-")[0] for name in created(job)} == {"r1", "r2"}
    prepared = batch_state.load_prepared(batch_state.load_run(work_dir(job), summary["run_id"]), 1)
    collected = [read_collected(shard) for shard in (prepared.shards if prepared else ())]
    assert sum(found.by_uri for found in collected if found) > 0
    unwritten = cloud.counters()["batch"]["paid_unwritten"]
    assert unwritten <= sum(paid(job).values()) - 20 <= unwritten + 2, "only what was not, or half, written"


@pytest.mark.long
def test_falls_back_to_the_online_lane_and_creates_the_index(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    fault(job, {"match": "*-0000000000-0", "stuck": "PENDING"})
    # A multi-region: a place for embedding jobs, though not for questions.
    summary = embed(job, "--batch_lines=2", "--batch_deadline_s=1.5", "--vector_index", "--location=eu")
    assert (summary["exit_code"], summary["problems"], summary["counted"]["ok"]) == (0, [], 4), summary["err"]
    assert len(vectors(job)) == 4
    assert sum(paid(job).values()) + cloud.counters()["vertex"]["by_method"]["embedContent"] - 1 == 4, "one first look"
    shown = job.query("SELECT index_name FROM {results}.INFORMATION_SCHEMA.VECTOR_INDEXES")
    assert shown == [{"index_name": f"{TABLE}_index"}]


@pytest.mark.long
def test_never_exceeds_a_cap(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 8)
    summary = embed(job, "--max_calls=5", "--batch_lines=3")
    assert (summary["exit_code"], summary["problems"], summary["counted"]["ok"]) == (4, [], 5), summary["err"]
    assert sum(paid(job).values()) == 5
    assert job.calls() == {}, "not even for a first look"
    assert len(vectors(job)) == 5


@pytest.mark.long
def test_status_and_cancel_manage_an_embed_run(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    fault(job, {"match": "*-0000000002-0", "stuck": "PENDING"})
    code, _, err = run_cli(arguments(job, "--no_wait", "--batch_lines=2", "--vector_index"))
    assert code == 0
    assert f"imagebeam batch collect --work_dir={work_dir(job)}" in err
    assert "no vector index yet: the run is still in progress; create it later with: CREATE VECTOR INDEX" in err
    code, out, _ = command(job, "status", "--json")
    assert (code, [each["units"] for each in json.loads(out)[0]["jobs"]]) == (0, [2, 2])
    (run_id,) = batch_state.list_run_ids(work_dir(job))
    code, out, _ = command(job, "cancel", f"--run_id={run_id}")
    assert "2 OK\n           2 UNAVAILABLE/CANCELLED" in out
    assert len(vectors(job)) == 2, "what is finished is kept"


# -- durability --------------------------------------------------------------------------------------------


def test_a_collector_that_dies_writes_nothing_twice(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 5)
    assert run_cli(arguments(job, "--no_wait"))[0] == 0
    client, name = bigquery.Client(), TableName(cloud.project, job.results, "outcomes")
    client.delete_table(name.dotted)  # vectors can be loaded, outcomes cannot
    code, _, err = command(job, "collect")
    assert (code, "outcomes.jsonl" in err) == (3, True), err
    early = vectors(job)
    assert len(early) == 5
    made = TABLES["outcomes"]
    BigQueryClient(cloud.project).create_table(
        name, made.schema, clustering=made.clustering, description=made.description
    )
    summary = summary_of(job)
    assert (summary["exit_code"], summary["problems"], summary["counted"]["ok"]) == (0, [], 5), summary["err"]
    assert vectors(job) == early
    assert statuses(job) == {"OK": 5}
    bucket, _, prefix = work_dir(job).removeprefix("gs://").partition("/")
    said = (".collected.json", ".matched.json", "/summary.json")
    gone = [blob for blob in storage.Client().list_blobs(bucket, prefix=prefix) if blob.name.endswith(said)]
    assert len(gone) == 3
    for blob in gone:  # as if it had died just before it said that it was done
        blob.delete()
    assert summary_of(job)["counted"]["ok"] == 5
    assert vectors(job) == early
    assert statuses(job) == {"OK": 5}


# -- invalid input------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(cloud, tmp_path_factory.mktemp("bad"), 3)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--model=multimodalembedding@001", "--location=us-central1", "--dimension=128"],
            "multimodalembedding@001 does not support batch jobs",
        ),
        (["--batch_source=bigquery"], "--batch_source=bigquery: embedding jobs read and write files only"),
        (["--batch_destination=bigquery"], "--batch_destination=bigquery: embedding jobs read and write files only"),
        (["--work_dir=runs"], "use --work_dir=gs://bucket/path"),
        (["--transport=inline"], "use --lane=online"),
        (["--max_side=64"], "use --lane=online"),
        (["--crop=bbox"], "use --lane=online"),
        (["--batch_fallback=flex"], "--batch_fallback"),
        (["--batch_lines=200001"], "--batch_lines"),
        (["--batch_lines=many"], "--batch_lines"),
        (["--location=us-central1"], "--location=global"),
        (["--rows_per_job=5"], "--rows_per_job is for --lane=sql; this run's lane is batch"),
        (["--lane=online", "--batch_lines=5"], "--batch_lines is for --lane=batch; this run's lane is online"),
        (["--lane=sql", "--no_wait"], "is for --lane=batch; this run's lane is sql"),
        (["--max_cost_usd=0.00001"], "--max_cost_usd"),
    ],
)
def test_rejects_invalid_flags_in_one_line_without_calls(bad: Job, flags: list[str], says: str) -> None:
    code, out, err = run_cli(arguments(bad, *flags))
    told = [line for line in err.splitlines() if line.startswith("imagebeam: ")]
    assert (code, len(told)) == (2, 1), (out, err)
    assert says in told[0]
    assert "Traceback" not in err
    assert bad.cloud.counters().get("batch", {}).get("created", {}) == {}
    assert bad.cloud.counters().get("vertex", {}).get("calls", 0) == 0


def test_reports_unreadable_images_before_a_job_is_created(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    cloud.faults(vertex={"rules": [{"method": "embedContent", "match": "gs://", "do": "http", "code": 403}]})
    code, _, err = run_cli(arguments(job))
    assert (code, "use --lane=online, or grant roles/storage.objectViewer" in err) == (2, True), err
    assert created(job) == {}


def test_ignores_batch_settings_of_classify_in_the_config_file(tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text("batch_destination: bigquery\nbatch_fallback: flex\nbatch_rounds: 1\n")
    argv = [
        "--source=d.t",
        "--results=r",
        "--project=my-project",
        "--lane=batch",
        "--work_dir=gs://bucket/w",
        "--location=us",
    ]
    made = embed_settings(argv, cwd=tmp_path, environ={})[0]
    assert (made.batch_destination, made.batch_fallback, made.batch_rounds) == ("gcs", "online", 3)
    assert (made.batch_lines, made.lane, made.location) == (50_000, "batch", "us")

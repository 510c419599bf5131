"""``imagebeam embed --lane=sql`` end to end: nothing is lost or embedded twice."""

import dataclasses
import datetime
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from google.cloud import bigquery
from support.jobs import Job, make_job, run_cli
from support.marks import long_except
from support.settings_lines import embed_settings

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.images import Picture, photos, render
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.embed_sql import command as embed_sql_command
from imagebeam.pipeline.embed_sql import setup as embed_setup
from imagebeam.pipeline.embed_sql import statements as embedding_sql
from imagebeam.pipeline.embed_sql.staging import StagingTable, hash_task
from imagebeam.pipeline.preflight.gate import check_run
from imagebeam.pipeline.preflight.runner import Command, Context
from imagebeam.pipeline.run.resolved_run import ResolvedRun
from imagebeam.transforms.clients.bigquery import BigQueryClient, build_job_config
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.run_tables import prepare_tables
from imagebeam.transforms.sql.remaining_query import build_remaining_query
from imagebeam.transforms.tasks.embedding import embed_task

MODEL, DIMENSION = "multimodalembedding@001", 128
TABLE = "embeddings_multimodalembedding_001_128"
TASK = embed_task(MODEL, DIMENSION)
#: Crops of one photograph are neighbors of each other.
VIEWS = 6


def arguments(job: Job, *more: str, source: str | None = None) -> list[str]:
    return [
        "embed",
        "--lane=sql",
        f"--source={source or job.source}",
        f"--results={job.results}",
        f"--work_dir={job.directory / 'runs'}",
        f"--model={MODEL}",
        f"--dimension={DIMENSION}",
        "--pass_pause_s=0",
        *more,
    ]


def embed(job: Job, *more: str, source: str | None = None) -> dict[str, Any]:
    """Run the command; give its summary with exit code and standard error."""
    code, out, err = run_cli(arguments(job, "--json", *more, source=source))
    assert out.strip().startswith("{"), f"exit code {code}: {err}"
    return {**json.loads(out), "exit_code": code, "err": err}


def ai(job: Job) -> dict[str, Any]:
    """Counters of the AI functions of the local BigQuery."""
    return dict(job.cloud.counters().get("bigquery", {}).get("ai", {}))


def vectors(job: Job) -> list[dict[str, Any]]:
    return job.query(f"SELECT * FROM {{results}}.{TABLE} ORDER BY unit_id")


def statuses(job: Job) -> Counter[tuple[str, str | None]]:
    rows = job.query(f"SELECT status, reason FROM {{results}}.outcomes WHERE task = '{TASK.name}'")
    return Counter((row["status"], row["reason"]) for row in rows)


def staging_tables(job: Job) -> list[str]:
    """Staging tables that exist."""
    client = bigquery.Client()
    names = [str(table.table_id) for table in client.list_tables(job.results)]
    return [name for name in names if StagingTable.read(TableName("my-project", "d", name))]


def crops(job_rows: int = VIEWS) -> list[dict[str, Any]]:
    """Rows with views of every photograph."""
    return [
        {
            "data": render(Picture(photo, (6 * view, 5 * view, 180 + 6 * view, 140 + 5 * view), (180, 140), "plain")),
            "asset_id": photo,
        }
        for photo in photos()
        for view in range(job_rows)
    ]


def test_retries_retryable_failures_in_later_passes(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 45)
    cloud.faults(
        bigquery={
            "ai": {
                "failures": [
                    {"match": "0000000003:", "do": "permanent", "message": "INVALID_ARGUMENT: unable to process it"},
                    {"match": "0000000004:", "do": "permanent", "message": "the image was blocked for safety"},
                    {"match": "5:", "times": 1, "do": "retryable"},
                    {"match": "6:", "times": 2, "do": "retryable"},
                ]
            }
        }
    )
    summary = embed(job, "--rows_per_job=15")
    assert summary["exit_code"] == 0, summary["err"]
    assert summary["counted"]["failed"] == {"IMAGE_ERROR/UNREADABLE": 1, "BLOCKED/SAFETY": 1}
    assert len(vectors(job)) == 43
    counted = ai(job)
    assert set(counted["answered_per_key"].values()) == {1}
    assert counted["permanent"] == 2
    assert job.query("SELECT MAX(attempts) AS passes FROM {results}.outcomes") == [{"passes": 3}]
    assert counted["max_running_jobs"] <= 5
    assert staging_tables(job) == []


@pytest.mark.long
def test_failures_that_outlast_the_passes_are_retried_by_the_next_run(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 20)
    cloud.faults(bigquery={"ai": {"failures": [{"match": "0000000007:", "do": "retryable"}]}})
    summary = embed(job, "--max_passes=3")
    assert summary["problems"] == []
    assert statuses(job) == {("OK", None): 19, ("UNAVAILABLE", "RETRYABLE"): 1}
    assert ai(job)["calls_per_key"][job.uri(7)] == 3
    cloud.faults(bigquery={})
    assert embed(job)["counted"]["ok"] == 1
    assert len(vectors(job)) == 20


@pytest.mark.long
def test_embeds_rows_beyond_the_quota_of_a_job_in_the_next_pass(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 40)
    cloud.faults(bigquery={"ai": {"rows_per_job": 12}})
    summary = embed(job)
    assert summary["counted"]["ok"] == 40
    assert set(ai(job)["answered_per_key"].values()) == {1}


@pytest.mark.long
def test_retries_jobs_beyond_the_concurrency_limit(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 40)
    cloud.faults(bigquery={"ai": {"concurrent_jobs": 1}})
    summary = embed(job, "--rows_per_job=10")
    assert summary["counted"]["ok"] == 40, summary["err"]
    assert set(ai(job)["answered_per_key"].values()) == {1}
    assert ai(job)["max_running_jobs"] == 1


@pytest.mark.long
def test_an_object_table_gives_the_same_vectors(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 14)
    bucket = job.uri(0).split("/")[2]
    summary = embed(job, f"--object_uris=gs://{bucket}/snapshot/*.jpg", "--max_staleness_minutes=60",
                    "--metadata_cache_mode=MANUAL")  # fmt: skip
    assert summary["counted"]["ok"] == 14, summary["err"]
    by_table = {row["unit_id"]: row["vector"] for row in vectors(job)}
    job.query(f"DELETE FROM {{results}}.{TABLE} WHERE TRUE")
    job.query("DELETE FROM {results}.outcomes WHERE TRUE")
    assert embed(job)["counted"]["ok"] == 14
    assert {row["unit_id"]: row["vector"] for row in vectors(job)} == by_table


def test_an_image_outside_the_object_table_is_not_found(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{}, {"suffix": ".png"}])
    bucket = job.uri(0).split("/")[2]
    summary = embed(job, f"--object_uris=gs://{bucket}/snapshot/*.jpg")
    assert summary["counted"]["failed"] == {"IMAGE_ERROR/NOT_FOUND": 1}
    assert ai(job)["rows"] == 1


def test_checks_that_the_object_table_lists_the_images(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{}, {"suffix": ".png"}, {"gcs_uri": None}])
    bucket = job.uri(0).split("/")[2]
    elsewhere = f"--object_uris=gs://{bucket}/obs/*,gs://{bucket}/snapshot"
    code, _, err = run_cli(arguments(job, elsewhere))
    assert code == 2
    assert elsewhere in err.splitlines()[-1]
    assert job.uri(0) in err.splitlines()[-1]
    assert f"--object_uris=gs://{bucket}/*" in err.splitlines()[-1]
    dry = arguments(job, f"--object_uris=gs://{bucket}/obs/*,gs://{bucket}/snapshot/*.jpg", "--dry_run")
    code, _, err = run_cli(dry)
    assert code == 0, err
    assert f"does not list 1 of 2 remaining images, such as {job.uri(1)}" in err
    assert run_cli([*arguments(job, f"--object_uris={job.uri(0)}", "--limit=3"), "--dry_run"])[0] == 0
    assert not ai(job)


def own_resources(job: Job, *, endpoint: str = MODEL) -> tuple[str, str]:
    """Create a remote model and an object table as the BigQuery documentation does; return their names."""
    client, dataset = bigquery.Client(), f"own_{job.name}"
    client.create_dataset(dataset)
    bucket = job.uri(0).split("/")[2]
    options = f"object_metadata = 'SIMPLE', uris = ['gs://{bucket}/snapshot/*.jpg']"
    for statement in (
        f"CREATE CONNECTION `us.{dataset}` OPTIONS (connection_type = 'CLOUD_RESOURCE')",
        f"CREATE MODEL {dataset}.model REMOTE WITH CONNECTION `us.{dataset}` OPTIONS (ENDPOINT = '{endpoint}')",
        f"CREATE EXTERNAL TABLE {dataset}.images WITH CONNECTION DEFAULT OPTIONS ({options})",
    ):
        client.query_and_wait(statement)
    return f"{dataset}.model", f"{dataset}.images"


def tables_of(dataset: str) -> set[str]:
    client = bigquery.Client()
    return {item.table_id for item in client.list_tables(dataset)} | {
        item.model_id for item in client.list_models(dataset)
    }


@pytest.mark.long
def test_embeds_with_the_users_own_model_and_object_table(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{}, {}, {"suffix": ".png"}])
    model, table = own_resources(job)
    code, out, err = run_cli(arguments(job, f"--remote_model={model}", f"--object_table={table}", "--dry_run"))
    assert code == 0, err
    assert f"--object_table={cloud.project}.{table} does not list 1 of 3 remaining images" in err
    assert not re.search(r"(CREATE|DROP) (EXTERNAL TABLE|MODEL|CONNECTION)", out)
    assert f"MODEL `{cloud.project}.{model}`" in out
    assert f"JOIN `{cloud.project}.{table}` AS images" in out
    # Two connections: one calls the model, the other reads the images.
    accounts = re.findall(
        r"--member=serviceAccount:(bqcx-\S+) --role=roles/(aiplatform.user|storage.objectViewer)", out
    )
    assert [role for _, role in accounts] == ["aiplatform.user", "storage.objectViewer"]
    assert accounts[0][0] != accounts[1][0]
    summary = embed(job, f"--remote_model={cloud.project}.{model}", f"--object_table={table}")
    assert summary["counted"]["ok"] == 2, summary["err"]
    assert summary["counted"]["failed"] == {"IMAGE_ERROR/NOT_FOUND": 1}
    assert not {name for name in tables_of(job.results) if name.startswith(("_images_", "multimodal"))}


def test_a_model_can_be_used_without_access_to_its_connection(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 1)
    model, _ = own_resources(job)
    name = f"{cloud.project}.us.{model.partition('.')[0]}"
    bigquery.Client().query_and_wait(f"DROP CONNECTION `{name}`")
    code, out, err = run_cli(arguments(job, f"--remote_model={model}", "--dry_run"))
    assert code == 0, err
    assert f"bq show --connection --format=json {name}" in out


@pytest.mark.long
def test_an_object_table_is_a_source(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    model, table = own_resources(job)
    summary = embed(job, f"--remote_model={model}", f"--object_table={table}", source=table)
    assert summary["counted"]["ok"] == 3, summary["err"]
    rows = vectors(job)
    assert [row["unit_id"] for row in rows] == [row["uri"] for row in rows] == sorted(job.uri(n) for n in range(3))
    again = embed(job, "--where=content_type = 'image/jpeg'", source=table)
    assert again["source"]["already_done"] == 3
    assert set(ai(job)["answered_per_key"].values()) == {1}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--remote_model={own}.nothing",), "--remote_model: model \\S+.nothing does not exist"),
        (("--object_table={own}.nothing",), "--object_table: table \\S+.nothing does not exist"),
        (("--remote_model={own}.model",), "is model gemini-embedding-2, but --model is multimodalembedding@001"),
        (("--object_table={source}",), "is not an object table"),
        (("--remote_model={own}.model", "--connection=us.other"), "so --connection has no effect"),
        (("--object_table={own}.images", "--object_uris=gs://b/*"), "so --object_uris has no effect"),
    ],
)
def test_rejects_existing_resources_that_do_not_fit(
    cloud: LocalCloud, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    job = make_job(cloud, tmp_path, 1)
    model, _ = own_resources(job, endpoint="gemini-embedding-2")
    names = {"own": model.partition(".")[0], "source": job.source}
    code, _, err = run_cli(arguments(job, *(flag.format(**names) for flag in more)))
    assert code == 2
    assert re.search(said, err.splitlines()[-1])
    assert not ai(job)


def test_accepts_a_connection_as_the_console_shows_it(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 1)
    console = f"projects/{cloud.project}/locations/us/connections/{job.name}"
    summary = embed(job, f"--connection={console}", "--create_connection")
    assert summary["counted"]["ok"] == 1, summary["err"]
    assert embed(job, f"--connection=us.{job.name}")["source"]["already_done"] == 1


@pytest.mark.parametrize("dimension", long_except([1408], [128, 256, 512, 1408]))
def test_writes_vectors_of_each_dimension(cloud: LocalCloud, tmp_path: Path, dimension: int) -> None:
    job = make_job(cloud, tmp_path, 3)
    assert embed(job, f"--dimension={dimension}")["counted"]["ok"] == 3
    rows = job.query(f"SELECT vector FROM {{results}}.embeddings_multimodalembedding_001_{dimension}")
    assert [len(row["vector"]) for row in rows] == [dimension] * 3


@pytest.mark.long
def test_a_model_alias_writes_the_table_of_its_model(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    summary = embed(job, "--model=gemini-embedding-2", "--endpoint=gemini-embedding-2-preview", "--dimension=768")
    assert summary["counted"]["ok"] == 3, summary["err"]
    (row,) = job.query("SELECT COUNT(*) AS n FROM {results}.embeddings_gemini_embedding_2_768")
    assert row["n"] == 3


def test_creates_the_connection_and_prints_its_grants(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    name = f"us.{job.name}"
    code, _, err = run_cli(arguments(job, f"--connection={name}"))
    assert code == 2
    assert f"connection {cloud.project}.{name} does not exist" in err
    assert "bq mk --connection --location=us" in err
    assert "--create_connection" in err
    summary = embed(job, f"--connection={name}", "--create_connection")
    assert summary["counted"]["ok"] == 2
    code, out, _ = run_cli(arguments(job, f"--connection={name}", "--dry_run"))
    assert code == 0
    assert re.search(r"--member=serviceAccount:bqcx-\S+ --role=roles/aiplatform.user", out)
    assert re.search(r"gs://\S+-images --member=serviceAccount:bqcx-\S+ --role=roles/storage.objectViewer", out)


@pytest.mark.long
def test_the_clean_up_leaves_only_results(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 1)
    bucket = job.uri(0).split("/")[2]
    flags = (f"--connection=us.{job.name}", "--create_connection", f"--object_uris=gs://{bucket}/*")
    assert embed(job, *flags)["counted"]["ok"] == 1
    created = {name for name in tables_of(job.results) if name.startswith(("_images_", "multimodalembedding"))}
    assert len(created) == 2
    code, out, err = run_cli(arguments(job, *flags, "--dry_run"))
    assert code == 0, err
    drops = re.findall(r"^--   (DROP .*);$", out, re.MULTILINE)
    assert len(drops) == 3
    client = bigquery.Client()
    for drop in drops:
        client.query_and_wait(drop)
    assert not tables_of(job.results) & created
    assert len(vectors(job)) == 1
    assert "bqcx-" not in run_cli(arguments(job, *flags, "--dry_run"))[1]  # the connection is gone


def test_dry_run_prints_every_statement(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    code, out, _ = run_cli(arguments(job, "--dry_run"))
    assert code == 0
    assert "CREATE MODEL IF NOT EXISTS" in out
    assert "AI.GENERATE_EMBEDDING" in out
    assert "@task = " in out
    for statement in out.split(";\n"):
        text = "\n".join(line for line in statement.splitlines() if not line.startswith("--")).strip()
        assert not text or sqlglot.parse_one(text, read="bigquery")
    assert not ai(job)
    assert BigQueryClient(cloud.project).get_dataset_location(cloud.project, job.results) is None


# Errors


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--dimension=768",), "128, 256, 512 or 1408"),
        (("--connection=eu.imagery",), "is in eu, but dataset .* is in US"),
        (("--connection=imagery",), "LOCATION.NAME"),
        (("--endpoint=gemini-embedding-2",), "vectors of two models"),
        (("--crop=bbox",), "use --lane=online"),
        (("--create_connection",), "needs a name"),
        (("--max_calls=5",), "use --limit"),
        (("--object_uris=gs://bucket/*/*",), "at most one \\*"),
        (("--object_uris=gs://bucket/*", "--max_staleness_minutes=5"), "30 to"),
        (("--max_cost_usd=0.0001",), "--limit=1 or less"),
        (("--lane=online",), "--pass_pause_s is for --lane=sql"),
    ],
)  # fmt: skip
def test_rejects_invalid_flags_in_one_line_before_any_job(
    cloud: LocalCloud, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    job = make_job(cloud, tmp_path, 3)
    code, _, err = run_cli(arguments(job, *more))
    assert code == 2
    assert re.search(said, err.splitlines()[-1])
    assert not ai(job)


def test_unreadable_bucket_stops_the_run_after_the_trial(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 60)
    message = "PERMISSION_DENIED: the service account does not have storage.objects.get access"
    cloud.faults(bigquery={"ai": {"failures": [{"do": "permanent", "message": message}]}})
    code, _, err = run_cli(arguments(job))
    assert code == 2
    last = err.splitlines()[-1]
    reader = re.search(r"grant roles/storage.objectViewer on gs://\S+ to (bqcx-\S+@gcp-sa-bigquery-condel\S+), ", last)
    assert reader
    assert f"and roles/aiplatform.user on project {cloud.project}, where the model is called, to {reader[1]}" in last
    assert ai(job)["rows"] == 10
    cloud.faults(bigquery={})
    assert embed(job)["counted"]["ok"] == 60


def test_reports_a_missing_bucket(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    code, _, err = run_cli(arguments(job, "--object_uris=gs://no-such-bucket-anywhere/*"))
    assert code == 2
    assert "no-such-bucket-anywhere" in err.splitlines()[-1]


# Recovery


def stage_without_writing(job: Job, *, vectors_too: bool) -> None:
    """Leave the tables of a run that died after a job: its result is staged, and at most the vectors are written."""
    settings, _ = embed_settings(arguments(job)[1:], cwd=job.directory, environ=os.environ)
    bq = BigQueryClient(job.cloud.project)
    context = Context(ResolvedRun(settings), command=Command.RUN)
    ready = check_run(context, Console(quiet=True))
    bq.create_dataset(ready.run.outcomes.project, ready.run.outcomes.dataset, "US")
    prepare_tables(bq, ready.run)
    name = f"imagebeam-embed-{job.name}"
    embed_setup.create_resources(context.sql_resources, bq, name, ready.run, lambda: None, lambda _: None)
    target = embed_sql_command.build_target(ready.run)
    pending = StagingTable(ready.run.outcomes, hash_task(TASK.name), secrets.token_hex(6))
    staged = dataclasses.replace(pending, chunk=0)
    client = bigquery.Client()
    steps = [
        embedding_sql.pending_query(build_remaining_query(ready.run.query_spec()), pending, target, rows=100),
        embedding_sql.embed_query(staged, context.sql_resources.model_call(settings.dimension)),
        *([embedding_sql.insert_vectors_query(staged, target)] if vectors_too else []),
    ]
    for query in steps:
        client.query(query.sql, job_config=build_job_config(query.parameters)).result()


@pytest.mark.parametrize("vectors_too", long_except([True], [False, True]))
def test_recovers_a_run_that_died_between_its_writes(cloud: LocalCloud, tmp_path: Path, vectors_too: bool) -> None:  # noqa: FBT001
    job = make_job(cloud, tmp_path, 25)
    stage_without_writing(job, vectors_too=vectors_too)
    assert ai(job)["answered"] == 10
    client, month = bigquery.Client(), datetime.timedelta(days=30)
    for name in staging_tables(job):
        expires = client.get_table(f"{job.results}.{name}").expires
        assert expires is not None
        assert month - datetime.timedelta(hours=1) < expires - datetime.datetime.now(datetime.UTC) <= month
    code, out, err = run_cli(arguments(job))
    assert code == 0, err
    assert "recovered 1 jobs of run" in err
    assert re.search(r"^ +15 OK$", out, re.MULTILINE)
    assert re.search(r"^ +10 already done$", out, re.MULTILINE)
    assert set(ai(job)["answered_per_key"].values()) == {1}
    rows = vectors(job)
    assert len(rows) == len({row["unit_id"] for row in rows}) == 25
    assert statuses(job) == {("OK", None): 25}
    assert staging_tables(job) == []


@pytest.mark.long
def test_runs_after_repeated_kills_embed_nothing_twice(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 90)
    cloud.faults(bigquery={"ai": {"failures": [{"match": "5:", "times": 2, "do": "retryable"}]}})
    program = [sys.executable, "-m", "imagebeam.pipeline", *arguments(job, "--rows_per_job=15", "--json")]
    killed = 0
    for kill_at in (1, 3, 6, 9):
        running = subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        before = int(ai(job).get("jobs", 0))
        while running.poll() is None and int(ai(job).get("jobs", 0)) < before + kill_at:
            time.sleep(0.01)
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
            killed += 1
        running.communicate()
    summary = embed(job)
    assert killed >= 2
    assert summary["problems"] == [], summary["err"]
    assert set(ai(job)["answered_per_key"].values()) == {1}
    rows = vectors(job)
    assert len(rows) == len({row["unit_id"] for row in rows}) == 90
    assert statuses(job)["OK", None] == 90
    assert staging_tables(job) == []


@pytest.mark.long
def test_terminated_run_finishes_its_jobs_and_skips_the_rest(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 90)
    program = [sys.executable, "-m", "imagebeam.pipeline", *arguments(job, "--rows_per_job=2", "--json")]
    running = subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and int(ai(job).get("jobs", 0)) < 3:
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate()
    assert running.returncode == 130, err
    summary = json.loads(out)
    assert summary["problems"] == []
    assert summary["counted"]["skipped"] > 0
    assert summary["counted"]["ok"] + summary["counted"]["skipped"] == 90
    assert embed(job)["counted"]["ok"] == summary["counted"]["skipped"]
    assert set(ai(job)["answered_per_key"].values()) == {1}
    assert staging_tables(job) == []


# Search quality


@pytest.mark.long
def test_views_of_one_photograph_are_neighbors(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, crops())
    embed(job)
    rows = job.query(
        "SELECT query.asset_id AS mine, base.asset_id AS near FROM VECTOR_SEARCH("
        f"TABLE {{results}}.{TABLE}, 'vector', (SELECT unit_id, asset_id, vector FROM {{results}}.{TABLE}), "
        f"top_k => {VIEWS}, distance_type => 'COSINE') WHERE base.unit_id != query.unit_id"
    )
    recall = sum(row["mine"] == row["near"] for row in rows) / len(rows)
    assert len(rows) == (VIEWS - 1) * VIEWS * len(photos())
    assert recall >= 0.9

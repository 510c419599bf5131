"""Input that batch jobs do not support is rejected in one line before a job is created."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import requests
from google.api_core.exceptions import RetryError
from google.auth.exceptions import RefreshError, TransportError
from google.cloud import bigquery
from support.batch_runs import answers, batch, batch_arguments, command, created, fault, work_dir
from support.insights_schema import ASSET_OBSERVATIONS, SNAPSHOTS
from support.jobs import Job, make_job, run_cli

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch_command.command import storage_error


@pytest.fixture(scope="module")
def job(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(cloud, tmp_path_factory.mktemp("bad-batch"), 3)


@pytest.fixture(scope="module")
def near(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The same in a region."""
    return make_job(cloud, tmp_path_factory.mktemp("near"), 3, location="europe-west4")


def without(arguments: list[str], *more: str) -> list[str]:
    """Arguments, with others in place of those of the same name."""
    given = {argument.partition("=")[0] for argument in more}
    return [*(argument for argument in arguments if argument.partition("=")[0] not in given), *more]


def refused(job: Job, arguments: list[str], code: int = 2) -> str:
    """Runs a command that must be refused; gives the one line it said."""
    found, out, err = run_cli(arguments)
    told = [line for line in err.splitlines() if line.startswith("imagebeam: ")]
    assert found == code, (found, out, err)
    assert len(told) == 1, err
    assert "Traceback" not in err
    assert created(job) == {}, "nothing may be submitted"
    assert batch_state.list_run_ids(work_dir(job)) == [], "no run is left open"
    return told[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--work_dir=runs"], "--work_dir=gs://bucket/path"),
        (["--transport=inline"], "--lane=flex"),
        (["--batch_source=bigquery"], "leave --batch_source at gcs"),
        (["--batch_destination=bigquery"], "leave --batch_destination at gcs"),
        (["--location=eu"], "--location=global"),
        (["--location=us"], "--location=global"),
        (["--batch_source=bigquery", "--location=us-central1", "--model=gemini-2.5-flash"], "us-central1"),
        (["--batch_destination=bigquery", "--location=us-central1", "--model=gemini-2.5-flash"], "is in US"),
        (["--location=us-central1"], "global"),
        (["--batch_source=bq"], "bigquery"),
        (["--batch_fallback=sql"], "flex"),
        (
            ["--location=us-central1", "--model=gemini-2.5-flash", "--batch_deadline_s=60"],
            "--batch_fallback=flex after --batch_deadline_s: ",
        ),
        (["--batch_lines=0"], "batch_lines"),
        (["--batch_lines=200001"], "batch_lines"),
        (["--batch_bytes=0"], "batch_bytes"),
        (["--batch_bytes=2000000000"], "batch_bytes"),
        (["--batch_rounds=0"], "batch_rounds"),
        (["--batch_rounds=11"], "batch_rounds"),
        (["--batch_rounds=two"], "batch_rounds"),
        (["--batch_deadline_s=-1"], "batch_deadline_s"),
        (["--batch_deadline_s=nan"], "batch_deadline_s"),
        (["--batch_poll_s=0"], "batch_poll_s"),
        (["--batch_grace_s=-1"], "batch_grace_s"),
        (["--batch_line=5"], "batch_lines"),
        (["--lane=batsch"], "batch"),
        (["--lane=online", "--batch_lines=5"], "--batch_lines is for --lane=batch"),
        (["--lane=flex", "--no_wait"], "is for --lane=batch"),
    ],
)
def test_rejects_unsupported_flags(job: Job, flags: list[str], message: str) -> None:
    arguments = [argument for argument in batch_arguments(job) if "--batch" not in argument]
    assert message in refused(job, without(arguments, *flags))


def test_rejects_tables_outside_the_region_of_the_model(near: Job) -> None:
    flags = ("--location=us-central1", "--model=gemini-2.5-flash", "--batch_source=bigquery")
    line = refused(near, batch_arguments(near, *flags))
    assert "is in europe-west4, the model at us-central1" in line
    assert "leave --batch_source at gcs" in line


@pytest.mark.parametrize("image", ["{max_side: 64}", "{crop: bbox}"])
def test_rejects_a_task_that_changes_images(job: Job, tmp_path: Path, image: str) -> None:
    task = tmp_path / "small.yaml"
    task.write_text(f"name: small\nprompt: What is it?\nimage: {image}\n")
    assert "--lane=flex, which costs the same" in refused(job, batch_arguments(job, task=str(task)))


def test_rejects_images_that_the_service_cannot_read(job: Job) -> None:
    job.cloud.faults(vertex={"rules": [{"method": "countTokens", "do": "http", "code": 403}]})
    line = refused(job, batch_arguments(job))
    assert "--lane=flex, which costs the same" in line
    assert "roles/storage.objectViewer" in line


@pytest.mark.long
def test_rejects_a_request_larger_than_a_file(job: Job) -> None:
    assert "a request has" in refused(job, batch_arguments(job, "--batch_bytes=300"))
    summary = batch(job, "--limit=1")
    assert (summary["source"]["remaining"], summary["source"]["submitted"]) == (1, 0), "all of it stayed due"


def test_rejects_a_read_only_work_directory(job: Job) -> None:
    rule = {"match": work_dir(job), "operations": ["objects.insert"], "do": "http", "code": 403, "message": "No."}
    job.cloud.faults(storage={"rules": [rule]})
    assert "is not writable" in refused(job, batch_arguments(job))


@pytest.mark.parametrize("name", ["status", "collect", "cancel"])
def test_rejects_an_unknown_run(job: Job, name: str) -> None:
    code, out, err = command(job, name, "--run_id=20200101-000000-none")
    assert (code, out) == (2, "")
    assert "unknown batch run in" in err
    assert len(err.splitlines()) == 1


def test_batch_commands_report_no_open_runs(cloud: LocalCloud, tmp_path: Path) -> None:
    for name in ("status", "collect", "cancel"):
        code, out, _ = run_cli(["batch", name, f"--work_dir={tmp_path / 'empty'}"])
        assert (code, out) == (0, f"no open batch runs in {tmp_path / 'empty'}\n")
    assert run_cli(["batch", "colect"])[0] == 2
    assert "collect" in run_cli(["batch", "colect"])[2]
    assert run_cli(["batch", "collect", "--lane=batch"])[0] == 2
    code, _, err = run_cli(["batch", "collect", "--work_dir=gs://no-such-bucket-at-all/x"])
    assert code == 2
    assert "no-such-bucket-at-all/x cannot be read: The specified bucket does not exist." in err


def insights_job(cloud: LocalCloud, directory: Path, age: datetime.timedelta) -> Job:
    """A source like Imagery Insights, whose newest snapshot is so old."""
    plain = make_job(cloud, directory, 2)
    client = bigquery.Client()
    made = (datetime.datetime.now(datetime.UTC) - age).isoformat()
    rows = [
        {name: row[name] for name in ("observation_id", "asset_id", "asset_type", "gcs_uri", "capture_time")}
        | {"snapshot_id": "s1"}
        for row in plain.rows
    ]
    for name, schema, content in (
        ("latest_observations", ASSET_OBSERVATIONS, rows),
        ("snapshots", SNAPSHOTS, [{"snapshot_id": "s1", "creation_time": made}]),
    ):
        fields = [bigquery.SchemaField.from_api_repr(field) for field in schema]
        table = bigquery.Table(f"{client.project}.{plain.name}.{name}", schema=fields)
        config = bigquery.LoadJobConfig(schema=fields)
        client.load_table_from_json(content, table, job_config=config).result()
    return plain


def test_rejects_a_snapshot_that_expires_too_soon(cloud: LocalCloud, tmp_path: Path) -> None:
    job = insights_job(cloud, tmp_path, datetime.timedelta(days=33))
    source = f"--source={job.name}.latest_observations"
    line = refused(job, without(batch_arguments(job), source))
    assert "expire" in line
    assert "--lane=flex, which costs the same" in line
    assert "--batch_deadline_s" in line
    summary = batch(job, source, "--batch_deadline_s=7200")
    assert (summary["counted"]["ok"], summary["exit_code"]) == (2, 0), summary["err"]


def test_stops_when_the_service_rejects_the_input(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    fault(job, limits={"lines": 2})
    code, out, said = run_cli(batch_arguments(job))
    assert code == 3, (out, said)
    assert "stopped early (systemic: every batch job failed" in out
    assert "Failed to import data" in out
    assert {row["status"] for row in answers(job)} == {"UNAVAILABLE"}
    fault(job)
    assert batch(job)["counted"]["ok"] == 3


@pytest.mark.parametrize("name", ["status", "collect"])
def test_batch_commands_report_missing_credentials(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    code, out, err = run_cli(["batch", name, "--work_dir=gs://some-bucket/x"])
    assert (code, out) == (2, "")
    assert err.startswith("imagebeam: no Google credentials")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RetryError("Timeout of 120.0s exceeded", requests.ConnectionError("/storage/v1/b")), 3, "(ConnectionError)"),
        (requests.ReadTimeout("/storage/v1/b"), 3, "(ReadTimeout)"),
        (TransportError("no network"), 3, "try again later"),
        (RefreshError("busy", retryable=True), 3, "try again later"),
        (RefreshError("invalid_grant"), 2, "gcloud auth application-default login"),
    ],
)
def test_reports_a_storage_error_in_one_line(error: Exception, code: int, message: str) -> None:
    told = storage_error(error, "gs://some-bucket/x")
    assert told.exit_code == code
    assert message in str(told)
    assert "/storage/v1" not in str(told)

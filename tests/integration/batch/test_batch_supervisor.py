"""The supervisor of batch jobs: counts reconcile and nothing is paid twice, whatever jobs and services do."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import google.cloud.storage as storage
import pytest
from google.cloud import bigquery
from google.genai import types
from support.batch_runs import (
    answers,
    batch,
    batch_arguments,
    command,
    created,
    fault,
    paid,
    summary_of,
    work_dir,
)
from support.jobs import Job, kill, make_job, run_cli, start_process
from support.marks import long_except
from support.vertex_local import gemini

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.transforms.batch_shards import Shard
from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients import storage as work_storage
from imagebeam.transforms.clients.batch_jobs import BatchJobs
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.identifiers import TableName


def in_shard(start: int, **what: Any) -> dict[str, Any]:
    """A rule for the first round's job about the units from there on."""
    return {"match": f"*-r1-{start:010d}-0", **what}


def submit(job: Job, *more: str) -> str:
    """Writes the requests and creates the jobs; the run's id."""
    code, _, err = run_cli(batch_arguments(job, "--no_wait", *more))
    assert code == 0, err
    (run_id,) = batch_state.list_run_ids(work_dir(job))
    return run_id


def until(job: Job, *states: str) -> list[dict[str, Any]]:
    """The jobs, once each has one of these states."""
    for _ in range(12_000):  # four minutes
        jobs = job.cloud.batch_jobs()
        if jobs and all(each["state"].removeprefix("JOB_STATE_") in states for each in jobs):
            return jobs
        time.sleep(0.02)
    raise AssertionError(job.cloud.batch_jobs())


def shards_of(job: Job) -> list[list[int]]:
    """Which rows went into which job of the first round: the query gives units in no order."""
    (run_id,) = batch_state.list_run_ids(work_dir(job), ended=True)
    bucket = storage.Client().bucket(work_dir(job).split("/")[2])
    places = {row["observation_id"]: place for place, row in enumerate(job.rows)}
    manifests = sorted(
        (blob for blob in bucket.list_blobs(prefix=f"work/runs/{run_id}/batch/r1/") if "manifest" in blob.name),
        key=lambda blob: str(blob.name),
    )
    lines = (blob.download_as_text().splitlines() for blob in manifests)
    return [[places[json.loads(line)["unit_id"]] for line in each] for each in lines]


def attempts(job: Job) -> list[int]:
    """How many rounds each row's unit needed."""
    rows = job.query("SELECT unit_id, attempts FROM {results}.outcomes WHERE status = 'OK' ORDER BY unit_id")
    return [row["attempts"] for row in rows]


def recorded(job: Job, status: str = "OK") -> int:
    """How many rows of a status the table holds, doubles included."""
    (row,) = job.query(f"SELECT COUNT(*) AS n FROM {{results}}.outcomes WHERE status = '{status}'")
    return int(row["n"])


DETAILS = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "BACKEND"}]
# What is wrong with the job of every shard of two units, and how many of them that leaves for another round.
ENDINGS: list[tuple[dict[str, Any], int]] = [
    ({"failed": 1.0, "failed_codes": [503, 429]}, 2),
    ({"missing": 1.0}, 2),
    ({"end": "EXPIRED"}, 2),
    ({"end": "PARTIALLY_SUCCEEDED", "finished": 0.5}, 1),
    ({"end": "FAILED", "finished": 0.5, "error": {"code": 13, "message": "INTERNAL", "details": DETAILS}}, 1),
    ({"end": "EXPIRED", "finished": 0.5, "output_info": "never"}, 1),
    ({"duplicated": 1.0}, 0),
    ({"truncated": True}, 1),
    ({"echo_key": False, "echo_camel": True}, 0),
    ({"output_info": "never"}, 0),
    ({"incremental_only": True}, 0),
    ({"running_state": "MELTING", "running_s": 1.0}, 0),
    ({"end": "PAUSED", "finished": 0.5}, 1),
    ({"end": "MELTED", "finished": 0.5}, 1),
]


def test_answers_every_unit_after_every_kind_of_job_failure(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2 * len(ENDINGS))
    rules = [in_shard(2 * place, **what) for place, (what, _) in enumerate(ENDINGS)]
    fault(job, *rules, synthetic=True)
    code, out, said = run_cli(batch_arguments(job, "--batch_lines=2"))
    assert code == 0, (out, said)
    assert "all units accounted for" in out
    assert f"{len(job.rows)} OK" in out
    assert {row["status"] for row in answers(job)} == {"OK"}
    assert recorded(job) == len(job.rows), "every answer stands in the table once"
    needed, bought = attempts(job), paid(job)
    for (what, left), units in zip(ENDINGS, shards_of(job), strict=True):
        assert sum(needed[place] - 1 for place in units) == left, what
        unseen = left if "missing" in what or "truncated" in what else 0  # answered and paid, but never delivered
        assert sum(bought[job.uri(place)] for place in units) == len(units) + unseen, what
    jobs = created(job)
    assert set(jobs.values()) == {1}
    assert len([name for name in jobs if name.startswith("r1")]) == len(ENDINGS)
    assert not [name for name in jobs if name.startswith("r3")]
    for words in (
        "unknown state JOB_STATE_MELTING", "2 duplicate lines", "2 lines matched by image",
        "1 lines without a unit", "code 13: INTERNAL", "BACKEND", "the service reports 2 rows, the output has 0",
    ):  # fmt: skip
        assert words in said, words


@pytest.mark.long
def test_unanswered_units_remain_after_the_last_round(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    fault(job, {"match": "*-r1-*", "end": "FAILED", "finished": 0.0}, {"match": "*-r2-*", "failed": 1.0})
    summary = batch(job, "--batch_rounds=2")
    assert summary["problems"] == [], summary
    assert summary["counted"]["failed"] == {"UNAVAILABLE/HTTP_503": 3}
    assert created(job) == {"r1-0000000000-0": 1, "r2-0000000000-0": 1}
    fault(job)
    rest = batch(job)
    assert (rest["source"]["remaining"], rest["counted"]["ok"], rest["exit_code"]) == (3, 3, 0)
    assert set(paid(job).values()) == {1}


def test_creates_one_job_despite_failed_and_lost_calls(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 5)
    calls = [
        {"match": "*-0000000000-0", "times": 1, "do": "lost_answer"},
        {"match": "*-0000000001-0", "times": 1, "do": "http", "code": 503},
        {"match": "*-0000000002-0", "times": 2, "do": "http", "code": 429},
        {"match": "*-0000000003-0", "times": 1, "do": "lost_answer"},
        {"method": "list", "times": 3, "do": "http", "code": 503},
        {"method": "list", "times": 1, "do": "http", "code": 429},
    ]
    fault(job, in_shard(3, unlisted_s=0.7), calls=calls)
    code, out, said = run_cli(batch_arguments(job, "--batch_lines=1", "--batch_grace_s=1.5"))
    assert code == 0, (out, said)
    assert "5 OK" in out
    assert set(created(job).values()) == {1}
    assert len(created(job)) == 5
    assert set(paid(job).values()) == {1}
    assert "refused" in said


def test_run_after_a_kill_creates_each_job_once(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    # The last job cannot be created, so that the kill always comes before the end of the round.
    fault(job, {"stuck": "PENDING"}, calls=[{"match": "*-0000000003-0", "do": "http", "code": 503}])
    process = start_process(batch_arguments(job, "--batch_lines=1"))
    while not batch_state.list_run_ids(work_dir(job)):  # cheaper than the counters of the local cloud
        assert process.poll() is None
        time.sleep(0.1)
    while not created(job):
        assert process.poll() is None
        time.sleep(0.01)
    kill(process)  # between two of the four creates, or before their record
    fault(job)
    summary = summary_of(job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (4, [], 0), summary["err"]
    assert created(job) == {f"r1-{number:010d}-0": 1 for number in range(4)}
    assert paid(job) == {job.uri(number): 1 for number in range(4)}


def test_grace_time_ends_with_the_list_of_jobs(tmp_path: Path) -> None:
    # A long round reads the list once, and reaches its last shard much later.
    shard = Shard("r1", str(tmp_path), round=1, name="0000000000-0", lines=1)
    run = SimpleNamespace(batch=SimpleNamespace(grace_s=600.0))
    created_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=700)
    work_storage.write(shard.path("intent.json"), json.dumps({"at": created_at.isoformat()}).encode())
    listed_at = created_at + datetime.timedelta(seconds=10)
    no_jobs = cast("BatchJobs", None)  # a create would raise
    status = supervisor._create_job(cast("BatchRun", run), shard, no_jobs, listed_at, stop=False)
    assert (status.phase, status.job) == ("creating", None)
    with pytest.raises(AttributeError):
        supervisor._create_job(
            cast("BatchRun", run), shard, no_jobs, created_at + datetime.timedelta(seconds=601), stop=False
        )


@pytest.mark.long
def test_a_run_without_permission_stays_open_and_others_continue(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    other = Job(cloud, job.name, job.directory, job.rows, own_results=f"{job.name}_others")
    denied = "Permission 'aiplatform.batchPredictionJobs.create' denied on resource."
    fault(job, calls=[{"do": "http", "code": 403, "message": denied}])
    code, out, err = run_cli(batch_arguments(job))
    assert (code, out) == (3, "")
    assert denied in err
    assert "stays open and loses nothing" in err
    assert "Traceback" not in err
    (first,) = batch_state.list_run_ids(work_dir(job))
    calls = [{"match": f"imagebeam-{first}-*", "do": "http", "code": 403, "message": denied}]
    fault(job, {"match": f"imagebeam-{first}-*"}, {"stuck": "PENDING"}, calls=calls)
    code, _, err = run_cli(batch_arguments(other, "--no_wait"))
    assert code == 0, err
    fault(job, calls=calls)
    until(job, "SUCCEEDED")
    code, out, err = command(job, "collect")
    assert code == 3, (out, err)
    assert "2 OK" in out, "the other run is done"
    assert batch_state.list_run_ids(work_dir(job)) == [first]
    fault(job)
    assert summary_of(job)["counted"]["ok"] == 2
    assert sorted(created(job).values()) == [2], "one job for each of the two runs"
    assert recorded(job) == recorded(other) == 2


@pytest.mark.parametrize("destination", long_except(["gcs"], ["gcs", "bigquery"]))
def test_collects_the_output_of_a_deleted_job(cloud: LocalCloud, tmp_path: Path, destination: str) -> None:
    regional = ("--location=us-central1", "--model=gemini-2.5-flash") if destination == "bigquery" else ()
    job = make_job(cloud, tmp_path, 3, location="us-central1" if regional else "US")
    submit(job, f"--batch_destination={destination}", *regional)
    (made,) = until(job, "SUCCEEDED")
    with gemini(cloud, *(regional and ("us-central1",))) as client:
        client.batches.delete(name=made["name"])
    summary = summary_of(job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (3, [], 0), summary["err"]
    assert sum(created(job).values()) == 1
    assert set(paid(job).values()) == {1}


def twin_of(made: dict[str, Any], cloud: LocalCloud) -> str:
    """Creates a job like another, as a supervisor does that knows nothing of it; its name."""
    source = made["inputConfig"]["gcsSource"]["uris"][0]
    destination = made["outputConfig"]["gcsDestination"]["outputUriPrefix"]
    config = types.CreateBatchJobConfig(display_name=made["displayName"], dest=destination)
    with gemini(cloud) as client:
        return str(client.batches.create(model=made["model"], src=source, config=config).name)


@pytest.mark.long
def test_cancels_duplicate_and_late_jobs(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    failing, waiting = {"match": "*-r1-*", "failed": 1.0}, {"match": "*-r2-*", "stuck": "PENDING"}
    stopped = {"JOB_STATE_CANCELLING", "JOB_STATE_CANCELLED"}
    fault(job, failing, {"stuck": "PENDING"})
    submit(job)
    (first,) = cloud.batch_jobs()
    twin = twin_of(first, cloud)
    assert command(job, "collect", "--no_wait")[0] == 0
    states = {each["name"]: each["state"] for each in cloud.batch_jobs()}
    assert (states[first["name"]], states[twin] in stopped) == ("JOB_STATE_PENDING", True)
    fault(job, failing, waiting)
    until(job, "SUCCEEDED", "CANCELLED")
    assert command(job, "collect", "--no_wait")[0] == 0
    fault(job, failing, waiting, {"match": "*-r1-*", "stuck": "PENDING"})
    late = twin_of(first, cloud)
    assert command(job, "collect", "--no_wait")[0] == 0
    assert {each["name"]: each["state"] for each in cloud.batch_jobs()}[late] in stopped
    fault(job)
    summary = summary_of(job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (2, [], 0), summary["err"]
    assert created(job) == {"r1-0000000000-0": 3, "r2-0000000000-0": 1}
    assert set(paid(job).values()) == {1}


def test_ignores_other_files_and_unknown_lines(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    fault(job, {"stuck": "RUNNING", "output_info": "never", "shuffled": False})
    run_id = submit(job)
    until(job, "RUNNING")
    bucket = storage.Client().bucket(work_dir(job).split("/")[2])
    prefix = f"work/runs/{run_id}/batch/r1/0000000000-0.output"
    for _ in range(12_000):
        made = [blob.name for blob in bucket.list_blobs(prefix=prefix)]
        if made:
            break
        time.sleep(0.02)
    directory = made[0].rpartition("/incremental_predictions/")[0]
    image = f'{{"contents":[{{"parts":[{{"fileData":{{"fileUri":"{job.uri(1)}"}}}}]}}]}}'
    foreign = f'{{"custom_id":"k-other","request":{image},"response":{{}},"status":""}}\nnot even JSON\n'
    bucket.blob(f"{directory}/predictions_of_others.jsonl").upload_from_string(foreign)
    bucket.blob(f"{directory}/README.txt").upload_from_string("hello")
    bucket.blob(f"{prefix}/notes.jsonl").upload_from_string("{}\n")
    bucket.blob(f"{prefix}/prediction-zzz/empty.txt").upload_from_string("")
    fault(job)
    summary = summary_of(job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (4, [], 0), summary["err"]
    assert sum(created(job).values()) == 1
    assert "2 lines without a unit" in summary["err"]
    letters = bucket.blob(f"work/runs/{run_id}/batch/r1/0000000000-0.unmatched.jsonl").download_as_text()
    assert "k-other" in letters
    assert "not even JSON" in letters


@pytest.mark.long
def test_jobs_without_write_permission_stop_the_run(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    fault(job, {"output_forbidden": True})
    code, out, said = run_cli(batch_arguments(job, "--batch_lines=2"))
    assert code == 3, (out, said)
    assert "storage.objects.create" in out
    assert "stopped early (systemic: every batch job failed" in out
    assert created(job) == {"r1-0000000000-0": 1, "r1-0000000002-0": 1}, "another round would fail as well"
    assert batch_state.list_run_ids(work_dir(job)) == []
    fault(job)
    rest = batch(job)
    assert (rest["source"]["remaining"], rest["counted"]["ok"], rest["exit_code"]) == (4, 4, 0)
    assert set(paid(job).values()) == {1}


@pytest.mark.long
def test_fallback_lane_processes_the_remainder_after_the_deadline(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    fault(job, in_shard(2, stuck="RUNNING", shuffled=False), in_shard(4, stuck="PENDING"))
    summary = batch(job, "--batch_lines=2", "--batch_deadline_s=8")
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (6, [], 0), summary["err"]
    lanes = job.query("SELECT lane, COUNT(*) AS n FROM {results}.outcomes WHERE status = 'OK' GROUP BY lane")
    assert {row["lane"]: row["n"] for row in lanes} == {"batch": 3, "flex": 3}
    bought, calls = paid(job), job.calls()
    assert [bought.get(job.uri(place), 0) + calls.get(job.uri(place), 0) for place in range(6)] == [1] * 6
    assert set(created(job).values()) == {1}


@pytest.mark.long
def test_cancel_keeps_finished_rows_and_the_others_remain(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    fault(job, in_shard(2, stuck="RUNNING", cancel_s=0.3), in_shard(4, stuck="PENDING"))
    run_id = submit(job, "--batch_lines=2")
    until(job, "SUCCEEDED", "RUNNING", "PENDING")
    code, _, err = command(job, "cancel")
    assert (code, run_id in err) == (2, True), err
    while sum(paid(job).values()) < 3:
        time.sleep(0.02)
    code, out, err = command(job, "cancel", f"--run_id={run_id}")
    assert code == 0, (out, err)
    assert "3 OK" in out
    assert "3 UNAVAILABLE/CANCELLED" in out
    assert "the batch run was canceled" in out
    again = command(job, "cancel", f"--run_id={run_id}")
    assert again[0] == 2
    assert "has already ended" in again[2]
    assert {each["state"] for each in cloud.batch_jobs()} == {"JOB_STATE_SUCCEEDED", "JOB_STATE_CANCELLED"}
    fault(job)
    rest = batch(job)
    assert (rest["source"]["remaining"], rest["counted"]["ok"], rest["exit_code"]) == (3, 3, 0)
    assert set(paid(job).values()) == {1}


@pytest.mark.long
def test_ends_a_run_whose_requests_cannot_be_written(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{"asset_type": "POLE" * 400} if place == 3 else {} for place in range(6)])
    task = tmp_path / "long.yaml"
    task.write_text("name: long\nprompt: 'Look at the {{asset_type}}'\n")
    code, out, err = run_cli(batch_arguments(job, "--batch_lines=1", "--batch_bytes=1500", task=str(task)))
    assert (code, out) == (2, ""), err
    assert "a request has" in err
    assert batch_state.list_run_ids(work_dir(job)) == []
    assert created(job) == {}
    summary = batch(job, task=str(task))
    assert (summary["source"]["remaining"], summary["counted"]["ok"], summary["exit_code"]) == (6, 6, 0), summary["err"]
    assert set(paid(job).values()) == {1}


@pytest.mark.long
def test_a_round_waits_for_another_run_of_the_task(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    fault(job, {"match": "*-r1-*", "failed": 1.0})
    submit(job)
    until(job, "SUCCEEDED")
    bq = BigQueryClient(bigquery.Client().project)
    table = lease.lease_table(TableName(bq.project, job.results, "outcomes"), "image_quality")
    theirs = lease.Holder("their-run", "ada", "another-host", 1, 1, "2026-11-21T00:00:00+00:00")
    lease.acquire(bq, table, "their-run", me=theirs)
    code, out, err = command(job, "collect", "--no_wait")
    assert (code, out) == (0, ""), err
    assert "waiting, because run their-run" in err
    lease.release(bq, table, "their-run")
    summary = summary_of(job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (2, [], 0), summary["err"]
    assert created(job) == {"r1-0000000000-0": 1, "r2-0000000000-0": 1}


def test_ends_a_run_once(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    run_id = submit(job)
    first = summary_of(job)
    code, out, _ = command(job, "collect", f"--run_id={run_id}")
    assert code == 0
    assert "2 OK" in out
    assert first["run_id"] == run_id
    ends = job.query("SELECT COUNT(*) AS n FROM {results}.runs WHERE event = 'end'")
    assert ends == [{"n": 1}]


def test_storage_without_permission_stops_the_run_in_one_line(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    for place, arguments in (
        (".output/", batch_arguments(job)),
        (".outcomes.jsonl", ["batch", "collect", f"--work_dir={work_dir(job)}"]),
    ):
        cloud.faults(storage={"rules": [{"match": place, "do": "http", "code": 403, "message": "Not yours."}]})
        code, out, err = run_cli(arguments)
        assert (code, out) == (3, ""), err
        assert "Not yours." in err
        assert "stays open and loses nothing" in err
        assert "Traceback" not in err
    cloud.faults(storage={})
    summary = summary_of(job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (2, [], 0), summary["err"]
    assert created(job) == {"r1-0000000000-0": 1}
    assert recorded(job) == 2


def test_a_repeated_step_writes_the_same_requests(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{"gcs_uri": None} if place == 2 else {} for place in range(5)])
    fault(job, {"stuck": "PENDING"})
    run_id = submit(job, "--batch_lines=2")
    bucket = storage.Client().bucket(work_dir(job).split("/")[2])
    prefix = f"work/runs/{run_id}/batch/r1/"

    def files() -> dict[str, bytes]:
        blobs = list(bucket.list_blobs(prefix=prefix))
        return {blob.name: blob.download_as_bytes() for blob in blobs if "requests" in blob.name}

    before = files()
    # As if the supervisor had died when one shard of three was not whole yet.
    for name in ("prepared.json", "0000000002-0.shard.json", "0000000002-0.requests.jsonl"):
        bucket.blob(prefix + name).delete()
    assert command(job, "collect", "--no_wait")[0] == 0
    assert files() == before
    fault(job)
    summary = summary_of(job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (4, [], 0), summary["err"]
    assert summary["counted"]["failed"] == {"IMAGE_ERROR/NO_URI": 1}
    assert set(created(job).values()) == {1}
    assert (recorded(job, "SUBMITTED"), recorded(job), recorded(job, "IMAGE_ERROR")) == (4, 4, 1)


def test_status_reports_an_unavailable_service(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 1)
    fault(job, {"stuck": "PENDING"})
    submit(job)
    fault(job, {"stuck": "PENDING"}, calls=[{"method": "list", "do": "http", "code": 403, "message": "No."}])
    code, _, err = command(job, "status")
    assert code == 3
    assert "listing batch jobs" in err
    assert "Traceback" not in err

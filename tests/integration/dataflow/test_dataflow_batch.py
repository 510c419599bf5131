"""The batch lane on Dataflow: one Dataflow job writes the requests and creates the batch jobs."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path

import google.cloud.dataflow as dataflow
import pytest
from support.batch_runs import answers, batch_arguments, command, created, fault, paid, summary_of, work_dir
from support.dataflow_local import IMAGE, Place, make_place
from support.jobs import captured, run_cli
from support.settings_lines import classify_settings

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.pipeline.cli import flex_template
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.jobs import classify
from imagebeam.pipeline.preflight.gate import prepare_run
from imagebeam.pipeline.run.embed_settings import JOBS
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import SystemicError, UserError
from imagebeam.transforms.run_tables import prepare_tables

STEPS = {
    *("Start/Once", "Start/Start/FlatMap(_start)", "Start/SpreadPages"),
    *("Open", "Build/WriteRequests", "Complete", "Settle", "Submit"),
}


def submitted(place: Place, *more: str) -> str:
    """Submits the job; what it said last."""
    flags = ("--lane=batch", f"--work_dir={work_dir(place.job)}", "--batch_grace_s=1", *more)
    code, out, err = run_cli(place.arguments(*flags))
    assert (code, out) == (0, ""), err
    return err.splitlines()[-1]


def build_run_settings(place: Place) -> BatchRun:
    (run_id,) = batch_state.list_run_ids(work_dir(place.job))
    return batch_state.load_run(work_dir(place.job), run_id)


def test_one_dataflow_job_prepares_and_submits(cloud: LocalCloud, tmp_path: Path) -> None:
    place = make_place(cloud, tmp_path, 7)
    job = place.job
    fault(job, {"pending_s": 0.2, "running_s": 0.2}, {"match": "*-r1-0000000000-0", "missing": 1.0})
    said = submitted(place, "--batch_lines=3", "--run_id=on-dataflow")
    assert said == f"submitted; once jobs exist, run `imagebeam batch collect --work_dir={work_dir(job)}`"
    (there,) = place.submitted()
    assert (there.name, dict(there.labels)) == ("imagebeam-on-dataflow", {"imagebeam-run": "on-dataflow"})
    (workers,) = there.environment.worker_pools
    assert (workers.num_workers, workers.num_threads_per_worker) == (1, 4)
    assert workers.worker_harness_container_image == IMAGE
    assert place.steps() >= STEPS
    assert batch_state.list_run_ids(work_dir(job)) == [], "nothing is begun before a worker begins it"
    assert created(job) == {}
    place.work()
    first = {"r1-0000000000-0": 1, "r1-0000000003-0": 1, "r1-0000000006-0": 1}
    assert created(job) == first
    # A worker may be lost at its very end, and all that it did is done again.
    place.work()
    assert created(job) == first
    run = build_run_settings(place)
    supervisor.reconcile(run, supervisor.jobs_client(run), only_create=True)
    assert created(job) == first
    code, out, _ = command(job, "status")
    assert (code, "on-dataflow, round 1: 3 jobs" in out) == (0, True), out
    summary = summary_of(job)
    assert (summary["exit_code"], summary["problems"]) == (0, []), summary["err"]
    assert (summary["counted"]["ok"], summary["counted"]["read"]) == (7, 7)
    assert created(job) == {**first, "r2-0000000000-0": 1}
    assert [row["status"] for row in answers(job)] == ["OK"] * 7
    assert len(place.submitted()) == 1, "what is left is done where it is collected"
    # Even after the end.
    place.work()
    assert sum(created(job).values()) == 4
    assert sum(paid(job).values()) == 7 + 3, "the answers that were never written, and nothing else"
    # Nothing is due any more: the next run ends on the worker.
    assert "once jobs exist" in submitted(place, "--run_id=once-more")
    place.work()
    run = batch_state.load_run(work_dir(job), "once-more")
    ended = read_json(run.run.summary_path) or {}
    assert (ended["state"], ended["source"]["already_done"], ended["problems"]) == ("DONE", 7, [])
    assert batch_state.list_run_ids(work_dir(job)) == []
    assert sum(created(job).values()) == 4


@pytest.mark.long
def test_a_repeated_step_creates_no_second_job(cloud: LocalCloud, tmp_path: Path) -> None:
    place = make_place(cloud, tmp_path, 3)
    submitted(place)
    fault(place.job, calls=[{"do": "http", "code": 403, "message": "aiplatform.batchPredictionJobs.create"}])
    with pytest.raises(SystemicError, match="batchPredictionJobs"):
        place.work()
    assert "batchPredictionJobs" in json.loads(place.staged()["error.json"].download_as_bytes())["message"]
    assert created(place.job) == {}
    fault(place.job, {"unlisted_s": 0.5}, calls=[{"do": "lost_answer", "times": 1}])
    place.work()
    place.work()
    assert "error.json" not in place.staged()
    assert created(place.job) == {"r1-0000000000-0": 1}
    summary = summary_of(place.job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (3, [], 0), summary["err"]
    assert created(place.job) == {"r1-0000000000-0": 1}
    assert set(paid(place.job).values()) == {1}


def begun(place: Place) -> BatchRun:
    """A run that a worker has begun, on a machine of another name, and not yet prepared."""
    _, *line = batch_arguments(place.job)
    settings, _ = classify_settings(line, cwd=Path.cwd(), environ={"GOOGLE_CLOUD_PROJECT": place.job.cloud.project})
    run = classify.build_batch_run(settings, prepare_run(settings, [], Console(quiet=True)).run, [])
    prepare_tables(BigQueryClient(place.job.cloud.project), run.run)
    batch_state.save_run(run)
    take(run, "worker-1")
    return run


def take(run: BatchRun, host: str) -> None:
    destination = run.run.engine.destination
    assert destination is not None
    assert destination.lease is not None
    bq = BigQueryClient(run.run.engine.call_settings.project)
    me = dataclasses.replace(lease.build_holder(run.run.run_id), host=host, pid=1)
    bq.drop_table(destination.lease)
    lease.acquire(bq, destination.lease, run.run.run_id, me=me)


@pytest.mark.long
def test_waits_for_the_worker_that_writes_requests(cloud: LocalCloud, tmp_path: Path) -> None:
    place = make_place(cloud, tmp_path, 2)
    run = begun(place)
    code, _, err = command(place.job, "collect", "--no_wait")
    assert (code, created(place.job), batch_state.load_prepared(run, 1)) == (0, {}, None)
    assert "its requests are being written on worker-1, since " in err
    take(run, socket.gethostname())
    summary = summary_of(place.job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (2, [], 0), summary["err"]


def test_cancel_waits_for_the_worker(cloud: LocalCloud, tmp_path: Path) -> None:
    place = make_place(cloud, tmp_path, 2)
    run = begun(place)
    code, _, err = command(place.job, "cancel", f"--run_id={run.run.run_id}", "--no_wait")
    assert (code, "its requests are being written on worker-1" in err) == (0, True), err
    assert batch_state.list_run_ids(work_dir(place.job)) == [run.run.run_id]
    take(run, socket.gethostname())
    code, _, err = command(place.job, "collect", "--no_wait")
    assert (created(place.job), batch_state.list_run_ids(work_dir(place.job))) == ({}, []), err


@pytest.mark.long
def test_a_worker_writes_nothing_for_a_canceled_run(cloud: LocalCloud, tmp_path: Path) -> None:
    place = make_place(cloud, tmp_path, 2)
    submitted(place, "--run_id=stopped")
    run = begun(make_place(cloud, tmp_path / "other", 1))
    run = dataclasses.replace(run, run=dataclasses.replace(run.run, directory=f"{work_dir(place.job)}/runs/stopped"))
    batch_state.cancel(run)
    with pytest.raises(UserError, match="run stopped was canceled: no more requests are written"):
        place.work()
    assert created(place.job) == {}
    assert place.job.query("SELECT COUNT(*) AS n FROM {results}.outcomes") == [{"n": 0}]


@pytest.mark.parametrize(
    "job",
    [pytest.param(job, marks=pytest.mark.long) for job, made in JOBS.items() if "batch" in made.flags["lane"].choices],
)
def test_a_template_submits_batch_jobs(
    cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    place = make_place(cloud, tmp_path, 3)
    monkeypatch.setenv("IMAGEBEAM_SDK_IMAGE", IMAGE)
    flags = ("--lane=batch", f"--work_dir={work_dir(place.job)}", "--sdk_container_image=", "--batch_lines=2")
    _, *line = place.arguments(*flags, command=job)
    own = {"classify": [], "embed": ["--job=embed", "--dimension=8"]}[job]
    target = f"gs://{place.bucket}/staging/template_launches/1/job_object"
    with captured() as (_, err):
        code = flex_template.main([*line, *own, f"--template_location={target}", "--batch_rounds=3"])
    assert code == 0, err.getvalue()
    there = dataflow.Job.from_json(place.staged()["job_object"].download_as_bytes(), ignore_unknown_fields=False)
    assert there.environment.worker_pools[0].worker_harness_container_image == IMAGE
    assert place.steps() >= STEPS
    assert place.submitted() == [], "the launcher submits it"
    place.work()
    assert created(place.job) == {"r1-0000000000-0": 1, "r1-0000000002-0": 1}
    assert "--template_location" not in str(build_run_settings(place).beam_args), "a later step is no template"
    summary = summary_of(place.job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (3, [], 0), summary["err"]

"""Whole runs of ``imagebeam classify``: failures, versions, kills and signals. See also ``test_matrix.py``."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from support.jobs import PHOTOS, kill, make_job, run_cli, start_process, wait_for_rows

from imagebeam.emulators.cloud import LocalCloud

TASK = """\
name: seen
prompt: |
  What is it? {extra}
schema:
  type: object
  properties:
    label: {{type: string, enum: [yes, no]}}
    score: {{type: number, minimum: 0, maximum: 1}}
  required: [label, score]
"""


def own_task(directory: Path, extra: str = "") -> str:
    path = directory / "seen.yaml"
    path.write_text(TASK.format(extra=extra).replace("[yes, no]", "['yes', 'no']"))
    return str(path)


@pytest.mark.long
def test_processes_permanent_failures_again_only_on_request(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    cloud.faults(vertex={"rules": [{"match": job.uri(0), "do": "blocked", "reason": "SAFETY"}]})
    job.run()
    cloud.reset()
    code, _, err = run_cli(job.arguments("--reprocess=failed:SAFTY"))
    assert code == 0
    assert "no unit failed with SAFTY; failed before: SAFETY 1" in err
    assert job.calls() == {}
    again = job.run("--reprocess=failed:SAFETY")
    assert (again["source"]["remaining"], again["counted"]["ok"]) == (1, 1)
    assert job.query("SELECT * FROM {results}.dead_letters") == []


def test_processes_unavailable_units_in_the_next_run(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    cloud.faults(vertex={"rules": [{"match": job.uri(0), "do": "http", "code": 503}]})
    assert job.run("--unit_deadline_s=3")["counted"]["failed"] == {"UNAVAILABLE/HTTP_503": 1}
    cloud.reset()
    again = job.run()
    assert (again["source"]["remaining"], again["counted"]["ok"]) == (1, 1)
    assert job.calls() == {job.uri(0): 1}


def test_changed_prompt_keeps_the_old_answers_and_marks_them_outdated(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 5)
    first = job.run(task=own_task(tmp_path))
    second = job.run(task=own_task(tmp_path, "Look twice."))
    assert (second["source"]["outdated"], second["source"]["remaining"]) == (5, 0)
    third = job.run("--reprocess=outdated", task=own_task(tmp_path, "Look twice."))
    assert (third["counted"]["ok"], third["exit_code"]) == (5, 0)
    versions = job.query("SELECT version, COUNT(*) AS n FROM {results}.outcomes GROUP BY 1")
    assert {row["version"]: row["n"] for row in versions} == {first["version"]: 5, third["version"]: 5}
    current = job.query("SELECT DISTINCT _version FROM {results}.seen")
    assert current == [{"_version": third["version"]}]
    kept = job.query("SELECT task, version FROM {results}.task_versions")
    assert {row["version"] for row in kept} == {first["version"], third["version"]}


def test_answers_an_image_with_the_wrong_file_extension(cloud: LocalCloud, tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.open(PHOTOS[0]).resize((64, 64)).save(png, "PNG")
    job = make_job(cloud, tmp_path, [{"data": png.getvalue()}, {"data": png.getvalue(), "suffix": ".photo"}])
    summary = job.run()
    assert summary["counted"]["ok"] == 2, summary


def test_waits_for_quota(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 40)
    cloud.faults(vertex={"quota": {"requests_per_minute": 900, "burst": 5}})
    summary = job.run()
    assert summary["counted"]["ok"] == 40, summary["err"]
    assert all(row["attempts"] == 1 for row in job.query("SELECT attempts FROM {results}.outcomes"))


def test_repeated_bundle_calls_nothing_again(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 20)
    summary = job.run("--direct_runner_bundle_repeat=1", "--unit_batch_size=7")
    assert set(job.calls().values()) == {1}, summary["err"]


def test_rejected_row_keeps_the_answer_as_text(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    unit = job.rows[2]["observation_id"]
    cloud.faults(bigquery={"insert_failures": [{"match": unit, "times": 1, "do": "row_error"}]})
    summary = job.run()
    assert summary["counted"]["failed"] == {"INVALID_ANSWER/ROW_REJECTED": 1}, summary["err"]
    rows = job.query("SELECT unit_id, raw_text FROM {results}.outcomes WHERE status = 'INVALID_ANSWER'")
    assert rows[0]["unit_id"] == unit
    assert rows[0]["raw_text"].startswith("{")


def test_retries_failed_inserts(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 10)
    unit = job.rows[4]["observation_id"]
    cloud.faults(bigquery={"insert_failures": [{"match": unit, "times": 3, "do": "http_503"}]})
    summary = job.run()
    assert summary["counted"]["ok"] == 10, summary["err"]
    assert set(job.calls().values()) == {1}


def test_invalid_credentials_stop_the_run(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 10)
    cloud.faults(
        vertex={"rules": [{"rate": 1.0, "do": "http", "code": 401, "message": "Request had invalid credentials."}]}
    )
    summary = job.run()
    assert summary["exit_code"] == 3
    assert summary["counted"]["skipped"] == 10


@pytest.mark.long
def test_larger_limit_includes_the_units_of_a_smaller_one(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 9)
    assert job.run("--limit=4")["source"]["units_in"] == 4
    wider = job.run("--limit=8")
    assert (wider["source"]["already_done"], wider["source"]["remaining"]) == (4, 4)


def test_query_is_a_source(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    arguments = [argument for argument in job.arguments() if not argument.startswith("--source")]
    code, out, err = run_cli(
        [*arguments, f"--query=SELECT gcs_uri AS uri, heading FROM {job.name}.observations WHERE heading < 3"]
    )
    assert code == 0, err
    assert "3 in" in out


def test_run_after_a_kill_repeats_no_recorded_answer(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{"suffix": ".jpg" if index < 16 else ".slow.jpg"} for index in range(24)])
    cloud.faults(vertex={"rules": [{"match": ".slow.", "do": "slow", "seconds": 3600}]})
    process = start_process(job.arguments("--in_flight=24"))
    wait_for_rows(job, "outcomes", 16, process)  # answers can be queried during the run
    kill(process)
    answered = {row["unit_id"] for row in job.query("SELECT unit_id FROM {results}.outcomes WHERE status = 'OK'")}
    assert answered == {row["observation_id"] for row in job.rows[:16]}
    before = job.calls()
    cloud.faults(vertex={})
    summary = job.run()
    assert summary["exit_code"] == 0, summary["err"]
    assert (summary["source"]["already_done"], summary["counted"]["ok"]) == (16, 8)
    calls = job.calls()
    assert all(calls[job.uri(index)] == before[job.uri(index)] == 1 for index in range(16))


def test_run_drains_on_a_signal(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{"suffix": ".jpg" if index < 4 else ".never.jpg"} for index in range(8)])
    cloud.faults(vertex={"rules": [{"match": ".never.", "do": "http", "code": 429}]})  # without a signal, it waits

    def interrupt() -> None:
        while not {job.uri(index) for index in range(4)} <= job.calls().keys():
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    summary = job.run()
    thread.join()
    assert summary["exit_code"] == 130, summary["err"]
    assert (summary["counted"]["ok"], summary["counted"]["skipped"]) == (4, 4)
    assert len(job.query("SELECT unit_id FROM {results}.outcomes")) == 4


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_drains_on_the_first_signal(cloud: LocalCloud, tmp_path: Path, number: signal.Signals) -> None:
    job = make_job(cloud, tmp_path, 60)
    cloud.faults(vertex={"latency": {"median_s": 2, "sigma": 0.01}})
    process = start_process(job.arguments("--in_flight=1"))  # two minutes, if it were not interrupted
    wait_for_rows(job, "outcomes", 1, process)
    process.send_signal(number)
    out, _ = process.communicate()
    assert process.returncode == 130, out
    assert "skipped (remaining)" in out
    assert sum(job.calls().values()) == len(job.query("SELECT unit_id FROM {results}.outcomes")), out
    assert f"stopped early (interrupted: {number.name})" in out


@pytest.mark.long
def test_two_worker_processes_call_each_image_once(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 20)
    summary = job.run("--direct_num_workers=2", "--direct_running_mode=multi_processing", "--unit_batch_size=5")
    assert summary["counted"]["ok"] == 20, summary["err"]
    assert set(job.calls().values()) == {1}


def test_task_with_downscaled_images_sends_bytes(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    task = tmp_path / "small.yaml"
    task.write_text("name: small\nprompt: What is it?\nimage: {max_side: 64}\n")
    summary = job.run(task=str(task))
    assert summary["counted"]["ok"] == 3, summary["err"]
    assert all(name.startswith("inline:") for name in job.calls())

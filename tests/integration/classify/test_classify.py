"""The main job, end to end: the command line, Beam and the unchanged clients against the local Google Cloud."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.jobs import PHOTOS, Job, make_job, run_cli

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


def test_every_unit_is_answered_once_and_the_books_balance(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 30)
    summary = job.run()
    assert summary["exit_code"] == 0, summary["err"]
    assert (summary["counted"]["ok"], summary["counted"]["failed"], summary["problems"]) == (30, {}, [])
    assert job.calls() == {row["gcs_uri"]: 1 for row in job.rows}
    recorded = job.query("SELECT COUNT(*) AS n, COUNT(DISTINCT unit_id) AS units FROM {results}.outcomes")
    assert recorded == [{"n": 30, "units": 30}]


def test_the_view_of_the_task_has_typed_columns(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    assert job.run(task=own_task(tmp_path))["exit_code"] == 0
    rows = job.query("SELECT unit_id, label, score, _version, _run_id FROM {results}.seen ORDER BY unit_id")
    assert [row["unit_id"] for row in rows] == [row["observation_id"] for row in job.rows]
    for row in rows:
        assert row["label"] in ("yes", "no")
        assert 0 <= row["score"] <= 1


def test_free_text_is_an_answer_too(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    assert job.run(task="describe")["exit_code"] == 0
    assert all(row["text"] for row in job.query("SELECT text FROM {results}.describe"))


def test_a_second_run_calls_nothing(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 12)
    job.run()
    cloud.reset()
    summary = job.run()
    assert summary["exit_code"] == 0
    assert summary["source"]["already_done"] == 12
    assert job.calls() == {}
    assert cloud.counters().get("vertex", {}).get("calls", 0) == 0


def test_five_kinds_of_trouble_among_a_hundred_stay_five(cloud: LocalCloud, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{} for _ in range(100)]
    rows[20] = {"data": None}
    rows[40] = {"data": b"\xff\xd8\xff\xe0 this is no photograph"}
    job = make_job(cloud, tmp_path, rows)
    cloud.faults(
        vertex={
            "rules": [
                {"match": job.uri(10), "do": "http", "code": 500, "message": "internal"},
                {"match": job.uri(60), "do": "blocked", "reason": "SAFETY"},
                {"match": job.uri(80), "do": "bad_json"},
            ]
        }
    )
    summary = job.run("--unit_deadline_s=6")
    assert summary["exit_code"] == 0, summary["err"]
    assert summary["counted"]["ok"] == 95
    assert summary["counted"]["failed"] == {
        "UNAVAILABLE/HTTP_500": 1,
        "IMAGE_ERROR/NOT_FOUND": 1,
        "IMAGE_ERROR/UNREADABLE": 1,
        "BLOCKED/SAFETY": 1,
        "INVALID_ANSWER/NOT_JSON": 1,
    }
    calls = job.calls()
    troubled = {job.uri(index) for index in (10, 20, 40, 60, 80)}
    assert all(calls[row["gcs_uri"]] == 1 for row in job.rows if row["gcs_uri"] not in troubled)
    assert calls[job.uri(80)] == 2, "an answer that is no answer is asked for once more"
    letters = job.query("SELECT unit_id, status, reason FROM {results}.dead_letters")
    assert {(letter["status"], letter["reason"]) for letter in letters} == {
        tuple(key.split("/")) for key in summary["counted"]["failed"]
    }


def test_what_failed_for_good_waits_until_it_is_asked_for(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    cloud.faults(vertex={"rules": [{"match": job.uri(0), "do": "blocked", "reason": "SAFETY"}]})
    job.run()
    cloud.reset()
    again = job.run()
    assert (again["source"]["failed_before"], again["source"]["remaining"]) == (1, 0)
    assert job.calls() == {}
    code, _, err = run_cli(job.arguments("--reprocess=failed:SAFTY"))
    assert code == 0
    assert "no unit failed with SAFTY; failed before: SAFETY 1" in err
    asked = job.run("--reprocess=failed:SAFETY")
    assert (asked["source"]["remaining"], asked["counted"]["ok"]) == (1, 1)
    assert job.query("SELECT * FROM {results}.dead_letters") == []


def test_what_was_unavailable_is_due_again(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    cloud.faults(vertex={"rules": [{"match": job.uri(0), "do": "http", "code": 503}]})
    assert job.run("--unit_deadline_s=3")["counted"]["failed"] == {"UNAVAILABLE/HTTP_503": 1}
    cloud.reset()
    again = job.run()
    assert (again["source"]["remaining"], again["counted"]["ok"]) == (1, 1)
    assert job.calls() == {job.uri(0): 1}


def test_a_changed_prompt_outdates_and_keeps_the_old_answers(cloud: LocalCloud, tmp_path: Path) -> None:
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


def test_the_images_of_an_asset_are_one_question(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 9)
    summary = job.run("--unit=asset", task=own_task(tmp_path, "{{capture_time}} {{heading}} {{asset_type}}"))
    assert summary["counted"]["ok"] == 3, summary["err"]
    assert cloud.counters()["vertex"]["calls"] == 3
    rows = job.query("SELECT unit_type, observation_ids FROM {results}.outcomes ORDER BY unit_id")
    assert [len(row["observation_ids"]) for row in rows] == [3, 3, 3]
    assert rows[0]["observation_ids"] == [row["observation_id"] for row in job.rows[:3]]


def test_images_can_travel_in_the_request(cloud: LocalCloud, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{} for _ in range(5)]
    rows[1] = {"data": b"GIF89a not really"}
    rows[3] = {"data": None}
    job = make_job(cloud, tmp_path, rows)
    summary = job.run("--transport=inline")
    assert summary["counted"]["ok"] == 3, summary["err"]
    assert set(summary["counted"]["failed"]) == {"IMAGE_ERROR/NOT_FOUND", "IMAGE_ERROR/UNREADABLE"} or set(
        summary["counted"]["failed"]
    ) == {"IMAGE_ERROR/NOT_FOUND", "IMAGE_ERROR/UNSUPPORTED"}


def test_a_picture_whose_name_lies_about_its_type_is_still_answered(cloud: LocalCloud, tmp_path: Path) -> None:
    import io

    from PIL import Image

    png = io.BytesIO()
    Image.open(PHOTOS[0]).resize((64, 64)).save(png, "PNG")
    job = make_job(cloud, tmp_path, [{"data": png.getvalue()}, {"data": png.getvalue(), "suffix": ".photo"}])
    summary = job.run()
    assert summary["counted"]["ok"] == 2, summary


def test_a_missing_or_odd_address_is_that_rows_outcome(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{}, {"gcs_uri": None}, {"gcs_uri": "https://example.com/a.jpg"}])
    summary = job.run()
    assert summary["counted"]["ok"] == 1
    assert summary["counted"]["failed"] == {"IMAGE_ERROR/NO_URI": 2}


def test_quota_is_waited_for_and_loses_nothing(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 60)
    cloud.faults(vertex={"quota": {"requests_per_minute": 900, "burst": 5}})
    summary = job.run()
    assert summary["counted"]["ok"] == 60, summary["err"]
    assert all(row["attempts"] == 1 for row in job.query("SELECT attempts FROM {results}.outcomes"))


def test_a_bundle_that_runs_again_pays_nothing_again(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 20)
    summary = job.run("--direct_runner_bundle_repeat=1", "--unit_batch_size=7")
    assert set(job.calls().values()) == {1}, summary["err"]


def test_a_rejected_row_keeps_the_answer_as_text(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    unit = job.rows[2]["observation_id"]
    cloud.faults(bigquery={"insert_failures": [{"match": unit, "times": 1, "do": "row_error"}]})
    summary = job.run()
    assert summary["counted"]["failed"] == {"INVALID_ANSWER/ROW_REJECTED": 1}, summary["err"]
    rows = job.query("SELECT unit_id, raw_text FROM {results}.outcomes WHERE status = 'INVALID_ANSWER'")
    assert rows[0]["unit_id"] == unit
    assert rows[0]["raw_text"].startswith("{")


def test_inserts_that_fail_for_a_while_lose_nothing(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 10)
    unit = job.rows[4]["observation_id"]
    cloud.faults(bigquery={"insert_failures": [{"match": unit, "times": 3, "do": "http_503"}]})
    summary = job.run()
    assert summary["counted"]["ok"] == 10, summary["err"]
    assert set(job.calls().values()) == {1}


def test_a_switched_off_api_stops_the_run_and_loses_nothing(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 10)
    cloud.faults(
        vertex={"rules": [{"rate": 1.0, "do": "http", "code": 401, "message": "Request had invalid credentials."}]}
    )
    summary = job.run()
    assert summary["exit_code"] == 3
    assert summary["counted"]["skipped"] == 10
    cloud.reset()
    assert job.run()["counted"]["ok"] == 10


def test_filters_choose_the_units(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 20)
    assert job.run("--limit=4")["source"]["units_in"] == 4
    wider = job.run("--limit=8")
    assert (wider["source"]["already_done"], wider["source"]["remaining"]) == (4, 4)
    chosen = job.run("--where=heading < 5", "--captured_until=2024-05-03")
    assert chosen["source"]["units_in"] == 2


def test_a_query_is_a_source_too(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    arguments = [argument for argument in job.arguments() if not argument.startswith("--source")]
    from support.jobs import run_cli

    code, out, err = run_cli(
        [*arguments, f"--query=SELECT gcs_uri AS uri, heading FROM {job.name}.observations WHERE heading < 3"]
    )
    assert code == 0, err
    assert "3 in" in out


def test_kept_columns_reach_prompt_and_results(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    summary = job.run("--keep_columns=heading", task=own_task(tmp_path, "{{extra.heading}}"))
    assert summary["counted"]["ok"] == 2, summary["err"]
    rows = job.query("SELECT JSON_VALUE(extra, '$.heading') AS heading FROM {results}.outcomes")
    assert {float(row["heading"]) for row in rows} == {0.0, 1.0}


def start(job: Job, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "imagebeam.pipeline", *job.arguments(*more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_answers(job: Job, number: int, process: subprocess.Popen[str]) -> None:
    for _ in range(400):
        time.sleep(0.1)
        try:
            if job.query("SELECT COUNT(*) AS n FROM {results}.outcomes")[0]["n"] >= number:
                return
        except Exception:
            pass
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
    raise AssertionError("no answers came")


def test_a_killed_run_goes_on_where_it_was(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 200)
    cloud.faults(vertex={"latency": {"median_s": 0.4, "sigma": 0.3}})
    process = start(job, "--in_flight=8")
    wait_for_answers(job, 16, process)  # answers can be queried while the run is going
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    answered = {row["unit_id"] for row in job.query("SELECT unit_id FROM {results}.outcomes WHERE status = 'OK'")}
    assert 16 <= len(answered) < 200
    before = job.calls()
    cloud.faults(vertex={})
    summary = job.run()
    assert summary["exit_code"] == 0, summary["err"]
    assert summary["source"]["already_done"] == len(answered)
    calls = job.calls()
    for row in job.rows:
        if row["observation_id"] in answered:
            assert calls[row["gcs_uri"]] == before[row["gcs_uri"]] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_drains_on_the_first_signal(cloud: LocalCloud, tmp_path: Path, number: signal.Signals) -> None:
    job = make_job(cloud, tmp_path, 200)
    cloud.faults(vertex={"latency": {"median_s": 0.5, "sigma": 0.1}})
    process = start(job, "--in_flight=4")
    wait_for_answers(job, 4, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "skipped (remaining)" in out
    assert sum(job.calls().values()) == len(job.query("SELECT unit_id FROM {results}.outcomes")), out
    assert f"stopped early (interrupted: {number.name})" in out


def test_two_worker_processes_share_the_work_and_repeat_nothing(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 40)
    summary = job.run("--direct_num_workers=2", "--direct_running_mode=multi_processing", "--unit_batch_size=5")
    assert summary["counted"]["ok"] == 40, summary["err"]
    assert set(job.calls().values()) == {1}


def test_a_task_that_shrinks_its_images_sends_them_along(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    task = tmp_path / "small.yaml"
    task.write_text("name: small\nprompt: What is it?\nimage: {max_side: 64}\n")
    summary = job.run(task=str(task))
    assert summary["counted"]["ok"] == 3, summary["err"]
    assert all(name.startswith("inline:") for name in job.calls())

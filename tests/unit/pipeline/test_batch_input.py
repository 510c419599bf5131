"""Jobs on the user's own input: claims, results and exit codes, without a service."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from imagebeam.pipeline.batch_input import results, state
from imagebeam.pipeline.batch_input.state import InputRun
from imagebeam.transforms.clients.batch_output import answer_files, find_output_directory
from imagebeam.transforms.core.records import Usage
from imagebeam.transforms.gemini.batch_responses import parse_line
from imagebeam.transforms.gemini.job_states import BatchJob
from imagebeam.transforms.tasks.model_profiles import Price

NOW = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
DONE = BatchJob("projects/1/locations/us-central1/batchPredictionJobs/7", "mine", "JOB_STATE_SUCCEEDED", created=NOW)
ANSWER = (
    b'{"custom_id":"a","response":{"candidates":[{"content":{"parts":[{"text":"yes"}]},"finishReason":"STOP"}],'
    b'"usageMetadata":{"promptTokenCount":1000,"candidatesTokenCount":10}}}'
)
ERROR = b'{"custom_id":"b","status":"Bad Request: {\\"error\\": {\\"code\\": 400, \\"message\\": \\"No.\\"}}"}'
VECTOR = b'{"key":"c","response":{"tokenCount":"258","embedding":{"values":[0.5]}}}'
BLOCKED = b'{"response":{"promptFeedback":{"blockReason":"SAFETY"}}}'


def run_in(work_dir: Path, **changes: Any) -> InputRun:
    values: dict[str, Any] = {
        "run_id": "mine",
        "directory": state.run_directory(str(work_dir), "mine"),
        "project": "my-project",
        "location": "us-central1",
        "model": "gemini-2.5-flash",
        "job_model": "gemini-2.5-flash",
        "source": "gs://b/in.jsonl",
        "destination": "gs://b/out",
        "display_name": "mine",
        "created_at": "2026-11-30T12:00:00.000000Z",
        "grace_s": 60.0,
        "price": Price(Decimal("0.15"), Decimal("1.25"), Decimal("0.03")),
    }
    return InputRun(**values | changes)


def test_run_round_trips_through_its_file(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    state.save_run(run)
    assert state.load_run(str(tmp_path), "mine") == run
    assert run.work_dir == str(tmp_path)
    assert state.load_run(str(tmp_path), "other") is None


def test_one_process_claims_each_creation(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    now = datetime.datetime.now(datetime.UTC)
    assert state.claim_creation(run, now) == run.path("intent-1.json")
    assert state.claim_creation(run, now) is None, "another process may have created the job a moment ago"
    later = now + datetime.timedelta(seconds=90)
    assert state.claim_creation(run, later) == run.path("intent-2.json")
    assert state.claim_creation(run, now) is None


def test_the_first_recorded_job_counts(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    assert state.read_job(run) is None
    state.save_job(run, DONE)
    state.save_job(run, BatchJob("another", "mine", ""))
    found = state.read_job(run)
    assert found is not None
    assert (found.name, found.created, found.error) == (DONE.name, NOW, "the job was deleted")


def test_counts_rows_errors_and_tokens(tmp_path: Path) -> None:
    found = results.Results()
    for line in (ANSWER, ERROR, VECTOR, BLOCKED, *(ERROR for _ in range(5))):
        found.add(parse_line(line))
    assert (found.rows, found.ok) == (9, 2)
    assert sorted(found.failed.values()) == [1, 6]
    assert [error.row for error in found.errors] == ["b", "row 4", "b", "b"], "three examples per reason"
    assert found.usage == Usage(prompt_tokens=1258, output_tokens=10)
    summary = results.build_summary(run_in(tmp_path), DONE, found, "gs://b/out/x")
    assert Decimal(summary["cost_usd"]) == Decimal("0.000201200")
    assert results.build_summary(run_in(tmp_path, price=None), DONE, found, "")["cost_usd"] is None
    text = "\n".join(results.format_summary(summary))
    assert "rows     9: 2 OK, 7 failed" in text
    assert "row 4: " in text


@pytest.mark.parametrize(
    ("state_of_job", "lines", "code", "end"),
    [
        ("SUCCEEDED", [ANSWER, ERROR], 0, "the job has ended"),
        ("PARTIALLY_SUCCEEDED", [ANSWER], 0, "the job has ended"),
        ("SUCCEEDED", [ERROR], 5, "no row has an answer"),
        ("SUCCEEDED", [], 0, "the job has ended"),
        ("FAILED", [ANSWER], 3, "the job did not succeed: JOB_STATE_FAILED"),
        ("EXPIRED", [], 3, "the job did not succeed"),
        ("CANCELLED", [ANSWER], 130, "finished rows are kept and billed"),
    ],
)
def test_exit_code_and_last_line(tmp_path: Path, state_of_job: str, lines: list[bytes], code: int, end: str) -> None:
    found = results.Results()
    for line in lines:
        found.add(parse_line(line))
    job = BatchJob("j", "mine", f"JOB_STATE_{state_of_job}")
    summary = results.build_summary(run_in(tmp_path), job, found, "gs://b/out/x")
    assert results.exit_code(summary) == code
    assert end in results.format_summary(summary)[-1]


def test_reports_rows_that_the_output_lacks(tmp_path: Path) -> None:
    job = BatchJob("j", "mine", "JOB_STATE_SUCCEEDED", successful=3, failed=1)
    summary = results.build_summary(run_in(tmp_path), job, results.Results(), "")
    assert summary["problems"] == ["the service reports 4 rows, the output has 0"]


def test_finds_the_directory_of_a_job_among_others(tmp_path: Path) -> None:
    for name in ("prediction-model-2026-11-30T12:00:00.000400Z", "prediction-model-2026-11-29T12:00:00Z", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").write_text("{}\n")
    found = find_output_directory(DONE, str(tmp_path))
    assert found == f"{tmp_path}/prediction-model-2026-11-30T12:00:00.000400Z"
    assert find_output_directory(BatchJob("j", "mine", ""), str(tmp_path)) is None
    assert answer_files(str(found)) == [f"{found}/predictions.jsonl"]

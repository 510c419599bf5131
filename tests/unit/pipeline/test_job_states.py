"""States of a batch job: every one is mapped, and any job resource parses."""

import datetime
from typing import Any

import pytest
from google.genai.types import JobState
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.gemini.job_states import RULES, BatchJob, Step, parse_job, rule_of

UTC = datetime.UTC
DONE = {
    "name": "projects/123456789012/locations/global/batchPredictionJobs/4567890123456789012",
    "displayName": "imagery-7f3c-000",
    "state": "JOB_STATE_SUCCEEDED",
    "outputInfo": {"gcsOutputDirectory": "gs://b/out/part-000/prediction-model-2026-11-20T10:00:00.123456Z"},
    "completionStats": {"successfulCount": "9990", "failedCount": "10", "incompleteCount": "-1"},
    "createTime": "2026-11-20T10:00:00.123456789Z",
    "startTime": "2026-11-20T10:05:00Z",
    "endTime": "2026-11-20T11:00:00.123456Z",
    "updateTime": "2026-11-20T12:00:01+01:00",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("state", [state.value for state in JobState])
def test_maps_every_state_of_the_client(state: str) -> None:
    assert state in RULES
    assert rule_of(state).known


def test_maps_only_states_of_the_client() -> None:
    assert set(RULES) == {state.value for state in JobState}


def test_terminal_states() -> None:
    over = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PAUSED")
    assert {f"JOB_STATE_{name}" for name in over} == {state for state, rule in RULES.items() if rule.terminal}
    assert all(rule.terminal == (rule.step is not Step.WAIT) for rule in RULES.values())


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("PENDING", Step.WAIT),
        ("RUNNING", Step.WAIT),
        ("CANCELLING", Step.WAIT),
        ("SUCCEEDED", Step.COLLECT),
        ("PARTIALLY_SUCCEEDED", Step.COLLECT),
        ("FAILED", Step.SALVAGE),
        ("CANCELLED", Step.SALVAGE),
        ("EXPIRED", Step.SALVAGE),
        ("PAUSED", Step.CANCEL),
    ],
)
def test_step_of_each_state(state: str, step: Step) -> None:
    assert rule_of(f"JOB_STATE_{state}").step is step


@pytest.mark.parametrize("state", ["JOB_STATE_MELTING", "", "SUCCEEDED", "job_state_succeeded\n"])
def test_unknown_state_is_polled_and_reported(state: str) -> None:
    rule = rule_of(state)
    assert (rule.step, rule.terminal, rule.known, rule.phase) == (Step.WAIT, False, False, "unknown")
    assert (state.strip() or "(none)") in rule.reason
    assert "\n" not in rule.reason


def test_parses_a_finished_job() -> None:
    job = parse_job(DONE)
    assert job == BatchJob(
        name=str(DONE["name"]),
        display_name="imagery-7f3c-000",
        state="JOB_STATE_SUCCEEDED",
        created=datetime.datetime(2026, 11, 20, 10, 0, 0, 123456, UTC),
        started=datetime.datetime(2026, 11, 20, 10, 5, tzinfo=UTC),
        ended=datetime.datetime(2026, 11, 20, 11, 0, 0, 123456, UTC),
        updated=datetime.datetime(2026, 11, 20, 11, 0, 1, tzinfo=UTC),
        successful=9990,
        failed=10,
        incomplete=None,
        output_directory="gs://b/out/part-000/prediction-model-2026-11-20T10:00:00.123456Z",
    )
    assert job.job_id == "4567890123456789012"
    assert job.rule.step is Step.COLLECT


def test_parses_a_new_job() -> None:
    job = parse_job({"name": "projects/1/locations/global/batchPredictionJobs/7", "state": "JOB_STATE_PENDING"})
    assert (job.output_directory, job.output_table, job.successful, job.error, job.error_code) == (None,) * 3 + (
        "",
        None,
    )
    assert job.age_s(datetime.datetime.now(UTC)) is None


def test_age_ends_with_the_job() -> None:
    late = datetime.datetime(2026, 12, 1, tzinfo=UTC)
    assert parse_job(DONE).age_s(late) == 3600
    assert parse_job({**DONE, "endTime": None}).age_s(datetime.datetime(2026, 11, 20, 10, 0, 10, 123456, UTC)) == 10
    assert parse_job({**DONE, "endTime": None}).age_s(datetime.datetime(2026, 11, 19, tzinfo=UTC)) == 0


def test_parses_error_details_that_are_objects() -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IMPORT"}
    error = {"code": 3, "message": "Failed to import data.\n Syntax error", "details": [detail, "as text"]}
    job = parse_job({**DONE, "state": "JOB_STATE_FAILED", "error": error, "partialFailures": [{"message": "a shard"}]})
    assert job.error == (
        'code 3: Failed to import data. Syntax error; {"@type":"type.googleapis.com/google.rpc.ErrorInfo",'
        '"reason":"IMPORT"}; as text; a shard'
    )
    assert job.error_code == 3


def test_error_shows_no_secret() -> None:
    assert "ya29" not in parse_job({"error": {"message": "bad token ya29.abcdefgh"}}).error


@pytest.mark.parametrize(
    ("info", "wanted", "table"),
    [
        ({"bigqueryOutputTable": "bq://p.d.t"}, None, "p.d.t"),
        ({"bigqueryOutputTable": "t", "bigqueryOutputDataset": "bq://p.d"}, None, "p.d.t"),
        ({"bigqueryOutputTable": "t", "bigqueryOutputDataset": "bq://example.com:p.d"}, None, "example.com:p.d.t"),
        ({}, "bq://p.d.wanted", "p.d.wanted"),
        ({"bigqueryOutputDataset": "bq://p.d"}, "bq://p.d", None),
        ({}, "bq://example.com:p.d", None),
        ({"gcsOutputDirectory": "gs://b/o"}, None, None),
    ],
)
def test_output_table_is_the_reported_or_the_requested_one(
    info: dict[str, str], wanted: str | None, table: str | None
) -> None:
    config = {"bigqueryDestination": {"outputUri": wanted}} if wanted else {}
    assert parse_job({"outputInfo": info, "outputConfig": config}).output_table == table


@given(JSON | st.fixed_dictionaries({}, optional=dict.fromkeys([*DONE, "error", "partialFailures"], JSON)))
def test_any_document_parses_as_a_job(document: Any) -> None:
    job = parse_job(document)
    assert "\n" not in job.error
    assert len(job.error) <= 500
    assert job.rule.reason
    assert all(count is None or count >= 0 for count in (job.successful, job.failed, job.incomplete))

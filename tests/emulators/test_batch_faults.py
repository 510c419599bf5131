"""What can go wrong with a batch job goes wrong when it is ordered, and is counted exactly."""

import datetime
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from google.genai import errors
from support.batch_local import Bench, line_of
from support.vertex_local import Place, gemini, open_place

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.gemini.batch_responses import parse_line
from imagebeam.transforms.gemini.job_states import parse_job

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def place(cloud: LocalCloud) -> Iterator[Place]:
    opened = open_place(cloud, "batch-faults")
    yield opened
    shutil.rmtree(cloud.directory / "storage" / opened.bucket)


@pytest.fixture
def bench(cloud: LocalCloud, place: Place) -> Iterator[Bench]:
    with gemini(cloud) as client:
        yield Bench(place, client)


def order(cloud: LocalCloud, *jobs: dict[str, Any], **more: Any) -> None:
    cloud.faults(batch={"synthetic": True, "jobs": list(jobs), **more})


def paid(cloud: LocalCloud, name: str) -> int:
    counted: int = cloud.counters()["batch"].get("paid_per_name", {}).get(name, 0)
    return counted


def until(condition: Callable[[], bool]) -> None:
    while not condition():  # the suite's time limit ends what never comes
        time.sleep(0.02)


def keys(lines: list[dict[str, Any]]) -> list[str]:
    return [line["custom_id"] for line in lines]


# States


def test_five_jobs_with_one_expired_and_one_partial(cloud: LocalCloud, bench: Bench) -> None:
    expired, partial = {"match": "*-003", "end": "EXPIRED"}, {"match": "*-004", "end": "PARTIALLY_SUCCEEDED"}
    order(cloud, {"shuffled": False}, expired, partial | {"finished": 0.6})
    names = [bench.submit(f"five-{number:03d}", bench.some(10)) for number in range(5)]
    jobs = [bench.wait(name) for name in names]
    assert [job["state"].removeprefix("JOB_STATE_") for job in jobs] == [
        *["SUCCEEDED"] * 3, "EXPIRED", "PARTIALLY_SUCCEEDED",
    ]  # fmt: skip
    assert jobs[4]["completionStats"] == {"successfulCount": "6", "failedCount": "0", "incompleteCount": "4"}
    assert keys(bench.output(jobs[4])) == [f"k-{number:03d}" for number in range(6)]
    assert jobs[4]["partialFailures"]
    assert "outputInfo" not in jobs[3]
    assert jobs[3]["error"]["code"] == 4
    assert [paid(cloud, f"five-{number:03d}") for number in range(5)] == [10, 10, 10, 0, 6]
    assert cloud.counters()["batch"]["created"] == {f"five-{number:03d}": 1 for number in range(5)}


@pytest.mark.parametrize("end", ["FAILED", "EXPIRED", "PARTIALLY_SUCCEEDED", "PAUSED", "MELTED"])
def test_job_that_ends_early_keeps_finished_rows(cloud: LocalCloud, bench: Bench, end: str) -> None:
    order(cloud, {"end": end, "finished": 0.5})
    job = bench.run("early", bench.some(8))
    assert job["state"] == f"JOB_STATE_{end}"
    assert sorted(keys(bench.output(job))) == [f"k-{number:03d}" for number in range(4)]
    assert job["completionStats"]["incompleteCount"] == "4"


def test_job_stays_queued_until_released(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"match": "stuck", "stuck": "PENDING", "age_s": 259_200})
    name = bench.submit("stuck", bench.some(2))
    bench.run("other", bench.some(2))
    job = bench.get(name)
    assert job["state"] == "JOB_STATE_PENDING"
    assert "startTime" not in job
    assert (parse_job(job).age_s(datetime.datetime.now(datetime.UTC)) or 0) >= 259_200
    order(cloud)
    assert bench.wait(name)["state"] == "JOB_STATE_SUCCEEDED"


def test_queue_time_ends_by_itself_or_with_its_rule(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"match": "short", "pending_s": 0.05, "running_s": 0.05}, {"match": "long", "pending_s": 3600})
    name = bench.submit("long", bench.some(2))
    assert bench.run("short", bench.some(2))["state"] == "JOB_STATE_SUCCEEDED"
    assert bench.get(name)["state"] == "JOB_STATE_PENDING"
    order(cloud)
    assert bench.wait(name)["state"] == "JOB_STATE_SUCCEEDED"


def test_canceled_job_keeps_and_bills_finished_rows(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"stuck": "RUNNING", "running_state": "MELTING", "cancel_s": 0.2})
    name = bench.submit("cancelled", bench.some(8))
    bench.wait(name, "MELTING")
    until(lambda: paid(cloud, "cancelled") == 4)
    bench.client.batches.cancel(name=name)
    assert bench.get(name)["state"] == "JOB_STATE_CANCELLING"
    job = bench.wait(name, "CANCELLED")
    assert job["completionStats"] == {"successfulCount": "4", "failedCount": "0", "incompleteCount": "4"}
    assert len(bench.output(job)) == paid(cloud, "cancelled") == 4
    with pytest.raises(errors.ClientError, match="cannot be cancelled"):
        bench.client.batches.cancel(name=name)


def test_queued_job_is_canceled_without_output(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"stuck": "PENDING"})
    name = bench.submit("queued", bench.some(2))
    with pytest.raises(errors.ClientError, match="cancel it before it is deleted"):
        bench.client.batches.delete(name=name)
    bench.client.batches.cancel(name=name)
    job = bench.wait(name, "CANCELLED")
    assert "outputInfo" not in job
    assert paid(cloud, "queued") == 0


def test_paused_job_can_be_canceled(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"end": "PAUSED"})
    job = bench.run("paused", bench.some(2))
    bench.client.batches.cancel(name=job["name"])
    assert bench.get(job["name"])["state"] == "JOB_STATE_CANCELLED"


def test_reset_deletes_running_jobs(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"stuck": "RUNNING"})
    bench.wait(bench.submit("under-way", bench.some(4)), "RUNNING")
    assert [job["displayName"] for job in cloud.batch_jobs()] == ["under-way"]
    cloud.reset()
    assert cloud.batch_jobs() == []
    assert "batch" not in cloud.counters()


# Rows


def test_rows_fail_are_lost_and_duplicated_at_configured_rates(cloud: LocalCloud, bench: Bench) -> None:
    shares = {"failed": 0.1, "failed_codes": [429, 500, 503], "blocked": 0.1, "missing": 0.05, "duplicated": 0.05}
    order(cloud, shares)
    job = bench.run("shares", bench.some(600))
    again = bench.run("shares", bench.some(600))
    lines = bench.output(job)
    assert sorted(keys(lines)) == sorted(keys(bench.output(again))), "the same seed, the same rows"
    seen = Counter(keys(lines))
    missing, twice = 600 - len(seen), sum(count == 2 for count in seen.values())
    assert 10 < missing < 60
    assert 10 < twice < 60
    failed = {line["custom_id"]: line["status"].partition(":")[0] for line in lines if line["status"]}
    assert set(failed.values()) == {"Too Many Requests", "Internal Server Error", "Service Unavailable"}
    counts = job["completionStats"]
    assert int(counts["failedCount"]) >= len(failed) > 30
    assert int(counts["failedCount"]) + int(counts["successfulCount"]) == 600, "lost lines are no news to the service"
    blocked = [line for line in lines if "promptFeedback" in line["response"]]
    assert len(blocked) > 30
    assert not any(line["status"] for line in blocked)
    counted = cloud.counters()["batch"]
    assert counted["rows"] == 1200
    assert counted["paid"] == 2 * int(counts["successfulCount"])
    assert counted["created"] == {"shares": 2}
    assert set(counted["paid_per_uri"].values()) == {2}
    assert counted["paid_uris"]["distinct"] == counted["paid_uris"]["repeated"] == int(counts["successfulCount"])
    other = bench.output(bench.run("shares-r2", bench.some(600)))
    assert {line["custom_id"] for line in other if line["status"]} != set(failed), "another job, other rows"


def test_output_lines_are_shuffled_unless_disabled(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"match": "in-order", "shuffled": False})
    mixed, straight = (keys(bench.output(bench.run(name, bench.some(50)))) for name in ("mixed", "in-order"))
    assert mixed != straight == sorted(mixed)


def test_incremental_output_has_part_of_the_lines(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"match": "torn", "incremental_only": True})
    job, torn = (bench.run(name, bench.some(9)) for name in ("whole", "torn"))
    assert bench.names(job) == ["incremental_predictions/predictions_0001.jsonl", "predictions.jsonl"]
    part, whole = bench.output(job, bench.names(job)[0]), bench.output(job)
    assert 0 < len(part) < len(whole) == 9
    assert all(line in whole for line in part)
    assert bench.names(torn) == ["incremental_predictions/predictions_0001.jsonl"]
    assert len(bench.output(torn, bench.names(torn)[0])) == 9


def test_last_line_is_truncated(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"truncated": True})
    lines = bench.raw(bench.run("cut", bench.some(5))).split(b"\n")
    assert len(lines) == 5
    problems = [parse_line(line).problem for line in lines]
    assert problems[:4] == [None] * 4
    assert problems[4]


def test_key_is_omitted_and_request_is_reformatted(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"echo_key": False, "echo_camel": True})
    snake = {
        "contents": [{"role": "user", "parts": [{"file_data": {"file_uri": "gs://b/1", "mime_type": "image/png"}}]}]
    }
    job = bench.run("nameless", [{"custom_id": "k-1", "request": snake | {"labels": {"run_id": "r"}}}])
    (line,) = bench.output(job)
    assert "custom_id" not in line
    part = {"fileData": {"fileUri": "gs://b/1", "mimeType": "image/png"}}
    assert line["request"] == {"contents": [{"parts": [part], "role": "user"}], "labels": {"run_id": "r"}}
    assert parse_line(json.dumps(line).encode()).uris == ("gs://b/1",)


def test_synthetic_answer_is_marked_and_reproducible(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud)
    first, second = (
        {line["custom_id"]: line["response"] for line in bench.output(bench.run(name, lines))}
        for name, lines in (("forth", bench.some(40)), ("back", bench.some(40)[::-1]))
    )
    assert {answer["modelVersion"] for answer in first.values()} == {"imagebeam-emulator-synthetic"}
    texts = [{key: answer["candidates"][0]["content"] for key, answer in some.items()} for some in (first, second)]
    assert texts[0] == texts[1]
    assert len({str(text) for text in texts[0].values()}) > 10


# Calls


def test_create_with_lost_response_creates_the_job(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, calls=[{"do": "lost_answer", "times": 1}])
    with pytest.raises(Exception, match=r"disconnected|reset|aborted"):
        bench.submit("lost", bench.some(1))
    found = bench.call("GET", params={"filter": 'displayName="lost"'}).json()["batchPredictionJobs"]
    assert [job["displayName"] for job in found] == ["lost"]
    assert cloud.counters()["batch"]["created"] == {"lost": 1}
    assert bench.wait(found[0]["name"])["state"] == "JOB_STATE_SUCCEEDED"


@pytest.mark.parametrize("code", [403, 429, 503])
def test_rejected_create_creates_no_job(cloud: LocalCloud, bench: Bench, code: int) -> None:
    order(cloud, calls=[{"match": "refused*", "times": 1, "do": "http", "code": code, "message": "Not now."}])
    with pytest.raises(errors.APIError, match=r"Not now\.") as caught:
        bench.submit("refused-1", bench.some(1))
    assert caught.value.code == code
    assert cloud.batch_jobs() == []
    bench.run("refused-1", bench.some(1))
    assert cloud.counters()["batch"]["created"] == {"refused-1": 1}


@pytest.mark.parametrize("method", ["get", "list", "cancel", "delete"])
def test_faults_apply_to_every_method(cloud: LocalCloud, bench: Bench, method: str) -> None:
    name = bench.run("stumble", bench.some(1))["name"].rpartition("/")[2]
    order(cloud, calls=[{"method": method, "times": 1, "do": "http", "code": 503}])
    how = {"get": ("GET", name), "list": ("GET", ""), "cancel": ("POST", f"{name}:cancel"), "delete": ("DELETE", name)}
    answers = [bench.call(*how[method]).status_code for _ in "12"]
    assert answers == [503, 400 if method == "cancel" else 200]


def test_new_job_is_listed_with_a_delay(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"match": "late", "unlisted_s": 3600})
    for name in ("late", "soon"):
        bench.run(name, bench.some(1))
    listed = bench.call("GET").json()["batchPredictionJobs"]
    assert [job["displayName"] for job in listed] == ["soon"]


def test_job_fails_without_write_access_to_the_output(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud, {"output_forbidden": True})
    job = bench.run("closed", bench.some(1))
    assert (job["state"], job["error"]["code"]) == ("JOB_STATE_FAILED", 7)
    assert "does not have storage.objects.create access" in job["error"]["message"]
    assert paid(cloud, "closed") == 0


def test_output_info_is_late_or_missing(cloud: LocalCloud, bench: Bench) -> None:
    order(
        cloud,
        {"stuck": "RUNNING"},
        {"match": "*-end", "output_info": "end"},
        {"match": "*-never", "output_info": "never"},
    )
    names = [bench.submit(f"told-{when}", bench.some(2)) for when in ("running", "end", "never")]
    for name in names:
        bench.wait(name, "RUNNING")
    until(lambda: all(paid(cloud, f"told-{when}") for when in ("running", "end", "never")))
    assert ["outputInfo" in bench.get(name) for name in names] == [True, False, False]
    order(cloud)
    assert ["outputInfo" in bench.wait(name) for name in names] == [True, True, False]


def test_concurrent_callers_create_jobs(cloud: LocalCloud, bench: Bench) -> None:
    order(cloud)
    source = bench.place.put("in/many.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in bench.some(3)))
    names: list[str] = []

    def create(number: int) -> None:
        names.append(bench.create(f"many-{number}", source, f"gs://batch-faults/out/many-{number}"))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = [bench.wait(name) for name in names]
    assert {job["state"] for job in jobs} == {"JOB_STATE_SUCCEEDED"}
    assert len({job["createTime"] for job in jobs}) == len(set(names)) == 12
    assert cloud.counters()["batch"]["rows"] == 36


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"synthetic": 1}, "synthetic must be true or false"),
        ({"limits": {"lines": 0}}, "limits must be integers"),
        ({"calls": [{"do": "explode"}]}, "use http, or lost_answer"),
        ({"calls": [{"do": "http"}]}, "code must be 400 to 599"),
        ({"calls": [{"method": "put", "do": "http", "code": 500}]}, "method must be one of"),
        ({"jobs": [{"failed": 2}]}, "failed must be from 0 to 1"),
        ({"jobs": [{"pending_s": "1"}]}, "pending_s must be a number"),
        ({"jobs": [{"stuck": "SUCCEEDED"}]}, "stuck must be PENDING or RUNNING"),
        ({"jobs": [{"output_info": "soon"}]}, "output_info must be one of"),
        ({"jobs": [{"failed_codes": []}]}, "failed_codes must be HTTP codes"),
        ({"jobs": [{"shufled": True}]}, "unknown key 'shufled'"),
        ({"jobs": [{"truncated": 1}]}, "truncated must be true or false"),
        ({"jobs": {}}, "jobs must be a list"),
    ],
)
def test_rejects_unknown_fault(cloud: LocalCloud, section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cloud.faults(batch=section)


def test_invalid_admin_call_lists_the_valid_ones(cloud: LocalCloud) -> None:
    answer = requests.put(f"{cloud.url}/_local/faults", json={"batches": {}}, timeout=120)
    assert "use vertex, batch, bigquery" in answer.json()["error"]["message"]


def test_online_rules_do_not_break_batch_connections(cloud: LocalCloud, bench: Bench) -> None:
    uri = bench.pictures(1)[0]
    cloud.faults(vertex={"rules": [{"do": "reset"}]})
    job = bench.run("whole", [line_of("k-1", uri)])
    assert job["completionStats"]["successfulCount"] == "1"

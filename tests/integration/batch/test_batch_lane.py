"""The batch lane end to end: the same task, table, answers and counts as online."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.cloud import bigquery
from support.batch_runs import answers, batch, batch_arguments, command, created, fault, paid, summary_of, work_dir
from support.jobs import Job, make_job, run_cli
from support.marks import long_except

from imagebeam.emulators.cloud import LocalCloud

SEEN = """\
name: seen
prompt: |
  What is it? {{capture_time}} {{heading}} {{asset_type}}
schema:
  type: object
  properties:
    label: {type: string, enum: ['yes', 'no']}
    score: {type: number, minimum: 0, maximum: 1}
  required: [label, score]
"""
TROUBLE: dict[int, dict[str, Any]] = {
    2: {"data": None},
    3: {"data": b"\xff\xd8\xff\xe0 this is no photograph"},
    4: {"gcs_uri": None},
    5: {"gcs_uri": "https://example.com/a.jpg"},
}
REGIONAL = ("--location=us-central1", "--model=gemini-2.5-flash")


def own_task(directory: Path, text: str = SEEN) -> str:
    path = directory / "seen.yaml"
    path.write_text(text)
    return str(path)


@dataclasses.dataclass(frozen=True)
class Ground:
    """A source with one of everything that goes wrong, and what the online lane said of it."""

    job: Job
    online: Sequence[Mapping[str, Any]]


@pytest.fixture(scope="module")
def regional(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return ground(cloud, tmp_path_factory.mktemp("regional"), "us-central1", *REGIONAL)


def ground(cloud: LocalCloud, directory: Path, location: str, *flags: str) -> Ground:
    job = make_job(cloud, directory, [TROUBLE.get(index, {}) for index in range(12)], location=location)
    cloud.faults(vertex=spoilt(job))
    summary = job.run(*flags)
    assert summary["exit_code"] == 0, summary["err"]
    return Ground(job, answers(job))


def spoilt(job: Job) -> dict[str, Any]:
    return {
        "rules": [
            {"match": job.uri(7), "do": "blocked", "reason": "SAFETY"},
            {"match": job.uri(8), "do": "bad_json"},
            {"match": job.uri(9), "do": "off_schema"},
        ]
    }


WAYS = {
    "tables to tables": ("--batch_source=bigquery", "--batch_destination=bigquery", *REGIONAL),
    "files to tables": ("--batch_destination=bigquery", *REGIONAL),
    "a tuned model": ("--location=us-central1", "--model=projects/{project}/locations/us-central1/endpoints/4711"),
}


@pytest.mark.parametrize("way", long_except(["tables to tables"], WAYS))
def test_records_the_same_rows_as_the_online_lane(cloud: LocalCloud, regional: Ground, way: str) -> None:
    flags = [flag.format(project=cloud.project) for flag in WAYS[way]]
    job = dataclasses.replace(regional.job, own_results=f"{regional.job.name}_{way.replace(' ', '_')}")
    cloud.faults(vertex=spoilt(job))
    summary = batch(job, "--batch_lines=7", *flags)
    assert summary["exit_code"] == 0, summary["err"]
    assert summary["problems"] == []
    assert created(job) == {"r1-0000000000-0": 1, "r1-0000000007-0": 1}
    assert set(paid(job).values()) == {1}
    assert answers(job) == regional.online
    assert summary["counted"]["ok"] == 5
    assert summary["counted"]["failed"] == {
        "IMAGE_ERROR/NOT_FOUND": 1,
        "IMAGE_ERROR/UNREADABLE": 1,
        "IMAGE_ERROR/NO_URI": 2,
        "BLOCKED/SAFETY": 1,
        "INVALID_ANSWER/NOT_JSON": 1,
        "INVALID_ANSWER/OFF_SCHEMA": 1,
    }
    tables = [table for table in bigquery.Client().list_tables(job.results) if table.table_id.startswith("batch_")]
    assert len(tables) == 2 * sum("=bigquery" in flag for flag in flags)
    assert all(table.expires is not None for table in tables)


@pytest.mark.long
def test_resubmits_failures_only_on_request(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 5)
    cloud.faults(vertex={"rules": [{"match": job.uri(1), "do": "blocked", "reason": "SAFETY"}]})
    first = batch(job, "--limit=4")
    assert (first["source"]["units_in"], first["exit_code"]) == (4, 0), first["err"]
    cloud.faults(vertex={})
    again = batch_arguments(job, "--limit=4")
    code, out, err = run_cli(again)
    assert code == 0
    assert "no units remain: no job is created" in err
    assert "already done" in out
    assert sum(created(job).values()) == 1
    blocked = first["counted"]["failed"].get("BLOCKED/SAFETY", 0)
    asked = batch(job, "--reprocess=failed:SAFETY")
    assert (asked["source"]["remaining"], asked["counted"]["ok"]) == (1 + blocked, 1 + blocked), asked["err"]
    assert sum(paid(job).values()) == 5 + blocked


@pytest.mark.long
def test_other_runs_skip_submitted_units(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    fault(job, {"stuck": "PENDING"})
    code, _, said = run_cli(batch_arguments(job, "--no_wait", "--limit=3"))
    assert code == 0
    assert f"imagebeam batch collect --work_dir={work_dir(job)}" in said
    online = job.run()
    assert (online["source"]["submitted"], online["counted"]["ok"]) == (3, 1), online["err"]
    other = batch(job)
    assert (other["source"]["submitted"], other["source"]["remaining"], other["exit_code"]) == (3, 0, 0), other["err"]
    assert "3 submitted to a batch job" in "\n".join(other["counts"])
    fault(job)
    summary = summary_of(job)
    assert (summary["counted"]["ok"], summary["problems"], summary["exit_code"]) == (3, [], 0), summary["err"]
    assert [row["status"] for row in answers(job)] == ["OK"] * 4
    calls = job.calls()
    assert [paid(job).get(job.uri(index), 0) + calls.get(job.uri(index), 0) for index in range(4)] == [1, 1, 1, 1]


@pytest.mark.long
def test_never_exceeds_a_cap(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 9)
    # A share below 1 is drawn from the job's name, and with it from the random run id: fail one whole job instead.
    fault(job, {"match": "*-r1-0000000000-0", "failed": 1.0})
    summary = batch(job, "--max_calls=4", "--batch_lines=3")
    assert (summary["exit_code"], summary["problems"]) == (4, []), summary["err"]
    assert summary["stop"].startswith("budget")
    assert (summary["counted"]["ok"], sum(paid(job).values())) == (1, 1), "three of the four calls fail, unpaid"
    left = 8
    fault(job)
    dollars = batch(job, "--max_cost_usd=0.006")
    assert (dollars["exit_code"], dollars["problems"], dollars["source"]["remaining"]) == (4, [], left), dollars["err"]
    assert 0 < float(dollars["recorded"]["cost_usd"]) <= 0.006
    assert sum(created(job).values()) == 3
    assert set(paid(job).values()) == {1}


def test_cap_includes_the_fallback_lane(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    fault(job, {"match": "*-0000000000-0", "stuck": "PENDING"}, {"match": "*-0000000002-0", "finished": 1.0})
    summary = batch(job, "--max_calls=3", "--batch_lines=2", "--batch_deadline_s=2", "--batch_fallback=online")
    assert summary["problems"] == []
    assert summary["exit_code"] == 4, summary["err"]
    assert sum(paid(job).values()) + sum(job.calls().values()) <= 3


@pytest.mark.long
def test_status_and_collect_need_only_the_work_directory(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    fault(job, {"stuck": "PENDING"})
    assert run_cli(batch_arguments(job, "--no_wait", "--batch_lines=4"))[0] == 0
    code, out, _ = command(job, "status", "--json")
    assert code == 0
    assert [(each["units"], each["phase"]) for each in json.loads(out)[0]["jobs"]] == [(4, "waiting"), (2, "waiting")]
    assert "waiting" in command(job, "status")[1]
    fault(job)
    code, out, _ = command(job, "collect")
    assert code == 0
    assert "6 OK" in out
    assert "all units accounted for" in out
    assert command(job, "status")[1] == f"no open batch runs in {work_dir(job)}\n"
    assert cloud.counters()["batch"]["paid_uris"] == {"distinct": 6, "repeated": 0}

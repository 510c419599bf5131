"""Caps and draining, end to end: a run that stops early loses nothing, gives its reason and continues later."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.jobs import make_job

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.console.report import exit_code


def test_stops_at_max_calls(cloud: LocalCloud, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job(cloud, tmp_path, 30)
    summary = job.run("--max_calls=12")
    assert summary["exit_code"] == 4, summary["err"]
    assert summary["stop"] == "budget: --max_calls=12 is used up"
    assert not [record for record in caplog.records if record.name.startswith("apache_beam")], "it is no crash"
    assert summary["problems"] == []
    assert sum(job.calls().values()) == 12
    assert (summary["counted"]["ok"], summary["counted"]["skipped"]) == (12, 18)
    assert job.run()["counted"]["ok"] == 18


@pytest.mark.long
def test_stops_below_max_cost(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 60)
    summary = job.run("--max_cost_usd=0.02")
    assert summary["exit_code"] == 4, summary["err"]
    spent = Decimal(summary["recorded"]["cost_usd"])
    assert Decimal("0.015") < spent <= Decimal("0.02")
    assert summary["counted"]["skipped"] > 0


def test_retried_calls_count_toward_max_calls(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 20)
    cloud.faults(vertex={"rules": [{"rate": 0.3, "do": "http", "code": 503}]})
    summary = job.run("--max_calls=15", "--unit_deadline_s=5")
    assert sum(job.calls().values()) <= 15
    assert summary["exit_code"] == 4, summary["err"]


def test_too_many_failures_stop_the_run(cloud: LocalCloud, tmp_path: Path) -> None:
    rows = [{"suffix": ".blocked.jpg" if index % 2 else ".jpg"} for index in range(260)]
    job = make_job(cloud, tmp_path, rows)
    cloud.faults(vertex={"rules": [{"match": ".blocked.", "do": "blocked", "reason": "SAFETY"}]})
    summary = job.run("--max_failure_percent=10", "--in_flight=8")
    assert summary["exit_code"] == 5, summary["err"]
    assert summary["stop"].startswith("failures: ")
    assert summary["counted"]["skipped"] > 0
    assert summary["problems"] == []


def test_stops_when_the_first_units_all_fail_alike(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{"data": None} for _ in range(90)])
    summary = job.run("--in_flight=4")
    assert summary["exit_code"] == 3, summary["err"]
    assert "the first 50 units all failed: IMAGE_ERROR" in summary["stop"]
    assert summary["counted"]["skipped"] > 0


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (None, 0),
        ("interrupted: SIGINT", 130),
        ("budget: --max_calls=3 is used up", 4),
        ("failures: 80 of 200", 5),
        ("systemic: API off", 3),
        ("lease lost: another run holds it", 3),
        ("quota: no call was granted for 15 minutes", 3),
    ],
)
def test_every_stop_reason_has_an_exit_code(stop: str | None, code: int) -> None:
    source = {"already_done": 0, "outdated": 0}
    summary: dict[str, Any] = {"problems": [], "stop": stop, "source": source, "counted": {"ok": 10, "failed": {}}}
    assert exit_code(summary, 20.0) == code
    assert exit_code({**summary, "problems": ["3 read, 2 accounted for"]}, 20.0) == 1

"""The batch lane from end to end: the same task and table as online, the same answers, the same books."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google.cloud.storage as storage

from imagebeam.emulators.cloud import LocalCloud
from tests.jobs import Job, make_job, run_cli


def batch(job: Job, *more: str) -> dict[str, Any]:
    """Runs a job through the batch lane, with a work directory in a bucket."""
    return job.run("--lane=batch", f"--work_dir={work_dir(job)}", "--batch_poll_s=0.2", *more)


def work_dir(job: Job) -> str:
    name = f"{job.name.replace('_', '-')}-work"
    client = storage.Client()
    if client.lookup_bucket(name) is None:
        client.create_bucket(name)
    return f"gs://{name}/work"


def test_every_unit_is_answered_through_a_job(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 12)
    summary = batch(job)
    assert summary["exit_code"] == 0, summary["err"]
    assert summary["recorded"]["ok"] == 12


def test_status_and_collect_go_on_from_the_work_directory(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    directory = work_dir(job)
    cloud.faults(batch={"jobs": [{"stuck": "PENDING"}]})
    arguments = ["--lane=batch", f"--work_dir={directory}", "--no_wait", "--batch_lines=4"]
    code, _, said = run_cli(job.arguments(*arguments))
    assert code == 0
    assert f"imagebeam batch collect --work_dir={directory}" in said
    code, out, _ = run_cli(["batch", "status", f"--work_dir={directory}", "--json"])
    assert code == 0
    assert [(each["units"], each["phase"]) for each in json.loads(out)[0]["jobs"]] == [(4, "waiting"), (2, "waiting")]
    cloud.faults(batch={})
    code, out, _ = run_cli(["batch", "collect", f"--work_dir={directory}", "--batch_poll_s=0.2"])
    assert code == 0
    assert "6 OK" in out
    assert "the books balance" in out
    assert run_cli(["batch", "status", f"--work_dir={directory}"])[1] == f"no batch run is open in {directory}\n"
    assert cloud.counters()["batch"]["paid_uris"] == {"distinct": 6, "repeated": 0}

"""The rehearsal of the batch lane runs, at a size at which only the counts are meaningful."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

from benchmarks.batch_report import marked

pytestmark = pytest.mark.long


def test_rehearsal_answers_every_unit_once_despite_job_failures(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Above.\n<!-- rehearsal: begin -->\nold\n<!-- rehearsal: end -->\nBelow.\n")
    command = [sys.executable, "-m", "benchmarks.batch_rehearsal", "--units=2000", "--lines=400", "--json"]
    command += [f"--write={page}"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["exit_code"] == 0
    assert report["problems"] == []
    assert report["recorded"] == 2_000
    assert report["answered_twice"] == 0
    # Only rows that were paid and not written are sent again.
    assert report["paid"] == report["answered"] + report["unwritten"]
    assert 0 < report["unwritten"] < 40
    rounds = [sum(name.startswith(f"r{number}-") for name in report["jobs"]) for number in (1, 2, 3)]
    assert rounds[0] == 5
    assert rounds[1] == 2  # the expired job's 400 units and 40 % of the partial job's
    assert set(report["jobs"].values()) == {1}
    assert all(process["peak_mb"] < 700 for process in report["memory"])
    text = page.read_text()
    assert text.startswith("Above.\n")
    assert text.endswith("Below.\n")
    assert "| no answer is paid twice | 0; " in text
    assert "old" not in text
    assert str(ROOT) not in text


def test_rehearsal_requires_five_jobs() -> None:
    command = [sys.executable, "-m", "benchmarks.batch_rehearsal", "--units=2000", "--lines=1000"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fewer than five jobs" in done.stderr


def test_rejects_page_without_markers() -> None:
    with pytest.raises(ValueError, match="rehearsal: begin"):
        marked("Nothing here.", "rehearsal", iter(()))

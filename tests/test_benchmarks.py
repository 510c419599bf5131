"""Every benchmark runs, at a size that says nothing about speed but everything about lost images."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_benchmark_runs_and_every_contestant_answers_every_image_once(tmp_path: Path) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.run", "--quick", f"--json={results}", f"--write={page}"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reports = json.loads(results.read_text())
    entries = [entry for report in reports for entry in report["entries"]]
    assert {entry["contestant"] for entry in entries} >= {"floor", "imagebeam", "genai_asyncio", "seed"}
    assert all(entry["lost"] == entry["again"] == 0 for entry in entries)
    promises = [promise for report in reports for promise in report["promises"]]
    lost = [promise for promise in promises if "lost" in promise["what"] or "that were answered" in promise["what"]]
    assert len(lost) == 4
    assert all(promise["kept"] for promise in lost)
    text = page.read_text()
    assert all(promise["what"] in text for promise in promises)

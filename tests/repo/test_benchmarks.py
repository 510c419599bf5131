"""All benchmarks run, at a size at which only lost images are meaningful."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support.paths import ROOT


def test_all_benchmarks_answer_every_image_once(tmp_path: Path) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.run", "--quick", f"--json={results}", f"--write={page}"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reports = json.loads(results.read_text())
    entries = [entry for report in reports for entry in report["entries"]]
    assert {entry["implementation"] for entry in entries} >= {"floor", "imagebeam", "genai_asyncio", "seed"}
    assert all(entry["lost"] == entry["repeated"] == 0 for entry in entries)
    targets = [target for report in reports for target in report["targets"]]
    lost = [target for target in targets if "lost" in target["what"] or "about answered" in target["what"]]
    assert len(lost) == 4
    assert all(target["met"] for target in lost)
    text = page.read_text()
    assert all(target["what"] in text for target in targets)

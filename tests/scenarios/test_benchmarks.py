"""The benchmarks run, at a size at which only lost or differing units are meaningful."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.long


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


def test_format_benchmark_runs_with_equal_results() -> None:
    command = [sys.executable, "-m", "benchmarks.batch_format", "--units=30", "--repeat=1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert len(report["comparisons"]) == 7
    assert report["matcher_bytes_per_unit"] < 400


def test_measures_vectors_at_scale(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Above.\n<!-- scale: begin -->\nold\n<!-- scale: end -->\nBelow.\n")
    command = [sys.executable, "-m", "benchmarks.embedding_scale", "--vectors=60", "--dimension=8", "--lines=40"]
    command += ["--searches=1", "--json", f"--write={page}"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["loaded"], report["units"], report["wrong"], report["differing"]) == (60, 60, 0, 0)
    assert report["ratio"] > 0
    assert all(process["peak_mb"] > 0 for process in report["memory"])
    assert "| every search finds the nearest 20 | 0 differ from numpy's results | ok |" in page.read_text()

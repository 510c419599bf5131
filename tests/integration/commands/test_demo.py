"""The demo, as ``make demo`` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from docs.generate.statistics import PAGE, Example, read_examples, run_query


def imagebeam(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GOOGLE_")}
    return subprocess.run(
        [sys.executable, "-m", "imagebeam.pipeline", *arguments],
        cwd=cwd,
        env={**environment, "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


#: The demo makes 1,200 units.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run the demo; return its directory and what it printed."""
    directory = tmp_path_factory.mktemp("demo")
    done = imagebeam("local", "demo", "--dir", "cloud", cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory, done


def test_demo_runs_three_times_and_keeps_answers(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    directory, done = demo
    told = " ".join(done.stdout.split())
    assert "300 in 296 OK 2 IMAGE_ERROR/NO_URI 1 IMAGE_ERROR/NOT_FOUND 1 IMAGE_ERROR/UNREADABLE" in told
    assert "300 in 0 OK 296 already done 4 failed before, not selected" in told
    assert "calls 0 (0 rejected for quota)" in told
    assert "296 outdated" in told
    assert done.stdout.count("all units accounted for") == 3
    assert "Traceback" not in done.stderr

    shown = done.stdout.rindex("$ imagebeam local sql")
    assert shown > done.stdout.index("The cloud has stopped")
    rows = look(directory, "SELECT * FROM answers.image_quality")
    assert len(rows) == 296
    # The README's own queries.
    counted = look(directory, "SELECT sharpness, COUNT(*) AS images FROM answers.image_quality GROUP BY 1")
    assert sum(row["images"] for row in counted) == 296
    letters = look(directory, "SELECT unit_id, status, reason FROM answers.dead_letters")
    assert len(letters) == 8, "four units, in each of the two versions"


EXAMPLES = read_examples((ROOT / PAGE).read_text(encoding="utf-8"))


def test_the_statistics_page_has_ten_queries() -> None:
    assert len(EXAMPLES) == 10
    assert sum(example.varies for example in EXAMPLES) == 1


@pytest.mark.parametrize("example", EXAMPLES)
def test_statistics_have_the_results_of_the_page(
    demo: tuple[Path, subprocess.CompletedProcess[str]], example: Example
) -> None:
    result = run_query(demo[0] / "cloud", example.sql)
    hint = f"run: imagebeam local demo --dir .local && python -m docs.generate.statistics .local --write\n{result}"
    if example.varies:
        assert result.split("\n", 1)[0] == example.result.split("\n", 1)[0], hint
        assert len(result.splitlines()) > 3, hint
    else:
        assert result == example.result, hint


def look(directory: Path, sql: str) -> list[dict[str, Any]]:
    done = imagebeam("local", "sql", sql, "--dir", "cloud", "--format", "json", cwd=directory)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows

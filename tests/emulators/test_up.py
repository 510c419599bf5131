"""``imagebeam local up``, as a person starts, uses and ends it."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from imagebeam.emulators import cli

IMAGEBEAM = str(Path(sys.executable).parent / "imagebeam")
SOURCE = "imagery_insights___us.latest_observations"

_COUNT = f"""
from google.cloud import bigquery
[row] = bigquery.Client().query_and_wait("SELECT COUNT(*) FROM {SOURCE}")
print(row[0])
"""


def _up(directory: Path, home: Path) -> "subprocess.Popen[str]":
    # Not `python -m`: that ends by SIGINT, though it was caught, when it met code exec'ed from a string in an import.
    return subprocess.Popen(
        [IMAGEBEAM, "local", "up", "--dir", str(directory), "--seed", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(home)},
    )


def _read_until_ready(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("Ctrl-C stops it"):
            return lines
    assert process.stderr is not None
    raise AssertionError(f"it never was ready: {lines} {process.stderr.read()}")


def test_up_creates_the_dataset_prints_the_environment_and_stops_on_sigint(tmp_path: Path) -> None:
    directory = tmp_path / "cloud"
    with _up(directory, tmp_path) as process:
        lines = _read_until_ready(process)
        exports = dict(
            shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in lines if line.startswith("export ")
        )
        asked = subprocess.run(
            [sys.executable, "-c", _COUNT], env={**os.environ, **exports}, capture_output=True, text=True, check=True
        )
        assert int(asked.stdout) > 100
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "has stopped" in rest
    assert errors == ""
    assert any("imagebeam classify" in line and SOURCE in line for line in lines)
    before = (directory / "bigquery.duckdb").stat().st_size

    with _up(directory, tmp_path) as process:
        again = _read_until_ready(process)
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert not any("sample dataset" in line for line in again)
    assert (directory / "bigquery.duckdb").stat().st_size >= before
    assert cli.main(["sql", f"SELECT COUNT(*) AS n FROM {SOURCE}", "--dir", str(directory), "--format=csv"]) == 0


def test_interrupted_up_leaves_no_partial_dataset(tmp_path: Path) -> None:
    directory = tmp_path / "cloud"
    with _up(directory, tmp_path) as process:
        assert process.stdout is not None
        assert "sample dataset" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    assert "was removed" in rest
    assert process.returncode == 0
    assert not directory.exists()

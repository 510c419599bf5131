"""``imagebeam local up``, as a person starts, uses and ends it."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from imagebeam.emulators import cli

pytestmark = pytest.mark.long

IMAGEBEAM = str(Path(sys.executable).parent / "imagebeam")
SOURCE = "imagery_insights___us.latest_observations"
STAYS = "Tables and files stay in"

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
        if STAYS in line:
            return lines
    assert process.stderr is not None
    raise AssertionError(f"it never was ready: {lines} {process.stderr.read()}")


def _local(*arguments: str, home: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [IMAGEBEAM, "local", *arguments],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def _environment(directory: Path) -> dict[str, str]:
    """Return the environment after ``eval "$(imagebeam local env)"``, as a shell reads it."""
    script = f'eval "$({shlex.quote(IMAGEBEAM)} local env --dir={shlex.quote(str(directory))})" && env -0'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


def test_detached_cloud_serves_until_down_and_keeps_its_state(tmp_path: Path) -> None:
    directory = tmp_path / "the cloud's"
    where = f"--dir={directory}"
    started = _local("up", "--detach", where, home=tmp_path)
    try:
        assert started.returncode == 0, started.stderr
        assert started.stdout.startswith("Starting a local Google Cloud ...\nCreating a sample dataset")
        assert f"imagebeam local down --dir={shlex.quote(str(directory))}" in started.stdout
        assert (directory / "local.log").exists()

        printed = _local("env", where, home=tmp_path)
        assert printed.returncode == 0
        for line in printed.stdout.splitlines():
            assert re.fullmatch(r"export [A-Za-z_]+=\S.*", line)
        environment = _environment(directory)
        asked = subprocess.run([sys.executable, "-c", _COUNT], env=environment, capture_output=True, text=True)
        assert asked.returncode == 0, asked.stderr
        assert int(asked.stdout) == 300

        again = _local("up", "--detach", where, home=tmp_path)
        assert again.returncode == 2
        assert "already running in" in again.stderr
    finally:
        stopped = _local("down", where, home=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.startswith("Stopping the local Google Cloud at http://127.0.0.1:")
    assert stopped.stdout.endswith("is kept.\n")
    assert not (directory / "local.json").exists()
    assert "Traceback" not in (directory / "local.log").read_text()
    assert _local("down", where, home=tmp_path).returncode == 2
    counted = _local("sql", f"SELECT COUNT(*) AS n FROM {SOURCE}", where, "--format=csv", home=tmp_path)
    assert counted.stdout == "n\n300\n"


def test_down_stops_a_cloud_in_another_terminal(tmp_path: Path) -> None:
    directory = tmp_path / "cloud"
    with _up(directory, tmp_path) as process:
        _read_until_ready(process)
        assert _local("down", f"--dir={directory}", home=tmp_path).returncode == 0
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "was stopped by imagebeam local down" in rest


def test_detached_up_reports_why_the_server_does_not_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _local("up", "--detach", f"--dir={tmp_path / 'cloud'}", f"--port={port}", home=tmp_path)
    assert done.returncode == 1
    assert "did not start" in done.stderr
    assert "in use" in done.stderr
    assert not (tmp_path / "cloud").exists()


def test_up_creates_the_dataset_prints_the_environment_and_stops_on_sigint(tmp_path: Path) -> None:
    directory = tmp_path / "cloud"
    with _up(directory, tmp_path) as process:
        lines = _read_until_ready(process)
        asked = subprocess.run(
            [sys.executable, "-c", _COUNT], env=_environment(directory), capture_output=True, text=True, check=True
        )
        assert int(asked.stdout) > 100
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "has stopped" in rest
    assert errors == ""
    assert any("imagebeam classify" in line and SOURCE in line for line in lines)
    assert any(f'eval "$(imagebeam local env --dir={directory})"' in line for line in lines)
    before = (directory / "bigquery.duckdb").stat().st_size

    with _up(directory, tmp_path) as process:
        again = _read_until_ready(process)
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert not any("sample dataset" in line for line in again)
    assert (directory / "bigquery.duckdb").stat().st_size >= before
    assert cli.main(["sql", f"SELECT COUNT(*) AS n FROM {SOURCE}", "--dir", str(directory), "--format=csv"]) == 0


def test_interrupted_up_leaves_no_partial_dataset(tmp_path: Path) -> None:
    directory = tmp_path / "cloud"
    with _up(directory, tmp_path) as process:
        assert process.stdout is not None
        assert "Starting" in process.stdout.readline()
        assert "sample dataset" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    assert "was removed" in rest
    assert process.returncode == 0
    assert not directory.exists()

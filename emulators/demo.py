"""``imagebeam local demo``: run the pipeline three times on a local Google Cloud, without calls to Google.

Each command is printed and then run as a user would run it. The tables remain in the directory and can be queried
afterwards.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset
from imagebeam.transforms.core.errors import ExitCode

UNITS = 300
SOURCE = "imagery_insights___us.latest_observations"
RESULTS = "answers"
TASK = "image_quality"
MARK = ".imagebeam-demo"


def main(directory: Path, *, seed: int = 0) -> int:
    """Run the demo.

    Args:
        directory: State directory. It is deleted first if an earlier demo created it.
        seed: Seed of the dataset and of the local model.

    Returns:
        The exit code of the first failed command, or 0.
    """
    if directory.exists():
        if not (directory / MARK).exists() and any(directory.iterdir()):
            sys.stderr.write(
                f"imagebeam: {directory} is not empty and does not belong to a demo (imagebeam local up keeps data): "
                f"remove it, or run imagebeam local demo --dir={directory}-demo\n"
            )
            return ExitCode.INVALID_INPUT
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARK).touch()
    started = time.monotonic()
    with LocalCloud(directory, seed=seed) as cloud:
        _print_heading(f"A local Google Cloud is running in {directory}: Cloud Storage, BigQuery, Vertex AI.")
        build_dataset(cloud.url, cloud.project, units=UNITS, seed=seed)
        _print_heading(f"It contains a small Street View Insights dataset: {UNITS} observations, some with defects.")
        failed = _commands(directory, {**os.environ, **cloud.environment})
    if failed:
        return failed
    _print_heading(f"Done in {time.monotonic() - started:.0f} s. The cloud has stopped; its tables remain:")
    _print_command(["imagebeam", "local", "sql", _ANSWERS, "--dir", str(directory)])
    _print_heading("To keep one running: `imagebeam local up`. With a real project: the same commands, other flags.")
    return 0


_ANSWERS = (
    "SELECT unit_id, sharpness, exposure, dominant_colour, usable, quality_score "
    f"FROM {RESULTS}.{TASK} ORDER BY quality_score DESC LIMIT 8"
)
_FAILURES = f"SELECT status, reason, COUNT(*) AS units FROM {RESULTS}.dead_letters GROUP BY 1, 2 ORDER BY 1, 2"
_VERSIONS = f"SELECT version, COUNT(*) AS answers FROM {RESULTS}.outcomes WHERE status = 'OK' GROUP BY 1 ORDER BY 2"


def _commands(directory: Path, environment: Mapping[str, str]) -> int:
    work = directory / "runs"
    flags = ["--source", SOURCE, "--results", RESULTS, "--work_dir", str(work)]
    classify = ["imagebeam", "classify", *flags]
    query = ["imagebeam", "local", "sql", "--dir", str(directory)]
    changed = _changed_task(directory)
    steps = [
        ("Classify every observation.", [*classify, "--task", TASK]),
        ("The best images, from a view with one typed column per field of the task.", [*query, _ANSWERS]),
        ("Failures by reason.", [*query, _FAILURES]),
        ("The same command again: all units are done, no calls are made.", [*classify, "--task", TASK]),
        ("A new prompt is a new version of the task: existing answers are outdated, and kept.",
         ["imagebeam", "plan", *flags, "--task", str(changed)]),
        ("Reprocess outdated units only on request.", [*classify, "--task", str(changed), "--reprocess=outdated"]),
        ("Both versions are kept.", [*query, _VERSIONS]),
    ]  # fmt: skip
    for heading, command in steps:
        _print_heading(heading)
        _print_command(command)
        done = subprocess.run(_to_argv(command), env=dict(environment), check=False)  # noqa: S603 - our own
        if done.returncode:
            return done.returncode
    return 0


def _changed_task(directory: Path) -> Path:
    """Write a copy of the shipped task with a changed prompt; return its path."""
    from importlib import resources

    text = resources.files("imagebeam.transforms.tasks").joinpath(f"data/tasks/{TASK}.yaml").read_text(encoding="utf-8")
    changed = directory / "tasks" / f"{TASK}.yaml"
    changed.parent.mkdir()
    marker = "prompt: |\n"
    if marker not in text:
        raise RuntimeError(f"the prompt of the shipped task {TASK} does not begin with {marker!r}")
    changed.write_text(text.replace(marker, f"{marker}  Be strict.\n", 1), encoding="utf-8")
    return changed


def _to_argv(command: list[str]) -> list[str]:
    return [sys.executable, "-m", "imagebeam.pipeline", *command[1:]]


def _print_heading(text: str) -> None:
    sys.stdout.write(f"\n# {text}\n")
    sys.stdout.flush()


def _print_command(command: list[str]) -> None:
    sys.stdout.write(f"$ {shlex.join(command)}\n")
    sys.stdout.flush()

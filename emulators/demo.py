"""``imagebeam local demo``: the real job, three times, on a local Google Cloud; nothing is asked of Google.

Every command is shown and then run as a person would run it. What it leaves stays in the directory, so
that its answers can be queried afterwards.
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

UNITS = 300
SOURCE = "imagery_insights___us.latest_observations"
RESULTS = "answers"
TASK = "image_quality"
MARK = ".imagebeam-demo"


def main(directory: Path, *, seed: int = 0) -> int:
    """Runs the demo.

    Args:
        directory: Where its cloud lives; emptied first if an earlier demo made it.
        seed: Seed of the dataset and of the local model.

    Returns:
        The exit code of the first command that failed, or 0.
    """
    if directory.exists():
        if not (directory / MARK).exists() and any(directory.iterdir()):
            sys.stderr.write(
                f"imagebeam: {directory} is not empty, and no demo's alone (imagebeam local up keeps what it holds): "
                f"remove it, or run imagebeam local demo --dir={directory}-demo\n"
            )
            return 2
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARK).touch()
    started = time.monotonic()
    with LocalCloud(directory, seed=seed) as cloud:
        _say(f"A local Google Cloud is up in {directory}: Cloud Storage, BigQuery, Vertex AI. No account is used.")
        build_dataset(cloud.url, cloud.project, units=UNITS, seed=seed)
        _say(f"It holds a small Street View Insights project: {UNITS} observations, real photographs, real traps.")
        failed = _commands(directory, {**os.environ, **cloud.environment})
    if failed:
        return failed
    _say(f"Done in {time.monotonic() - started:.0f} s. The cloud is down; its tables are still there:")
    _show(["imagebeam", "local", "sql", _ANSWERS, "--dir", str(directory)])
    _say("Keep one running with `imagebeam local up`. With a real project: the same command, other flags.")
    return 0


_ANSWERS = (
    "SELECT unit_id, sharpness, exposure, dominant_colour, usable, quality_score "
    f"FROM {RESULTS}.{TASK} ORDER BY quality_score DESC LIMIT 8"
)
_FAILURES = f"SELECT status, reason, COUNT(*) AS units FROM {RESULTS}.dead_letters GROUP BY 1, 2 ORDER BY 1, 2"
_VERSIONS = f"SELECT version, COUNT(*) AS answers FROM {RESULTS}.outcomes WHERE status = 'OK' GROUP BY 1 ORDER BY 2"


def _commands(directory: Path, environment: Mapping[str, str]) -> int:
    work = directory / "runs"
    classify = ["imagebeam", "classify", "--source", SOURCE, "--results", RESULTS, "--work_dir", str(work)]
    look = ["imagebeam", "local", "sql", "--dir", str(directory)]
    changed = _changed_task(directory)
    steps = [
        ("Ask about every observation.", [*classify, "--task", TASK]),
        ("The best pictures, from a view with one typed column per field of the task.", [*look, _ANSWERS]),
        ("What failed, and why.", [*look, _FAILURES]),
        ("The same command again: everything is done, nothing is called.", [*classify, "--task", TASK]),
        ("Another prompt is another version: the old answers are outdated, and still there.",
         [*classify, "--task", str(changed)]),
        ("Ask again only because you say so.", [*classify, "--task", str(changed), "--reprocess=outdated"]),
        ("Both versions are kept.", [*look, _VERSIONS]),
    ]  # fmt: skip
    for why, command in steps:
        _say(why)
        _show(command)
        done = subprocess.run(_runnable(command), env=dict(environment), check=False)  # noqa: S603 - our own
        if done.returncode:
            return done.returncode
    return 0


def _changed_task(directory: Path) -> Path:
    """The shipped task with another prompt, as a person would edit it."""
    from importlib import resources

    text = resources.files("imagebeam.transforms.tasks").joinpath(f"data/tasks/{TASK}.yaml").read_text(encoding="utf-8")
    changed = directory / "tasks" / f"{TASK}.yaml"
    changed.parent.mkdir()
    marker = "prompt: |\n"
    if marker not in text:
        raise RuntimeError(f"the shipped task {TASK} has no prompt that begins with {marker!r}")
    changed.write_text(text.replace(marker, f"{marker}  Be strict.\n", 1), encoding="utf-8")
    return changed


def _runnable(command: list[str]) -> list[str]:
    return [sys.executable, "-m", "imagebeam.pipeline", *command[1:]]


def _say(text: str) -> None:
    sys.stdout.write(f"\n# {text}\n")
    sys.stdout.flush()


def _show(command: list[str]) -> None:
    sys.stdout.write(f"$ {shlex.join(command)}\n")
    sys.stdout.flush()

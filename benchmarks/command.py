"""Runs the command line as a person runs it, in a process of its own, and watches its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import PeakMemory


def run_imagebeam(arguments: Sequence[str], directory: Path) -> tuple[int, dict[str, Any], PeakMemory]:
    """Runs ``imagebeam`` to its end.

    Args:
        arguments: A command and its flags; ``--json`` is added.
        directory: Where it runs, and where what it says on the way is kept.

    Returns:
        Its exit code, the run's summary, and the peaks of its processes.

    Raises:
        RuntimeError: It ended without a summary; with the last of what it said.
    """
    command = [sys.executable, "-m", "imagebeam.pipeline", *arguments, "--json"]
    with (
        (directory / "errors").open("w+b") as errors,
        subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=errors) as process,  # noqa: S603
        PeakMemory(process.pid) as memory,
    ):
        out = process.communicate()[0]
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
    if not out.lstrip().startswith(b"{"):
        raise RuntimeError(f"the run ended with exit code {process.returncode} and without books:\n{said[-4000:]}")
    return process.returncode, json.loads(out), memory

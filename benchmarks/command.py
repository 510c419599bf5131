"""Runs the command line in a separate process and samples its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import PeakMemory


def run_imagebeam(arguments: Sequence[str], directory: Path) -> tuple[int, dict[str, Any], PeakMemory]:
    """Run ``imagebeam``.

    Args:
        arguments: Command and flags; ``--json`` is added.
        directory: Working directory, and directory for its error output.

    Returns:
        The exit code, the summary of the run, and the peak memory of its processes.

    Raises:
        RuntimeError: No summary was printed. Contains the end of the error output.
    """
    command = [sys.executable, "-m", "imagebeam.pipeline", *arguments, "--json"]
    with (
        (directory / "errors").open("w+b") as errors,
        subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=errors) as process,  # noqa: S603
        PeakMemory(process.pid) as memory,
    ):
        out = process.communicate()[0]
        errors.seek(0)
        output = errors.read().decode("utf-8", "replace")
    if not out.lstrip().startswith(b"{"):
        raise RuntimeError(f"the run exited with {process.returncode} and without a summary:\n{output[-4000:]}")
    return process.returncode, json.loads(out), memory

"""CPU of ``--help``: ``python -m benchmarks.help_cpu``.

Each command is compared with the floor of the same run: an interpreter that imports click and pydantic.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

RUNS: Final = 5
FLOOR: Final = ("-c", "import click, pydantic")
COMMANDS: Final = (
    "", "init", "tasks", "preflight", "plan", "classify", "embed", "search", "batch", "batch collect", "template",
    "template launch embed", "schedule daily", "subscribe", "local",
)  # fmt: skip


def cpu_s(arguments: Sequence[str]) -> float:
    """Return the median CPU seconds of a Python process."""
    return statistics.median(_cpu_once(arguments) for _ in range(RUNS))


def _cpu_once(arguments: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)  # noqa: S603 - our own program
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the CPU seconds of each command, and their ratio to the floor."""
    floor = cpu_s(FLOOR)
    print(f"{floor:5.2f} s  floor: import click, pydantic")
    for command in COMMANDS:
        seconds = cpu_s(["-m", "imagebeam.pipeline", *command.split(), "--help"])
        print(f"{seconds:5.2f} s  {seconds / floor:4.1f} ×  imagebeam {command} --help".replace("  --help", " --help"))


if __name__ == "__main__":
    main()

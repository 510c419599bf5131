"""``make test-long``: run every test and record the last green run in ``tests/last_long_run.md``."""

from __future__ import annotations

import datetime
import resource
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
RECORD: Final = Path("tests/last_long_run.md")
#: As in make test, with new examples of Hypothesis.
OPTIONS: Final = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--hypothesis-profile=random")


def main(arguments: list[str]) -> int:
    """Run all tests; write the record if all pass.

    Args:
        arguments: More arguments of pytest. With any, nothing is recorded, because they can deselect tests.

    Returns:
        The exit code of pytest.
    """
    commit, started = describe_commit(ROOT), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", *OPTIONS, f"--junitxml={report}", *arguments]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code == 0 and not arguments:
            seconds = time.monotonic() - started
            (ROOT / RECORD).write_text(format_record(commit, report.read_text(encoding="utf-8"), seconds))
            sys.stdout.write(f"recorded in {RECORD}\n")
    return code


def describe_commit(root: Path) -> str:
    """Return the commit that is checked out, and whether it has uncommitted changes beside the record."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", f":!{RECORD}")
    return git("rev-parse", "HEAD") + (" with uncommitted changes" if changed else "")


def format_record(commit: str, report: str, seconds: float) -> str:
    """Return the record as Markdown.

    Args:
        commit: The commit that was tested.
        report: Report of pytest in JUnit's format.
        seconds: Duration.
    """
    suites = list(ET.fromstring(report).iter("testsuite"))
    total, skipped = (sum(int(suite.attrib[name]) for suite in suites) for name in ("tests", "skipped"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = {
        "commit": commit,
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "tests passed": f"{total - skipped:,}",
        "tests skipped": f"{skipped:,}",
        "CPU seconds": f"{used.ru_utime + used.ru_stime:,.0f}",
        "duration": f"{seconds:,.0f} s",
        "Python": sys.version.split()[0],
    }
    lines = [f"| {name} | {text} |" for name, text in rows.items()]
    head = ["# Last green run of all tests", "", "Written by `make test-long`.", "", "| | |", "| --- | --- |"]
    return "\n".join([*head, *lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

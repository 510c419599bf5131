"""``make bench``: measures the performance targets of the engine on this machine.

::

    python -m benchmarks.run                        # everything, about fifteen minutes
    python -m benchmarks.run --only window --only cpu
    python -m benchmarks.run --write docs/benchmarks.md --json results.json
    python -m benchmarks.run --quick                # only checks that all benchmarks run
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
import time
from pathlib import Path

from benchmarks.engine import page
from benchmarks.engine.results import QUICK, Report, Sizes
from benchmarks.engine.runner import BenchmarkRunner
from benchmarks.engine.scenarios import SCENARIOS


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks. The exit code is 0 even if targets are missed, because a slow machine is not an error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, only to check that all benchmarks run")
    parser.add_argument("--only", action="append", choices=[*SCENARIOS], metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results as JSON")
    parser.add_argument("--write", type=Path, metavar="PATH", help="write the page, such as docs/benchmarks.md")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else Sizes()
    if options.quick:
        sys.stdout.write("Tiny sizes: the results are not meaningful.\n\n")
    started, load = time.monotonic(), os.getloadavg()[0]
    with BenchmarkRunner(sizes.units, fresh=not options.quick) as runner:
        reports = [_run(name, runner, sizes) for name in options.only or SCENARIOS]
        pinned = runner.pinned
    took_s, loads = time.monotonic() - started, (load, os.getloadavg()[0])
    if options.json:
        document = [dataclasses.asdict(report) for report in reports]
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.write:
        chosen = [*(["--quick"] if options.quick else []), *(f"--only={name}" for name in options.only or ())]
        command = shlex.join(["python", "-m", "benchmarks.run", *chosen])  # without output paths
        options.write.write_text(
            page.page(reports, command, took_s=took_s, pinned=pinned, load=loads), encoding="utf-8"
        )
    return 0


def _run(name: str, runner: BenchmarkRunner, sizes: Sizes) -> Report:
    report = SCENARIOS[name](runner, sizes)
    sys.stdout.write("\n".join(page.plain(report)) + "\n\n")
    sys.stdout.flush()
    return report


if __name__ == "__main__":
    sys.exit(main())

"""The process of an implementation: reads its work, reports readiness, runs on a signal, and reports its result.

Each step is a line of JSON in one direction, so that the preparation (imports, tables, tokens) is not measured and
several processes can start together.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import orjson

if TYPE_CHECKING:
    from benchmarks.engine.metrics import Progress


class Worker(Protocol):
    """An implementation, created with its work."""

    def run(self, progress: Progress) -> None:
        """Do the work and count every finished image."""


def main() -> None:
    """Process work until the end of standard input."""
    cores = {int(core) for core in sys.argv[1].split(",") if core}
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    send = _redirect_stdout()
    # Imported after the pinning: imports count as memory of the implementation and run on its core.
    from benchmarks.engine.metrics import Progress, Result, Sampler, peak_mb
    from benchmarks.engine.workload import Work

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    project = os.environ["GOOGLE_CLOUD_PROJECT"]
    for line in sys.stdin:
        work = Work(**orjson.loads(line))
        implementation = _find(work.implementation)(work, project)
        send(b"{}")
        if not sys.stdin.readline():
            return
        progress = Progress()
        with Sampler(progress) as sampler:
            implementation.run(progress)
        send(orjson.dumps(Result(work.units, progress.done, progress.ok, peak_mb(), tuple(sampler.samples))))


def _find(name: str) -> Callable[..., Worker]:
    if name == "imagebeam":
        from benchmarks.engine.imagebeam_worker import ImagebeamWorker

        return ImagebeamWorker
    from benchmarks.engine.peers import all_peers

    return all_peers()[name]


def _redirect_stdout() -> Callable[[bytes], None]:
    """Reserve standard output for results and redirect other output to standard error; return the sender."""
    real = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(line: bytes) -> None:
        real.write(line + b"\n")
        real.flush()

    return send


if __name__ == "__main__":
    main()

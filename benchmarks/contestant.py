"""A contestant's process: reads a piece of work, says that it is ready, works when told, tells what it did.

One line of JSON in each direction per step, so that what comes before (imports, tables, tokens) is not
measured and several processes can begin together.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import orjson

if TYPE_CHECKING:
    from benchmarks.measuring import Tally


class Contestant(Protocol):
    """Made with its work, ready to run once."""

    def run(self, tally: Tally) -> None:
        """Does the work, and counts every image that is finished."""


def main() -> None:
    """Works until standard input ends."""
    cores = {int(core) for core in sys.argv[1].split(",") if core}
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    say = _own_stdout()
    # Imported only now: what a contestant imports counts as its memory, and runs on its core.
    from benchmarks.measuring import Result, Tally, Watch, peak_mb
    from benchmarks.workload import Work

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    project = os.environ["GOOGLE_CLOUD_PROJECT"]
    for line in sys.stdin:
        work = Work(**orjson.loads(line))
        contestant = _find(work.contestant)(work, project)
        say(b"{}")
        if not sys.stdin.readline():
            return
        tally = Tally()
        with Watch(tally) as watch:
            contestant.run(tally)
        say(orjson.dumps(Result(work.units, tally.done, tally.ok, peak_mb(), tuple(watch.samples))))


def _find(name: str) -> Callable[..., Contestant]:
    if name == "imagebeam":
        from benchmarks.ours import Ours

        return Ours
    from benchmarks.peers import all_peers

    return all_peers()[name]


def _own_stdout() -> Callable[[bytes], None]:
    """Keeps the real standard output for results; whatever else is printed goes to standard error."""
    real = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(line: bytes) -> None:
        real.write(line + b"\n")
        real.flush()

    return say


if __name__ == "__main__":
    main()

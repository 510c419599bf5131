"""The progress of a run: one line that keeps itself up to date on a terminal, plain lines in a log."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from typing import TextIO

from imagebeam.transforms.core.counts import Counts, sum_counts
from imagebeam.transforms.engine.engine import live_engines

TERMINAL_EVERY_S = 0.5
LOG_EVERY_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What a progress line says.

    Attributes:
        counts: Counts so far.
        total: Units due.
        in_flight: Calls under way.
        elapsed_s: Seconds since the first unit was handed over.
    """

    counts: Counts
    total: int
    in_flight: int
    elapsed_s: float


def line(snapshot: Snapshot) -> str:
    """The progress line.

    >>> counts = Counts(read=50, ok=49, failed={"BLOCKED/SAFETY": 1}, calls=55, throttled=4)
    >>> line(Snapshot(counts, total=300, in_flight=8, elapsed_s=10.0))
    '50/300 · 5.0/s · 4 × 429 · 1 failed · $0.0000 · 8 in flight · 50 s left'
    """
    counts = snapshot.counts
    rate = counts.finished / snapshot.elapsed_s if snapshot.elapsed_s > 0 else 0.0
    parts = [f"{counts.finished:,}/{snapshot.total:,}", f"{rate:.1f}/s"]
    parts.append(f"{counts.throttled:,} × 429")
    parts.append(f"{counts.failures:,} failed")
    parts.append(f"${counts.cost_usd:,.4f}")
    if snapshot.in_flight:
        parts.append(f"{snapshot.in_flight:,} in flight")
    left = snapshot.total - counts.finished
    if rate > 0 and left > 0:
        parts.append(f"{duration(left / rate)} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(50), duration(600), duration(7_300)
    ('50 s', '10 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class Progress:
    """Shows the progress of the engines of this process while a run is going on.

    Args:
        total: Units due.
        out: Where to; standard error by default.
        quiet: Show nothing.
    """

    def __init__(self, total: int, *, out: TextIO | None = None, quiet: bool = False) -> None:
        self._total = total
        self._out = out or sys.stderr
        self._quiet = quiet
        self._terminal = self._out.isatty()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imagebeam-progress", daemon=True)

    def __enter__(self) -> Progress:  # noqa: PYI034 - Self needs Python 3.11
        if not self._quiet and self._total:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        started: float | None = None
        shown = ""
        while not self._ended.wait(TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S):
            engines = [engine.progress() for engine in live_engines()]
            if not engines:
                continue
            started = started or time.monotonic()
            shown = line(
                Snapshot(
                    sum_counts(counts for counts, _, _ in engines),
                    self._total,
                    sum(in_flight for _, in_flight, _ in engines),
                    time.monotonic() - started,
                )
            )
            if self._terminal:
                self._out.write(f"\r\x1b[2K{shown}")
            else:
                self._out.write(shown + "\n")
            self._out.flush()
        if self._terminal and shown:
            self._out.write("\r\x1b[2K")
            self._out.flush()

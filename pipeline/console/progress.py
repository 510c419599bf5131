"""The progress of a run: a block that is kept up to date on a terminal, plain lines with a timestamp in a log."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import threading
import time
from collections import deque
from typing import Final

import rich.console
import rich.live
import rich.progress_bar
import rich.text

from imagebeam.pipeline.console.console import Console
from imagebeam.transforms.core.counts import OutcomeCounts, sum_counts
from imagebeam.transforms.core.text import format_duration
from imagebeam.transforms.engine.engine import live_engines

#: Seconds between two looks at the engines, which update a terminal, and between two lines in a log.
SAMPLE_INTERVAL_S: Final = 0.5
LOG_INTERVAL_S: Final = 30.0
#: The rate is that of this many seconds.
RATE_WINDOW_S: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one moment.

    Attributes:
        counts: OutcomeCounts so far.
        total: Units to process.
        in_flight: Calls in flight.
        per_s: Units finished per second, recently.
    """

    counts: OutcomeCounts
    total: int
    in_flight: int
    per_s: float


def format_progress(snapshot: Snapshot) -> str:
    """Return the progress line.

    >>> counts = OutcomeCounts(read=50, ok=49, failed={"BLOCKED/SAFETY": 1}, calls=55, throttled=4)
    >>> format_progress(Snapshot(counts, total=300, in_flight=8, per_s=5.0))
    '50/300 · 5.0/s · 4 × 429 · 1 failed · $0.0000 · 8 in flight · 50 s left'
    """
    counts = snapshot.counts
    parts = [
        f"{counts.finished:,}/{snapshot.total:,}",
        f"{snapshot.per_s:.1f}/s",
        f"{counts.throttled:,} × 429",
        f"{counts.failures:,} failed",
        f"${counts.cost_usd:,.4f}",
    ]
    if snapshot.in_flight:
        parts.append(f"{snapshot.in_flight:,} in flight")
    remaining = snapshot.total - counts.finished
    if snapshot.per_s > 0 and remaining > 0:
        parts.append(f"{format_duration(remaining / snapshot.per_s)} left")
    return " · ".join(parts)


class Progress:
    """Print the progress of the engines of this process while a run is in progress.

    Args:
        total: Units to process.
        console: Where to print.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._total = total
        self._console = console
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imagebeam-progress", daemon=True)
        self._samples: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Progress:  # noqa: PYI034 - Self needs Python 3.11
        if self._total and self._console.shows_progress:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        screen = self._console.errors
        block = _Block(screen) if screen.is_terminal else None
        next_line_s = time.monotonic() + LOG_INTERVAL_S
        with block or contextlib.nullcontext():
            while not self._ended.wait(SAMPLE_INTERVAL_S):
                snapshot = self._snapshot()
                if snapshot is None:
                    continue
                if block is not None:
                    block.show(snapshot)
                elif time.monotonic() >= next_line_s:
                    next_line_s += LOG_INTERVAL_S
                    now = datetime.datetime.now(datetime.UTC)
                    self._console.status(f"{now:%Y-%m-%dT%H:%M:%SZ} {format_progress(snapshot)}")

    def _snapshot(self) -> Snapshot | None:
        """Return the state of the run; None before its engine has started."""
        engines = [engine.progress() for engine in live_engines()]
        if not engines:
            return None
        counts = sum_counts(counts for counts, _, _ in engines)
        now = time.monotonic()
        self._samples.append((now, counts.finished))
        while self._samples[0][0] < now - RATE_WINDOW_S:
            self._samples.popleft()
        since, before = self._samples[0]
        per_s = (counts.finished - before) / (now - since) if now > since else 0.0
        return Snapshot(counts, self._total, sum(in_flight for _, in_flight, _ in engines), per_s)


class _Block(rich.live.Live):
    """A bar and a line below it, erased at the end."""

    def __init__(self, screen: rich.console.Console) -> None:
        super().__init__(console=screen, auto_refresh=False, transient=True)

    def show(self, snapshot: Snapshot) -> None:
        bar = rich.progress_bar.ProgressBar(snapshot.total, snapshot.counts.finished, width=60)
        self.update(rich.console.Group(bar, rich.text.Text(format_progress(snapshot))), refresh=True)

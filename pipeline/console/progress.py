"""The progress of a run: a block that is kept up to date on a terminal, plain lines with a timestamp in a log."""

from __future__ import annotations

import contextlib
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
from imagebeam.transforms.core.text import format_duration, format_usd
from imagebeam.transforms.engine.engine import live_engines

#: Seconds between two looks at the engines, which update a terminal, and between two lines in a log.
SAMPLE_INTERVAL_S: Final = 0.5
LOG_INTERVAL_S: Final = 30.0
#: The rate is that of this many seconds.
RATE_WINDOW_S: Final = 60.0


def format_progress(counts: OutcomeCounts, total: int, *, in_flight: int, per_s: float) -> str:
    """Return the progress line.

    Args:
        counts: Outcomes so far.
        total: Units to process.
        in_flight: Calls in flight.
        per_s: Units finished per second, recently.

    >>> counts = OutcomeCounts(read=50, ok=49, failed={"BLOCKED/SAFETY": 1}, calls=55, throttled=4)
    >>> format_progress(counts, 300, in_flight=8, per_s=5.0)
    '50/300 · 5.0/s · 4 × 429 · 1 failed · $0.0000 · 8 in flight · 50 s left'
    """
    parts = [
        f"{counts.finished:,}/{total:,}",
        f"{per_s:.1f}/s",
        f"{counts.throttled:,} × 429",
        f"{counts.failures:,} failed",
        format_usd(counts.cost_usd),
    ]
    if in_flight:
        parts.append(f"{in_flight:,} in flight")
    remaining = total - counts.finished
    if per_s > 0 and remaining > 0:
        parts.append(f"{format_duration(remaining / per_s)} left")
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
        # On a terminal a bar and a line below it, erased at the end.
        block = rich.live.Live(console=screen, auto_refresh=False, transient=True) if screen.is_terminal else None
        next_line_s = time.monotonic() + LOG_INTERVAL_S
        with block or contextlib.nullcontext():
            while not self._ended.wait(SAMPLE_INTERVAL_S):
                engines = [engine.progress() for engine in live_engines()]
                if not engines:  # they have not started
                    continue
                counts = sum_counts(counts for counts, _, _ in engines)
                in_flight = sum(in_flight for _, in_flight, _ in engines)
                per_s = self._measure_rate(counts.finished)
                line = format_progress(counts, self._total, in_flight=in_flight, per_s=per_s)
                if block is not None:
                    bar = rich.progress_bar.ProgressBar(self._total, counts.finished, width=60)
                    block.update(rich.console.Group(bar, rich.text.Text(line)), refresh=True)
                elif time.monotonic() >= next_line_s:
                    next_line_s += LOG_INTERVAL_S
                    self._console.status(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} {line}")

    def _measure_rate(self, finished: int) -> float:
        """Return the units finished per second during the last :data:`RATE_WINDOW_S`."""
        now = time.monotonic()
        self._samples.append((now, finished))
        while self._samples[0][0] < now - RATE_WINDOW_S:
            self._samples.popleft()
        since, before = self._samples[0]
        return (finished - before) / (now - since) if now > since else 0.0

"""Metrics of an implementation, sampled in its process by a low-overhead thread."""

from __future__ import annotations

import dataclasses
import re
import resource
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_INTERVAL_S = 0.05
#: The steady part of a run, after the ramp-up and before the last calls, as shares of the images.
STEADY = (0.4, 0.9)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A sample of a process.

    Attributes:
        at: Monotonic time in seconds, common to all processes.
        done: Images finished so far.
        cpu_s: User and system CPU seconds of the process so far.
    """

    at: float
    done: int
    cpu_s: float


class Progress:
    """Count finished images, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0
        self.ok = 0

    def add(self, done: int, ok: int) -> None:
        """Counts images that are finished, and how many of them have an answer."""
        with self._lock:
            self.done += done
            self.ok += ok


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """The result of an implementation.

    Attributes:
        images: Number of images.
        done: Finished images, as reported by the implementation.
        ok: Images with an answer.
        peak_mb: Peak resident memory of the process in MB (10⁶ bytes).
        samples: Samples in order; the first before the first call, the last after the end.
    """

    images: int
    done: int
    ok: int
    peak_mb: float
    samples: tuple[Sample, ...]

    @property
    def wall_s(self) -> float:
        """Seconds from the start to the end of the loop or pipeline."""
        return self.samples[-1].at - self.samples[0].at

    @property
    def per_s(self) -> float:
        """Images per second over the whole run."""
        return self.done / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per image over the whole run."""
        return 1000 * (self.samples[-1].cpu_s - self.samples[0].cpu_s) / max(self.done, 1)

    @property
    def steady_per_s(self) -> float:
        """Images per second in the steady part."""
        first, last = self._steady()
        return (last.done - first.done) / (last.at - first.at)

    @property
    def steady_cpu_ms(self) -> float:
        """CPU milliseconds per image in the steady part."""
        first, last = self._steady()
        return 1000 * (last.cpu_s - first.cpu_s) / (last.done - first.done)

    def _steady(self) -> tuple[Sample, Sample]:
        return _between(self.samples, *(share * self.done for share in STEADY)) or (
            self.samples[0],
            self.samples[-1],
        )

    def done_between(self, start: float, end: float) -> int:
        """Return the number of images finished between two monotonic times."""
        return sum(
            later.done - sooner.done
            for sooner, later in zip(self.samples, self.samples[1:], strict=False)
            if start < later.at <= end
        )


def _between(samples: Sequence[Sample], least: float, most: float) -> tuple[Sample, Sample] | None:
    """Return the first and last sample of a part of the work, or None if it ended between two samples."""
    part = [sample for sample in samples if least <= sample.done <= most]
    return (part[0], part[-1]) if part and part[-1].done > part[0].done else None


class Sampler:
    """Context manager that samples this process."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_loop, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self.samples.append(self._sample())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self.samples.append(self._sample())

    def _sample_loop(self) -> None:
        while not self._stopped.wait(SAMPLE_INTERVAL_S):
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        return Sample(time.monotonic(), self._progress.done, cpu_s())


def cpu_s() -> float:
    """Return the user and system time of this process so far in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """Return the peak resident memory of this process so far in MB.

    Read from ``/proc`` if available, because ``ru_maxrss`` of a child starts with the value of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

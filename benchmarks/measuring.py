"""What is measured of a contestant: its own process, from inside, by a thread that does next to nothing."""

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

LOOK_S = 0.05
#: The steady part of a run: after the ramp, before the last calls trickle in. Shares of the images.
STEADY = (0.4, 0.9)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One look at a contestant.

    Attributes:
        at: Monotonic clock of the machine, in seconds: all processes share it.
        done: Images finished so far.
        cpu_s: User and system time of the whole process so far.
    """

    at: float
    done: int
    cpu_s: float


class Tally:
    """OutcomeCounts finished images, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0
        self.ok = 0

    def add(self, done: int, ok: int) -> None:
        """OutcomeCounts images that are finished, and how many of them have an answer."""
        with self._lock:
            self.done += done
            self.ok += ok


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a contestant did.

    Attributes:
        images: Images that it was given.
        done: Images that it says are finished.
        ok: Those with an answer.
        peak_mb: Greatest resident memory of the process, in MB (10⁶ bytes).
        samples: Looks at it, in order; the first before the first call, the last after the end.
    """

    images: int
    done: int
    ok: int
    peak_mb: float
    samples: tuple[Sample, ...]

    @property
    def wall_s(self) -> float:
        """Seconds from the start of the loop or the pipeline to its end."""
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
        """Images finished between two times of the machine's clock."""
        return sum(
            later.done - sooner.done
            for sooner, later in zip(self.samples, self.samples[1:], strict=False)
            if start < later.at <= end
        )


def _between(samples: Sequence[Sample], least: float, most: float) -> tuple[Sample, Sample] | None:
    """First and last sample of a part of the work; None when it was over between two looks."""
    part = [sample for sample in samples if least <= sample.done <= most]
    return (part[0], part[-1]) if part and part[-1].done > part[0].done else None


class Watch:
    """Context manager that samples this process while a contestant works."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self.samples.append(self._sample())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.samples.append(self._sample())

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        return Sample(time.monotonic(), self._tally.done, cpu_s())


def cpu_s() -> float:
    """User and system time of this process so far, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """Greatest resident memory of this process so far, in MB.

    Of ``/proc`` where there is one: ``ru_maxrss`` of a child begins with what its parent had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

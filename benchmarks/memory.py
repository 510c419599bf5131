"""How much memory processes take at most, watched from outside: they are run as a person runs them."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

LOOK_S = 0.1
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


class PeakMemory:
    """Context manager that watches a process and all that it starts, in a thread that does next to nothing.

    The kernel keeps the peak itself, so nothing is missed but what a process takes in its last tenth of a
    second. Without ``/proc`` nothing is seen.

    Args:
        pid: The process.

    Attributes:
        peaks: Greatest resident memory so far, in MB (10⁶ bytes), by process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peaks: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def own(self) -> float:
        """Peak of the process itself; 0 if it was never seen."""
        return self.peaks.get(self._pid, 0.0)

    @property
    def children(self) -> list[float]:
        """Peaks of what it started, the greatest first."""
        return sorted((peak for pid, peak in self.peaks.items() if pid != self._pid), reverse=True)

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            for pid in family(self._pid):
                peak = peak_mb(pid)
                if peak:
                    self.peaks[pid] = peak


def family(pid: int) -> list[int]:
    """A process and all that came from it, as far as they live."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue  # it has just ended
    return found


def peak_mb(pid: int) -> float:
    """Greatest resident memory of a process so far, in MB; 0 if there is none (any more)."""
    try:
        found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0

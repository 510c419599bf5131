"""Peak memory of processes, sampled from outside."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_INTERVAL_S = 0.1
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


class PeakMemory:
    """Context manager that samples the peak memory of a process and its descendants in a low-overhead thread.

    The kernel records the peak, so that only the last tenth of a second of a process can be missed. Requires ``/proc``.

    Args:
        pid: Process ID.

    Attributes:
        peaks: Peak resident memory so far in MB (10⁶ bytes), by process ID.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_loop, daemon=True)
        self.peaks: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def own(self) -> float:
        """Peak of the process itself; 0 if it was never sampled."""
        return self.peaks.get(self._pid, 0.0)

    @property
    def children(self) -> list[float]:
        """Peaks of its descendants, in descending order."""
        return sorted((peak for pid, peak in self.peaks.items() if pid != self._pid), reverse=True)

    def _sample_loop(self) -> None:
        while not self._stopped.wait(SAMPLE_INTERVAL_S):
            for pid in process_tree(self._pid):
                peak = peak_mb(pid)
                if peak:
                    self.peaks[pid] = peak


def process_tree(pid: int) -> list[int]:
    """Return the IDs of a process and its running descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue  # it has just exited
    return found


def peak_mb(pid: int) -> float:
    """Return the peak resident memory of a process so far in MB; 0 if it does not exist."""
    try:
        found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0

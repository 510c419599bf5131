"""What a benchmark found: promises kept or not, and a line for each contestant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

NAMES: Final[Mapping[str, str]] = {
    "floor": "raw aiohttp: the floor",
    "imagebeam": "imagebeam, recording on",
    "genai_asyncio": "google-genai, asyncio, tuned by hand",
    "thread_pool": "BatchElements + pool of 64 threads",
    "run_inference_16": "RunInference, batch size 1, 16 workers",
    "run_inference": "RunInference, batch size 1",
    "naive_pardo": "ParDo + tenacity",
    "seed": "plain loop",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Promise:
    """A promise and what was measured.

    Attributes:
        what: What is promised.
        measured: Measured, with its unit.
        target: What it should be.
        kept: Whether it is.
        note: What else a reader should know.
    """

    what: str
    measured: str
    target: str
    kept: bool
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A contestant's line in the table of a scenario; medians where it ran more than once."""

    contestant: str
    in_flight: int
    images: int
    per_s: float
    steady_per_s: float
    cpu_ms: float
    steady_cpu_ms: float
    peak_mb: float
    max_in_flight: int
    lost: int
    again: int
    server_busy: float


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a scenario found."""

    title: str
    promises: tuple[Promise, ...]
    entries: tuple[Entry, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """How large everything is; the defaults are what is promised about.

    Attributes:
        rounds: How often contestants that are compared take turns.
        latency_s: Median latency of an answer.
        window: Images at 256 in flight.
        wide: Images at 2,048 in flight.
        cpu: Images at zero latency.
        slow_peers: Images per contestant that has few calls in flight: they are even from the start.
        quota: Images under the fixed quota.
        tokens: Units under the token quota.
        faulty: Images of the run with faults.
        time: Scale of everything that is timed.
    """

    rounds: int = 2
    latency_s: float = 1.0
    window: int = 6_000
    wide: int = 10_000
    cpu: int = 6_000
    slow_peers: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {
            "thread_pool": 1_536,
            "run_inference_16": 160,
            "run_inference": 12,
            "naive_pardo": 12,
            "seed": 12,
        }
    )
    quota: int = 900
    tokens: int = 600
    faulty: int = 4_000
    time: float = 1.0

    @property
    def units(self) -> int:
        """Units that there must be pictures for."""
        return max(self.window, self.wide, self.cpu, self.faulty, 12_000 if self.time == 1 else 60)


QUICK: Final = Sizes(
    rounds=1,
    latency_s=0.02,
    window=5,
    wide=5,
    cpu=5,
    slow_peers=dict.fromkeys(("thread_pool", "run_inference_16", "run_inference", "naive_pardo", "seed"), 2),
    quota=5,
    tokens=5,
    faulty=5,
    time=0.02,
)

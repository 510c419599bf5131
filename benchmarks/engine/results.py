"""Results of a scenario: targets, and one entry for each implementation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

NAMES: Final[Mapping[str, str]] = {
    "floor": "raw aiohttp (lower bound)",
    "imagebeam": "imagebeam, recording on",
    "genai_asyncio": "google-genai, asyncio, tuned by hand",
    "thread_pool": "BatchElements + pool of 64 threads",
    "run_inference_16": "RunInference, batch size 1, 16 workers",
    "run_inference": "RunInference, batch size 1",
    "naive_pardo": "ParDo + tenacity",
    "seed": "plain loop",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TargetResult:
    """A target and the measured value.

    Attributes:
        what: The measured quantity.
        measured: Measured value, with unit.
        target: Target value.
        met: Whether the target is met.
        note: Additional information.
    """

    what: str
    measured: str
    target: str
    met: bool
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """The entry of an implementation in the table of a scenario; medians of several runs."""

    implementation: str
    in_flight: int
    images: int
    per_s: float
    steady_per_s: float
    cpu_ms: float
    steady_cpu_ms: float
    peak_mb: float
    max_in_flight: int
    lost: int
    repeated: int
    server_busy: float


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The results of a scenario."""

    title: str
    targets: tuple[TargetResult, ...]
    entries: tuple[Entry, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the scenarios. The targets apply to the defaults.

    Attributes:
        rounds: Number of runs of implementations that are compared.
        latency_s: Median latency of an answer in seconds.
        window: Images with 256 calls in flight.
        wide: Images with 2,048 calls in flight.
        cpu: Images at zero latency.
        slow_peers: Images per implementation with few calls in flight, whose rate is constant from the start.
        quota: Images with a fixed quota of requests.
        tokens: Units with a quota of tokens.
        faulty: Images of the run with faults.
        time: Scale factor of durations.
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
        """Number of units that need images."""
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

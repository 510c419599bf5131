"""Compare lanes: estimate cost, duration, limiting factor and workers of each lane, and recommend one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.core.text import format_duration
from imagebeam.transforms.tasks.model_profiles import Quota

#: Maximum calls per second of one worker process, recording included (docs/benchmarks.md, zero latency, a whole run).
MAX_CALLS_PER_S: Final = 350.0
#: Latency in seconds until answers of the task are recorded. Google publishes none; a flex call may take up to ten
#: minutes ("Flex PayGo").
ASSUMED_LATENCY_S: Final[Mapping[Lane, float]] = {Lane.ONLINE: 2.0, Lane.FLEX: 60.0}
#: Maximum duration of a batch job. It may also queue for up to 72 hours (Google, "Batch inference").
BATCH_JOB_S: Final = 24 * 3600.0
BATCH_NOTE: Final = 'a job runs for up to 24 hours, after up to 72 hours in the queue (Google, "Batch inference")'
#: Maximum calls in flight per process (--in_flight).
MAX_IN_FLIGHT: Final = 4096
#: Smaller savings do not justify a slower lane.
MIN_SAVING_USD: Final = Decimal(1)
_MINUTE_S: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """The calls of a run.

    Attributes:
        calls: Number of calls, 0 or more.
        tokens: Tokens of all calls, answers included.
        line_bytes: Bytes of one request in the input file of a batch job.
    """

    calls: int
    tokens: int
    line_bytes: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """The limits of a run.

    Attributes:
        in_flight: Maximum concurrent calls per process.
        processes: Worker processes.
        latency_s: Lane → measured latency of a call in seconds.
        batch_lines: Maximum requests per batch job.
        batch_bytes: Maximum bytes per input file.
        rows_per_job: Maximum images per job of the sql lane.
    """

    in_flight: int
    processes: int
    latency_s: Mapping[str, float]
    batch_lines: int
    batch_bytes: int
    rows_per_job: int


@dataclasses.dataclass(frozen=True, slots=True)
class LanePlan:
    """The estimate of a run in one lane.

    Attributes:
        lane: The lane.
        usd: Cost at list price; None if the price is unknown.
        seconds: Wall time; None if it is unknown or the lane is not available.
        per_s: Calls per second; None for lanes of jobs.
        jobs: Number of jobs; 0 for lanes of calls.
        binds: The limiting factor.
        workers: Worker processes that use the whole quota; 0 for lanes of jobs.
        assumed: Assumptions of the estimate.
        problem: Why the lane is not available; None if it is.
    """

    lane: Lane
    usd: Decimal | None
    seconds: float | None = None
    per_s: float | None = None
    jobs: int = 0
    binds: str = ""
    workers: int = 0
    assumed: tuple[str, ...] = ()
    problem: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Recommendation:
    """The recommended lane.

    Attributes:
        lane: The lane; None if there is nothing to do, or no lane is available.
        reason: The reason, one sentence.
    """

    lane: Lane | None
    reason: str


def plan_calls(lane: Lane, usd: Decimal | None, work: Workload, quota: Quota, capacity: Capacity) -> LanePlan:
    """Plan a lane of single calls, limited by quota, calls in flight or processes."""
    latency_s = capacity.latency_s.get(lane) or ASSUMED_LATENCY_S.get(lane, ASSUMED_LATENCY_S[Lane.ONLINE])
    each = work.tokens / work.calls if work.calls else 0.0
    granted = {
        f"{quota.requests or 0:,} calls per minute": quota.requests / _MINUTE_S if quota.requests else math.inf,
        f"{quota.tokens or 0:,} tokens per minute": (
            quota.tokens / _MINUTE_S / each if quota.tokens and each else math.inf
        ),
    }
    process = {
        f"--in_flight={capacity.in_flight} at {latency_s:.3g} s per call": capacity.in_flight / latency_s,
        f"{MAX_CALLS_PER_S:.0f} calls per second of a process": MAX_CALLS_PER_S,
    }
    limits = {**granted, **{name: per_s * capacity.processes for name, per_s in process.items()}}
    binds = min(limits, key=lambda name: limits[name])
    assumed = []
    if quota.source:
        assumed.append(f"quota: {quota.source}; set the quota of your project with --max_rpm and --max_tpm")
    if lane not in capacity.latency_s:
        assumed.append(f"a call takes {latency_s:g} s")
    return LanePlan(
        lane,
        usd,
        seconds=work.calls / limits[binds] + latency_s if work.calls else 0.0,  # plus the last answer
        per_s=limits[binds],
        binds=binds,
        workers=count_workers(min(granted.values()), latency_s),
        assumed=tuple(assumed),
    )


def plan_batch(usd: Decimal | None, work: Workload, capacity: Capacity) -> LanePlan:
    """Plan batch jobs, which all run at the same time."""
    by_lines = math.ceil(work.calls / capacity.batch_lines)
    by_bytes = math.ceil(work.calls * work.line_bytes / capacity.batch_bytes)
    binds = (
        f"{capacity.batch_bytes:,} bytes per input file"
        if by_bytes > by_lines
        else f"{capacity.batch_lines:,} requests per job"
    )
    return LanePlan(
        Lane.BATCH,
        usd,
        seconds=BATCH_JOB_S if work.calls else 0.0,
        jobs=max(by_lines, by_bytes),
        binds=binds,
        assumed=(BATCH_NOTE,),
    )


def plan_sql(usd: Decimal | None, work: Workload, quota: Quota, capacity: Capacity) -> LanePlan:
    """Plan BigQuery jobs, which share one quota of model calls."""
    known = f"{quota.requests:,} calls per minute of BigQuery" if quota.requests else "unknown quota"
    return LanePlan(
        Lane.SQL,
        usd,
        seconds=work.calls / (quota.requests / _MINUTE_S) if quota.requests else None,
        per_s=quota.requests / _MINUTE_S if quota.requests else None,
        jobs=math.ceil(work.calls / capacity.rows_per_job),
        binds=known,
        assumed=(f"quota: {quota.source}",) if quota.source else (),
    )


def count_workers(granted_per_s: float, latency_s: float) -> int:
    """Return the number of worker processes that use the whole quota: usually one.

    >>> count_workers(2_000_000 / 60 / 1_200, 2.0), count_workers(1_000.0, 1.0), count_workers(math.inf, 1.0)
    (1, 3, 1)
    """
    if math.isinf(granted_per_s):
        return 1
    return max(1, math.ceil(granted_per_s / min(MAX_CALLS_PER_S, MAX_IN_FLIGHT / latency_s)))


def recommend(plans: Sequence[LanePlan], calls: int) -> Recommendation:
    """Recommend the cheapest lane; of lanes at about the same cost, the fastest."""
    if not calls:
        return Recommendation(None, "no units to process")
    available = [plan for plan in plans if plan.problem is None]
    if not available:
        return Recommendation(None, "no lane is available")
    fastest = min(available, key=_time)
    prices = {plan.lane: plan.usd for plan in available if plan.usd is not None}
    if len(prices) < len(available) or fastest.usd is None:
        return Recommendation(fastest.lane, f"{fastest.lane} is the fastest lane; not all prices are known")
    lowest = min(prices.values())
    saved = fastest.usd - lowest
    if saved < MIN_SAVING_USD:
        why = f"the fastest lane; another lane would save ${saved:,.2f}" if saved else "the fastest lane"
        return Recommendation(fastest.lane, f"{fastest.lane}: {why if len(available) > 1 else 'the only lane'}")
    cheap = min((plan for plan in available if prices[plan.lane] - lowest < MIN_SAVING_USD), key=_time)
    return Recommendation(
        cheap.lane,
        f"{cheap.lane}: saves ${saved:,.2f} of ${fastest.usd:,.2f} and takes {format_duration(cheap.seconds)} "
        f"instead of {format_duration(fastest.seconds)}",
    )


def to_json(plan: LanePlan) -> dict[str, Any]:
    """Return a plan as JSON values; money as a string, to keep all digits."""
    document = dataclasses.asdict(plan)
    document["usd"] = None if plan.usd is None else f"{plan.usd:f}"
    return document


def _time(plan: LanePlan) -> tuple[float, str]:
    return (math.inf if plan.seconds is None else plan.seconds, plan.lane)

"""What a run would come to in each lane: cost, time, the limit that binds, workers; and which lane to take.

Pure: what is to be done, what is granted and how calls are made go in, plans come out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.tasks.model_profiles import Quota

#: Calls per second of one worker process, answers recorded (docs/benchmarks.md, zero latency, over a whole run).
PROCESS_PER_S: Final = 350.0
#: Seconds of a call, assumed while no answer of the task is recorded. Google promises none; a flex call may take
#: ten minutes ("Flex PayGo").
ASSUMED_LATENCY_S: Final[Mapping[Lane, float]] = {Lane.ONLINE: 2.0, Lane.FLEX: 60.0}
#: A job is at work for 24 hours at most, and may wait 72 before (Google, "Batch inference"): all jobs run at once.
BATCH_S: Final = 24 * 3600.0
BATCH_NOTE: Final = 'at work for 24 hours at most, after up to 72 in the queue (Google, "Batch inference")'
#: Most calls in flight that one process takes (--in_flight).
MOST_IN_FLIGHT: Final = 4096
#: Savings below this are not worth waiting for.
WORTH_USD: Final = Decimal(1)
_S: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What is to be done.

    Attributes:
        calls: Calls, 0 or more.
        tokens: Tokens of all of them, answers included.
        line_bytes: Bytes of one request in the input of a batch job.
    """

    calls: int
    tokens: int
    line_bytes: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Means:
    """How calls are made.

    Attributes:
        in_flight: Calls under way at once, per process.
        processes: Worker processes.
        latency_s: Lane → seconds of a call, as measured.
        batch_lines: Requests per job at most.
        batch_bytes: Bytes per input file at most.
        rows_per_job: Images per job of the sql lane at most.
    """

    in_flight: int = 256
    processes: int = 1
    latency_s: Mapping[str, float] = dataclasses.field(default_factory=dict)
    batch_lines: int = 200_000
    batch_bytes: int = 984_000_000
    rows_per_job: int = 40_000


@dataclasses.dataclass(frozen=True, slots=True)
class LanePlan:
    """What a run would come to in a lane.

    Attributes:
        lane: ``online``, ``flex``, ``batch`` or ``sql``.
        usd: Cost at list price; None if the price is not known.
        seconds: Wall time; None if the lane cannot be taken.
        per_s: Calls per second; None where jobs are made.
        jobs: Jobs; 0 where calls are made.
        binds: The limit that decides how long it takes.
        workers: Worker processes that use what is granted; 0 where none call.
        assumed: What was assumed to say so, a sentence each.
        problem: Why the lane cannot be taken; None if it can.
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
    """Which lane to take.

    Attributes:
        lane: The lane; None if there is nothing to do, or no way.
        reason: Why, one sentence.
    """

    lane: Lane | None
    reason: str


def plan_calls(lane: Lane, usd: Decimal | None, work: Work, quota: Quota, means: Means) -> LanePlan:
    """A lane of single calls: as fast as the narrowest of quota, calls in flight and processes."""
    latency_s = means.latency_s.get(lane) or ASSUMED_LATENCY_S.get(lane, ASSUMED_LATENCY_S[Lane.ONLINE])
    each = work.tokens / work.calls if work.calls else 0.0
    granted = {
        f"{quota.requests or 0:,} calls a minute": quota.requests / _S if quota.requests else math.inf,
        f"{quota.tokens or 0:,} tokens a minute": quota.tokens / _S / each if quota.tokens and each else math.inf,
    }
    own = {
        f"--in_flight={means.in_flight} at {latency_s:.3g} s a call": means.in_flight / latency_s,
        f"{PROCESS_PER_S:.0f} calls a second of a process": PROCESS_PER_S,
    }
    limits = {**granted, **{name: per_s * means.processes for name, per_s in own.items()}}
    binds = min(limits, key=lambda name: limits[name])
    assumed = []
    if quota.source:
        assumed.append(f"quota: {quota.source}; --max_rpm and --max_tpm give the project's own")
    if lane not in means.latency_s:
        assumed.append(f"a call takes {latency_s:g} s")
    return LanePlan(
        lane,
        usd,
        seconds=work.calls / limits[binds] + latency_s if work.calls else 0.0,  # and the last answer comes
        per_s=limits[binds],
        binds=binds,
        workers=workers_for(min(granted.values()), latency_s),
        assumed=tuple(assumed),
    )


def plan_batch(usd: Decimal | None, work: Work, means: Means) -> LanePlan:
    """Batch jobs, all at once: what they take is the service's affair."""
    by_lines = math.ceil(work.calls / means.batch_lines)
    by_bytes = math.ceil(work.calls * work.line_bytes / means.batch_bytes)
    binds = (
        f"{means.batch_bytes:,} bytes of a job's input"
        if by_bytes > by_lines
        else f"{means.batch_lines:,} requests of a job"
    )
    return LanePlan(
        Lane.BATCH,
        usd,
        seconds=BATCH_S if work.calls else 0.0,
        jobs=max(by_lines, by_bytes),
        binds=binds,
        assumed=(BATCH_NOTE,),
    )


def plan_sql(usd: Decimal | None, work: Work, quota: Quota, means: Means) -> LanePlan:
    """Jobs of BigQuery, which asks the model itself: parallel ones are no faster."""
    known = f"{quota.requests:,} calls a minute of BigQuery" if quota.requests else "no quota is known"
    return LanePlan(
        Lane.SQL,
        usd,
        seconds=work.calls / (quota.requests / _S) if quota.requests else None,
        per_s=quota.requests / _S if quota.requests else None,
        jobs=math.ceil(work.calls / means.rows_per_job),
        binds=known,
        assumed=(f"quota: {quota.source}",) if quota.source else (),
    )


def workers_for(granted_per_s: float, latency_s: float) -> int:
    """Worker processes that use what is granted: nearly always one.

    >>> workers_for(2_000_000 / 60 / 1_200, 2.0), workers_for(1_000.0, 1.0), workers_for(math.inf, 1.0)
    (1, 3, 1)
    """
    if math.isinf(granted_per_s):
        return 1
    return max(1, math.ceil(granted_per_s / min(PROCESS_PER_S, MOST_IN_FLIGHT / latency_s)))


def recommend(plans: Sequence[LanePlan], calls: int) -> Recommendation:
    """The cheapest lane; of two that cost the same, or nearly, the one that is done sooner."""
    if not calls:
        return Recommendation(None, "nothing is due: there is nothing to pay or to wait for")
    ways = [plan for plan in plans if plan.problem is None]
    if not ways:
        return Recommendation(None, "no lane takes it")
    soonest = min(ways, key=_time)
    priced = [plan for plan in ways if plan.usd is not None]
    if len(priced) < len(ways) or soonest.usd is None:
        return Recommendation(soonest.lane, f"{soonest.lane} is done soonest; not every price is known")
    least = min(plan.usd for plan in priced if plan.usd is not None)
    saved = soonest.usd - least
    if saved < WORTH_USD:
        others = [plan for plan in ways if plan is not soonest]
        why = f"it is done soonest, and another lane would save ${saved:,.2f}" if saved else "it is done soonest"
        return Recommendation(soonest.lane, f"{soonest.lane}: {why if others else 'it is the only lane'}")
    cheap = min((plan for plan in priced if plan.usd is not None and plan.usd - least < WORTH_USD), key=_time)
    return Recommendation(
        cheap.lane,
        f"{cheap.lane}: it saves ${saved:,.2f} of ${soonest.usd:,.2f} and takes {duration(cheap.seconds)} instead of "
        f"{duration(soonest.seconds)}",
    )


def duration(seconds: float | None) -> str:
    """A time as people say it.

    >>> [duration(seconds) for seconds in (0, 0.2, 90, 5_400, 360_000, None)]
    ['0 s', '1 s', '1.5 min', '1.5 h', '4.2 days', 'unknown']
    """
    if seconds is None:
        return "unknown"
    for size, name, above in ((86_400, "days", 172_800), (3_600, "h", 3_600), (60, "min", 60)):
        if seconds >= above:
            return f"{seconds / size:.3g} {name}" if seconds / size >= 10 else f"{seconds / size:.2g} {name}"
    return f"{math.ceil(seconds)} s"


def to_json(plan: LanePlan) -> dict[str, Any]:
    """A plan as plain JSON values; money as text, so that no digit is lost."""
    document = dataclasses.asdict(plan)
    document["usd"] = None if plan.usd is None else f"{plan.usd:f}"
    return document


def _time(plan: LanePlan) -> tuple[float, str]:
    return (math.inf if plan.seconds is None else plan.seconds, plan.lane)

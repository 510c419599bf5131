"""Metrics of simulated runs of the rate limiter, and their summary."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from benchmarks.rate_limit.simulator import Call, Quota, Scenario, Target

REACHED_SHARE = 0.85  # of the quota, over a second


@dataclasses.dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of a run; see :class:`Target`."""

    utilization: float
    refused: float
    reached_s: float | None
    jain: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """Metrics of several runs of a scenario.

    Attributes:
        runs: Number of runs.
        mean: Mean values; a time is None if it was not reached in every run.
        worst: Worst value of each metric.
    """

    runs: int
    mean: Metrics
    worst: Metrics

    def misses(self, target: Target) -> list[str]:
        """Return descriptions of the targets that the mean misses."""
        mean, missed = self.mean, []
        if target.utilization is not None and mean.utilization < target.utilization:
            missed.append(f"utilization < {target.utilization:.0%}")
        if target.refused is not None and mean.refused > target.refused:
            missed.append(f"429s > {target.refused:.0%}")
        if target.reached_s is not None and (mean.reached_s is None or mean.reached_s > target.reached_s):
            missed.append(f"not reached in {target.reached_s:.0f} s")
        if target.jain is not None and (mean.jain is None or mean.jain < target.jain):
            missed.append(f"Jain < {target.jain}")
        return missed


def summarize(runs: Sequence[Metrics]) -> Summary:
    """Return the mean and worst metrics of one or more runs."""
    reached = [math.inf if run.reached_s is None else run.reached_s for run in runs]
    jain = [run.jain for run in runs if run.jain is not None]
    used, refused = [run.utilization for run in runs], [run.refused for run in runs]
    middle = statistics.mean
    return Summary(
        runs=len(runs),
        mean=Metrics(middle(used), middle(refused), _finite(middle(reached)), middle(jain) if jain else None),
        worst=Metrics(min(used), max(refused), _finite(max(reached)), min(jain, default=None)),
    )


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def measure(scenario: Scenario, calls: Sequence[Call]) -> Metrics:
    """Compute the metrics of a run."""
    start, stop = scenario.measured
    end = stop if stop is not None else (calls[-1].at if scenario.images else scenario.seconds)
    window = [call for call in calls if start <= call.at <= end]
    per_process = [0.0] * scenario.processes
    for call in window:
        if call.granted:
            per_process[call.process] += call.amount
    total = sum(per_process)
    refused = sum(not call.granted for call in window)
    allowed = _integral(scenario.quota, start, end)
    if start == 0:
        allowed += scenario.burst_s * scenario.quota(0.0)  # the bucket was full
    jain = total**2 / (scenario.processes * sum(got * got for got in per_process)) if total else 0.0
    return Metrics(
        utilization=total / allowed,
        refused=refused / max(1, len(window)),
        reached_s=None if scenario.reach is None else _reached(scenario, calls, scenario.reach),
        jain=jain if scenario.processes > 1 else None,
    )


def _integral(quota: Quota, start: float, end: float, pieces: int = 5000) -> float:
    width = (end - start) / pieces
    return sum(quota(start + (piece + 0.5) * width) for piece in range(pieces)) * width


def _reached(scenario: Scenario, calls: Sequence[Call], since: float) -> float | None:
    """Return the seconds until a full second was granted at 85 % of the quota, or None."""
    recent = [call for call in calls if call.granted and call.at >= since]
    first, sum_of_second = 0, 0.0
    for call in recent:
        sum_of_second += call.amount
        while recent[first].at < call.at - 1.0:
            sum_of_second -= recent[first].amount
            first += 1
        if sum_of_second >= REACHED_SHARE * scenario.quota(call.at):
            return call.at - since
    return None

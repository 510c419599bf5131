"""A discrete-event simulation of rate limiters against a service with a quota, in virtual time.

Processes that always have work, each with its own rate limiter, call one service without communicating. An answer
takes about 1 s (log-normal), a refusal 20 to 100 ms.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from collections.abc import Callable

from imagebeam.transforms.engine.rate_limiter import AdaptiveRateLimiter

ANSWER_MEDIAN_S = 1.0
ANSWER_SIGMA = 0.35
REFUSAL_S = (0.02, 0.1)
#: Maximum interval in seconds at which the service refills its bucket.
REFILL_STEP_S = 0.05
POLL_S = 0.5
START_SPREAD_S = 0.05
IMAGE_TOKENS = (280.0, 560.0, 1120.0, 2240.0)
PROMPT_TOKENS = 200.0
MEAN_TOKENS = PROMPT_TOKENS + sum(IMAGE_TOKENS) / len(IMAGE_TOKENS)
ESTIMATE_ERROR = 0.1

Quota = Callable[[float], float]


def steady(per_s: float) -> Quota:
    """Return a constant quota."""
    return lambda _: per_s


def step(before: float, after: float, at: float = 30.0) -> Quota:
    """Return a quota that changes once."""
    return lambda now: before if now < at else after


def sawtooth(low: float, high: float, period_s: float) -> Quota:
    """Return a quota that repeatedly rises linearly from ``low`` to ``high`` and drops back."""
    return lambda now: low + (high - low) * (now % period_s) / period_s


def noisy(per_s: float, hold_s: float, seed: int) -> Quota:
    """Return a quota that other clients use too: between 30 % and all of it, changing every ``hold_s`` seconds."""
    rnd = random.Random(seed)  # noqa: S311 - a simulation
    shares = [rnd.uniform(0.3, 1.0) for _ in range(1000)]
    return lambda now: per_s * shares[int(now / hold_s) % len(shares)]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The targets of a scenario; None for a metric without a target.

    Attributes:
        utilization: Minimum share of the quota that is granted.
        refused: Maximum share of refused calls.
        reached_s: Maximum number of seconds until the new rate is reached.
        jain: Minimum of Jain's fairness index: 1 if all get the same, 1/n if one gets everything.
    """

    utilization: float | None = None
    refused: float | None = None
    reached_s: float | None = None
    jain: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A service, the processes that call it, and the measured interval.

    Attributes:
        name: Name in the table.
        quota: Requests, or with ``in_tokens`` tokens, per second.
        seconds: Maximum duration in seconds.
        target: The targets.
        processes: Number of processes that share the quota.
        starts: Start time of each process in seconds; empty for 0.
        burst_s: Capacity of the service's bucket, in seconds of the quota.
        in_tokens: Whether the quota counts tokens.
        mixed: Whether images differ in size, from 280 to 2,240 tokens.
        images: Number of granted calls after which the run ends.
        refusal_s: Minimum and maximum duration of a refusal in seconds.
        accelerating: Whether the service also refuses more than twice the average rate of the last 10 s.
        measured: Interval in which utilization, refusals and fairness are measured; None for the end of the run.
        reach: Time from which the time until 85 % of the quota are granted is measured.
    """

    name: str
    quota: Quota
    seconds: float
    target: Target = Target()
    processes: int = 1
    starts: tuple[float, ...] = ()
    burst_s: float = 1.0
    in_tokens: bool = False
    mixed: bool = False
    images: int | None = None
    refusal_s: tuple[float, float] = REFUSAL_S
    accelerating: bool = False
    measured: tuple[float, float | None] = (0.0, None)
    reach: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A call to the service."""

    at: float
    process: int
    granted: bool
    amount: float


class Service:
    """A token bucket, initially full, that refuses calls when it is empty.

    With a quota in tokens a call is granted while any tokens are left; the balance can become negative.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._updated = 0.0
        self._level = self._size(0.0)
        self._per_second: dict[int, int] = {}

    def grant(self, now: float, amount: float) -> bool:
        """Return whether a call is granted; a refused call does not consume quota."""
        self._refill(now)
        if self._scenario.accelerating and not self._allows_increase(int(now)):
            return False
        if self._level < (1e-9 if self._scenario.in_tokens else 1.0):
            return False
        self._level -= amount
        return True

    def _refill(self, now: float) -> None:
        while self._updated < now:
            until = min(now, self._updated + REFILL_STEP_S)
            quota = self._scenario.quota((until + self._updated) / 2)
            self._level = min(self._size(until), self._level + (until - self._updated) * quota)
            self._updated = until

    def _size(self, now: float) -> float:
        return max(1.0, self._scenario.burst_s * self._scenario.quota(now))

    def _allows_increase(self, second: int) -> bool:
        usual = max(5.0, sum(self._per_second.get(s, 0) for s in range(second - 10, second)) / 10)
        if self._per_second.get(second, 0) >= 2 * usual:
            return False
        self._per_second[second] = self._per_second.get(second, 0) + 1
        return True


def simulate(scenario: Scenario, seed: int = 0) -> list[Call]:
    """Run a scenario; return all calls in the order in which they were sent."""
    rnd = random.Random(seed)  # noqa: S311 - a simulation
    service, order = Service(scenario), itertools.count()
    limiters: list[AdaptiveRateLimiter | None] = [None] * scenario.processes
    sizes: list[float] = [_tokens(rnd, mixed=scenario.mixed) for _ in limiters]
    events: list[tuple[float, int, int, Callable[[float], None] | None]] = []
    calls: list[Call] = []
    granted = 0
    for process in range(scenario.processes):
        start = scenario.starts[process] if scenario.starts else 0.0
        heapq.heappush(events, (start + rnd.uniform(0, START_SPREAD_S), next(order), process, None))
    while events and (scenario.images is None or granted < scenario.images):
        now, _, process, callback = heapq.heappop(events)
        if now > scenario.seconds:
            break
        if callback is not None:
            callback(now)
            continue
        limiter = limiters[process]
        if limiter is None:
            limiter = limiters[process] = AdaptiveRateLimiter(now)
        tokens = sizes[process]
        wait = limiter.wait_s(now, tokens)
        if wait > 0:
            heapq.heappush(events, (now + min(max(wait, 1e-6), POLL_S), next(order), process, None))
            continue
        sizes[process] = _tokens(rnd, mixed=scenario.mixed)
        actual = tokens * rnd.uniform(1 - ESTIMATE_ERROR, 1 + ESTIMATE_ERROR)
        amount = actual if scenario.in_tokens else 1.0
        passed = service.grant(now, amount)
        calls.append(Call(now, process, passed, amount))
        granted += passed
        delay = ANSWER_MEDIAN_S * rnd.lognormvariate(0, ANSWER_SIGMA) if passed else rnd.uniform(*scenario.refusal_s)
        news = _feedback(limiter, now, tokens, actual, passed=passed)
        heapq.heappush(events, (now + delay, next(order), process, news))
        heapq.heappush(events, (now, next(order), process, None))
    return calls


def _tokens(rnd: random.Random, *, mixed: bool) -> float:
    return PROMPT_TOKENS + rnd.choice(IMAGE_TOKENS) if mixed else MEAN_TOKENS


def _feedback(
    limiter: AdaptiveRateLimiter, sent: float, tokens: float, actual: float, *, passed: bool
) -> Callable[[float], None]:
    def answered(_: float) -> None:
        limiter.settle(tokens, actual)

    def refused(now: float) -> None:
        limiter.refused(now, sent, tokens)

    return answered if passed else refused

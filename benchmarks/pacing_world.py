"""A service with a quota, and processes that pace themselves by it, in virtual time.

A discrete-event simulation: processes that always have work, each with a pacer of its own that knows nothing of the
others, ask one service. An answer comes about 1 s later (lognormal), a refusal after 20 to 100 ms.
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
#: The service lets its bucket refill in steps of at most so long.
REFILL_STEP_S = 0.05
POLL_S = 0.5
START_SPREAD_S = 0.05
IMAGE_TOKENS = (280.0, 560.0, 1120.0, 2240.0)
PROMPT_TOKENS = 200.0
MEAN_TOKENS = PROMPT_TOKENS + sum(IMAGE_TOKENS) / len(IMAGE_TOKENS)
ESTIMATE_ERROR = 0.1

Quota = Callable[[float], float]


def steady(per_s: float) -> Quota:
    """A quota that does not move."""
    return lambda _: per_s


def step(before: float, after: float, at: float = 30.0) -> Quota:
    """A quota that moves once."""
    return lambda now: before if now < at else after


def sawtooth(low: float, high: float, period_s: float) -> Quota:
    """A quota that rises from ``low`` to ``high`` and falls back at once, again and again."""
    return lambda now: low + (high - low) * (now % period_s) / period_s


def noisy(per_s: float, hold_s: float, seed: int) -> Quota:
    """What others leave of a quota: between 30 % and all of it, changing every ``hold_s``."""
    rnd = random.Random(seed)  # noqa: S311 - a simulation
    shares = [rnd.uniform(0.3, 1.0) for _ in range(1000)]
    return lambda now: per_s * shares[int(now / hold_s) % len(shares)]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What a scenario must reach; None for what is only shown.

    Attributes:
        utilisation: Granted of what the quota would have allowed, at least.
        refused: Refused calls of all calls, at most.
        reached_s: Seconds until the new rate is reached, at most.
        jain: Jain's index of fairness, at least: 1 if all get the same, 1/n if one gets all.
    """

    utilisation: float | None = None
    refused: float | None = None
    reached_s: float | None = None
    jain: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A service, the processes that ask it, and what is measured.

    Attributes:
        name: What the table calls it.
        quota: Requests per second; of tokens per second if ``in_tokens``.
        seconds: When it ends at the latest.
        target: What must be reached.
        processes: How many share the quota.
        starts: When each of them starts, in seconds; all at 0 if empty.
        burst_s: What the service's bucket holds, in seconds of the quota.
        in_tokens: The quota counts tokens.
        mixed: Images come in sizes from 280 to 2,240 tokens.
        images: Ends when so many were granted.
        refusal_s: A refusal takes from so long to so long.
        accelerating: The service also refuses more than twice the average rate of the last 10 s.
        measured: From when to when utilisation, refusals and fairness are measured; the end if None.
        reach: Measure how long after this moment 85 % of the quota are first granted.
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
    """A call as the service saw it."""

    at: float
    process: int
    granted: bool
    amount: float


class Service:
    """A token bucket, full at first, that refuses when it is empty.

    A quota in tokens lets a call through while there is anything left, and is then in debt.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._updated = 0.0
        self._level = self._size(0.0)
        self._per_second: dict[int, int] = {}

    def grant(self, now: float, amount: float) -> bool:
        """Grants a call or refuses it; a refused one takes nothing."""
        self._refill(now)
        if self._scenario.accelerating and not self._gentle(int(now)):
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

    def _gentle(self, second: int) -> bool:
        usual = max(5.0, sum(self._per_second.get(s, 0) for s in range(second - 10, second)) / 10)
        if self._per_second.get(second, 0) >= 2 * usual:
            return False
        self._per_second[second] = self._per_second.get(second, 0) + 1
        return True


def simulate(scenario: Scenario, seed: int = 0) -> list[Call]:
    """Runs a scenario; returns all calls in the order in which they were sent."""
    rnd = random.Random(seed)  # noqa: S311 - a simulation
    service, order = Service(scenario), itertools.count()
    pacers: list[AdaptiveRateLimiter | None] = [None] * scenario.processes
    sizes: list[float] = [_tokens(rnd, mixed=scenario.mixed) for _ in pacers]
    events: list[tuple[float, int, int, Callable[[float], None] | None]] = []
    calls: list[Call] = []
    granted = 0
    for process in range(scenario.processes):
        start = scenario.starts[process] if scenario.starts else 0.0
        heapq.heappush(events, (start + rnd.uniform(0, START_SPREAD_S), next(order), process, None))
    while events and (scenario.images is None or granted < scenario.images):
        now, _, process, tell = heapq.heappop(events)
        if now > scenario.seconds:
            break
        if tell is not None:
            tell(now)
            continue
        limiter = pacers[process]
        if limiter is None:
            limiter = pacers[process] = AdaptiveRateLimiter(now)
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
        news = _news(limiter, now, tokens, actual, passed=passed)
        heapq.heappush(events, (now + delay, next(order), process, news))
        heapq.heappush(events, (now, next(order), process, None))
    return calls


def _tokens(rnd: random.Random, *, mixed: bool) -> float:
    return PROMPT_TOKENS + rnd.choice(IMAGE_TOKENS) if mixed else MEAN_TOKENS


def _news(
    limiter: AdaptiveRateLimiter, sent: float, tokens: float, actual: float, *, passed: bool
) -> Callable[[float], None]:
    def answered(_: float) -> None:
        limiter.settle(tokens, actual)

    def refused(now: float) -> None:
        limiter.refused(now, sent, tokens)

    return answered if passed else refused

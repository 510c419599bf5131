"""The rate limiter in virtual time: it uses a quota with few refusals."""

from __future__ import annotations

import collections
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import pytest

from imagebeam.transforms.engine.rate_limiter import MAX_PER_S, MIN_PER_S, AdaptiveRateLimiter

STEP_S = 0.01


class Quota:
    """A token bucket as a service would keep it: it holds one second of the quota."""

    def __init__(self, per_s: float) -> None:
        self.per_s, self.credit = per_s, per_s

    def pass_time(self) -> None:
        self.credit = min(self.per_s, self.credit + self.per_s * STEP_S)

    def grant(self) -> bool:
        if self.credit < 1:
            return False
        self.credit -= 1
        return True


def run(limiter: AdaptiveRateLimiter, quota: Quota, seconds: float, start: float = 0.0) -> tuple[int, int]:
    """Send what the limiter grants; return the calls granted and refused."""
    (granted,), refused = run_all([limiter], quota, seconds, start)
    return granted, refused


def run_all(
    limiters: list[AdaptiveRateLimiter], quota: Quota, seconds: float, start: float = 0.0
) -> tuple[list[int], int]:
    """The same with several processes on one quota; returns the calls granted to each, and all that were refused."""
    granted, refused = [0] * len(limiters), 0
    for step in range(int(seconds / STEP_S)):
        now = start + step * STEP_S
        quota.pass_time()
        for offset in range(len(limiters)):
            index = (step + offset) % len(limiters)  # each is first once in a while
            while limiters[index].wait_s(now) == 0:
                if not quota.grant():
                    refused += 1
                    limiters[index].refused(now, now)
                    break
                granted[index] += 1
    return granted, refused


def settled(per_s: float) -> tuple[AdaptiveRateLimiter, Quota, float]:
    """A limiter that has just ended a probe, its quota, and the time."""
    limiter, quota = AdaptiveRateLimiter(0.0), Quota(per_s)
    run(limiter, quota, 90)
    now = 90.0
    while run(limiter, quota, STEP_S, now)[1] == 0:
        now += STEP_S
    return limiter, quota, now


def hit(per_s: float) -> tuple[AdaptiveRateLimiter, float, float]:
    """A limiter after a refusal without a probe, the time, and its rate before."""
    limiter, quota, now = settled(per_s)
    _, refused = run(limiter, quota, 1.5, now + STEP_S)
    assert refused == 0
    before, now = limiter.rate_per_s, now + 2.0
    limiter.refused(now, now)
    return limiter, now, before


def test_uses_a_fixed_quota_with_few_refusals() -> None:
    limiter, quota = AdaptiveRateLimiter(0.0), Quota(10.0)
    run(limiter, quota, 20)
    granted, refused = run(limiter, quota, 120, start=20.0)
    assert granted >= 0.97 * 1200
    assert refused <= 0.02 * (granted + refused)


def test_finds_a_tenfold_quota_within_ten_seconds() -> None:
    limiter, quota = AdaptiveRateLimiter(0.0), Quota(10.0)
    run(limiter, quota, 60)
    quota.per_s = 100.0
    run(limiter, quota, 10, start=60.0)
    granted, refused = run(limiter, quota, 10, start=70.0)
    assert granted >= 0.85 * 1000
    assert refused <= 0.02 * (granted + refused)


def test_finds_a_tenth_of_the_quota_within_ten_seconds() -> None:
    limiter, quota = AdaptiveRateLimiter(0.0), Quota(100.0)
    run(limiter, quota, 60)
    quota.per_s = 10.0
    granted, refused = run(limiter, quota, 10, start=60.0)
    assert granted >= 0.85 * 100
    assert refused <= 0.1 * (granted + refused)


def test_four_processes_share_a_quota() -> None:
    limiters, quota = [AdaptiveRateLimiter(0.0) for _ in range(4)], Quota(40.0)
    run_all(limiters, quota, 60)
    granted, refused = run_all(limiters, quota, 240, start=60.0)
    assert sum(granted) >= 0.95 * 40 * 240
    assert refused <= 0.03 * (sum(granted) + refused)
    assert max(granted) <= 3 * min(granted)


def test_hit_takes_a_larger_share_of_a_larger_rate() -> None:
    shares = []
    for per_s in (8.0, 16.0, 32.0, 64.0):
        limiter, _, before = hit(per_s)
        shares.append(1 - limiter.rate_per_s / before)
    assert shares == sorted(shares)
    assert shares[0] < 0.6 * shares[1] < shares[1] < 0.6 * shares[2]
    assert shares[-1] == pytest.approx(0.3)  # never more, however large the rate


def test_ignores_refusals_of_calls_in_flight_after_a_probe() -> None:
    limiter, _, now = settled(10.0)
    found = limiter.rate_per_s
    assert found == pytest.approx(10.0, rel=0.1)
    for late in range(5):
        limiter.refused(now + 0.01 * late, now - 0.01)
    assert limiter.rate_per_s == found


def test_refusals_of_calls_in_flight_after_a_hit_cut_the_rate_to_a_tenth_at_most() -> None:
    limiter, now, before = hit(10.0)
    rates = [limiter.rate_per_s]
    for late in range(30):
        limiter.refused(now + 0.01 * late, now - 0.01)
        rates.append(limiter.rate_per_s)
    assert rates[2] < rates[1] < rates[0] < before
    assert 0.08 * before <= rates[-1] <= 0.1 * before


def test_slow_rate_does_not_explode_before_the_first_refusal() -> None:
    limiter, _, now = settled(2.0)
    start = now
    sent: list[float] = []
    while len(sent) < 5_000 and now < start + 120:  # without a quota from here on
        now += STEP_S
        while limiter.wait_s(now) == 0:
            sent.append(now)
    counts = collections.Counter(int((at - start) / 0.3) for at in sent)
    steps = [counts[step] for step in range(int((now - start) / 0.3))]
    assert steps[-1] > 500
    assert all(later <= 1.5 * sooner + 3 for sooner, later in itertools.pairwise(steps))


def test_rate_grows_without_a_quota() -> None:
    limiter = AdaptiveRateLimiter(0.0)
    granted, refused = run(limiter, Quota(1e9), 8)
    assert refused == 0
    assert granted > 2_000


def test_finds_a_token_quota_for_calls_of_different_sizes() -> None:
    limiter, sizes, per_s = AdaptiveRateLimiter(0.0), [600.0, 1200.0, 3000.0, 5400.0], 20_000.0
    credit, granted, refused, calls = 60_000.0, 0.0, 0, 0
    for step in range(int(150 / STEP_S)):
        now = step * STEP_S
        credit = min(60_000.0, credit + per_s * STEP_S)
        while limiter.wait_s(now, tokens := sizes[(calls * 7) % 4]) == 0:
            calls += 1
            if credit < tokens:
                refused += now > 30
                limiter.refused(now, now, tokens)
                break
            credit -= tokens
            granted += tokens * (now > 30)
            limiter.settle(tokens, tokens)
    assert granted >= 0.9 * 120 * per_s
    assert refused <= 0.06 * calls


@hypothesis.given(ceiling=st.floats(100, 100_000), sizes=st.lists(st.floats(50, 5_000), min_size=1, max_size=20))
def test_never_exceeds_the_token_limit(ceiling: float, sizes: list[float]) -> None:
    limiter = AdaptiveRateLimiter(0.0, max_tokens_per_s=ceiling)
    sent, calls = 0.0, 0
    for step in range(int(10 / 0.05)):
        while limiter.wait_s(step * 0.05, tokens := sizes[calls % len(sizes)]) == 0:
            calls += 1
            sent += tokens
    assert sent <= 10 * ceiling + max(*sizes, ceiling / 10, 0) + 1e-6


def test_starts_slowly() -> None:
    granted, _ = run(AdaptiveRateLimiter(0.0), Quota(1e9), 1)
    assert granted <= 45


def test_respects_retry_after() -> None:
    limiter = AdaptiveRateLimiter(0.0)
    limiter.refused(1.0, 0.9, retry_after_s=7.0)
    assert limiter.wait_s(2.0) == pytest.approx(6.0)
    assert limiter.wait_s(8.5) == 0


def test_simultaneous_refusals_cut_the_rate_once() -> None:
    limiter = AdaptiveRateLimiter(0.0)
    limiter.refused(1.0, 0.9)
    once = limiter.rate_per_s
    for _ in range(50):
        limiter.refused(1.1, 0.95)
    assert limiter.rate_per_s == once


@hypothesis.given(
    ceiling=st.floats(0.5, 200),
    refusals=st.lists(st.integers(0, 30), max_size=5),
)
def test_never_exceeds_the_request_limit(ceiling: float, refusals: list[int]) -> None:
    limiter = AdaptiveRateLimiter(0.0, max_requests_per_s=ceiling)
    sent = 0
    for step in range(int(30 / 0.05)):
        now = step * 0.05
        while limiter.wait_s(now) == 0:
            sent += 1
        if step / 20 in refusals:
            limiter.refused(now, now)
    assert sent <= 30 * ceiling + max(1.0, ceiling / 10) + 1


@hypothesis.given(
    ceiling=st.none() | st.floats(0.1, 1_000),
    token_ceiling=st.none() | st.floats(100, 1e6),
    events=st.lists(
        st.tuples(
            st.floats(0, 5),
            st.sampled_from(["send", "refuse", "settle"]),
            st.floats(0, 20),
            st.floats(0, 1e5),
            st.none() | st.floats(0, 60),
        ),
        max_size=200,
    ),
)
def test_rate_stays_in_range_and_waits_are_not_negative(
    ceiling: float | None,
    token_ceiling: float | None,
    events: list[tuple[float, str, float, float, float | None]],
) -> None:
    limiter, now = AdaptiveRateLimiter(100.0, max_requests_per_s=ceiling, max_tokens_per_s=token_ceiling), 100.0
    for passed, what, ago, tokens, retry_after_s in events:
        now += passed
        if what == "send":
            wait = limiter.wait_s(now, tokens)
            assert wait >= 0
            assert math.isfinite(wait)
        elif what == "refuse":
            limiter.refused(now, now - ago, tokens, retry_after_s)
        else:
            limiter.settle(tokens, tokens * ago)
        assert MIN_PER_S <= limiter.rate_per_s <= MAX_PER_S

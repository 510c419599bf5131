"""The pacer in virtual time: it uses a quota, and does not fight it."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from imagebeam.transforms.pacing import Pacer

STEP_S = 0.01


class Quota:
    """A token bucket as a service would keep it."""

    def __init__(self, per_s: float, burst: float = 5.0) -> None:
        self.per_s, self.burst, self.credit = per_s, burst, burst

    def pass_time(self) -> None:
        self.credit = min(self.burst, self.credit + self.per_s * STEP_S)

    def grant(self) -> bool:
        if self.credit < 1:
            return False
        self.credit -= 1
        return True


def run(pacer: Pacer, quota: Quota, seconds: float, start: float = 0.0) -> tuple[int, int]:
    """Sends whatever the pacer lets through; returns calls granted and refused."""
    granted = refused = 0
    for step in range(int(seconds / STEP_S)):
        now = start + step * STEP_S
        quota.pass_time()
        while pacer.wait_s(now) == 0:
            if quota.grant():
                granted += 1
            else:
                refused += 1
                pacer.refused(now, now)
                break
    return granted, refused


def test_a_fixed_quota_is_mostly_used_and_hardly_fought() -> None:
    pacer, quota = Pacer(0.0), Quota(10.0)
    run(pacer, quota, 20)
    granted, refused = run(pacer, quota, 60, start=20.0)
    assert granted >= 0.8 * 600
    assert refused <= 0.1 * (granted + refused)


def test_without_a_quota_the_pace_grows_out_of_the_way() -> None:
    pacer = Pacer(0.0)
    granted, refused = run(pacer, Quota(1e9, burst=1e9), 8)
    assert refused == 0
    assert granted > 2_000


def test_a_quota_of_tokens_is_found_although_sizes_differ() -> None:
    pacer, sizes, per_s = Pacer(0.0), [600.0, 1200.0, 3000.0, 5400.0], 20_000.0
    credit, granted, refused, calls = 60_000.0, 0.0, 0, 0
    for step in range(int(150 / STEP_S)):
        now = step * STEP_S
        credit = min(60_000.0, credit + per_s * STEP_S)
        while pacer.wait_s(now, tokens := sizes[(calls * 7) % 4]) == 0:
            calls += 1
            if credit < tokens:
                refused += now > 30
                pacer.refused(now, now, tokens)
                break
            credit -= tokens
            granted += tokens * (now > 30)
            pacer.settle(tokens, tokens)
    assert granted >= 0.9 * 120 * per_s
    assert refused <= 0.06 * calls


@hypothesis.given(ceiling=st.floats(100, 100_000), sizes=st.lists(st.floats(50, 5_000), min_size=1, max_size=20))
def test_a_hard_ceiling_of_tokens_is_never_exceeded(ceiling: float, sizes: list[float]) -> None:
    pacer = Pacer(0.0, max_tokens_per_s=ceiling)
    sent, calls = 0.0, 0
    for step in range(int(10 / 0.05)):
        while pacer.wait_s(step * 0.05, tokens := sizes[calls % len(sizes)]) == 0:
            calls += 1
            sent += tokens
    assert sent <= 10 * ceiling + max(*sizes, ceiling / 10, 0) + 1e-6


def test_the_start_is_slow() -> None:
    granted, _ = run(Pacer(0.0), Quota(1e9, burst=1e9), 1)
    assert granted <= 45


def test_a_time_to_wait_that_the_service_names_is_kept() -> None:
    pacer = Pacer(0.0)
    pacer.refused(1.0, 0.9, retry_after_s=7.0)
    assert pacer.wait_s(2.0) == pytest.approx(6.0)
    assert pacer.wait_s(8.5) == 0


def test_refusals_of_one_moment_cut_the_pace_once() -> None:
    pacer = Pacer(0.0)
    pacer.refused(1.0, 0.9)
    once = pacer.rate_per_s
    for _ in range(50):
        pacer.refused(1.1, 0.95)
    assert pacer.rate_per_s == once


@hypothesis.given(
    ceiling=st.floats(0.5, 200),
    refusals=st.lists(st.integers(0, 30), max_size=5),
)
def test_a_hard_ceiling_is_never_exceeded(ceiling: float, refusals: list[int]) -> None:
    pacer = Pacer(0.0, max_requests_per_s=ceiling)
    sent = 0
    for step in range(int(30 / 0.05)):
        now = step * 0.05
        while pacer.wait_s(now) == 0:
            sent += 1
        if step / 20 in refusals:
            pacer.refused(now, now)
    assert sent <= 30 * ceiling + max(1.0, ceiling / 10) + 1

"""An adaptive rate limiter: finds the rate that the service grants, and stays there.

Pure: the clock is an argument, and the caller waits. Gemini's shared quota has no published number,
its 429s carry neither a limit nor a time to wait, and a steep ramp is refused even below the quota
("acceleration limit"; Google, "Error code 429").

A quota refills at some rate and refuses when it is empty. So it is empty at every refusal, and what was
granted between two refusals, divided by the time between them, *is* its rate, however unevenly the calls
were sent. The limiter is built on that:

* **Ramp**: from a slow start the rate doubles every second until the first refusal.
* **Hold**: at the measured rate. After a refusal it first waits until all refusals of calls in flight are in,
  and lets the quota refill by a call or two, so that a small measurement error does not cause a refusal at once.
* **Probe**: after :data:`PROBE_S` or :data:`PROBE_CALLS` granted calls, whichever is more, the rate grows, gently
  near the held rate and then increasingly fast, until a refusal. It costs a call or two, and either confirms
  the rate or finds a higher one.
* **Hit**: a refusal while holding means that the quota fell, or that another process took from it. The rate
  drops a little; refusals of more calls in flight, and hits soon after one another, cut it faster.

A quota may count requests or tokens; the service does not report which. Both rates are measured, and the one that
varies less from one refusal to the next is limited.

Several processes share one quota without communicating. A probe takes what the others left, about as much
for each because all probe about as often; and the larger a rate, the larger the share that a hit takes of it.
Equal gains and proportional losses converge to equal rates (Chiu and Jain, "Analysis of the increase and decrease
algorithms for congestion avoidance", 1989). ``python -m benchmarks.simulate_pacing`` shows how well.
"""

from __future__ import annotations

import math

START_PER_S = 10.0
RAMP_PER_S = 2.0
PROBE_S = 7.5
PROBE_CALLS = 80.0
FIRST_PROBE_CALLS = 10.0
#: A probe's boost is 2 after this many seconds and calls, and quadruples after as many again.
BOOST_S, BOOST_CALLS = 1.4, 25.0
MORE_THAN = 2.0  # a probe that finds more than this many times the rate is followed by another at once
REFILL_CALLS = 2.0
#: Share that a hit takes of a rate of ten per second; it scales with the rate to this power, up to a limit.
HIT, HIT_POWER, HIT_LIMIT = 0.1, 0.9, 0.3
SOON_CALLS = 6.0
SOON_HITS, SOON_CUT = 3, 0.85
#: Each refusal of a call in flight after a hit multiplies the rate by the first, down to the second.
FLIGHT_CUT, FLIGHT_LEAST = 0.8, 0.1
LONGEST_FLIGHT_S = 0.5
FLIGHT_MEMORY = 0.95
MAX_PER_S = 1e5
MIN_PER_S = 1 / 60
BURST_S = 0.05
#: How much less token rates must vary before tokens are limited instead of requests.
TOKENS_AHEAD = 0.02
MEMORY = 0.7
ROUNDING = 1e-9  # a shorter wait is a rounding error


class AdaptiveRateLimiter:
    """Limit the calls of one process, in requests and tokens per second.

    Args:
        now: Clock at construction, in seconds; every method takes its own.
        max_requests_per_s: Upper limit in requests per second; None for none.
        max_tokens_per_s: Upper limit in tokens per second; None for none.
    """

    def __init__(
        self, now: float, *, max_requests_per_s: float | None = None, max_tokens_per_s: float | None = None
    ) -> None:
        self._ceilings = (_Ceiling(now, max_requests_per_s), _Ceiling(now, max_tokens_per_s))
        self._requests = _Measure(0.0)
        self._tokens = _Measure(TOKENS_AHEAD)
        self._usual_tokens: float | None = None
        self._holding = False
        self._credit = 1.0
        self._updated = now
        self._hold_until = now
        self._refused_at = now
        self._hit = False
        self._least = 0.0
        self._soon_hits = 0
        self._flight_s = 0.0
        self._probe: _Probe | None = None
        self._probe_after = FIRST_PROBE_CALLS

    @property
    def rate_per_s(self) -> float:
        """The current rate in requests per second (of average size, if tokens are limited)."""
        return self._limited.rate

    def wait_s(self, now: float, tokens: float = 0.0) -> float:
        """Request permission to send one call.

        Args:
            now: Clock in seconds.
            tokens: Estimated tokens of the call.

        Returns:
            0 to send now, else seconds to wait before the next attempt.
        """
        if now < self._hold_until:
            return self._hold_until - now
        rate = self._advance(now)
        wait = max(
            (1.0 - self._credit) / rate, self._ceilings[0].wait_s(now, 1.0), self._ceilings[1].wait_s(now, tokens)
        )
        if wait > ROUNDING:
            return wait
        size = self._size(tokens)
        self._credit -= size if self._limited is self._tokens else 1.0
        self._requests.passed += 1.0
        self._tokens.passed += size
        for ceiling, amount in zip(self._ceilings, (1.0, tokens), strict=True):
            ceiling.credit -= amount
        if self._probe is not None:
            self._probe.sent(now)
        elif self._holding and self._limited.passed >= self._probe_after:
            self._probe = _Probe(now)
        return 0.0

    def settle(self, estimated: float, actual: float) -> None:
        """Correct the tokens of a call once they are known."""
        self._tokens.passed += self._size(actual) - self._size(estimated)
        self._ceilings[1].credit -= actual - estimated

    def refused(self, now: float, sent_at: float, tokens: float = 0.0, retry_after_s: float | None = None) -> None:
        """Record that the service refused a call for quota (429).

        Args:
            now: Clock in seconds.
            sent_at: Clock when the call was sent.
            tokens: Estimated tokens, as given to :meth:`wait_s`.
            retry_after_s: Seconds that the service asks to wait; None if it does not.
        """
        self._requests.passed -= 1.0
        self._tokens.passed -= self._size(tokens)
        self._flight_s = min(max(now - sent_at, FLIGHT_MEMORY * self._flight_s), LONGEST_FLIGHT_S)
        if retry_after_s:
            self._hold_until = max(self._hold_until, now + retry_after_s)
        if self._holding and sent_at <= self._refused_at:
            # It was in flight when the rate was last cut; after a probe, that is expected.
            if self._hit and self.rate_per_s > self._least:
                self._cut(FLIGHT_CUT)
            return
        self._learn(now)
        self._holding = True
        self._refused_at = now
        self._probe = None
        self._credit = 1.0 - REFILL_CALLS
        self._hold_until = max(self._hold_until, now + self._flight_s)

    def _learn(self, now: float) -> None:
        """Update the rate from a refusal."""
        before, elapsed = self.rate_per_s, max(now - self._refused_at, 1e-3)
        soon = self._holding and self._requests.passed < SOON_CALLS
        self._soon_hits = self._soon_hits + 1 if soon else 0
        self._hit = self._holding and self._probe is None
        for measure in (self._requests, self._tokens):
            if not self._holding:
                measure.begin(elapsed)
            else:
                measure.learn(elapsed, update_rate=not self._hit)
        self._least = FLIGHT_LEAST * self.rate_per_s
        if self._soon_hits >= SOON_HITS:
            self._cut(SOON_CUT)
        elif self._hit:
            self._cut(1 - min(HIT * (before / 10.0) ** HIT_POWER, HIT_LIMIT))
        if self.rate_per_s > MORE_THAN * before:
            self._probe_after = FIRST_PROBE_CALLS
        elif self._holding:
            self._probe_after = min(2 * self._probe_after, max(PROBE_CALLS, PROBE_S * self.rate_per_s))

    def _cut(self, factor: float) -> None:
        for measure in (self._requests, self._tokens):
            measure.rate = clamp(measure.rate * factor)

    @property
    def _limited(self) -> _Measure:
        return min(self._requests, self._tokens, key=lambda measure: measure.variation)

    def _size(self, tokens: float) -> float:
        """Return the tokens of a call, in calls of the usual size."""
        if tokens <= 0:
            return 1.0
        self._usual_tokens = self._usual_tokens or tokens
        return tokens / self._usual_tokens

    def _advance(self, now: float) -> float:
        """Add credit for the time passed; return the present rate of sending."""
        elapsed = min(max(0.0, now - self._updated), 10.0)
        self._updated = now
        if not self._holding:
            self._cut(RAMP_PER_S**elapsed)
        rate = self._limited.rate
        if self._probe is not None:
            rate = clamp(rate * self._probe.boost)
        # Allow only short bursts, so that traffic is smooth within each second.
        self._credit = min(self._credit + elapsed * rate, max(1.0, rate * BURST_S))
        return rate


class _Probe:
    """How far above the held rate a probe is."""

    def __init__(self, since: float) -> None:
        self._sent = since
        self._progress = 0.0

    def sent(self, now: float) -> None:
        """Record a call: rare calls count by number, frequent ones by time.

        This is not the minimum of total time and total calls: time accumulated by rare calls would let the rate explode
        once they are frequent, before the first refusal can arrive.
        """
        self._progress += min((now - self._sent) / BOOST_S, 1 / BOOST_CALLS)
        self._sent = now

    @property
    def boost(self) -> float:
        """Factor on the held rate, at least 1."""
        progress = self._progress
        doublings = progress * progress if progress < 1 else 2 * progress - 1
        return math.exp2(min(doublings, 20.0))


class _Measure:
    """A rate, measured between refusals; in calls, or in tokens as calls of the usual size.

    Args:
        variation: Assumed variation of successive measurements before there are any.
    """

    def __init__(self, variation: float) -> None:
        self.rate = START_PER_S
        self.passed = 0.0
        self.variation = variation
        self._last: float | None = None

    def begin(self, elapsed: float) -> None:
        """Measure at the first refusal. The quota's initial content is included, so the rate is rather high."""
        self.rate = min(self.rate, self._measured(elapsed))
        self.passed = 0.0

    def learn(self, elapsed: float, *, update_rate: bool) -> None:
        """Move the rate toward the rate granted since the last refusal; more calls have more weight.

        Args:
            elapsed: Seconds since the last refusal.
            update_rate: Whether to update the rate; else only the variation is updated.
        """
        measured = self._measured(elapsed)
        if self._last is not None:
            change = abs(math.log(measured / self._last))
            self.variation = MEMORY * self.variation + (1 - MEMORY) * change
        self._last = measured
        if update_rate:
            trust = max(self.passed, 0.0) / (max(self.passed, 0.0) + SOON_CALLS)
            self.rate = clamp(self.rate ** (1 - trust) * measured**trust)
        self.passed = 0.0

    def _measured(self, elapsed: float) -> float:
        return clamp(max(self.passed, 1.0) / elapsed)


class _Ceiling:
    """An upper limit per second, after a burst of one call."""

    def __init__(self, now: float, per_s: float | None) -> None:
        self._per_s = per_s
        self._updated = now
        self.credit = 0.0

    def wait_s(self, now: float, amount: float) -> float:
        """Return the seconds until an amount may be sent; the burst is at least the amount."""
        if self._per_s is None:
            return 0.0
        burst = max(amount, self._per_s * BURST_S)
        self.credit = min(self.credit + max(0.0, now - self._updated) * self._per_s, burst)
        self._updated = max(now, self._updated)
        return max(0.0, amount - self.credit) / self._per_s


def clamp(rate: float) -> float:
    """Return a rate within the supported range."""
    return min(max(rate, MIN_PER_S), MAX_PER_S)

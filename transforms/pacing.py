"""How fast to ask: finds the rate that the service grants, and stays there.

Pure: the clock is an argument, waiting is the caller's. Gemini's shared quota has no number to configure, its 429s
carry neither a limit nor a time to wait, and a sharp ramp is refused even below the quota ("acceleration limit";
Google, "Error code 429"). All there is to learn from is which call was refused, and how many were not before it:

* **Learn.** The rate starts low and doubles every other second. Every refusal takes a part of it and slows its
  growth, and each does so less than the one before, until only the small steps of *hold* are left.
* **Hold.** Every call lets the rate grow by a trifle, every refusal takes a little. The growth is the slower the
  higher the rate. So of several processes on one quota, which need no word between them, the one that has more is
  refused more often and regains more slowly: they become alike.
* **Probe.** When no call was refused for a while, calls go out faster and faster until one is. That costs one
  refusal, and either confirms the rate, or the probe got so far that there must be more: then its own pace is
  believed, and the learning begins anew. Who asks seldom probes gently, or many of them would flood the quota.
* **Fall.** If the first calls after a refusal are refused too, the quota fell: the rate drops to what was granted.

After a refusal the pace rests for a call or two, so that the quota has something when the next one comes, and a
refused call has given back what it took.

Requests and tokens are limited at once, and a refusal does not say which of them it was for. So there is one rate,
in calls of usual size, and a call costs partly as a call and partly by its tokens. The share of the tokens is learned:
if refusals come after large calls, it was the tokens.
"""

from __future__ import annotations

import math

START_PER_S = 5.0
MIN_PER_S = 1 / 60
MAX_PER_S = 1e5
BURST_S = 0.1

LEARN_GROWTH_PER_S = 0.4
LEARN_CUT = 0.4
GROWTH_LESSON = 0.4
CUT_LESSON = 0.76

HOLD_CUT = 0.04
HOLD_REGAIN = 1.6
HOLD_CALLS, HOLD_S = 60.0, 1.2

PROBE_CUT = 0.08
PROBE_CALLS, PROBE_S = 60.0, 3.9
PROBE_PER_CALL = 0.067
PROBE_GENTLE_PER_S = 4.4
PROBE_GROWTH_PER_S = 1.4
BELIEVED_FROM = 7.0
BELIEVED = 0.5
LESSONS_KEPT = 1.2

FALL_LESSONS = 5.0
LESSONS_AFTER_FALL = 4.0
FALL_STREAK = 2.5
FALL_SHARE = 0.6
SOON_CALLS = 4.0
REST_CALLS = 1.5
MAX_REST_S, MAX_REST_CALLS = 0.5, 4.0

USUAL_OVER_CALLS = 100
RECENT_CALLS = 10
BLAME = 0.1


class Pacer:
    """Paces the calls of one process.

    Args:
        now: The clock at construction, in seconds; every later call gives its own. It should not run backwards, but
            nothing breaks if it does.
        max_requests_per_s: A hard ceiling, positive; None for none.
        max_tokens_per_s: A hard ceiling, positive, of prompt and answer tokens; None for none. A call may be larger
            than what is left, the next ones then wait for it.
    """

    def __init__(
        self, now: float, *, max_requests_per_s: float | None = None, max_tokens_per_s: float | None = None
    ) -> None:
        self._max_per_s = min(max_requests_per_s or MAX_PER_S, MAX_PER_S)
        self._rate = self._within(START_PER_S)
        self._probe = 1.0
        self._calls = 0
        self._lessons = 0.0
        self._streak, self._streak_of, self._streak_pace = 0.0, 0.0, 0.0
        self._learned_at = now
        self._updated = now
        self._hold_s = 0.0
        self._credit = 1.0
        self._requests = None if max_requests_per_s is None else _Bucket(max_requests_per_s, 1.0)
        self._tokens = None if max_tokens_per_s is None else _Bucket(max_tokens_per_s, 0.0)
        self._cost = _Cost()

    @property
    def rate_per_s(self) -> float:
        """The rate that the pacer believes in, in requests per second."""
        return self._rate

    @property
    def tokens_per_s(self) -> float:
        """The same rate in tokens per second; 0 if no call named its tokens."""
        return self._rate * self._cost.usual

    def wait_s(self, now: float, tokens: float = 0.0) -> float:
        """Takes one call from the pace.

        Args:
            now: The clock.
            tokens: What the call will use, prompt and answer, as far as known; :meth:`settle` corrects it.

        Returns:
            0 if it is to be sent now, else seconds after which to ask again.
        """
        self._pass_time(now)
        pace = self._rate * self._probe
        # What is missing of 1 by rounding would never come.
        waits = [self._hold_s, 0.0 if self._credit >= 1 - 1e-9 else (1 - self._credit) / pace]
        if self._requests is not None:
            waits.append(self._requests.wait_s(1.0))
        if self._tokens is not None and tokens > 0:
            waits.append(self._tokens.wait_s(tokens))
        if (wait := max(waits)) > 0:
            return wait
        if self._requests is not None:
            self._requests.level -= 1.0
        if self._tokens is not None:
            self._tokens.level -= tokens
        self._rate = self._within(self._rate * self._cost.see(tokens))
        self._credit -= self._cost.of(tokens)
        self._calls += 1
        self._grow()
        return 0.0

    def settle(self, estimated: float, actual: float) -> None:
        """A call was answered: what it used, and what :meth:`wait_s` had been told."""
        if self._tokens is not None:
            self._tokens.level -= actual - estimated
        self._credit -= self._cost.of(actual) - self._cost.of(estimated)
        self._credit = max(self._credit, -self._max_rest())

    def refused(self, now: float, sent_at: float, tokens: float = 0.0, retry_after_s: float | None = None) -> None:
        """The service refused a call for quota (429).

        Args:
            now: The clock.
            sent_at: When the call was sent.
            tokens: What :meth:`wait_s` had been told.
            retry_after_s: What the service asked for, if it did.
        """
        self._pass_time(now)
        self._hold_s = max(self._hold_s, retry_after_s or 0.0)
        if self._tokens is not None:
            self._tokens.level += tokens
        self._calls = max(0, self._calls - 1)
        if sent_at >= self._learned_at:
            self._learn(now, sent_at)
        self._streak += 1
        if self._lessons >= FALL_LESSONS and self._streak >= max(FALL_STREAK, FALL_SHARE * self._streak_of):
            left = (1 + max(0.0, self._streak_of - self._streak)) / (1 + self._streak_of)
            self._rate = self._within(min(self._rate, self._streak_pace * left))
            self._lessons = min(self._lessons, LESSONS_AFTER_FALL)
        self._credit = max(min(self._credit, 1.0) - REST_CALLS, -self._max_rest())

    def _learn(self, now: float, sent_at: float) -> None:
        pace = self._rate * self._probe
        soon = (sent_at - self._learned_at) * pace < SOON_CALLS
        # Of the calls that are under way now, a few refused ones are chance, most of them are a fallen quota.
        self._streak = min(self._streak, 2.0) if soon else 0.0
        self._streak_of = self._streak + 1 + max(0.0, now - sent_at) * pace
        self._streak_pace = pace
        cut = max(PROBE_CUT if self._probe > 1 else HOLD_CUT, LEARN_CUT * CUT_LESSON**self._lessons)
        if self._probe > BELIEVED_FROM:
            self._rate = self._within(pace * BELIEVED)
            self._lessons = min(self._lessons, LESSONS_KEPT)
        else:
            self._rate = self._within(self._rate * (1 - cut))
        self._cost.blame()
        self._lessons += 1
        self._probe = 1.0
        self._calls = 0
        self._learned_at = now

    def _grow(self) -> None:
        """What one more call does to the rate; without calls nothing grows."""
        growth = LEARN_GROWTH_PER_S * GROWTH_LESSON**self._lessons / self._rate
        if self._lessons:
            growth = max(growth, HOLD_REGAIN * HOLD_CUT / (HOLD_CALLS + HOLD_S * self._rate))
            if self._calls > PROBE_CALLS + PROBE_S * self._rate:
                gentle = self._rate / (self._rate + PROBE_GENTLE_PER_S)
                faster = min(PROBE_PER_CALL * gentle, PROBE_GROWTH_PER_S / (self._rate * self._probe))
                self._probe = min(self._probe * math.exp(faster), self._max_per_s / self._rate)
        self._rate = self._within(self._rate * math.exp(min(growth, math.log(2))))

    def _pass_time(self, now: float) -> None:
        elapsed = max(0.0, now - self._updated)
        self._updated = now
        pace = self._rate * self._probe
        # A burst of at most a tenth of a second keeps the traffic smooth inside each second.
        self._credit = min(self._credit + elapsed * pace, max(1.0, pace * BURST_S))
        self._hold_s = max(0.0, self._hold_s - elapsed)
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                bucket.fill(elapsed)

    def _max_rest(self) -> float:
        return max(MAX_REST_CALLS, MAX_REST_S * self._rate)

    def _within(self, rate: float) -> float:
        return min(max(rate, MIN_PER_S), self._max_per_s)


class _Cost:
    """What a call costs of the pace: 1 for a usual one."""

    def __init__(self) -> None:
        self.usual = 0.0
        self._share = 0.5
        self._seen = 0
        self._excess = 0.0

    def of(self, tokens: float) -> float:
        """The cost of a call with so many tokens."""
        return 1.0 if self.usual <= 0 or tokens <= 0 else 1 - self._share + self._share * tokens / self.usual

    def see(self, tokens: float) -> float:
        """Learns what is usual; returns the factor that keeps the rate the same in tokens."""
        if tokens <= 0:
            return 1.0
        self._seen = min(self._seen + 1, USUAL_OVER_CALLS)
        before = self.usual or tokens
        self.usual = before + (tokens - before) / self._seen
        self._excess += tokens / self.usual - 1 - self._excess / RECENT_CALLS
        return float((before / self.usual) ** self._share)

    def blame(self) -> None:
        """After a refusal: the tokens, if the last calls were larger than usual, else the requests."""
        self._share = min(max(self._share + BLAME * self._excess, 0.0), 1.0)


class _Bucket:
    """A hard ceiling.

    Args:
        per_s: What flows in, per second.
        least: What it holds at least; a tenth of a second's worth if that is more.
    """

    def __init__(self, per_s: float, least: float) -> None:
        self._per_s = per_s
        self._size = max(least, per_s * BURST_S)
        self.level = self._size

    def fill(self, elapsed: float) -> None:
        """Lets time pass."""
        self.level = min(self.level + elapsed * self._per_s, self._size)

    def wait_s(self, amount: float) -> float:
        """Seconds until so much may be taken, or until it is full if it never holds that much."""
        missing = min(amount, self._size) * (1 - 1e-9) - self.level
        return max(0.0, missing / self._per_s)

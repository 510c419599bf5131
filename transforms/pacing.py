"""How fast to ask: finds the rate that the service grants, and stays there.

Pure: the clock is an argument, waiting is the caller's. Gemini's shared quota has no number to configure,
its 429s carry neither a limit nor a time to wait, and a sharp ramp is refused even below the quota
("acceleration limit"; Google, "Error code 429"). So the rate starts low, doubles every second while nothing
is refused, and is learned from the first refusal on: a refusal sets it a little below what was just
granted, quiet time raises it gently.
"""

from __future__ import annotations

import collections

START_PER_S = 20.0
GROWTH_PER_S = 2.0
PROBE_PER_S = 1.02
CUT = 0.85
SETTLE_S = 1.0
WINDOW_S = 5.0
FLOOR_PER_S = 0.05


class Pacer:
    """Paces calls of one process, in requests per second.

    Args:
        now: The clock at construction, in seconds; every later call gives its own.
        max_per_s: A hard ceiling in requests per second; None for none.
    """

    def __init__(self, now: float, *, max_per_s: float | None = None) -> None:
        self._ceiling = max_per_s
        self._rate = min(START_PER_S, max_per_s or START_PER_S)
        self._learned = False
        self._updated = now
        self._credit = 1.0
        self._hold_until = now
        self._cut_at = now - SETTLE_S
        self._granted: collections.deque[float] = collections.deque()

    @property
    def rate_per_s(self) -> float:
        """The present rate, in requests per second."""
        return self._rate

    def wait_s(self, now: float) -> float:
        """Takes one request from the pace: 0 to send now, else seconds after which to ask again."""
        if now < self._hold_until:
            return self._hold_until - now
        self._advance(now)
        if self._credit >= 1.0:
            self._credit -= 1.0
            return 0.0
        return (1.0 - self._credit) / self._rate

    def granted(self, now: float) -> None:
        """The service answered a call: any answer but a refusal for quota."""
        self._granted.append(now)
        self._forget(now)

    def refused(self, now: float, retry_after_s: float | None = None) -> None:
        """The service refused a call for quota (429).

        Args:
            now: The clock.
            retry_after_s: What the service asked for, if it did.
        """
        if retry_after_s:
            self._hold_until = max(self._hold_until, now + retry_after_s)
        if now - self._cut_at < SETTLE_S:
            return  # the refusals of one moment say one thing
        self._forget(now)
        self._advance(now)
        span = max(1.0, min(WINDOW_S, now - self._granted[0])) if self._granted else WINDOW_S
        observed = len(self._granted) / span
        self._rate = max(FLOOR_PER_S, CUT * min(self._rate, max(observed, self._rate / 4)))
        self._credit = min(self._credit, 0.0)
        self._learned = True
        self._cut_at = now

    def _advance(self, now: float) -> None:
        elapsed = max(0.0, now - self._updated)
        self._updated = now
        growth = PROBE_PER_S if self._learned else GROWTH_PER_S
        self._rate = min(self._rate * growth ** min(elapsed, 10.0), self._ceiling or float("inf"), 1e6)
        # A burst of at most a tenth of a second keeps the traffic smooth inside each second.
        self._credit = min(self._credit + elapsed * self._rate, max(1.0, self._rate / 10))

    def _forget(self, now: float) -> None:
        while self._granted and self._granted[0] < now - WINDOW_S:
            self._granted.popleft()

"""How fast to ask: finds the rate that the service grants, and stays there.

Pure: the clock is an argument, waiting is the caller's. Gemini's shared quota has no number to configure,
its 429s carry neither a limit nor a time to wait, and a sharp ramp is refused even below the quota
("acceleration limit"; Google, "Error code 429").

A quota refills at some rate and refuses when it is empty. So it is empty at every refusal, and what was
granted between two refusals, divided by the time between them, *is* its rate, however unevenly the calls
went out. The pacer lives on that:

* **Ramp**: from a slow start the rate doubles every second until the first refusal.
* **Hold**: at the measured rate. After a refusal it first lets the quota refill by a call or two, so that a
  small error of measurement does not become a refusal at once.
* **Probe**: after some granted calls without a refusal the rate grows quickly until one comes. It costs one
  refused call, and either confirms the rate or finds that there is more. The first probes come early, later
  ones after :data:`PROBE_CALLS`, so about one call in so many is refused.
* A refusal soon after the last one says that the quota fell: the rate is cut, and again until calls pass.

A quota may count requests or tokens, and nobody says which. Both rates are measured, and the one that
comes out more alike from one refusal to the next is the one that is paced.

Several processes on one quota need no word between them: each measures what it gets itself. A refusal hits
in proportion to the rate and takes a little of it, so who has more gives more.
"""

from __future__ import annotations

import math

START_PER_S = 10.0
RAMP_PER_S = 2.0
PROBE_CALLS = 85
FIRST_PROBE_CALLS = 10
PROBE_DOUBLING_S = 0.5
REFILL_CALLS = 2.0
SOON_CALLS = 6
CUT = 0.6
YIELD = 0.99
MAX_PER_S = 1e5
MIN_PER_S = 1 / 60
BURST_S = 0.1
#: How much more alike token rates must be before tokens are paced instead of requests.
TOKENS_AHEAD = 0.02
MEMORY = 0.7
ROUNDING = 1e-9  # what is missing is rounding: no time would pass for it


class Pacer:
    """Paces calls of one process, in requests and tokens per second.

    Args:
        now: The clock at construction, in seconds; every later call gives its own.
        max_requests_per_s: A hard ceiling; None for none.
        max_tokens_per_s: The same in tokens.
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
        self._probing_since: float | None = None
        self._probe_after = FIRST_PROBE_CALLS

    @property
    def rate_per_s(self) -> float:
        """The rate that the pacer believes in, in requests (of the usual size, if tokens count) per second."""
        return self._paced.rate

    @property
    def tokens_per_s(self) -> float:
        """The same in tokens per second; 0 while no call told its tokens."""
        return self._tokens.rate * (self._usual_tokens or 0.0)

    def wait_s(self, now: float, tokens: float = 0.0) -> float:
        """Takes one request from the pace.

        Args:
            now: The clock.
            tokens: About how many tokens the call will take.

        Returns:
            0 to send now, else seconds after which to ask again.
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
        self._credit -= size if self._paced is self._tokens else 1.0
        self._requests.passed += 1.0
        self._tokens.passed += size
        for ceiling, amount in zip(self._ceilings, (1.0, tokens), strict=True):
            ceiling.credit -= amount
        if self._holding and self._probing_since is None and self._paced.passed >= self._probe_after:
            self._probing_since = now
        return 0.0

    def settle(self, estimated: float, actual: float) -> None:
        """Corrects the tokens of a call once they are known."""
        self._tokens.passed += self._size(actual) - self._size(estimated)
        self._ceilings[1].credit -= actual - estimated

    def refused(self, now: float, sent_at: float, tokens: float = 0.0, retry_after_s: float | None = None) -> None:
        """The service refused a call for quota (429).

        Args:
            now: The clock.
            sent_at: When the call was sent. Refusals of calls that were under way when the pace was last cut
                say nothing new.
            tokens: What :meth:`wait_s` was told.
            retry_after_s: What the service asked for, if it did.
        """
        self._requests.passed -= 1.0
        self._tokens.passed -= self._size(tokens)
        if retry_after_s:
            self._hold_until = max(self._hold_until, now + retry_after_s)
        if self._holding and sent_at <= self._refused_at:
            return
        elapsed = max(now - self._refused_at, 1e-3)
        soon = self._holding and self._requests.passed < SOON_CALLS
        if soon:
            self._probe_after = FIRST_PROBE_CALLS
        elif self._holding:
            self._probe_after = min(PROBE_CALLS, 2 * self._probe_after)
        for measure in (self._requests, self._tokens):
            if soon:
                measure.cut(CUT if measure.passed < REFILL_CALLS else (1 + CUT) / 2)
            else:
                measure.learn(elapsed, first=not self._holding)
        self._holding = True
        self._refused_at = now
        self._probing_since = None
        self._credit = 1.0 - REFILL_CALLS

    @property
    def _paced(self) -> _Measure:
        return min(self._requests, self._tokens, key=lambda measure: measure.unlike)

    def _size(self, tokens: float) -> float:
        """Tokens of a call in calls of the usual size."""
        if tokens <= 0:
            return 1.0
        self._usual_tokens = self._usual_tokens or tokens
        return tokens / self._usual_tokens

    def _advance(self, now: float) -> float:
        """Lets time pass; gives the rate at which calls go out now."""
        elapsed = min(max(0.0, now - self._updated), 10.0)
        self._updated = now
        if not self._holding:
            for measure in (self._requests, self._tokens):
                measure.cut(RAMP_PER_S**elapsed)
        rate = self._paced.rate
        if self._probing_since is not None:
            rate = within(rate * 2 ** min((now - self._probing_since) / PROBE_DOUBLING_S, 30.0))
        # A burst of at most a tenth of a second keeps the traffic smooth inside each second.
        self._credit = min(self._credit + elapsed * rate, max(1.0, rate * BURST_S))
        return rate


class _Measure:
    """A rate, measured between refusals; in calls, or in tokens as calls of the usual size.

    Args:
        unlike: How unlike successive measurements are held to be before there are any.
    """

    def __init__(self, unlike: float) -> None:
        self.rate = START_PER_S
        self.passed = 0.0
        self.unlike = unlike
        self._last: float | None = None

    def learn(self, elapsed: float, *, first: bool) -> None:
        """Takes what passed since the last refusal as the rate, the more the more it was."""
        measured = within(max(self.passed, 1.0) / elapsed)
        if first:
            # Whatever the quota held when the run began is in this number, so it is rather high.
            self.rate = min(self.rate, measured)
        else:
            if self._last is not None:
                change = abs(math.log(measured / self._last))
                self.unlike = MEMORY * self.unlike + (1 - MEMORY) * change
            self._last = measured
            trust = self.passed / (self.passed + SOON_CALLS) if self.passed > 0 else 0.0
            self.rate = within(self.rate ** (1 - trust) * measured**trust * YIELD)
        self.passed = 0.0

    def cut(self, factor: float) -> None:
        """Multiplies the rate."""
        self.rate = within(self.rate * factor)
        if factor < 1:
            self.passed = 0.0


class _Ceiling:
    """A hard ceiling: never more than this per second, after a burst of one call."""

    def __init__(self, now: float, per_s: float | None) -> None:
        self._per_s = per_s
        self._updated = now
        self.credit = 0.0

    def wait_s(self, now: float, amount: float) -> float:
        """Seconds until so much may go; what is more than the burst goes when the ceiling owes nothing."""
        if self._per_s is None:
            return 0.0
        burst = max(amount, self._per_s * BURST_S)
        self.credit = min(self.credit + max(0.0, now - self._updated) * self._per_s, burst)
        self._updated = max(now, self._updated)
        return max(0.0, amount - self.credit) / self._per_s


def within(rate: float) -> float:
    """A rate within what can be meant."""
    return min(max(rate, MIN_PER_S), MAX_PER_S)

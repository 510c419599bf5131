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

Several processes on one quota need no word between them: each measures what it gets itself. A refusal hits
in proportion to the rate and takes a little of it, so who has more gives more.
"""

from __future__ import annotations

START_PER_S = 10.0
RAMP_PER_S = 2.0
PROBE_CALLS = 75
FIRST_PROBE_CALLS = 10
PROBE_DOUBLING_S = 0.5
REFILL_CALLS = 2.0
SOON_CALLS = 6
CUT = 0.6
YIELD = 0.99
MAX_PER_S = 1e5
MIN_PER_S = 1 / 60
BURST_S = 0.1


class Pacer:
    """Paces calls of one process, in requests per second.

    Args:
        now: The clock at construction, in seconds; every later call gives its own.
        max_per_s: A hard ceiling in requests per second; None for none.
    """

    def __init__(self, now: float, *, max_per_s: float | None = None) -> None:
        self._ceiling = min(max_per_s or MAX_PER_S, MAX_PER_S)
        self._rate = min(START_PER_S, self._ceiling)
        self._holding = False
        self._credit = 1.0
        self._updated = now
        self._hold_until = now
        self._passed = 0
        self._refused_at = now
        self._probing_since: float | None = None
        self._probe_after = FIRST_PROBE_CALLS

    @property
    def rate_per_s(self) -> float:
        """The rate that the pacer believes in, in requests per second."""
        return self._rate

    def wait_s(self, now: float) -> float:
        """Takes one request from the pace: 0 to send now, else seconds after which to ask again."""
        if now < self._hold_until:
            return self._hold_until - now
        rate = self._advance(now)
        if self._credit >= 1.0 - 1e-9:  # what is missing is rounding, no time would pass for it
            self._credit -= 1.0
            self._passed += 1
            if self._holding and self._probing_since is None and self._passed >= self._probe_after:
                self._probing_since = now
            return 0.0
        return (1.0 - self._credit) / rate

    def refused(self, now: float, sent_at: float, retry_after_s: float | None = None) -> None:
        """The service refused a call for quota (429).

        Args:
            now: The clock.
            sent_at: When the call was sent. Refusals of calls that were under way when the pace was last cut
                say nothing new.
            retry_after_s: What the service asked for, if it did.
        """
        self._passed = max(0, self._passed - 1)
        if retry_after_s:
            self._hold_until = max(self._hold_until, now + retry_after_s)
        if self._holding and sent_at <= self._refused_at:
            return
        passed, elapsed = self._passed, max(now - self._refused_at, 1e-3)
        measured = passed / elapsed
        if not self._holding:
            # Whatever the quota held when the run began is in this number, so it is rather high.
            self._rate = self._within(min(self._rate, measured))
            self._holding = True
        elif passed < SOON_CALLS:
            self._rate = self._within(self._rate * (CUT if passed < REFILL_CALLS else (1 + CUT) / 2))
            self._probe_after = FIRST_PROBE_CALLS
        else:
            trust = passed / (passed + SOON_CALLS)
            self._rate = self._within(self._rate ** (1 - trust) * measured**trust * YIELD)
            self._probe_after = min(PROBE_CALLS, 2 * self._probe_after)
        self._refused_at = now
        self._passed = 0
        self._probing_since = None
        self._credit = 1.0 - REFILL_CALLS

    def _advance(self, now: float) -> float:
        """Lets time pass; gives the rate at which calls go out now."""
        elapsed = min(max(0.0, now - self._updated), 10.0)
        self._updated = now
        if not self._holding:
            self._rate = self._within(self._rate * RAMP_PER_S**elapsed)
        rate = self._rate
        if self._probing_since is not None:
            doublings = min((now - self._probing_since) / PROBE_DOUBLING_S, 30.0)
            rate = self._within(rate * 2**doublings)
        # A burst of at most a tenth of a second keeps the traffic smooth inside each second.
        self._credit = min(self._credit + elapsed * rate, max(1.0, rate * BURST_S))
        return rate

    def _within(self, rate: float) -> float:
        return min(max(rate, MIN_PER_S), self._ceiling)

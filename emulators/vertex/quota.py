"""The quota of the local Vertex AI: token buckets for requests and for tokens per minute."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """What may be asked per minute.

    Attributes:
        requests_per_minute: ``None`` is no limit; 0 lets nothing through after the burst.
        burst: Requests that may come at once; by default what is due in one second, at least 1.
        tokens_per_minute: Of prompts and answers together; ``None`` is no limit.
        burst_tokens: Tokens that may come at once; by default what is due in one second.
        message: What the 429 says; by default the service's words.
        retry_after: Seconds in a ``Retry-After``; by default there is none, as at Google.
    """

    requests_per_minute: float | None = None
    burst: float | None = None
    tokens_per_minute: float | None = None
    burst_tokens: float | None = None
    message: str | None = None
    retry_after: float | None = None


class Bucket:
    """A token bucket, full at the beginning.

    Args:
        per_minute: What flows in per minute.
        size: What it holds.
        clock: Seconds.
    """

    def __init__(self, per_minute: float, size: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60
        self._size = size
        self._clock = clock
        self._level = size
        self._at = clock()

    def level(self) -> float:
        """Return what is in it now; below zero after a take that was more than it held."""
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Take out, whatever is in it."""
        self._level = self.level() - amount


class Pace:
    """Says whether a request is within the quota.

    The tokens of an answer are known afterwards: a request passes while there are tokens at all, and its
    debt keeps the next ones out.

    Args:
        quota: The quota; ``None`` is no limit.
        clock: Seconds.
    """

    def __init__(self, quota: Quota | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.quota = quota
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        if quota is not None and quota.requests_per_minute is not None:
            due = max(quota.requests_per_minute / 60, 1)
            size = due if quota.burst is None else max(quota.burst, 1)
            self._requests = Bucket(quota.requests_per_minute, size, clock)
        if quota is not None and quota.tokens_per_minute is not None:
            due = quota.tokens_per_minute / 60
            size = due if quota.burst_tokens is None else quota.burst_tokens
            self._tokens = Bucket(quota.tokens_per_minute, max(size, 1), clock)

    def admit(self, tokens: int) -> bool:
        """Let a request with so many prompt tokens through, or not; one that is refused costs nothing."""
        if self._requests is not None and self._requests.level() < 1:
            return False
        if self._tokens is not None and self._tokens.level() <= 0:
            return False
        if self._requests is not None:
            self._requests.take(1)
        self.charge(tokens)
        return True

    def charge(self, tokens: int) -> None:
        """Count further tokens of a request that was let through."""
        if self._tokens is not None:
            self._tokens.take(tokens)

"""The quota of the local Vertex AI: token buckets for requests and for tokens per minute."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits per minute.

    Attributes:
        requests_per_minute: Maximum number of requests; None for no limit. With 0 only the burst is granted.
        burst: Requests that may arrive at once. Default: those of one second, at least 1.
        tokens_per_minute: Maximum number of prompt and output tokens; None for no limit.
        burst_tokens: Tokens that may arrive at once. Default: those of one second.
        message: Message of the 429. Default: the service's message.
        retry_after: ``Retry-After`` in seconds. Default: no header, as in the real service.
    """

    requests_per_minute: float | None = None
    burst: float | None = None
    tokens_per_minute: float | None = None
    burst_tokens: float | None = None
    message: str | None = None
    retry_after: float | None = None


class Bucket:
    """A token bucket, initially full.

    Args:
        per_minute: Refill rate per minute.
        size: Capacity.
        clock: Returns the time in seconds.
    """

    def __init__(self, per_minute: float, size: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60
        self._size = size
        self._clock = clock
        self._level = size
        self._at = clock()

    def level(self) -> float:
        """Return the current level, which is negative after `take` of more than the level."""
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Remove an amount, even if the level is lower."""
        self._level = self.level() - amount


class QuotaLimiter:
    """Decides whether a request is within the quota.

    Output tokens are only known afterwards. A request is admitted while any tokens are left; a negative balance
    delays the following requests.

    Args:
        quota: The quota; None for no limit.
        clock: Returns the time in seconds.
    """

    def __init__(self, quota: Quota | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.quota = quota
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        if quota is not None and quota.requests_per_minute is not None:
            per_second = max(quota.requests_per_minute / 60, 1)
            size = per_second if quota.burst is None else max(quota.burst, 1)
            self._requests = Bucket(quota.requests_per_minute, size, clock)
        if quota is not None and quota.tokens_per_minute is not None:
            per_second = quota.tokens_per_minute / 60
            size = per_second if quota.burst_tokens is None else quota.burst_tokens
            self._tokens = Bucket(quota.tokens_per_minute, max(size, 1), clock)

    def admit(self, tokens: int) -> bool:
        """Return whether a request with this number of prompt tokens is admitted, and charge it if so."""
        if self._requests is not None and self._requests.level() < 1:
            return False
        if self._tokens is not None and self._tokens.level() <= 0:
            return False
        if self._requests is not None:
            self._requests.take(1)
        self.charge(tokens)
        return True

    def charge(self, tokens: int) -> None:
        """Charge additional tokens of an admitted request."""
        if self._tokens is not None:
            self._tokens.take(tokens)

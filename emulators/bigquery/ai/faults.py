"""Failures of AI functions: key ``ai`` of the section ``bigquery`` of the fault configuration.

::

    {"bigquery": {"ai": {
        "failures": [{"match": "night", "times": 1, "do": "retryable"}, {"rate": 0.1, "do": "retryable"},
                     {"rate": 0.02, "do": "permanent", "message": "..."}],
        "rows_per_job": 200,
        "concurrent_jobs": 5}}}

The first rule that matches a row applies. ``match`` is a part of the row's URI or text. ``rate`` is the share of calls
that fail for ``retryable`` (the same row can succeed later), and the share of rows that always fail for ``permanent``.
``times`` limits the failures per URI or text. Random failures depend on the seed, the URI and the number of earlier
calls. ``rows_per_job``: rows of one call above this number fail with a retryable error. ``concurrent_jobs`` (default 5,
as in BigQuery): jobs above this number fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final

from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig, check_keys
from imagebeam.emulators.core.http import ApiError

#: Default maximum number of concurrent jobs with AI functions in a project.
CONCURRENT_JOBS: Final = 5
#: Beginning of the status of a row that can be processed again.
RETRYABLE: Final = "A retryable error occurred: "
#: Number of calls whose rows are counted.
_COUNTED_CALLS: Final = 1_000


def check_ai_faults(settings: Any) -> None:
    """Validate the key ``ai``.

    Raises:
        TypeError: The value is not an object.
        ValueError: A key, an action or a number is invalid.
    """
    if not isinstance(settings, dict):
        raise TypeError("bigquery.ai must be an object")
    check_keys(settings, ("failures", "rows_per_job", "concurrent_jobs"), "bigquery.ai")
    for name in ("rows_per_job", "concurrent_jobs"):
        value = settings.get(name)
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"bigquery.ai: {name} must be an integer of at least 0")
    for rule in settings.get("failures", ()):
        check_keys(rule, ("match", "rate", "times", "do", "message"), "bigquery.ai.failures")
        if rule.get("do") not in ("retryable", "permanent"):
            raise ValueError(f"unknown do {rule.get('do')!r}: use retryable or permanent")
        rate = rule.get("rate", 1)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ValueError("bigquery.ai.failures: rate must be a number from 0 to 1")


class AiFaults:
    """Applies the configured failures. Thread-safe.

    Args:
        faults: The fault configuration.
        seed: Seed of random failures.
        counters: Branch ``bigquery.ai``: ``jobs`` and ``max_running_jobs``.
    """

    def __init__(self, faults: FaultConfig, seed: int, counters: Counters) -> None:
        self._faults = faults
        self._seed = seed
        self._counters = counters
        self._lock = threading.Lock()
        self._version = -1
        self._is_new = True
        self._settings: dict[str, Any] = {}
        self._calls: dict[str, int] = {}
        self._used: dict[tuple[int, str], int] = {}
        self._rows: OrderedDict[str, int] = OrderedDict()
        self._running = 0
        faults.register("bigquery", self._reset_on_next_use)

    def failure(self, call: str, key: str, endpoint: str) -> str | None:
        """Count a row and return its status if it fails, else None.

        Args:
            call: Id of the function call, one per job.
            key: URI or text of the row.
            endpoint: Endpoint of the model, for the message.
        """
        with self._lock:
            self._refresh()
            count = self._rows[call] = self._rows.get(call, 0) + 1
            while len(self._rows) > _COUNTED_CALLS:
                self._rows.popitem(last=False)
            limit = self._settings.get("rows_per_job")
            if limit is not None and count > limit:
                return f"{RETRYABLE}the maximum size quota per query has reached"
            rules = self._settings.get("failures", ())
            if not rules:
                return None
            earlier_calls = self._calls.get(key, 0)
            self._calls[key] = earlier_calls + 1
            for number, rule in enumerate(rules):
                if self._applies(number, rule, key, earlier_calls):
                    return _status(rule, endpoint)
            return None

    @contextlib.contextmanager
    def running_job(self) -> Iterator[None]:
        """Count a job with AI functions as running.

        Raises:
            ApiError: 403 if too many of them are running.
        """
        with self._lock:
            self._refresh()
            if self._running >= self._settings.get("concurrent_jobs", CONCURRENT_JOBS):
                raise ApiError(
                    403,
                    "Quota exceeded: Your project exceeded quota for concurrent queries that contain functions with "
                    "remote calls to AI models. For more information, see "
                    "https://cloud.google.com/bigquery/docs/troubleshoot-quotas",
                    reason="quotaExceeded",
                )
            self._running += 1
            self._counters.add("bigquery", "ai", "jobs")
            self._counters.set_max("bigquery", "ai", "max_running_jobs", value=self._running)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _reset_on_next_use(self, _: dict[str, Any]) -> None:
        """Reset the counts whenever the section is set, even to the same value."""
        self._is_new = True

    def _refresh(self) -> None:
        if self._faults.version == self._version:
            return
        self._version = self._faults.version
        settings = self._faults.section("bigquery").get("ai", {})
        if settings != self._settings or self._is_new:
            self._is_new = False
            self._calls.clear()
            self._used.clear()
        self._settings = settings

    def _applies(self, number: int, rule: dict[str, Any], key: str, earlier_calls: int) -> bool:
        if str(rule.get("match") or "") not in key:
            return False
        calls = earlier_calls if rule["do"] == "retryable" else 0
        if rule.get("rate") is not None and self._random(number, key, calls) >= rule["rate"]:
            return False
        used = self._used.get((number, key), 0)
        if rule.get("times") is not None and used >= int(rule["times"]):
            return False
        self._used[number, key] = used + 1
        return True

    def _random(self, number: int, key: str, calls: int) -> float:
        """Return a number from 0 to 1 that depends on the seed and the arguments alone."""
        text = f"{self._seed}\0ai {number}\0{key}\0{calls}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def _status(rule: dict[str, Any], endpoint: str) -> str:
    message = rule.get("message")
    if rule["do"] == "retryable":
        return RETRYABLE + str(message or f"RESOURCE EXHAUSTED error from {endpoint}")
    return str(message or f"INVALID_ARGUMENT error from {endpoint}: the image cannot be processed")

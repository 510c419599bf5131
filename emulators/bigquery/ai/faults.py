"""How rows of AI functions fail: key ``ai`` of the section ``bigquery`` of the fault configuration.

::

    {"bigquery": {"ai": {
        "failures": [{"match": "night", "times": 1, "do": "retryable"}, {"rate": 0.1, "do": "retryable"},
                     {"rate": 0.02, "do": "permanent", "message": "..."}],
        "rows_per_job": 200,
        "concurrent_jobs": 5}}}

The first rule that applies to a row is the one that happens. ``match`` is looked for in the row's URI or
text; ``rate`` is the share of calls for ``retryable`` (asked again, the same row can succeed) and of rows for
``permanent`` (it always fails); ``times`` counts per URI or text. Chance depends on the seed, the URI and how
often it was asked. ``rows_per_job``: rows of one call beyond that many fail, retryably. ``concurrent_jobs``
(default 5, as in BigQuery): a job beyond that many fails.
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

#: Jobs with AI functions that may run at once in a project.
CONCURRENT_JOBS: Final = 5
_RETRYABLE: Final = "A retryable error occurred: "
_CALLS: Final = 1_000


def check_ai_faults(settings: Any) -> None:
    """Refuse misspelt faults.

    Raises:
        ValueError: Says which.
    """
    if not isinstance(settings, dict):
        raise TypeError("bigquery.ai must be an object")
    check_keys(settings, ("failures", "rows_per_job", "concurrent_jobs"), "bigquery.ai")
    for name in ("rows_per_job", "concurrent_jobs"):
        value = settings.get(name)
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"bigquery.ai: {name} must be a whole number from 0 on")
    for rule in settings.get("failures", ()):
        check_keys(rule, ("match", "rate", "times", "do", "message"), "bigquery.ai.failures")
        if rule.get("do") not in ("retryable", "permanent"):
            raise ValueError(f"unknown do {rule.get('do')!r}: use retryable or permanent")
        rate = rule.get("rate", 1)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ValueError("bigquery.ai.failures: rate is a share, 0 to 1")


class AiFaults:
    """The faults in force; safe to use from many threads.

    Args:
        config: The fault configuration.
        seed: Seed of what chance decides.
        counters: ``bigquery.ai``: ``jobs`` and ``max_running_jobs``.
    """

    def __init__(self, config: FaultConfig, seed: int, counters: Counters) -> None:
        self._config = config
        self._seed = seed
        self._counters = counters
        self._lock = threading.Lock()
        self._version = -1
        self._set_anew = True
        self._settings: dict[str, Any] = {}
        self._asked: dict[str, int] = {}
        self._used: dict[tuple[int, str], int] = {}
        self._rows: OrderedDict[str, int] = OrderedDict()
        self._running = 0
        config.register("bigquery", self._announce)

    def failure(self, call: str, key: str, endpoint: str) -> str | None:
        """Return the status of a row that is to fail, else None.

        Args:
            call: Names the call of the function; one per job.
            key: URI or text of the row.
            endpoint: For the message.
        """
        with self._lock:
            self._refresh()
            count = self._rows[call] = self._rows.get(call, 0) + 1
            while len(self._rows) > _CALLS:
                self._rows.popitem(last=False)
            most = self._settings.get("rows_per_job")
            if most is not None and count > most:
                return f"{_RETRYABLE}the maximum size quota per query has reached"
            rules = self._settings.get("failures", ())
            if not rules:
                return None
            before = self._asked.get(key, 0)
            self._asked[key] = before + 1
            for number, rule in enumerate(rules):
                if self._applies(number, rule, key, before):
                    return _status(rule, endpoint)
            return None

    @contextlib.contextmanager
    def job(self) -> Iterator[None]:
        """Stand for a running job with AI functions.

        Raises:
            ApiError: 403 when too many run.
        """
        with self._lock:
            self._refresh()
            most = self._settings.get("concurrent_jobs", CONCURRENT_JOBS)
            if self._running >= most:
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

    def _announce(self, _: dict[str, Any]) -> None:
        """Start all counts from zero with every new section, even the same one again."""
        self._set_anew = True

    def _refresh(self) -> None:
        if self._config.version == self._version:
            return
        self._version = self._config.version
        settings = self._config.section("bigquery").get("ai", {})
        if settings != self._settings or self._set_anew:
            self._set_anew = False
            self._asked.clear()
            self._used.clear()
        self._settings = settings

    def _applies(self, number: int, rule: dict[str, Any], key: str, before: int) -> bool:
        if str(rule.get("match") or "") not in key:
            return False
        asked = before if rule["do"] == "retryable" else 0
        if rule.get("rate") is not None and self._chance(number, key, asked) >= rule["rate"]:
            return False
        used = self._used.get((number, key), 0)
        if rule.get("times") is not None and used >= int(rule["times"]):
            return False
        self._used[number, key] = used + 1
        return True

    def _chance(self, number: int, key: str, asked: int) -> float:
        text = f"{self._seed}\0ai {number}\0{key}\0{asked}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def _status(rule: dict[str, Any], endpoint: str) -> str:
    message = rule.get("message")
    if rule["do"] == "retryable":
        return _RETRYABLE + str(message or f"RESOURCE EXHAUSTED error from {endpoint}")
    return str(message or f"INVALID_ARGUMENT error from {endpoint}: the image cannot be processed")

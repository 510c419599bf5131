"""The draining state of an engine, and the circuit breaker that starts draining."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable

from imagebeam.transforms.core.records import Outcome, Status

FIRST_OUTCOMES = 50
FAILURES_AFTER = 200
_log = logging.getLogger(__name__)


class Drain:
    """Whether an engine still sends calls. Once draining, it sends no new calls and records those in flight.

    Args:
        on_start: Called once, when draining starts.

    Attributes:
        reason: Why the engine drains, such as ``budget: …``; None while it does not. The first reason is kept.
    """

    def __init__(self, on_start: Callable[[], None]) -> None:
        self.reason: str | None = None
        self._on_start = on_start

    @property
    def started(self) -> bool:
        """True once the engine sends no new calls."""
        return self.reason is not None

    def start(self, reason: str) -> None:
        """Start draining; does nothing if it has started."""
        if self.reason is None:
            self.reason = reason
            _log.warning("draining: %s", reason)
            self._on_start()


class Breaker:
    """Count the outcomes of one process, and detect failures that would affect further calls.

    Args:
        max_failure_percent: Maximum percentage of failed units, checked from :data:`FAILURES_AFTER` outcomes on; None
            for no limit.
    """

    def __init__(self, max_failure_percent: float | None) -> None:
        self._max_failure_percent = max_failure_percent
        self._outcomes: collections.Counter[str] = collections.Counter()

    def record(self, outcome: Outcome) -> str | None:
        """Count an outcome.

        Returns:
            Why the run must stop: the first :data:`FIRST_OUTCOMES` outcomes failed for one reason, or too many
            units failed. None if it may continue.
        """
        status = outcome.status
        self._outcomes["OK" if status is Status.OK else f"{status.value} {outcome.reason or ''}"] += 1
        total = self._outcomes.total()
        failed = total - self._outcomes["OK"]
        if total == FIRST_OUTCOMES and failed == total and len(+self._outcomes) == 1:
            return f"systemic: the first {total} units all failed: {status.value}: {outcome.answer.message}"
        percent = self._max_failure_percent
        if percent is not None and total >= FAILURES_AFTER and 100 * failed > percent * total:
            return f"failures: {failed} of {total} units failed, more than {percent:g} %"
        return None

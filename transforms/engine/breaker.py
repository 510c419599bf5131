"""The circuit breaker: stops a run whose calls fail for a reason that further calls would meet too."""

from __future__ import annotations

import collections

from imagebeam.transforms.core.records import Outcome, Status

FIRST_OUTCOMES = 50
FAILURES_AFTER = 200


class Breaker:
    """Counts the outcomes of one process.

    Args:
        max_failure_percent: Highest share of failed units, judged from :data:`FAILURES_AFTER` outcomes on; None
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

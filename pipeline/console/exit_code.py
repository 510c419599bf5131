"""The exit code of a run that came to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebeam.transforms.core.errors import ReconciliationError, SystemicError

#: Exit code by the word that a reason to stop begins with; any other is systemic.
STOP_CODES: Mapping[str, int] = {"interrupted": 130, "budget": 4, "failures": 5}
#: A share of failures tells nothing of fewer units.
FAILURES_AFTER = 200


def exit_code(summary: Mapping[str, Any], max_failure_percent: float | None) -> int:
    """The exit code of a run: 0 ok, 1 books, otherwise why it stopped.

    Args:
        summary: The run's summary.
        max_failure_percent: More failures among the units asked about are exit code 5; None for any number.
    """
    counted = summary["counted"]
    if summary["problems"]:
        return ReconciliationError.exit_code
    if summary["stop"]:
        return STOP_CODES.get(summary["stop"].partition(":")[0], SystemicError.exit_code)
    failed = sum(counted["failed"].values())
    asked = counted["ok"] + failed
    if max_failure_percent is not None and asked >= FAILURES_AFTER and 100 * failed > max_failure_percent * asked:
        return 5
    return 0

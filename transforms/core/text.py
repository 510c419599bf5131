"""Format values for messages."""

from __future__ import annotations

import math


def format_duration(seconds: float | None) -> str:
    """Return a duration in its largest fitting unit, with two digits; ``unknown`` for None.

    >>> [format_duration(seconds) for seconds in (0, 0.2, 90, 600, 5_400, 360_000, None)]
    ['0 s', '1 s', '1.5 min', '10 min', '1.5 h', '4.2 days', 'unknown']
    """
    if seconds is None:
        return "unknown"
    for size, name, above in ((86_400, "days", 172_800), (3_600, "h", 3_600), (60, "min", 60)):
        if seconds >= above:
            return f"{seconds / size:.3g} {name}" if seconds / size >= 10 else f"{seconds / size:.2g} {name}"
    return f"{math.ceil(seconds)} s"


def quote(text: str, limit: int = 80) -> str:
    """Return a text in quotes on one line, truncated to ``limit`` characters."""
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[: limit - 1] + "…")

"""Format values for messages."""

from __future__ import annotations

import math
from decimal import Decimal


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


def format_usd(usd: Decimal | None) -> str:
    """Return a cost in US dollars with four digits; ``unknown cost`` for None.

    >>> format_usd(Decimal("12.3456789")), format_usd(None)
    ('$12.3457', 'unknown cost')
    """
    return "unknown cost" if usd is None else f"${usd:,.4f}"


def quote(text: str, limit: int = 80) -> str:
    """Return a text in quotes on one line, truncated to ``limit`` characters."""
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[: limit - 1] + "…")

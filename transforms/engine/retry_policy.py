"""Pure functions for retries; see the table in :mod:`~engine.unit_caller`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

from imagebeam.transforms.core.records import Answer, ImageReason, Status
from imagebeam.transforms.gemini.error_classes import Failure

#: Output limit of a retry, where the first request had none.
RETRY_OUTPUT_TOKENS: Final = 8192
#: Longest wait, in multiples of the first.
MAX_BACKOFF: Final = 60.0
_random = random.SystemRandom()


def may_be_image_type(failure: Failure | Answer) -> bool:
    """Return True if a wrong image type could explain the failure."""
    return failure.status is Status.BAD_REQUEST or failure.reason in (ImageReason.UNREADABLE, ImageReason.UNSUPPORTED)


def with_larger_limit(body: Mapping[str, Any], *, thoughts: int = 0, maximum: int) -> dict[str, Any]:
    """Return the same request with a larger output limit, for an answer that was truncated.

    The limit is doubled for the answer, and raised by the thoughts, which count against it.

    Args:
        body: The request.
        thoughts: Thought tokens to make room for: those of the truncated answer, or the expected ones if more.
        maximum: The model's largest output limit.
    """
    config = dict(body.get("generationConfig", {}))
    limit = int(config.get("maxOutputTokens", RETRY_OUTPUT_TOKENS // 2))
    config["maxOutputTokens"] = min(2 * limit + thoughts, max(limit, maximum))
    return {**body, "generationConfig": config}


def backoff_s(attempt: int, retry_after: float | None, multiplier_s: float = 1.0) -> float:
    """Return the seconds to wait after a failed attempt: exponential with full jitter.

    Args:
        attempt: Number of the attempt that failed, from 1.
        retry_after: Seconds that the service asks to wait, which is the minimum; None for none.
        multiplier_s: Longest wait after the first attempt; doubled for each further one.
    """
    longest = multiplier_s * min(2.0 ** (attempt - 1), MAX_BACKOFF)
    return max(_random.uniform(0, longest), retry_after or 0.0)

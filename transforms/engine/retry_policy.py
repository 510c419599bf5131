"""When a call is made again, and how: the pure parts of the table in :mod:`asking`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

import tenacity

from imagebeam.transforms.core.records import ImageReason, Status
from imagebeam.transforms.gemini.error_classes import Failure

#: Output limit of the second request, where the first one gave none.
REASK_OUTPUT_TOKENS: Final = 8192


def about_content(failure: Failure) -> bool:
    """True if a look at the image's bytes could explain the failure."""
    return failure.status is Status.BAD_REQUEST or failure.reason in (
        ImageReason.UNREADABLE.value,
        ImageReason.UNSUPPORTED.value,
    )


def with_larger_limit(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request with twice the output limit, for an answer that was cut off."""
    larger = copy.copy(dict(body))
    config = dict(larger.get("generationConfig", {}))
    config["maxOutputTokens"] = 2 * int(config.get("maxOutputTokens", REASK_OUTPUT_TOKENS // 2))
    larger["generationConfig"] = config
    return larger


def wait_s(attempt: int, retry_after: float | None, multiplier_s: float = 1.0) -> float:
    """Seconds before attempt ``attempt + 1``: exponential with full jitter, at least what was asked for."""
    wait = tenacity.wait_random_exponential(multiplier=multiplier_s, max=60 * multiplier_s)
    state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = attempt
    return max(wait(state), retry_after or 0.0)

"""The maximum cost of a call: what a budget reserves before it is sent, and what a cap must cover.

No tokens are assumed to be cached, and a flex call may be billed at the online price. See
:meth:`~task_kinds.Classification.max_usage` for the tokens. An answer without an output limit has no useful bound.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.gemini.task_kinds import json_bytes, task_kind
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task

# Bytes of an Imagery Insights URI and of a line's key.
URI_BYTES = 150

_MILLION = Decimal(1_000_000)
_NANO = Decimal("1e-9")


def max_call_cost_usd(profile: ModelProfile, task: Task, lane: Lane, body: Mapping[str, Any]) -> Decimal:
    """Return the maximum cost of a request; that of a retry with a larger output limit is higher.

    Args:
        profile: The model.
        task: The task.
        lane: Online or flex.
        body: The request.

    Returns:
        USD with nine decimals, rounded up; 0 if the price is unknown.
    """
    usage = task_kind(task).max_usage(profile, body)
    costs = [
        (usage.prompt_tokens * price.input + usage.output_tokens * price.output) / _MILLION + usage.images * price.image
        for price in (profile.prices[name] for name in {lane, Lane.ONLINE} & set(profile.prices))
    ]
    return max(costs, default=Decimal(0)).quantize(_NANO, decimal.ROUND_CEILING)


def max_cost_of_units_usd(profile: ModelProfile, task: Task, lane: Lane, images: int) -> Decimal:
    """Return the maximum cost of the first call for a unit, estimated before units are known.

    Args:
        profile: The model.
        task: The task.
        lane: Online or flex.
        images: Images in the call.

    Returns:
        USD with nine decimals, rounded up; 0 if the price is unknown.
    """
    return max_call_cost_usd(profile, task, lane, task_kind(task).sample_request(profile, images))


def request_bytes(profile: ModelProfile, task: Task, images: int) -> int:
    """Return the approximate bytes of one request of a batch job, with images by URI."""
    return json_bytes(task_kind(task).sample_request(profile, images)) + images * URI_BYTES


def check_cap(
    profile: ModelProfile,
    task: Task,
    lane: Lane,
    *,
    max_cost_usd: Decimal | None,
    max_calls: int | None,
    processes: int,
) -> Decimal:
    """Check that the caps of a run can be enforced, and allow at least one call per process.

    Args:
        profile: The task's model.
        task: The task.
        lane: Online or flex.
        max_cost_usd: Cap in USD; None for none.
        max_calls: Cap in calls; None for none.
        processes: Worker processes, at least 1.

    Returns:
        The maximum cost of one call in USD; 0 if the price is unknown, which only a run without a cap
        in USD may have.

    Raises:
        UserError: A cap cannot be enforced, or is too low.
    """
    max_call_usd = max_cost_of_units_usd(profile, task, lane, task.max_images)
    if max_calls is not None and max_calls < processes:
        raise UserError(
            f"--max_calls={max_calls} is less than one call for {_workers(processes)}; raise it, or use fewer workers"
        )
    if max_cost_usd is None:
        return max_call_usd
    if max_cost_usd <= 0:
        raise UserError(f"--max_cost_usd={max_cost_usd:f} must be above 0")
    if lane not in profile.prices:
        raise UserError(
            f"--max_cost_usd: the price of {task.model} in lane {lane} is not known, so its cost cannot be capped: "
            "use --price_as=MODEL, cap the calls with --max_calls, or set the price in a --models_file"
        )
    limit = task.generation.max_output_tokens
    if limit is None and task.vector_dimension is None:
        raise UserError(
            f"--max_cost_usd: answers of task {task.name} have no limit, so their cost cannot be capped: set "
            "generation.max_output_tokens in the task, such as 1024 (thoughts count too), or use --max_calls"
        )
    if max_cost_usd < processes * max_call_usd:
        raise UserError(
            f"--max_cost_usd={max_cost_usd:f} is below the maximum cost of one call of task {task.name}, "
            f"${max_call_usd:f}, for {_workers(processes)}: set it to at least {processes * max_call_usd:f}"
            + (", or lower generation.max_output_tokens" if limit is not None else "")
        )
    return max_call_usd


def _workers(processes: int) -> str:
    return "the one worker process" if processes == 1 else f"each of {processes} worker processes"

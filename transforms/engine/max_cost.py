"""What one call can cost at most: what a budget sets aside before it is sent, and what a cap must allow.

The bound is exact where the service counts exactly, and generous where only the service can count:

* an image costs what the model's table says (its limit where the table has an average);
* text has at most as many tokens as bytes, so the bytes of its JSON spelling are counted; the answer's
  schema is text too;
* an answer has at most ``maxOutputTokens``, thoughts included: without such a limit there is no bound;
* nothing is cached, and a flex call is billed as a common one if that is dearer.
"""

from __future__ import annotations

import decimal
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Image, Lane, Unit, UnitKind
from imagebeam.transforms.gemini.requests import ImagePart, build_request
from imagebeam.transforms.tasks.embedding import EmbedTask
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task

# The largest limit that a model takes: what an answer without a limit can have.
MOST_OUTPUT_TOKENS = 65_536
# What a field of a prompt is planned with; the real text is counted when the call is made.
FIELD_CHARS = 100
# A URI of Imagery Insights and the key of a line.
URI_BYTES = 150

_MILLION = Decimal(1_000_000)
_NANO = Decimal("1e-9")


def max_call_cost_usd(profile: ModelProfile, task: Task, lane: Lane, body: Mapping[str, Any]) -> Decimal:
    """What a request can cost at most; a larger output limit of a request that is sent again is in it.

    Args:
        profile: The model.
        task: What is asked.
        lane: ``online`` or ``flex``.
        body: The request, from :func:`~requests.build_request`.

    Returns:
        USD with nine decimals, rounded up; 0 if the price is unknown.
    """
    prices = [profile.prices[name] for name in {lane, Lane.ONLINE} & set(profile.prices)]
    if not prices:
        return Decimal(0)
    if isinstance(task, EmbedTask):
        tokens = task.max_images * image_tokens_limit(profile, task)
        dearest: Decimal = max(tokens * price.input / _MILLION + task.max_images * price.image for price in prices)
        return dearest.quantize(_NANO, decimal.ROUND_CEILING)
    texts: list[Any] = []
    images = 0
    for content in body["contents"]:
        for part in content["parts"]:
            if "text" in part:
                texts.append(part)
            else:
                images += 1
    config = body.get("generationConfig", {})
    text_tokens = _size([texts, body.get("systemInstruction"), config])
    output_tokens = int(config.get("maxOutputTokens", MOST_OUTPUT_TOKENS))
    prompt_tokens = text_tokens + images * image_tokens_limit(profile, task)
    worst: Decimal = max(prompt_tokens * price.input + output_tokens * price.output for price in prices)
    return (worst / _MILLION).quantize(_NANO, decimal.ROUND_CEILING)


def max_cost_of_units_usd(profile: ModelProfile, task: Task, lane: Lane, images: int) -> Decimal:
    """What the first call about a unit can cost at most, as far as that is known before there is a unit.

    Args:
        profile: The model.
        task: What is asked.
        lane: ``online`` or ``flex``.
        images: Images in the call.

    Returns:
        USD with nine decimals, rounded up; 0 if the price is unknown.
    """
    if isinstance(task, EmbedTask):
        return max_call_cost_usd(profile, task, lane, {})
    return max_call_cost_usd(profile, task, lane, _sample_request(profile, task, images))


def request_bytes(profile: ModelProfile, task: Task, images: int) -> int:
    """Bytes of one request as a batch job reads it, about: images by URI."""
    return 0 if isinstance(task, EmbedTask) else _size(_sample_request(profile, task, images)) + images * URI_BYTES


def _sample_request(profile: ModelProfile, task: Task, images: int) -> dict[str, Any]:
    filled = "x" * FIELD_CHARS
    extra = {field.removeprefix("extra."): filled for field in task.prompt_fields()}
    shown = tuple(Image(filled, None, filled, heading=-180.0) for _ in range(images))
    unit = Unit(filled, task.unit, "", shown, filled, filled, latitude=-90.0, longitude=-180.0, extra=extra)
    parts = [ImagePart("image/jpeg", uri="gs://")] * images
    return build_request(task, profile, unit, parts, {})


def image_tokens_limit(profile: ModelProfile, task: Task) -> int:
    """The prompt tokens of one image at most."""
    for table in (profile.image_tokens_limit, profile.image_tokens):
        if task.media_resolution in table:
            return table[task.media_resolution]
    return max(profile.image_tokens.values(), default=0)


def check_cap(
    profile: ModelProfile,
    task: Task,
    lane: Lane,
    *,
    max_cost_usd: Decimal | None,
    max_calls: int | None,
    processes: int,
) -> Decimal:
    """Makes sure that the caps of a run can be kept, and let something be done.

    Args:
        profile: The task's model.
        task: What is asked.
        lane: ``online`` or ``flex``.
        max_cost_usd: Cap in USD; None for none.
        max_calls: Cap in calls; None for none.
        processes: Worker processes, at least 1.

    Returns:
        What one call can cost at most, in USD; 0 if the price is unknown, which only a run without a cap
        in USD may have.

    Raises:
        UserError: They cannot, or nothing could; says what to change.
    """
    worst = max_cost_of_units_usd(profile, task, lane, task.max_images if task.unit == UnitKind.ASSET else 1)
    if max_calls is not None and max_calls < processes:
        raise UserError(
            f"--max_calls={max_calls} is less than one call for {_workers(processes)}; give more, or fewer workers"
        )
    if max_cost_usd is None:
        return worst
    if max_cost_usd <= 0:
        raise UserError(f"--max_cost_usd={max_cost_usd:f} must be above 0")
    if lane not in profile.prices:
        raise UserError(
            f"--max_cost_usd: the price of {task.model} in lane {lane} is not known, so its cost cannot be capped: "
            "cap the calls with --max_calls, or give its price with --models_file"
        )
    if task.generation.max_output_tokens is None and not isinstance(task, EmbedTask):
        raise UserError(
            f"--max_cost_usd: an answer of task {task.name} has no limit, so its cost cannot be capped: set "
            "generation.max_output_tokens in the task, such as 1024 (thoughts count too), or use --max_calls"
        )
    if max_cost_usd < processes * worst:
        raise UserError(
            f"--max_cost_usd={max_cost_usd:f} is below what one call of task {task.name} can cost at most, "
            f"${worst:f}, for {_workers(processes)}: give at least {processes * worst:f}"
            + ("" if isinstance(task, EmbedTask) else ", or lower generation.max_output_tokens")
        )
    return worst


def _size(document: Any) -> int:
    """The bytes of a JSON text, or more; computed for each call, so with orjson where it can."""
    try:
        return len(orjson.dumps(document))
    except orjson.JSONEncodeError:  # half a surrogate pair, which JSON's escapes can say
        return len(json.dumps(document))


def _workers(processes: int) -> str:
    return "the one worker process" if processes == 1 else f"each of {processes} worker processes"

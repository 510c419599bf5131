"""Cost of calls at list price, estimates of their tokens, and warnings about what a run would pay for nothing."""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from imagebeam.transforms.core.records import Lane, Usage
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Models
from imagebeam.transforms.tasks.task import Task

# Estimates of what only the service can count.
CHARS_PER_TOKEN = 4
LABEL_TOKENS = 24
FREE_TEXT_TOKENS = 300
NULL_CHARS = 4
#: Estimated characters per value; a string is estimated as a phrase of seven words.
_VALUE_CHARS = {"STRING": 42, "NUMBER": 4, "INTEGER": 2, "BOOLEAN": 5}
#: Before Gemini 3, an image whose sides are at most this long is one tile (Google, "Understand and count tokens").
TILE_SIDE = 384

_MILLION = Decimal(1_000_000)
# BigQuery's NUMERIC has nine decimal digits.
_NANO = Decimal("1e-9")


def cost_usd(profile: ModelProfile, lane: Lane, usage: Usage) -> Decimal | None:
    """Return the cost of usage at list price.

    Args:
        profile: The model.
        lane: ``online``, ``flex`` or ``batch``.
        usage: Tokens. The traffic type overrides the lane: a flex request may have been billed as on-demand, and
            provisioned throughput is prepaid.

    Returns:
        USD with nine decimals; None if the price is unknown (see :attr:`ModelProfile.prices`) and anything was used.
    """
    if usage.traffic_type == "PROVISIONED_THROUGHPUT":
        return Decimal(0)
    billed = Lane.ONLINE if lane == Lane.FLEX and usage.traffic_type == "ON_DEMAND" else lane
    price = profile.prices.get(billed)
    if price is None:
        return None if usage.total_tokens or usage.images else Decimal(0)
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    total = (
        (usage.prompt_tokens - cached) * price.input
        + cached * price.cached
        + (usage.output_tokens + usage.thought_tokens) * price.output
    )
    return (total / _MILLION + usage.images * price.image).quantize(_NANO, decimal.ROUND_HALF_UP)


def estimate_usage(profile: ModelProfile, task: Task, images: int) -> Usage:
    """Estimate the tokens of one call with a number of images, see :func:`estimate_total`."""
    return estimate_total(profile, task, calls=1, images=images)


def estimate_total(profile: ModelProfile, task: Task, *, calls: int, images: int) -> Usage:
    """Estimate the tokens of a number of calls with a total number of images.

    Text is estimated by its length, at four characters per token (Google, "Understand and count tokens"), images by the
    table, answers by the schema, and thoughts by the thinking level. Answers and thoughts are rough estimates, until a
    run or a probe has measured them.
    """
    image_prompt = images * image_tokens(profile, task)
    if task.vector_dimension is not None:
        return Usage(prompt_tokens=image_prompt, images=images)
    schema = json.dumps(task.schema, ensure_ascii=False, separators=(",", ":")) if task.schema else ""
    text = sum(_text_tokens(len(part)) for part in (task.prompt, task.system or "", schema))
    labels = LABEL_TOKENS * images if images > calls else 0
    thoughts = expected_thoughts(profile, task)
    answer = _expected_answer(task)
    limit = task.generation.max_output_tokens
    if limit is not None:
        thoughts = min(thoughts, limit)
        answer = min(answer, limit - thoughts)
    return Usage(
        prompt_tokens=calls * text + labels + image_prompt,
        output_tokens=calls * answer,
        thought_tokens=calls * thoughts,
    )


def task_warnings(models: Models, profile: ModelProfile, task: Task) -> tuple[str, ...]:
    """Return what the user should know about a task before a run: one line per problem, the model's first.

    Args:
        models: Known models.
        profile: The task's model.
        task: The task.
    """
    ignored = task.ignored_warnings()
    if not profile.known:  # it may well take the setting
        ignored = tuple(
            f"generation.{name} is not sent to model {profile.name}, because {models.source} does not have it: add it "
            "to a --models_file"
            for name in task.ignored_settings
        )
    found = (models.unknown_warning(profile), *ignored, output_limit_warning(profile, task))
    return tuple(warning for warning in found if warning is not None)


def expected_thoughts(profile: ModelProfile, task: Task) -> int:
    """Return the estimated thought tokens of one call, without its output limit."""
    sent = task.generation.thinking if profile.thinking.param != "none" else None
    thinking = profile.thinking.default if sent is None else sent
    if isinstance(thinking, str):
        return profile.thought_tokens.get(thinking, 0)
    return min(thinking, max(profile.thought_tokens.values(), default=0))


def output_limit_warning(profile: ModelProfile, task: Task) -> str | None:
    """Return a warning if the output limit of a task is too small for thoughts and answer; else None.

    Thoughts count against the limit (Google, "Thinking"). An answer for which they leave no room is truncated, and
    paid.
    """
    limit = task.generation.max_output_tokens
    if limit is None or task.vector_dimension is not None:
        return None
    thoughts, answer = expected_thoughts(profile, task), _expected_answer(task)
    if not thoughts or thoughts + answer <= limit:
        return None
    setting = task.generation.thinking if profile.thinking.param != "none" else None
    word = profile.thinking.default if setting is None else setting
    most = max(thoughts, profile.thinking.budget(word))
    less = ", or set generation.thinking: minimal" if "minimal" in profile.thinking.allowed else ""
    return (
        f"generation.max_output_tokens={limit} is too small for model {profile.name}: it also covers thoughts (thinking"
        f" {word}{', its default' if setting is None else ''}: about {thoughts:,} tokens), and the answer needs about "
        f"{answer:,}: paid answers will be truncated; raise it to {most + answer:,}{less}"
    )


def _expected_answer(task: Task) -> int:
    return _text_tokens(_answer_chars(task.schema)) if task.schema else FREE_TEXT_TOKENS


def image_tokens(profile: ModelProfile, task: Task) -> int:
    """Return the prompt tokens of one image at the task's resolution, or of one tile if it is downscaled to fit."""
    table = profile.image_tokens
    tokens = table.get(task.media_resolution, table.get("default", 0))
    if profile.tile_tokens is not None and (task.image.max_side or TILE_SIDE + 1) <= TILE_SIDE:
        return min(tokens, profile.tile_tokens)
    return tokens


def _text_tokens(characters: float) -> int:
    return math.ceil(characters / CHARS_PER_TOKEN)


def _answer_chars(schema: Mapping[str, Any]) -> float:
    """Estimate the characters of compact JSON: a value of mean length per property, two items per array."""
    kind = schema["type"]
    if kind == "OBJECT":
        # Quotes, colon and comma per property; the extra comma counts for one of the braces.
        value = 1 + sum(len(name) + 4 + _answer_chars(item) for name, item in schema["properties"].items())
    elif kind == "ARRAY":
        value = 3 + 2 * _answer_chars(schema["items"])
    elif "enum" in schema:
        value = 2 + sum(len(str(choice)) for choice in schema["enum"]) / len(schema["enum"])
    else:
        value = _VALUE_CHARS[kind]
    return (value + NULL_CHARS) / 2 if schema.get("nullable") else value

"""Model profiles: locations, supported settings, prices, and the estimated and actual cost of calls.

Prices are list prices in USD per million tokens, as of the date in ``models.yaml``.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane, Usage
from imagebeam.transforms.core.strict_yaml import suggestion
from imagebeam.transforms.tasks.task import Task

LANES = (Lane.ONLINE, Lane.FLEX, Lane.BATCH)
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
_REGION = re.compile(r"[a-z]+(?:-[a-z]+)+\d+")
_ENDPOINT = re.compile(r"projects/[^/]+/locations/(?P<location>[^/]+)/endpoints/[^/]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens.

    Attributes:
        input: Prompt tokens that were not cached.
        output: Tokens of answers and thoughts.
        cached: Prompt tokens from the implicit cache.
        image: USD per image, for models that bill per image.
    """

    input: Decimal
    output: Decimal
    cached: Decimal
    image: Decimal = Decimal(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Thinking:
    """How the thinking setting of a task is sent to a model.

    Attributes:
        param: ``level`` (sent as a word), ``budget`` (sent as a number of tokens) or ``none`` (not sent).
        allowed: Supported words → tokens of the budget (0 where a word is sent).
        default: The word that describes the model's default behavior.
        budget_range: Smallest and largest budget; None unless ``budget``.
    """

    param: Literal["level", "budget", "none"] = "none"
    allowed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    default: str = "minimal"
    budget_range: tuple[int, int] | None = None

    def supports(self, value: str | int) -> bool:
        """Return True if a task may use this value."""
        if isinstance(value, str):
            return value in self.allowed
        low, high = self.budget_range or (1, 0)
        return low <= value <= high or (self.param == "budget" and value in self.allowed.values())

    def config(self, value: str | int | None) -> dict[str, Any] | None:
        """Build the ``thinkingConfig`` of a request; None sends nothing, so that the model's default applies."""
        if value is None or self.param == "none":
            return None
        if self.param == "level":
            return {"thinkingLevel": str(value).upper()}
        return {"thinkingBudget": self.allowed[value] if isinstance(value, str) else value}


@dataclasses.dataclass(frozen=True, slots=True)
class Retirement:
    """The retirement of a model.

    Attributes:
        date: Retirement date.
        warn_from: First day on which runs print a warning.
        note: Additional information, such as the successor.
    """

    date: datetime.date
    warn_from: datetime.date
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Quota:
    """A quota per minute.

    Attributes:
        requests: Calls; None for no limit.
        tokens: Tokens of prompts, answers and thoughts; None for no limit.
        source: Where the figures come from, shown with a plan.
    """

    requests: int | None = None
    tokens: int | None = None
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelProfile:
    """The properties of one model.

    Attributes:
        name: Model id, or the resource name of a tuned endpoint.
        locations: Locations that serve the model; ``regions`` means any region; empty: any location.
        flex_locations: Locations of the flex lane; empty: none.
        thinking: How thinking is configured.
        image_tokens: Media resolution → prompt tokens of one image.
        image_tokens_limit: The maximum, where ``image_tokens`` is an average.
        tile_tokens: Prompt tokens of one tile, for models that split large images into tiles; otherwise None.
        fixed_sampling: The model ignores temperature and top_p, so they are not sent.
        prices: Lane → price; empty: unknown.
        retirement: Retirement, if known.
        thought_tokens: Thinking word → estimated thought tokens of one call.
        requests_per_minute: Requests per minute of a project, for models with a fixed quota: ``europe`` for regions in
            Europe, ``regions`` for the others.
        assumed_quotas: Lane → quota that a plan assumes unless ``--max_rpm`` or ``--max_tpm`` is set.
    """

    name: str
    locations: tuple[str, ...] = ()
    flex_locations: tuple[str, ...] = ()
    thinking: Thinking = Thinking()
    image_tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    image_tokens_limit: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tile_tokens: int | None = None
    fixed_sampling: bool = False
    prices: Mapping[str, Price] = dataclasses.field(default_factory=dict)
    retirement: Retirement | None = None
    thought_tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    requests_per_minute: Mapping[str, int] = dataclasses.field(default_factory=dict)
    assumed_quotas: Mapping[str, Quota] = dataclasses.field(default_factory=dict)

    def check(self, location: str, lane: Lane, task: Task) -> None:
        """Check that the model supports a task in a lane at a location.

        Args:
            location: Location of the calls.
            lane: ``online``, ``flex`` or ``batch``.
            task: The task.

        Raises:
            UserError: The model does not support it; the message lists what it supports.
        """
        if not self._is_served_at(location):
            available = f" (available in {_format_locations(self.locations)})" if self.locations else ""
            raise UserError(
                f"model {self.name} is not available in {location}: use --location={self._first_location()}{available}"
            )
        if lane not in LANES:
            raise UserError(f"lane {lane} is not one of {', '.join(LANES)}{suggestion(lane, LANES)}")
        if lane == Lane.FLEX and location not in self.flex_locations:
            raise UserError(
                f"lane flex supports {self.name} only in {_format_locations(self.flex_locations)}, not in {location}"
                if self.flex_locations
                else f"the flex lane does not support {self.name}: use --lane=online"
            )
        self._check_task(task)

    def drop_ignored_settings(self, task: Task) -> Task:
        """Return the task without the generation settings that this model ignores.

        The version covers what is sent, so changing such a setting does not create a new version. Names of the
        dropped settings are kept in :attr:`~task.Task.ignored_settings`.
        """
        names = (
            *(("temperature", "top_p") if self.fixed_sampling else ()),
            *(("thinking",) if self.thinking.param == "none" else ()),
        )
        ignored = tuple(name for name in names if getattr(task.generation, name) is not None)
        if not ignored:
            return task
        generation = dataclasses.replace(task.generation, **dict.fromkeys(ignored))
        return dataclasses.replace(task, generation=generation, ignored_settings=ignored)

    def retirement_warning(self, today: datetime.date) -> str | None:
        """Return a warning if the model retires soon or has been retired, else None."""
        if self.retirement is None or today < self.retirement.warn_from:
            return None
        verb = "was retired" if self.retirement.date <= today else "retires"
        note = f"; {self.retirement.note}" if self.retirement.note else ""
        return f"model {self.name} {verb} on {self.retirement.date}{note}"

    def fixed_rpm(self, location: str) -> int | None:
        """Return the requests per minute of a project at a location; None if the quota is not fixed."""
        place = "europe" if location.startswith("europe") and "europe" in self.requests_per_minute else "regions"
        return self.requests_per_minute.get(place)

    def _is_served_at(self, location: str) -> bool:
        if endpoint := _ENDPOINT.fullmatch(self.name):
            return endpoint["location"] == location
        return location in self.locations or ("regions" in self.locations and bool(_REGION.fullmatch(location)))

    def _first_location(self) -> str:
        endpoint = _ENDPOINT.fullmatch(self.name)
        first = endpoint["location"] if endpoint else self.locations[0]
        return "us-central1" if first == "regions" else first

    def _check_task(self, task: Task) -> None:
        thinking = task.generation.thinking
        if thinking is not None and self.thinking.param != "none" and not self.thinking.supports(thinking):
            tokens = self.thinking.budget_range
            budget = f", or a budget from {tokens[0]} to {tokens[1]} tokens" if tokens else ""
            raise UserError(
                f"task {task.name}: generation.thinking: {self.name} does not support {thinking}: use one of "
                f"{', '.join(self.thinking.allowed)}{budget}"
            )
        if self.image_tokens and task.media_resolution not in self.image_tokens:
            raise UserError(
                f"task {task.name}: media_resolution: {self.name} does not support {task.media_resolution}: use one "
                f"of {', '.join(self.image_tokens)}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """The models of a ``models.yaml``.

    Attributes:
        as_of: Date of the prices and properties.
        default: Model of tasks without one.
        profiles: Model id → profile.
        source: Name of the file in messages.
        embeddings: Embedding model id → profile.
    """

    as_of: datetime.date
    default: str
    profiles: Mapping[str, ModelProfile]
    source: str
    embeddings: Mapping[str, ModelProfile] = dataclasses.field(default_factory=dict)

    def profile(self, name: str) -> ModelProfile:
        """Return the profile of a model.

        Args:
            name: Model id, or a tuned endpoint ``projects/P/locations/L/endpoints/E``, whose price and thinking are
                unknown.

        Raises:
            UserError: The model is unknown; the message suggests a similar name.
        """
        if name in self.profiles:
            return self.profiles[name]
        if _ENDPOINT.fullmatch(name):
            return ModelProfile(name)
        raise UserError(
            f"unknown model {name}{suggestion(name, self.profiles)}; {self.source} has "
            f"{', '.join(self.profiles)}; add other models to this file"
        )

    def embedding(self, name: str) -> ModelProfile:
        """Return the profile of an embedding model.

        Raises:
            UserError: The file does not have it.
        """
        if name not in self.embeddings:
            fix = "add it under `embeddings`, as in the shipped models.yaml"
            raise UserError(f"{self.source} does not have embedding model {name}: {fix}")
        return self.embeddings[name]

    def resolve(self, task: Task) -> ModelProfile:
        """Return the profile of a task's model.

        Raises:
            UserError: The model is unknown.
        """
        return self.profile(task.model) if task.vector_dimension is None else self.embedding(task.model)


def cost_usd(profile: ModelProfile, lane: Lane, usage: Usage) -> Decimal:
    """Return the cost of usage at list price.

    Args:
        profile: The model.
        lane: ``online``, ``flex`` or ``batch``.
        usage: Tokens. The traffic type overrides the lane: a flex request may have been billed as on-demand, and
            provisioned throughput is prepaid.

    Returns:
        USD with nine decimals; 0 if the price is unknown (see :attr:`ModelProfile.prices`).
    """
    if usage.traffic_type == "PROVISIONED_THROUGHPUT":
        return Decimal(0)
    billed = Lane.ONLINE if lane == Lane.FLEX and usage.traffic_type == "ON_DEMAND" else lane
    price = profile.prices.get(billed)
    if price is None:
        return Decimal(0)
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
    thinking = profile.thinking.default if task.generation.thinking is None else task.generation.thinking
    thoughts = (
        0
        if profile.thinking.param == "none"
        else profile.thought_tokens.get(thinking, 0)
        if isinstance(thinking, str)
        else min(thinking, max(profile.thought_tokens.values(), default=0))
    )
    answer = _text_tokens(_answer_chars(task.schema)) if task.schema else FREE_TEXT_TOKENS
    limit = task.generation.max_output_tokens
    if limit is not None:
        thoughts = min(thoughts, limit)
        answer = min(answer, limit - thoughts)
    return Usage(
        prompt_tokens=calls * text + labels + image_prompt,
        output_tokens=calls * answer,
        thought_tokens=calls * thoughts,
    )


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


def _format_locations(locations: tuple[str, ...]) -> str:
    return ", ".join("any region such as us-central1" if name == "regions" else name for name in locations)

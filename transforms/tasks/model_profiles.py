"""Models and what they cost: profiles, checks, estimates, and the price of usage.

All prices are list prices in USD per million tokens, as of the date in the file.
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
from imagebeam.transforms.tasks.embedding import EmbedTask
from imagebeam.transforms.tasks.task import Task

LANES = (Lane.ONLINE, Lane.FLEX, Lane.BATCH)
# Planning figures for what only the service can count.
CHARS_PER_TOKEN = 4
LABEL_TOKENS = 24
FREE_TEXT_TOKENS = 300
NULL_CHARS = 4
#: Characters of a value; a text of an answer is planned as a phrase of seven words.
_VALUE_CHARS = {"STRING": 42, "NUMBER": 4, "INTEGER": 2, "BOOLEAN": 5}
#: An image whose sides are no longer costs one tile, before Gemini 3 (Google, "Understand and count tokens").
TILE_SIDE = 384

_MILLION = Decimal(1_000_000)
# BigQuery's NUMERIC keeps nine decimals.
_NANO = Decimal("1e-9")
_REGION = re.compile(r"[a-z]+(?:-[a-z]+)+\d+")
_ENDPOINT = re.compile(r"projects/[^/]+/locations/(?P<location>[^/]+)/endpoints/[^/]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens.

    Attributes:
        input: Prompt tokens that were not cached.
        output: Tokens of the answer and of thoughts.
        cached: Prompt tokens served from the implicit cache.
        image: USD per image, of models whose images are billed by the piece.
    """

    input: Decimal
    output: Decimal
    cached: Decimal
    image: Decimal = Decimal(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Thinking:
    """How a model is told to think.

    Attributes:
        param: ``level`` sends a word, ``budget`` a number of tokens, ``none`` nothing.
        allowed: Words that it takes → tokens of a budget (0 where a word is sent).
        default: The word that describes what the model does when told nothing.
        budget_range: Smallest and largest budget; None unless ``budget``.
    """

    param: Literal["level", "budget", "none"] = "none"
    allowed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    default: str = "minimal"
    budget_range: tuple[int, int] | None = None

    def takes(self, value: str | int) -> bool:
        """True if a task may ask for it."""
        if isinstance(value, str):
            return value in self.allowed
        low, high = self.budget_range or (1, 0)
        return low <= value <= high or (self.param == "budget" and value in self.allowed.values())

    def config(self, value: str | int | None) -> dict[str, Any] | None:
        """The request's ``thinkingConfig``; None sends nothing, so that the model's default applies."""
        if value is None or self.param == "none":
            return None
        if self.param == "level":
            return {"thinkingLevel": str(value).upper()}
        return {"thinkingBudget": self.allowed[value] if isinstance(value, str) else value}


@dataclasses.dataclass(frozen=True, slots=True)
class Retirement:
    """When a model goes.

    Attributes:
        date: The day.
        warn_from: From when on a run says so.
        note: What else there is to know, such as the successor.
    """

    date: datetime.date
    warn_from: datetime.date
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Quota:
    """What may be asked in a minute.

    Attributes:
        requests: Calls; None for no such limit.
        tokens: Tokens of prompts, answers and thoughts; None for no such limit.
        source: Who says so, for people.
    """

    requests: int | None = None
    tokens: int | None = None
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelProfile:
    """What is known of one model.

    Attributes:
        name: Model id, or a tuned endpoint's resource name.
        locations: Where it answers; ``regions`` stands for any region; empty: anywhere.
        flex_locations: Where the flex lane takes it; empty: nowhere.
        thinking: How it is told to think.
        image_tokens: Media resolution → prompt tokens of one image.
        image_tokens_limit: The same at most, where ``image_tokens`` is an average.
        tile_tokens: Prompt tokens of one tile, of models that cut large images into tiles; None of others.
        fixed_sampling: Temperature and top_p are ignored by it, so they are not sent.
        prices: Lane → price; empty: unknown.
        retirement: When it goes, if known.
        thought_tokens: Thinking word → thoughts of one call, for estimates.
        requests_per_minute: Place → requests per minute that a project is granted, of models with a fixed quota:
            ``europe`` for regions there, ``regions`` for the others.
        assumed_quotas: Lane → what a plan assumes a project to be granted, if nobody says better.
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

    @property
    def priced(self) -> bool:
        """False if nothing is known of what it costs: every cost is then 0, which must be said."""
        return bool(self.prices)

    def check(self, location: str, lane: Lane, task: Task) -> None:
        """Makes sure that the model takes what a run would send.

        Args:
            location: Where it would be asked.
            lane: ``online``, ``flex`` or ``batch``.
            task: What would be asked.

        Raises:
            UserError: It does not; says what it takes.
        """
        if not self._answers_at(location):
            raise UserError(
                f"model {self.name} is not at location {location}: use --location={self._first_location()}"
                f" (it is at {_places(self.locations)})"
            )
        if lane not in LANES:
            raise UserError(f"lane {lane} is not one of {', '.join(LANES)}{suggestion(lane, LANES)}")
        if lane == Lane.FLEX and location not in self.flex_locations:
            raise UserError(
                f"the flex lane takes {self.name} at {_places(self.flex_locations)} only, not at {location}"
                if self.flex_locations
                else f"the flex lane does not take {self.name}: use --lane=online"
            )
        self._check_task(task)

    def drop_ignored_settings(self, task: Task) -> Task:
        """Return the task without the generation settings that this model ignores.

        The version covers what is sent, so changing such a setting does not make another version. Names of the
        dropped settings are kept in :attr:`~task.Task.ignored_settings`.
        """
        names = ("temperature", "top_p") if self.fixed_sampling else ()
        if self.thinking.param == "none":
            names = (*names, "thinking")
        ignored = tuple(name for name in names if getattr(task.generation, name) is not None)
        if not ignored:
            return task
        generation = dataclasses.replace(task.generation, **dict.fromkeys(ignored))
        return dataclasses.replace(task, generation=generation, ignored_settings=ignored)

    def retirement_warning(self, today: datetime.date) -> str | None:
        """One line if the model is about to go, or gone; None if there is nothing to say."""
        if self.retirement is None or today < self.retirement.warn_from:
            return None
        verb = "was retired" if self.retirement.date <= today else "retires"
        note = f"; {self.retirement.note}" if self.retirement.note else ""
        return f"model {self.name} {verb} on {self.retirement.date}{note}"

    def fixed_rpm(self, location: str) -> int | None:
        """Requests per minute that a project is granted at a location; None if the quota is not fixed."""
        place = "europe" if location.startswith("europe") and "europe" in self.requests_per_minute else "regions"
        return self.requests_per_minute.get(place)

    def _answers_at(self, location: str) -> bool:
        if endpoint := _ENDPOINT.fullmatch(self.name):
            return endpoint["location"] == location
        return location in self.locations or ("regions" in self.locations and bool(_REGION.fullmatch(location)))

    def _first_location(self) -> str:
        endpoint = _ENDPOINT.fullmatch(self.name)
        first = endpoint["location"] if endpoint else self.locations[0]
        return "us-central1" if first == "regions" else first

    def _check_task(self, task: Task) -> None:
        thinking = task.generation.thinking
        if thinking is not None and self.thinking.param != "none" and not self.thinking.takes(thinking):
            tokens = self.thinking.budget_range
            budget = f", or a budget from {tokens[0]} to {tokens[1]} tokens" if tokens else ""
            raise UserError(
                f"task {task.name}: generation.thinking: {self.name} does not take {thinking}: use one of "
                f"{', '.join(self.thinking.allowed)}{budget}"
            )
        if self.image_tokens and task.media_resolution not in self.image_tokens:
            raise UserError(
                f"task {task.name}: media_resolution: {self.name} does not know {task.media_resolution}: use one "
                f"of {', '.join(self.image_tokens)}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """The models that are known, as of a date.

    Attributes:
        as_of: When the file was true.
        default: Model of a task that names none.
        profiles: Model id → profile.
        where: The file.
        embeddings: Embedding model id → profile.
    """

    as_of: datetime.date
    default: str
    profiles: Mapping[str, ModelProfile]
    where: str
    embeddings: Mapping[str, ModelProfile] = dataclasses.field(default_factory=dict)

    def profile(self, name: str) -> ModelProfile:
        """The profile of a model.

        Args:
            name: Model id; or a tuned endpoint ``projects/P/locations/L/endpoints/E``, of whose price and
                thinking nothing is known.

        Raises:
            UserError: Nobody knows it; suggests the near one.
        """
        if name in self.profiles:
            return self.profiles[name]
        if _ENDPOINT.fullmatch(name):
            return ModelProfile(name)
        raise UserError(
            f"unknown model {name}{suggestion(name, self.profiles)}; {self.where} knows "
            f"{', '.join(self.profiles)}; another one can be added there"
        )

    def embedding(self, name: str) -> ModelProfile:
        """The profile of an embedding model.

        Raises:
            UserError: The file says nothing of it.
        """
        if name not in self.embeddings:
            raise UserError(
                f"{self.where} says nothing of embedding model {name}: add it under `embeddings`, as the shipped "
                "models.yaml has it"
            )
        return self.embeddings[name]


def cost_usd(profile: ModelProfile, lane: Lane, usage: Usage) -> Decimal:
    """What usage costs at list price.

    Args:
        profile: The model.
        lane: ``online``, ``flex`` or ``batch``.
        usage: Tokens; its traffic type corrects the lane: a flex request may have been billed as a common
            one, and provisioned throughput is paid for already.

    Returns:
        USD with nine decimals; 0 if the price is unknown (see :attr:`ModelProfile.priced`).
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
    """The tokens that one call will probably take.

    Args:
        profile: The model.
        task: What is asked.
        images: Images in the call.

    Returns:
        An estimate: text by its length, images by the table, the answer by its schema, thoughts by the level.
    """
    return estimate_total(profile, task, calls=1, images=images)


def estimate_total(profile: ModelProfile, task: Task, *, calls: int, images: int) -> Usage:
    """The tokens that so many calls with so many images in all will probably take.

    Text is counted as four characters a token (Google, "Understand and count tokens"); what is planned for
    names, sentences and thoughts is a guess, until a run or a probe has shown better.
    """
    image_prompt = images * image_tokens(profile, task)
    if isinstance(task, EmbedTask):
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
    """Prompt tokens of one image: of the task's resolution, or of one tile if it is made small enough for that."""
    table = profile.image_tokens
    tokens = table.get(task.media_resolution, table.get("default", 0))
    if profile.tile_tokens is not None and (task.image.max_side or TILE_SIDE + 1) <= TILE_SIDE:
        return min(tokens, profile.tile_tokens)
    return tokens


def _text_tokens(characters: float) -> int:
    return math.ceil(characters / CHARS_PER_TOKEN)


def _answer_chars(schema: Mapping[str, Any]) -> float:
    """Characters of an answer without blanks: a value of mean length for every property, two items per array."""
    kind = schema["type"]
    if kind == "OBJECT":
        # Quotes, colon and comma; the comma that is one too many is one of the braces.
        value = 1 + sum(len(name) + 4 + _answer_chars(item) for name, item in schema["properties"].items())
    elif kind == "ARRAY":
        value = 3 + 2 * _answer_chars(schema["items"])
    elif "enum" in schema:
        value = 2 + sum(len(str(choice)) for choice in schema["enum"]) / len(schema["enum"])
    else:
        value = _VALUE_CHARS[kind]
    return (value + NULL_CHARS) / 2 if schema.get("nullable") else value


def _places(locations: tuple[str, ...]) -> str:
    return ", ".join("any region such as us-central1" if place == "regions" else place for place in locations)

"""Model profiles: locations, supported settings, prices and quotas.

Prices are list prices in USD per million tokens, as of the date in ``models.yaml``.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.core.strict_yaml import suggestion
from imagebeam.transforms.tasks.model_names import parse_model_name
from imagebeam.transforms.tasks.task import Task

LANES = (Lane.ONLINE, Lane.FLEX, Lane.BATCH)
#: Largest output limit of a model whose limit is not known.
MAX_OUTPUT_TOKENS: Final = 65_536

_REGION = re.compile(r"[a-z]+(?:-[a-z]+)+\d+")


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

    def budget(self, value: str | int) -> int:
        """Return the largest number of thought tokens that a value allows; 0 if the model has no budgets."""
        if self.param != "budget":
            return 0
        return self.allowed[value] if isinstance(value, str) else value

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
        name: Model id, or the resource name of a tuned model or endpoint.
        known: False for a model that the models file does not have: its settings are not checked.
        locations: Locations that serve the model; ``regions`` means any region; empty: any location.
        flex_locations: Locations of the flex lane; empty: none.
        thinking: How thinking is configured.
        image_tokens: Media resolution → prompt tokens of one image.
        image_tokens_limit: The maximum, where ``image_tokens`` is an average.
        tile_tokens: Prompt tokens of one tile, for models that split large images into tiles; otherwise None.
        fixed_sampling: The model ignores temperature and top_p, so they are not sent.
        max_output_tokens: Largest output limit, thoughts included.
        prices: Lane → price; empty: unknown.
        retirement: Retirement, if known.
        thought_tokens: Thinking word → estimated thought tokens of one call.
        requests_per_minute: Requests per minute of a project, for models with a fixed quota: ``europe`` for regions in
            Europe, ``regions`` for the others.
        assumed_quotas: Lane → quota that a plan assumes unless ``--max_rpm`` or ``--max_tpm`` is set.
    """

    name: str
    known: bool = True
    locations: tuple[str, ...] = ()
    flex_locations: tuple[str, ...] = ()
    thinking: Thinking = Thinking()
    image_tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    image_tokens_limit: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tile_tokens: int | None = None
    fixed_sampling: bool = False
    max_output_tokens: int = MAX_OUTPUT_TOKENS
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
            several = self.locations != (self._first_location(),)
            available = f" (available in {_format_locations(self.locations)})" if several else ""
            raise UserError(
                f"model {self.name} is not available in {location}: use --location={self._first_location()}{available}"
            )
        if lane not in LANES:
            raise UserError(f"lane {lane} is not one of {', '.join(LANES)}{suggestion(lane, LANES)}")
        # Google decides about a model that is in no file.
        anywhere = not self.known and not self.locations
        if lane == Lane.FLEX and not anywhere and location not in self.flex_locations:
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

    def priced_as(self, other: ModelProfile) -> ModelProfile:
        """Return this model with the prices of another one, and its tokens where this model has none.

        What is sent does not change: thinking and sampling settings stay those of this model.
        """
        thinking = self.thinking
        if thinking.param == "none":
            thinking = dataclasses.replace(thinking, default=other.thinking.default)
        own = bool(self.image_tokens)
        return dataclasses.replace(
            self,
            prices=other.prices,
            thinking=thinking,
            thought_tokens=self.thought_tokens or other.thought_tokens,
            image_tokens=self.image_tokens if own else other.image_tokens,
            image_tokens_limit=self.image_tokens_limit if own else other.image_tokens_limit,
            tile_tokens=self.tile_tokens if own else other.tile_tokens,
        )

    def _is_served_at(self, location: str) -> bool:
        if not self.locations:
            return True
        return location in self.locations or ("regions" in self.locations and bool(_REGION.fullmatch(location)))

    def _first_location(self) -> str:
        return "us-central1" if self.locations[0] == "regions" else self.locations[0]

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

    def profile(self, name: str, *, price_as: str | None = None) -> ModelProfile:
        """Return the profile of a model; of one that the file does not have, only what its name says.

        Args:
            name: Any form of a model's name, see :func:`~model_names.parse_model_name`.
            price_as: Model of the file whose prices to use.

        Raises:
            UserError: ``name`` is invalid, or ``price_as`` has no price in the file.
        """
        parsed = parse_model_name(name)
        found = self.profiles.get(parsed.name) or self.profiles.get(parsed.base)
        profile = ModelProfile(parsed.name, known=False) if found is None else found
        profile = dataclasses.replace(profile, name=parsed.name)
        if parsed.is_tuned:
            profile = dataclasses.replace(profile, locations=(str(parsed.location),), flex_locations=())
        return profile if price_as is None else profile.priced_as(self._priced(price_as))

    def _priced(self, name: str) -> ModelProfile:
        profile = self.profiles.get(parse_model_name(name).base)
        if profile is None or not profile.prices:
            known = [key for key, each in self.profiles.items() if each.prices]
            hint = suggestion(name, known) or f"; those that have one are {', '.join(known)}"
            raise UserError(f"--price_as={name}: {self.source} has no price of this model{hint}")
        return profile

    def unknown_warning(self, profile: ModelProfile) -> str | None:
        """Return a warning if the file does not have the model, so that its cost is unknown; else None."""
        if profile.known or profile.prices:
            return None
        return (
            f"model {profile.name} is not in {self.source}{suggestion(profile.name, self.profiles)}; its cost is "
            "unknown, and task settings are not checked against it: use --price_as=MODEL, or add it to a --models_file"
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

    def resolve(self, task: Task, *, price_as: str | None = None) -> ModelProfile:
        """Return the profile of a task's model.

        Args:
            task: The task.
            price_as: See :meth:`profile`.

        Raises:
            UserError: ``price_as`` has no price, or the file does not have the embedding model.
        """
        if task.vector_dimension is not None:
            return self.embedding(task.model)
        return self.profile(task.model, price_as=price_as)


def _format_locations(locations: tuple[str, ...]) -> str:
    return ", ".join("any region such as us-central1" if name == "regions" else name for name in locations)

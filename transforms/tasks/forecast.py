"""Forecast calls and tokens of a run, by formula or from recorded answers of the task.

Every paid command and ``imagebeam plan`` use this forecast for their estimates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson

from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.records import Lane, Usage
from imagebeam.transforms.tasks.costs import cost_usd, estimate_total
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task

#: Minimum number of measured units to prefer over the formula.
MIN_MEASURED_UNITS = 20
#: Fields that may differ from a version whose answers are used to forecast the length of answers.
_SAME_ANSWERS = frozenset({"prompt", "system"})
#: Sections of a definition whose settings are compared one by one.
_SECTIONS = ("generation", "image")
#: Lanes that are billed like another one.
_BILLED_AS = {Lane.SQL: Lane.ONLINE}


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredUsage:
    """Recorded usage of one version of a task, summed over its units.

    Attributes:
        version: The version.
        units: Units with a call, permanent failures included.
        attempts: Calls, without those rejected for quota.
        images: Images of these units.
        usage: Tokens of these calls.
        latency_s: Lane → mean latency of a call in seconds.
    """

    version: str
    units: int = 0
    attempts: int = 0
    images: int = 0
    usage: Usage = Usage()
    latency_s: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def is_representative(self, min_units: int) -> bool:
        """Return True if there are enough units, and answers among them."""
        return self.units >= min_units and bool(self.usage.prompt_tokens)


@dataclasses.dataclass(frozen=True, slots=True)
class TaskVersion:
    """A version of a task that was used by a run.

    Attributes:
        version: 12 hex digits.
        definition: Everything that can change an answer, see :meth:`~task.Task.definition`.
        used_at: Last use by a run, RFC 3339.
    """

    version: str
    definition: Mapping[str, Any]
    used_at: str


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """What is recorded about a task.

    Attributes:
        measured: Version → recorded usage.
        versions: Versions of the task, most recently used first.
    """

    measured: Mapping[str, MeasuredUsage] = dataclasses.field(default_factory=dict)
    versions: Sequence[TaskVersion] = ()


def history_from_rows(measured: Sequence[Mapping[str, Any]], versions: Sequence[Mapping[str, Any]]) -> History:
    """Build a history from the rows of :func:`~outcome_queries.measured_query` and ``versions_query``."""
    found: dict[str, MeasuredUsage] = {}
    for row in measured:
        before = found.get(row["version"], MeasuredUsage(row["version"]))
        prompt, cached, output, thought = (
            int(row[f"{kind}_tokens"] or 0) for kind in ("prompt", "cached", "output", "thought")
        )
        latency = {row["lane"]: float(row["latency_s"])} if row["latency_s"] else {}
        found[row["version"]] = MeasuredUsage(
            row["version"],
            before.units + int(row["units"]),
            before.attempts + int(row["attempts"]),
            before.images + int(row["images"] or 0),
            before.usage + Usage(prompt, cached, output, thought),
            {**before.latency_s, **latency},
        )
    listed = [
        TaskVersion(
            row["version"], orjson.loads(row["definition"]), row["created_at"].isoformat().replace("+00:00", "Z")
        )
        for row in versions
    ]
    return History(found, listed)


@dataclasses.dataclass(frozen=True, slots=True)
class ImageSample:
    """The result of reading the first bytes of the images of some units.

    Attributes:
        units: Units in the sample.
        calls: Calls for these units; rejected ones are not billed.
        repeated: Calls that are rejected first, because the type of an image differs from its name.
        failing: Reason → units that will fail.
        refused: Why no image could be read; None if images were read.
    """

    units: int = 0
    calls: int = 0
    repeated: int = 0
    failing: Mapping[str, int] = dataclasses.field(default_factory=dict)
    refused: str | None = None

    def scale_calls(self, units: int) -> int:
        """Return the calls for a number of units like those of the sample."""
        return round(units * self.calls / self.units) if self.units else units

    def scale_answered(self, number: int) -> int:
        """Return how many of a number of units, or images, will be answered."""
        return number - round(number * sum(self.failing.values()) / self.units) if self.units else number


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of a number of units.

    Attributes:
        units: Units with a call.
        calls: Calls, repeated ones included.
        images: Images in these calls.
        usage: Tokens of all calls.
        basis: Where the tokens come from, for messages.
        latency_s: Lane → mean latency of a call in seconds, where measured.
    """

    units: int
    calls: int
    images: int
    usage: Usage
    basis: str
    latency_s: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """All tokens that count against a quota."""
        return self.usage.total_tokens

    def usd(self, profile: ModelProfile, lane: Lane) -> Decimal | None:
        """Return the cost in a lane at list price; None if the price is unknown."""
        billed = _BILLED_AS.get(lane, lane)
        return cost_usd(profile, billed, self.usage) if billed in profile.prices else None


@dataclasses.dataclass(frozen=True, slots=True)
class Forecaster:
    """Forecast the calls and tokens of a task.

    Recorded usage of the same version is preferred over that of a version with the same answers, and that over the
    formula.

    Attributes:
        profile: The model.
        task: The task.
        history: What is recorded about the task.
        min_units: Minimum number of measured units of this version to prefer over the formula.
        sample: A sample of the images. It determines the number of calls, and for the formula the number of answers;
            without one, every unit is one call with an answer.
    """

    profile: ModelProfile
    task: Task
    history: History
    min_units: int = MIN_MEASURED_UNITS
    sample: ImageSample | None = None

    def forecast(self, units: int, images: int) -> Forecast:
        """Forecast a number of units with a call, and their images."""
        found = self._forecast(units, images)
        if self.sample is not None and self.sample.units:
            return dataclasses.replace(found, calls=self.sample.scale_calls(units))
        return found

    def forecast_remaining(self, counts: SourceCounts) -> Forecast:
        """Forecast the units that a run will process."""
        return self.forecast(counts.callable_units, counts.images)

    def forecast_outdated(self, counts: SourceCounts) -> Forecast:
        """Forecast the outdated units that a run will not process."""
        units, images = counts.callable_units, counts.images
        if not units:
            units = sum(one.units for one in self.history.measured.values())
            images = sum(one.images for one in self.history.measured.values() if one.units)
        per_unit = images / units if units else self.task.max_images
        return self.forecast(counts.outdated, round(counts.outdated * per_unit))

    def _forecast(self, units: int, images: int) -> Forecast:
        sample = self.sample or ImageSample()
        formula = estimate_total(
            self.profile, self.task, calls=sample.scale_answered(units), images=sample.scale_answered(images)
        )
        measured = self.history.measured.get(self.task.version)
        if measured is not None and measured.is_representative(self.min_units):
            basis = f"measured with {measured.units:,} units of this version"
            return self._scale(measured, formula, units, images, basis)
        for other in self.history.versions:
            measured = self.history.measured.get(other.version)
            if (
                measured is not None
                and other.version != self.task.version
                and measured.is_representative(MIN_MEASURED_UNITS)
                and set(changed_fields(other.definition, self.task.definition())) <= _SAME_ANSWERS
            ):
                basis = f"answers measured with {measured.units:,} units of version {other.version}, prompt estimated"
                found = self._scale(measured, formula, units, images, basis)
                usage = dataclasses.replace(found.usage, prompt_tokens=formula.prompt_tokens, cached_tokens=0)
                return dataclasses.replace(found, usage=usage)
        embeds = self.task.vector_dimension is not None
        basis = "from the model's image tokens" if embeds else "estimated from texts, schema and image tokens"
        return Forecast(units, units, images, formula, basis)

    def _scale(self, measured: MeasuredUsage, formula: Usage, units: int, images: int, basis: str) -> Forecast:
        """Scale the measured usage to a number of units, and correct it for a different number of images per unit."""
        share = units / measured.units
        usage = measured.usage
        extra_images = images - round(measured.images * share)
        # The third image: each of several images has a label as well.
        two, three = (
            estimate_total(self.profile, self.task, calls=1, images=number).prompt_tokens for number in (2, 3)
        )
        prompt = max(0, round(usage.prompt_tokens * share) + extra_images * (three - two))
        return Forecast(
            units=units,
            calls=max(units, round(measured.attempts * share)),
            images=images,
            usage=Usage(
                prompt_tokens=prompt,
                cached_tokens=min(prompt, round(usage.cached_tokens * share)),
                output_tokens=round(usage.output_tokens * share),
                thought_tokens=round(usage.thought_tokens * share),
                images=formula.images,
            ),
            basis=basis,
            latency_s=measured.latency_s,
        )


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the fields in which two definitions of a task differ.

    >>> changed_fields({"prompt": "a", "image": {"max_side": 1}}, {"prompt": "b", "image": {"max_side": 2}})
    ('prompt', 'image.max_side')
    """
    changed: list[str] = []
    for name in dict.fromkeys((*new, *old)):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if name in _SECTIONS and isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += [
                f"{name}.{key}" for key in dict.fromkeys((*after, *before)) if before.get(key) != after.get(key)
            ]
        else:
            changed.append(name)
    return tuple(changed)

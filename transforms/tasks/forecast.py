"""What asking about some units will take: by formula, or as earlier answers of the task have shown.

The estimate of every command that pays, and of ``imagebeam plan``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson

from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.records import Lane, Usage
from imagebeam.transforms.tasks.embedding import EmbedTask
from imagebeam.transforms.tasks.model_profiles import ModelProfile, cost_usd, estimate_total
from imagebeam.transforms.tasks.task import Task

#: So many units of an earlier run tell more than the formula.
ENOUGH = 20
#: What may differ from the version whose answers are taken as a measure of the answers to come.
_ANSWERS_ALIKE = frozenset({"prompt", "system"})
#: Parts of a definition of which each setting is told by itself.
_SECTIONS = ("generation", "image")
#: Lane of embeddings in BigQuery, which are billed as calls are.
_BILLED_AS = {Lane.SQL: Lane.ONLINE}


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What asking really took: sums over units of one version of a task.

    Attributes:
        version: The version.
        asked: Units that were called about, those that failed for good included.
        attempts: Calls, without those refused for quota.
        images: Images of these units.
        usage: Tokens of these calls.
        latency_s: Lane → mean seconds of a call.
    """

    version: str
    asked: int = 0
    attempts: int = 0
    images: int = 0
    usage: Usage = Usage()
    latency_s: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """A version of a task that a run used.

    Attributes:
        version: 12 hex digits.
        definition: Everything that can change an answer.
        used_at: When a run used it last, RFC 3339.
    """

    version: str
    definition: Mapping[str, Any]
    used_at: str


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """What is recorded of a task.

    Attributes:
        measured: What its answers took, by version.
        versions: Its versions, the one used last first.
    """

    measured: Mapping[str, Measured] = dataclasses.field(default_factory=dict)
    versions: Sequence[Version] = ()


def history_from(measured: Sequence[Mapping[str, Any]], versions: Sequence[Mapping[str, Any]]) -> History:
    """The history that the rows of :func:`~recorded_sql.measured_query` and ``versions_query`` tell."""
    found: dict[str, Measured] = {}
    for row in measured:
        before = found.get(row["version"], Measured(row["version"]))
        prompt, cached, output, thought = (
            int(row[f"{kind}_tokens"] or 0) for kind in ("prompt", "cached", "output", "thought")
        )
        latency = {row["lane"]: float(row["latency_s"])} if row["latency_s"] else {}
        found[row["version"]] = Measured(
            row["version"],
            before.asked + int(row["asked"]),
            before.attempts + int(row["attempts"]),
            before.images + int(row["images"] or 0),
            before.usage + Usage(prompt, cached, output, thought),
            {**before.latency_s, **latency},
        )
    listed = [
        Version(row["version"], orjson.loads(row["definition"]), row["created_at"].isoformat().replace("+00:00", "Z"))
        for row in versions
    ]
    return History(found, listed)


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """What came of a look at the images of some units.

    Attributes:
        units: Units that were looked at.
        calls: Calls that will be made about them; a refused one is not billed.
        repeated: Those of them that are refused first, because a name tells another type than the bytes.
        failing: Units that will have no answer, by reason.
        refused: Why nothing could be looked at; None if it could.
    """

    units: int = 0
    calls: int = 0
    repeated: int = 0
    failing: Mapping[str, int] = dataclasses.field(default_factory=dict)
    refused: str | None = None

    def calls_about(self, units: int) -> int:
        """Calls about so many units of this kind."""
        return round(units * self.calls / self.units) if self.units else units

    def answered(self, number: int) -> int:
        """How many of so many units, or images, will be answered about."""
        return number - round(number * sum(self.failing.values()) / self.units) if self.units else number


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """What asking will take.

    Attributes:
        units: Units that a call is made about.
        calls: Calls, with as many repeated ones as there were before.
        images: Images that travel.
        usage: Tokens of all calls.
        basis: Where the tokens come from, for people.
        latency_s: Lane → mean seconds of a call, where known.
    """

    units: int
    calls: int
    images: int
    usage: Usage
    basis: str
    latency_s: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """All tokens that a quota counts."""
        return self.usage.total_tokens

    def usd(self, profile: ModelProfile, lane: Lane) -> Decimal | None:
        """The cost in a lane at list price; None if the price is not known."""
        billed = _BILLED_AS.get(lane, lane)
        return cost_usd(profile, billed, self.usage) if billed in profile.prices else None


def forecast(
    profile: ModelProfile,
    task: Task,
    history: History,
    *,
    units: int,
    images: int,
    least: int = ENOUGH,
    looked: Looked | None = None,
) -> Forecast:
    """What asking about units will take.

    Args:
        profile: The model.
        task: What is asked.
        history: What is recorded of the task.
        units: Units that a call is made about.
        images: Their images.
        least: So many recorded units count for more than the formula.
        looked: What a look at their images says; without one, that every call is answered. What is recorded
            counts for more, but for the number of calls.
    """
    found = _forecast(profile, task, history, looked or Looked(), units=units, images=images, least=least)
    return dataclasses.replace(found, calls=looked.calls_about(units)) if looked and looked.units else found


def _forecast(
    profile: ModelProfile, task: Task, history: History, looked: Looked, *, units: int, images: int, least: int
) -> Forecast:
    planned = estimate_total(profile, task, calls=looked.answered(units), images=looked.answered(images))
    measured = history.measured.get(task.version, Measured(task.version))
    if _tells(measured, least):
        basis = f"as {measured.asked:,} units of this version took"
        return _scaled(profile, task, measured, planned, units, images, basis)
    for other in history.versions:
        measured = history.measured.get(other.version, measured)
        alike = set(changed_fields(other.definition, task.definition())) <= _ANSWERS_ALIKE
        if other.version != task.version and alike and _tells(measured, ENOUGH):
            basis = f"answers as of {measured.asked:,} units of version {other.version}, prompt by its length"
            found = _scaled(profile, task, measured, planned, units, images, basis)
            usage = dataclasses.replace(found.usage, prompt_tokens=planned.prompt_tokens, cached_tokens=0)
            return dataclasses.replace(found, usage=usage)
    basis = (
        "by the model's table" if isinstance(task, EmbedTask) else "by the length of texts and schema, images by table"
    )
    return Forecast(units, units, images, planned, basis)


def due_forecast(
    profile: ModelProfile,
    task: Task,
    history: History,
    planned: SourceCounts,
    *,
    least: int = ENOUGH,
    looked: Looked | None = None,
) -> Forecast:
    """What asking about everything that is due will take."""
    units = planned.callable_units
    return forecast(profile, task, history, units=units, images=planned.images, least=least, looked=looked)


def outdated_forecast(profile: ModelProfile, task: Task, history: History, planned: SourceCounts) -> Forecast:
    """What it would take to ask again about units that an older version answered and that are not due."""
    seen = [measured for measured in history.measured.values() if measured.asked]
    asked, images = planned.callable_units, planned.images
    if not asked:
        asked, images = sum(one.asked for one in seen), sum(one.images for one in seen)
    each = images / asked if asked else task.max_images
    return forecast(profile, task, history, units=planned.outdated, images=round(planned.outdated * each))


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between two definitions of a task, by name.

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


def _tells(measured: Measured, least: int) -> bool:
    """True if something was answered, and enough was asked."""
    return measured.asked >= least and bool(measured.usage.prompt_tokens)


def _scaled(
    profile: ModelProfile, task: Task, measured: Measured, planned: Usage, units: int, images: int, basis: str
) -> Forecast:
    """As much per unit as was measured; a different number of images is taken into account."""
    share = units / measured.asked
    usage = measured.usage
    # Differs from the measured units by so many images, and by the words that stand beside each of several.
    more = images - round(measured.images * share)
    one, two = (estimate_total(profile, task, calls=1, images=number).prompt_tokens for number in (2, 3))
    prompt = max(0, round(usage.prompt_tokens * share) + more * (two - one))
    return Forecast(
        units=units,
        calls=max(units, round(measured.attempts * share)),
        images=images,
        usage=Usage(
            prompt_tokens=prompt,
            cached_tokens=min(prompt, round(usage.cached_tokens * share)),
            output_tokens=round(usage.output_tokens * share),
            thought_tokens=round(usage.thought_tokens * share),
            images=planned.images,
        ),
        basis=basis,
        latency_s=measured.latency_s,
    )

"""A plan as a person reads it, and as JSON."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from imagebeam.pipeline.run import cost_estimate
from imagebeam.pipeline.run.cost_estimate import Changed
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.text import format_duration
from imagebeam.transforms.tasks import lane_comparison
from imagebeam.transforms.tasks.forecast import Forecast, ImageSample
from imagebeam.transforms.tasks.lane_comparison import LanePlan, Recommendation
from imagebeam.transforms.tasks.model_profiles import ModelProfile, image_tokens
from imagebeam.transforms.tasks.task import Task


@dataclasses.dataclass(frozen=True, slots=True)
class Probed:
    """What came of a probe.

    Attributes:
        run_id: The run that it was.
        calls: Calls made.
        ok: Units answered.
        failed: Units that failed, by reason.
        usd: What it cost.
        stop: Why it ended early; None if it did not.
    """

    run_id: str
    calls: int
    ok: int
    failed: Mapping[str, int]
    usd: Decimal
    stop: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a plan tells.

    Attributes:
        command: ``classify`` or ``embed``.
        settings: What a person said.
        task: What is asked.
        profile: The task's model.
        planned: What the source holds, by state.
        expected: What asking about the due units takes.
        changed: What changed of the task; None if nothing did.
        bytes_scanned: What the run's query reads.
        lanes: What it comes to in each lane.
        recommended: Which lane to take.
        prices_as_of: When the prices were true.
        notes: What else there is to know.
        probed: What came of the probe; None without one.
        looked: What came of the look at images; None without one.
    """

    command: str
    settings: ClassifySettings
    task: Task
    profile: ModelProfile
    planned: SourceCounts
    expected: Forecast
    changed: Changed | None
    bytes_scanned: int
    lanes: tuple[LanePlan, ...]
    recommended: Recommendation
    prices_as_of: datetime.date
    notes: tuple[str, ...] = ()
    probed: Probed | None = None
    looked: ImageSample | None = None


def lines(plan: Plan) -> list[str]:
    """The plan, a line each."""
    task, settings = plan.task, plan.settings
    told = [f"task     {task.name}, version {task.version}, {task.model} at {settings.location}"]
    if plan.changed is not None:
        told.append(cost_estimate.change_line(plan.changed, plan.planned))
    cost_estimate.tell_units(plan.planned, told.append)
    told += _work_lines(plan)
    if plan.looked is not None:
        told.append(_look_line(plan.looked, plan.planned))
    told += [f"scan     {_size(plan.bytes_scanned)} by the run's query, and as much by this plan"]
    if plan.probed is not None:
        told.append(_probe_line(plan.probed))
    told += ["", *_table(plan.lanes), ""]
    told += [f"assumed  {lane.lane}: {text}" for lane in plan.lanes for text in lane.assumed]
    told += [f"no {lane.lane:<6}{lane.problem}" for lane in plan.lanes if lane.problem]
    told += [f"note     {note}" for note in plan.notes]
    told.append(f"prices   list prices of {plan.prices_as_of}")
    told.append(f"take     {plan.recommended.reason}")
    return told


def document(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values; money as text, so that no digit is lost."""
    expected, planned = plan.expected, plan.planned
    return {
        "command": plan.command,
        "task": plan.task.name,
        "version": plan.task.version,
        "model": plan.task.model,
        "location": plan.settings.location,
        "lane": plan.settings.lane,
        "units": dataclasses.asdict(planned),
        "changed": None if plan.changed is None else _plain(plan.changed),
        "bytes_scanned": plan.bytes_scanned,
        "images": {
            "total": planned.images,
            "per_unit": round(planned.images / planned.callable_units, 3) if planned.callable_units else None,
            "most": planned.max_images_per_unit,
            "tokens_each": image_tokens(plan.profile, plan.task),
            "media_resolution": plan.task.media_resolution,
        },
        "calls": expected.calls,
        "tokens": {
            "prompt": expected.usage.prompt_tokens,
            "cached": expected.usage.cached_tokens,
            "output": expected.usage.output_tokens,
            "thought": expected.usage.thought_tokens,
            "per_call": round(expected.tokens / expected.calls, 1) if expected.calls else None,
            "basis": expected.basis,
        },
        "lanes": [lane_comparison.to_json(lane) for lane in plan.lanes],
        "recommended": dataclasses.asdict(plan.recommended),
        "look": None if plan.looked is None else dataclasses.asdict(plan.looked),
        "probe": None if plan.probed is None else _plain(plan.probed),
        "notes": list(plan.notes),
        "prices_as_of": plan.prices_as_of.isoformat(),
    }


def _work_lines(plan: Plan) -> list[str]:
    expected, planned = plan.expected, plan.planned
    if not expected.calls:
        return []
    average = planned.images / planned.callable_units if planned.callable_units else 0
    most = planned.max_images_per_unit
    several = f": {average:.2f} per unit on average, {most} at most" if most > 1 else ""
    in_all = f"calls    {expected.calls:,}, with {planned.images:,} images{several}"
    if not expected.tokens:
        return [f"{in_all}; images are billed by the piece"]
    usage, calls = expected.usage, expected.calls
    each = f"{image_tokens(plan.profile, plan.task):,} for each image"
    if plan.task.vector_dimension is None:
        each += f" at media resolution {plan.task.media_resolution}"
    varies = plan.task.media_resolution in plan.profile.image_tokens_limit
    tiles = ", an average: it is a matter of size" if varies and not plan.probed else ""
    answer = f", answer {usage.output_tokens / calls:,.0f}" if usage.output_tokens else ""
    thoughts = f", thoughts {usage.thought_tokens / calls:,.0f}" if usage.thought_tokens else ""
    prompt = f"prompt {usage.prompt_tokens / calls:,.0f} ({each}{tiles})"
    return [
        in_all,
        f"tokens   {expected.tokens / calls:,.0f} per call: {prompt}{answer}{thoughts}",
        f"         {expected.basis}",
    ]


def _look_line(looked: ImageSample, planned: SourceCounts) -> str:
    if looked.refused is not None:
        return f"look     not possible: {looked.refused}; every call is taken to be answered at once"
    found = [f"{number:,} {reason}" for reason, number in looked.failing.items()]
    if looked.repeated:
        found.append(f"{looked.repeated:,} of another type than the name says, which takes a second call")
    seen = f"look     at the images of {looked.units:,} of {planned.callable_units:,} due units"
    return f"{seen}: {', '.join(found) or 'all are there, and what their names say'}"


def _probe_line(probed: Probed) -> str:
    failed = "".join(f", {number} {reason}" for reason, number in probed.failed.items())
    stop = f"; stopped early ({probed.stop})" if probed.stop else ""
    told = f"probe    {probed.calls} calls, {_money(probed.usd)}: {probed.ok} OK{failed}{stop}"
    return f"{told}; kept as run {probed.run_id}"


def _table(plans: Sequence[LanePlan]) -> list[str]:
    rows = [("lane", "cost", "time", "pace", "workers", "limit that binds"), *map(_row, plans)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(plan: LanePlan) -> tuple[str, ...]:
    cost = ("-" if plan.problem else "unknown") if plan.usd is None else _money(plan.usd)
    if plan.problem is not None:
        return (plan.lane, cost, "-", "-", "-", "cannot be taken, see below")
    pace = f"{plan.jobs:,} job{'' if plan.jobs == 1 else 's'}" if plan.per_s is None else f"{plan.per_s:,.1f}/s"
    workers = str(plan.workers) if plan.workers else "-"
    return (plan.lane, cost, format_duration(plan.seconds), pace, workers, plan.binds)


def _money(usd: Decimal) -> str:
    return f"${usd:,.2f}" if usd >= 1 or not usd else f"${usd:,.4f}"


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _plain(value: Changed | Probed) -> dict[str, Any]:
    fields = dataclasses.asdict(value)
    return {**fields, "usd": None if value.usd is None else f"{value.usd:f}"}

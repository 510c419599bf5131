"""A plan as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from imagebeam.pipeline.console.console import format_table
from imagebeam.pipeline.pages.cards import escape_lines, render_fragment, render_table
from imagebeam.pipeline.results.frames import frame_of
from imagebeam.pipeline.run import cost_estimate
from imagebeam.pipeline.run.cost_estimate import Changed
from imagebeam.pipeline.run.resolved_run import ReadyRun
from imagebeam.transforms.core.text import format_duration
from imagebeam.transforms.tasks import lane_comparison
from imagebeam.transforms.tasks.costs import image_tokens
from imagebeam.transforms.tasks.forecast import Forecast, ImageSample
from imagebeam.transforms.tasks.lane_comparison import LanePlan, Recommendation

if TYPE_CHECKING:
    import pandas

_HEADER: Final = ("lane", "cost", "time", "rate", "workers", "limiting factor")
#: Columns of the data frame with their BigQuery types.
_LANE_TYPES: Final = {
    "lane": "STRING",
    "usd": "NUMERIC",
    "seconds": "FLOAT64",
    "per_s": "FLOAT64",
    "workers": "INT64",
    "limiting_factor": "STRING",
    "problem": "STRING",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a run would process, take and cost in each lane. A notebook shows it as a table.

    Attributes:
        command: ``classify`` or ``embed``.
        ready: The run, and the units of the source by state.
        expected: What processing the remaining units takes.
        changed: How the task differs from its last version; None if it does not.
        bytes_scanned: Bytes that the run's query reads.
        lanes: Cost and time in each lane.
        recommended: The recommended lane.
        notes: Other facts that the user should know.
        probed: Result of the probe as in the JSON document; None without one.
        sample: Result of reading images; None without.
    """

    command: str
    ready: ReadyRun
    expected: Forecast
    changed: Changed | None
    bytes_scanned: int
    lanes: tuple[LanePlan, ...]
    recommended: Recommendation
    notes: tuple[str, ...] = ()
    probed: Mapping[str, Any] | None = None
    sample: ImageSample | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The plan as JSON values, as ``imagebeam plan --json`` prints it."""
        return build_document(self)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the lanes as a data frame, one row each: cost, duration, rate, workers and limiting factor.

        Raises:
            UserError: pandas is not installed: ``pip install 'imagebeam[pandas]'``.
        """
        return frame_of(
            (
                {
                    "lane": lane.lane,
                    "usd": lane.usd,
                    "seconds": lane.seconds if lane.problem is None else None,
                    "per_s": lane.per_s,
                    "workers": lane.workers or None,
                    "limiting_factor": lane.binds or None,
                    "problem": lane.problem,
                }
                for lane in self.lanes
            ),
            _LANE_TYPES,
        )

    def __str__(self) -> str:
        return "\n".join(format_plan(self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the lanes as a table, and the other lines of the plan."""
        before, after = _lines_around_table(self)
        return render_fragment(
            f"<pre>{escape_lines(before)}</pre>", render_table(_HEADER, map(_row, self.lanes)),
            f"<pre>{escape_lines(after)}</pre>",
        )  # fmt: skip


def format_plan(plan: Plan) -> list[str]:
    """Format the plan as lines of text."""
    before, after = _lines_around_table(plan)
    return [*before, "", *format_table(_HEADER, map(_row, plan.lanes)), "", *after]


def _lines_around_table(plan: Plan) -> tuple[list[str], list[str]]:
    resolved, counts = plan.ready.resolved, plan.ready.counts
    task, location = resolved.task, resolved.settings.location
    lines = [f"task     {task.name}, version {task.version}, {task.model} at {location}"]
    if plan.changed is not None:
        lines.append(cost_estimate.format_change(plan.changed, counts))
    lines += cost_estimate.format_units(counts)
    lines += _work_lines(plan)
    if plan.sample is not None:
        lines.append(_sample_line(plan.sample, counts.callable_units))
    lines += [f"scan     {_format_size(plan.bytes_scanned)} by the run's query, and as much by this plan"]
    if plan.probed is not None:
        lines.append(_probe_line(plan.probed))
    after = [f"assumed  {lane.lane}: {text}" for lane in plan.lanes for text in lane.assumed]
    after += [f"no {lane.lane:<6}{lane.problem}" for lane in plan.lanes if lane.problem]
    after += [f"note     {note}" for note in plan.notes]
    after += [f"prices   list prices of {resolved.models.as_of}", f"use      {plan.recommended.reason}"]
    return lines, after


def build_document(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values; amounts of money are text, so that no digit is lost."""
    expected, counts, resolved = plan.expected, plan.ready.counts, plan.ready.resolved
    task, settings, changed = resolved.task, resolved.settings, plan.changed
    changed_usd = None if changed is None or changed.usd is None else f"{changed.usd:f}"
    return {
        "command": plan.command,
        "task": task.name,
        "version": task.version,
        "model": task.model,
        "location": settings.location,
        "lane": settings.lane,
        "units": dataclasses.asdict(counts),
        "changed": None if changed is None else {**dataclasses.asdict(changed), "usd": changed_usd},
        "bytes_scanned": plan.bytes_scanned,
        "images": {
            "total": counts.images,
            "per_unit": round(counts.images / counts.callable_units, 3) if counts.callable_units else None,
            "most": counts.max_images_per_unit,
            "tokens_each": image_tokens(resolved.profile, task),
            "media_resolution": task.media_resolution,
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
        "look": None if plan.sample is None else dataclasses.asdict(plan.sample),
        "probe": plan.probed,
        "notes": list(plan.notes),
        "prices_as_of": resolved.models.as_of.isoformat(),
    }


def _work_lines(plan: Plan) -> list[str]:
    expected, counts = plan.expected, plan.ready.counts
    if not expected.calls:
        return []
    average = counts.images / counts.callable_units if counts.callable_units else 0
    most = counts.max_images_per_unit
    several = f": {average:.2f} per unit on average, {most} at most" if most > 1 else ""
    calls_line = f"calls    {expected.calls:,}, with {counts.images:,} images{several}"
    if not expected.tokens:
        return [f"{calls_line}; each image has a fixed price"]
    usage, calls, task, profile = expected.usage, expected.calls, plan.ready.resolved.task, plan.ready.resolved.profile
    image = f"{image_tokens(profile, task):,} per image" if profile.image_tokens else "without images: unknown"
    if task.vector_dimension is None:
        image += f" at media resolution {task.media_resolution}"
    if task.media_resolution in profile.image_tokens_limit and not plan.probed:
        image += ", an average: it depends on the size"
    answer = f", answer {usage.output_tokens / calls:,.0f}" if usage.output_tokens else ""
    thoughts = f", thoughts {usage.thought_tokens / calls:,.0f}" if usage.thought_tokens else ""
    prompt = f"prompt {usage.prompt_tokens / calls:,.0f} ({image})"
    return [
        calls_line,
        f"tokens   {expected.tokens / calls:,.0f} per call: {prompt}{answer}{thoughts}",
        f"         {expected.basis}",
    ]


def _sample_line(sample: ImageSample, units: int) -> str:
    if sample.refused is not None:
        return f"images   cannot be read: {sample.refused}; the plan assumes one call per unit"
    found = [f"{number:,} {reason}" for reason, number in sample.failing.items()]
    if sample.repeated:
        found.append(f"{sample.repeated:,} whose type differs from the name, which takes a second call")
    return f"images   read of {sample.units:,} of {units:,} remaining units: {', '.join(found) or 'no problem found'}"


def _probe_line(probed: Mapping[str, Any]) -> str:
    failed = "".join(f", {number} {reason}" for reason, number in probed["failed"].items())
    stop = f"; stopped early ({probed['stop']})" if probed["stop"] else ""
    cost = "unknown cost" if probed["usd"] is None else _format_usd(Decimal(probed["usd"]))
    return (
        f"probe    {probed['calls']} calls, {cost}: {probed['ok']} OK{failed}{stop}; recorded as run {probed['run_id']}"
    )


def _row(plan: LanePlan) -> tuple[str, ...]:
    cost = ("-" if plan.problem else "unknown") if plan.usd is None else _format_usd(plan.usd)
    if plan.problem is not None:
        return (plan.lane, cost, "-", "-", "-", "not possible, see below")
    rate = f"{plan.jobs:,} job{'' if plan.jobs == 1 else 's'}" if plan.per_s is None else f"{plan.per_s:,.1f}/s"
    workers = str(plan.workers) if plan.workers else "-"
    return (plan.lane, cost, format_duration(plan.seconds), rate, workers, plan.binds)


def _format_usd(usd: Decimal) -> str:
    return f"${usd:,.2f}" if usd >= 1 or not usd else f"${usd:,.4f}"


def _format_size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
